//! The ground of the driver that has a client send backups as whole objects: an emulator of
//! that client, for the real one cannot be had.

use crate::Ground;
use crate::common::dsmc::Dsmc;
use crate::common::library::{MIB, Rooms};
use cinderfs::config::Config;
use cinderfs::driver::{Backup, build};
use std::fs;
use std::path::{Path, PathBuf};

/// A listing that is never old enough.
const NO_TTL: &str = "list_ttl = 0\n";

/// A server of its own.
pub struct Objects {
    folder: tempfile::TempDir,
    dsmc: Dsmc,
}

impl Objects {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dsmc = Dsmc::new(&folder.path().join("tsm"));
        Self { folder, dsmc }
    }

    fn staging(&self) -> PathBuf {
        self.folder.path().join("staging")
    }

    fn with(&self, lines: &str) -> Rooms {
        let file = self.folder.path().join("cinder.conf");
        let text = format!(
            "[tsm]\nbackup_driver = tsm\nbackup_tsm_dsmc_path = {}\n\
             backup_tsm_staging_path = {}\n{lines}",
            self.dsmc.program().display(),
            self.staging().display()
        );
        fs::write(&file, text).unwrap();
        let config = Config::load(&file).unwrap();
        Rooms::with(64 * MIB, |resources| {
            build(&config.backends[0], resources).unwrap()
        })
    }

    /// What the server has, and notes, and what is on its way.
    fn parts(&self) -> Vec<(String, Vec<u8>)> {
        let sent = self.dsmc.objects().into_iter();
        let mut found: Vec<_> = sent.map(|path| (path, Vec::new())).collect();
        for folder in [".catalog", ".spool"] {
            let entries = fs::read_dir(self.staging().join(folder));
            for entry in entries.into_iter().flatten() {
                let path = entry.unwrap().path();
                // The lock on notes stays.
                if path.ends_with(".lock") {
                    continue;
                }
                found.push((path.display().to_string(), fs::read(&path).unwrap()));
            }
        }
        found.sort();
        found
    }
}

impl Ground for Objects {
    fn rooms(&self) -> Rooms {
        self.with(NO_TTL)
    }

    fn auto(&self, _max_chain: Option<u32>) -> Rooms {
        self.with(&format!("{NO_TTL}incremental = auto\n"))
    }

    fn append_only(&self) -> Rooms {
        self.with(&format!("{NO_TTL}append_only = true\n"))
    }

    fn slow(&self) -> Rooms {
        self.with("list_ttl = 3600\n")
    }

    async fn objects(&self) -> Vec<String> {
        self.parts().into_iter().map(|(name, _)| name).collect()
    }

    async fn content(&self) -> Vec<(String, Vec<u8>)> {
        self.parts()
    }

    async fn check(&self, backup: &Backup, parent: Option<(&Backup, &[u8])>, image: &[u8]) {
        assert!(parent.is_none(), "there are no increments");
        let rooms = self.rooms();
        let found = rooms.find("v", &backup.id).await;
        for backup in [backup, &*found] {
            assert_eq!((backup.depth, &backup.parent_id), (0, &None));
            assert_eq!(backup.size, image.len() as u64);
        }
        assert_eq!(found.generation, backup.generation);
        assert!(
            rooms.read_all("v", &backup.id).await.unwrap() == image,
            "another image"
        );
        let own = self.dsmc.objects();
        let named = own.iter().filter(|path| {
            let name = Path::new(path).file_name().unwrap();
            name.to_str().unwrap().ends_with(&backup.id)
        });
        assert_eq!(named.count(), 1, "{own:?}");
    }

    fn rounds(&self, most: u64) -> u64 {
        most.min(2)
    }
}
