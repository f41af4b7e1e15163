//! Mounting and unmounting.

use super::adapter::Adapter;
use crate::error::{Error, Kind, Result};
use crate::task::cores;
use crate::tree::Tree;
use fuser::{BackgroundSession, Config, Session, SessionACL};
use rustix::io::FdFlags;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::fs::{File, OpenOptions};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tokio::runtime::Handle;

/// What findmnt(8) shows after `fuse.`.
const SUBTYPE: &str = "cinderfs";
/// The kernel reads so much ahead, where we may set it: two requests, one for each thread
/// that answers. With one it was a fifth slower, and its own 128 KiB cost a third of
/// the speed.
const READ_AHEAD_KIB: &str = "2048";

/// How to mount.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// What mount(8) shows as the source.
    pub source: String,
    /// Nothing can be written.
    pub read_only: bool,
    /// Others than who mounted may look inside.
    pub allow_other: bool,
}

/// A mount that answers.
pub struct Mounted {
    session: BackgroundSession,
    folder: PathBuf,
}

/// Mounts `tree` on `folder`.
///
/// # Errors
/// With the reason, and what to do, when there is no FUSE here or it is not allowed.
pub fn mount(
    tree: Arc<Tree>,
    folder: &Path,
    options: &MountOptions,
    runtime: &Handle,
) -> Result<Mounted> {
    let as_root = rustix::process::geteuid().is_root();
    let device = match as_root {
        true => mount_as_root(folder, options)?,
        false => mount_as_user(folder, options)?,
    };
    let mut config = Config::default();
    config.n_threads = Some(cores().clamp(2, 4));
    config.clone_fd = true;
    // Who may look inside is the kernel's business. fuser's own filter would refuse the
    // close of a file that another user has inherited: `sudo dd ... > FILE`.
    let acl = SessionACL::All;
    config.acl = acl;
    let adapter = Adapter::new(tree, runtime.clone());
    let session = Session::from_fd(adapter, device, acl, config).and_then(Session::spawn);
    let session = session.map_err(|e| {
        let _ = unmount(folder, true);
        Error::io("serve", display(folder), &e)
    })?;
    Ok(Mounted {
        session,
        folder: folder.to_owned(),
    })
}

fn display(folder: &Path) -> String {
    folder.display().to_string()
}

fn open_device() -> Result<File> {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    opened.map_err(|e| {
        let error = Error::io("open", "/dev/fuse", &e);
        match e.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => error.advise(
                "load the kernel module with `modprobe fuse`; a container needs `--device /dev/fuse`",
            ),
            _ => error.advise("it must be readable and writable for whoever mounts (mode 0666)"),
        }
    })
}

