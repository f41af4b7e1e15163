//! How far long work has come: a bar on standard error, where somebody sits in front of
//! it.

use crate::driver::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// What a bar shows: what is done, how much of it, how fast, and how long it will take.
const TEMPLATE: &str = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";
/// How often it is drawn, at most, each second.
const DRAWN_PER_SECOND: u8 = 5;

/// A progress bar. It vanishes when it is dropped, and is never there when standard error
/// is no terminal.
pub struct Bar(ProgressBar);

impl Bar {
    /// For work on `total` bytes, called `what`. None is shown to who wants it `quiet`,
    /// which programs do, that read JSON.
    pub fn new(what: &'static str, total: u64, quiet: bool) -> Self {
        let target = match !quiet && std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr_with_hz(DRAWN_PER_SECOND),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(total), target).with_message(what);
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self(bar)
    }

    /// Takes the bar away for as long as `speak` writes to the terminal.
    pub fn pause<T>(&self, speak: impl FnOnce() -> T) -> T {
        self.0.suspend(speak)
    }

    /// Says something on standard error while the bar is there.
    pub fn say(&self, text: &str) {
        self.pause(|| super::say(&format!("cinderfs: {text}")));
    }
}

impl Progress for Bar {
    fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_has_a_template_that_is_understood() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
        let bar = Bar::new("testing", 10, true);
        bar.advance(3);
        bar.advance(4);
        assert_eq!(bar.0.position(), 7);
    }
}
