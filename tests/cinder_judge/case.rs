//! One store, with Cinder on one side and mounts on the other. Both have the same
//! configuration file.

use crate::common::glusterfs::Gluster;
use crate::common::judge::{Judge, Row};
use crate::common::mount::{Backend, Lab, Mount, command, names, run, wait_for};
use crate::common::swift::{Account, Cloud, Swift};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How objects are made.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    /// `backup_compression_algorithm`.
    pub compression: &'static str,
    /// `backup_file_size`.
    pub object_size: usize,
}

/// Objects of 1 MiB.
pub const fn mib(compression: &'static str) -> Format {
    Format {
        compression,
        object_size: 1 << 20,
    }
}

/// Objects of one block, which is the least: 32 KiB.
pub const fn least(compression: &'static str) -> Format {
    Format {
        compression,
        object_size: 32 << 10,
    }
}

/// All spellings of all codecs.
pub const CODECS: [&str; 6] = ["zlib", "gzip", "bz2", "bzip2", "zstd", "none"];

/// Volumes of Cinder's have whole GiB. Their files here are as long as the image.
const GIB: u64 = 1;

/// Where a file is written.
#[derive(Debug, Clone, Copy)]
pub enum To {
    /// `<volume>/NAME`
    Volume,
    /// `<volume>/.incremental/NAME`
    Incremental,
}

/// What a store is on.
#[derive(Debug)]
pub enum Ground {
    /// A folder.
    Posix,
    /// A share of GlusterFS's that no other test has. Cinder mounts it, or we do.
    GlusterFs,
    /// An account of Swift's that no other test has.
    Swift(Account),
}

impl Ground {
    /// An account of version 1. None when `--quick` leaves servers out.
    pub fn swift() -> Option<Self> {
        Some(Self::Swift(Swift::shared()?.account()))
    }

    /// A project of Keystone's. None when `--quick` leaves servers out.
    pub fn keystone() -> Option<Self> {
        Some(Self::Swift(Cloud::shared()?.keystone.project()))
    }

    /// None when `--quick` leaves servers out.
    pub fn glusterfs() -> Option<Self> {
        Gluster::shared().map(|_| Self::GlusterFs)
    }

    fn options(&self, format: Format) -> String {
        let (object_size, more) = match self {
            Self::Posix | Self::GlusterFs => ("backup_file_size", ""),
            // Users of Cinder's choose containers as they like.
            Self::Swift(_) => (
                "backup_swift_object_size",
                "backup_swift_containers = all\n",
            ),
        };
        format!(
            "{object_size} = {}\nbackup_compression_algorithm = {}\nlist_ttl = 0\n{more}",
            format.object_size, format.compression
        )
    }
}

/// The folders of a case, which outlive its mounts.
pub fn lab(ground: &Ground, format: Format) -> Lab {
    let options = ground.options(format);
    match ground {
        Ground::Posix => Lab::with(&options),
        Ground::GlusterFs => Lab::on(Backend::GlusterFs, &options).unwrap(),
        Ground::Swift(account) => Lab::on_swift(account, &options),
    }
}

/// An object of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    container: String,
    name: String,
}

pub struct Case<'a> {
    ground: &'a Ground,
    lab: &'a Lab,
    pub judge: Judge,
    /// Files made so far.
    files: u32,
}

impl<'a> Case<'a> {
    /// None when that Cinder is not here and `--quick` leaves it out.
    pub fn new(ground: &'a Ground, lab: &'a Lab, version: &str) -> Option<Self> {
        let judge = Judge::start(version, &lab.config())?;
        Some(Self {
            ground,
            lab,
            judge,
            files: 0,
        })
    }

    /// Objects are made in another way from now on, by Cinder and by new mounts.
    pub fn configure(&mut self, format: Format) {
        self.lab.configure(&self.ground.options(format));
        self.judge.reload();
    }

    /// Another Cinder, which knows of no backup yet.
    pub fn replace_judge(&mut self, version: &str) {
        self.judge = Judge::start(version, &self.lab.config()).unwrap();
    }

    /// A file outside the mounts that is not there yet.
    pub fn new_path(&mut self, what: &str) -> PathBuf {
        self.files += 1;
        self.lab.path(&format!("{what}-{}", self.files))
    }

    /// Lets a volume of Cinder's have that image.
    pub fn volume(&mut self, id: &str, image: &[u8]) {
        let file = self.new_path("volume");
        fs::write(&file, image).unwrap();
        self.judge.volume(id, &file, GIB);
    }

    /// Backs an image up through a mount, with cp(1).
    pub fn copy(&mut self, mount: &Mount<'_>, volume: &str, to: To, name: &str, image: &[u8]) {
        let source = self.new_path("image");
        fs::write(&source, image).unwrap();
        let folder = match to {
            To::Volume => mount.volume(volume),
            To::Incremental => mount.volume(volume).join(".incremental"),
        };
        run(&mut command("cp", &[&source, &folder.join(name)]));
        fs::remove_file(source).unwrap();
        let path = mount.volume(volume).join(name);
        assert!(
            fs::read(path).unwrap() == image,
            "{name} does not read back"
        );
        // That of an empty file is listed a moment after it was closed.
        wait_for("the backup", || {
            names(&mount.volume(volume)).contains(&name.to_owned())
        });
    }

