//! What belongs to no backup is found and removed, and nothing else.

use crate::common::cinder::{Cinder, Made, get, put};
use crate::common::library::{Dice, Rooms, described, options};
use crate::{Place, chunk, store_all};
use cinderfs::driver::chunked::Options;
use cinderfs::driver::{Basis, Garbage, GarbageKind};
use cinderfs::error::Kind;
use cinderfs::format::Layout;
use cinderfs::store::ObjectStore;
use serde_json::json;
use std::time::Duration;

async fn find(rooms: &Rooms) -> Vec<Garbage> {
    rooms.driver.garbage(Duration::ZERO).await.unwrap()
}

async fn back_up(place: &Place, volume: &str) -> Made {
    let image = Dice(1).image(100_000);
    let cinder = Cinder::new(place.layout, "zlib");
    cinder
        .back_up(place.store.as_ref(), volume, &image, None)
        .await
}

async fn delete(store: &dyn ObjectStore, made: &Made, object: &str) {
    store.delete(&made.container, object).await.unwrap();
}

async fn names(place: &Place) -> Vec<String> {
    let mut names = place.objects().await;
    names.sort_unstable();
    names
}

pub async fn finds_no_garbage_among_what_is_finished(place: &Place) {
    back_up(place, "v").await;
    place.rooms().write("v", &Dice(2).image(200_000)).await;
    let store = place.store.as_ref();
    // What is not of any backup is somebody else's.
    for foreign in [
        "volume_",
        "volume_x",
        "volume_notes.txt",
        "volume_v_2024_backup_x-00001",
        "x",
    ] {
        put(store, "foreign", foreign, b"x".to_vec()).await;
    }
    let before = names(place).await;
    assert_eq!(find(&place.rooms()).await, []);
    assert_eq!(names(place).await, before);
}

pub async fn finds_and_removes_what_was_never_finished(place: &Place) {
    let store = place.store.as_ref();
    let kept = back_up(place, "v").await;
    let before = names(place).await;
    let containers = store.containers("").await.unwrap();
    for with_list in [true, false] {
        let made = back_up(place, "v").await;
        delete(store, &made, &made.metadata()).await;
        if !with_list {
            delete(store, &made, &made.sha256file()).await;
        }
        let rooms = place.rooms();
        let found = find(&rooms).await;
        let [garbage] = found.as_slice() else {
            panic!("{found:#?}");
        };
        assert_eq!(garbage.kind, GarbageKind::Unfinished);
        assert_eq!(garbage.backup_id.as_ref(), Some(&made.id));
        assert_eq!(garbage.volume_id.as_deref(), Some("v"));
        assert_eq!(garbage.container, made.container);
        assert_eq!(
            garbage.objects.len(),
            made.objects.len() + usize::from(with_list)
        );
        let mut bytes = 0;
        for object in &garbage.objects {
            bytes += store.stat(&made.container, object).await.unwrap().size;
        }
        assert_eq!(garbage.bytes, bytes);
        // Swift rounds up to whole seconds.
        let age = garbage.modified.unwrap().elapsed().unwrap_or_default();
        assert!(age < Duration::from_secs(600));
        assert!(rooms.driver.sweep(garbage).await.unwrap());
        assert_eq!(find(&rooms).await, []);
        // A second time there is nothing to do.
        assert!(!rooms.driver.sweep(garbage).await.unwrap());
    }
    assert_eq!(names(place).await, before);
    assert_eq!(store.containers("").await.unwrap(), containers);
    assert!(place.rooms().read_all("v", &kept.id).await.unwrap() == kept.image);
}

pub async fn finds_and_removes_strays(place: &Place) {
    let store = place.store.as_ref();
    let made = back_up(place, "v").await;
    let before = names(place).await;
    let mut strays: Vec<String> = ["-00099", "_metadata.tmp", "ZZZ"]
        .map(|end| format!("{}{end}", made.prefix))
        .into();
    for stray in &strays {
        put(store, &made.container, stray, b"stray".to_vec()).await;
    }
    let rooms = place.rooms();
    let found = find(&rooms).await;
    let [garbage] = found.as_slice() else {
        panic!("{found:#?}");
    };
    assert_eq!((garbage.kind, garbage.bytes), (GarbageKind::Stray, 15));
    assert_eq!(garbage.backup_id.as_ref(), Some(&made.id));
    let mut objects = garbage.objects.clone();
    objects.sort_unstable();
    strays.sort_unstable();
    assert_eq!(objects, strays);
    assert!(rooms.driver.sweep(garbage).await.unwrap());
    assert_eq!(names(place).await, before);
    assert_eq!(find(&rooms).await, []);
    assert!(rooms.read_all("v", &made.id).await.unwrap() == made.image);
}

