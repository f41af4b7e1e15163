//! System calls that the standard library hides, and what is in folders.

use super::programs::{run, shell};
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::IntoRawFd;
use std::path::Path;

/// Closes a file, and tells what close(2) says, which a drop does not.
pub fn close(file: fs::File) -> io::Result<()> {
    // SAFETY: the descriptor is ours alone, and nobody uses it afterwards.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The error number of a failed call.
pub fn errno<T>(result: io::Result<T>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(e) => e.raw_os_error().unwrap_or(-1),
    }
}

/// lseek(2) with SEEK_DATA or SEEK_HOLE; the error's number when it fails.
pub fn seek(file: &fs::File, offset: u64, hole: bool) -> Result<u64, i32> {
    use rustix::fs::SeekFrom::{Data, Hole};
    let to = if hole { Hole(offset) } else { Data(offset) };
    rustix::fs::seek(file, to).map_err(|e| e.raw_os_error())
}

/// The value of an extended attribute.
pub fn xattr(path: &Path, name: &str) -> Result<Vec<u8>, i32> {
    let mut value = vec![0; 4096];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).map_err(|e| e.raw_os_error())?;
    value.truncate(length);
    Ok(value)
}

/// Sets an extended attribute; the error's number, or 0.
pub fn set_xattr(path: &Path, name: &str, value: &[u8]) -> i32 {
    let name = CString::new(name).unwrap();
    let set = rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty());
    set.map_or_else(|e| e.raw_os_error(), |()| 0)
}

/// The names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

/// How many files there are below a folder.
pub fn files_in(folder: &Path) -> usize {
    let found = run(&mut shell(r#"find "$1" -type f | wc -l"#, &[folder]));
    found.trim().parse().unwrap()
}
