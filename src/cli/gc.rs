//! `cinderfs gc`

use super::backends::Wired;
use super::progress::Bar;
use super::{Failure, StoreArguments, Threads, complain, log, print, split_target, usage};
use crate::driver::{Garbage, GarbageKind};
use crate::error::{Error, Kind, Result};
use crate::tree::Backend;
use clap::Args;
use jiff::{Span, SpanRelativeTo};
use serde_json::{Value, json};
use std::fmt::Write;
use std::time::{Duration, SystemTime};

/// Of the names of stray objects, so many are told.
const NAMES_TOLD: usize = 8;

/// Arguments of the command.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    store: StoreArguments,
    /// Only what nobody has written to for so long: 90s, 15m, 24h, 7d, 0
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_age,
          allow_hyphen_values = true)]
    older_than: Duration,
    /// Remove what is found
    #[arg(long)]
    delete: bool,
    /// JSON, for programs
    #[arg(long)]
    json: bool,
    /// Where to look; without it, in all backends
    #[arg(value_name = "BACKEND")]
    backend: Option<String>,
}

/// What was done with something that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    Found,
    Removed,
    /// It is no garbage any more.
    Kept,
    Failed,
}

impl Done {
    fn name(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Removed => "removed",
            Self::Kept => "kept",
            Self::Failed => "FAILED",
        }
    }
}

/// What came of all of it.
#[derive(Default)]
struct Outcome {
    rows: Vec<Value>,
    /// How many there are, and how much they take, in bytes.
    found: (u64, u64),
    /// The same of those that were removed.
    removed: (u64, u64),
    failures: Vec<String>,
}

impl Outcome {
    fn fail(&mut self, error: &Error) {
        complain(error);
        self.failures.push(error.to_string());
    }
}

/// `90s`, `15m`, `24h`, `7d` and the like.
fn parse_age(text: &str) -> Result<Duration, String> {
    if text.trim() == "0" {
        return Ok(Duration::ZERO);
    }
    let span: Span = text.parse().map_err(|e| format!("{e}"))?;
    let days = SpanRelativeTo::days_are_24_hours();
    let age = span.to_duration(days).map_err(|e| format!("{e}"))?;
    Duration::try_from(age).map_err(|_| "a time cannot be negative".to_owned())
}

/// Finds what belongs to no backup, and removes it if it was told to. Whether nothing
/// failed.
pub fn run(arguments: &Arguments) -> Result<bool, Failure> {
    let wired = arguments.store.wire(None)?;
    if let Some(backend) = &arguments.backend {
        let parts = split_target(backend).map_err(usage)?;
        if parts.len() != 1 {
            let reason = "only whole backends can be searched";
            let error = Error::new(Kind::Invalid, "look for garbage in", backend, reason);
            return Err(usage(error.advise("give BACKEND")));
        }
    }
    log::start_for_command();
    let outcome = Threads::start()?.block_on(collect(&wired, arguments))?;
    if arguments.json {
        let document = json!({
            "garbage": outcome.rows,
            "failures": outcome.failures,
            "summary": {
                "found": outcome.found.0,
                "found_bytes": outcome.found.1,
                "removed": outcome.removed.0,
                "removed_bytes": outcome.removed.1,
            },
        });
        print(&format!("{document:#}\n"))?;
    } else {
        print(&summary(&outcome, arguments.delete))?;
    }
    Ok(outcome.failures.is_empty())
}

fn summary(outcome: &Outcome, delete: bool) -> String {
    let (found, bytes) = outcome.found;
    match (found, delete) {
        (0, _) => "nothing is left over\n".into(),
        (_, false) => format!("{found} left over, {bytes} bytes; --delete removes them\n"),
        (_, true) => {
            let (removed, freed) = outcome.removed;
            format!("{found} left over, {bytes} bytes; {removed} removed, {freed} bytes\n")
        }
    }
}

