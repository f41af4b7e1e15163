//! What changes an RBD image that is open for writing, and what changes the images of a pool.

use super::cluster::{Pool, c_text};
use super::completion::{Maker, begin, end};
use super::failure::{Deadline, check};
use super::image::{Image, NO_TIME, time_of};
use super::library::Handle;
use crate::config::Striping;
use crate::error::{Error, Kind, Result};
use bytes::Bytes;
use std::ffi::{c_char, c_int, c_void};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::SystemTime;

/// `RBD_LOCK_MODE_EXCLUSIVE`
const EXCLUSIVE: c_int = 0;
/// `RBD_FEATURE_LAYERING`
const LAYERING: u64 = 1 << 0;
/// `RBD_FEATURE_STRIPINGV2`
const STRIPING: u64 = 1 << 1;
/// `RBD_FEATURE_EXCLUSIVE_LOCK`
const EXCLUSIVE_LOCK: u64 = 1 << 2;
/// `RBD_FEATURE_OBJECT_MAP`
const OBJECT_MAP: u64 = 1 << 3;
/// `RBD_FEATURE_FAST_DIFF`
const FAST_DIFF: u64 = 1 << 4;
/// `RBD_FEATURE_JOURNALING`
const JOURNALING: u64 = 1 << 6;
/// `RBD_IMAGE_OPTION_FORMAT` and its neighbours.
const OPTION_FORMAT: c_int = 0;
const OPTION_FEATURES: c_int = 1;
const OPTION_STRIPE_UNIT: c_int = 3;
const OPTION_STRIPE_COUNT: c_int = 4;

/// How new images are made: as Cinder makes them. The size of their objects is the cluster's
/// default, whatever `backup_ceph_chunk_size` says, which is how much Cinder copies at a time.
#[derive(Debug, Clone, Copy)]
pub struct Making {
    /// How they are striped.
    pub striping: Option<Striping>,
    /// Whether they keep a journal.
    pub journals: bool,
}

impl Making {
    fn features(self) -> u64 {
        let mut features = LAYERING | EXCLUSIVE_LOCK | OBJECT_MAP | FAST_DIFF;
        if self.striping.is_some() {
            features |= STRIPING;
        }
        if self.journals {
            features |= JOURNALING;
        }
        features
    }
}

/// What an operation on a range of an image uses.
struct Change {
    image: Arc<Image>,
    data: Bytes,
}

impl Image {
    /// Writes `data` at `offset`, which must lie within the image. Durable when it returns.
    ///
    /// # Errors
    /// `NoSpace`; those of the cluster.
    pub async fn write(self: &Arc<Self>, offset: u64, data: Bytes, until: Deadline) -> Result<()> {
        let call = |image: &Self, data: &Bytes, completion| {
            let write = image.library().rbd.rbd_aio_write;
            // SAFETY: as `change` has it: image and data stay as they are until the end.
            unsafe {
                write(
                    image.handle,
                    offset,
                    data.len(),
                    data.as_ptr().cast(),
                    completion,
                )
            }
        };
        self.change("write to the image", data, until, call).await
    }

    /// Gives up a range: it may read as zero afterwards, but what is less than some larger
    /// piece may stay as it is.
    ///
    /// # Errors
    /// Those of the cluster.
    pub async fn discard(self: &Arc<Self>, range: Range<u64>, until: Deadline) -> Result<()> {
        let (offset, length) = (range.start, range.end.saturating_sub(range.start));
        let call = |image: &Self, _: &Bytes, completion| {
            // SAFETY: as `change` has it.
            unsafe {
                (image.library().rbd.rbd_aio_discard)(image.handle, offset, length, completion)
            }
        };
        let op = "make a part zero of the image";
        self.change(op, Bytes::new(), until, call).await
    }

    /// Waits until all that was written is durable.
    ///
    /// # Errors
    /// Those of the cluster.
    pub async fn flush(self: &Arc<Self>, until: Deadline) -> Result<()> {
        let call = |image: &Self, _: &Bytes, completion| {
            // SAFETY: as `change` has it.
            unsafe { (image.library().rbd.rbd_aio_flush)(image.handle, completion) }
        };
        self.change("make durable the image", Bytes::new(), until, call)
            .await
    }

    /// `call` hands the completion, and nothing else but the image and the data, to the
    /// library.
    async fn change(
        self: &Arc<Self>,
        op: &'static str,
        data: Bytes,
        until: Deadline,
        call: impl FnOnce(&Self, &Bytes, Handle) -> c_int,
    ) -> Result<()> {
        let image = Arc::clone(self);
        let change = Change { image, data };
        // SAFETY: image and data are owned by the payload, and stay as they are until the
        // end.
        let begun = unsafe {
            begin(
                self.library(),
                Maker::Rbd,
                change,
                |_, outcome, change| {
                    // The last one to have it does not close it here: see `drop`.
                    drop(change.image);
                    outcome.code
                },
                |completion, change: *mut Change| {
                    let Change { image, data } = &*change;
                    call(image, data, completion)
                },
            )
        };
        let code = end(op, &self.name, until, begun).await?;
        check(op, &self.name, code).map(drop)
    }

