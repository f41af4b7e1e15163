use super::*;
use crate::budget::Budget;
use crate::codec::Codec;
use crate::config::Incremental;
use crate::driver::chunked::ChunkedDriver;
use crate::driver::chunked::listing::watched::{CONTAINER, Watched, Ways};
use crate::driver::{BackupDriver, Resources};
use crate::format::{ObjectEntry, Own};
use crate::store::Body;

const NEVER: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(3600);

fn name(volume: &str, number: u32) -> BackupName {
    let id = format!("{number:08x}-1111-4567-89ab-1cdef1234567");
    BackupName::new_swift(CONTAINER, "nova", volume, &id, "20261121003832")
}

/// Of every backup.
const CHUNKS: u64 = 20;

fn chunk(number: u64) -> ObjectEntry {
    ObjectEntry {
        number,
        offset: (number - 1) << 10,
        length: 1 << 10,
        codec: Codec::None,
        compression: "none".into(),
        md5: [7; 16],
    }
}

fn options(list_ttl: Duration) -> Options {
    Options {
        service: "cinder.backup.drivers.swift.SwiftBackupDriver",
        layout: Layout::Swift,
        container: None,
        object_size: 64 << 10,
        sha_block_size: 4 << 10,
        codec: Codec::None,
        compression: "none".into(),
        list_ttl,
        append_only: false,
        incremental: Incremental::Never,
        max_chain: None,
    }
}

struct Lab {
    store: Arc<Watched>,
    catalog: Arc<Catalog>,
}

impl Lab {
    fn new(ways: Ways, list_ttl: Duration) -> Self {
        let store = Arc::new(Watched::new(ways));
        let shared: Arc<dyn ObjectStore> = Arc::clone(&store) as _;
        Self {
            catalog: Arc::new(Catalog::new(&shared, &options(list_ttl))),
            store,
        }
    }

    async fn put(&self, name: &BackupName, title: &str) {
        let metadata = Metadata {
            backup_name: Some(title.to_owned()),
            backup_description: None,
            created_at: name.stamped_at(),
            parent_id: None,
            volume_meta: None,
            objects: (1..=CHUNKS).map(chunk).collect(),
            own: Own::default(),
        };
        let body = Body::Bytes(metadata.format(name).into());
        let metadata = name.metadata();
        self.store.put(CONTAINER, &metadata, body).await.unwrap();
        self.store
            .fill((1..=CHUNKS).map(|number| name.chunk(number)))
            .await;
    }

    /// The names of the backups of a volume, and how many pages and objects that took.
    async fn titles(&self, volume: &str) -> (Vec<String>, u64, u64) {
        self.store.take_pages();
        self.store.take_looks();
        let backups = self.catalog.backups(volume).await.unwrap();
        let titles = backups.iter().map(|backup| {
            assert!(backup.fault.is_none(), "{backup:?}");
            backup.name.clone().unwrap()
        });
        let titles = titles.collect();
        (titles, self.store.take_pages(), self.store.take_looks())
    }

    async fn volumes(&self) -> (Vec<String>, u64) {
        self.store.take_pages();
        let volumes = self.catalog.volumes().await.unwrap();
        (volumes, self.store.take_pages())
    }
}

fn told<const N: usize>(titles: [&str; N], pages: u64, looks: u64) -> (Vec<String>, u64, u64) {
    (titles.map(str::to_owned).into(), pages, looks)
}

#[tokio::test]
async fn a_volume_is_listed_by_itself_and_its_metadata_read_once() {
    for (list_ttl, again) in [(NEVER, 1), (LONG, 0)] {
        let lab = Lab::new(Ways::default(), list_ttl);
        lab.put(&name("v", 1), "one").await;
        lab.put(&name("v", 2), "two").await;
        lab.put(&name("w", 3), "three").await;
        assert_eq!(lab.volumes().await, (vec!["v".into(), "w".into()], 1));
        assert_eq!(lab.volumes().await.1, again);
        assert_eq!(lab.titles("v").await, told(["one", "two"], 1, 2));
        assert_eq!(lab.titles("v").await, told(["one", "two"], again, 0));
        assert_eq!(lab.titles("w").await, told(["three"], 1, 1));
        assert_eq!(lab.titles("unheard of").await, told([], 1, 0));
        // Somebody else writes.
        lab.put(&name("v", 1), "anew").await;
        let (titles, _, looks) = lab.titles("v").await;
        assert_eq!(looks, again);
        assert_eq!(titles[0], ["one", "anew"][again as usize]);
        lab.catalog.backups_now("w").await.unwrap();
        assert_eq!(lab.titles("v").await.1, again);
        assert_eq!(lab.titles("w").await, told(["three"], again, 0));
        lab.catalog.forget_listing().await;
        assert_eq!(lab.titles("v").await.0, ["anew", "two"]);
        assert_eq!(lab.titles("w").await.1, 1);
        assert_eq!(lab.volumes().await.1, 1);
    }
}

#[tokio::test]
async fn what_we_have_done_shows_at_once() {
    let lab = Lab::new(Ways::default(), LONG);
    assert_eq!(lab.volumes().await, (vec![], 1));
    assert_eq!(lab.titles("v").await, told([], 1, 0));
    let one = name("v", 1);
    lab.put(&one, "one").await;
    lab.catalog.changed(&one).await;
    // Its metadata is asked for its version, and read.
    assert_eq!(lab.titles("v").await, told(["one"], 0, 2));
    assert_eq!(lab.volumes().await, (vec!["v".into()], 0));
    lab.put(&one, "anew").await;
    lab.catalog.changed(&one).await;
    assert_eq!(lab.titles("v").await, told(["anew"], 0, 2));
    lab.catalog.removed(&one).await;
    assert_eq!(lab.titles("v").await, told([], 0, 0));
    assert_eq!(lab.volumes().await, (vec![], 0));
}

