//! Publishing: the snapshot that is the backup, and what is said of it; and taking both back.
//!
//! A new image gets snapshot and note under a name that nobody takes for that of a backup,
//! and then its right name: that makes it exist. In an image that has its name already, a
//! note hides what is not published yet, and a change of that note, which happens at once or
//! not at all, makes it exist. When a backup is published anew, its note goes from the old
//! snapshot to the new one in the same way: whoever reads sees the one or the other. (Cinder,
//! which knows no notes, sees two snapshots for a moment, and refuses that.)

use super::cinders::give_back;
use super::image::{Image, Snap};
use super::summary::{Note, Place, bare, generation, note_key};
use super::target::Target;
use super::witness::leads_to;
use super::writer::{Published, RbdSink, State};
use crate::driver::{Backup, Description};
use crate::error::{Error, Kind, Result};
use crate::format::{SnapName, Timestamp, snap_name};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The snapshots of a backup that are not it.
pub fn strays(id: &str, snaps: &[Snap], notes: &BTreeMap<String, String>) -> Vec<Snap> {
    let note = Note::of(id, "", notes);
    let is_of = |snap: &&Snap| SnapName::parse(&snap.name).is_some_and(|name| name.backup_id == id);
    let own: Vec<Snap> = snaps.iter().filter(is_of).cloned().collect();
    let is_it = |snap: &Snap| Some(&snap.name) == note.snap.as_ref();
    match note.unfinished {
        true => own,
        // Of which one it is, nothing is said.
        false if !own.iter().any(is_it) => Vec::new(),
        false => own.into_iter().filter(|snap| !is_it(snap)).collect(),
    }
}

impl RbdSink {
    /// Lists a backup all of which is in the image.
    pub(super) async fn publish_complete(
        &self,
        state: &mut State,
        mut target: Target,
        size: u64,
        description: &Description,
    ) -> Result<Arc<Backup>> {
        if state.is_withdrawn {
            return Err(self.gone());
        }
        target.head.flush().await?;
        // Each is called something else: one that was not answered may be made yet.
        let at = self.created_at.to_micros().saturating_add(state.attempts);
        state.attempts += 1;
        let created_at = Timestamp::from_micros(at).unwrap_or(self.created_at);
        let name = snap_name(&self.backup_id, created_at);
        let parent = self.parent().cloned();
        let mut note = Note {
            name: Some(description.name.clone()),
            file: true,
            description: description.description.clone(),
            parent: parent.as_ref().map(|parent| parent.id.clone()),
            size: Some(size),
            snap: Some(name.clone()),
            ..Note::default()
        };
        if let Some(modified) = description.modified {
            note.set_modified(modified);
        }
        if target.is_listed && state.published.is_none() {
            let hidden = Note {
                unfinished: true,
                ..note.clone()
            };
            self.note(&target, &hidden).await?;
        }
        let before = state.published.as_ref().map(|before| before.snap.clone());
        let anew = before.is_some();
        let id = self.backup_id.clone();
        let make = move |image: &Image| {
            if let Some(before) = before
                && !image.snaps()?.contains(&before)
            {
                return Ok(None);
            }
            image.snap(&name)?;
            let made = image.snaps()?.into_iter().find(|snap| snap.name == name);
            made.map(Some).ok_or_else(|| {
                let reason = "its snapshot is not there, though it was just made";
                let subject = format!("backup {id}");
                Error::new(Kind::Unavailable, "publish", subject, reason)
            })
        };
        let had_late = std::mem::replace(&mut state.may_come_late, true);
        let made = target.head.run("make a snapshot of the image", make).await;
        // What was not answered may be made yet.
        let is_open = |e: &Error| matches!(e.kind(), Kind::TimedOut | Kind::Unavailable);
        state.may_come_late = had_late || made.as_ref().is_err_and(is_open);
        let snap = made?.ok_or_else(|| self.gone())?;
        if let Err(e) = self.note(&target, &note).await
            && !self.is_noted(&target, &note).await
        {
            return Err(e);
        }
        if target.is_listed && !self.is_called(&target).await? {
            return Err(self.gone());
        }
        if !target.is_listed {
            self.give_name(&mut target).await?;
        }
        // From here on it is published, and nothing may fail any more.
        state.published = Some(Published {
            snap: snap.clone(),
            size,
        });
        let may_have_strays = anew || state.attempts > 1;
        if may_have_strays && let Err(e) = self.clear_strays(&target, &snap, size).await {
            tracing::warn!("backup {}: {e}", self.backup_id);
        }
        match target.is_own {
            true => self.stand_alone(state),
            false => self.give_back(&target, state).await,
        }
        let place = Place {
            image: target.image.clone(),
            image_id: target.image_id.clone(),
            snap: Some(snap),
        };
        let depth = parent.map_or(0, |parent| parent.depth.saturating_add(1));
        let pool = self.shared.session.pool_name();
        self.shared.catalog.changed(&self.name.volume_id).await;
        Ok(Arc::new(Backup {
            size,
            created_at: Some(created_at),
            depth,
            generation: generation(&place),
            ..bare(&self.name, &self.backup_id, pool, &target.image, &note)
        }))
    }

