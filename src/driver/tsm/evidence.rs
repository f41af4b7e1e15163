//! Whether "there is none" can be believed. The client takes a path apart by what is mounted
//! here: where another file system is mounted than when something was backed up, or none, or
//! where the client is another node, it asks for what nobody has ever backed up.
//!
//! Must not know the client.

use super::client::Mode;
use super::names::Name;
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What to do where the server tells of nothing at all.
pub const ADVICE: &str = "see that the file system that it was backed up from is mounted there, \
                          and that this client is the same node; what is known of it is kept";

/// Objects that are found together, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    pub folder: PathBuf,
    pub mode: Mode,
}

impl Place {
    /// Where an object is.
    pub fn of(name: &Name, staging: &Path) -> Self {
        let folder = match name.path.parent() {
            Some(folder) if !name.path.starts_with(staging) => folder,
            _ => staging,
        };
        Self {
            folder: folder.to_owned(),
            mode: name.mode,
        }
    }
}

/// What a place looked like when something was found there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// The file system that is there; the name of an image has nothing to do with any.
    device: Option<u64>,
    /// As which node the server was asked.
    node: Option<String>,
}

impl Sight {
    /// What it looks like now. Blocks.
    pub fn of(place: &Place, node: Option<String>) -> Self {
        let mut above = place.folder.ancestors();
        Self {
            device: match place.mode {
                Mode::File => above.find_map(|path| Some(fs::metadata(path).ok()?.dev())),
                Mode::Image => None,
            },
            node,
        }
    }
}

/// Where something was found.
pub type Seen = HashMap<Place, Sight>;
