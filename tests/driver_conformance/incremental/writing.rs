//! Increments that are stored again, cut, reverted or discarded, and stores that fail.

use super::*;

/// Stores, loads, removes and publishes at random, and compares with a plain image.
pub async fn chunks_may_change_at_any_time(place: &impl Ground) {
    for seed in 1..place.rounds(12) {
        let mut dice = Dice(seed);
        let rooms = auto(place, None);
        let length = 1 + dice.below(300_000) as usize;
        let before = dice.image(length);
        let parent = write(&rooms, Basis::Full, &before).await.unwrap();
        let may_shrink = seed % 3 == 0;
        let basis = if may_shrink {
            Basis::Configured
        } else {
            Basis::Newest
        };
        let sink = rooms.driver.create("v", basis).await.unwrap();
        let mut image = before.clone();
        let more = dice.below(150_000) as usize;
        image.extend(dice.image(more));
        let mut stored = vec![false; image.len().div_ceil(OBJECT)];
        let mut has_parent = true;
        for _ in 0..60 {
            let index = dice.below(stored.len() as u64) as usize;
            let end = ((index + 1) * OBJECT).min(image.len());
            let range = index * OBJECT..end;
            match dice.below(10) {
                0..5 => {
                    match dice.below(4) {
                        // As it was.
                        0 if range.end <= before.len() => {
                            image[range.clone()].copy_from_slice(&before[range.clone()]);
                        }
                        1 => image[range.clone()].fill(0),
                        _ => change(&mut dice, &mut image[range.clone()]),
                    }
                    sink.store(index as u64, chunk(&image[range]))
                        .await
                        .unwrap();
                    stored[index] = true;
                }
                5 => {
                    sink.remove(index as u64).await.unwrap();
                    image[range].fill(0);
                    stored[index] = false;
                }
                6 | 7 => {
                    let loaded = sink.load(index as u64).await.unwrap();
                    // Where nothing was stored, zeros may have been filled in.
                    assert!(loaded.is_some() || !stored[index]);
                    if let Some(loaded) = loaded {
                        let mut bytes = vec![0; loaded.len() as usize];
                        loaded.read_at(0, &mut bytes).unwrap();
                        assert!(bytes == image[range], "chunk {index} of seed {seed}");
                    }
                }
                8 if may_shrink && dice.below(3) == 0 && stored.len() > 2 => {
                    // Cut off behind a chunk, as truncate(2) does it.
                    stored.pop();
                    sink.remove(stored.len() as u64).await.unwrap();
                    image.truncate(stored.len() * OBJECT);
                }
                _ => {
                    zero_unstored(&mut image, &stored);
                    let size = image.len() as u64;
                    let backup = sink.publish(size, &described("a")).await.unwrap();
                    // Once it is on its own it stays so.
                    has_parent &= image.len() >= before.len();
                    let parent = has_parent.then_some((&*parent, &before[..]));
                    check(place, &backup, parent, &image).await;
                }
            }
        }
        zero_unstored(&mut image, &stored);
        has_parent &= image.len() >= before.len();
        let backup = sink
            .publish(image.len() as u64, &described("a"))
            .await
            .unwrap();
        sink.seal();
        let parent_of_it = has_parent.then_some((&*parent, &before[..]));
        check(place, &backup, parent_of_it, &image).await;
        assert!(rooms.read_all("v", &parent.id).await.unwrap() == before);
        rooms.driver.delete(&backup).await.unwrap();
        rooms.driver.delete(&parent).await.unwrap();
        assert_eq!(place.objects().await, [""; 0]);
    }
}

fn zero_unstored(image: &mut [u8], stored: &[bool]) {
    for (bytes, _) in image
        .chunks_mut(OBJECT)
        .zip(stored)
        .filter(|(_, stored)| !**stored)
    {
        bytes.fill(0);
    }
}

pub async fn what_was_published_stays_after_a_revert(place: &impl Ground) {
    let rooms = place.rooms();
    let mut dice = Dice(9);
    let before = dice.image(300_000);
    let parent = write(&rooms, Basis::Full, &before).await.unwrap();
    let mut image = before.clone();
    change(&mut dice, &mut image);
    let sink = rooms.driver.create("v", Basis::Newest).await.unwrap();
    store_all(sink.as_ref(), &image).await.unwrap();
    let child = sink.publish(300_000, &described("a")).await.unwrap();
    let earlier = content(place).await;
    let mut other = image.clone();
    change(&mut dice, &mut other);
    store_all(sink.as_ref(), &other).await.unwrap();
    sink.remove(1).await.unwrap();
    check_unpublished(place, &child, &image).await;
    sink.revert().await.unwrap();
    assert!(content(place).await == earlier);
    check(place, &child, Some((&parent, &before)), &image).await;
    sink.discard().await.unwrap();
    check(place, &parent, None, &before).await;
    assert_eq!(rooms.driver.backups("v").await.unwrap().len(), 1);
}