/// Ids come from outside, and one may begin as another does.
pub async fn leaves_alone_what_may_be_of_another_backup(place: &Place) {
    let store = place.store.as_ref();
    let made = back_up(place, "v").await;
    // Copies whose ids are longer: one that is finished and one that is not.
    for (more, finished) in [
        ("b", true),
        ("c", false),
        ("-00001", false),
        ("-00002", true),
    ] {
        for object in made
            .objects
            .iter()
            .chain([&made.metadata(), &made.sha256file()])
        {
            let end = object.strip_prefix(&made.prefix).unwrap();
            let mut bytes = get(store, &made.container, object).await;
            if end == "_metadata" {
                let text = String::from_utf8(bytes).unwrap();
                bytes = text.replace(&made.id, &format!("{}{more}", made.id)).into();
            }
            if finished || end != "_metadata" {
                let name = format!("{}{more}{end}", made.prefix);
                put(store, &made.container, &name, bytes).await;
            }
        }
    }
    let before = names(place).await;
    let rooms = place.rooms();
    for garbage in find(&rooms).await {
        rooms.driver.sweep(&garbage).await.unwrap();
    }
    for more in ["", "b", "-00002"] {
        // Where listings fold, an id that begins with a whole one of Cinder's and goes on
        // as a chunk does is taken for a chunk: not listed, and left alone all the same.
        if more == "-00002" && place.layout == Layout::Swift {
            continue;
        }
        let id = format!("{}{more}", made.id);
        assert!(
            rooms.read_all("v", &id).await.unwrap() == made.image,
            "{more}"
        );
    }
    assert_eq!(names(place).await, before);
}

pub async fn leaves_alone_what_metadata_does_not_tell(place: &Place) {
    let store = place.store.as_ref();
    let made = back_up(place, "v").await;
    put(
        store,
        &made.container,
        &format!("{}-00099", made.prefix),
        b"x".to_vec(),
    )
    .await;
    for broken in ["", "{", "{\"version\": \"2.0.0\", \"objects\": []}"] {
        put(store, &made.container, &made.metadata(), broken.into()).await;
        assert_eq!(find(&place.rooms()).await, []);
    }
}

/// What has lost its metadata was never unfinished when another backup is built on it.
pub async fn leaves_alone_what_others_are_built_on(place: &Place) {
    let store = place.store.as_ref();
    let full = back_up(place, "v").await;
    let mut image = full.image.clone();
    image[5000] ^= 1;
    let cinder = Cinder::new(place.layout, "zlib");
    let child = cinder.back_up(store, "v", &image, Some(&full)).await;
    let metadata = get(store, &full.container, &full.metadata()).await;
    delete(store, &full, &full.metadata()).await;
    let rooms = place.rooms();
    assert_eq!(find(&rooms).await, []);
    // Whose metadata cannot be read may be built on it.
    let of_child = get(store, &child.container, &child.metadata()).await;
    put(store, &child.container, &child.metadata(), b"{".to_vec()).await;
    assert_eq!(find(&rooms).await, []);
    put(store, &child.container, &child.metadata(), of_child).await;
    put(store, &full.container, &full.metadata(), metadata.clone()).await;
    assert!(rooms.read_all("v", &child.id).await.unwrap() == image);
    // Found while there was none yet.
    delete(store, &full, &full.metadata()).await;
    delete(store, &child, &child.metadata()).await;
    let found = find(&rooms).await;
    assert_eq!(found.len(), 2);
    let of_child = json!({"version": "1.0.0", "parent_id": full.id, "objects": []});
    let text = serde_json::to_vec(&of_child).unwrap();
    put(store, &child.container, &child.metadata(), text).await;
    for garbage in &found {
        assert!(!rooms.driver.sweep(garbage).await.unwrap());
    }
}

pub async fn leaves_alone_what_is_young(place: &Place) {
    let store = place.store.as_ref();
    let made = back_up(place, "v").await;
    delete(store, &made, &made.metadata()).await;
    let rooms = place.rooms();
    let hour = Duration::from_secs(3600);
    assert_eq!(rooms.driver.garbage(hour).await.unwrap(), []);
    assert_eq!(rooms.driver.garbage(Duration::MAX).await.unwrap(), []);
    let found = find(&rooms).await;
    assert_eq!(found.len(), 1);
    // Something was added since: somebody is writing it.
    put(
        store,
        &made.container,
        &format!("{}-00099", made.prefix),
        b"x".to_vec(),
    )
    .await;
    assert!(!rooms.driver.sweep(&found[0]).await.unwrap());
    assert_eq!(
        find(&rooms).await[0].objects.len(),
        found[0].objects.len() + 1
    );
    // It was finished since.
    let found = find(&rooms).await;
    let text = b"{\"version\": \"1.0.0\", \"objects\": []}".to_vec();
    put(store, &made.container, &made.metadata(), text).await;
    let before = names(place).await;
    assert!(!rooms.driver.sweep(&found[0]).await.unwrap());
    assert_eq!(names(place).await, before);
}

