//! The client's option file: the one that is configured, or, for a password in our own
//! configuration, a private one that says the same and the password.

use super::stage::make_private;
use crate::config;
use crate::error::{Error, Kind, Result};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};
use tempfile::NamedTempFile;

/// What those of ours begin with.
pub const OPTION_FILE: &str = "dsm-";
/// Where the client is by default, with its option file.
const HOME: &str = "/opt/tivoli/tsm/client/ba/bin";

/// See the module's page.
#[derive(Debug)]
pub struct OptionFile {
    options: config::Tsm,
    /// Where one of ours is made.
    folder: PathBuf,
    /// One of ours, for as long as this lives.
    secret: Mutex<Option<NamedTempFile>>,
    /// Those of programs that were ended have been looked for.
    is_tidy: Once,
}

impl OptionFile {
    /// Nothing is read or written yet.
    pub fn new(options: &config::Tsm, folder: &Path) -> Self {
        Self {
            options: options.clone(),
            folder: folder.to_owned(),
            secret: Mutex::default(),
            is_tidy: Once::new(),
        }
    }

    /// The option file to use. A password goes into one of our own, which only we can read:
    /// everybody can see a command line.
    ///
    /// # Errors
    /// When one is to be read or written that cannot be.
    pub fn path(&self) -> Result<Option<PathBuf>> {
        self.is_tidy.call_once(|| remove_old_secrets(&self.folder));
        let Some(password) = &self.options.password else {
            return Ok(self.options.option_file.clone());
        };
        let mut secret = self.secret.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &*secret {
            return Ok(Some(file.path().to_owned()));
        }
        let folder = &self.folder;
        let failed = |e: &std::io::Error| {
            Error::io("write an option file into", folder.display().to_string(), e)
                .advise("set backup_tsm_staging_path to a folder that may be written to")
        };
        let quote = match password.expose() {
            text if !text.contains('"') => '"',
            text if !text.contains('\'') => '\'',
            _ => {
                let reason = "it has quotation marks of both kinds, which no option file can hold";
                let place = self.options.place.clone();
                return Err(Error::new(Kind::Invalid, "use", place, reason)
                    .advise("let the client keep the password (passwordaccess generate)"));
            }
        };
        let mut text = self.base_options()?;
        text.push_str(&format!("PASSWORD {quote}{}{quote}\n", password.expose()));
        make_private(folder).map_err(|e| failed(&e))?;
        let make = || {
            // It is made with mode 0600.
            let mut file = tempfile::Builder::new()
                .prefix(OPTION_FILE)
                .suffix(".opt")
                .tempfile_in(folder)?;
            // Whoever finds it sees that somebody uses it.
            file.as_file().lock()?;
            file.write_all(text.as_bytes())?;
            file.flush()?;
            Ok(file)
        };
        let file = make().map_err(|e: std::io::Error| failed(&e))?;
        let path = file.path().to_owned();
        *secret = Some(file);
        Ok(Some(path))
    }

    /// What the option file says that would be used without a password, but for passwords.
    fn base_options(&self) -> Result<String> {
        let path = match &self.options.option_file {
            Some(file) => file.clone(),
            None => match (std::env::var_os("DSM_CONFIG"), std::env::var_os("DSM_DIR")) {
                (Some(file), _) => file.into(),
                (None, Some(folder)) => Path::new(&folder).join("dsm.opt"),
                (None, None) => Path::new(HOME).join("dsm.opt"),
            },
        };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e)
                if e.kind() == std::io::ErrorKind::NotFound
                    && self.options.option_file.is_none() =>
            {
                String::new()
            }
            Err(e) => return Err(Error::io("read", path.display().to_string(), &e)),
        };
        let is_password = |line: &&str| {
            let word = line.split_whitespace().next().unwrap_or_default();
            let word = word.to_ascii_lowercase();
            word.len() >= 3 && "password".starts_with(&word)
        };
        let kept = text.lines().filter(|line| !is_password(line));
        Ok(kept.flat_map(|line| [line, "\n"]).collect())
    }
}

/// Removes option files with passwords that programs that were ended have left.
fn remove_old_secrets(folder: &Path) {
    /// So old, in seconds, that nobody is about to lock it.
    const OLD: u64 = 60;
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_old = |stat: std::fs::Metadata| {
            let age = stat.modified().ok().and_then(|at| at.elapsed().ok());
            stat.is_file() && age.is_some_and(|age| age.as_secs() >= OLD)
        };
        if name.starts_with(OPTION_FILE)
            && name.ends_with(".opt")
            && entry.metadata().is_ok_and(is_old)
            && std::fs::File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok())
        {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
