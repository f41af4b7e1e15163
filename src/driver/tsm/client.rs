//! What the client is asked to do, and whether it has done it.
//!
//! Knows its command lines; must not know whose backup an object is.

use super::command::{Call, Ended, Runner, Signs};
use super::names::is_plain;
use super::rows::{self, Row};
use super::stage::make_private;
use super::verdict::{self, NO_LVM, Verdict, counter, judge};
use crate::config;
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;
use tempfile::NamedTempFile;

/// Below the folder of stages: where the client runs.
const RUN: &str = ".run";
/// What option files of ours begin with.
pub const OPTION_FILE: &str = "dsm-";
/// Where the client is by default, with its option file.
const HOME: &str = "/opt/tivoli/tsm/client/ba/bin";

/// How an object was backed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// As a file.
    File,
    /// As the image of a device.
    Image,
}

impl Mode {
    /// As the client and Cinder spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Image => "image",
        }
    }
}

/// See the module's page.
#[derive(Debug)]
pub struct Client {
    runner: Runner,
    options: config::Tsm,
    /// An option file of ours, with the password, for as long as this lives.
    secret: Mutex<Option<NamedTempFile>>,
    /// Those of programs that were ended have been looked for.
    is_tidy: Once,
    /// It has told of all images at once before: it can.
    tells_all: AtomicBool,
}

impl Client {
    /// Nothing is asked yet.
    pub fn new(options: &config::Tsm) -> Self {
        Self {
            runner: Runner::new(&options.dsmc, &options.staging.join(RUN)),
            options: options.clone(),
            secret: Mutex::default(),
            is_tidy: Once::new(),
            tells_all: AtomicBool::new(false),
        }
    }

    /// Where the client runs.
    pub fn run_folder(&self) -> &Path {
        self.runner.folder()
    }

    /// All versions of the files that a specification means, below its folder if `deep`.
    ///
    /// # Errors
    /// Those of the client, and whatever it says that is not understood.
    pub async fn files(&self, pattern: &Path, deep: bool, all: bool) -> Result<Vec<Row>> {
        let mut words = vec!["-filesonly", "-scrollprompt=no"];
        words.extend(all.then_some("-inactive"));
        words.extend(deep.then_some("-subdir=yes"));
        self.query(Mode::File, &words, Some(pattern)).await
    }

    /// All versions of an object.
    ///
    /// # Errors
    /// As [`Client::files`].
    pub async fn versions(&self, path: &Path, mode: Mode) -> Result<Vec<Row>> {
        match mode {
            Mode::File => self.files(path, false, true).await,
            Mode::Image => self.images(Some(path)).await,
        }
    }

    /// All versions of an image, or of every image.
    ///
    /// # Errors
    /// As [`Client::files`]; `Unsupported` when images have to be asked for by their names.
    pub async fn images(&self, name: Option<&Path>) -> Result<Vec<Row>> {
        let words = ["-inactive", "-scrollprompt=no"];
        self.query(Mode::Image, &words, name).await
    }

    async fn query(&self, mode: Mode, words: &[&str], of: Option<&Path>) -> Result<Vec<Row>> {
        const OP: &str = "ask the server for";
        let subject = of.map_or_else(|| "all images".into(), |of| of.display().to_string());
        let what = match mode {
            Mode::File => "backup",
            Mode::Image => "image",
        };
        let exact = of.filter(|of| !of.as_os_str().as_encoded_bytes().ends_with(b"-*"));
        if let Some(path) = exact.or(of.and_then(Path::parent)) {
            refuse_pattern(OP, path)?;
        }
        let arguments = self.line(&["query", what], true, words, of.as_slice())?;
        let call = self.call(OP, &subject, arguments, Signs::None);
        let ended = self.runner.run(call).await?;
        let tells_all = self.tells_all.load(Ordering::SeqCst);
        if of.is_none() && !tells_all && verdict::refuses_question(&ended) {
            let reason = verdict::last_words(&ended.text);
            return Err(Error::new(Kind::Unsupported, OP, &subject, reason));
        }
        let rows = match judge(OP, &subject, &ended, &[])? {
            Verdict::Nothing if rows::has_table(&ended.text) => {
                Err("it says that there is nothing, and there is a table".into())
            }
            Verdict::Nothing => Ok(Vec::new()),
            Verdict::Done => rows::parse(&ended.text),
        };
        let rows = rows.map_err(|reason| {
            let said = verdict::last_words(&ended.text);
            let reason = format!("dsmc's answer is not understood: {reason} (it said: {said})");
            Error::new(Kind::Unavailable, OP, &subject, reason).advise(advice_on(mode))
        })?;
        if of.is_none() {
            self.tells_all.store(true, Ordering::SeqCst);
        }
        Ok(rows)
    }

