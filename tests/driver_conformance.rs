//! What every driver promises. To check another one: a line in `every_driver`.

mod common;

use cinderfs::driver::chunked::Options;
use cinderfs::driver::{BackupDriver, BackupSink, Basis, Change, ChunkData, Description};
use cinderfs::error::{Kind, Result};
use cinderfs::format::Layout;
use cinderfs::store::ObjectStore;
use cinderfs::store::memory::MemoryStore;
use cinderfs::store::posix::PosixStore;
use common::cinder::{Cinder, get, put};
use common::library::{Dice, MIB, Rooms, compressed, described, options};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// What a promise is checked on.
struct Place {
    store: Arc<dyn ObjectStore>,
    layout: Layout,
    _folder: Option<tempfile::TempDir>,
}

impl Place {
    fn memory(layout: Layout) -> Self {
        Self {
            store: Arc::new(MemoryStore::new()),
            layout,
            _folder: None,
        }
    }

    fn posix() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            store: Arc::new(PosixStore::open(folder.path()).unwrap()),
            layout: Layout::Posix,
            _folder: Some(folder),
        }
    }

    fn with(&self, options: Options) -> Rooms {
        Rooms::new(Arc::clone(&self.store), options, 64 * MIB)
    }

    fn rooms(&self) -> Rooms {
        self.with(options(self.layout))
    }

    async fn objects(&self) -> Vec<String> {
        let mut found = Vec::new();
        for container in self.store.containers("").await.unwrap() {
            for entry in self.store.list(&container, "").await.unwrap() {
                found.push(entry.name);
            }
        }
        found
    }
}

macro_rules! every_driver {
    ($($driver:ident: $make:expr;)*) => {$(
        mod $driver {
            use super::*;

            every_promise! { $make;
                publishes_what_was_stored
                takes_chunks_in_any_order
                publishes_again
                two_rewritten_chunks_never_share_an_object
                discards
                changes_names_descriptions_and_times
                deletes_what_nothing_is_built_on
                deletes_nothing_when_it_may_only_append
                lists_nothing_without_metadata
                refuses_what_is_incomplete
                shows_what_others_do
                tells_of_a_backup_that_is_gone
            }
        }
    )*};
}

macro_rules! every_promise {
    ($make:expr; $($promise:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $promise() {
            super::$promise(&$make).await;
        }
    )*};
}

every_driver! {
    posix_layout_in_memory: Place::memory(Layout::Posix);
    swift_layout_in_memory: Place::memory(Layout::Swift);
    posix: Place::posix();
}

fn chunk(bytes: &[u8]) -> ChunkData {
    ChunkData::Memory(bytes.to_vec().into())
}

async fn store_all(sink: &dyn BackupSink, image: &[u8]) -> Result<()> {
    for (index, bytes) in (0..).zip(image.chunks(sink.chunk_size() as usize)) {
        sink.store(index, chunk(bytes)).await?;
    }
    Ok(())
}

async fn publishes_what_was_stored(place: &Place) {
    for length in [0, 1, 4096, 65_536, 65_537, 300_000] {
        for compression in ["none", "zlib", "bz2", "zstd"] {
            let rooms = place.with(compressed(place.layout, compression));
            let image = Dice(length as u64 + 1).image(length);
            let sink = rooms.driver.create("vol", Basis::Full).await.unwrap();
            store_all(sink.as_ref(), &image).await.unwrap();
            let description = Description {
                name: "täglich.img".into(),
                description: Some("☃".into()),
                modified: Some(SystemTime::UNIX_EPOCH + Duration::new(5, 6)),
            };
            let published = sink.publish(length as u64, &description).await.unwrap();
            assert_eq!(published.id, sink.backup_id());
            // A driver that knows nothing yet.
            let rooms = place.rooms();
            assert!(
                rooms
                    .driver
                    .volumes()
                    .await
                    .unwrap()
                    .contains(&"vol".into())
            );
            let backup = rooms.find("vol", &published.id).await;
            assert_eq!(backup.size, length as u64);
            assert_eq!(backup.name.as_deref(), Some("täglich.img"));
            assert!(backup.written_as_file);
            assert_eq!(backup.description.as_deref(), Some("☃"));
            assert_eq!(backup.modified, description.modified);
            assert_eq!(backup.object_count, length.div_ceil(65_536) as u64);
            assert_eq!((backup.depth, &backup.parent_id), (0, &None));
            let data = image
                .chunks(4096)
                .filter(|block| block.iter().any(|b| *b != 0));
            let data: usize = data.map(<[u8]>::len).sum();
            assert_eq!(backup.data_bytes, Some(data as u64));
            let reader = rooms.open(&backup).await.unwrap();
            assert_eq!(reader.data_bytes().await.unwrap(), data as u64);
            assert!(rooms.read_all("vol", &backup.id).await.unwrap() == image);
            let mut stored = 0;
            for number in 1..=backup.object_count {
                let name = format!("{}-{number:05}", backup.service_metadata);
                stored += place
                    .store
                    .stat(&backup.container, &name)
                    .await
                    .unwrap()
                    .size;
            }
            assert_eq!(backup.stored_bytes, Some(stored));
        }
    }
}