pub async fn discarding_leaves_nothing(place: &impl Ground) {
    let rooms = place.rooms();
    let mut dice = Dice(2);
    let before = dice.image(300_000);
    let parent = write(&rooms, Basis::Full, &before).await.unwrap();
    let earlier = content(place).await;
    let mut image = before.clone();
    change(&mut dice, &mut image);
    for publishes in 0..3 {
        let sink = rooms.driver.create("v", Basis::Newest).await.unwrap();
        store_all(sink.as_ref(), &image).await.unwrap();
        for _ in 0..publishes {
            sink.publish(300_000, &described("a")).await.unwrap();
            store_all(sink.as_ref(), &before).await.unwrap();
            store_all(sink.as_ref(), &image).await.unwrap();
        }
        assert_eq!(kind(rooms.driver.delete(&parent).await), Kind::Dependents);
        sink.discard().await.unwrap();
        assert!(content(place).await == earlier);
    }
    // And the parent can be deleted at once.
    rooms.driver.delete(&parent).await.unwrap();
    assert_eq!(place.objects().await, [""; 0]);
}

/// Lets each put fail in turn, those of a second publication, too.
pub async fn whatever_put_fails_nothing_is_lost(place: &Place) {
    let rooms = place.rooms();
    let mut dice = Dice(4);
    let before = dice.image(200_000);
    let parent = write(&rooms, Basis::Full, &before).await.unwrap();
    let mut image = before.clone();
    change(&mut dice, &mut image);
    image[70_000] ^= 1;
    let mut other = image.clone();
    change(&mut dice, &mut other);
    other[150_000] ^= 1;
    let earlier = content(place).await;
    let mut succeeded = false;
    for failing in 0..100 {
        let puts = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&puts);
        place.faults.fail_when(Box::new(move |call| match call {
            Call::Put(_) if counter.fetch_add(1, Ordering::Relaxed) == failing => {
                Some(Kind::NoSpace)
            }
            _ => None,
        }));
        let sink = rooms.driver.create("v", Basis::Newest).await.unwrap();
        let first = publish(sink.as_ref(), &image).await;
        let second = match &first {
            Ok(_) => Some(publish(sink.as_ref(), &other).await),
            Err(_) => None,
        };
        place.faults.fail_when(Box::new(|_| None));
        let listed = rooms.driver.backups("v").await.unwrap().len();
        match (first, second) {
            (Err(e), _) => {
                assert_eq!(e.kind(), Kind::NoSpace, "put {failing}");
                assert_eq!(listed, 1, "put {failing}");
            }
            (Ok(first), Some(Err(e))) => {
                assert_eq!(e.kind(), Kind::NoSpace, "put {failing}");
                assert_eq!(listed, 2, "put {failing}");
                check_unpublished(place, &first, &image).await;
                sink.revert().await.unwrap();
                check(place, &first, Some((&parent, &before)), &image).await;
            }
            (Ok(_), Some(Ok(second))) => {
                check(place, &second, Some((&parent, &before)), &other).await;
                succeeded = true;
            }
            (Ok(_), None) => unreachable!(),
        }
        sink.discard().await.unwrap();
        assert!(content(place).await == earlier, "put {failing}");
        if succeeded {
            return;
        }
    }
    panic!("it never succeeded");
}

/// The same for a chunk that is stored again after it could not be.
pub async fn a_chunk_that_failed_can_be_stored_again(place: &Place) {
    let rooms = place.rooms();
    let before = Dice(4).noise(200_000);
    let parent = write(&rooms, Basis::Full, &before).await.unwrap();
    // Sixteen objects: every second block is another one.
    let mut image = before.clone();
    image.chunks_mut(2 * BLOCK).for_each(|two| two[0] ^= 1);
    for failing in 1..=8 {
        let sink = rooms.driver.create("v", Basis::Newest).await.unwrap();
        let mut other = image.clone();
        other.chunks_mut(2 * BLOCK).for_each(|two| two[1] ^= 1);
        let end = format!("-{failing:05}");
        place.faults.fail_when(Box::new(move |call| match call {
            Call::Put(name) if name.ends_with(&end) => Some(Kind::Unavailable),
            _ => None,
        }));
        let failed = sink.store(0, chunk(&other[..OBJECT])).await;
        assert_eq!(kind(failed), Kind::Unavailable);
        place.faults.fail_when(Box::new(|_| None));
        let refused = sink.publish(OBJECT as u64, &described("a")).await;
        assert_eq!(kind(refused), Kind::Invalid);
        let child = publish(sink.as_ref(), &image).await.unwrap();
        check(place, &child, Some((&parent, &before)), &image).await;
        sink.discard().await.unwrap();
    }
}

