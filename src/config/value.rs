//! What the text of an option means: numbers, sizes, switches, paths, names.
//!
//! Pure functions of one text; must not know options, sections or files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Incremental;
use crate::error::{Error, Kind};

/// The spellings of codecs that Cinder takes, whatever their case.
const CODECS: &[&str] = &["none", "off", "no", "zlib", "gzip", "bz2", "bzip2", "zstd"];

/// With less, not even the blocks that a few readers ask for at once would fit.
const MIN_MEMORY: u64 = 16 << 20;

/// Sizes are kept as signed 64-bit numbers by Cinder and by the kernel.
const MAX_SIZE: u64 = i64::MAX as u64;

/// Every block is hashed in one piece.
const MAX_SHA_BLOCK: u64 = 1 << 30;

/// Whoever tries so often waits for the deadline anyway.
const MAX_ATTEMPTS: u32 = 1000;

/// A listing that is older is of no use to anybody.
const MAX_LIST_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest name of a file that Linux allows, in bytes.
const MAX_NAME: usize = 255;

/// Why a value cannot be used, and what to write in its place.
#[derive(Debug)]
pub(super) struct Wrong {
    reason: String,
    advice: String,
}

impl Wrong {
    pub(super) fn new(reason: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            advice: advice.into(),
        }
    }

    /// The error, for a value that stands at `place`.
    pub(super) fn at(self, op: &'static str, place: &str) -> Error {
        Error::new(Kind::Invalid, op, place, self.reason).advise(self.advice)
    }
}

/// The size of an object, in bytes.
pub(super) fn object_size(text: &str) -> Result<u64, Wrong> {
    bytes_up_to(text, MAX_SIZE)
}

/// The size of a block that is hashed, in bytes.
pub(super) fn sha_block_size(text: &str) -> Result<u64, Wrong> {
    bytes_up_to(text, MAX_SHA_BLOCK)
}

fn bytes_up_to(text: &str, max: u64) -> Result<u64, Wrong> {
    text.trim()
        .parse()
        .ok()
        .filter(|size| (1..=max).contains(size))
        .ok_or_else(|| {
            Wrong::new(
                format!("\"{text}\" is not a number of bytes from 1 to {max}"),
                "write plain digits",
            )
        })
}

/// An amount of memory, in bytes. The units are powers of 1024, with `iB` or without.
pub(super) fn memory(text: &str) -> Result<u64, Wrong> {
    let trimmed = text.trim();
    let end = trimmed
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(trimmed.len());
    let (digits, unit) = trimmed.split_at(end);
    let scale = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" => Some(1),
        "k" | "kib" => Some(1 << 10),
        "m" | "mib" => Some(1 << 20),
        "g" | "gib" => Some(1_u64 << 30),
        _ => None,
    };
    digits
        .parse::<u64>()
        .ok()
        .zip(scale)
        .and_then(|(number, scale)| number.checked_mul(scale))
        .filter(|size| (MIN_MEMORY..=MAX_SIZE).contains(size))
        .ok_or_else(|| {
            Wrong::new(
                format!(
                    "\"{text}\" is not an amount of memory of at least {} MiB",
                    MIN_MEMORY >> 20
                ),
                "write bytes, or a number with K, M, G, KiB, MiB or GiB, such as 256MiB",
            )
        })
}

/// A time in seconds, which may have a fraction.
pub(super) fn seconds(text: &str) -> Result<Duration, Wrong> {
    text.trim()
        .parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|time| *time <= MAX_LIST_TTL)
        .ok_or_else(|| {
            Wrong::new(
                format!(
                    "\"{text}\" is not a number of seconds from 0 to {}",
                    MAX_LIST_TTL.as_secs()
                ),
                "write a number such as 5 or 0.5",
            )
        })
}

/// The longest that something may take: more than no time at all.
pub(super) fn timeout(text: &str) -> Result<Duration, Wrong> {
    match seconds(text)? {
        Duration::ZERO => Err(Wrong::new(
            format!("\"{text}\" is no time to do anything in"),
            "write a number of seconds such as 60",
        )),
        time => Ok(time),
    }
}

/// How often something is done once more.
pub(super) fn attempts(text: &str) -> Result<u32, Wrong> {
    text.trim()
        .parse()
        .ok()
        .filter(|attempts| *attempts <= MAX_ATTEMPTS)
        .ok_or_else(|| {
            Wrong::new(
                format!("\"{text}\" is not a number from 0 to {MAX_ATTEMPTS}"),
                "write plain digits",
            )
        })
}

