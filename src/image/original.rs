//! A file or a device that is backed up.

use crate::driver::Original;
use crate::error::{Error, Kind, Result};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// How much is read at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// See the module's page.
pub struct OriginalFile {
    /// It, open for reading.
    pub file: File,
    /// How many bytes of it are the image.
    pub size: u64,
    /// What messages call it.
    pub name: String,
}

impl Original for OriginalFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn piece(&self) -> u64 {
        PIECE_BYTES
    }

    fn next(&self, at: u64, hole: bool) -> Result<u64> {
        use rustix::fs::SeekFrom::{Data, Hole};
        use rustix::io::Errno;
        let whence = if hole { Hole(at) } else { Data(at) };
        match rustix::fs::seek(&self.file, whence) {
            Ok(found) => Ok(found.max(at).min(self.size)),
            Err(Errno::NXIO) => Ok(self.size),
            Err(Errno::INVAL | Errno::NOTSUP) => Ok(if hole { self.size } else { at }),
            Err(e) => Err(Error::io("read", &self.name, &e.into())),
        }
    }

    fn read_at(&self, at: u64, target: &mut [u8]) -> Result<()> {
        self.file
            .read_exact_at(target, at)
            .map_err(|e| match e.kind() {
                io::ErrorKind::UnexpectedEof => {
                    let reason = "it became shorter while it was read";
                    Error::new(Kind::Unavailable, "read", &self.name, reason)
                }
                _ => Error::io("read", format!("{} at {at}", self.name), &e),
            })
    }
}
