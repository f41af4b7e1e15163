//! What checking a backup finds, and what comparing two.

use crate::common::cinder::{Cinder, Made, entry, get, put};
use crate::common::library::{Dice, Rooms, described, options};
use crate::{Place, store_all};
use cinderfs::driver::chunked::Options;
use cinderfs::driver::{Basis, Progress, Verdict};
use cinderfs::error::{Error, Kind};
use md5::{Digest, Md5};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};

const CODECS: [&str; 4] = ["none", "zlib", "bz2", "zstd"];
const OBJECT: usize = 32 << 10;

#[derive(Default)]
struct Sum(AtomicU64);

impl Progress for Sum {
    fn advance(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

async fn verify(rooms: &Rooms, volume: &str, id: &str) -> Verdict {
    let backup = rooms.find(volume, id).await;
    let sum = Sum::default();
    let verdict = rooms.driver.verify(&backup, 100, &sum).await.unwrap();
    assert_eq!(sum.0.into_inner(), backup.size);
    verdict
}

/// What is wrong with a backup, as somebody finds who knows nothing yet.
async fn problems(place: &Place, made: &Made) -> Vec<String> {
    verify(&place.rooms(), &made.volume, &made.id)
        .await
        .problems
}

/// One problem that holds all of `words`.
async fn assert_damaged(place: &Place, made: &Made, words: &[&str]) {
    let problems = problems(place, made).await;
    assert_eq!(problems.len(), 1, "{words:?}: {problems:#?}");
    for word in words {
        assert!(problems[0].contains(word), "no {word:?} in {problems:?}");
    }
}

/// A full backup and an incremental one on it.
async fn pair(place: &Place, cinder: &Cinder) -> (Made, Made) {
    let store = place.store.as_ref();
    let mut image = Dice(1).text(5 * OBJECT + 777);
    let full = cinder.back_up(store, "v", &image, None).await;
    image
        .splice(OBJECT..2 * OBJECT, Dice(2).text(OBJECT))
        .for_each(drop);
    image[3 * OBJECT + 5000] ^= 1;
    let child = cinder.back_up(store, "v", &image, Some(&full)).await;
    (full, child)
}

pub async fn finds_nothing_wrong_with_what_is_whole(place: &Place) {
    for compression in CODECS {
        for with_sha256file in [true, false] {
            for md5_of_stored in [true, false] {
                let cinder = Cinder {
                    with_sha256file,
                    md5_of_stored,
                    ..Cinder::new(place.layout, compression)
                };
                let (full, child) = pair(place, &cinder).await;
                let rooms = place.rooms();
                for (made, objects) in [(&full, 6), (&child, 8)] {
                    let verdict = verify(&rooms, "v", &made.id).await;
                    assert_eq!(verdict.problems, [""; 0], "{compression}");
                    assert_eq!(
                        (verdict.objects, verdict.only_md5),
                        (objects, !with_sha256file)
                    );
                    assert!(verdict.bytes >= made.image.len() as u64);
                }
            }
        }
    }
    let rooms = place.rooms();
    for length in [0, 1, 65_536, 200_001] {
        let backup = rooms.write("w", &Dice(3).image(length)).await;
        let verdict = verify(&rooms, "w", &backup.id).await;
        assert_eq!(verdict.problems, [""; 0]);
        assert_eq!(verdict.bytes, length as u64);
        assert!(!verdict.only_md5);
    }
}

/// Images that grow and shrink, so that blocks are of several objects or of none.
pub async fn finds_nothing_wrong_with_images_of_other_sizes(place: &Place) {
    let cinder = Cinder::new(place.layout, "zlib");
    let store = place.store.as_ref();
    for (before, after) in [
        (5 * OBJECT + 777, 5 * OBJECT + 1000),
        (5 * OBJECT + 777, 7 * OBJECT + 1),
        (5 * OBJECT, 4 * OBJECT + 4096),
        (5 * OBJECT, 4 * OBJECT + 100),
        (5 * OBJECT + 777, 0),
    ] {
        let image = Dice(1).image(before);
        let full = cinder.back_up(store, "v", &image, None).await;
        let mut changed = image;
        changed.resize(after, 7);
        let child = cinder.back_up(store, "v", &changed, Some(&full)).await;
        let found = problems(place, &child).await;
        // Without a list of its own blocks, the size of the shrunken ones is not known.
        assert_eq!(found, [""; 0], "{before} {after}");
    }
}

pub async fn finds_objects_that_are_damaged(place: &Place) {
    type Edit = fn(&mut Vec<u8>);
    let edits: [(&str, Edit); 5] = [
        ("flipped bit", |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
        }),
        ("short", |bytes| bytes.truncate(bytes.len() - 1)),
        ("half", |bytes| bytes.truncate(bytes.len() / 2)),
        ("empty", |bytes| bytes.clear()),
        ("overlong", |bytes| bytes.extend(b"garbage")),
    ];
    for compression in CODECS {
        for with_sha256file in [true, false] {
            for (what, edit) in edits {
                let cinder = Cinder {
                    with_sha256file,
                    ..Cinder::new(place.layout, compression)
                };
                let (full, child) = pair(place, &cinder).await;
                full.edit_object(place.store.as_ref(), 2, edit).await;
                let names = [full.objects[2].as_str(), &full.id];
                assert_damaged(place, &full, &names).await;
                // What is built on it, too, and by the same driver.
                assert_damaged(place, &child, &names).await;
                let rooms = place.rooms();
                for made in [&full, &child, &full] {
                    let verdict = verify(&rooms, "v", &made.id).await;
                    assert_eq!(verdict.problems.len(), 1, "{compression} {what}");
                }
                // And what the child does not show.
                child.edit_object(place.store.as_ref(), 0, edit).await;
                assert_eq!(problems(place, &full).await.len(), 1);
                assert_eq!(problems(place, &child).await.len(), 2);
            }
        }
    }
}

pub async fn finds_what_is_missing_and_what_is_too_much(place: &Place) {
    let cinder = Cinder::new(place.layout, "zlib");
    let (full, child) = pair(place, &cinder).await;
    let store = place.store.as_ref();
    store
        .delete(&full.container, &full.objects[1])
        .await
        .unwrap();
    store
        .delete(&full.container, &full.objects[3])
        .await
        .unwrap();
    let names = [full.objects[1].as_str(), &full.objects[3], "missing"];
    assert_damaged(place, &full, &names).await;
    let of_child = problems(place, &child).await;
    assert_eq!(of_child.len(), 2);
    assert!(of_child[0].contains(&full.objects[1]) && of_child[0].contains("missing"));
    let (_, child) = pair(place, &cinder).await;
    for stray in ["-00099", "_metadata.tmp", "ZZZ"] {
        let stray = format!("{}{stray}", child.prefix);
        put(store, &child.container, &stray, b"x".to_vec()).await;
        let words = [stray.as_str(), "Cinder refuses", "cinderfs gc"];
        assert_damaged(place, &child, &words).await;
        // While it is written, that is as it should be.
        if place.tells_others {
            let claim = store.claim(&child.id).await.unwrap();
            assert_eq!(problems(place, &child).await, [""; 0]);
            drop(claim);
        }
        store.delete(&child.container, &stray).await.unwrap();
    }
    assert_eq!(problems(place, &child).await, [""; 0]);
}

pub async fn finds_chains_that_are_broken(place: &Place) {
    let cinder = Cinder::new(place.layout, "zlib");
    let store = place.store.as_ref();
    let (full, child) = pair(place, &cinder).await;
    full.edit(store, |document| document["parent_id"] = json!(child.id))
        .await;
    for made in [&full, &child] {
        assert_damaged(place, made, &["leads back to itself", &made.id]).await;
    }
    let (full, child) = pair(place, &cinder).await;
    store
        .delete(&full.container, &full.metadata())
        .await
        .unwrap();
    assert_damaged(place, &child, &[&full.id, "not in the store"]).await;
    // What it has of its own is checked all the same.
    child.edit_object(store, 0, |bytes| bytes.clear()).await;
    let found = problems(place, &child).await;
    assert!(
        found.len() == 2 && found[1].contains(&child.objects[0]),
        "{found:?}"
    );
    let (full, child) = pair(place, &cinder).await;
    for broken in ["", "{", "{\"version\": \"2.0.0\", \"objects\": []}"] {
        put(store, &full.container, &full.metadata(), broken.into()).await;
        assert_damaged(place, &full, &[&full.metadata()]).await;
        assert_damaged(place, &child, &[&full.id, &child.id]).await;
    }
}

pub async fn finds_lists_of_hashes_that_are_wrong(place: &Place) {
    let cinder = Cinder::new(place.layout, "zlib");
    let store = place.store.as_ref();
    type Edit = fn(&mut Value, &Value);
    let edits: [(&[&str], Edit); 6] = [
        (&["block 9 ", "byte 36864", "sha256"], |list, _| {
            list["sha256s"][9] = json!("ab".repeat(32));
        }),
        (&["2 blocks", "block 9 "], |list, _| {
            list["sha256s"][9] = json!("ab".repeat(32));
            list["sha256s"][10] = json!("ab".repeat(32));
        }),
        (&["40 hashes"], |list, _| {
            list["sha256s"].as_array_mut().unwrap().pop();
        }),
        (&["41 hashes of 8192"], |list, _| {
            list["chunk_size"] = json!(8192)
        }),
        (&["_sha256file", "no sha256"], |list, _| {
            list["sha256s"][9] = json!("xy".repeat(32));
        }),
        (&["block 8 "], |list, other| {
            list["sha256s"] = other["sha256s"].clone()
        }),
    ];
    for (words, edit) in edits {
        let (full, child) = pair(place, &cinder).await;
        let read = async |made: &Made| -> Value {
            let text = get(store, &made.container, &made.sha256file()).await;
            serde_json::from_slice(&text).unwrap()
        };
        let (mut list, other) = (read(&full).await, read(&child).await);
        edit(&mut list, &other);
        // Without the child's own wrong blocks, of which there are two runs.
        if words == ["block 8 "] {
            for at in 9..41 {
                list["sha256s"][at] = read(&full).await["sha256s"][at].clone();
            }
        }
        let text = serde_json::to_vec_pretty(&list).unwrap();
        put(store, &full.container, &full.sha256file(), text).await;
        assert_damaged(place, &full, words).await;
        // Which has a list of its own.
        assert_eq!(problems(place, &child).await, [""; 0]);
    }
    let (full, _) = pair(place, &cinder).await;
    for broken in [&b""[..], b"{}", b"[", &[0; 100_000]] {
        put(store, &full.container, &full.sha256file(), broken.to_vec()).await;
        assert_damaged(place, &full, &["_sha256file"]).await;
    }
    // The md5 is checked even where the list vouches for the data.
    let (full, _) = pair(place, &cinder).await;
    full.edit(store, |document| {
        entry(document, 1)["md5"] = json!("00112233445566778899aabbccddeeff")
    })
    .await;
    assert_damaged(place, &full, &[&full.objects[1], "md5"]).await;
}

pub async fn checks_what_no_object_holds(place: &Place) {
    let cinder = Cinder::new(place.layout, "none");
    let store = place.store.as_ref();
    let mut image = Dice(1).noise(4 * OBJECT);
    image[OBJECT..2 * OBJECT].fill(0);
    // An object less: the list says that it is zero, or that it is not.
    for (gone, words) in [
        (1, &[][..]),
        (2, &["8 blocks", "no object", "block 16 "][..]),
    ] {
        let made = cinder.back_up(store, "v", &image, None).await;
        made.edit(store, |document| {
            document["objects"].as_array_mut().unwrap().remove(gone);
        })
        .await;
        store
            .delete(&made.container, &made.objects[gone])
            .await
            .unwrap();
        match words {
            [] => assert_eq!(problems(place, &made).await, [""; 0]),
            words => assert_damaged(place, &made, words).await,
        }
    }
    // Objects whose borders are not those of blocks.
    for damaged in [false, true] {
        let made = cinder.back_up(store, "v", &image, None).await;
        let halves = [(0, 5000), (5000, OBJECT - 5000)].map(|(at, length)| {
            let data = image[at..at + length].to_vec();
            (at, data)
        });
        let first = made.objects[0].clone();
        let extra = format!("{}-00009", made.prefix);
        made.edit(store, |document| {
            let objects = document["objects"].as_array_mut().unwrap();
            objects.remove(0);
            for (name, (at, data)) in [&first, &extra].into_iter().zip(&halves) {
                let md5 = cinderfs::format::to_hex(&Md5::digest(data));
                objects.push(json!({name: {
                    "offset": at, "length": data.len(), "compression": "none", "md5": md5,
                }}));
            }
        })
        .await;
        for (name, (_, data)) in [&first, &extra].into_iter().zip(&halves) {
            put(store, &made.container, name, data.clone()).await;
        }
        if damaged {
            let text = get(store, &made.container, &made.sha256file()).await;
            let mut list: Value = serde_json::from_slice(&text).unwrap();
            list["sha256s"][1] = json!("ab".repeat(32));
            let text = serde_json::to_vec_pretty(&list).unwrap();
            put(store, &made.container, &made.sha256file(), text).await;
            assert_damaged(place, &made, &["block 1 ", "sha256"]).await;
        } else {
            assert_eq!(problems(place, &made).await, [""; 0]);
        }
    }
}

pub async fn checks_a_sample(place: &Place) {
    let cinder = Cinder::new(place.layout, "zlib");
    let store = place.store.as_ref();
    let made = cinder
        .back_up(store, "v", &Dice(1).text(20 * OBJECT), None)
        .await;
    made.edit_object(store, 7, |bytes| bytes.clear()).await;
    let mut found = 0;
    let rooms = place.rooms();
    let backup = rooms.find("v", &made.id).await;
    for _ in 0..60 {
        let verdict = rooms.driver.verify(&backup, 50, &()).await.unwrap();
        assert_eq!(verdict.objects, 10);
        found += verdict.problems.len();
    }
    assert!(found > 5 && found < 55, "{found}");
    assert_eq!(
        rooms.driver.verify(&backup, 1, &()).await.unwrap().objects,
        1
    );
}

pub async fn verifies_what_is_published_again(place: &Place) {
    let rooms = place.rooms();
    let image = Dice(1).image(200_000);
    let sink = rooms.driver.create("v", Basis::Full).await.unwrap();
    store_all(sink.as_ref(), &image).await.unwrap();
    let one = sink.publish(200_000, &described("a")).await.unwrap();
    assert_eq!(verify(&rooms, "v", &one.id).await.problems, [""; 0]);
    sink.store(1, crate::chunk(&image[..65_536])).await.unwrap();
    // Another program does not mind what is being written either, if it can know.
    let of_another = verify(&place.rooms(), "v", &one.id).await.problems;
    assert_eq!(of_another.is_empty(), place.tells_others, "{of_another:?}");
    sink.publish(200_000, &described("a")).await.unwrap();
    sink.seal();
    // What was kept of the first is not taken for the second.
    assert_eq!(verify(&rooms, "v", &one.id).await.problems, [""; 0]);
}

pub async fn tells_what_has_changed(place: &Place) {
    let cinder = Cinder::new(place.layout, "zlib");
    let store = place.store.as_ref();
    let block = 4096;
    let image = Dice(1).noise(20 * block + 100);
    let mut changed = image.clone();
    changed[3 * block + 5] ^= 1;
    changed[4 * block] ^= 1;
    changed[9 * block..11 * block].fill(0);
    changed[20 * block + 99] ^= 1;
    let one = cinder.back_up(store, "v", &image, None).await;
    let two = cinder.back_up(store, "v", &changed, Some(&one)).await;
    let longer = cinder
        .back_up(store, "v", &[&image[..], &[7; 5000]].concat(), None)
        .await;
    let cut = cinder.back_up(store, "v", &image[..5 * block], None).await;
    let other = cinder.back_up(store, "w", &image, None).await;
    let rooms = place.rooms();
    let changes = async |from: &Made, to: &Made| {
        let from = rooms.find(&from.volume, &from.id).await;
        let to = rooms.find(&to.volume, &to.id).await;
        let changes = rooms.driver.changes(&from, &to).await?;
        let pairs = changes.into_iter().map(|range| (range.start, range.end));
        Ok::<_, Error>(pairs.collect::<Vec<_>>())
    };
    let at = |from: usize, to: usize| ((from * block) as u64, (to * block) as u64);
    let end = image.len() as u64;
    let both = [at(3, 5), at(9, 11), (at(20, 20).0, end)];
    assert_eq!(changes(&one, &two).await.unwrap(), both);
    assert_eq!(changes(&two, &one).await.unwrap(), both);
    assert_eq!(changes(&one, &one).await.unwrap(), []);
    let tail = [(at(20, 20).0, end + 5000)];
    assert_eq!(changes(&one, &longer).await.unwrap(), tail);
    assert_eq!(changes(&longer, &one).await.unwrap(), tail);
    assert_eq!(changes(&one, &cut).await.unwrap(), [(at(5, 5).0, end)]);
    assert_eq!(changes(&cut, &two).await.unwrap(), [(at(3, 5).0, end)]);
    let kind = async |from, to| changes(from, to).await.unwrap_err().kind();
    assert_eq!(kind(&one, &other).await, Kind::Invalid);
    let coarse = Cinder {
        sha_block: 8192,
        ..cinder.clone()
    };
    let coarse = coarse.back_up(store, "v", &image, None).await;
    let silent = Cinder {
        with_sha256file: false,
        ..cinder
    };
    let silent = silent.back_up(store, "v", &image, None).await;
    let rooms = place.with(Options {
        append_only: true,
        ..options(place.layout)
    });
    for made in [&coarse, &silent] {
        let from = rooms.find("v", &one.id).await;
        let to = rooms.find("v", &made.id).await;
        let error = rooms.driver.changes(&from, &to).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.to_string().contains(&made.id), "{error}");
    }
}
