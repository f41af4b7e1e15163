//! What an incremental backup holds: what Cinder would have written, and no more.

use super::*;

pub async fn an_increment_is_what_cinder_would_write(place: &Place) {
    let rooms = place.rooms();
    // Chunk ends and their neighbours, block ends, and the short tail.
    let borders: [(usize, &[(usize, usize)]); 9] = [
        (
            300_000,
            &[
                (0, 1),
                (65_535, 65_536),
                (65_536, 65_537),
                (131_071, 131_073),
                (299_999, 300_000),
            ],
        ),
        (
            300_000,
            &[
                (60_000, 70_000),
                (4096, 8192),
                (8191, 12_289),
                (299_008, 299_009),
            ],
        ),
        (262_144, &[(0, 262_144)]),
        (262_144, &[(196_608, 262_144)]),
        (1, &[(0, 1)]),
        (4096, &[(4095, 4096)]),
        (4097, &[(4096, 4097)]),
        (65_537, &[(65_536, 65_537)]),
        (200_000, &[]),
    ];
    for (length, ranges) in borders {
        let before = Dice(length as u64).image(length);
        let full = write(&rooms, Basis::Full, &before).await.unwrap();
        check(place, &full, None, &before).await;
        let mut image = before.clone();
        for (start, end) in ranges {
            image[*start..*end]
                .iter_mut()
                .for_each(|byte| *byte ^= 0x55);
        }
        let child = write(&rooms, Basis::Newest, &image).await.unwrap();
        check(place, &child, Some((&full, &before)), &image).await;
    }
}

pub async fn random_changes_are_what_cinder_would_write(place: &Place) {
    let rooms = place.rooms();
    for seed in 1..40 {
        let mut dice = Dice(seed);
        let length = 1 + dice.below(400_000) as usize;
        let before = dice.image(length);
        let parent = write(&rooms, Basis::Full, &before).await.unwrap();
        let mut image = before.clone();
        if dice.below(2) == 0 {
            let more = dice.below(200_000) as usize;
            image.extend(dice.image(more));
        }
        change(&mut dice, &mut image);
        let child = write(&rooms, Basis::Newest, &image).await.unwrap();
        check(place, &child, Some((&parent, &before)), &image).await;
        // And on that again.
        let mut last = image.clone();
        change(&mut dice, &mut last);
        let grandchild = write(&rooms, Basis::Newest, &last).await.unwrap();
        check(place, &grandchild, Some((&child, &image)), &last).await;
    }
}

pub async fn nothing_changed_makes_no_object(place: &Place) {
    let rooms = place.rooms();
    for length in [0, 1, 4096, 65_536, 300_001] {
        let image = Dice(length as u64 + 1).image(length);
        let full = write(&rooms, Basis::Full, &image).await.unwrap();
        let child = write(&rooms, Basis::Newest, &image).await.unwrap();
        check(place, &child, Some((&full, &image)), &image).await;
        assert_eq!((child.object_count, child.stored_bytes), (0, Some(0)));
        let name = format!("{}_metadata", child.service_metadata);
        let text = get(place.store.as_ref(), &child.container, &name).await;
        assert!(
            String::from_utf8(text)
                .unwrap()
                .contains("\"objects\": [],")
        );
        let again = write(&rooms, Basis::Newest, &image).await.unwrap();
        check(place, &again, Some((&child, &image)), &image).await;
    }
}

pub async fn an_image_may_grow(place: &Place) {
    let rooms = place.rooms();
    for (before, after) in [
        (0, 1),
        (0, 200_000),
        (1, 2),
        (100, 4096),
        (4095, 4097),
        (65_536, 65_537),
        (100_001, 100_002),
        (100_001, 131_072),
        (100_001, 500_000),
        (262_144, 400_000),
    ] {
        for filled in [false, true] {
            let mut dice = Dice(before as u64 * 7 + after as u64);
            let small = dice.image(before);
            let mut large = small.clone();
            // By zeros, too: the short last block of the parent is another one then.
            let more = if filled {
                dice.noise(after - before)
            } else {
                vec![0; after - before]
            };
            large.extend(more);
            let parent = write(&rooms, Basis::Full, &small).await.unwrap();
            let child = write(&rooms, Basis::Newest, &large).await.unwrap();
            check(place, &child, Some((&parent, &small)), &large).await;
            // By never storing what is behind the parent's chunks.
            if !filled {
                let sink = rooms.driver.create("v", Basis::Newest).await.unwrap();
                let kept = before.next_multiple_of(OBJECT).min(after);
                store_all(sink.as_ref(), &large[..kept]).await.unwrap();
                let backup = sink.publish(after as u64, &described("a")).await.unwrap();
                sink.seal();
                check(place, &backup, Some((&child, &large)), &large).await;
                assert_eq!(backup.object_count, 0);
            }
        }
    }
}

