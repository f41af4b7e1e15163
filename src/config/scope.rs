//! The value of an option as one section sees it, and where it comes from.
//!
//! Knows sections, references (`$name`) and defaults; must not know what a value means.

use std::fmt;

use super::environment::Environment;
use super::ini::{Document, Section};
use super::options;
use super::value::{self, Wrong};
use crate::error::{Error, Result};
use crate::secret::Secret;

/// The section whose options hold for the whole program.
pub(super) const DEFAULT: &str = "DEFAULT";

/// What is done when an option is found to be wrong, for the error.
pub(super) const OP: &str = "use configuration";

/// How long a value may become by references in it, in bytes: no path or name is longer.
const MAX_VALUE: usize = 64 << 10;

/// How many references may lead on from one to the next.
const MAX_DEPTH: usize = 16;

/// A section of a document, for finding values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    document: &'a Document,
    section: &'a str,
}

/// The value of an option, with its references replaced. Never one of a secret option.
#[derive(Debug)]
pub(super) struct Setting {
    /// The option's name.
    pub(super) option: &'static str,
    text: String,
    /// Where it stands: file, line, section and option.
    pub(super) place: String,
    /// Whether it stands in the file, so that the user can be blamed for it.
    pub(super) set: bool,
}

impl<'a> Scope<'a> {
    /// What the section of that name sees; it need not exist.
    pub(super) fn new(document: &'a Document, section: &'a str) -> Self {
        Self { document, section }
    }

    /// An option of this section alone, else its default: so Cinder does with its own
    /// options, which a backend does not inherit from `[DEFAULT]`.
    pub(super) fn own(&self, option: &'static str) -> Result<Option<Setting>> {
        self.find(option, &[self.section])
    }

    /// The same for an option that must have a value.
    pub(super) fn required(&self, option: &'static str) -> Result<Setting> {
        self.own(option)?.ok_or_else(|| self.missing(option))
    }

    /// An option of this section, else of `[DEFAULT]`, else its default: so it is with
    /// options of ours.
    pub(super) fn inherited(&self, option: &'static str) -> Result<Setting> {
        self.find(option, &[self.section, DEFAULT])?
            .ok_or_else(|| self.missing(option))
    }

    /// The value of a secret option of this section.
    pub(super) fn secret(&self, option: &'static str) -> Result<Option<Secret>> {
        let Some(setting) = self.own(option)? else {
            return Ok(None);
        };
        if setting.text.contains(|c: char| c.is_control()) {
            return Err(setting.refuse(value::line_break()));
        }
        Ok(Some(setting.text)
            .filter(|text| !text.is_empty())
            .map(Secret::new))
    }

    /// Where the section begins: file, line and section.
    pub(super) fn place(&self) -> String {
        let header = self.document.section(self.section);
        let file = match header {
            Some(section) => self.document.place(section.line),
            None => self.document.whole(),
        };
        format!("{file}, [{}]", self.section)
    }

    /// The error for an option that stands nowhere and has to.
    pub(super) fn lacks(&self, option: &str, wrong: Wrong) -> Error {
        wrong.at(OP, &format!("{} {option}", self.place()))
    }

    fn missing(&self, option: &str) -> Error {
        let place = self.describe(&self.document.whole(), self.section, option);
        Wrong::new("it is not set", "set it").at(OP, &place)
    }

    fn find(&self, option: &'static str, sections: &[&str]) -> Result<Option<Setting>> {
        let entry = sections.iter().find_map(|name| {
            let section = self.document.section(name)?;
            Some((section, section.get(option)?))
        });
        let (raw, place, owner) = match entry {
            Some((section, entry)) => {
                let place = self.document.place(entry.line);
                let place = self.describe(&place, &section.name, option);
                (entry.value.as_str(), place, section.name.as_str())
            }
            None => match options::default_of(option) {
                Some(value) => {
                    let place = self.describe(&self.document.whole(), self.section, option);
                    (value, format!("{place} (by default)"), self.section)
                }
                None => return Ok(None),
            },
        };
        let text = Scope::new(self.document, owner)
            .expand(raw, &mut vec![option.to_owned()])
            .map_err(|wrong| match options::SECRET.contains(&option) {
                // What looks like the name of an option is a part of a password.
                true => Wrong::new(
                    "a \"$\" in it refers to an option that cannot be found",
                    "write \"$$\" for a dollar sign",
                ),
                false => wrong,
            })
            .map_err(|wrong| wrong.at(OP, &place))?;
        Ok(Some(Setting {
            option,
            text,
            place,
            set: entry.is_some(),
        }))
    }

