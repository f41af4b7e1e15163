//! Stores that fail for a moment, or for one object only.

use crate::{OBJECT, Scene};
use cinderfs::error::Kind;
use cinderfs::store::fault::Call;

#[tokio::test]
async fn a_failure_that_passes_is_not_remembered() {
    type Rule = fn(&Call) -> bool;
    let rules: [Rule; 6] = [
        |call| matches!(call, Call::List),
        |call| matches!(call, Call::Stat(_)),
        |call| matches!(call, Call::Read(name, _) if name.ends_with("_metadata")),
        |call| matches!(call, Call::Read(name, _) if name.ends_with("_sha256file")),
        |call| matches!(call, Call::Read(name, _) if name.ends_with("-00002")),
        |call| matches!(call, Call::Read(..)),
    ];
    for kind in [Kind::Unavailable, Kind::TimedOut, Kind::Denied] {
        for compression in ["none", "zlib"] {
            for with_sha256file in [true, false] {
                for rule in rules {
                    let scene = Scene::new(compression, with_sha256file).await;
                    let rooms = scene.rooms();
                    scene
                        .store
                        .fail_when(move |call| rule(call).then_some(kind));
                    let mut reader = None;
                    // As far as it gets.
                    let listed = rooms.driver.backups("v").await;
                    if let Ok(backups) = listed
                        && let Some(backup) = backups.iter().find(|b| b.id == scene.child.id)
                        && let Ok(opened) = rooms.open(backup).await
                    {
                        let error = opened.read(0, 5 * OBJECT as u64).await.err();
                        assert!(error.is_none_or(|e| e.kind() == kind));
                        reader = Some(opened);
                    }
                    scene.store.fail_when(|_| None);
                    if let Some(reader) = reader {
                        let read = reader.read(0, 5 * OBJECT as u64).await.unwrap();
                        assert!(read == scene.child.image);
                    }
                    let read = rooms.read_all("v", &scene.child.id).await.unwrap();
                    assert!(read == scene.child.image);
                }
            }
        }
    }
}

#[tokio::test]
async fn one_backup_that_is_not_ours_to_read_does_not_hide_the_others() {
    let scene = Scene::new("zlib", true).await;
    let denied = scene.child.metadata();
    let rule = move |call: &Call| matches!(call, Call::Read(name, _) if *name == denied);
    scene
        .store
        .fail_when(move |call| rule(call).then_some(Kind::Denied));
    let rooms = scene.rooms();
    let backup = rooms.find("v", &scene.child.id).await;
    assert_eq!(backup.fault.as_ref().unwrap().kind(), Kind::Denied);
    assert!(rooms.read_all("v", &scene.full.id).await.unwrap() == scene.full.image);
}
