//! The connection to a cluster, and a pool of it.

use super::failure::{check, failed};
use super::library::{ClusterStat, Handle, ImageSpec, Library, library};
use super::threads::leave;
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::store::Space;
use std::ffi::{CStr, CString, c_char};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How a cluster is reached.
#[derive(Debug, Clone)]
pub struct Access {
    /// Ceph's configuration file.
    pub conf: PathBuf,
    /// The user, without `client.`.
    pub user: String,
    /// How long to wait for a monitor.
    pub connect_timeout: Duration,
    /// How long an operation may take.
    pub request_timeout: Duration,
}

impl Access {
    /// As a backend has it.
    pub fn of(options: &config::Ceph) -> Self {
        Self {
            conf: options.conf.clone(),
            user: options.user.clone(),
            connect_timeout: options.connect_timeout,
            request_timeout: options.request_timeout,
        }
    }
}

/// A connection. It closes itself when nobody uses it any more.
pub struct Cluster {
    library: &'static Library,
    handle: Handle,
    /// Its id, as in `ceph fsid`.
    pub fsid: String,
}

// SAFETY: librados lets any thread use a connection, several at a time.
unsafe impl Send for Cluster {}
// SAFETY: as above.
unsafe impl Sync for Cluster {}

/// A pool of a cluster.
pub struct Pool {
    cluster: Arc<Cluster>,
    handle: Handle,
    /// Its name.
    pub name: String,
    /// Its number: one of the same name that is made later has another.
    pub id: i64,
}

// SAFETY: librados lets any thread use a pool's context, several at a time; what may not be
// shared (a snapshot, a locator, a namespace) is never set.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

/// A text for the library.
pub(super) fn c_text(op: &'static str, text: &str) -> Result<CString> {
    let wrong = |_| {
        let subject = text.escape_debug().to_string();
        Error::new(Kind::Invalid, op, subject, "there is a zero byte in it")
    };
    CString::new(text).map_err(wrong)
}

impl Cluster {
    /// Connects. Blocks, for about as long as `access` says.
    ///
    /// # Errors
    /// `Denied` for a key that is not right, else `Unavailable`.
    pub fn connect(access: &Access) -> Result<Arc<Self>> {
        const OP: &str = "connect to the cluster of";
        let library = library()?;
        let rados = &library.rados;
        let subject = access.conf.display().to_string();
        let conf = c_text(OP, &subject)?;
        let user = c_text(OP, &format!("client.{}", access.user))?;
        let mut handle: Handle = std::ptr::null_mut();
        // As Cinder does it: the name of the cluster follows from that of the file.
        // SAFETY: the texts end in a zero and outlive the call, the handle is written to.
        let made =
            unsafe { (rados.rados_create2)(&raw mut handle, c"".as_ptr(), user.as_ptr(), 0) };
        check(OP, &subject, made)?;
        // From here on it is shut down whatever happens.
        let mut cluster = Self {
            library,
            handle,
            fsid: String::new(),
        };
        // SAFETY: the handle was just made, the text ends in a zero and outlives the call.
        let read = unsafe { (rados.rados_conf_read_file)(handle, conf.as_ptr()) };
        if read < 0 {
            let reason = format!("it cannot be read: {}", cause(read));
            return Err(Error::new(Kind::Unavailable, OP, subject, reason)
                .advise("see backup_ceph_conf, or --rbd-conf, and who may read that file"));
        }
        cluster.set("client_mount_timeout", &seconds(access.connect_timeout))?;
        for option in ["rados_mon_op_timeout", "rados_osd_op_timeout"] {
            cluster.set(option, &seconds(access.request_timeout))?;
        }
        // What is said goes into our log, and what is read into our cache.
        for option in ["log_to_stderr", "err_to_stderr", "rbd_cache"] {
            cluster.set(option, "false")?;
        }
        // SAFETY: the handle is configured and not connected yet.
        let connected = unsafe { (rados.rados_connect)(handle) };
        if connected < 0 {
            return Err(not_connected(OP, &subject, access, connected));
        }
        let mut text = [0_u8; 64];
        // SAFETY: no more bytes are written than there are.
        let told =
            unsafe { (rados.rados_cluster_fsid)(handle, text.as_mut_ptr().cast(), text.len()) };
        check(OP, &subject, told)?;
        cluster.fsid = until_zero(&text);
        Ok(Arc::new(cluster))
    }

