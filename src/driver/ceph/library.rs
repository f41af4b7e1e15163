//! The functions of librados and librbd that we use, out of the shared libraries of the
//! machine: loaded when a backend first needs them, and never unloaded, for they have
//! threads.
//!
//! The types are those of `rados/librados.h` and `rbd/librbd.h`. All that calls them is in
//! this module's neighbours [`super::cluster`], [`super::object`], [`super::image`], [`super::write`]
//! and [`super::completion`], which wrap them so that nobody else needs `unsafe`.

use crate::error::{Error, Kind, Result};
use std::ffi::{c_char, c_int, c_void};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Whatever the libraries hand out a pointer to.
pub(super) type Handle = *mut c_void;
/// What they call when an operation is over, on a thread of theirs.
pub(super) type Callback = unsafe extern "C" fn(completion: Handle, argument: *mut c_void);
/// What [`Rbd::rbd_diff_iterate2`] calls for each extent.
pub(super) type DiffCallback = unsafe extern "C" fn(u64, usize, c_int, *mut c_void) -> c_int;

/// `rbd_image_spec_t`
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct ImageSpec {
    pub id: *mut c_char,
    pub name: *mut c_char,
}

/// `rbd_snap_info_t`
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct SnapInfo {
    pub id: u64,
    pub size: u64,
    pub name: *const c_char,
}

/// `rbd_image_watcher_t`
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Watcher {
    pub address: *mut c_char,
    pub id: i64,
    pub cookie: u64,
}

/// What long work calls as it goes on: how much is done, of how much.
pub(super) type ProgressCallback = unsafe extern "C" fn(u64, u64, *mut c_void) -> c_int;

/// `struct rados_cluster_stat_t`
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ClusterStat {
    pub kb: u64,
    pub kb_used: u64,
    pub kb_available: u64,
    pub objects: u64,
}

