//! An RBD image, open at its head or at a snapshot. What changes it is in [`super::write`].

use super::cluster::{Pool, Shared, c_text, of_library, until_zero};
use super::completion::{Maker, Outcome, begin, end};
use super::failure::{Deadline, check};
use super::library::{Handle, Library, SnapInfo, Watcher};
use super::threads::leave;
use crate::error::Result;
use crate::task::aside;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_int};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `RBD_FEATURE_FAST_DIFF`
const FAST_DIFF: u64 = 1 << 4;
/// `RBD_FLAG_FAST_DIFF_INVALID`
pub const FAST_DIFF_INVALID: u64 = 1 << 1;
/// `RBD_MAX_IMAGE_ID_LENGTH` and room for more.
const LONGEST_ID: usize = 256;
/// Nobody has so many snapshots, or so many who watch an image, or so much metadata.
const MOST: usize = 1 << 20;

/// A snapshot of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snap {
    /// Its number: later ones have larger numbers.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Size of the image then, in bytes.
    pub size: u64,
}

/// See the module's page. It closes itself when nobody uses it any more.
pub struct Image {
    pub(super) pool: Arc<Pool>,
    pub(super) handle: Handle,
    /// For messages.
    pub(super) name: String,
    is_writable: bool,
}

// SAFETY: librbd lets any thread use an image, several at a time; what changes which snapshot
// an open image is at is never called.
unsafe impl Send for Image {}
// SAFETY: as above.
unsafe impl Sync for Image {}

impl Image {
    /// Opens an image at its head, or at the snapshot of that name.
    ///
    /// # Errors
    /// `NotFound`, and those of the cluster.
    pub async fn open(
        pool: &Arc<Pool>,
        name: &str,
        snap: Option<&str>,
        deadline: Deadline,
    ) -> Result<Self> {
        Self::open_as(pool, name, snap, false, deadline).await
    }