/// A limit of Cinder's: a number, or -1 for none.
pub(super) fn limit(text: &str) -> Result<Option<u64>, Wrong> {
    let text = text.trim();
    if text == "-1" {
        return Ok(None);
    }
    let limit = text.parse().map_err(|_| {
        Wrong::new(
            format!("\"{text}\" is not a number from 0 on, nor -1"),
            "write plain digits, or -1 for no limit",
        )
    })?;
    Ok(Some(limit))
}

/// How many backups may be built on a full one; `None`, written as 0, for any number.
pub(super) fn chain(text: &str) -> Result<Option<u32>, Wrong> {
    let most: u32 = text.trim().parse().map_err(|_| {
        Wrong::new(
            format!(
                "\"{text}\" is not a number of backups from 0 to {}",
                u32::MAX
            ),
            "write plain digits, or 0 for no limit",
        )
    })?;
    Ok(Some(most).filter(|most| *most > 0))
}

/// When a file written straight into the folder of a volume becomes an incremental backup.
pub(super) fn incremental(text: &str) -> Result<Incremental, Wrong> {
    match text.trim().to_ascii_lowercase().as_str() {
        "never" => Ok(Incremental::Never),
        "auto" => Ok(Incremental::Auto),
        _ => Err(Wrong::new(
            format!("\"{text}\" is neither never nor auto"),
            "write never for full backups, or auto for incremental ones where one can be built on",
        )),
    }
}

/// A switch, in the words of oslo.config.
pub(super) fn switch(text: &str) -> Result<bool, Wrong> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "on" | "yes" => Ok(true),
        "false" | "0" | "off" | "no" => Ok(false),
        _ => Err(Wrong::new(
            format!("\"{text}\" is neither true nor false"),
            "write true, 1, on or yes, or false, 0, off or no",
        )),
    }
}

/// The name of a codec, in lower case.
pub(super) fn codec(text: &str) -> Result<String, Wrong> {
    let name = text.to_lowercase();
    if CODECS.contains(&name.as_str()) {
        return Ok(name);
    }
    Err(Wrong::new(
        format!("there is no codec \"{text}\""),
        format!("write one of {}", CODECS.join(", ")),
    ))
}

/// An absolute path.
pub(super) fn path(text: &str) -> Result<PathBuf, Wrong> {
    single_line(text)?;
    if text.is_empty() {
        return Err(Wrong::new("it is empty", "write an absolute path"));
    }
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err(Wrong::new(
            format!("\"{text}\" is not an absolute path"),
            "write a path that begins with \"/\"; \"~\" and variables of the shell \
             are not replaced",
        ));
    }
    Ok(path.to_path_buf())
}

/// The name of a container: names of folders with slashes between them.
pub(super) fn container(text: &str) -> Result<String, Wrong> {
    single_line(text)?;
    if text.is_empty() {
        return Err(Wrong::new(
            "it is empty",
            "leave the option out, and each backup gets a container of its own",
        ));
    }
    // A part that begins with a dot could lead out of the store, or hide the backups.
    let fits = |part: &str| !part.is_empty() && !part.starts_with('.') && part.len() <= MAX_NAME;
    if !text.split('/').all(fits) {
        return Err(Wrong::new(
            format!("\"{text}\" is not the name of a container"),
            format!(
                "write names with a single \"/\" between them, none beginning with a dot or \
                 longer than {MAX_NAME} bytes"
            ),
        ));
    }
    Ok(text.to_owned())
}

/// The name of a backend, which becomes the name of a folder.
pub(super) fn backend_name(text: &str) -> Result<(), Wrong> {
    let fits = !text.is_empty()
        && text.len() <= MAX_NAME
        && !text.starts_with('.')
        && !text.contains(|c: char| c == '/' || c.is_control());
    if fits {
        return Ok(());
    }
    Err(Wrong::new(
        "a backend is a folder of that name in the mount, and this cannot be the name of one",
        format!(
            "take a name of at most {MAX_NAME} bytes without \"/\" that does not begin with a dot"
        ),
    ))
}

/// Text on a single line.
pub(super) fn text(text: &str) -> Result<String, Wrong> {
    single_line(text)?;
    Ok(text.to_owned())
}

fn single_line(text: &str) -> Result<(), Wrong> {
    if text.contains(|c: char| c.is_control()) {
        return Err(line_break());
    }
    Ok(())
}

/// What is wrong with a value on several lines.
pub(super) fn line_break() -> Wrong {
    Wrong::new(
        "it holds a line break or another control character",
        "keep the next option clear of white space before it: a line that begins with \
         such continues this one",
    )
}