#[tokio::test]
async fn a_listing_that_is_late_loses_nothing_that_we_have_stored() {
    let lab = Lab::new(Ways::default(), NEVER);
    let (old, new) = (name("v", 1), name("v", 2));
    lab.put(&old, "old").await;
    assert_eq!(lab.titles("v").await, told(["old"], 1, 1));
    lab.store.freeze().await;
    // One is rewritten, and one is new, in a volume and in one that is new, too.
    lab.put(&old, "rewritten").await;
    lab.catalog.changed(&old).await;
    lab.put(&new, "new").await;
    lab.catalog.changed(&new).await;
    let first = name("w", 3);
    lab.put(&first, "first").await;
    lab.catalog.changed(&first).await;
    assert_eq!(lab.titles("v").await, told(["rewritten", "new"], 1, 4));
    // What is known now is not read again.
    assert_eq!(lab.titles("v").await, told(["rewritten", "new"], 1, 2));
    assert_eq!(lab.volumes().await.0, ["v", "w"]);
    assert_eq!(lab.titles("w").await.0, ["first"]);
    lab.store.settle();
    assert_eq!(lab.titles("v").await, told(["rewritten", "new"], 1, 0));
    assert_eq!(lab.titles("w").await, told(["first"], 1, 0));
    assert_eq!(lab.volumes().await, (vec!["v".into(), "w".into()], 1));
}

#[tokio::test]
async fn a_listing_that_is_late_shows_nothing_that_is_gone() {
    let lab = Lab::new(Ways::default(), NEVER);
    let (own, other, stays) = (name("v", 1), name("w", 2), name("v", 3));
    for (name, title) in [(&own, "own"), (&other, "other"), (&stays, "stays")] {
        lab.put(name, title).await;
    }
    lab.catalog.changed(&own).await;
    assert_eq!(lab.titles("v").await.0, ["own", "stays"]);
    lab.store.freeze().await;
    for name in [&own, &other] {
        let deleted = lab.store.delete(CONTAINER, &name.metadata()).await;
        deleted.unwrap();
    }
    lab.catalog.removed(&own).await;
    assert_eq!(lab.titles("v").await.0, ["stays"]);
    // Deleted by somebody else, and never seen here.
    assert_eq!(lab.titles("w").await.0, [""; 0]);
    // Such a volume is there, and empty.
    assert_eq!(lab.volumes().await.0, ["v", "w"]);
    lab.store.settle();
    assert_eq!(lab.titles("v").await, told(["stays"], 1, 0));
}

#[tokio::test]
async fn what_we_have_stored_and_somebody_has_deleted_is_gone() {
    let lab = Lab::new(Ways::default(), NEVER);
    let one = name("v", 1);
    lab.put(&one, "one").await;
    lab.catalog.changed(&one).await;
    assert_eq!(lab.titles("v").await.0, ["one"]);
    let objects = lab.store.list(CONTAINER, &one.prefix).await.unwrap();
    for object in objects {
        lab.store.delete(CONTAINER, &object.name).await.unwrap();
    }
    assert_eq!(lab.titles("v").await.0, [""; 0]);
    assert_eq!(lab.volumes().await.0, [""; 0]);
}

#[tokio::test]
async fn a_listing_that_is_late_leaves_nothing_of_what_is_deleted() {
    let lab = Lab::new(Ways::default(), LONG);
    let (one, other) = (name("v", 1), name("v", 2));
    lab.put(&other, "other").await;
    lab.store.freeze().await;
    lab.put(&one, "one").await;
    // The list of hashes is named by nothing, and is there all the same.
    lab.store.fill([one.sha256file()]).await;
    let resources = Resources {
        budget: Budget::new(64 << 20),
        spool_path: std::env::temp_dir(),
    };
    let store: Arc<dyn ObjectStore> = Arc::clone(&lab.store) as _;
    let driver = ChunkedDriver::new(store, options(LONG), &resources);
    driver.shared.catalog.changed(&one).await;
    let backup = driver.shared.catalog.backup(&one).await.unwrap();
    driver.delete(&backup).await.unwrap();
    assert_eq!(driver.backups("v").await.unwrap().len(), 1);
    lab.store.settle();
    let left = lab.store.list(CONTAINER, "").await.unwrap();
    assert_eq!(left.len() as u64, CHUNKS + 1);
    assert!(left.iter().all(|left| left.name.starts_with(&other.prefix)));
}

#[tokio::test]
async fn nobody_waits_for_the_listing_of_another_volume() {
    let ways = Ways {
        held_up: "volume_slow/",
        ..Ways::default()
    };
    let lab = Lab::new(ways, LONG);
    lab.put(&name("v", 1), "one").await;
    lab.put(&name("slow", 2), "two").await;
    let catalog = Arc::clone(&lab.catalog);
    let slow = tokio::spawn(async move { catalog.backups("slow").await });
    lab.store.waiting.acquire().await.unwrap().forget();
    assert_eq!(lab.titles("v").await, told(["one"], 1, 1));
    assert_eq!(lab.titles("v").await, told(["one"], 0, 0));
    assert_eq!(lab.volumes().await, (vec!["slow".into(), "v".into()], 1));
    lab.catalog.changed(&name("v", 1)).await;
    assert_eq!(lab.titles("v").await.0, ["one"]);
    assert!(!slow.is_finished());
    lab.store.may_go.add_permits(1);
    assert_eq!(slow.await.unwrap().unwrap().len(), 1);
}
