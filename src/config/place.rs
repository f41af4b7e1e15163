//! What holds where no file says it: folders of the user, and a store that the command
//! line names.
//!
//! Must not know options, sections or drivers' options.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::value::Wrong;
use crate::error::Result;

/// Where the store and the spool go when the user has no home. systemd starts mounts so.
const SPOOL_WITHOUT_HOME: &str = "/var/tmp";

/// Folder of ours below the user's.
const FOLDER: &str = "cinderfs";

/// The folders of the user, as the XDG base directory specification finds them.
#[derive(Debug, Default)]
pub(super) struct Homes {
    data: Option<PathBuf>,
    cache: Option<PathBuf>,
}

impl Homes {
    /// Those that variables name. A relative path in one counts for nothing, as the
    /// specification wants it.
    pub(super) fn of(environment: &Environment) -> Self {
        let folder = |name| {
            environment
                .get(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let home = folder("HOME");
        let in_home = |path| home.as_ref().map(|home| home.join(path));
        Self {
            data: folder("XDG_DATA_HOME").or_else(|| in_home(".local/share")),
            cache: folder("XDG_CACHE_HOME").or_else(|| in_home(".cache")),
        }
    }

    /// The folder of the store that is used when none is named.
    pub(super) fn local_store(&self) -> Result<PathBuf> {
        let data = self.data.as_ref().ok_or_else(|| {
            Wrong::new(
                "neither XDG_DATA_HOME nor HOME holds an absolute path",
                "name a configuration with --config or a store with --store",
            )
            .at("find", "the default store")
        })?;
        Ok(data.join(FOLDER))
    }

    /// The folder of the spool.
    pub(super) fn spool(&self) -> PathBuf {
        match &self.cache {
            Some(cache) => cache.join(FOLDER),
            None => PathBuf::from(SPOOL_WITHOUT_HOME),
        }
    }
}

/// The absolute path of the folder that `--store` names. A relative one is taken from the
/// working folder, as everywhere on a command line.
pub(super) fn parse_store(spec: &str) -> Result<PathBuf> {
    let wrong = |reason: &str| {
        Wrong::new(reason, "write a path, posix:PATH or file:///PATH")
            .at("use store", &format!("\"{spec}\""))
    };
    let path = if let Some(rest) = spec.strip_prefix("file://") {
        let path = decode_percent(rest)
            .ok_or_else(|| wrong("a \"%\" in it is not followed by two hexadecimal digits"))?;
        let path = PathBuf::from(path);
        if !path.is_absolute() {
            return Err(wrong("a file: address holds no host and an absolute path"));
        }
        path
    } else if let Some(path) = spec.strip_prefix("posix:") {
        PathBuf::from(path)
    } else if spec.contains("://") {
        return Err(wrong("stores of this kind are not built into this program"));
    } else {
        PathBuf::from(spec)
    };
    if path == Path::new("") {
        return Err(wrong("it names no folder"));
    }
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(wrong("it holds a zero byte"));
    }
    std::path::absolute(&path)
        .map_err(|error| wrong(&format!("the working folder cannot be found: {error}")))
}

fn decode_percent(text: &str) -> Option<OsString> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes().iter();
    while let Some(&byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(*rest.next()?).to_digit(16)?;
            let low = char::from(*rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    Some(OsString::from_vec(bytes))
}
