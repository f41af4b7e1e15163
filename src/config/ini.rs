//! The syntax of the file: oslo.config's INI, as Cinder's own parser reads it.
//!
//! Knows sections, options, values and lines; must not know what any option means, nor
//! expand references in values ([`super::scope`] does, for the values that are used).

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};

/// More than any configuration, and little enough to be read whole without thought: it
/// keeps `--config /dev/zero` or a disk image from filling the memory.
const MAX_FILE: u64 = 16 << 20;

/// What is done when the file turns out to be unfit, for the error.
const OP: &str = "read configuration file";

/// A file that was read, or nothing.
#[derive(Debug, Default)]
pub(super) struct Document {
    path: PathBuf,
    /// Who may read the file, and write to it; 0 where there is none.
    mode: u32,
    sections: Vec<Section>,
}

/// One section; a header that comes again continues the first.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) name: String,
    /// Where its header stands, counted from 1.
    pub(super) line: usize,
    entries: Vec<Entry>,
}

/// One assignment.
pub(super) struct Entry {
    pub(super) option: String,
    /// Without quotes around it; continuation lines are joined by line breaks.
    pub(super) value: String,
    /// Where it begins, counted from 1.
    pub(super) line: usize,
}

impl Document {
    /// Reads a file.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let subject = || path.display().to_string();
        let failed = |error| {
            Error::io(OP, subject(), &error)
                .advise("name a file that you may read with --config, or a store with --store")
        };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.mode();
        file.take(MAX_FILE + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        if bytes.len() as u64 > MAX_FILE {
            let reason = format!("it is larger than {MAX_FILE} bytes");
            return Err(Error::new(Kind::Invalid, OP, subject(), reason)
                .advise("is it the configuration of Cinder?"));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let before = error.utf8_error().valid_up_to();
            let line = 1 + error
                .as_bytes()
                .iter()
                .take(before)
                .filter(|&&byte| byte == b'\n')
                .count();
            let place = format!("{}:{line}", path.display());
            Error::new(Kind::Invalid, OP, place, "it is not UTF-8 text")
        })?;
        let document = Self::parse(path, &text)?;
        Ok(Self { mode, ..document })
    }

    /// Reads a text; `path` is only there to be named in errors.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self> {
        let mut parser = Parser {
            document: Self {
                path: path.to_path_buf(),
                mode: 0,
                sections: Vec::new(),
            },
            current: None,
            open: false,
        };
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            parser.take(number, line.trim_end()).map_err(|fault| {
                let place = parser.document.place(number);
                Error::new(Kind::Invalid, OP, place, fault.0).advise(fault.1)
            })?;
        }
        Ok(parser.document)
    }

    /// The sections, in the order of their first headers.
    pub(super) fn sections(&self) -> impl Iterator<Item = &Section> {
        self.sections.iter()
    }

    /// The section of that name.
    pub(super) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// What to say when others than the owner of the file may read it and it sets one of
    /// `secret`.
    pub(super) fn exposed(&self, secret: &[&str]) -> Option<String> {
        if self.mode & 0o077 == 0 {
            return None;
        }
        let mut entries = self.sections().flat_map(Section::entries);
        let entry = entries.find(|entry| secret.contains(&entry.option.as_str()))?;
        let file = self.path.display();
        let told = if self.mode & 0o007 == 0 {
            "its group may read the file; see to it that nobody is in the group who must not \
             log in there"
                .to_owned()
        } else {
            format!("everybody may read the file; run `chmod o= {file}`")
        };
        Some(format!(
            "{}: {} stands there, and {told}",
            self.place(entry.line),
            entry.option
        ))
    }

    /// `FILE`, for errors that no line is to blame for.
    pub(super) fn whole(&self) -> String {
        self.path.display().to_string()
    }

    /// `FILE:LINE`.
    pub(super) fn place(&self, line: usize) -> String {
        format!("{}:{line}", self.path.display())
    }
}

/// What is wrong with a line, and what to do about it.
struct Fault(&'static str, &'static str);

/// Without the value: some are secret.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.option)
    }
}

/// A document that grows line by line.
struct Parser {
    document: Document,
    /// The section that is being filled.
    current: Option<usize>,
    /// Whether a line that begins with white space would continue the last value: after
    /// an empty line or a comment it would not.
    open: bool,
}

impl Parser {
    fn take(&mut self, number: usize, line: &str) -> Result<(), Fault> {
        if line.starts_with([' ', '\t']) {
            return self.continue_value(line.trim_start());
        }
        self.open = false;
        if line.is_empty() || line.starts_with(['#', ';']) {
            return Ok(());
        }
        match line.strip_prefix('[') {
            Some(header) => self.open_section(number, header),
            None => self.assign(number, line),
        }
    }

    fn continue_value(&mut self, text: &str) -> Result<(), Fault> {
        let open = self.open;
        let last = self
            .section()
            .and_then(|section| section.entries.last_mut());
        let entry = last.filter(|_| open).ok_or(Fault(
            "a line that begins with white space continues the option above it, \
             and there is none",
            "remove the white space",
        ))?;
        entry.value.push('\n');
        entry.value.push_str(text);
        Ok(())
    }

    fn open_section(&mut self, number: usize, header: &str) -> Result<(), Fault> {
        const ADVICE: &str = "write `[name]`";
        let name = header.strip_suffix(']').ok_or(Fault(
            "the header of a section does not end with \"]\"",
            ADVICE,
        ))?;
        if name.is_empty() {
            return Err(Fault("the section has no name", ADVICE));
        }
        let sections = &mut self.document.sections;
        let known = sections.iter().position(|section| section.name == name);
        self.current = known.or(Some(sections.len()));
        if known.is_none() {
            sections.push(Section {
                name: name.to_owned(),
                line: number,
                entries: Vec::new(),
            });
        }
        Ok(())
    }

    fn assign(&mut self, number: usize, line: &str) -> Result<(), Fault> {
        const ADVICE: &str = "write `option = value`, or \"#\" before a comment";
        let (option, value) = line
            .split_once(['=', ':'])
            .ok_or(Fault("there is neither \"=\" nor \":\"", ADVICE))?;
        let option = option.trim_end();
        if option.is_empty() {
            return Err(Fault("there is no name before the value", ADVICE));
        }
        let section = self.section().ok_or(Fault(
            "an option stands before the first section",
            "put `[DEFAULT]` above it",
        ))?;
        section.entries.push(Entry {
            option: option.to_owned(),
            value: unquote(value.trim()).to_owned(),
            line: number,
        });
        self.open = true;
        Ok(())
    }

    fn section(&mut self) -> Option<&mut Section> {
        self.document.sections.get_mut(self.current?)
    }
}

impl Section {
    /// What an option was set to; where that was done twice, the last holds.
    pub(super) fn get(&self, option: &str) -> Option<&Entry> {
        self.entries
            .iter()
            .rev()
            .find(|entry| entry.option == option)
    }

    /// All assignments, in the order of the file.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }
}

/// Takes one pair of quotes off; a lone quote counts as a pair, as it does in oslo.config.
fn unquote(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote) {
            if rest.is_empty() {
                return rest;
            }
            return rest.strip_suffix(quote).unwrap_or(value);
        }
    }
    value
}