    fn describe(&self, place: &str, section: &str, option: &str) -> String {
        format!("{place}, [{section}] {option}")
    }

    /// Replaces `$name`, `${name}`, `$section.name`, and `$$` or `\$` by a dollar sign.
    /// `trail` names the options on the way here. A dollar sign that begins none of these
    /// stays: passwords hold such.
    fn expand(&self, text: &str, trail: &mut Vec<String>) -> Result<String, Wrong> {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, special)) = rest.find(['$', '\\']).map(|at| rest.split_at(at)) {
            out.push_str(before);
            let escaped = special
                .strip_prefix("$$")
                .or_else(|| special.strip_prefix("\\$"));
            if let Some(after) = escaped {
                out.push('$');
                rest = after;
            } else if let Some((name, after)) = reference(special) {
                out.push_str(&self.resolve(name, trail)?);
                rest = after;
            } else {
                let mut chars = special.chars();
                out.extend(chars.next());
                rest = chars.as_str();
            }
            if out.len() > MAX_VALUE {
                let reason =
                    format!("with its references replaced it is longer than {MAX_VALUE} bytes");
                return Err(Wrong::new(reason, "write a shorter value"));
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    fn resolve(&self, name: &str, trail: &mut Vec<String>) -> Result<String, Wrong> {
        if trail.iter().any(|passed| passed == name) || trail.len() >= MAX_DEPTH {
            let reason = format!(
                "its references go in a circle: {} -> {name}",
                trail.join(" -> ")
            );
            return Err(Wrong::new(reason, "write the value out"));
        }
        let (sections, option): (&[&str], &str) = match name.split_once('.') {
            Some((section, option)) => (&[section], option),
            None => (&[self.section, DEFAULT], name),
        };
        let asked = trail.first().map_or("", String::as_str);
        if options::SECRET.contains(&option) && !options::SECRET.contains(&asked) {
            return Err(Wrong::new(
                format!("it refers to ${name}, which is secret, and this is not"),
                "write the value out",
            ));
        }
        let entry = sections.iter().find_map(|name| {
            let section: &Section = self.document.section(name)?;
            Some((section.name.as_str(), section.get(option)?.value.as_str()))
        });
        let default = || options::default_of(name).map(|value| (self.section, value));
        let Some((section, value)) = entry.or_else(default) else {
            return Err(Wrong::new(
                format!("it refers to ${name}, and there is no option \"{option}\""),
                "set that option in the same section or in [DEFAULT], or write \"$$\" for \
                 a dollar sign",
            ));
        };
        trail.push(name.to_owned());
        let text = Scope::new(self.document, section).expand(value, trail)?;
        trail.pop();
        Ok(text)
    }
}

impl Setting {
    /// What a variable of the environment holds.
    pub(super) fn of_variable(option: &'static str, environment: &Environment) -> Option<Self> {
        Some(Self {
            option,
            text: environment.text(option)?,
            place: format!("the environment's {option}"),
            set: true,
        })
    }

    /// Whether there is no text at all.
    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Turns the value into what it means.
    pub(super) fn parse<T>(&self, parse: impl FnOnce(&str) -> Result<T, Wrong>) -> Result<T> {
        parse(&self.text).map_err(|wrong| self.refuse(wrong))
    }

    /// The error for a value that is wrong.
    pub(super) fn refuse(&self, wrong: Wrong) -> Error {
        wrong.at(OP, &self.place)
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.option, self.text)
    }
}

/// The name that `text` refers to in its beginning, and what comes after.
fn reference(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_prefix('$')?;
    let (name, after) = match text.strip_prefix('{') {
        Some(braced) => braced.split_once('}')?,
        None => {
            let end = text.find(|c: char| !is_in_name(c)).unwrap_or(text.len());
            text.split_at(end)
        }
    };
    let starts_well = name.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic());
    (starts_well && name.chars().all(is_in_name)).then_some((name, after))
}

fn is_in_name(c: char) -> bool {
    c == '_' || c == '.' || c.is_ascii_alphanumeric()
}