    /// Fetches an object into a file that is not there yet.
    ///
    /// # Errors
    /// `NotFound` when the server has it no more; those of the client.
    pub async fn restore(&self, path: &Path, mode: Mode, into: &Path) -> Result<()> {
        const OP: &str = "fetch";
        let subject = path.display().to_string();
        let (verb, words): (&[&str], &[&str]) = match mode {
            Mode::File => (&["restore"], &["-replace=yes", "-latest"]),
            // Into a file, and not onto a device.
            Mode::Image => (&["restore", "image"], &["-noprompt", "-imagetofile"]),
        };
        refuse_pattern(OP, path)?;
        let arguments = self.line(verb, true, words, &[path, into])?;
        let call = self.call(OP, &subject, arguments, Signs::File(into.to_owned()));
        let ended = self.runner.run(call).await?;
        if judge(OP, &subject, &ended, &[NO_LVM])? == Verdict::Nothing {
            let reason = "the server has no such object any more";
            return Err(Error::new(Kind::NotFound, OP, subject, reason));
        }
        // Some versions tell no counters.
        match counter(&ended.text, "restored") {
            None | Some(1) => Ok(()),
            Some(count) => Err(uncounted(OP, &subject, "restored", count, &ended)),
        }
    }

    /// Backs a file or a device up. Whether the server has it is still to be asked.
    ///
    /// # Errors
    /// Those of the client. Gives whether it has counted the object.
    pub async fn back_up(&self, path: &Path, mode: Mode) -> Result<bool> {
        const OP: &str = "send";
        let subject = path.display().to_string();
        let compression = match self.options.compression {
            true => "-compression=yes",
            false => "-compression=no",
        };
        let (verb, words): (&[&str], &[&str]) = match mode {
            Mode::File if self.options.legacy_commands => (&["backup"], &[compression]),
            Mode::File => (&["selective"], &["-filesonly", compression]),
            Mode::Image => (&["backup", "image"], &[compression]),
        };
        refuse_pattern(OP, path)?;
        let arguments = self.line(verb, false, words, &[path])?;
        let call = self.call(OP, &subject, arguments, Signs::Reading);
        let ended = self.runner.run(call).await?;
        if judge(OP, &subject, &ended, &[NO_LVM])? == Verdict::Nothing {
            let reason = format!(
                "dsmc found nothing to send: {}",
                verdict::last_words(&ended.text)
            );
            return Err(Error::new(Kind::Unavailable, OP, subject, reason));
        }
        if let Some(failed) = counter(&ended.text, "failed").filter(|failed| *failed > 0) {
            return Err(uncounted(OP, &subject, "failed", failed, &ended));
        }
        match counter(&ended.text, "backed up") {
            None => Ok(false),
            Some(1) => Ok(true),
            Some(count) => Err(uncounted(OP, &subject, "backed up", count, &ended)),
        }
    }

