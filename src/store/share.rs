//! A folder of another machine: it is mounted when it is needed, and asked only on threads
//! that can be lost.
//!
//! A server that is gone holds whoever asks it, for as long as the kernel likes. So each
//! request has a deadline after which its thread is given up; there are only so many
//! threads; and nothing that was given up is overtaken by something else under its name.
//! Must not know what the folder holds.

mod anchor;
mod hold;
mod lease;
mod mounting;
mod parting;
mod program;

pub use anchor::{Anchor, freshen};
pub use parting::close_files_of_shares;

use crate::config::{self, ShareKind};
use crate::error::{Error, Kind, Result};
use crate::task::{Pulse, aside, patiently, undisturbed};
use hold::Holds;
use lease::Lease;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Threads that may be in the kernel for a share at a time, or be lost there: enough to
/// keep a server busy, and few beside all that the program may have.
const THREADS: usize = 16;
/// How long a request waits for a server that has left the last ones without an answer.
const SHORT_PATIENCE: Duration = Duration::from_secs(3);
/// The pauses before what has failed is tried again: a server that is started anew, or
/// another one that takes its place, needs some seconds.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];
/// For so long nobody tries again to mount what could not be mounted.
const MOUNT_AGAIN: Duration = Duration::from_secs(5);

/// See the module's page. It unmounts what it has mounted when it is dropped.
#[derive(Debug)]
pub struct Share {
    state: Arc<State>,
}

/// What threads need that may outlive the share.
#[derive(Debug)]
struct State {
    options: config::Share,
    ground: Mutex<Ground>,
    /// Who mounts has this.
    mounting: Arc<tokio::sync::Mutex<()>>,
    ended: AtomicBool,
    life: Mutex<Life>,
    holds: Arc<Holds>,
    /// One for each thread that may be in the kernel.
    threads: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Ground {
    anchor: Option<Arc<Anchor>>,
    lease: Option<Lease>,
    /// Why it could not be mounted, and when that was.
    failed: Option<(Instant, Error)>,
}

impl Ground {
    /// The mount, or why there was none a moment ago.
    fn known(&self) -> Option<Result<Arc<Anchor>>> {
        if let Some(anchor) = &self.anchor {
            return Some(Ok(Arc::clone(anchor)));
        }
        let failed = self.failed.as_ref();
        let (_, e) = failed.filter(|(at, _)| at.elapsed() < MOUNT_AGAIN)?;
        Some(Err(e.clone()))
    }
}

/// What is known of the server.
#[derive(Debug, Default)]
struct Life {
    answered: Option<Instant>,
    gave_up: Option<Instant>,
    /// What went wrong with the last request, if it did.
    trouble: Option<Error>,
}

impl State {
    fn ground(&self) -> MutexGuard<'_, Ground> {
        self.ground.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Mounts it, or finds it mounted. Blocks.
    fn bring_up(&self) -> Result<Arc<Anchor>> {
        let is_over = || self.ended.load(Ordering::SeqCst);
        // Who waits hears of each attempt.
        let note = |e: Error| {
            let e = e.within(&self.options.place);
            self.ground().failed = Some((Instant::now(), e.clone()));
            e
        };
        let bring_up = || mounting::bring_up(&self.options, &is_over, &|e| drop(note(e.clone())));
        let found = bring_up().or_else(|e| match self.end_lease() {
            // One of ours was there still, and was of no use any more.
            true => bring_up(),
            false => Err(e),
        });
        let (anchor, lease) = found.map_err(note)?;
        if is_over() {
            // What was mounted for nobody goes with its lease.
            return Err(self.silent("the program ends"));
        }
        let anchor = Arc::new(anchor);
        let mut ground = self.ground();
        ground.anchor = Some(Arc::clone(&anchor));
        // One that was ours is, still: it is found mounted when it is used again.
        if lease.is_some()
            && let Some(old) = std::mem::replace(&mut ground.lease, lease)
        {
            old.give_away();
        }
        ground.failed = None;
        Ok(anchor)
    }

    /// Unmounts what is mounted by us and has died. Blocks.
    fn end_lease(&self) -> bool {
        let Some(lease) = self.ground().lease.take() else {
            return false;
        };
        lease.end(true);
        let stands = lease.stands();
        if stands {
            self.ground().lease = Some(lease);
        }
        !stands
    }

