//! What becomes of the chunks that a driver is given.

use crate::common::library::{Dice, compressed, described, options};
use crate::{Ground, Place, chunk, store_all};
use cinderfs::driver::{Basis, ChunkData, Description};
use cinderfs::error::Kind;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub async fn publishes_what_was_stored(place: &Place) {
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

pub async fn keeps_what_is_said_of_it(place: &impl Ground) {
    let rooms = place.rooms();
    let sink = rooms.driver.create("v", Basis::Full).await.unwrap();
    sink.store(0, chunk(b"data")).await.unwrap();
    let description = Description {
        name: "täglich.img".into(),
        description: Some("☃".into()),
        modified: Some(SystemTime::UNIX_EPOCH + Duration::new(5, 6000)),
    };
    let published = sink.publish(4, &description).await.unwrap();
    assert_eq!(published.id, sink.backup_id());
    // A driver that knows nothing yet.
    let rooms = place.rooms();
    assert_eq!(rooms.driver.volumes().await.unwrap(), ["v"]);
    for backup in [&published, &rooms.find("v", &published.id).await] {
        assert_eq!(backup.size, 4);
        assert_eq!(backup.name.as_deref(), Some("täglich.img"));
        assert!(backup.written_as_file);
        assert_eq!(backup.description.as_deref(), Some("☃"));
        assert_eq!(backup.modified, description.modified);
        assert_eq!((backup.depth, &backup.parent_id), (0, &None));
        assert_eq!(backup.created_at, published.created_at);
    }
}

pub async fn takes_chunks_in_any_order(place: &impl Ground) {
    let rooms = place.rooms();
    let sink = rooms.driver.create("v", Basis::Full).await.unwrap();
    let size = sink.chunk_size() as usize;
    let mut image = Dice(1).image(6 * size + 6789);
    for index in [6usize, 2, 0, 5, 1, 3] {
        let start = index * size;
        let bytes = &image[start..image.len().min(start + size)];
        sink.store(index as u64, ChunkData::Zero(bytes.len() as u64))
            .await
            .unwrap();
        sink.store(index as u64, chunk(bytes)).await.unwrap();
        let loaded = sink.load(index as u64).await.unwrap().unwrap();
        let mut read = vec![0; bytes.len()];
        assert_eq!(loaded.len(), bytes.len() as u64);
        loaded.read_at(0, &mut read).unwrap();
        assert!(read == bytes);
    }
    assert!(sink.load(4).await.unwrap().is_none());
    image[4 * size..5 * size].fill(0);
    let length = image.len() as u64;
    let backup = sink.publish(length, &described("a")).await.unwrap();
    // Numbers and order are Cinder's, too.
    place.check(&backup, None, &image).await;
}

pub async fn publishes_again(place: &impl Ground) {
    let rooms = place.rooms();
    let sink = rooms.driver.create("v", Basis::Full).await.unwrap();
    // As the first FLUSH of a new file does.
    let empty = sink.publish(0, &described("a")).await.unwrap();
    assert_eq!(empty.size, 0);
    let size = sink.chunk_size() as usize;
    let mut image = Dice(1).image(3 * size + 3456);
    let length = image.len() as u64;
    store_all(sink.as_ref(), &image).await.unwrap();
    let one = sink.publish(length, &described("a")).await.unwrap();
    assert!(rooms.read_all("v", &one.id).await.unwrap() == image);
    image[size + 5000] ^= 1;
    sink.store(1, chunk(&image[size..2 * size])).await.unwrap();
    let two = sink.publish(length, &described("b")).await.unwrap();
    assert_eq!((&two.id, two.name.as_deref()), (&one.id, Some("b")));
    assert!(rooms.read_all("v", &two.id).await.unwrap() == image);
    sink.remove(3).await.unwrap();
    sink.remove(2).await.unwrap();
    image.truncate(2 * size);
    let three = sink
        .publish(image.len() as u64, &described("b"))
        .await
        .unwrap();
    assert!(rooms.read_all("v", &three.id).await.unwrap() == image);
    assert_eq!(rooms.driver.backups("v").await.unwrap().len(), 1);
    place.check(&three, None, &image).await;
    sink.seal();
    // What it had before is gone with it, or was before.
    rooms.driver.delete(&three).await.unwrap();
    assert_eq!(place.objects().await, [""; 0]);
}

pub async fn two_rewritten_chunks_never_share_an_object(place: &Place) {
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

pub async fn refuses_what_is_incomplete(place: &impl Ground) {
    let rooms = place.rooms();
    let sink = rooms.driver.create("v", Basis::Full).await.unwrap();
    sink.store(0, chunk(b"short")).await.unwrap();
    let error = sink.publish(100_000, &described("a")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert_eq!(rooms.driver.backups("v").await.unwrap().len(), 0);
    let backup = sink.publish(5, &described("a")).await.unwrap();
    assert_eq!(rooms.read_all("v", &backup.id).await.unwrap(), b"short");
}

pub async fn discards(place: &impl Ground) {
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
