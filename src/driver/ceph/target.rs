//! The image that a backup is being written to: one of its own, which is called a backup only
//! once it is one, or the one that its parent is a snapshot of.

use super::Shared;
use super::head::{Head, whole_size};
use super::image::Image;
use crate::error::{Error, Kind, Result};
use crate::format::{BaseName, writing_image};
use std::ops::Range;
use std::sync::Arc;

/// See the module's page.
#[derive(Clone)]
pub struct Target {
    pub head: Arc<Head>,
    /// What it is called now.
    pub image: String,
    /// Its id; `None` for one of the first format.
    pub image_id: Option<String>,
    /// There are no other backups in it.
    pub is_own: bool,
    /// It is called as images are that hold backups.
    pub is_listed: bool,
    /// Where it may hold data that we have not written: ranges in order.
    data: Arc<[Range<u64>]>,
}

impl Target {
    /// A new image, for a backup of that name.
    ///
    /// # Errors
    /// `Invalid` for volumes that no image can be named after; those of the cluster.
    pub async fn new(shared: &Shared, name: &BaseName) -> Result<Self> {
        const OP: &str = "back up";
        let volume = &name.volume_id;
        let final_name = name.image();
        if volume.contains(['/', '@']) || BaseName::parse(&final_name).as_ref() != Some(name) {
            let reason = "its id cannot be a part of the name of an image in Ceph";
            let subject = format!("volume {}", volume.escape_debug());
            return Err(Error::new(Kind::Invalid, OP, subject, reason));
        }
        let session = &shared.session;
        let pool = session.pool().await?;
        let image = writing_image(name);
        let size = whole_size(0);
        let (making, called, within) = (shared.making, image.clone(), Arc::clone(&pool));
        let make = move || within.make_image(&called, size, making);
        session
            .threads
            .run("make the image", &image, session.deadline(), make)
            .await?;
        let opened = Image::open_writable(&pool, &image, session.deadline()).await?;
        let lock = move || {
            opened.lock()?;
            let id = opened.id()?;
            Ok((opened, id))
        };
        let (opened, id) = session
            .threads
            .run("lock the image", &image, session.deadline(), lock)
            .await?;
        Ok(Self {
            head: Head::new(session, Arc::new(opened), size),
            image,
            image_id: Some(id),
            is_own: true,
            is_listed: false,
            data: Arc::new([]),
        })
    }

    /// One that holds other backups, locked, with data at most there.
    pub fn of_others(
        head: Arc<Head>,
        image: &str,
        image_id: Option<String>,
        data: Vec<Range<u64>>,
    ) -> Self {
        Self {
            head,
            image: image.to_owned(),
            image_id,
            is_own: false,
            is_listed: true,
            data: data.into(),
        }
    }

    /// Whether a range may hold data that we have not written.
    pub fn may_hold(&self, range: &Range<u64>) -> bool {
        let index = self.data.partition_point(|data| data.end <= range.start);
        let next = self.data.get(index);
        next.is_some_and(|data| data.start < range.end)
    }

    /// The numbers of the chunks of that size that may.
    pub fn chunks_with_data(&self, chunk_size: u64) -> impl Iterator<Item = u64> + '_ {
        let chunks =
            move |range: &Range<u64>| range.start / chunk_size..range.end.div_ceil(chunk_size);
        self.data.iter().flat_map(chunks)
    }

    /// The head was made something else: it holds data at most there.
    pub fn set_data(&mut self, data: Vec<Range<u64>>) {
        self.data = data.into();
    }

    /// It is called something else.
    pub fn renamed(&mut self, image: String, is_listed: bool) {
        (self.image, self.is_listed) = (image, is_listed);
    }
}
