//! The ground of the driver that keeps backups as images: a pool of a real Ceph cluster.

use crate::Ground;
use crate::common::ceph::{Ceph, Pool};
use crate::common::library::{MIB, Rooms};
use cinderfs::config::Config;
use cinderfs::driver::{Backup, build};

/// A listing that is never old enough.
const NO_TTL: &str = "list_ttl = 0\n";

/// A pool of its own.
pub struct Images {
    pool: Pool,
    folder: tempfile::TempDir,
}

impl Images {
    /// None when `--quick` leaves it out.
    pub fn new() -> Option<Self> {
        Some(Self {
            pool: Ceph::shared()?.pool(),
            folder: tempfile::tempdir().unwrap(),
        })
    }

    fn with(&self, lines: &str) -> Rooms {
        let file = self.folder.path().join("cinder.conf");
        let text = format!(
            "[ceph]\nbackup_driver = ceph\nbackup_ceph_chunk_size = 65536\n{}{lines}",
            self.pool.lines()
        );
        std::fs::write(&file, text).unwrap();
        let config = Config::load(&file).unwrap();
        Rooms::with(64 * MIB, |resources| {
            build(&config.backends[0], resources).unwrap()
        })
    }

    /// What belongs to images: their snapshots and notes, by their names.
    fn parts(&self) -> Vec<(String, Vec<u8>)> {
        let mut found = Vec::new();
        for image in self.pool.images() {
            let snaps = self.pool.rbd(&["snap", "ls", "--format", "json", &image]);
            let notes = self
                .pool
                .rbd(&["image-meta", "ls", "--format", "json", &image]);
            found.push((image, format!("{snaps}{notes}").into_bytes()));
        }
        found
    }
}

impl Ground for Images {
    fn rooms(&self) -> Rooms {
        self.with(NO_TTL)
    }

    fn auto(&self, max_chain: Option<u32>) -> Rooms {
        let most = max_chain.map(|most| format!("max_chain = {most}\n"));
        self.with(&format!(
            "{NO_TTL}incremental = auto\n{}",
            most.unwrap_or_default()
        ))
    }

    fn append_only(&self) -> Rooms {
        self.with(&format!("{NO_TTL}append_only = true\n"))
    }

    fn slow(&self) -> Rooms {
        self.with("list_ttl = 3600\n")
    }

    async fn objects(&self) -> Vec<String> {
        let all = self.pool.rados(&["ls"]);
        let of_pool = ["rbd_directory", "rbd_info", "rbd_trash"];
        // Data that only snapshots had, the cluster removes in its own time.
        let mut found: Vec<String> = all
            .lines()
            .filter(|name| !of_pool.contains(name) && !name.starts_with("rbd_data."))
            .map(str::to_owned)
            .collect();
        found.sort();
        found
    }

    async fn content(&self) -> Vec<(String, Vec<u8>)> {
        self.parts()
    }

    async fn check(&self, backup: &Backup, parent: Option<(&Backup, &[u8])>, image: &[u8]) {
        let rooms = self.rooms();
        let found = rooms.find("v", &backup.id).await;
        for backup in [backup, &*found] {
            let parent = parent.map(|(parent, _)| parent);
            assert_eq!(backup.parent_id.as_ref(), parent.map(|parent| &parent.id));
            assert_eq!(backup.depth, parent.map_or(0, |parent| parent.depth + 1));
            assert_eq!(backup.size, image.len() as u64);
            assert!(parent.is_none_or(|parent| backup.created_at > parent.created_at));
        }
        assert_eq!(found.generation, backup.generation);
        assert!(
            rooms.read_all("v", &backup.id).await.unwrap() == image,
            "another image"
        );
        let own = format!("backup.{}.snap.", backup.id);
        let parts = self.parts();
        let text = parts.iter().map(|(_, text)| String::from_utf8_lossy(text));
        let named: usize = text
            .map(|text| text.matches(&format!("\"name\":\"{own}")).count())
            .sum();
        assert_eq!(named, 1, "{parts:?}");
    }

    fn rounds(&self, most: u64) -> u64 {
        most.min(4)
    }
}
