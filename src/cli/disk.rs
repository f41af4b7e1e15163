//! Files and block devices that images are taken from and put on: what they are, how
//! large they are, and who uses them.

use super::{Failure, usage};
use crate::error::{Error, Kind, Result};
use crate::mountinfo::mounts;
use rustix::fs::{major, minor};
use std::ffi::c_int;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What an image can be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskKind {
    /// A regular file.
    File,
    /// A block device.
    Device,
}

/// An open file or block device.
pub struct Disk {
    /// As the user called it.
    pub path: PathBuf,
    /// It, open.
    pub file: File,
    /// Which of the two it is.
    pub kind: DiskKind,
}

/// What lies at `path`; `None` when nothing does. Links are followed.
///
/// # Errors
/// When it is something that can hold no image, or cannot be looked at.
pub fn kind_of(op: &'static str, path: &Path) -> Result<Option<DiskKind>, Failure> {
    let kind = match fs::metadata(path) {
        Ok(stat) => stat.file_type(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(op, path.display().to_string(), &e).into()),
    };
    let other = if kind.is_file() {
        return Ok(Some(DiskKind::File));
    } else if kind.is_block_device() {
        return Ok(Some(DiskKind::Device));
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_fifo() {
        "a pipe"
    } else {
        "a socket"
    };
    let reason = format!("it is {other}");
    let error = Error::new(Kind::Invalid, op, path.display().to_string(), reason);
    Err(usage(error.advise("give a file or a block device")))
}

impl Disk {
    /// Opens what lies at `path`. A block device is then ours alone, unless `shared`.
    ///
    /// # Errors
    /// `Dependents` when somebody else uses the device.
    pub fn open(
        op: &'static str,
        path: &Path,
        kind: DiskKind,
        options: &mut OpenOptions,
        shared: bool,
    ) -> Result<Self> {
        let flags = match kind {
            DiskKind::Device if !shared => libc::O_EXCL,
            _ => 0,
        };
        let failed = |e: io::Error| match e.raw_os_error() {
            Some(libc::EBUSY) if flags != 0 => in_use(op, path, who_uses_device(path)),
            _ => Error::io(op, path.display().to_string(), &e),
        };
        Ok(Self {
            path: path.to_owned(),
            file: options.custom_flags(flags).open(path).map_err(failed)?,
            kind,
        })
    }

    /// Its size in bytes, as it is now.
    ///
    /// # Errors
    /// Those of the system.
    pub fn size(&self) -> Result<u64> {
        let size = match self.kind {
            DiskKind::File => self.file.metadata().map(|stat| stat.len()),
            DiskKind::Device => (&self.file).seek(SeekFrom::End(0)),
        };
        size.map_err(|e| Error::io("find the size of", self.name(), &e))
    }

    /// As messages call it.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Whether nobody may write to it, whoever they are.
    ///
    /// # Errors
    /// Those of the system.
    pub fn is_read_only(&self) -> Result<bool> {
        match self.kind {
            DiskKind::File => Ok(false),
            DiskKind::Device => device_is_read_only(&self.file)
                .map_err(|e| Error::io("ask the device", self.name(), &e)),
        }
    }

    /// Refuses a file that a loop device stands on.
    ///
    /// # Errors
    /// `Dependents` when there is one; with `writers`, only when that can be written to.
    pub fn refuse_loop(&self, op: &'static str, writers: bool) -> Result<()> {
        let stat = self.file.metadata();
        let stat = stat.map_err(|e| Error::io(op, self.name(), &e))?;
        match loop_on(&stat, writers) {
            Some(device) if self.kind == DiskKind::File => {
                let by = match who_uses_device(&device).strip_prefix(MOUNTED) {
                    Some(at) => format!(", which is mounted on {at}"),
                    None => String::new(),
                };
                let reason = format!("it is in use by {}{by}", device.display());
                Err(in_use(op, &self.path, reason))
            }
            _ => Ok(()),
        }
    }
}

fn in_use(op: &'static str, path: &Path, reason: String) -> Error {
    Error::new(Kind::Dependents, op, path.display().to_string(), reason)
}

fn device_is_read_only(device: &File) -> io::Result<bool> {
    const BLKROGET: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 94);
    // SAFETY: BLKROGET writes one int, which is what this getter has room for.
    let is_set: c_int = unsafe {
        let getter = rustix::ioctl::Getter::<BLKROGET, c_int>::new();
        rustix::ioctl::ioctl(device, getter)?
    };
    Ok(is_set != 0)
}

/// How the reason begins when a device is mounted.
const MOUNTED: &str = "it is mounted on ";

/// Who has a device that could not be opened exclusively, as far as that can be told.
fn who_uses_device(path: &Path) -> String {
    let Ok(stat) = fs::metadata(path) else {
        return "it is in use".into();
    };
    let number = |device: u64| format!("{}:{}", major(device), minor(device));
    let mut numbers = vec![number(stat.rdev())];
    let holders = parts_and_holders(&number(stat.rdev()), &mut numbers);
    for mount in mounts().unwrap_or_default() {
        // Some file systems have a number of their own, and name their device.
        let source = || fs::metadata(&mount.source).ok().map(|stat| stat.rdev());
        let named =
            |device: Option<u64>| device.is_some_and(|d| d > 0 && numbers.contains(&number(d)));
        if numbers.contains(&mount.device) || named(source()) {
            return format!("{MOUNTED}{}", mount.folder.display());
        }
    }
    if let Some(holder) = holders.first() {
        return format!("it is in use by {holder}");
    }
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let same = |swap: &str| fs::metadata(swap).is_ok_and(|other| other.rdev() == stat.rdev());
    if swaps
        .lines()
        .skip(1)
        .filter_map(|line| line.split(' ').next())
        .any(same)
    {
        return "it is used as swap space".into();
    }
    "another program has opened it exclusively".into()
}

/// Adds the numbers of the partitions of a device, and of what is built on it; gives the
/// names of the latter.
fn parts_and_holders(device: &str, numbers: &mut Vec<String>) -> Vec<String> {
    let mut holders = Vec::new();
    let folder = Path::new("/sys/dev/block").join(device);
    let entries = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let mut below = entries(&folder.join("holders"));
    holders.extend(
        below
            .iter()
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())),
    );
    let parts = entries(&folder).into_iter();
    below.extend(parts.filter(|path| path.join("partition").exists()));
    for path in below {
        let number = fs::read_to_string(path.join("dev")).unwrap_or_default();
        let number = number.trim().to_owned();
        if !number.is_empty() && !numbers.contains(&number) {
            numbers.push(number.clone());
            holders.extend(parts_and_holders(&number, numbers));
        }
    }
    holders
}

/// The loop device that stands on a file; with `writers`, one that can be written to.
fn loop_on(file: &Metadata, writers: bool) -> Option<PathBuf> {
    let entries = fs::read_dir("/sys/block").ok()?.flatten();
    entries.map(|entry| entry.path()).find_map(|device| {
        let backing = fs::read(device.join("loop/backing_file")).ok()?;
        let backing = backing.strip_suffix(b"\n").unwrap_or(&backing);
        let path: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(backing);
        let stat = fs::metadata(path).ok()?;
        let is_it = (stat.dev(), stat.ino()) == (file.dev(), file.ino());
        let read_only = fs::read_to_string(device.join("ro")).ok()?.trim() == "1";
        let name = device.file_name()?;
        (is_it && !(writers && read_only)).then(|| Path::new("/dev").join(name))
    })
}
