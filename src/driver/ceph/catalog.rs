//! Which backups there are: a listing of the pool's images, and what each of them says.
//!
//! Both are asked for anew after `list_ttl`. An image is opened only when it has changed
//! since: each change of its snapshots or its notes gives its header another version.

use super::cluster::Pool;
use super::failure::{Deadline, timed_out};
use super::session::Session;
use super::summary::{Found, HeadState, look};
use crate::driver::Backup;
use crate::error::{Error, Kind, Result};
use crate::format::BaseName;
use crate::task::Queue;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Images that are looked into at a time.
const LOOKS: usize = 12;
/// How long a cluster that has not answered lately is waited for, when something older can
/// be shown.
const SHORT: Duration = Duration::from_secs(5);

/// See the module's page.
#[derive(Debug)]
pub struct Catalog {
    session: Arc<Session>,
    list_ttl: Duration,
    images: Queue<Images>,
    volumes: Mutex<HashMap<String, Arc<Queue<Volume>>>>,
    /// Why the cluster could not be asked when that was last tried.
    trouble: Mutex<Option<Error>>,
}

/// The images of the pool that hold backups.
#[derive(Debug, Default)]
struct Images {
    listed: Option<Instant>,
    /// We have changed something since.
    is_stale: bool,
    /// By volume: names, and ids.
    by_volume: BTreeMap<String, Vec<(BaseName, String)>>,
}

/// The backups of a volume.
#[derive(Debug, Default)]
struct Volume {
    listed: Option<Instant>,
    /// We have changed something since.
    is_stale: bool,
    found: Vec<Found>,
    /// By the id of the image.
    known: HashMap<String, Known>,
}

/// What an image has said, and its version by then.
#[derive(Debug, Clone)]
struct Known {
    version: u64,
    found: Vec<Found>,
    head: HeadState,
}

impl Catalog {
    /// Nothing is listed yet.
    pub fn new(session: &Arc<Session>, list_ttl: Duration) -> Self {
        Self {
            session: Arc::clone(session),
            list_ttl,
            images: Queue::default(),
            volumes: Mutex::default(),
            trouble: Mutex::default(),
        }
    }

    /// Why listings are older than they should be.
    pub fn trouble(&self) -> Option<Error> {
        self.lock_trouble().clone()
    }

    fn lock_trouble(&self) -> MutexGuard<'_, Option<Error>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ids of all volumes that have an image with backups; it may be one that nobody has
    /// finished yet.
    pub async fn volumes(&self) -> Result<Vec<String>> {
        let mut images = self.images.turn().await?;
        let refreshed = self.refresh_images(&mut images, false).await;
        images.note(refreshed)?;
        Ok(images.by_volume.keys().cloned().collect())
    }

    /// The backups of a volume.
    pub async fn backups(&self, volume_id: &str) -> Result<Vec<Arc<Backup>>> {
        let volume = self.volume(volume_id);
        let mut volume = volume.turn().await?;
        let refreshed = self.refresh(&mut volume, volume_id, false).await;
        volume.note(refreshed)?;
        let backups = volume.found.iter().map(|found| Arc::clone(&found.backup));
        Ok(backups.collect())
    }

    /// The same with where they are, from the cluster as it is now: an older listing does not
    /// do.
    pub async fn found_now(&self, volume_id: &str) -> Result<Vec<Found>> {
        let volume = self.volume(volume_id);
        let mut volume = volume.turn().await?;
        let refreshed = self.refresh(&mut volume, volume_id, true).await;
        volume.note(refreshed)?;
        Ok(volume.found.clone())
    }

    /// We have changed something of that volume: the next question is answered from the
    /// cluster, however young the listing is.
    pub async fn changed(&self, volume_id: &str) {
        self.images.value().await.is_stale = true;
        let volume = self.volume(volume_id);
        volume.value().await.is_stale = true;
    }

    /// The names and ids of all images of the pool, as it is now.
    pub async fn images_now(&self) -> Result<Vec<(String, String)>> {
        let pool = self.session.pool().await?;
        self.list(&pool, self.session.deadline()).await
    }

