//! Files for what does not fit into memory. They have no name, and are gone when they
//! are closed or the program ends, however it ends.

use crate::error::{Error, Result};
use std::fs::File;
use std::io;
use std::path::Path;

/// A new file in `folder`, which is made when it is missing.
///
/// # Errors
/// When the folder cannot be made or written to.
pub fn file(folder: &Path) -> Result<File> {
    std::fs::create_dir_all(folder)
        .and_then(|()| tempfile::tempfile_in(folder))
        .map_err(|e| {
            advise(Error::io(
                "make a spool file in",
                folder.display().to_string(),
                &e,
            ))
        })
}

/// A failure to read or write such a file.
pub fn error(e: &io::Error) -> Error {
    advise(Error::io("use", "the spool", e))
}

fn advise(error: Error) -> Error {
    error.advise("set spool_path to a folder with room")
}
