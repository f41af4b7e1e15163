//! The backups that the server has: what the client finds under the names of backups, asked
//! for when it is older than it may be.

mod absence;
mod questions;

use super::client::{Client, Mode};
use super::evidence::Seen;
use super::found::{Found, Shown, generation};
use super::names::Name;
use super::rows::Row;
use super::stage::Shelf;
use crate::config;
use crate::driver::Backup;
use crate::error::{Error, Kind, Result};
use crate::task::Queue;
use questions::Answer;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

/// How long an answer is waited for, when something older can be shown.
const LONG: Duration = Duration::from_secs(20);
/// The same where the server has not answered lately.
const SHORT: Duration = Duration::from_secs(5);

/// See the module's page.
#[derive(Debug)]
pub struct Listing {
    client: Arc<Client>,
    shelf: Arc<Shelf>,
    options: config::Tsm,
    list_ttl: Duration,
    queue: Queue<()>,
    once_by_name: Once,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When it was asked for last, if it was answered before.
    listed: Option<Instant>,
    /// It is asked again at once.
    is_stale: bool,
    shown: Shown,
    /// What was changed here while the server was being asked; `None`: it is not.
    edits: Option<Vec<Edit>>,
    /// Why the server could not be asked when that was last tried.
    trouble: Option<Error>,
    /// Why something may be missing, though the server has answered.
    lacking: Option<Error>,
    /// Where the server has told of something.
    seen: Seen,
    /// How often something went wrong with an object after a part of it was given out.
    failures: HashMap<String, u64>,
    /// What was said of images that were asked for by their names, and when.
    by_name: HashMap<PathBuf, (Instant, Vec<Row>)>,
    /// Rows of several lines whose names were asked for: there are such.
    confirmed: HashSet<(PathBuf, Mode)>,
    /// Of these paths it was said that they are none that can be listed.
    odd: HashSet<String>,
    /// Of these it was said that the server will delete them.
    warned: HashSet<Name>,
}

#[derive(Debug, Clone)]
enum Edit {
    Put(Box<Found>),
    Remove(Name),
}

impl Edit {
    fn apply(&self, shown: &mut Shown) {
        let name = match self {
            Self::Put(found) => &found.name,
            Self::Remove(name) => name,
        };
        for found in shown.values_mut() {
            found.retain(|found| found.name != *name);
        }
        if let Self::Put(found) = self {
            let volume = shown.entry(found.backup.volume_id.clone()).or_default();
            volume.push((**found).clone());
        }
        shown.retain(|_, found| !found.is_empty());
    }
}

impl Listing {
    /// Nothing is listed yet.
    pub fn new(
        client: &Arc<Client>,
        shelf: &Arc<Shelf>,
        options: &config::Tsm,
        list_ttl: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            client: Arc::clone(client),
            shelf: Arc::clone(shelf),
            options: options.clone(),
            list_ttl,
            queue: Queue::default(),
            once_by_name: Once::new(),
            state: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why listings are older than they should be, or lack something.
    pub fn trouble(&self) -> Option<Error> {
        let state = self.lock();
        state.trouble.clone().or_else(|| state.lacking.clone())
    }

    /// Why the server could not be asked when that was last tried.
    pub fn outage(&self) -> Option<Error> {
        self.lock().trouble.clone()
    }

    /// Ids of all volumes that have a backup.
    pub async fn volumes(self: &Arc<Self>) -> Result<Vec<String>> {
        self.refreshed().await?;
        Ok(self.lock().shown.keys().cloned().collect())
    }

    /// The backups of a volume.
    pub async fn backups(self: &Arc<Self>, volume_id: &str) -> Result<Vec<Arc<Backup>>> {
        self.refreshed().await?;
        let state = self.lock();
        let found = state.shown.get(volume_id).into_iter().flatten();
        Ok(found.map(|found| Arc::clone(&found.backup)).collect())
    }

    /// Where a backup is.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn find(&self, backup: &Backup) -> Result<Found> {
        let state = self.lock();
        let volume = state.shown.get(&backup.volume_id);
        let found = volume.into_iter().flatten().find(|found| {
            found.backup.id == backup.id && found.backup.service_metadata == backup.service_metadata
        });
        found.cloned().ok_or_else(|| gone(backup))
    }

