//! What a driver lists, and how soon it sees what others do.

use crate::common::cinder::{Cinder, put};
use crate::common::library::Dice;
use crate::{Ground, Place};
use cinderfs::driver::Change;
use cinderfs::error::Kind;
use cinderfs::format::Layout;
use cinderfs::store::fault::Call;

pub async fn lists_nothing_without_metadata(place: &Place) {
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
    let volumes = rooms.driver.volumes().await.unwrap();
    match place.layout {
        Layout::Posix => assert_eq!(volumes, [""; 0]),
        // To know that it is empty would take a listing of it.
        Layout::Swift => assert_eq!(volumes, ["v"]),
    }
    assert_eq!(rooms.driver.backups("v").await.unwrap().len(), 0);
    assert_eq!(rooms.driver.backups("unheard of").await.unwrap().len(), 0);
}

pub async fn shows_what_it_knows_while_the_store_is_down(place: &Place) {
    let (rooms, other) = (place.rooms(), place.rooms());
    let backup = rooms.write("v", b"data").await;
    assert_eq!(rooms.driver.volumes().await.unwrap(), ["v"]);
    assert_eq!(rooms.driver.backups("v").await.unwrap().len(), 1);
    for kind in [Kind::Unavailable, Kind::TimedOut] {
        let is_down = move |_: &Call| Some(kind);
        place.faults.fail_when(Box::new(is_down));
        assert_eq!(rooms.driver.volumes().await.unwrap(), ["v"]);
        let known = rooms.driver.backups("v").await.unwrap();
        assert_eq!(known[0].id, backup.id);
        assert_eq!(rooms.driver.trouble().unwrap().kind(), kind);
        assert_eq!(
            rooms.read_all("v", &backup.id).await.unwrap_err().kind(),
            kind
        );
        // Nothing is deleted for which it would have to be known what is there.
        assert_eq!(rooms.driver.delete(&backup).await.unwrap_err().kind(), kind);
        // Who knows nothing shows nothing.
        assert_eq!(other.driver.volumes().await.unwrap_err().kind(), kind);
    }
    place.faults.fail_when(Box::new(|_: &Call| None));
    assert_eq!(rooms.driver.volumes().await.unwrap(), ["v"]);
    assert!(rooms.driver.trouble().is_none());
    assert_eq!(rooms.read_all("v", &backup.id).await.unwrap(), b"data");
}

pub async fn shows_what_others_do(place: &impl Ground) {
    let (one, other) = (place.rooms(), place.rooms());
    assert_eq!(one.driver.volumes().await.unwrap(), [""; 0]);
    let backup = other.write("v", b"data").await;
    assert_eq!(one.driver.volumes().await.unwrap(), ["v"]);
    assert_eq!(one.read_all("v", &backup.id).await.unwrap(), b"data");
    let change = Change {
        description: Some(Some("of the night".into())),
        ..Change::default()
    };
    other.driver.update(&backup, change).await.unwrap();
    assert_eq!(
        one.find("v", &backup.id).await.description.as_deref(),
        Some("of the night")
    );
    other.driver.delete(&backup).await.unwrap();
    assert_eq!(one.driver.backups("v").await.unwrap().len(), 0);
    // Within list_ttl, what the driver itself does shows at once all the same.
    let slow = place.slow();
    assert_eq!(slow.driver.volumes().await.unwrap(), [""; 0]);
    assert_eq!(slow.driver.backups("v").await.unwrap().len(), 0);
    let backup = slow.write("v", b"own").await;
    assert_eq!(slow.read_all("v", &backup.id).await.unwrap(), b"own");
    other.write("w", b"other").await;
    assert_eq!(slow.driver.volumes().await.unwrap(), ["v"]);
    slow.driver.delete(&backup).await.unwrap();
    assert_eq!(slow.driver.backups("v").await.unwrap().len(), 0);
    let volumes = slow.driver.volumes().await.unwrap();
    assert!(!volumes.contains(&"v".to_owned()), "{volumes:?}");
    // So does a deletion of what was there before.
    let slow = place.slow();
    assert_eq!(slow.driver.volumes().await.unwrap(), ["w"]);
    let backups = slow.driver.backups("w").await.unwrap();
    slow.driver.delete(&backups[0]).await.unwrap();
    assert_eq!(slow.driver.volumes().await.unwrap(), [""; 0]);
}

pub async fn tells_of_a_backup_that_is_gone(place: &impl Ground) {
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