/// What is filled in where nothing was written is stored once more, too.
pub async fn a_hole_that_failed_can_be_stored_again(place: &Place) {
    let rooms = place.rooms();
    let mut before = Dice(4).noise(200_000);
    // Two runs of data, of which the hole makes two objects.
    before[OBJECT + 8192..OBJECT + 16_384].fill(0);
    let parent = write(&rooms, Basis::Full, &before).await.unwrap();
    let mut image = before.clone();
    image[OBJECT..2 * OBJECT].fill(0);
    for failing in 1..=2 {
        let sink = rooms.driver.create("v", Basis::Newest).await.unwrap();
        for index in [0, 2, 3] {
            let end = ((index + 1) * OBJECT).min(image.len());
            let bytes = chunk(&image[index * OBJECT..end]);
            sink.store(index as u64, bytes).await.unwrap();
        }
        let end = format!("-{failing:05}");
        place.faults.fail_when(Box::new(move |call| match call {
            Call::Put(name) if name.ends_with(&end) => Some(Kind::Unavailable),
            _ => None,
        }));
        let failed = sink.publish(200_000, &described("a")).await;
        assert_eq!(kind(failed), Kind::Unavailable);
        place.faults.fail_when(Box::new(|_| None));
        let child = sink.publish(200_000, &described("a")).await.unwrap();
        check(place, &child, Some((&parent, &before)), &image).await;
        sink.discard().await.unwrap();
    }
}

/// One that was to become a full one, and could not.
pub async fn what_failed_to_become_a_full_one_is_an_increment_still(place: &Place) {
    let rooms = auto(place, None);
    let before = Dice(4).noise(300_000);
    let parent = write(&rooms, Basis::Full, &before).await.unwrap();
    let mut image = before.clone();
    image.chunks_mut(50_000).for_each(|some| some[0] ^= 1);
    for failing in 0..4 {
        let sink = rooms.driver.create("v", Basis::Configured).await.unwrap();
        store_all(sink.as_ref(), &image[..4 * OBJECT])
            .await
            .unwrap();
        let puts = Arc::new(AtomicUsize::new(0));
        place.faults.fail_when(Box::new(move |call| match call {
            Call::Put(_) if puts.fetch_add(1, Ordering::Relaxed) == failing => Some(Kind::NoSpace),
            _ => None,
        }));
        let failed = sink.publish(4 * OBJECT as u64, &described("a")).await;
        assert_eq!(kind(failed), Kind::NoSpace);
        place.faults.fail_when(Box::new(|_| None));
        if failing % 2 == 0 {
            // It is written to its end after all.
            sink.store(4, chunk(&image[4 * OBJECT..])).await.unwrap();
            let child = sink.publish(300_000, &described("a")).await.unwrap();
            let text = json(place, &child, "_metadata").await;
            assert_eq!(text["parent_id"], parent.id.as_str());
            assert!(place.rooms().read_all("v", &child.id).await.unwrap() == image);
            assert!(rooms.read_all("v", &parent.id).await.unwrap() == before);
        } else {
            let full = sink
                .publish(4 * OBJECT as u64, &described("a"))
                .await
                .unwrap();
            check(place, &full, None, &image[..4 * OBJECT]).await;
        }
        sink.discard().await.unwrap();
        assert_eq!(rooms.driver.backups("v").await.unwrap().len(), 1);
    }
    rooms.driver.delete(&parent).await.unwrap();
    assert_eq!(place.objects().await, [""; 0]);
}

/// What is sealed may be a parent: it never changes any more.
pub async fn what_is_sealed_takes_nothing_more(place: &impl Ground) {
    let rooms = place.rooms();
    let image = Dice(1).image(200_000);
    let sink = rooms.driver.create("v", Basis::Full).await.unwrap();
    let backup = publish(sink.as_ref(), &image).await.unwrap();
    let earlier = content(place).await;
    sink.seal();
    let mut other = image.clone();
    other[100] ^= 1;
    assert_eq!(
        kind(sink.store(0, chunk(&other[..OBJECT])).await),
        Kind::Sealed
    );
    assert_eq!(
        kind(sink.publish(200_000, &described("b")).await),
        Kind::Sealed
    );
    assert!(content(place).await == earlier);
    check(place, &backup, None, &image).await;
}