    fn set(&self, option: &str, value: &str) -> Result<()> {
        const OP: &str = "set the option of Ceph";
        let (name, value) = (c_text(OP, option)?, c_text(OP, value)?);
        // SAFETY: the handle is alive, the texts end in a zero and outlive the call.
        let set = unsafe {
            (self.library.rados.rados_conf_set)(self.handle, name.as_ptr(), value.as_ptr())
        };
        check(OP, option, set).map(drop)
    }

    /// How much there is room for in the whole cluster. Blocks.
    ///
    /// # Errors
    /// Those of the cluster.
    pub fn space(&self) -> Result<Space> {
        let mut stat = ClusterStat::default();
        // SAFETY: the connection is alive, and the struct is written to.
        let told = unsafe { (self.library.rados.rados_cluster_stat)(self.handle, &raw mut stat) };
        check("ask for the room in", "the cluster", told)?;
        Ok(Space {
            total: stat.kb.saturating_mul(1024),
            free: stat.kb_available.saturating_mul(1024),
            files: None,
        })
    }

    /// The pool of that name. Blocks.
    ///
    /// # Errors
    /// `Unavailable` where there is none, or one that we may not use.
    pub fn pool(self: &Arc<Self>, name: &str) -> Result<Pool> {
        const OP: &str = "open the pool";
        let text = c_text(OP, name)?;
        let mut handle: Handle = std::ptr::null_mut();
        // SAFETY: the connection is alive, the text ends in a zero and outlives the call, and
        // the handle is written to.
        let opened = unsafe {
            (self.library.rados.rados_ioctx_create)(self.handle, text.as_ptr(), &raw mut handle)
        };
        if opened == -libc::ENOENT {
            let reason = "there is no such pool";
            let error = Error::new(Kind::Unavailable, OP, name, reason);
            return Err(error.advise(
                "see backup_ceph_pool, or what the source is called, and `ceph osd pool ls`",
            ));
        }
        check(OP, name, opened)?;
        // What is to be written into a full pool is refused at once, and what makes room is
        // done; otherwise both would wait, without end.
        // SAFETY: the context was just made.
        let id = unsafe {
            (self.library.rados.rados_set_osdmap_full_try)(handle);
            (self.library.rados.rados_ioctx_get_id)(handle)
        };
        Ok(Pool {
            cluster: Arc::clone(self),
            handle,
            name: name.to_owned(),
            id,
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let (library, handle) = (self.library, Shared(self.handle));
        // It waits for what is under way.
        leave(move || {
            let handle = handle;
            // SAFETY: nobody has the connection any more: it was dropped.
            unsafe { (library.rados.rados_shutdown)(handle.0) }
        });
    }
}

/// A handle on its way to the thread that closes it.
pub(super) struct Shared(pub Handle);

// SAFETY: any thread may close what another one has opened.
unsafe impl Send for Shared {}

impl Pool {
    pub(super) fn library(&self) -> &'static Library {
        self.cluster.library
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle
    }

    /// The cluster that it is in.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Whether it is there still: what is in a pool that was removed reads as nothing.
    /// Blocks.
    ///
    /// # Errors
    /// `Unavailable` when it is gone, and those of the cluster.
    pub fn check(&self) -> Result<()> {
        const OP: &str = "open the pool";
        let rados = &self.library().rados;
        let name = c_text(OP, &self.name)?;
        // SAFETY: the connection is alive, the text ends in a zero and outlives the calls.
        let (waited, id) = unsafe {
            let waited = (rados.rados_wait_for_latest_osdmap)(self.cluster.handle);
            (
                waited,
                (rados.rados_pool_lookup)(self.cluster.handle, name.as_ptr()),
            )
        };
        check(OP, &self.name, waited)?;
        if id == self.id {
            return Ok(());
        }
        let reason = "it was removed";
        Err(
            Error::new(Kind::Unavailable, OP, self.name.as_str(), reason).advise(
                "see backup_ceph_pool, or what the source is called, and `ceph osd pool ls`",
            ),
        )
    }

    /// Names and ids of all images. Blocks.
    ///
    /// # Errors
    /// Those of the cluster.
    pub fn images(&self) -> Result<Vec<(String, String)>> {
        const OP: &str = "list the images of the pool";
        let rbd = &self.library().rbd;
        let mut room: usize = 1024;
        loop {
            let none = ImageSpec {
                id: std::ptr::null_mut(),
                name: std::ptr::null_mut(),
            };
            let mut specs = vec![none; room];
            let mut count = specs.len();
            // SAFETY: the pool is alive; no more entries are written than `count` says, and
            // how many were is written there.
            let listed =
                unsafe { (rbd.rbd_list2)(self.handle, specs.as_mut_ptr(), &raw mut count) };
            if listed == -libc::ERANGE && count > room {
                // Others may be made meanwhile.
                room = count.saturating_add(count / 8);
                continue;
            }
            check(OP, &self.name, listed)?;
            let written = specs.get(..count).unwrap_or_default();
            // SAFETY: the library has written that many entries, with texts of its own that
            // end in a zero.
            let text = |text: *const c_char| unsafe { of_library(text) };
            let images = written.iter();
            let images = images
                .map(|spec| (text(spec.name), text(spec.id)))
                .collect();
            let count = written.len();
            // SAFETY: they are freed once, and not used afterwards.
            unsafe { (rbd.rbd_image_spec_list_cleanup)(specs.as_mut_ptr(), count) };
            return Ok(images);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let (cluster, handle) = (Arc::clone(&self.cluster), Shared(self.handle));
        leave(move || {
            let handle = handle;
            // SAFETY: nobody has the context any more, and its connection is alive.
            unsafe { (cluster.library.rados.rados_ioctx_destroy)(handle.0) }
        });
    }
}

fn seconds(time: Duration) -> String {
    // 0 would be for ever.
    time.as_secs_f64().ceil().max(1.0).to_string()
}

/// The text of an error's number.
fn cause(code: impl Into<i64>) -> std::io::Error {
    let number = i32::try_from(code.into().unsigned_abs()).unwrap_or(libc::EIO);
    std::io::Error::from_raw_os_error(number)
}

fn not_connected(op: &'static str, conf: &str, access: &Access, code: i32) -> Error {
    let user = &access.user;
    match -code {
        libc::ETIMEDOUT => {
            let waited = access.connect_timeout.as_secs_f64();
            let reason = format!("no monitor answered within {waited} s");
            Error::new(Kind::Unavailable, op, conf, reason)
                .advise("see mon_host in that file, or raise rados_connect_timeout")
        }
        libc::EACCES | libc::EPERM => {
            let reason = format!("the cluster does not take client.{user} with the key it has");
            Error::new(Kind::Denied, op, conf, reason)
                .advise("see backup_ceph_user, or --rbd-user, its keyring, and `ceph auth ls`")
        }
        libc::ENOENT => {
            let reason = format!("there is no keyring with a key of client.{user}");
            Error::new(Kind::Unavailable, op, conf, reason)
                .advise("see backup_ceph_user, or --rbd-user, and `keyring` in that file")
        }
        _ => failed(op, conf, code.into()),
    }
}

/// A text that is filled up with zeros.
pub(super) fn until_zero(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// A copy of a text of the library's; one that is no Unicode is made some.
///
/// # Safety
/// It must be null, or end in a zero and stay as it is while this runs.
pub(super) unsafe fn of_library(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as the caller has promised.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cluster({})", self.fsid)
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} of {})", self.name, self.cluster.fsid)
    }
}