async fn collect(wired: &Wired, arguments: &Arguments) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    if let Some(name) = &arguments.backend {
        wired.find(name)?;
    }
    let wanted = |name: &str| arguments.backend.as_ref().is_none_or(|one| one == name);
    for backend in wired.backends.iter().filter(|b| wanted(&b.name)) {
        let found = match backend.driver.garbage(arguments.older_than).await {
            Ok(found) => found,
            Err(e) => {
                outcome.fail(&e.within(format!("backend {}", backend.name)));
                continue;
            }
        };
        let bytes = found.iter().map(|garbage| garbage.bytes).sum::<u64>();
        outcome.found.0 += found.len() as u64;
        outcome.found.1 += bytes;
        let bar = Bar::new("removing", bytes, arguments.json || !arguments.delete);
        // Where nothing may be deleted, it is enough to say so once.
        let mut sealed = false;
        for garbage in found {
            let done = match arguments.delete && !sealed {
                false => Done::Found,
                true => match backend.driver.sweep(&garbage).await {
                    Ok(true) => Done::Removed,
                    Ok(false) => Done::Kept,
                    Err(e) => {
                        sealed = e.kind() == Kind::Sealed;
                        bar.pause(|| outcome.fail(&e));
                        Done::Failed
                    }
                },
            };
            crate::driver::Progress::advance(&bar, garbage.bytes);
            if done == Done::Removed {
                outcome.removed.0 += 1;
                outcome.removed.1 += garbage.bytes;
            }
            match arguments.json {
                true => outcome.rows.push(row(backend, &garbage, done)),
                false => bar.pause(|| print(&line(backend, &garbage, done)))?,
            }
        }
    }
    Ok(outcome)
}

fn kind_name(kind: GarbageKind) -> &'static str {
    match kind {
        GarbageKind::Unfinished => "unfinished",
        GarbageKind::Stray => "stray",
        GarbageKind::Staged => "staged",
        GarbageKind::Head => "head",
    }
}

/// How long ago something was written, where that is known.
fn age_of(garbage: &Garbage) -> Option<Duration> {
    let modified = garbage.modified?;
    Some(
        SystemTime::now()
            .duration_since(modified)
            .unwrap_or_default(),
    )
}

fn row(backend: &Backend, garbage: &Garbage, done: Done) -> Value {
    json!({
        "backend": backend.name,
        "kind": kind_name(garbage.kind),
        "volume_id": garbage.volume_id,
        "backup_id": garbage.backup_id,
        "container": garbage.container,
        "objects": garbage.objects,
        "bytes": garbage.bytes,
        "age_seconds": age_of(garbage).map(|age| age.as_secs()),
        "state": done.name(),
    })
}

fn line(backend: &Backend, garbage: &Garbage, done: Done) -> String {
    let age = age_of(garbage).map_or_else(|| "-".into(), format_age);
    let (kind, count) = (kind_name(garbage.kind), garbage.objects.len());
    let mut text = format!(
        "{:<7} {kind:<10} {:>15} {count:>6} {age:>4} {}",
        done.name(),
        garbage.bytes,
        backend.name
    );
    if let (Some(volume), Some(backup)) = (&garbage.volume_id, &garbage.backup_id) {
        let of = if garbage.kind == GarbageKind::Stray {
            "beside"
        } else {
            "of"
        };
        let (volume, backup) = (volume.escape_debug(), backup.escape_debug());
        // Writing to a string cannot fail.
        let _ = write!(text, " volume {volume}, {of} backup {backup}");
    }
    if !garbage.container.is_empty() {
        let _ = write!(text, " in {}", garbage.container.escape_debug());
    }
    if garbage.kind != GarbageKind::Unfinished {
        let told = garbage.objects.iter().take(NAMES_TOLD);
        let told: Vec<String> = told.map(|name| name.escape_debug().to_string()).collect();
        let _ = write!(text, ": {}", told.join(", "));
        if count > NAMES_TOLD {
            let _ = write!(text, " and {} more", count - NAMES_TOLD);
        }
    }
    text.push('\n');
    text
}

/// `3d`, `5h`, `12m`, `7s`: rounded down.
fn format_age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_understood() {
        for (text, seconds) in [
            ("0", 0),
            ("0s", 0),
            ("90s", 90),
            ("15m", 900),
            ("24h", 86_400),
            ("7d", 7 * 86_400),
            ("2w", 14 * 86_400),
            ("1h 30m", 5400),
            ("1d12h", 129_600),
            ("PT1H", 3600),
        ] {
            assert_eq!(parse_age(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "x", "24", "-1h", "1h ago", "h", "1 month"] {
            assert!(parse_age(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ages_are_told_short() {
        for (seconds, text) in [(59, "59s"), (60, "1m"), (7199, "1h"), (200_000, "2d")] {
            assert_eq!(format_age(Duration::from_secs(seconds)), text);
        }
    }
}