/// A library's file and package, and a struct of its functions.
macro_rules! functions {
    ($(#[$doc:meta])* $table:ident, $file:literal, $package:literal;
     $(fn $name:ident($($argument:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        $(#[$doc])*
        #[allow(missing_docs, reason = "the headers of Ceph have the documentation")]
        pub(super) struct $table {
            $(pub $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl $table {
            fn load() -> Result<Self> {
                let library = open($file, $package)?;
                Ok(Self {
                    // SAFETY: these are the signatures of Ceph's headers, which stay as they
                    // are for as long as the libraries have these version numbers; and the
                    // library is never unloaded.
                    $($name: *unsafe { library.get(concat!(stringify!($name), "\0")) }
                        .map_err(|e| too_old($file, &e))?,)*
                })
            }
        }
    };
}

functions! {
    /// librados: the connection to a cluster, and plain objects.
    Rados, "librados.so.2", "librados2";
    fn rados_create2(*mut Handle, *const c_char, *const c_char, u64) -> c_int;
    fn rados_conf_read_file(Handle, *const c_char) -> c_int;
    fn rados_conf_set(Handle, *const c_char, *const c_char) -> c_int;
    fn rados_connect(Handle) -> c_int;
    fn rados_shutdown(Handle);
    fn rados_cluster_fsid(Handle, *mut c_char, usize) -> c_int;
    fn rados_cluster_stat(Handle, *mut ClusterStat) -> c_int;
    fn rados_wait_for_latest_osdmap(Handle) -> c_int;
    fn rados_pool_lookup(Handle, *const c_char) -> i64;
    fn rados_ioctx_create(Handle, *const c_char, *mut Handle) -> c_int;
    fn rados_ioctx_get_id(Handle) -> i64;
    fn rados_ioctx_destroy(Handle);
    fn rados_set_osdmap_full_try(Handle);
    fn rados_nobjects_list_open(Handle, *mut Handle) -> c_int;
    fn rados_nobjects_list_next(
        Handle, *mut *const c_char, *mut *const c_char, *mut *const c_char,
    ) -> c_int;
    fn rados_nobjects_list_close(Handle);
    fn rados_remove(Handle, *const c_char) -> c_int;
    fn rados_aio_create_completion2(*mut c_void, Callback, *mut Handle) -> c_int;
    fn rados_aio_get_return_value(Handle) -> c_int;
    fn rados_aio_get_version(Handle) -> u64;
    fn rados_aio_release(Handle);
    fn rados_aio_read(Handle, *const c_char, Handle, *mut c_char, usize, u64) -> c_int;
    fn rados_aio_stat(Handle, *const c_char, Handle, *mut u64, *mut libc::time_t) -> c_int;
    fn rados_aio_exec(
        Handle, *const c_char, Handle, *const c_char, *const c_char, *const c_char, usize,
        *mut c_char, usize,
    ) -> c_int;
}

functions! {
    /// librbd: images.
    Rbd, "librbd.so.1", "librbd1";
    fn rbd_list2(Handle, *mut ImageSpec, *mut usize) -> c_int;
    fn rbd_image_spec_list_cleanup(*mut ImageSpec, usize);
    fn rbd_aio_create_completion(*mut c_void, Callback, *mut Handle) -> c_int;
    fn rbd_aio_get_return_value(Handle) -> isize;
    fn rbd_aio_release(Handle);
    fn rbd_aio_open_read_only(
        Handle, *const c_char, *mut Handle, *const c_char, Handle,
    ) -> c_int;
    fn rbd_open(Handle, *const c_char, *mut Handle, *const c_char) -> c_int;
    fn rbd_aio_open(Handle, *const c_char, *mut Handle, *const c_char, Handle) -> c_int;
    fn rbd_close(Handle) -> c_int;
    fn rbd_image_options_create(*mut Handle);
    fn rbd_image_options_destroy(Handle);
    fn rbd_image_options_set_uint64(Handle, c_int, u64) -> c_int;
    fn rbd_create4(Handle, *const c_char, u64, Handle) -> c_int;
    fn rbd_rename(Handle, *const c_char, *const c_char) -> c_int;
    fn rbd_remove_with_progress(
        Handle, *const c_char, ProgressCallback, *mut c_void,
    ) -> c_int;
    fn rbd_resize(Handle, u64) -> c_int;
    fn rbd_lock_acquire(Handle, c_int) -> c_int;
    fn rbd_snap_create(Handle, *const c_char) -> c_int;
    fn rbd_snap_remove(Handle, *const c_char) -> c_int;
    fn rbd_metadata_set(Handle, *const c_char, *const c_char) -> c_int;
    fn rbd_metadata_remove(Handle, *const c_char) -> c_int;
    fn rbd_get_modify_timestamp(Handle, *mut libc::timespec) -> c_int;
    fn rbd_get_size(Handle, *mut u64) -> c_int;
    fn rbd_get_id(Handle, *mut c_char, usize) -> c_int;
    fn rbd_get_old_format(Handle, *mut u8) -> c_int;
    fn rbd_get_features(Handle, *mut u64) -> c_int;
    fn rbd_get_flags(Handle, *mut u64) -> c_int;
    fn rbd_get_overlap(Handle, *mut u64) -> c_int;
    fn rbd_get_create_timestamp(Handle, *mut libc::timespec) -> c_int;
    fn rbd_snap_list(Handle, *mut SnapInfo, *mut c_int) -> c_int;
    fn rbd_snap_list_end(*mut SnapInfo);
    fn rbd_snap_get_timestamp(Handle, u64, *mut libc::timespec) -> c_int;
    fn rbd_watchers_list(Handle, *mut Watcher, *mut usize) -> c_int;
    fn rbd_watchers_list_cleanup(*mut Watcher, usize);
    fn rbd_metadata_list(
        Handle, *const c_char, u64, *mut c_char, *mut usize, *mut c_char, *mut usize,
    ) -> c_int;
    fn rbd_diff_iterate2(
        Handle, *const c_char, u64, u64, u8, u8, DiffCallback, *mut c_void,
    ) -> c_int;
    fn rbd_aio_readv(Handle, *const libc::iovec, c_int, u64, Handle) -> c_int;
    fn rbd_aio_write(Handle, u64, usize, *const c_char, Handle) -> c_int;
    fn rbd_aio_discard(Handle, u64, u64, Handle) -> c_int;
    fn rbd_aio_flush(Handle, Handle) -> c_int;
}

/// Both libraries.
pub(super) struct Library {
    pub rados: Rados,
    pub rbd: Rbd,
}

/// The libraries, loaded if they are not yet.
///
/// # Errors
/// `Unavailable`, with what to install: they may be there the next time.
pub(super) fn library() -> Result<&'static Library> {
    static LOADED: OnceLock<Library> = OnceLock::new();
    static LOADING: Mutex<()> = Mutex::new(());
    if let Some(library) = LOADED.get() {
        return Ok(library);
    }
    let _alone = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(library) = LOADED.get() {
        return Ok(library);
    }
    let library = Library {
        rados: Rados::load()?,
        rbd: Rbd::load()?,
    };
    end_without_destructors();
    Ok(LOADED.get_or_init(|| library))
}

/// When the program ends, threads of the libraries may be at work, and their destructors,
/// which run then, would take away what these use: the program would be aborted. Nothing of
/// what is left to do matters to anybody by then.
fn end_without_destructors() {
    unsafe extern "C" fn end(status: c_int, _: *mut c_void) {
        // SAFETY: ends the program, at once.
        unsafe { libc::_exit(status) }
    }
    // Where there is another C library, none of Ceph's can be loaded.
    #[cfg(target_env = "gnu")]
    {
        unsafe extern "C" {
            /// on_exit(3): what is registered last, as this is after the libraries were
            /// loaded, runs first.
            fn on_exit(
                function: unsafe extern "C" fn(c_int, *mut c_void),
                argument: *mut c_void,
            ) -> c_int;
        }
        // SAFETY: the function is static, and uses no argument.
        if unsafe { on_exit(end, std::ptr::null_mut()) } != 0 {
            tracing::debug!("the end of the program may be an untidy one");
        }
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = end;
}

fn open(file: &str, package: &str) -> Result<&'static libloading::Library> {
    // SAFETY: loading runs the library's initialization, which is that of Ceph's own
    // programs, and needs nothing of us.
    let library = unsafe { libloading::Library::new(file) }.map_err(|e| {
        Error::new(Kind::Unavailable, "load the library", file, e).advise(format!(
            "backends of the driver ceph need it: install the package that has it, {package}"
        ))
    })?;
    // It is not to be unloaded: threads of its own run in it.
    Ok(Box::leak(Box::new(library)))
}

fn too_old(file: &str, error: &libloading::Error) -> Error {
    Error::new(Kind::Unavailable, "use the library", file, error)
        .advise("install that of Ceph 14 (Nautilus) or newer")
}
