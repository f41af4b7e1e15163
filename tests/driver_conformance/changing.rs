//! What can be changed of a backup that is there, and when it can be deleted.

use crate::common::cinder::{Cinder, get};
use crate::common::library::{Dice, described};
use crate::{Ground, Place};
use cinderfs::driver::{Basis, Change};
use cinderfs::error::Kind;
use cinderfs::store::fault::Call;
use std::time::{Duration, SystemTime};

pub async fn changes_names_descriptions_and_times(place: &Place) {
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

pub async fn deletes_what_nothing_is_built_on(place: &Place) {
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
    let containers = store.containers("").await.unwrap();
    assert_eq!(containers.is_empty(), place.removes_containers);
}

pub async fn deletes_nothing_when_it_may_only_append(place: &impl Ground) {
    let rooms = place.append_only();
    let backup = rooms.write("v", b"data").await;
    let error = rooms.driver.delete(&backup).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Sealed);
    assert_eq!(rooms.read_all("v", &backup.id).await.unwrap(), b"data");
}

/// Where there is no room for anything, not even for a sign.
pub async fn deletes_from_a_store_that_is_full(place: &Place) {
    let rooms = place.rooms();
    let full = rooms.write("v", b"data").await;
    let sink = rooms.driver.create("v", Basis::Newest).await.unwrap();
    let child = sink.publish(4, &described("child")).await.unwrap();
    sink.seal();
    for kind in [Kind::NoSpace, Kind::Quota] {
        place.faults.fail_when(Box::new(move |call| match call {
            Call::Claim(_) | Call::Put(_) => Some(kind),
            _ => None,
        }));
        let refused = rooms.driver.delete(&full).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Dependents);
    }
    assert_eq!(rooms.driver.backups("v").await.unwrap().len(), 2);
    rooms.driver.delete(&child).await.unwrap();
    rooms.driver.delete(&full).await.unwrap();
    assert_eq!(place.objects().await, [""; 0]);
}

pub async fn what_another_program_deletes_does_not_come_back(place: &Place) {
    if !place.store.has_claims() {
        return;
    }
    let cinder = Cinder::new(place.layout, "none");
    let image = Dice(1).noise(5_000);
    let store = place.store.as_ref();
    let made = cinder.back_up(store, "v", &image, None).await;
    let rooms = place.rooms();
    let backup = rooms.find("v", &made.id).await;
    let change = Change {
        name: Some("new.img".into()),
        ..Change::default()
    };
    // Somebody else is between his claim and the end of what he deletes.
    let deleting = store.claim(&format!("{}.end", made.id)).await.unwrap();
    let error = rooms.driver.update(&backup, change.clone()).await;
    assert_eq!(error.unwrap_err().kind(), Kind::NotFound);
    drop(deleting);
    let backup = rooms.driver.update(&backup, change).await.unwrap();
    // And the other way round.
    let changing = store.claim(&format!("{}.child", made.id)).await.unwrap();
    let error = rooms.driver.delete(&backup).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Dependents, "{error}");
    drop(changing);
    rooms.driver.delete(&backup).await.unwrap();
    assert!(place.objects().await.is_empty());
}
