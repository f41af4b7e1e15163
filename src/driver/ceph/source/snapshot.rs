//! Snapshots of a source: taken, and removed again.

use super::super::cluster::{Pool, c_text};
use super::super::failure::check;
use super::super::library::{Handle, Rbd};
use super::RbdSource;
use crate::error::{Error, Kind, Result};
use std::ffi::{CStr, CString, c_char, c_int};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A call about a snapshot of an image.
type Call = unsafe extern "C" fn(Handle, *const c_char) -> c_int;

/// What is being done, in messages.
const TAKE: &str = "take a snapshot of";
/// The same.
const REMOVE: &str = "remove the snapshot of";

/// Nobody waits any more, once this is dropped.
struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl RbdSource {
    pub(super) async fn take_snapshot(&self, pool: &Arc<Pool>, snap: &str) -> Result<()> {
        let is_waited_for = Arc::new(AtomicBool::new(true));
        let waiting = Waiting(Arc::clone(&is_waited_for));
        let (own_pool, image) = (Arc::clone(pool), c_text(TAKE, &self.name.image)?);
        let snap = c_text(TAKE, snap)?;
        let take = move || {
            let rbd = &own_pool.library().rbd;
            let taken = call(TAKE, &own_pool, &image, &snap, rbd.rbd_snap_create);
            if taken.as_ref().is_err_and(|e| e.kind() == Kind::TimedOut) {
                // It may be there all the same.
                let _ = call(REMOVE, &own_pool, &image, &snap, rbd.rbd_snap_remove);
            }
            taken?;
            if !is_waited_for.load(Ordering::Acquire) {
                // It came too late, and nobody else would remove it.
                call(REMOVE, &own_pool, &image, &snap, rbd.rbd_snap_remove)?;
            }
            Ok(())
        };
        let subject = self.name.to_string();
        let deadline = self.session.deadline();
        let threads = &self.session.threads;
        let taken = threads.run(TAKE, &subject, deadline, take).await;
        drop(waiting);
        taken.map_err(|e| match e.kind() {
            Kind::Denied | Kind::ReadOnly => {
                let reason = format!("client.{} may not do that", self.user);
                Error::new(e.kind(), TAKE, subject, reason).advise(
                    "have one taken and name it (rbd:POOL/IMAGE@SNAPSHOT), or give a user who may \
                     with --rbd-user",
                )
            }
            _ => e,
        })
    }

    pub(super) async fn remove_snapshot(&self, snap: &str) -> Result<()> {
        let pool = self.session.pool().await?;
        let image = c_text(REMOVE, &self.name.image)?;
        let snap = c_text(REMOVE, snap)?;
        let remove = move || {
            let rbd: &Rbd = &pool.library().rbd;
            match call(REMOVE, &pool, &image, &snap, rbd.rbd_snap_remove) {
                Err(e) if e.kind() == Kind::NotFound => Ok(()),
                done => done,
            }
        };
        let subject = self.name.to_string();
        let deadline = self.session.deadline();
        let threads = &self.session.threads;
        threads.run(REMOVE, &subject, deadline, remove).await
    }
}

/// Makes a call with an image that is open for writing. Blocks.
fn call(op: &'static str, pool: &Pool, image: &CString, snap: &CStr, call: Call) -> Result<()> {
    let rbd = &pool.library().rbd;
    let subject = image.to_string_lossy();
    let mut handle: Handle = std::ptr::null_mut();
    // SAFETY: the pool is alive, the text ends in a zero and outlives the call, the handle is
    // written to.
    let opened = unsafe {
        (rbd.rbd_open)(
            pool.handle(),
            image.as_ptr(),
            &raw mut handle,
            std::ptr::null(),
        )
    };
    check(op, &subject, opened)?;
    // SAFETY: the image was just opened, is closed once and not used afterwards; the text ends
    // in a zero and outlives the call.
    let called = unsafe {
        let called = call(handle, snap.as_ptr());
        (rbd.rbd_close)(handle);
        called
    };
    check(op, &subject, called).map(drop)
}