async fn takes_chunks_in_any_order(place: &Place) {
    let rooms = place.rooms();
    let image = Dice(1).image(400_000);
    let sink = rooms.driver.create("v", Basis::Full).await.unwrap();
    for index in [6u64, 2, 0, 5, 1, 3] {
        let start = index as usize * 65_536;
        let bytes = &image[start..image.len().min(start + 65_536)];
        sink.store(index, ChunkData::Zero(bytes.len() as u64))
            .await
            .unwrap();
        sink.store(index, chunk(bytes)).await.unwrap();
        let loaded = sink.load(index).await.unwrap().unwrap();
        let mut read = vec![0; bytes.len()];
        assert_eq!(loaded.len(), bytes.len() as u64);
        loaded.read_at(0, &mut read).unwrap();
        assert!(read == bytes);
    }
    assert!(sink.load(4).await.unwrap().is_none());
    let mut image = image;
    image[4 * 65_536..5 * 65_536].fill(0);
    let backup = sink.publish(400_000, &described("a")).await.unwrap();
    assert!(rooms.read_all("v", &backup.id).await.unwrap() == image);
    // Numbers and order are Cinder's.
    let text = get(
        place.store.as_ref(),
        &backup.container,
        &format!("{}_metadata", backup.service_metadata),
    )
    .await;
    let document: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let names: Vec<String> = document["objects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry.as_object().unwrap().keys().next().unwrap().clone())
        .collect();
    let expected: Vec<String> = (1..=7)
        .map(|n| format!("{}-{n:05}", backup.service_metadata))
        .collect();
    assert_eq!(names, expected);
}

async fn publishes_again(place: &Place) {
    let rooms = place.rooms();
    let mut image = Dice(1).image(200_000);
    let sink = rooms.driver.create("v", Basis::Full).await.unwrap();
    // As the first FLUSH of a new file does.
    let empty = sink.publish(0, &described("a")).await.unwrap();
    assert_eq!(empty.size, 0);
    store_all(sink.as_ref(), &image).await.unwrap();
    let one = sink.publish(200_000, &described("a")).await.unwrap();
    assert!(rooms.read_all("v", &one.id).await.unwrap() == image);
    image[70_000] ^= 1;
    sink.store(1, chunk(&image[65_536..131_072])).await.unwrap();
    let two = sink.publish(200_000, &described("b")).await.unwrap();
    assert_eq!((&two.id, two.name.as_deref()), (&one.id, Some("b")));
    assert!(rooms.read_all("v", &two.id).await.unwrap() == image);
    sink.remove(3).await.unwrap();
    sink.remove(2).await.unwrap();
    let three = sink.publish(131_072, &described("b")).await.unwrap();
    assert!(rooms.read_all("v", &three.id).await.unwrap() == image[..131_072]);
    assert_eq!(rooms.driver.backups("v").await.unwrap().len(), 1);
    assert!(place.rooms().read_all("v", &three.id).await.unwrap() == image[..131_072]);
    // Two chunks, list and metadata: what nothing names is gone.
    assert_eq!(place.objects().await.len(), 4);
}

async fn two_rewritten_chunks_never_share_an_object(place: &Place) {
    let mut options = options(place.layout);
    options.object_size = 4096;
    let rooms = place.with(options);
    let sink = rooms.driver.create("v", Basis::Full).await.unwrap();
    let mut dice = Dice(2);
    let mut image = dice.text(40 * 4096);
    store_all(sink.as_ref(), &image).await.unwrap();
    for _ in 0..5 {
        sink.publish(image.len() as u64, &described("a"))
            .await
            .unwrap();
        let mut stores = tokio::task::JoinSet::new();
        for index in 0..40 {
            let text = dice.text(4096);
            image
                .splice(index * 4096..(index + 1) * 4096, text.iter().copied())
                .for_each(drop);
            let sink = Arc::clone(&sink);
            stores.spawn(async move { sink.store(index as u64, chunk(&text)).await });
        }
        while let Some(stored) = stores.join_next().await {
            stored.unwrap().unwrap();
        }
    }
    let backup = sink
        .publish(image.len() as u64, &described("a"))
        .await
        .unwrap();
    assert!(rooms.read_all("v", &backup.id).await.unwrap() == image);
    assert_eq!(place.objects().await.len(), 42);
}

async fn discards(place: &Place) {
    let rooms = place.rooms();
    let kept = rooms.write("v", b"kept").await;
    let objects = place.objects().await;
    for publish in [false, true] {
        let sink = rooms.driver.create("v", Basis::Full).await.unwrap();
        store_all(sink.as_ref(), &Dice(1).image(200_000))
            .await
            .unwrap();
        if publish {
            sink.publish(200_000, &described("a")).await.unwrap();
        }
        sink.discard().await.unwrap();
        assert_eq!(place.objects().await, objects);
        let left = rooms.driver.backups("v").await.unwrap();
        assert_eq!(left.iter().map(|b| &b.id).collect::<Vec<_>>(), [&kept.id]);
    }
    // Of nothing, too.
    rooms
        .driver
        .create("v", Basis::Full)
        .await
        .unwrap()
        .discard()
        .await
        .unwrap();
    assert_eq!(place.objects().await, objects);
}

async fn changes_names_descriptions_and_times(place: &Place) {
    let cinder = Cinder::new(place.layout, "zlib");
    let image = Dice(1).image(100_000);
    let made = cinder
        .back_up(place.store.as_ref(), "v", &image, None)
        .await;
    made.edit(place.store.as_ref(), |document| {
        document["future"] = serde_json::json!({"a": [1.5, null]})
    })
    .await;
    let rooms = place.rooms();
    let backup = rooms.find("v", &made.id).await;
    assert!(!backup.written_as_file);
    let at = SystemTime::UNIX_EPOCH - Duration::new(1, 5);
    let changed = Change {
        name: Some("new.img".into()),
        description: Some(Some("日次".into())),
        modified: Some(at),
    };
    let changed = rooms.driver.update(&backup, changed).await.unwrap();
    for rooms in [&rooms, &place.rooms()] {
        let found = rooms.find("v", &made.id).await;
        for backup in [&changed, &found] {
            assert_eq!(backup.name.as_deref(), Some("new.img"));
            assert!(backup.written_as_file);
            assert_eq!(backup.description.as_deref(), Some("日次"));
            assert_eq!(backup.modified, Some(at));
            assert_eq!(backup.modified_at(), at);
        }
    }
    let gone = Change {
        description: Some(None),
        ..Change::default()
    };
    let backup = rooms.driver.update(&changed, gone).await.unwrap();
    assert_eq!(
        (backup.description.as_deref(), backup.name.as_deref()),
        (None, Some("new.img"))
    );
    let text = get(place.store.as_ref(), &made.container, &made.metadata()).await;
    let document: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(document["future"], serde_json::json!({"a": [1.5, null]}));
    assert_eq!(document["volume_meta"], "{\"version\": 2}");
    assert!(rooms.read_all("v", &made.id).await.unwrap() == image);
}

async fn deletes_what_nothing_is_built_on(place: &Place) {
    let cinder = Cinder::new(place.layout, "none");
    let image = Dice(1).noise(50_000);
    let store = place.store.as_ref();
    let full = cinder.back_up(store, "v", &image, None).await;
    let rooms = place.rooms();
    let backup = rooms.find("v", &full.id).await;
    // Made behind the driver's back, after it has listed.
    let child = cinder
        .back_up(store, "v", &image[..4096], Some(&full))
        .await;
    let error = rooms.driver.delete(&backup).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Dependents);
    assert!(error.to_string().contains(&child.id), "{error}");
    assert!(rooms.read_all("v", &child.id).await.unwrap() == image[..4096]);
    rooms
        .driver
        .delete(&*rooms.find("v", &child.id).await)
        .await
        .unwrap();
    rooms.driver.delete(&backup).await.unwrap();
    assert_eq!(rooms.driver.backups("v").await.unwrap().len(), 0);
    assert_eq!(rooms.driver.volumes().await.unwrap(), [""; 0]);
    assert_eq!(place.objects().await, [""; 0]);
    assert_eq!(store.containers("").await.unwrap(), [""; 0]);
}