/// The system call itself: fuser's own mount(2) would show the type `fuse`, without ours.
fn mount_as_root(folder: &Path, options: &MountOptions) -> Result<OwnedFd> {
    let device = open_device()?;
    let stat = folder
        .metadata()
        .map_err(|e| Error::io("mount on", display(folder), &e))?;
    let mut data = format!(
        "fd={},rootmode={:o},user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        stat.permissions().mode() & libc::S_IFMT,
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    if options.read_only {
        flags |= MountFlags::RDONLY;
    }
    let data = std::ffi::CString::new(data)
        .map_err(|e| Error::new(Kind::Invalid, "mount on", display(folder), e))?;
    let source = options.source.as_str();
    let fstype = format!("fuse.{SUBTYPE}");
    rustix::mount::mount(source, folder, fstype.as_str(), flags, data.as_c_str()).map_err(|e| {
        Error::io("mount on", display(folder), &e.into())
            .advise("mounting needs CAP_SYS_ADMIN; in a container, add it or mount outside")
    })?;
    Ok(device.into())
}

/// By fusermount3, which is set-uid root and sends the device over a socket.
fn mount_as_user(folder: &Path, options: &MountOptions) -> Result<OwnedFd> {
    // Its own words on a device that is missing or closed to us say less.
    open_device()?;
    let error = |e: &std::io::Error| Error::io("mount on", display(folder), e);
    let (ours, theirs) = UnixStream::pair().map_err(|e| error(&e))?;
    // The one descriptor that it is to inherit.
    rustix::io::fcntl_setfd(&theirs, FdFlags::empty()).map_err(|e| error(&e.into()))?;
    let source = options.source.replace('\\', "\\\\").replace(',', "\\,");
    let mut list = format!("default_permissions,nosuid,nodev,subtype={SUBTYPE},fsname={source}");
    if options.read_only {
        list.push_str(",ro");
    }
    if options.allow_other {
        list.push_str(",allow_other");
    }
    let program = Command::new("fusermount3")
        .args(["-o", &list, "--"])
        .arg(folder)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    drop(theirs);
    let program = program.map_err(|e| {
        let reason = format!("fusermount3, which mounts for ordinary users, cannot be run: {e}");
        Error::new(Kind::NotFound, "mount on", display(folder), reason)
            .advise("install the package fuse3, or mount as root")
    })?;
    let device = receive_device(&ours);
    let output = program.wait_with_output().map_err(|e| error(&e))?;
    if let Ok(Some(device)) = device {
        return Ok(device);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let error = Error::new(Kind::Denied, "mount on", display(folder), said.trim());
    Err(if options.allow_other {
        error.advise("allow_other needs the line `user_allow_other` in /etc/fuse.conf")
    } else {
        error.advise("the folder must be yours and writable")
    })
}

/// The descriptor that fusermount3 sends when it has mounted.
fn receive_device(socket: &UnixStream) -> std::io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut messages = RecvAncillaryBuffer::new(&mut space);
    let buffers = &mut [IoSliceMut::new(&mut byte)];
    recvmsg(socket, buffers, &mut messages, RecvFlags::CMSG_CLOEXEC)?;
    Ok(messages.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

impl Mounted {
    /// Asks the mount a question and waits for the answer, so that whoever was told that
    /// it is there finds it.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn wait_until_it_answers(&self) -> Result<()> {
        let stat = self.folder.metadata();
        let stat = stat.map_err(|e| Error::io("look at", display(&self.folder), &e))?;
        // Only root may; without it, reading is slower.
        let (major, minor) = (libc::major(stat.dev()), libc::minor(stat.dev()));
        let knob = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        if let Err(e) = std::fs::write(&knob, READ_AHEAD_KIB) {
            tracing::debug!("the kernel's read-ahead stays as it is: {e}");
        }
        Ok(())
    }

    /// Whether somebody else has unmounted it.
    pub fn is_over(&self) -> bool {
        self.session.guard.is_finished()
    }

    /// Unmounts. A mount that is in use goes out of sight now, and away when it is not
    /// used any more.
    ///
    /// # Errors
    /// When that is not allowed.
    pub fn unmount(self) -> Result<()> {
        if !self.is_over() {
            unmount(&self.folder, true)?;
        }
        Ok(())
    }
}

/// Unmounts `folder`; `lazily` even if it is in use.
///
/// # Errors
/// `Dependents` when it is in use, `Denied` when it is somebody else's.
pub fn unmount(folder: &Path, lazily: bool) -> Result<()> {
    let direct = rustix::mount::unmount(folder, UnmountFlags::empty());
    let failed = match direct {
        Ok(()) => return Ok(()),
        Err(rustix::io::Errno::BUSY) if lazily => {
            match rustix::mount::unmount(folder, UnmountFlags::DETACH) {
                Ok(()) => return Ok(()),
                Err(e) => e,
            }
        }
        Err(e) => e,
    };
    match failed {
        rustix::io::Errno::PERM => unmount_as_user(folder, lazily),
        rustix::io::Errno::BUSY => Err(busy(folder)),
        e => Err(Error::io("unmount", display(folder), &e.into())),
    }
}

fn busy(folder: &Path) -> Error {
    Error::new(Kind::Dependents, "unmount", display(folder), "it is in use")
        .advise(format!("`fuser -vm {}` shows by whom", folder.display()))
}

fn unmount_as_user(folder: &Path, lazily: bool) -> Result<()> {
    let mut command = Command::new("fusermount3");
    command.arg("-u");
    if lazily {
        command.arg("-z");
    }
    let output = command.arg("--").arg(folder).output().map_err(|e| {
        Error::io("run", "fusermount3", &e).advise("install the package fuse3, or unmount as root")
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("busy") {
        return Err(busy(folder));
    }
    Err(Error::new(
        Kind::Denied,
        "unmount",
        display(folder),
        said.trim(),
    ))
}