pub async fn a_smaller_image_is_no_increment(place: &impl Ground) {
    for (before, after) in [(300_000, 299_999), (300_000, 131_072), (300_000, 0), (1, 0)] {
        let large = Dice(5).image(before);
        let mut small = large[..after].to_vec();
        if after > 100_000 {
            small[100_000] ^= 1;
        }
        let rooms = auto(place, None);
        let full = write(&rooms, Basis::Full, &large).await.unwrap();
        let earlier = content(place).await;
        let sink = rooms.driver.create("v", Basis::Newest).await.unwrap();
        store_all(sink.as_ref(), &small).await.unwrap();
        let refused = sink
            .publish(after as u64, &described("a"))
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), Kind::Invalid);
        assert!(
            refused.to_string().contains(&after.to_string()),
            "{refused}"
        );
        assert_eq!(rooms.driver.backups("v").await.unwrap().len(), 1);
        sink.discard().await.unwrap();
        assert!(content(place).await == earlier);
        // The parent is free again.
        let made = write(&rooms, Basis::Configured, &small).await.unwrap();
        check(place, &made, None, &small).await;
        rooms.driver.delete(&full).await.unwrap();
        check(place, &made, None, &small).await;
        rooms.driver.delete(&made).await.unwrap();
        assert_eq!(place.objects().await, [""; 0]);
    }
}

pub async fn a_smaller_image_may_grow_again(place: &impl Ground) {
    let rooms = auto(place, None);
    let mut dice = Dice(3);
    let large = dice.image(300_000);
    let full = write(&rooms, Basis::Full, &large).await.unwrap();
    // Refused, and then long enough: the same sink.
    let sink = rooms.driver.create("v", Basis::Newest).await.unwrap();
    store_all(sink.as_ref(), &large[..131_072]).await.unwrap();
    assert_eq!(
        kind(sink.publish(131_072, &described("a")).await),
        Kind::Invalid
    );
    let mut image = large.clone();
    change(&mut dice, &mut image);
    store_all(sink.as_ref(), &image).await.unwrap();
    let child = sink.publish(300_000, &described("a")).await.unwrap();
    check(place, &child, Some((&full, &large)), &image).await;
    sink.discard().await.unwrap();
    // As a full one it stays, and it was published once before.
    let sink = rooms.driver.create("v", Basis::Configured).await.unwrap();
    store_all(sink.as_ref(), &large[..131_072]).await.unwrap();
    let small = sink.publish(131_072, &described("a")).await.unwrap();
    check(place, &small, None, &large[..131_072]).await;
    store_all(sink.as_ref(), &image).await.unwrap();
    let grown = sink.publish(300_000, &described("a")).await.unwrap();
    check(place, &grown, None, &image).await;
    // An increment that was published, and is then cut.
    sink.discard().await.unwrap();
    let sink = rooms.driver.create("v", Basis::Configured).await.unwrap();
    store_all(sink.as_ref(), &image).await.unwrap();
    let child = sink.publish(300_000, &described("a")).await.unwrap();
    check(place, &child, Some((&full, &large)), &image).await;
    for index in 2..5 {
        sink.remove(index).await.unwrap();
    }
    assert_eq!(
        kind(rooms.driver.delete(&full).await),
        Kind::Dependents,
        "it is built on that still"
    );
    let cut = sink.publish(131_072, &described("a")).await.unwrap();
    check(place, &cut, None, &image[..131_072]).await;
    // And nothing more, while it may be written to.
    rooms.driver.delete(&full).await.unwrap();
    store_all(sink.as_ref(), &image).await.unwrap();
    let grown = sink.publish(300_000, &described("a")).await.unwrap();
    check(place, &grown, None, &image).await;
}