async fn deletes_nothing_when_it_may_only_append(place: &Place) {
    let rooms = place.with(Options {
        append_only: true,
        ..options(place.layout)
    });
    let backup = rooms.write("v", b"data").await;
    let error = rooms.driver.delete(&backup).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Sealed);
    assert_eq!(rooms.read_all("v", &backup.id).await.unwrap(), b"data");
}

async fn lists_nothing_without_metadata(place: &Place) {
    let made = Cinder::new(place.layout, "zlib");
    let store = place.store.as_ref();
    let made = made
        .back_up(store, "v", &Dice(1).image(100_000), None)
        .await;
    put(
        store,
        &made.container,
        &format!("{}.tmp", made.metadata()),
        b"{}".to_vec(),
    )
    .await;
    store
        .delete(&made.container, &made.metadata())
        .await
        .unwrap();
    let rooms = place.rooms();
    assert_eq!(rooms.driver.volumes().await.unwrap(), [""; 0]);
    assert_eq!(rooms.driver.backups("v").await.unwrap().len(), 0);
    assert_eq!(rooms.driver.backups("unheard of").await.unwrap().len(), 0);
}

async fn refuses_what_is_incomplete(place: &Place) {
    let rooms = place.rooms();
    let sink = rooms.driver.create("v", Basis::Full).await.unwrap();
    sink.store(0, chunk(b"short")).await.unwrap();
    let error = sink.publish(100_000, &described("a")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert_eq!(rooms.driver.backups("v").await.unwrap().len(), 0);
    let backup = sink.publish(5, &described("a")).await.unwrap();
    assert_eq!(rooms.read_all("v", &backup.id).await.unwrap(), b"short");
}

async fn shows_what_others_do(place: &Place) {
    let (one, other) = (place.rooms(), place.rooms());
    assert_eq!(one.driver.volumes().await.unwrap(), [""; 0]);
    let backup = other.write("v", b"data").await;
    assert_eq!(one.driver.volumes().await.unwrap(), ["v"]);
    assert_eq!(one.read_all("v", &backup.id).await.unwrap(), b"data");
    let renamed = Change {
        name: Some("renamed".into()),
        ..Change::default()
    };
    other.driver.update(&backup, renamed).await.unwrap();
    assert_eq!(
        one.find("v", &backup.id).await.name.as_deref(),
        Some("renamed")
    );
    other.driver.delete(&backup).await.unwrap();
    assert_eq!(one.driver.backups("v").await.unwrap().len(), 0);
    // Within list_ttl, what the driver itself does shows at once all the same.
    let slow = place.with(Options {
        list_ttl: Duration::from_secs(3600),
        ..options(place.layout)
    });
    assert_eq!(slow.driver.backups("v").await.unwrap().len(), 0);
    let backup = slow.write("v", b"own").await;
    assert_eq!(slow.read_all("v", &backup.id).await.unwrap(), b"own");
    other.write("w", b"other").await;
    assert_eq!(slow.driver.volumes().await.unwrap(), ["v"]);
    slow.driver.delete(&backup).await.unwrap();
    assert_eq!(slow.driver.backups("v").await.unwrap().len(), 0);
}

async fn tells_of_a_backup_that_is_gone(place: &Place) {
    let (one, other) = (place.rooms(), place.rooms());
    let backup = one.write("v", b"data").await;
    other.driver.backups("v").await.unwrap();
    one.driver.delete(&backup).await.unwrap();
    for driver in [&one.driver, &other.driver] {
        let kinds = [
            driver.open(&backup).await.err().map(|e| e.kind()),
            driver
                .update(&backup, Change::default())
                .await
                .err()
                .map(|e| e.kind()),
        ];
        assert_eq!(kinds, [Some(Kind::NotFound); 2]);
    }
}

// What only Cinder's format has.

#[tokio::test]
async fn documents_are_cinders_to_the_byte() {
    let place = Place::memory(Layout::Posix);
    let rooms = place.rooms();
    let mut image = Dice(1).text(65_536);
    image.extend(Dice(2).noise(5000));
    let sink = rooms.driver.create("диск", Basis::Full).await.unwrap();
    store_all(sink.as_ref(), &image).await.unwrap();
    let description = Description {
        name: "täglich \"1\" 😀\u{7f}\n".into(),
        description: None,
        modified: None,
    };
    let backup = sink
        .publish(image.len() as u64, &description)
        .await
        .unwrap();
    let prefix = &backup.service_metadata;
    let id = &backup.id;
    let volume = "\\u0434\\u0438\\u0441\\u043a";
    let name = "t\\u00e4glich \\\"1\\\" \\ud83d\\ude00\\u007f\\n";
    let created = backup.created_at.unwrap().to_python();
    let stamp = created[..19].replace([' ', ':', '-'], "");
    assert_eq!(prefix, &format!("volume_диск_{stamp}_backup_{id}"));
    assert_eq!(backup.container, format!("{}/{}/{id}", &id[..2], &id[2..4]));
    let hex = |bytes: &[u8]| common::golden::sha256(bytes);
    let md5 = |bytes: &[u8]| {
        use md5::Digest;
        cinderfs::format::to_hex(&md5::Md5::digest(bytes))
    };
    let escaped = format!("volume_{volume}_{stamp}_backup_{id}");
    let stored = backup.stored_bytes.unwrap();
    let metadata = format!(
        r#"{{
  "backup_description": null,
  "backup_id": "{id}",
  "backup_name": "{name}",
  "cinderfs": {{
    "data_bytes": 70536,
    "file": true,
    "mtime_nsec": 0,
    "size": 70536,
    "stored_bytes": {stored}
  }},
  "created_at": "{created}",
  "objects": [
    {{
      "{escaped}-00001": {{
        "compression": "zlib",
        "length": 65536,
        "md5": "{}",
        "offset": 0
      }}
    }},
    {{
      "{escaped}-00002": {{
        "compression": "none",
        "length": 5000,
        "md5": "{}",
        "offset": 65536
      }}
    }}
  ],
  "parent_id": null,
  "version": "1.0.0",
  "volume_id": "{volume}",
  "volume_meta": null
}}"#,
        md5(&image[..65_536]),
        md5(&image[65_536..])
    );
    let text = get(
        place.store.as_ref(),
        &backup.container,
        &format!("{prefix}_metadata"),
    )
    .await;
    assert_eq!(String::from_utf8(text).unwrap(), metadata);
    let hashes: Vec<String> = image
        .chunks(4096)
        .map(|b| format!("    \"{}\"", hex(b)))
        .collect();
    let list = format!(
        r#"{{
  "backup_description": null,
  "backup_id": "{id}",
  "backup_name": "{name}",
  "chunk_size": 4096,
  "created_at": "{created}",
  "sha256s": [
{}
  ],
  "version": "1.0.0",
  "volume_id": "{volume}"
}}"#,
        hashes.join(",\n")
    );
    let text = get(
        place.store.as_ref(),
        &backup.container,
        &format!("{prefix}_sha256file"),
    )
    .await;
    assert_eq!(String::from_utf8(text).unwrap(), list);
    let chunk = get(
        place.store.as_ref(),
        &backup.container,
        &format!("{prefix}-00002"),
    )
    .await;
    assert!(chunk == image[65_536..]);
}