    /// Takes the exclusive lock, and keeps it from all others until the image is closed. The
    /// lock of a client that is dead is broken. Blocks.
    ///
    /// # Errors
    /// `Dependents` while another program has it; `Unsupported` for an image without locks.
    pub fn lock(&self) -> Result<()> {
        const OP: &str = "lock the image";
        // SAFETY: the image is open.
        let locked = unsafe { (self.library().rbd.rbd_lock_acquire)(self.handle, EXCLUSIVE) };
        if locked == -libc::EINVAL {
            let reason = "it was made without the feature exclusive-lock";
            return Err(Error::new(Kind::Unsupported, OP, &self.name, reason));
        }
        check(OP, &self.name, locked).map(drop)
    }

    /// Gives it another size, in bytes. Blocks.
    ///
    /// # Errors
    /// Those of the cluster.
    pub fn resize(&self, size: u64) -> Result<()> {
        // SAFETY: the image is open.
        let resized = unsafe { (self.library().rbd.rbd_resize)(self.handle, size) };
        check("resize the image", &self.name, resized).map(drop)
    }

    /// Makes a snapshot of its head. Blocks.
    ///
    /// # Errors
    /// `Exists`; those of the cluster.
    pub fn snap(&self, name: &str) -> Result<()> {
        const OP: &str = "make a snapshot of the image";
        let text = c_text(OP, name)?;
        // SAFETY: the image is open, the text ends in a zero and outlives the call.
        let made = unsafe { (self.library().rbd.rbd_snap_create)(self.handle, text.as_ptr()) };
        check(OP, &self.name, made).map(drop)
    }

    /// Removes a snapshot, if it is there. Blocks.
    ///
    /// # Errors
    /// `Dependents` when it is in use; those of the cluster.
    pub fn remove_snap(&self, name: &str) -> Result<()> {
        const OP: &str = "remove a snapshot of the image";
        let text = c_text(OP, name)?;
        // SAFETY: the image is open, the text ends in a zero and outlives the call.
        let removed = unsafe { (self.library().rbd.rbd_snap_remove)(self.handle, text.as_ptr()) };
        match removed {
            code if code == -libc::ENOENT => Ok(()),
            code => check(OP, &self.name, code).map(drop),
        }
    }

    /// Notes something of it. Blocks.
    ///
    /// # Errors
    /// Those of the cluster.
    pub fn note(&self, key: &str, value: &str) -> Result<()> {
        const OP: &str = "write the metadata of the image";
        let (key, value) = (c_text(OP, key)?, c_text(OP, value)?);
        // SAFETY: the image is open, the texts end in a zero and outlive the call.
        let noted = unsafe {
            (self.library().rbd.rbd_metadata_set)(self.handle, key.as_ptr(), value.as_ptr())
        };
        check(OP, &self.name, noted).map(drop)
    }

    /// Forgets what was noted, if it was. Blocks.
    ///
    /// # Errors
    /// Those of the cluster.
    pub fn forget_note(&self, key: &str) -> Result<()> {
        const OP: &str = "write the metadata of the image";
        let key = c_text(OP, key)?;
        // SAFETY: the image is open, the text ends in a zero and outlives the call.
        let forgotten =
            unsafe { (self.library().rbd.rbd_metadata_remove)(self.handle, key.as_ptr()) };
        match forgotten {
            code if code == -libc::ENOENT => Ok(()),
            code => check(OP, &self.name, code).map(drop),
        }
    }

    /// About when it was last written to, as far as that is known.
    pub fn modified_at(&self) -> Option<SystemTime> {
        let mut time = NO_TIME;
        // SAFETY: the image is open, and the time is written to.
        let told =
            unsafe { (self.library().rbd.rbd_get_modify_timestamp)(self.handle, &raw mut time) };
        (told >= 0).then(|| time_of(&time)).flatten()
    }
}