    fn gone(&self) -> Error {
        let subject = format!("backup {}", self.backup_id);
        let reason = "another program has deleted it while it was written";
        Error::new(Kind::NotFound, "publish", subject, reason)
    }

    async fn note(&self, target: &Target, note: &Note) -> Result<()> {
        let (key, text) = (note_key(&self.backup_id), note.text());
        let note = move |image: &Image| image.note(&key, &text);
        target
            .head
            .run("write the metadata of the image", note)
            .await
    }

    /// Whether it is noted already: that may have been done without an answer.
    async fn is_noted(&self, target: &Target, note: &Note) -> bool {
        let (key, text) = (note_key(&self.backup_id), note.text());
        let look = move |image: &Image| Ok(image.notes()?.get(&key) == Some(&text));
        let noted = target.head.run("read the metadata of the image", look);
        noted.await.unwrap_or(false)
    }

    /// Whether the image is still called what it was: who deletes its last backup gives it
    /// another name.
    async fn is_called(&self, target: &Target) -> Result<bool> {
        let session = &self.shared.session;
        let pool = session.pool().await?;
        leads_to(
            &pool,
            &target.image,
            target.image_id.as_deref(),
            session.deadline(),
        )
        .await
    }

    /// Gives a new image the name that makes its backup exist.
    async fn give_name(&self, target: &mut Target) -> Result<()> {
        const OP: &str = "rename the image";
        let session = &self.shared.session;
        let pool = session.pool().await?;
        let (from, to) = (target.image.clone(), self.name.image());
        let (within, name) = (Arc::clone(&pool), to.clone());
        let rename = move || within.rename_image(&from, &name);
        let run = session
            .threads
            .run(OP, &target.image, session.deadline(), rename);
        if let Err(e) = run.await {
            // It may have been done without an answer.
            let found = Image::open(&pool, &to, None, session.deadline()).await;
            let id = found.and_then(|image| image.id());
            if id.ok() != target.image_id {
                return Err(e);
            }
        }
        target.renamed(to, true);
        if let Some(own) = self.lock_target().as_mut() {
            own.clone_from(target);
        }
        Ok(())
    }

    /// Removes snapshots that were made of this backup, and are not the one that it is to be,
    /// whatever another program has noted meanwhile.
    pub(super) async fn clear_strays(&self, target: &Target, it: &Snap, size: u64) -> Result<()> {
        let (id, it) = (self.backup_id.clone(), it.clone());
        let clear = move |image: &Image| {
            let snaps = image.snaps()?;
            if !snaps.contains(&it) {
                return Ok(());
            }
            let noted = Note::of(&id, "", &image.notes()?);
            let note = Note {
                size: Some(size),
                snap: Some(it.name.clone()),
                unfinished: false,
                ..noted.clone()
            };
            if note != noted {
                image.note(&note_key(&id), &note.text())?;
            }
            let is_of =
                |snap: &&Snap| SnapName::parse(&snap.name).is_some_and(|name| name.backup_id == id);
            for stray in snaps.iter().filter(is_of).filter(|snap| snap.id != it.id) {
                image.remove_snap(&stray.name)?;
            }
            Ok(())
        };
        let op = "remove old snapshots of the image";
        target.head.run(op, clear).await
    }