    /// Deletes all versions of an object. Whether they are gone is still to be asked. One
    /// that is not there is no failure.
    ///
    /// # Errors
    /// `Denied` when the node may not; those of the client.
    pub async fn delete(&self, path: &Path, mode: Mode) -> Result<()> {
        let all = self.delete_versions(path, mode, "all").await?;
        if !verdict::refuses_option(&all) {
            return judge("delete", &path.display().to_string(), &all, &[]).map(drop);
        }
        // Older ones know the two kinds only one by one.
        for kind in ["active", "inactive"] {
            let ended = self.delete_versions(path, mode, kind).await?;
            judge("delete", &path.display().to_string(), &ended, &[])?;
        }
        Ok(())
    }

    async fn delete_versions(&self, path: &Path, mode: Mode, kind: &str) -> Result<Ended> {
        let (of, kind) = (
            format!("-objtype={}", mode.name()),
            format!("-deltype={kind}"),
        );
        let words = ["-noprompt", &of, &kind];
        refuse_pattern("delete", path)?;
        let arguments = self.line(&["delete", "backup"], true, &words, &[path])?;
        let subject = path.display().to_string();
        let call = self.call("delete", &subject, arguments, Signs::None);
        self.runner.run(call).await
    }

    fn call(
        &self,
        op: &'static str,
        subject: &str,
        arguments: Vec<OsString>,
        signs: Signs,
    ) -> Call {
        let patience: Duration = match signs {
            Signs::None => self.options.session_timeout,
            Signs::File(_) | Signs::Reading => self.options.mount_timeout,
        };
        Call {
            op,
            subject: subject.to_owned(),
            arguments,
            patience,
            signs,
        }
    }

    fn line(
        &self,
        verb: &[&str],
        formats: bool,
        words: &[&str],
        paths: &[&Path],
    ) -> Result<Vec<OsString>> {
        let mut line: Vec<OsString> = verb.iter().map(Into::into).collect();
        if let Some(file) = self.option_file()? {
            let mut word = OsString::from("-optfile=");
            word.push(file);
            line.push(word);
        }
        if let Some(name) = &self.options.server_name {
            line.push(format!("-se={name}").into());
        }
        if formats {
            let formats = ["-dateformat=3", "-timeformat=1", "-numberformat=1"];
            line.extend(formats.iter().map(Into::into));
        }
        line.extend(words.iter().map(Into::into));
        line.extend(paths.iter().map(Into::into));
        Ok(line)
    }

    /// The option file to use. A password goes into one of our own, which only we can read:
    /// everybody can see a command line.
    fn option_file(&self) -> Result<Option<PathBuf>> {
        self.is_tidy
            .call_once(|| remove_old_secrets(self.run_folder()));
        let Some(password) = &self.options.password else {
            return Ok(self.options.option_file.clone());
        };
        let mut secret = self.secret.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &*secret {
            return Ok(Some(file.path().to_owned()));
        }
        let folder = self.run_folder();
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

/// Refuses a path that would mean more to the client than itself.
fn refuse_pattern(op: &'static str, path: &Path) -> Result<()> {
    if is_plain(path) {
        return Ok(());
    }
    let path = path.display().to_string();
    let reason = "the client would take it for a pattern, or for nothing that it knows";
    Err(Error::new(Kind::Invalid, op, path, reason))
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

/// What to do about an answer that is not understood.
pub fn advice_on(mode: Mode) -> &'static str {
    match mode {
        Mode::File => "tests/tsm-conformance.sh shows what this client says; please report it",
        Mode::Image => {
            "to do without images, set backup_tsm_list_images to false; tests/tsm-conformance.sh \
             shows what this client says; please report it"
        }
    }
}

fn uncounted(op: &'static str, subject: &str, what: &str, count: u64, ended: &Ended) -> Error {
    let said = verdict::last_words(&ended.text);
    let reason = format!("dsmc tells of {count} objects {what}: {said}");
    Error::new(Kind::Unavailable, op, subject, reason).advise("see the client's dsmerror.log")
}