    /// Where a backup is.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn find(&self, backup: &Backup) -> Result<Found> {
        let volume = self.volume(&backup.volume_id);
        let mut volume = volume.turn().await?;
        if volume.is_stale {
            let refreshed = self.refresh(&mut volume, &backup.volume_id, false).await;
            volume.note(refreshed)?;
        }
        let is_it = |found: &&Found| {
            found.backup.id == backup.id && found.backup.service_metadata == backup.service_metadata
        };
        volume.found.iter().find(is_it).cloned().ok_or_else(|| {
            let subject = format!("backup {}", backup.id);
            Error::new(
                Kind::NotFound,
                "find",
                subject,
                "it is not in the pool any more",
            )
        })
    }

    fn volume(&self, volume_id: &str) -> Arc<Queue<Volume>> {
        let mut volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(volume) = volumes.get(volume_id) {
            return Arc::clone(volume);
        }
        Arc::clone(volumes.entry(volume_id.to_owned()).or_default())
    }

    fn is_fresh(&self, listed: Option<Instant>) -> bool {
        listed.is_some_and(|at| at.elapsed() < self.list_ttl)
    }

    /// Asks the cluster. `None`: it cannot be asked, and what was listed has to do for
    /// another while.
    async fn ask<T>(
        &self,
        listed: Option<Instant>,
        ask: impl AsyncFnOnce(&Arc<Pool>, Deadline) -> Result<T>,
    ) -> Result<Option<T>> {
        let is_short = listed.is_some() && self.lock_trouble().is_some();
        let asked = async {
            let pool = self.session.pool().await?;
            ask(&pool, self.session.deadline()).await
        };
        let answer = if is_short {
            let deadline = Deadline::after(SHORT);
            let late = || timed_out("list", self.session.pool_name(), deadline);
            let answer = tokio::time::timeout_at(deadline.at(), asked).await;
            answer.unwrap_or_else(|_| Err(late()))
        } else {
            asked.await
        };
        let passes = |e: &Error| matches!(e.kind(), Kind::Unavailable | Kind::TimedOut);
        let trouble = answer.as_ref().err().filter(|e| passes(e)).cloned();
        if trouble.is_some() {
            self.session.suspect();
        }
        let was_well = std::mem::replace(&mut *self.lock_trouble(), trouble.clone()).is_none();
        match (answer, trouble) {
            (Err(_), Some(e)) if listed.is_some() => {
                if was_well {
                    tracing::warn!("what was last listed is shown for now: {e}");
                }
                Ok(None)
            }
            (answer, _) => answer.map(Some),
        }
    }

    /// `now`: an older listing does not do.
    async fn refresh_images(&self, images: &mut Images, now: bool) -> Result<()> {
        if self.is_fresh(images.listed) && !images.is_stale && !now {
            return Ok(());
        }
        let older = images.listed.filter(|_| !now);
        let list = async |pool: &Arc<Pool>, deadline| self.list(pool, deadline).await;
        if let Some(listed) = self.ask(older, list).await? {
            images.by_volume.clear();
            for (image, id) in listed {
                if let Some(name) = BaseName::parse(&image) {
                    let volume = images.by_volume.entry(name.volume_id.clone());
                    volume.or_default().push((name, id));
                }
            }
            images.is_stale = false;
        }
        images.listed = Some(Instant::now());
        Ok(())
    }

    async fn list(&self, pool: &Arc<Pool>, deadline: Deadline) -> Result<Vec<(String, String)>> {
        let pool = Arc::clone(pool);
        let name = pool.name.clone();
        let list = move || {
            // The images of a pool that was removed are none.
            pool.check()?;
            pool.images()
        };
        let threads = &self.session.threads;
        threads
            .run("list the images of the pool", &name, deadline, list)
            .await
    }

    async fn refresh(&self, volume: &mut Volume, volume_id: &str, now: bool) -> Result<()> {
        if self.is_fresh(volume.listed) && !volume.is_stale && !now {
            return Ok(());
        }
        let older = volume.listed.filter(|_| !now);
        let images = {
            let mut images = self.images.turn().await?;
            // What we have changed may be an image that is new, or gone.
            images.is_stale |= volume.is_stale;
            let refreshed = self.refresh_images(&mut images, now).await;
            images.note(refreshed)?;
            images.by_volume.get(volume_id).cloned().unwrap_or_default()
        };
        let known = &volume.known;
        let look =
            async |pool: &Arc<Pool>, deadline| self.look_all(pool, images, known, deadline).await;
        if let Some(looked) = self.ask(older, look).await? {
            let all = looked
                .iter()
                .flat_map(|(_, known)| known.found.iter().cloned());
            volume.found = all.collect();
            volume.known = looked.into_iter().collect();
        }
        volume.listed = Some(Instant::now());
        Ok(())
    }

    /// What these images say, several at a time.
    async fn look_all(
        &self,
        pool: &Arc<Pool>,
        images: Vec<(BaseName, String)>,
        known: &HashMap<String, Known>,
        deadline: Deadline,
    ) -> Result<Vec<(String, Known)>> {
        let mut waiting = images.into_iter();
        let mut looks = JoinSet::new();
        let mut looked = Vec::new();
        loop {
            while looks.len() < LOOKS
                && let Some((name, id)) = waiting.next()
            {
                let (session, pool) = (Arc::clone(&self.session), Arc::clone(pool));
                let known = known.get(&id).cloned();
                looks.spawn(async move {
                    let known = look_again(&session, &pool, &name, &id, known, deadline).await;
                    (id, known)
                });
            }
            let Some(joined) = looks.join_next().await else {
                break;
            };
            let (id, known) = joined.map_err(lost)?;
            match known {
                Ok(known) => looked.push((id, known)),
                // It was removed since the listing.
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        looked.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(looked)
    }
}

/// What an image says, unless it is what it has said before.
async fn look_again(
    session: &Session,
    pool: &Arc<Pool>,
    name: &BaseName,
    id: &str,
    known: Option<Known>,
    deadline: Deadline,
) -> Result<Known> {
    // Before it is read: what changes meanwhile gives it another one.
    let version = match id {
        // Nobody makes images of the first format any more.
        "" => 0,
        id => pool.version(&format!("rbd_header.{id}"), deadline).await?,
    };
    // Whether somebody writes to an image does not show in its version.
    let holds = |known: &Known| {
        let is_snap = |found: &Found| found.place.snap.is_some();
        let is_well = known.head != HeadState::InUse;
        known.version == version && is_well && !id.is_empty() && known.found.iter().any(is_snap)
    };
    match known {
        Some(known) if holds(&known) => Ok(known),
        known => {
            let (found, head) = look(session, pool, name, deadline).await?;
            let was_left = known.is_some_and(|known| known.head == HeadState::Left);
            if head == HeadState::Left && !was_left {
                tracing::warn!(
                    "the image {} was left changed by an unfinished backup: the next incremental \
                     backup that Cinder makes in it will be wrong, until `cinderfs gc --delete` \
                     has mended that",
                    name.image()
                );
            }
            Ok(Known {
                version,
                found,
                head,
            })
        }
    }
}

fn lost(e: impl std::fmt::Display) -> Error {
    let reason = format!("it ended by a fault of the program: {e}");
    Error::new(Kind::Unavailable, "finish", "a task of the daemon", reason)
        .advise("please report this as a bug")
}