    /// Opens an image at its head, for writing: others see that it is in use.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub async fn open_writable(pool: &Arc<Pool>, name: &str, deadline: Deadline) -> Result<Self> {
        Self::open_as(pool, name, None, true, deadline).await
    }

    async fn open_as(
        pool: &Arc<Pool>,
        name: &str,
        snap: Option<&str>,
        is_writable: bool,
        deadline: Deadline,
    ) -> Result<Self> {
        const OP: &str = "open the image";
        struct Opening {
            pool: Arc<Pool>,
            text: CString,
            snap: Option<CString>,
            name: String,
            handle: Handle,
            is_writable: bool,
        }
        // SAFETY: a handle may be used by any thread.
        unsafe impl Send for Opening {}
        let opening = Opening {
            pool: Arc::clone(pool),
            text: c_text(OP, name)?,
            snap: snap.map(|snap| c_text(OP, snap)).transpose()?,
            name: name.to_owned(),
            handle: std::ptr::null_mut(),
            is_writable,
        };
        let library = pool.library();
        let finish = |_: &'static Library, outcome: Outcome, opening: Opening| {
            // What was opened has an owner from here on, whoever still waits for it.
            check(OP, &opening.name, outcome.code).map(|_| Self {
                pool: opening.pool,
                handle: opening.handle,
                name: opening.name,
                is_writable: opening.is_writable,
            })
        };
        // SAFETY: the texts and the handle are in the payload or owned by it, and so is the
        // pool.
        let begun = unsafe {
            begin(
                library,
                Maker::Rbd,
                opening,
                finish,
                |completion, opening| {
                    let handle = &raw mut (*opening).handle;
                    let Opening {
                        pool, text, snap, ..
                    } = &*opening;
                    let snap = snap.as_ref().map_or(std::ptr::null(), |snap| snap.as_ptr());
                    let (io, name) = (pool.handle(), text.as_ptr());
                    let open = match is_writable {
                        true => library.rbd.rbd_aio_open,
                        false => library.rbd.rbd_aio_open_read_only,
                    };
                    open(io, name, handle, snap, completion)
                },
            )
        };
        end(OP, name, deadline, begun).await?
    }

    pub(super) fn library(&self) -> &'static Library {
        self.pool.library()
    }

    /// Its size, at the snapshot that it is open at.
    ///
    /// # Errors
    /// Those of the library.
    pub fn size(&self) -> Result<u64> {
        let mut size = 0;
        // SAFETY: the image is open, and the number is written to.
        let told = unsafe { (self.library().rbd.rbd_get_size)(self.handle, &raw mut size) };
        check("tell the size of the image", &self.name, told)?;
        Ok(size)
    }

    /// Whether it is of the first format, which nobody makes any more.
    ///
    /// # Errors
    /// Those of the library.
    pub fn is_old(&self) -> Result<bool> {
        let mut old = 0_u8;
        // SAFETY: the image is open, and the number is written to.
        let told = unsafe { (self.library().rbd.rbd_get_old_format)(self.handle, &raw mut old) };
        check("tell the format of the image", &self.name, told)?;
        Ok(old != 0)
    }

    /// Its id, which no other image of the pool ever has. Those of the first format have
    /// none.
    ///
    /// # Errors
    /// Those of the library.
    pub fn id(&self) -> Result<String> {
        let mut text = [0_u8; LONGEST_ID];
        // SAFETY: the image is open, and no more bytes are written than there are.
        let told = unsafe {
            (self.library().rbd.rbd_get_id)(self.handle, text.as_mut_ptr().cast(), text.len())
        };
        check("tell the id of the image", &self.name, told)?;
        Ok(until_zero(&text))
    }

    /// When it was made, as far as that is known.
    pub fn created_at(&self) -> Option<SystemTime> {
        let mut time = NO_TIME;
        // SAFETY: the image is open, and the time is written to.
        let told =
            unsafe { (self.library().rbd.rbd_get_create_timestamp)(self.handle, &raw mut time) };
        (told >= 0).then(|| time_of(&time)).flatten()
    }

    /// When a snapshot was made, as far as that is known.
    pub fn snapped_at(&self, snap: u64) -> Option<SystemTime> {
        let mut time = NO_TIME;
        // SAFETY: the image is open, and the time is written to.
        let told = unsafe {
            (self.library().rbd.rbd_snap_get_timestamp)(self.handle, snap, &raw mut time)
        };
        (told >= 0).then(|| time_of(&time)).flatten()
    }

    /// Whether the library knows, without asking for every single object, which objects
    /// there are.
    ///
    /// # Errors
    /// Those of the library.
    pub fn has_fast_diff(&self) -> Result<bool> {
        let mut features = 0;
        // SAFETY: the image is open, and the number is written to.
        let told = unsafe { (self.library().rbd.rbd_get_features)(self.handle, &raw mut features) };
        check("tell the features of the image", &self.name, told)?;
        Ok(features & FAST_DIFF != 0 && self.flags()? & FAST_DIFF_INVALID == 0)
    }

    /// What is wrong with what it knows of its objects: `RBD_FLAG_...`.
    ///
    /// # Errors
    /// Those of the library.
    pub fn flags(&self) -> Result<u64> {
        let mut flags = 0;
        // SAFETY: the image is open, and the number is written to.
        let told = unsafe { (self.library().rbd.rbd_get_flags)(self.handle, &raw mut flags) };
        check("tell the flags of the image", &self.name, told)?;
        Ok(flags)
    }

    /// How much of it, from its beginning, shows what its parent has where it has nothing
    /// itself; 0 for what is no clone. At the snapshot that it is open at.
    ///
    /// # Errors
    /// Those of the library.
    pub fn overlap(&self) -> Result<u64> {
        let mut overlap = 0;
        // SAFETY: the image is open, and the number is written to.
        let told = unsafe { (self.library().rbd.rbd_get_overlap)(self.handle, &raw mut overlap) };
        check("tell the parent of the image", &self.name, told)?;
        Ok(overlap)
    }

    /// All snapshots that users have made, the oldest first, as they were when the image was
    /// opened.
    ///
    /// # Errors
    /// Those of the library.
    pub fn snaps(&self) -> Result<Vec<Snap>> {
        const OP: &str = "list the snapshots of the image";
        let rbd = &self.library().rbd;
        let mut room = 64;
        loop {
            let none = SnapInfo {
                id: 0,
                size: 0,
                name: std::ptr::null(),
            };
            let mut infos = vec![none; room];
            let mut most = c_int::try_from(room).unwrap_or(c_int::MAX);
            // SAFETY: the image is open; no more entries are written than `most` says.
            let listed =
                unsafe { (rbd.rbd_snap_list)(self.handle, infos.as_mut_ptr(), &raw mut most) };
            if listed == -libc::ERANGE && room < MOST {
                room = usize::try_from(most).unwrap_or(0).max(room * 2);
                continue;
            }
            let count = check(OP, &self.name, listed)?;
            let written = infos.get(..usize::try_from(count).unwrap_or(0));
            let written = written.unwrap_or_default().iter();
            let mut snaps: Vec<Snap> = written
                .map(|info| Snap {
                    id: info.id,
                    size: info.size,
                    // SAFETY: the library has written the entry, with a text of its own.
                    name: unsafe { of_library(info.name) },
                })
                .collect();
            if count > 0 {
                // SAFETY: they are freed once, and not used afterwards. The end of the list is
                // an entry without a name, for which there was room.
                unsafe { (rbd.rbd_snap_list_end)(infos.as_mut_ptr()) };
            }
            snaps.sort_by_key(|snap| snap.id);
            return Ok(snaps);
        }
    }

    /// Whether a program has it open for writing. Blocks.
    ///
    /// # Errors
    /// Those of the cluster.
    pub fn is_watched(&self) -> Result<bool> {
        Ok(self.watchers()? > 0)
    }

    /// How often it is open for writing, by us or by others. Blocks.
    ///
    /// # Errors
    /// Those of the cluster.
    pub fn watchers(&self) -> Result<usize> {
        const OP: &str = "see who uses the image";
        let rbd = &self.library().rbd;
        let none = Watcher {
            address: std::ptr::null_mut(),
            id: 0,
            cookie: 0,
        };
        let mut watchers = vec![none; 64];
        let mut count = watchers.len();
        // SAFETY: the image is open; no more entries are written than `count` says.
        let listed =
            unsafe { (rbd.rbd_watchers_list)(self.handle, watchers.as_mut_ptr(), &raw mut count) };
        if listed == -libc::ERANGE {
            return Ok(count);
        }
        check(OP, &self.name, listed)?;
        let written = count.min(watchers.len());
        // SAFETY: they are freed once, and not used afterwards.
        unsafe { (rbd.rbd_watchers_list_cleanup)(watchers.as_mut_ptr(), written) };
        Ok(written)
    }

    /// What users and programs have noted of it. Blocks.
    ///
    /// # Errors
    /// Those of the cluster.
    pub fn notes(&self) -> Result<BTreeMap<String, String>> {
        const OP: &str = "read the metadata of the image";
        let rbd = &self.library().rbd;
        let mut room = [4096, 64 << 10];
        loop {
            let (mut keys, mut values) = (vec![0_u8; room[0]], vec![0_u8; room[1]]);
            let [mut keys_length, mut values_length] = room;
            // SAFETY: the image is open; no more bytes are written than the lengths say.
            let listed = unsafe {
                (rbd.rbd_metadata_list)(
                    self.handle,
                    c"".as_ptr(),
                    0,
                    keys.as_mut_ptr().cast(),
                    &raw mut keys_length,
                    values.as_mut_ptr().cast(),
                    &raw mut values_length,
                )
            };
            let needed = [keys_length, values_length];
            if listed == -libc::ERANGE
                && room != needed
                && needed.iter().all(|all| *all < 64 * MOST)
            {
                room = [keys_length.max(room[0]), values_length.max(room[1])];
                continue;
            }
            check(OP, &self.name, listed)?;
            keys.truncate(keys_length);
            values.truncate(values_length);
            return Ok(texts(&keys).zip(texts(&values)).collect());
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let (pool, handle) = (Arc::clone(&self.pool), Shared(self.handle));
        let close = move || {
            let handle = handle;
            // SAFETY: nobody has the image any more, and its pool is there still.
            unsafe { (pool.library().rbd.rbd_close)(handle.0) };
        };
        // It waits for what is under way, and may be called from a callback. Should the
        // program end before an image that can be written to is closed, the cluster would
        // take it for in use for another half minute.
        match self.is_writable {
            true => aside(close),
            false => leave(close),
        }
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({} in {:?})", self.name, self.pool)
    }
}

pub(super) const NO_TIME: libc::timespec = libc::timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

pub(super) fn time_of(time: &libc::timespec) -> Option<SystemTime> {
    let seconds = Duration::from_secs(u64::try_from(time.tv_sec).ok()?);
    let nanos = Duration::from_nanos(u64::try_from(time.tv_nsec).ok()?);
    let since = seconds.checked_add(nanos)?;
    // Images of old clusters have none: 1970.
    UNIX_EPOCH.checked_add(since).filter(|_| !seconds.is_zero())
}

/// Texts of which each ends in a zero.
fn texts(bytes: &[u8]) -> impl Iterator<Item = String> {
    bytes
        .split_inclusive(|byte| *byte == 0)
        .map(|text| CStr::from_bytes_until_nul(text).unwrap_or_default())
        .map(|text| text.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_end_in_zeros() {
        let all: Vec<String> = texts(b"a\0\0bc\0").collect();
        assert_eq!(all, ["a", "", "bc"]);
    }
}
