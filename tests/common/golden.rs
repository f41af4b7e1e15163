//! Backups that real Cinder wrote, and what it said of them.

use super::swift::{Account, Swift};
use cinderfs::format::Layout;
use cinderfs::store::ObjectStore;
use cinderfs::store::posix::PosixStore;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// A line of a manifest.
#[derive(Debug, Clone)]
pub struct Golden {
    pub tree: Tree,
    pub id: String,
    pub volume: String,
    pub parent: Option<String>,
    pub container: String,
    pub prefix: String,
    pub size: u64,
    pub sha256: String,
    /// `YYYYmmddTHHMMSSZ`
    pub created: String,
    pub depth: u32,
    pub compression: String,
}

/// A tree of files below `tests/golden`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tree {
    Posix,
    Nfs,
    Swift,
    OldSwift,
}

pub const TREES: [Tree; 4] = [Tree::Posix, Tree::Nfs, Tree::Swift, Tree::OldSwift];

impl Tree {
    pub fn layout(self) -> Layout {
        match self {
            Self::Posix | Self::Nfs => Layout::Posix,
            Self::Swift | Self::OldSwift => Layout::Swift,
        }
    }

    /// The folder below which the driver's own layout begins.
    pub fn path(self) -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        match self {
            Self::Posix => root.join("posix"),
            // Named by the md5 of the share, which was 127.0.0.1:/export/backups.
            Self::Nfs => root.join("nfs/6953a427c4832e336deb3db2466946a2"),
            Self::Swift => root.join("swift"),
            Self::OldSwift => root.join("old/swift"),
        }
    }

    /// To be read only. None when it needs a Swift, and `--quick` leaves that out.
    pub fn store(self) -> Option<Arc<dyn ObjectStore>> {
        match self.layout() {
            Layout::Posix => Some(Arc::new(PosixStore::open(&self.path()).unwrap())),
            Layout::Swift => Some(Arc::new(self.account()?.store())),
        }
    }

    /// A swift tree, in a Swift that all tests of this program share. To be read only.
    pub fn account(self) -> Option<&'static Account> {
        static NEW: OnceLock<Option<Account>> = OnceLock::new();
        static OLD: OnceLock<Option<Account>> = OnceLock::new();
        let cell = match self {
            Self::Posix | Self::Nfs => panic!("{self:?} is a tree of files"),
            Self::Swift => &NEW,
            Self::OldSwift => &OLD,
        };
        let load = || {
            let account = Swift::shared()?.account();
            account.client().load(&self.path());
            Some(account)
        };
        cell.get_or_init(load).as_ref()
    }

    /// A copy of a posix tree, to be changed.
    pub fn copy(self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_tree(&self.path(), copy.path());
        copy
    }

    /// All that the manifests say of this tree.
    pub fn backups(self) -> Vec<Golden> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let manifest = match self {
            Self::OldSwift => root.join("old/manifest.json"),
            _ => root.join("manifest.json"),
        };
        let manifest: Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
        let mut found: Vec<Golden> = Vec::new();
        for line in manifest["backups"].as_array().unwrap() {
            let text = |key: &str| line[key].as_str().map(str::to_owned);
            let tree = match text("driver").as_deref() {
                Some("posix") => Self::Posix,
                Some("nfs") => Self::Nfs,
                Some("swift") => Self::Swift,
                _ => Self::OldSwift,
            };
            if tree != self {
                continue;
            }
            let digits: String = text("created_at").unwrap()[..19]
                .chars()
                .filter(|c| c.is_ascii_digit())
                .collect();
            let parent = text("parent_id");
            let below = found
                .iter()
                .find(|other| Some(&other.id) == parent.as_ref());
            found.push(Golden {
                tree,
                id: text("backup_id").unwrap(),
                volume: text("volume_id").unwrap(),
                depth: below.map_or(0, |below| below.depth + 1),
                parent,
                container: text("container").unwrap(),
                prefix: text("prefix").or(text("service_metadata")).unwrap(),
                size: line["volume_bytes"].as_u64().unwrap(),
                sha256: text("volume_sha256").unwrap(),
                created: format!("{}T{}Z", &digits[..8], &digits[8..]),
                compression: text("compression")
                    .or(text("compression_configured"))
                    .unwrap(),
            });
        }
        assert!(!found.is_empty());
        found
    }
}

pub fn sha256(data: &[u8]) -> String {
    cinderfs::format::to_hex(&Sha256::digest(data))
}

pub fn copy_tree(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}
