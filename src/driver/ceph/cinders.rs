//! The heads of images in which Cinder has backups, too.
//!
//! Cinder puts its next increment on top of a head without looking at it: what an unfinished
//! backup of ours has left there would become a part of Cinder's. So a note says that a head
//! is not what Cinder takes it for, from before its first change until it is that again: what
//! a crash leaves is seen, and `gc` mends it.

use super::Shared;
use super::failure::Deadline;
use super::head::Head;
use super::image::{Image, Snap};
use super::session::Session;
use super::summary::Note;
use crate::error::{Error, Kind, Result};
use crate::format::SnapName;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the note is kept under.
pub const KEY: &str = "cinderfs.head";
/// Snapshots that Cinder may delete while the head goes back to them.
const TRIES: u32 = 5;

/// The newest snapshot that is a backup of Cinder's own, if there is one.
fn newest(snaps: &[Snap], notes: &BTreeMap<String, String>) -> Option<Snap> {
    let is_cinders = |snap: &&Snap| {
        let name = SnapName::parse(&snap.name);
        name.is_some_and(|name| {
            let note = Note::of(&name.backup_id, "", notes);
            !note.is_ours() && !note.unfinished
        })
    };
    snaps.iter().rev().find(is_cinders).cloned()
}

/// Whether the head is noted to be something else than Cinder takes it for.
pub fn is_changed(notes: &BTreeMap<String, String>) -> bool {
    notes.contains_key(KEY)
}

/// Notes that the head is about to be changed, where that matters to Cinder. Blocks.
///
/// # Errors
/// Those of the cluster.
pub fn begin_change(image: &Image) -> Result<()> {
    let notes = image.notes()?;
    if is_changed(&notes) || newest(&image.snaps()?, &notes).is_none() {
        return Ok(());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = now.map_or(0, |since| since.as_secs());
    let note = serde_json::json!({"changed": true, "since": since});
    image.note(KEY, &note.to_string())
}

/// The newest one of an image as it is now: an image that is open may not know yet.
async fn newest_now(session: &Session, name: &str) -> Result<Option<Snap>> {
    let pool = session.pool().await?;
    let image = Image::open(&pool, name, None, session.deadline()).await?;
    let find = move || Ok(newest(&image.snaps()?, &image.notes()?));
    let op = "list the snapshots of the image";
    session
        .threads
        .run(op, name, session.deadline(), find)
        .await
}

/// Gives a head back what Cinder takes it for: that of its newest backup in this image, and
/// forgets the note. `false`: Cinder has none in it.
///
/// # Errors
/// Those of the cluster. The note stays then.
pub async fn give_back(session: &Session, head: &Arc<Head>, name: &str) -> Result<bool> {
    let mut tries = 0;
    let is_there = loop {
        let Some(snap) = newest_now(session, name).await? else {
            break false;
        };
        let back = head.go_back_to(name, &snap).await;
        tries += 1;
        match back {
            Err(e) if e.kind() == Kind::NotFound && tries < TRIES => continue,
            other => other?,
        }
        // Cinder may have deleted it, or made another one.
        if newest_now(session, name).await?.as_ref() == Some(&snap) {
            break true;
        }
        if tries >= TRIES {
            let reason = "its snapshots change while it is looked at";
            let op = "give back the head of";
            return Err(Error::new(Kind::Unavailable, op, name, reason).advise("try again"));
        }
    };
    let forget = |image: &Image| match is_changed(&image.notes()?) {
        true => image.forget_note(KEY),
        false => Ok(()),
    };
    head.run("write the metadata of the image", forget).await?;
    Ok(is_there)
}

/// Mends a head that an unfinished backup has left changed. `false`: somebody uses the image.
///
/// # Errors
/// Those of the cluster.
pub async fn mend(shared: &Shared, name: &str) -> Result<bool> {
    let session = &shared.session;
    let pool = session.pool().await?;
    let image = Image::open_writable(&pool, name, session.deadline()).await?;
    let lock = move || {
        if image.watchers()? > 1 {
            return Ok(None);
        }
        match image.lock() {
            Err(e) if e.kind() == Kind::Dependents => return Ok(None),
            other => other?,
        }
        let size = image.size()?;
        Ok(Some((image, size)))
    };
    let deadline: Deadline = session.deadline();
    let run = session.threads.run("lock the image", name, deadline, lock);
    let Some((image, size)) = run.await? else {
        return Ok(false);
    };
    let head = Head::new(session, Arc::new(image), size);
    give_back(session, &head, name).await?;
    Ok(true)
}