impl Pool {
    /// Makes an image of `size` bytes, all zero. Blocks.
    ///
    /// # Errors
    /// `Exists`, `Denied`, `NoSpace`; those of the cluster.
    pub fn make_image(&self, name: &str, size: u64, making: Making) -> Result<()> {
        const OP: &str = "make the image";
        let text = c_text(OP, name)?;
        let rbd = &self.library().rbd;
        let mut numbers = vec![(OPTION_FORMAT, 2), (OPTION_FEATURES, making.features())];
        if let Some(Striping { unit, count }) = making.striping {
            numbers.extend([(OPTION_STRIPE_UNIT, unit), (OPTION_STRIPE_COUNT, count)]);
        }
        let mut options: Handle = std::ptr::null_mut();
        // SAFETY: the options are made, used while they are there, and destroyed once; the
        // pool is alive, the text ends in a zero and outlives the call.
        let made = unsafe {
            (rbd.rbd_image_options_create)(&raw mut options);
            let set = numbers
                .into_iter()
                .map(|(option, value)| (rbd.rbd_image_options_set_uint64)(options, option, value))
                .find(|code| *code < 0);
            let made = match set {
                Some(code) => code,
                None => (rbd.rbd_create4)(self.handle(), text.as_ptr(), size, options),
            };
            (rbd.rbd_image_options_destroy)(options);
            made
        };
        check(OP, name, made).map(drop)
    }

    /// Gives an image another name; who has it open does not notice. Blocks.
    ///
    /// # Errors
    /// `NotFound`, `Exists`; those of the cluster.
    pub fn rename_image(&self, from: &str, to: &str) -> Result<()> {
        const OP: &str = "rename the image";
        let (old, new) = (c_text(OP, from)?, c_text(OP, to)?);
        // SAFETY: the pool is alive, the texts end in a zero and outlive the call.
        let renamed =
            unsafe { (self.library().rbd.rbd_rename)(self.handle(), old.as_ptr(), new.as_ptr()) };
        check(OP, from, renamed).map(drop)
    }

    /// Removes an image without snapshots. `beat` is called as that goes on, which takes
    /// long for large ones. Blocks.
    ///
    /// # Errors
    /// `Dependents` while somebody has it open, `NotEmpty` when it has snapshots; those of
    /// the cluster.
    pub fn remove_image(&self, name: &str, mut beat: impl FnMut()) -> Result<()> {
        const OP: &str = "remove the image";
        let text = c_text(OP, name)?;
        let mut beat: &mut dyn FnMut() = &mut beat;
        // SAFETY: the pool is alive, the text ends in a zero; the callback is made for this
        // argument, and both outlive the call.
        let removed = unsafe {
            (self.library().rbd.rbd_remove_with_progress)(
                self.handle(),
                text.as_ptr(),
                went_on,
                (&raw mut beat).cast(),
            )
        };
        check(OP, name, removed).map(drop)
    }

    /// Removes a plain object, if it is there. Blocks.
    ///
    /// # Errors
    /// Those of the cluster.
    pub fn remove_object(&self, name: &str) -> Result<()> {
        const OP: &str = "remove the object";
        let text = c_text(OP, name)?;
        // SAFETY: the pool is alive, the text ends in a zero and outlives the call.
        let removed = unsafe { (self.library().rados.rados_remove)(self.handle(), text.as_ptr()) };
        match removed {
            code if code == -libc::ENOENT => Ok(()),
            code => check(OP, name, code).map(drop),
        }
    }

    /// The names of all plain objects that `wanted` wants. Blocks, and for long where there
    /// are millions: `beat` is called for each.
    ///
    /// # Errors
    /// Those of the cluster.
    pub fn objects(
        &self,
        wanted: impl Fn(&str) -> bool,
        mut beat: impl FnMut(),
    ) -> Result<Vec<String>> {
        const OP: &str = "list the objects of the pool";
        let rados = &self.library().rados;
        let mut list: Handle = std::ptr::null_mut();
        // SAFETY: the pool is alive, and the list is written to.
        let opened = unsafe { (rados.rados_nobjects_list_open)(self.handle(), &raw mut list) };
        check(OP, &self.name, opened)?;
        let mut found = Vec::new();
        let ended = loop {
            let mut entry: *const c_char = std::ptr::null();
            // SAFETY: the list is open; what the entry points to is the library's until the
            // next call.
            let (code, name) = unsafe {
                let none = std::ptr::null_mut();
                let code = (rados.rados_nobjects_list_next)(list, &raw mut entry, none, none);
                (code, super::cluster::of_library(entry))
            };
            if code < 0 {
                break code;
            }
            beat();
            if wanted(&name) {
                found.push(name);
            }
        };
        // SAFETY: it is closed once, and not used afterwards.
        unsafe { (rados.rados_nobjects_list_close)(list) };
        match ended {
            code if code == -libc::ENOENT => Ok(found),
            code => check(OP, &self.name, code).map(|_| found),
        }
    }
}

unsafe extern "C" fn went_on(_: u64, _: u64, argument: *mut c_void) -> c_int {
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `remove_image` has given a pointer to this, which nobody else uses
        // meanwhile.
        let beat = unsafe { &mut *argument.cast::<&mut dyn FnMut()>() };
        beat();
    }));
    0
}
