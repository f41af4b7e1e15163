//! What the client is asked to do, and whether it has done it.
//!
//! Knows its command lines; must not know whose backup an object is.

use super::catalog::Owner;
use super::command::{Call, Ended, Runner, Signs};
use super::gate::Gate;
use super::names::is_plain;
use super::option_file::OptionFile;
use super::rows::{self, Row};
use super::verdict::{self, NO_LVM, Verdict, counter, judge};
use crate::config;
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::SemaphorePermit;

/// Below the folder of stages: where the client runs.
const RUN: &str = ".run";

/// A file is that one, and none of that name in a folder below.
const EXACT: &str = "-subdir=no";

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
    option_file: OptionFile,
    /// It has told of all images at once before: it can.
    tells_all: AtomicBool,
    questions: Gate,
    fetches: Gate,
    sends: Gate,
    /// As which node the server knows us, once it has said so.
    node: Mutex<Option<String>>,
}

impl Client {
    /// Nothing is asked yet.
    pub fn new(options: &config::Tsm) -> Self {
        let folder = options.staging.join(RUN);
        Self {
            runner: Runner::new(&options.dsmc, &folder),
            options: options.clone(),
            option_file: OptionFile::new(options, &folder),
            tells_all: AtomicBool::new(false),
            questions: Gate::new("ask for"),
            fetches: Gate::new("fetch"),
            sends: Gate::new("send"),
            node: Mutex::default(),
        }
    }

    /// Where the client runs.
    pub fn run_folder(&self) -> &Path {
        self.runner.folder()
    }

    /// Whose backups the server shows and takes: this backend, as far as its options and the
    /// server tell it from others.
    pub fn owner(&self) -> Owner {
        let node = self.node.lock().unwrap_or_else(PoisonError::into_inner);
        Owner::of(&self.options, node.clone())
    }

    /// That some wait for others.
    pub fn waiting(&self) -> Option<Error> {
        let gates = [&self.fetches, &self.sends, &self.questions];
        gates.into_iter().find_map(Gate::waiting)
    }

    /// Waits until an object may be fetched, until what this gives is dropped.
    ///
    /// # Errors
    /// A fault of the program.
    pub async fn turn_to_fetch(&self) -> Result<SemaphorePermit<'_>> {
        self.fetches.pass().await
    }

    /// The same for one that is sent.
    ///
    /// # Errors
    /// A fault of the program.
    pub async fn turn_to_send(&self) -> Result<SemaphorePermit<'_>> {
        self.sends.pass().await
    }

    async fn run(&self, call: Call) -> Result<Ended> {
        let _place = match call.signs {
            Signs::None => Some(self.questions.pass().await?),
            // Who has it fetched or sent has waited already.
            Signs::File(_) | Signs::Reading => None,
        };
        let ended = self.runner.run(call).await?;
        if let Some(told) = verdict::node(&ended.text) {
            *self.node.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
        }
        Ok(ended)
    }

    /// All versions of the files that a specification means, below its folder if `deep`.
    ///
    /// # Errors
    /// Those of the client, and whatever it says that is not understood.
    pub async fn files(&self, pattern: &Path, deep: bool, all: bool) -> Result<Vec<Row>> {
        let mut words = vec!["-filesonly", "-scrollprompt=no"];
        words.extend(all.then_some("-inactive"));
        // Whatever an option file says.
        words.push(if deep { "-subdir=yes" } else { EXACT });
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
        let ended = self.run(call).await?;
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
            Mode::File => (&["restore"], &["-replace=yes", "-latest", EXACT]),
            // Into a file, and not onto a device.
            Mode::Image => (&["restore", "image"], &["-noprompt", "-imagetofile"]),
        };
        refuse_pattern(OP, path)?;
        let arguments = self.line(verb, true, words, &[path, into])?;
        let call = self.call(OP, &subject, arguments, Signs::File(into.to_owned()));
        let ended = self.run(call).await?;
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

    /// Backs a file or a device up, unless `stop` is set before that is done. Whether the
    /// server has it is still to be asked. Gives whether the client has counted the object.
    ///
    /// # Errors
    /// Those of the client.
    pub async fn back_up(&self, path: &Path, mode: Mode, stop: &Arc<AtomicBool>) -> Result<bool> {
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
        let call = Call {
            stop: Arc::clone(stop),
            ..self.call(OP, &subject, arguments, Signs::Reading)
        };
        let ended = self.run(call).await?;
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
    /// that is not there is no failure: whether there was one is what this gives.
    ///
    /// # Errors
    /// `Denied` when the node may not; those of the client.
    pub async fn delete(&self, path: &Path, mode: Mode) -> Result<Verdict> {
        let subject = path.display().to_string();
        let all = self.delete_versions(path, mode, "all").await?;
        if !verdict::refuses_option(&all) {
            return judge("delete", &subject, &all, &[]);
        }
        // Older ones know the two kinds only one by one.
        let mut verdict = Verdict::Nothing;
        for kind in ["active", "inactive"] {
            let ended = self.delete_versions(path, mode, kind).await?;
            if judge("delete", &subject, &ended, &[])? == Verdict::Done {
                verdict = Verdict::Done;
            }
        }
        Ok(verdict)
    }

    async fn delete_versions(&self, path: &Path, mode: Mode, kind: &str) -> Result<Ended> {
        let (of, kind) = (
            format!("-objtype={}", mode.name()),
            format!("-deltype={kind}"),
        );
        let mut words = vec!["-noprompt", &of, &kind];
        words.extend((mode == Mode::File).then_some(EXACT));
        refuse_pattern("delete", path)?;
        let arguments = self.line(&["delete", "backup"], true, &words, &[path])?;
        let subject = path.display().to_string();
        let call = self.call("delete", &subject, arguments, Signs::None);
        self.run(call).await
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
            stop: Arc::default(),
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
        if let Some(file) = self.option_file.path()? {
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
