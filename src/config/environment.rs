//! The variables of the program's environment, as far as they are looked at.
//!
//! Must not know what any of them means.

use std::env;
use std::ffi::OsString;
use std::fmt;

/// Looks a variable up.
type Lookup = dyn Fn(&str) -> Option<OsString>;

/// The variables of an environment.
pub(super) struct Environment(Box<Lookup>);

impl Environment {
    /// That of this program.
    pub(super) fn of_program() -> Self {
        Self::of(|name| env::var_os(name))
    }

    /// The one in which `variable` finds.
    pub(super) fn of(variable: impl Fn(&str) -> Option<OsString> + 'static) -> Self {
        Self(Box::new(variable))
    }

    /// What a variable holds, as it is.
    pub(super) fn get(&self, name: &str) -> Option<OsString> {
        (self.0)(name)
    }

    /// What a variable holds, if that is text, and any at all.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let text = self.get(name)?.into_string().ok()?;
        Some(text).filter(|text| !text.is_empty())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment")
    }
}
