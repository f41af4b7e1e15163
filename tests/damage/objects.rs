//! Objects that are damaged or missing, and the md5 that vouches for them.

use crate::common::cinder::entry;
use crate::{CODECS, OBJECT, Scene};
use cinderfs::store::ObjectStore;
use serde_json::Value;
use std::sync::Arc;

#[tokio::test]
async fn objects_that_are_not_what_was_stored() {
    type Edit = fn(&mut Vec<u8>);
    let edits: [(&str, Edit); 7] = [
        ("first byte", |bytes| bytes[0] ^= 0x40),
        ("flipped bit", |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
        }),
        // The lowest bits of a bz2 stream's last byte mean nothing.
        ("last byte", |bytes| *bytes.last_mut().unwrap() ^= 0x80),
        ("short", |bytes| bytes.truncate(bytes.len() - 1)),
        ("half", |bytes| bytes.truncate(bytes.len() / 2)),
        ("empty", |bytes| bytes.clear()),
        ("overlong", |bytes| bytes.extend(b"garbage")),
    ];
    for compression in CODECS {
        for with_sha256file in [true, false] {
            for (what, edit) in edits {
                for index in [1, 2] {
                    let scene = Scene::new(compression, with_sha256file).await;
                    scene
                        .full
                        .edit_object(scene.store.as_ref(), index, edit)
                        .await;
                    let blocks_are_known = with_sha256file && compression == "none";
                    if blocks_are_known && (what.contains("b") && what != "half") {
                        // One block is damaged, and those beside it are not.
                        let range = index * OBJECT + 4096..(index + 1) * OBJECT - 20_000;
                        scene.read(&scene.full, range).await.unwrap();
                    }
                    scene
                        .assert_damaged(index, &format!("{compression} {what}"))
                        .await;
                }
            }
        }
    }
}

#[tokio::test]
async fn objects_that_are_missing() {
    for compression in CODECS {
        for with_sha256file in [true, false] {
            let scene = Scene::new(compression, with_sha256file).await;
            scene
                .store
                .delete(&scene.full.container, &scene.full.objects[1])
                .await
                .unwrap();
            scene.assert_damaged(1, compression).await;
        }
    }
}

#[tokio::test]
async fn two_streams_in_one_object() {
    // What Cinder's decoder of that codec took, too, is read.
    for (compression, read) in [("zlib", false), ("bz2", true), ("zstd", true)] {
        let scene = Scene::new(compression, true).await;
        let codec = cinderfs::codec::Codec::from_metadata(compression).unwrap();
        let data = &scene.full.image[OBJECT..2 * OBJECT];
        let mut packed = Vec::new();
        for half in data.chunks(OBJECT / 2) {
            packed.extend(cinderfs::codec::compress(codec, half).unwrap().unwrap());
        }
        scene
            .full
            .edit_object(scene.store.as_ref(), 1, |bytes| *bytes = packed)
            .await;
        match read {
            true => scene.read(&scene.full, 0..5 * OBJECT).await.unwrap(),
            false => scene.assert_damaged(1, compression).await,
        }
    }
}

#[tokio::test]
async fn an_md5_that_is_wrong_counts_where_there_is_nothing_better() {
    for compression in CODECS {
        for with_sha256file in [true, false] {
            let scene = Scene::new(compression, with_sha256file).await;
            let spoil = |document: &mut Value| {
                entry(document, 1)["md5"] = "00112233445566778899aabbccddeeff".into();
            };
            scene.full.edit(scene.store.as_ref(), spoil).await;
            match with_sha256file {
                true => scene.read(&scene.full, 0..5 * OBJECT).await.unwrap(),
                false => scene.assert_damaged(1, compression).await,
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_waits_beside_a_damaged_range_is_not_told_of_it() {
    for compression in ["none", "zlib"] {
        let scene = Arc::new(Scene::new(compression, true).await);
        scene
            .store
            .delete(&scene.full.container, &scene.full.objects[1])
            .await
            .unwrap();
        for _ in 0..20 {
            let rooms = scene.rooms();
            let backup = rooms.find("v", &scene.full.id).await;
            let reader = rooms.open(&backup).await.unwrap();
            let mut reads = tokio::task::JoinSet::new();
            for at in [None, Some(0), Some(1), Some(2), Some(3), Some(4)] {
                let reader = Arc::clone(&reader);
                reads.spawn(async move {
                    let (start, length) = at.map_or((0, 5), |at| (at, 1));
                    (
                        at,
                        reader
                            .read(start * OBJECT as u64, length * OBJECT as u64)
                            .await,
                    )
                });
            }
            while let Some(read) = reads.join_next().await {
                let (at, read) = read.unwrap();
                assert_eq!(
                    read.is_err(),
                    matches!(at, None | Some(1)),
                    "{at:?} {read:?}"
                );
            }
        }
    }
}