    /// The record that we make of a backup.
    pub fn record(&self, volume: &str, name: &str) -> Value {
        let mut arguments = vec!["record".into(), "--config".into()];
        arguments.push(self.lab.config().into_os_string());
        arguments.push(format!("{}/{volume}/{name}", self.lab.backend()).into());
        serde_json::from_str(&run(&mut self.lab.cinderfs(&arguments))).unwrap()
    }

    /// Tells Cinder of a backup by the record that we make of it.
    pub fn import(&mut self, volume: &str, name: &str) -> Row {
        let record = self.record(volume, name);
        self.judge.import(&record)
    }

    /// Cinder must restore a backup equal to an image: onto a new volume, and over one that
    /// is full of ones, beyond whose end it must not go.
    pub fn check_restored(&mut self, backup: &str, image: &[u8]) {
        assert!(
            self.restored(backup, image.len()) == image,
            "{backup} restored onto a new volume differs"
        );

        let over = self.new_path("restored");
        fs::write(&over, vec![0xFF; image.len() + 65_536]).unwrap();
        let volume = uuid::Uuid::new_v4().to_string();
        self.judge.volume(&volume, &over, GIB);
        self.judge.restore_over(backup, &volume);
        let restored = fs::read(&over).unwrap();
        fs::remove_file(over).unwrap();
        assert!(
            restored.starts_with(image),
            "{backup} restored over a volume differs"
        );
        let beyond = &restored[image.len()..];
        assert!(
            beyond.len() == 65_536 && beyond.iter().all(|byte| *byte == 0xFF),
            "{backup} restored over a larger volume goes beyond its end"
        );
    }

    /// What Cinder makes of a backup on a new volume of `length` bytes. It leaves zeros out
    /// there, also at the end.
    pub fn restored(&mut self, backup: &str, length: usize) -> Vec<u8> {
        let new = self.new_path("restored");
        self.judge.restore_new(backup, &new);
        let mut restored = fs::read(&new).unwrap();
        fs::remove_file(new).unwrap();
        if restored.len() < length {
            restored.resize(length, 0);
        }
        restored
    }

    /// All that is in the store.
    pub fn stored(&self) -> Vec<Object> {
        let mut found = Vec::new();
        match self.ground {
            Ground::Posix | Ground::GlusterFs => {
                let store = self.lab.store();
                for path in files(&store) {
                    let folder = path.parent().unwrap().strip_prefix(&store).unwrap();
                    found.push(Object {
                        container: folder.to_str().unwrap().to_owned(),
                        name: path.file_name().unwrap().to_str().unwrap().to_owned(),
                    });
                }
            }
            Ground::Swift(account) => {
                let client = account.client();
                for container in client.containers() {
                    for name in client.list(&container, "") {
                        found.push(Object {
                            container: container.clone(),
                            name,
                        });
                    }
                }
            }
        }
        found
    }

    /// What of it belongs to a backup.
    pub fn objects(&self, backup: &str) -> Vec<Object> {
        let mut found = self.stored();
        found.retain(|object| object.name.starts_with("volume_") && object.name.contains(backup));
        found
    }

    /// The metadata of a backup, as it is in the store.
    pub fn metadata(&self, backup: &str) -> Value {
        let mut found = self.objects(backup);
        found.retain(|object| object.name.ends_with("_metadata"));
        assert_eq!(found.len(), 1);
        let Object { container, name } = &found[0];
        let bytes = match self.ground {
            Ground::Posix | Ground::GlusterFs => {
                fs::read(self.lab.store().join(container).join(name)).unwrap()
            }
            Ground::Swift(account) => account.client().get(container, name),
        };
        serde_json::from_slice(&bytes).unwrap()
    }
}

/// A volume's id.
pub fn new_volume() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// The path of a backup of any name in a mount.
pub fn path_of(mount: &Mount<'_>, backup: &str) -> PathBuf {
    let link = mount.path(".cinderfs/by-id").join(backup);
    fs::canonicalize(&link).unwrap_or_else(|e| panic!("{}: {e}", link.display()))
}

/// The name of a backup in a mount.
pub fn name_of(mount: &Mount<'_>, backup: &str) -> String {
    let path = path_of(mount, backup);
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// A mount must show a backup equal to an image.
pub fn check_shown(mount: &Mount<'_>, backup: &str, image: &[u8]) {
    let shown = fs::read(path_of(mount, backup)).unwrap();
    assert!(shown == image, "{backup} read through the mount differs");
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

/// Waits until what is made has another time than all that was: records have seconds, and
/// Cinder takes the newest backup for the parent.
pub fn next_second() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let into = Duration::from_nanos(now.unwrap().subsec_nanos().into());
    std::thread::sleep(Duration::from_millis(1005) - into);
}