#[tokio::test]
async fn the_configured_spelling_is_noted_in_lower_case() {
    let place = Place::memory(Layout::Swift);
    for (configured, noted) in [
        ("GZip", "gzip"),
        ("bzip2", "bzip2"),
        ("OFF", "none"),
        ("no", "none"),
    ] {
        let rooms = place.with(compressed(Layout::Swift, configured));
        let backup = rooms.write("v", &Dice(1).text(10_000)).await;
        assert_eq!(backup.compression, noted);
        assert_eq!(backup.container, "volumebackups");
        assert!(place.rooms().read_all("v", &backup.id).await.unwrap() == Dice(1).text(10_000));
    }
}

#[tokio::test]
async fn a_container_of_ones_own() {
    let place = Place::posix();
    let rooms = place.with(Options {
        container: Some("my/own".into()),
        ..options(Layout::Posix)
    });
    let one = rooms.write("v", b"one").await;
    let two = rooms.write("v", b"two").await;
    assert_eq!(
        (one.container.as_str(), two.container.as_str()),
        ("my/own", "my/own")
    );
    rooms.driver.delete(&one).await.unwrap();
    assert_eq!(place.rooms().read_all("v", &two.id).await.unwrap(), b"two");
}

#[tokio::test]
async fn a_long_description_does_not_hide_the_hashes() {
    let place = Place::memory(Layout::Posix);
    let rooms = place.rooms();
    let image = Dice(1).image(100_000);
    let sink = rooms.driver.create("v", Basis::Full).await.unwrap();
    store_all(sink.as_ref(), &image).await.unwrap();
    let description = Description {
        description: Some("\"sha256s\": [ ☃ ]".repeat(3000)),
        ..described("a")
    };
    let backup = sink.publish(100_000, &description).await.unwrap();
    assert!(place.rooms().read_all("v", &backup.id).await.unwrap() == image);
}

#[tokio::test]
async fn volume_ids_that_fit_no_name_are_refused() {
    let place = Place::posix();
    let error = place
        .rooms()
        .driver
        .create(&"v".repeat(300), Basis::Full)
        .await
        .err()
        .unwrap();
    assert_eq!(error.kind(), Kind::TooLong);
}