    /// Gives the head back what Cinder takes it for, if it has backups in this image.
    async fn give_back(&self, target: &Target, state: &mut State) {
        // Even if it fails, nobody knows what the head is then.
        state.is_away = true;
        let back = give_back(&self.shared.session, &target.head, &target.image).await;
        match back {
            Ok(is_cinders) => state.is_away = is_cinders,
            Err(e) => tracing::warn!(
                "backup {} is finished; but the next incremental backup that Cinder makes in the \
                 image {} will be wrong, until `cinderfs gc --delete` has mended that, or another \
                 one was made here: {e}",
                self.backup_id,
                target.image
            ),
        }
    }

    /// Leaves an image of others as it was before it was written to: nothing of this backup
    /// that is not published stays in its head.
    pub(super) async fn leave(&self, target: &Target, state: &mut State) {
        state.is_away = true;
        let own = self.backup_id.clone();
        let keeps_own = state.published.is_some() && !state.is_discarded;
        let newest = move |image: &Image| {
            let snaps = image.snaps()?;
            let is_kept = |snap: &&Snap| {
                let name = SnapName::parse(&snap.name);
                name.is_some_and(|name| keeps_own || name.backup_id != own)
            };
            Ok(snaps.iter().rev().find(is_kept).cloned())
        };
        let run = async {
            if give_back(&self.shared.session, &target.head, &target.image).await? {
                return Ok(());
            }
            let snap = target.head.run("list the snapshots of the image", newest);
            match snap.await? {
                Some(snap) => target.head.go_back_to(&target.image, &snap).await,
                None => Ok(()),
            }
        };
        if let Err(e) = run.await {
            tracing::warn!(
                "backup {}: what was written of it stays in the head of the image {}, and in no \
                 backup, until `cinderfs gc --delete` or the next backup there: {e}",
                self.backup_id,
                target.image
            );
        }
    }

    /// The backup does not exist any more; what was written stays until it is discarded.
    ///
    /// # Errors
    /// Those of the cluster.
    pub async fn withdraw(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        state.is_withdrawn = true;
        let Ok(mut target) = self.target() else {
            return Ok(());
        };
        if state.published.is_some() {
            self.hide(&mut target).await?;
        }
        self.shared.catalog.changed(&self.name.volume_id).await;
        Ok(())
    }

    /// Takes back what makes it exist.
    async fn hide(&self, target: &mut Target) -> Result<()> {
        if !target.is_listed {
            return Ok(());
        }
        if !target.is_own {
            let id = self.backup_id.clone();
            let hide = move |image: &Image| {
                let note = Note {
                    unfinished: true,
                    ..Note::of(&id, "", &image.notes()?)
                };
                image.note(&note_key(&id), &note.text())?;
                for stray in strays(&id, &image.snaps()?, &image.notes()?) {
                    image.remove_snap(&stray.name)?;
                }
                Ok(())
            };
            return target.head.run("take back the backup in", hide).await;
        }
        let (image, leftover) = (target.image.clone(), super::delete::leftover(&self.name));
        super::delete::rename(&self.shared, &image, &leftover).await?;
        target.renamed(leftover, false);
        if let Some(own) = self.lock_target().as_mut() {
            own.clone_from(target);
        }
        Ok(())
    }

    /// Removes all of it, published or not.
    pub(super) async fn discard_all(&self, state: &mut State, mut target: Target) -> Result<()> {
        state.is_discarded = true;
        if target.is_own {
            if let Err(e) = self.hide(&mut target).await
                && e.kind() != Kind::NotFound
            {
                return Err(e);
            }
            let image = target.image.clone();
            drop(target);
            if !super::delete::clear_away(&self.shared, &image).await? {
                let reason = "another program has it open";
                let op = "remove the image";
                return Err(Error::new(Kind::Dependents, op, image, reason)
                    .advise("see `rbd status` for who that is; `cinderfs gc` finds it later"));
            }
            return Ok(());
        }
        self.discard_from(state, target).await
    }

    /// Removes all of it from an image of others.
    async fn discard_from(&self, state: &mut State, mut target: Target) -> Result<()> {
        // First of all what others could build on.
        self.leave(&target, state).await;
        self.hide(&mut target).await?;
        if state.may_come_late {
            // The note hides the snapshot when it comes, and `gc` finds both.
            return Ok(());
        }
        let key = note_key(&self.backup_id);
        let forget = move |image: &Image| image.forget_note(&key);
        target
            .head
            .run("write the metadata of the image", forget)
            .await
    }
}