    fn silent(&self, reason: impl std::fmt::Display) -> Error {
        let subject = format!(
            "share {} on {}",
            self.options.share,
            self.options.mount_point.display()
        );
        Error::new(Kind::TimedOut, "use", subject, reason)
    }

    /// Runs what a client of GlusterFS must not be disturbed at.
    fn guard<T>(&self, call: impl FnOnce() -> T) -> T {
        match self.options.kind {
            ShareKind::Nfs => call(),
            ShareKind::GlusterFs => undisturbed(call),
        }
    }

    /// What came of a request in the end.
    fn note<T>(&self, outcome: &Result<T>) {
        match outcome {
            Err(e) if is_silence(e) => self.life().trouble = Some(e.clone()),
            _ => self.life().trouble = None,
        }
    }

    /// A thread has come back from the kernel.
    fn came_back<T>(&self, outcome: &Result<T>) {
        if !outcome.as_ref().is_err_and(is_silence) {
            self.life().answered = Some(Instant::now());
        }
    }
}

impl Share {
    /// A share that is mounted when it is first used.
    pub fn new(options: config::Share) -> Self {
        Self {
            state: Arc::new(State {
                options,
                ground: Mutex::default(),
                mounting: Arc::default(),
                ended: AtomicBool::new(false),
                life: Mutex::default(),
                holds: Arc::default(),
                threads: Arc::new(Semaphore::new(THREADS)),
            }),
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.state.options.mount_point
    }

    /// What has gone wrong with the last request, or with mounting.
    pub fn trouble(&self) -> Option<Error> {
        let failed = self.state.ground().failed.clone();
        failed
            .map(|(_, e)| e)
            .or_else(|| self.state.life().trouble.clone())
    }

    /// Runs `job` on a thread that can be lost, with the share mounted, and again where a
    /// server that comes back may do it better. What `job` changes has the name `changes`:
    /// of those there is one at a time under each name.
    ///
    /// # Errors
    /// Those of `job`; `TimedOut` when it has given no sign of life until the deadline,
    /// `Unavailable` when the share cannot be mounted.
    pub async fn run<T, F>(&self, changes: Option<&Path>, job: F) -> Result<T>
    where
        F: Fn(&Arc<Anchor>, &Pulse) -> Result<T> + Send + Sync + 'static,
        T: Send + 'static,
    {
        let job = Arc::new(job);
        let was_well = self.state.life().trouble.is_none();
        let mut pauses = PAUSES.iter().filter(|_| was_well);
        let until = Instant::now() + self.patience();
        loop {
            let outcome = self.attempt(changes, &job).await;
            let fails = |e: &Error| e.kind() == Kind::Unavailable && Instant::now() < until;
            let outcome = match (outcome, pauses.next()) {
                (Err(e), Some(pause)) if fails(&e) && self.is_mounted() => {
                    tracing::debug!("tried again: {e}");
                    tokio::time::sleep(*pause).await;
                    continue;
                }
                (Err(e), None) if fails(&e) && self.let_go_if_dead().await => {
                    tracing::info!("mounted anew: {e}");
                    self.attempt(changes, &job).await
                }
                (outcome, _) => outcome,
            };
            self.state.note(&outcome);
            return outcome.map_err(|e| self.explain(e));
        }
    }

    /// Root is nobody on many shares.
    fn explain(&self, e: Error) -> Error {
        let is_root = rustix::process::geteuid().is_root();
        match e.kind() {
            Kind::Denied if is_root => e.advise(
                "if the server takes root for nobody (root_squash), let it not, or run this as \
                 the user who owns the share, with a line for that in /etc/fstab",
            ),
            _ => e,
        }
    }

    /// Runs `work`, which clears up: only who changes the same `name` later waits for its
    /// end.
    pub fn leave(&self, name: &Path, work: impl FnOnce() + Send + 'static) {
        let hold = self.state.holds.join(name);
        let state = Arc::clone(&self.state);
        aside(move || {
            state.guard(work);
            drop(hold);
        });
    }

    async fn attempt<T, F>(&self, changes: Option<&Path>, job: &Arc<F>) -> Result<T>
    where
        F: Fn(&Arc<Anchor>, &Pulse) -> Result<T> + Send + Sync + 'static,
        T: Send + 'static,
    {
        let state = &self.state;
        let patience = self.patience();
        let begun = Instant::now();
        let anchor = self.anchor(patience).await?;
        let waiting = async {
            let hold = match changes {
                Some(name) => Some(state.holds.hold(name).await),
                None => None,
            };
            (hold, Arc::clone(&state.threads).acquire_owned().await)
        };
        let left = patience.saturating_sub(begun.elapsed());
        let Ok((hold, Ok(thread))) = tokio::time::timeout(left, waiting).await else {
            let reason = "requests that wait for its server have not ended";
            return Err(self.give_up(reason));
        };
        let (job, at) = (Arc::clone(job), Arc::clone(&anchor));
        let answered = Arc::clone(state);
        let patience = patience.saturating_sub(begun.elapsed());
        let patience = patience.max(short(&state.options));
        let done = patiently(patience, move |pulse| {
            let outcome = match at.holds() {
                Ok(true) => answered.guard(|| job(&at, pulse)),
                Ok(false) => Err(gone(&answered)),
                Err(e) => Err(Error::io("use", answered.options.share.clone(), &e)),
            };
            answered.came_back(&outcome);
            drop((hold, thread));
            outcome
        });
        let Some(outcome) = done.await else {
            let seconds = patience.as_secs_f64();
            return Err(self.give_up(&format!("its server has not answered in {seconds} s")));
        };
        outcome
    }

    /// How long a request waits.
    fn patience(&self) -> Duration {
        let Life {
            answered, gave_up, ..
        } = *self.state.life();
        let full = self.state.options.request_timeout;
        let alive = self.state.ground().anchor.as_ref().and_then(|a| a.alive());
        match gave_up > answered.max(alive) {
            true => short(&self.state.options),
            false => full,
        }
    }

    fn give_up(&self, reason: &str) -> Error {
        self.state.life().gave_up = Some(Instant::now());
        self.state
            .silent(reason)
            .advise("it is used again when it answers")
    }

    fn is_mounted(&self) -> bool {
        self.state.ground().failed.is_none()
    }

    /// The mount, which is made when it is not there.
    async fn anchor(&self, patience: Duration) -> Result<Arc<Anchor>> {
        if let Some(known) = self.state.ground().known() {
            return known;
        }
        let mounting = async {
            let turn = Arc::clone(&self.state.mounting).lock_owned().await;
            // Somebody else may have done it meanwhile, or may have tried just now.
            if let Some(known) = self.state.ground().known() {
                return known;
            }
            let state = Arc::clone(&self.state);
            let work = move || {
                let found = state.bring_up();
                drop(turn);
                found
            };
            crate::task::blocking(work).await
        };
        match tokio::time::timeout(patience, mounting).await {
            Ok(found) => found,
            Err(_) => {
                let e = self.give_up("it is being mounted, and that takes long");
                let failed = self.state.ground().failed.clone();
                Err(failed.map_or(e, |(_, why)| why))
            }
        }
    }

    /// A mount that cannot be asked for anything any more, because its client has ended or
    /// its server knows it no longer, does not come back by itself. One of ours is
    /// unmounted, and mounted when it is used next. Whether that was so.
    async fn let_go_if_dead(&self) -> bool {
        let state = Arc::clone(&self.state);
        let look = patiently(self.patience(), move |_| {
            let anchor = state.ground().anchor.clone();
            if anchor.is_none_or(|anchor| anchor.answers()) {
                return Ok(false);
            }
            // Dropped with nothing locked.
            let anchor = state.ground().anchor.take();
            drop(anchor);
            Ok(state.end_lease())
        });
        matches!(look.await, Some(Ok(true)))
    }
}

/// The least that a request waits.
fn short(options: &config::Share) -> Duration {
    options.request_timeout.min(SHORT_PATIENCE)
}

/// Whether a failure means that nobody answers.
fn is_silence(e: &Error) -> bool {
    matches!(e.kind(), Kind::Unavailable | Kind::TimedOut)
}

/// What is below the folder is not the share any more.
fn gone(state: &State) -> Error {
    // Dropped with nothing locked.
    let anchor = state.ground().anchor.take();
    drop(anchor);
    let subject = format!("share {}", state.options.share);
    let reason = format!(
        "it is not mounted on {} any more",
        state.options.mount_point.display()
    );
    Error::new(Kind::Unavailable, "use", subject, reason)
}

impl Drop for Share {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        let (anchor, lease) = {
            let mut ground = self.state.ground();
            (ground.anchor.take(), ground.lease.take())
        };
        drop(anchor);
        drop(lease);
    }
}