pub async fn leaves_alone_what_is_being_written(place: &Place) {
    let rooms = place.rooms();
    let image = Dice(1).image(200_000);
    let sink = rooms.driver.create("v", Basis::Full).await.unwrap();
    store_all(sink.as_ref(), &image).await.unwrap();
    let looks = async || {
        // Another program looks, if it can know.
        if place.tells_others {
            assert_eq!(find(&place.rooms()).await, []);
        }
    };
    looks().await;
    let backup = sink.publish(200_000, &described("a")).await.unwrap();
    sink.store(1, chunk(&image[..65_536])).await.unwrap();
    looks().await;
    sink.publish(200_000, &described("a")).await.unwrap();
    sink.seal();
    assert_eq!(find(&place.rooms()).await, []);
    assert!(place.rooms().find("v", &backup.id).await.fault.is_none());
    // One whose writer was never heard of again.
    let sink = rooms.driver.create("v", Basis::Full).await.unwrap();
    store_all(sink.as_ref(), &image).await.unwrap();
    drop(sink);
    let found = find(&place.rooms()).await;
    assert_eq!(found.len(), 1);
    // Found before somebody began to write it.
    if place.tells_others {
        let id = found[0].backup_id.as_ref().unwrap();
        let claim = place.store.claim(id).await.unwrap();
        assert!(!place.rooms().driver.sweep(&found[0]).await.unwrap());
        drop(claim);
    }
    assert!(place.rooms().driver.sweep(&found[0]).await.unwrap());
}

/// The program ended between list and metadata: the list is that of a backup which never
/// was, and whoever built on it would be wrong.
pub async fn removes_a_list_of_hashes_that_was_never_published(place: &Place) {
    let rooms = place.rooms();
    let store = place.store.as_ref();
    let image = Dice(1).image(200_000);
    let sink = rooms.driver.create("v", Basis::Full).await.unwrap();
    store_all(sink.as_ref(), &image).await.unwrap();
    let backup = sink.publish(200_000, &described("a")).await.unwrap();
    let metadata = format!("{}_metadata", backup.service_metadata);
    let before = get(store, &backup.container, &metadata).await;
    sink.store(0, chunk(&[7; 65_536])).await.unwrap();
    sink.publish(200_000, &described("a")).await.unwrap();
    sink.seal();
    // As if the second metadata had not been written, and what it took away still there.
    put(store, &backup.container, &metadata, before).await;
    let packed = {
        let data = &image[..65_536];
        let packed = cinderfs::codec::compress(cinderfs::codec::Codec::Zlib, data).unwrap();
        packed.unwrap_or_else(|| data.to_vec())
    };
    let first = format!("{}-00001", backup.service_metadata);
    put(store, &backup.container, &first, packed).await;
    let rooms = place.rooms();
    let check = async || {
        let found = rooms.find("v", &backup.id).await;
        rooms.driver.verify(&found, 100, &()).await.unwrap()
    };
    let verdict = check().await;
    assert!(
        verdict
            .problems
            .iter()
            .any(|p| p.contains("never finished")),
        "{verdict:?}"
    );
    let found = find(&rooms).await;
    let [garbage] = found.as_slice() else {
        panic!("{found:#?}");
    };
    assert_eq!(
        (garbage.kind, garbage.objects.len()),
        (GarbageKind::Stray, 2)
    );
    assert!(rooms.driver.sweep(garbage).await.unwrap());
    let verdict = check().await;
    assert_eq!(verdict.problems, [""; 0]);
    assert!(verdict.only_md5);
    assert!(rooms.read_all("v", &backup.id).await.unwrap() == image);
}

pub async fn removes_nothing_when_it_may_only_append(place: &Place) {
    let store = place.store.as_ref();
    let made = back_up(place, "v").await;
    delete(store, &made, &made.metadata()).await;
    let rooms = place.with(Options {
        append_only: true,
        ..options(place.layout)
    });
    let before = names(place).await;
    let found = find(&rooms).await;
    assert_eq!(found.len(), 1);
    let error = rooms.driver.sweep(&found[0]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Sealed);
    assert!(error.to_string().contains(&made.id), "{error}");
    assert_eq!(names(place).await, before);
}
