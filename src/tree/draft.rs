//! A backup that is being written, or was until a few seconds ago.
//!
//! Programs close a file and open it again (qemu-img), or close it and then set its
//! time and name (rsync). So a backup is finished, and durable, with every close; but
//! for a few seconds the same program may still go on with it.

use super::lock;
use crate::driver::{Backup, Description};
use crate::error::{Error, Result};
use crate::image::ImageWriter;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// For how long after the last close the same program may open a backup for writing.
pub const GRACE: Duration = Duration::from_secs(10);

/// See the module's page.
pub struct Draft {
    /// Number of the backend.
    pub backend: usize,
    /// Id of the volume.
    pub volume: String,
    /// What takes the bytes.
    pub writer: ImageWriter,
    /// The program that made it, by its process id.
    pub program: u32,
    state: Mutex<State>,
    /// Publishing and changing what was published do not mix.
    publishing: tokio::sync::Mutex<()>,
}

struct State {
    description: Description,
    published: Option<Arc<Backup>>,
    /// Name, words or time have changed since it was published.
    described_anew: bool,
    handles: usize,
    /// It was closed while it was empty.
    closed_empty: bool,
    /// Counts closes, so that a timer knows whether it is for the last one.
    closes: u64,
    unlinked: bool,
    /// Why it could not be published when a program last asked for that, if nothing was
    /// written since.
    refused: Option<Error>,
    written_at: SystemTime,
}

impl Draft {
    /// A new backup named `name`, open once.
    pub fn new(
        backend: usize,
        volume: &str,
        name: &str,
        writer: ImageWriter,
        program: u32,
    ) -> Self {
        Self {
            backend,
            volume: volume.to_owned(),
            writer,
            program,
            state: Mutex::new(State {
                description: Description {
                    name: name.to_owned(),
                    description: None,
                    modified: None,
                },
                published: None,
                described_anew: false,
                handles: 1,
                closed_empty: false,
                closes: 0,
                unlinked: false,
                refused: None,
                written_at: SystemTime::now(),
            }),
            publishing: tokio::sync::Mutex::default(),
        }
    }

    /// The id that the backup has, or will have.
    pub fn id(&self) -> &str {
        self.writer.backup_id()
    }

    /// The file's name.
    pub fn name(&self) -> String {
        lock(&self.state).description.name.clone()
    }

    /// What was said of it.
    pub fn description(&self) -> Description {
        lock(&self.state).description.clone()
    }

    /// Size so far, in bytes.
    pub fn size(&self) -> u64 {
        self.writer.size()
    }

    /// When it was last written to, or what a program set.
    pub fn modified(&self) -> SystemTime {
        let state = lock(&self.state);
        state.description.modified.unwrap_or(state.written_at)
    }

    /// It was written to: a time that was set before does not hold any more.
    pub fn touch(&self) {
        let mut state = lock(&self.state);
        state.written_at = SystemTime::now();
        state.description.modified = None;
        state.refused = None;
    }

    /// The finished backup, if it was published and nothing is open.
    pub fn finished(&self) -> Option<Arc<Backup>> {
        let state = lock(&self.state);
        state.published.clone().filter(|_| state.handles == 0)
    }

    /// The backup as it was last published.
    pub fn published(&self) -> Option<Arc<Backup>> {
        lock(&self.state).published.clone()
    }

    /// Whether any program has it open.
    pub fn is_open(&self) -> bool {
        lock(&self.state).handles > 0
    }

    /// Whether it may be a matter of moments until it is closed, and finished: the kernel
    /// tells of the last close after the program was told that all is well.
    pub async fn is_closing(&self) -> bool {
        // This waits while it is being published.
        let is_changed = self.writer.is_changed().await;
        let state = lock(&self.state);
        let is_published = state.published.is_some();
        match (state.unlinked, state.handles) {
            (true, _) => false,
            // What has come since it was published is published by the last close.
            (false, 0) => is_changed || !is_published,
            (false, _) => !is_changed && (is_published || state.closed_empty),
        }
    }

    /// Whether its name was removed while it was open.
    pub fn is_unlinked(&self) -> bool {
        lock(&self.state).unlinked
    }

    /// A program opens it, once more.
    pub fn open(&self) {
        lock(&self.state).handles += 1;
    }

    /// A program has closed it. Gives the number of this close, if it was the last one.
    pub fn close(&self) -> Option<u64> {
        let mut state = lock(&self.state);
        state.handles = state.handles.saturating_sub(1);
        state.closes += 1;
        (state.handles == 0).then_some(state.closes)
    }

    /// Whether nothing was opened since that close.
    pub fn is_closed_since(&self, close: u64) -> bool {
        let state = lock(&self.state);
        state.handles == 0 && state.closes == close
    }

    /// Its name is gone: what is still written is for nobody.
    pub fn unlink(&self) {
        lock(&self.state).unlinked = true;
    }

    /// Keeps what is said of it for the next time that it is published.
    pub fn describe(&self, change: impl FnOnce(&mut Description)) {
        let mut state = lock(&self.state);
        change(&mut state.description);
        state.described_anew = true;
    }

    /// What was said is in the store: this is the backup now.
    pub fn set_published(&self, backup: Arc<Backup>) {
        let mut state = lock(&self.state);
        state.published = Some(backup);
        state.described_anew = false;
    }

    /// Logs why it could not be written: the program sees a number alone.
    pub fn tell(&self, error: &Error) {
        tracing::error!("backup {} ({}): {error}", self.id(), self.name());
    }

    /// Nobody else publishes or changes it while this is held.
    pub async fn exclusive(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.publishing.lock().await
    }

    /// Makes a finished, durable backup of all that was written. One to which nothing
    /// was written is left alone unless `even_empty`: a program's first close may come
    /// before its first byte.
    ///
    /// # Errors
    /// Those of storing it.
    pub async fn publish(&self, even_empty: bool) -> Result<()> {
        self.publish_if(even_empty, || true).await
    }

    /// The same after the last close, of which the kernel tells late: its program may be in
    /// the middle of changing the file once more, and will close it once more.
    ///
    /// # Errors
    /// Those of storing it.
    pub async fn publish_closed(&self, close: u64, even_empty: bool) -> Result<()> {
        // A program that was told that it has failed must not find it all the same.
        if let Some(e) = lock(&self.state).refused.clone() {
            return Err(e);
        }
        self.publish_if(even_empty, || self.is_closed_since(close))
            .await
    }

    async fn publish_if(&self, even_empty: bool, is_due: impl FnOnce() -> bool) -> Result<()> {
        let _exclusive = self.exclusive().await;
        if self.is_unlinked() {
            return Ok(());
        }
        if !even_empty && self.writer.is_untouched().await {
            lock(&self.state).closed_empty = true;
            return Ok(());
        }
        let (description, anew) = {
            let mut state = lock(&self.state);
            let anew = state.published.is_none() || state.described_anew;
            state.described_anew = false;
            (state.description.clone(), anew)
        };
        let published = self.writer.publish_if(&description, anew, is_due).await;
        let mut state = lock(&self.state);
        match published {
            Ok(Some(backup)) => {
                state.published = Some(backup);
                state.refused = None;
            }
            Ok(None) => state.described_anew |= anew,
            Err(e) => {
                state.described_anew = true;
                state.refused = Some(e.clone());
                return Err(e);
            }
        }
        Ok(())
    }
}
