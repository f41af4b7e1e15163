//! Waiting for what the libraries do in the background.
//!
//! All that an operation reads or writes lies in an [`Operation`], which belongs to the
//! library until it calls back, whoever waits for it by then: one that waits no longer, for
//! its time was over, takes nothing with it that is still written to.

use super::failure::{Deadline, failed, timed_out};
use super::library::{Handle, Library};
use crate::error::Result;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokio::sync::oneshot;

/// How an operation has ended.
pub(super) struct Outcome {
    /// What it gave: a length, or minus the number of an error.
    pub code: i64,
    /// The version of the object that it was about; 0 for images.
    pub version: u64,
}

/// Whose completion it is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Maker {
    Rados,
    Rbd,
}

/// An operation that is under way: what it uses, and who waits for it.
struct Operation<P, R> {
    library: &'static Library,
    maker: Maker,
    payload: P,
    /// Makes of it what the waiting one gets. Runs on a thread of the library's, and must
    /// neither block nor call back into it.
    finish: fn(&'static Library, Outcome, P) -> R,
    waiting: oneshot::Sender<R>,
}

/// Begins an operation. `begin` is given the completion and where the payload lies until the
/// end, and calls the library.
///
/// # Errors
/// What `begin` gives, if it is an error: then the operation never began.
///
/// # Safety
/// `begin` must either hand the completion to the library and give what that gives, which is
/// negative only if the operation has not begun, or give something negative. What it lets the
/// library use must be static, or in the payload or owned by it.
pub(super) unsafe fn begin<P, R>(
    library: &'static Library,
    maker: Maker,
    payload: P,
    finish: fn(&'static Library, Outcome, P) -> R,
    begin: impl FnOnce(Handle, *mut P) -> c_int,
) -> std::result::Result<oneshot::Receiver<R>, i64>
where
    P: Send + 'static,
    R: Send + 'static,
{
    let (waiting, answer) = oneshot::channel();
    let operation = Box::into_raw(Box::new(Operation {
        library,
        maker,
        payload,
        finish,
        waiting,
    }));
    let mut completion: Handle = std::ptr::null_mut();
    let argument: *mut c_void = operation.cast();
    // SAFETY: `completion` is where the library writes the new completion to; the argument
    // is handed to the callback, which was made for this type, once, and to nobody else.
    let made = unsafe {
        match maker {
            Maker::Rados => (library.rados.rados_aio_create_completion2)(
                argument,
                called_back::<P, R>,
                &raw mut completion,
            ),
            Maker::Rbd => (library.rbd.rbd_aio_create_completion)(
                argument,
                called_back::<P, R>,
                &raw mut completion,
            ),
        }
    };
    if made < 0 {
        // SAFETY: no completion was made, so nobody but us has the operation.
        drop(unsafe { Box::from_raw(operation) });
        return Err(made.into());
    }
    // SAFETY: the operation lives until the callback has run, which cannot be before it was
    // begun. Only a pointer to the payload is made, no reference.
    let code = begin(completion, unsafe { &raw mut (*operation).payload });
    if code < 0 {
        // SAFETY: an operation that did not begin never calls back, so that the operation
        // and its completion are ours again.
        unsafe {
            release(library, maker, completion);
            drop(Box::from_raw(operation));
        }
        return Err(code.into());
    }
    Ok(answer)
}

/// Waits for the end of an operation, until its time is over.
///
/// # Errors
/// `TimedOut`. Then the operation goes on by itself, and its result is thrown away.
pub(super) async fn end<R>(
    op: &'static str,
    subject: &str,
    deadline: Deadline,
    begun: std::result::Result<oneshot::Receiver<R>, i64>,
) -> Result<R> {
    let answer = begun.map_err(|code| failed(op, subject, code))?;
    match tokio::time::timeout_at(deadline.at(), answer).await {
        Ok(Ok(result)) => Ok(result),
        // Who would have answered panicked: the result is lost.
        Ok(Err(_)) => Err(failed(op, subject, -i64::from(libc::ECANCELED))),
        Err(_) => Err(timed_out(op, subject, deadline)),
    }
}

/// What the libraries call when an operation is over.
unsafe extern "C" fn called_back<P, R>(completion: Handle, argument: *mut c_void) {
    // A panic must not unwind into C; what it would have answered is lost, which who waits
    // is told by the channel.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `begin` made the argument of a box of this type; an operation calls back
        // once, and after that nobody else uses it.
        let operation = unsafe { Box::from_raw(argument.cast::<Operation<P, R>>()) };
        let Operation {
            library,
            maker,
            payload,
            finish,
            waiting,
        } = *operation;
        // SAFETY: the completion is that of this operation, and is over; it is released
        // here, once, and not used afterwards.
        let outcome = unsafe {
            let outcome = match maker {
                Maker::Rados => Outcome {
                    code: (library.rados.rados_aio_get_return_value)(completion).into(),
                    version: (library.rados.rados_aio_get_version)(completion),
                },
                Maker::Rbd => Outcome {
                    code: (library.rbd.rbd_aio_get_return_value)(completion) as i64,
                    version: 0,
                },
            };
            release(library, maker, completion);
            outcome
        };
        // Nobody waits any more: what was read is dropped, and what was opened is closed.
        let _ = waiting.send(finish(library, outcome, payload));
    }));
}

/// # Safety
/// The completion must be of that maker, and not be used afterwards.
unsafe fn release(library: &Library, maker: Maker, completion: Handle) {
    // SAFETY: as the caller has promised.
    unsafe {
        match maker {
            Maker::Rados => (library.rados.rados_aio_release)(completion),
            Maker::Rbd => (library.rbd.rbd_aio_release)(completion),
        }
    }
}
