//! Whether a backup is there still, asked of the cluster after its data was read.
//!
//! librbd takes objects that are missing for zeros, and the cluster answers with newer data
//! what it is asked of a snapshot that is gone: when another program deletes a backup while
//! it is read, the bytes that arrive are wrong, and nothing says so. A snapshot is taken out
//! of its image, or renamed, before its data goes, and an image out of the directory of its
//! pool (since Ceph 14): what is still there afterwards was there before.

use super::cluster::Pool;
use super::failure::Deadline;
use super::image::Image;
use super::summary::Place;
use crate::error::{Error, Kind, Result};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// No name of a snapshot is longer.
const LONGEST_NAME: usize = 4096;

/// See the module's page.
#[derive(Debug)]
pub struct Witness {
    pool: Arc<Pool>,
    /// What is read, for messages.
    subject: String,
    place: Place,
    patience: Duration,
    /// When the last question was asked, and what came of it.
    last: Mutex<Option<(Instant, Result<()>)>>,
}

impl Witness {
    /// Watches over a backup.
    pub fn new(pool: &Arc<Pool>, subject: String, place: &Place, patience: Duration) -> Self {
        Self {
            pool: Arc::clone(pool),
            subject,
            place: place.clone(),
            patience,
            last: Mutex::default(),
        }
    }

    /// How long an answer is waited for.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// That what was read until now is the backup. Those who ask while a question is under
    /// way share the next one.
    ///
    /// # Errors
    /// `Unavailable` when it is gone, and those of the cluster.
    pub async fn confirm(&self) -> Result<()> {
        let came = Instant::now();
        let mut last = self.last.lock().await;
        if let Some((asked, answer)) = &*last
            && *asked > came
        {
            return answer.clone();
        }
        let asked = Instant::now();
        let answer = self.ask(Deadline::after(self.patience)).await;
        *last = Some((asked, answer.clone()));
        answer
    }

    async fn ask(&self, deadline: Deadline) -> Result<()> {
        let there = match (&self.place.image_id, &self.place.snap) {
            (Some(id), Some(snap)) => {
                let header = format!("rbd_header.{id}");
                let method = [c"rbd", c"get_snapshot_name"];
                let number = snap.id.to_le_bytes();
                let name = self
                    .pool
                    .call(&header, method, &number, LONGEST_NAME, deadline);
                name.await.map(|name| is_text(&name, &snap.name))
            }
            (Some(id), None) => leads_to(&self.pool, &self.place.image, Some(id), deadline).await,
            (None, snap) => {
                let snap = snap.as_ref().map(|snap| &*snap.name);
                let opened = Image::open(&self.pool, &self.place.image, snap, deadline).await;
                opened.map(|_| true)
            }
        };
        match there {
            Ok(true) => Ok(()),
            Err(e) if e.kind() != Kind::NotFound => Err(e),
            _ => {
                let subject = self.subject.as_str();
                let reason = "it was deleted while it was read";
                Err(Error::new(Kind::Unavailable, "read", subject, reason))
            }
        }
    }
}

/// Whether a name is that of the image with this id. Images of the first format have no id,
/// and count as the right one.
///
/// # Errors
/// Those of the cluster.
pub async fn leads_to(
    pool: &Arc<Pool>,
    image: &str,
    id: Option<&str>,
    deadline: Deadline,
) -> Result<bool> {
    let Some(id) = id else { return Ok(true) };
    match pool.read(&format!("rbd_id.{image}"), deadline).await {
        Err(e) if e.kind() == Kind::NotFound => Ok(false),
        found => found.map(|found| is_text(&found, id)),
    }
}

/// Whether that is a text as Ceph stores it: its length, and its bytes.
fn is_text(stored: &[u8], text: &str) -> bool {
    let length = u32::try_from(text.len()).ok().map(u32::to_le_bytes);
    let parts = stored.split_first_chunk::<4>();
    parts.is_some_and(|(first, rest)| Some(*first) == length && rest == text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_as_ceph_stores_them() {
        assert!(is_text(b"\x02\0\0\0ab", "ab"));
        assert!(is_text(b"\0\0\0\0", ""));
        for other in [
            &b"\x02\0\0\0ac"[..],
            b"\x02\0\0\0abc",
            b"\x03\0\0\0ab",
            b"ab",
            b"",
        ] {
            assert!(!is_text(other, "ab"));
        }
    }
}