    /// Names of all objects that were found last.
    pub fn names(&self) -> HashSet<Name> {
        let state = self.lock();
        let all = state.shown.values().flatten();
        all.map(|found| found.name.clone()).collect()
    }

    /// What was changed here shows at once.
    pub fn put(&self, found: Found) {
        self.edit(Edit::Put(Box::new(found)));
    }

    /// The same for what was deleted.
    pub fn remove(&self, name: &Name) {
        self.edit(Edit::Remove(name.clone()));
    }

    fn edit(&self, edit: Edit) {
        let mut state = self.lock();
        edit.apply(&mut state.shown);
        if let Some(edits) = &mut state.edits {
            edits.push(edit);
        }
    }

    /// What was given out of an object may not have been what it is: nobody shall keep it.
    pub fn distrust(&self, name: &Name) {
        let mut state = self.lock();
        *state.failures.entry(name.key()).or_default() += 1;
        let failures = state.failures.clone();
        for found in state.shown.values_mut().flatten() {
            if found.name == *name {
                let mut backup = Backup::clone(&found.backup);
                backup.generation = generation(name, &found.date, &failures);
                found.backup = Arc::new(backup);
            }
        }
    }

    /// What is staged may tell what the client does not. It is looked at next time.
    pub fn expire(&self) {
        self.lock().is_stale = true;
    }

    fn is_fresh(&self) -> bool {
        let state = self.lock();
        !state.is_stale && state.listed.is_some_and(|at| at.elapsed() < self.list_ttl)
    }

    async fn refreshed(self: &Arc<Self>) -> Result<()> {
        if self.is_fresh() {
            return Ok(());
        }
        let (has_older, is_troubled) = {
            let state = self.lock();
            (state.listed.is_some(), state.trouble.is_some())
        };
        let listing = Arc::clone(self);
        // It goes on when nobody waits any more.
        let asked = tokio::spawn(async move {
            let mut turn = listing.queue.turn().await?;
            if listing.is_fresh() {
                return Ok(());
            }
            let refreshed = listing.refresh().await;
            turn.note(refreshed)
        });
        // Who has nothing to show waits for an answer, but not again and again.
        let ended = match (has_older, is_troubled) {
            (false, false) => asked.await,
            _ => {
                let patience = if is_troubled { SHORT } else { LONG };
                match tokio::time::timeout(patience, asked).await {
                    Ok(ended) => ended,
                    Err(_) => {
                        let reason = "dsmc has not answered yet, and is waited for";
                        let late = Error::new(Kind::TimedOut, "list", "the backups", reason);
                        let late = self.lock().trouble.get_or_insert(late).clone();
                        return if has_older { Ok(()) } else { Err(late) };
                    }
                }
            }
        };
        ended.unwrap_or_else(|e| {
            let reason = format!("a fault of the program: {e}");
            Err(Error::new(Kind::Unavailable, "list", "the backups", reason))
        })
    }

    async fn refresh(&self) -> Result<()> {
        {
            let mut state = self.lock();
            state.edits = Some(Vec::new());
            state.is_stale = false;
        }
        let asked = self.ask().await;
        let mut state = self.lock();
        let edits = state.edits.take().unwrap_or_default();
        match asked {
            Ok(mut answer) => {
                answer.keep_unanswered(&state.shown);
                let Answer {
                    mut shown, lacking, ..
                } = answer;
                edits.iter().for_each(|edit| edit.apply(&mut shown));
                state.shown = shown;
                state.trouble = None;
                let was_well = std::mem::replace(&mut state.lacking, lacking).is_none();
                if let Some(e) = state.lacking.as_ref().filter(|_| was_well) {
                    tracing::warn!("what else was found is shown: {e}");
                }
                state.listed = Some(Instant::now());
                Ok(())
            }
            Err(e) => {
                let was_well = state.trouble.replace(e.clone()).is_none();
                if state.listed.is_none() {
                    return Err(e);
                }
                if was_well {
                    tracing::warn!("what was last listed is shown for now: {e}");
                }
                state.listed = Some(Instant::now());
                Ok(())
            }
        }
    }
}

/// The server has had it.
pub fn gone(backup: &Backup) -> Error {
    let subject = format!("backup {}", backup.id);
    let reason = "the server does not have it any more";
    Error::new(Kind::NotFound, "find", subject, reason)
}