pub async fn zeros_over_data_are_a_change(place: &Place) {
    let rooms = place.rooms();
    let before = Dice(1).noise(300_000);
    let full = write(&rooms, Basis::Full, &before).await.unwrap();
    let mut image = before.clone();
    image[131_072..196_608].fill(0);
    image[8192..12_288].fill(0);
    image[262_144..].fill(0);
    let sink = rooms.driver.create("v", Basis::Newest).await.unwrap();
    // What is never stored is zero, as in a full one.
    for index in [0, 1, 3] {
        let bytes = &image[index * OBJECT..(index + 1) * OBJECT];
        sink.store(index as u64, chunk(bytes)).await.unwrap();
    }
    let child = sink.publish(300_000, &described("a")).await.unwrap();
    sink.seal();
    check(place, &child, Some((&full, &before)), &image).await;
    // All of it, on that; and once more, where nothing changes.
    let zeros = vec![0; 300_000];
    let sink = rooms.driver.create("v", Basis::Newest).await.unwrap();
    let none = sink.publish(300_000, &described("a")).await.unwrap();
    sink.seal();
    check(place, &none, Some((&child, &image)), &zeros).await;
    let again = write(&rooms, Basis::Newest, &zeros).await.unwrap();
    check(place, &again, Some((&none, &zeros)), &zeros).await;
    assert_eq!(again.object_count, 0);
}

pub async fn no_chunk_of_the_parent_is_fetched(place: &Place) {
    let rooms = auto(place, None);
    let mut dice = Dice(1);
    let mut image = dice.image(500_000);
    write(&rooms, Basis::Full, &image).await.unwrap();
    for basis in [Basis::Newest, Basis::Configured] {
        change(&mut dice, &mut image);
        image.extend(dice.image(30_000));
        place.faults.take_chunk_reads();
        let child = write(&rooms, basis, &image).await.unwrap();
        assert_eq!(place.faults.take_chunk_reads(), (0, 0));
        assert!(child.parent_id.is_some());
        assert!(place.rooms().read_all("v", &child.id).await.unwrap() == image);
    }
}

/// Whoever cannot read a part of the parent's list takes that part for changed.
pub async fn a_list_that_is_damaged_inside_makes_changes(place: &Place) {
    let rooms = auto(place, None);
    let image = Dice(1).noise(300_000);
    let full = write(&rooms, Basis::Full, &image).await.unwrap();
    let name = format!("{}_sha256file", full.service_metadata);
    let mut text = get(place.store.as_ref(), &full.container, &name).await;
    let at = text.windows(8).position(|w| w == b"\"sha256s").unwrap() + 400;
    text[at] = b'x';
    put(place.store.as_ref(), &full.container, &name, text).await;
    for basis in [Basis::Newest, Basis::Configured] {
        let child = write(&rooms, basis, &image).await.unwrap();
        assert_eq!(child.parent_id.as_ref(), Some(&full.id));
        assert!(place.rooms().read_all("v", &child.id).await.unwrap() == image);
        rooms.driver.delete(&child).await.unwrap();
    }
}

pub async fn a_chain_of_fifty(place: &Place) {
    let rooms = auto(place, None);
    let mut dice = Dice(11);
    let mut image = dice.image(200_000);
    let mut all = Vec::new();
    for number in 0..50 {
        change(&mut dice, &mut image);
        if number % 7 == 3 {
            image.extend(dice.image(9000));
        }
        let backup = write(&rooms, Basis::Configured, &image).await.unwrap();
        assert_eq!(backup.depth, number);
        all.push((backup, image.clone()));
    }
    let fresh = place.rooms();
    for (backup, image) in &all {
        assert!(fresh.read_all("v", &backup.id).await.unwrap() == *image);
    }
    for (backup, _) in &all[..49] {
        assert_eq!(kind(rooms.driver.delete(backup).await), Kind::Dependents);
    }
    for (backup, _) in all.iter().rev() {
        rooms.driver.delete(backup).await.unwrap();
    }
    assert_eq!(place.objects().await, [""; 0]);
}
