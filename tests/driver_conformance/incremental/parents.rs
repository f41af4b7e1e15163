//! What an incremental backup is built on, and what may become of that meanwhile.

use super::*;

/// Sets when a backup of Cinder's was made.
async fn set_created(place: &Place, made: &Made, at: &str) {
    made.edit(place.store.as_ref(), |document| {
        document["created_at"] = serde_json::json!(at);
    })
    .await;
}

pub async fn the_newest_that_is_fit_becomes_the_parent(place: &Place) {
    let image = Dice(1).image(100_000);
    let store = place.store.as_ref();
    let rooms = auto(place, None);
    let none = rooms.driver.create("v", Basis::Newest).await;
    assert_eq!(none.err().unwrap().kind(), Kind::Invalid);
    let parent_of = async |basis: Basis| {
        let sink = rooms.driver.create("v", basis).await?;
        let made = publish(sink.as_ref(), &image).await;
        sink.discard().await.unwrap();
        made.map(|made| made.parent_id.clone())
    };
    assert_eq!(parent_of(Basis::Configured).await.unwrap(), None);
    let cinder = Cinder::new(place.layout, "zlib");
    let other_block = Cinder {
        sha_block: 8 << 10,
        ..cinder.clone()
    };
    let without_list = Cinder {
        with_sha256file: false,
        ..cinder.clone()
    };
    let fit = [
        (
            cinder.back_up(store, "v", &image, None).await,
            "2025-01-02 03:04:05+00:00",
        ),
        (
            cinder.back_up(store, "v", &image, None).await,
            "2025-01-02 03:04:06+00:00",
        ),
        // Before Liberty there was no zone.
        (
            cinder.back_up(store, "v", &image, None).await,
            "2025-01-02 03:04:05.9",
        ),
        (
            cinder.back_up(store, "w", &image, None).await,
            "2026-01-02 03:04:05.9",
        ),
    ];
    for (made, at) in &fit {
        set_created(place, made, at).await;
    }
    assert_eq!(
        parent_of(Basis::Newest).await.unwrap().unwrap(),
        fit[1].0.id
    );
    // Newer ones that are not fit.
    let unfit = [
        other_block.back_up(store, "v", &image, None).await,
        without_list.back_up(store, "v", &image, None).await,
        cinder.back_up(store, "v", &image, None).await,
        cinder.back_up(store, "v", &image, None).await,
        cinder.back_up(store, "v", &image, None).await,
    ];
    for (day, made) in (10..).zip(&unfit) {
        set_created(place, made, &format!("2025-02-{day} 00:00:00+00:00")).await;
    }
    let list = unfit[2].sha256file();
    let text = get(store, &unfit[2].container, &list).await;
    let mut shorter: Value = serde_json::from_slice(&text).unwrap();
    shorter["sha256s"].as_array_mut().unwrap().pop();
    let shorter = serde_json::to_vec_pretty(&shorter).unwrap();
    put(store, &unfit[2].container, &list, shorter).await;
    put(
        store,
        &unfit[3].container,
        &unfit[3].sha256file(),
        b"{}".to_vec(),
    )
    .await;
    put(
        store,
        &unfit[4].container,
        &unfit[4].metadata(),
        b"{".to_vec(),
    )
    .await;
    for basis in [Basis::Newest, Basis::Configured] {
        assert_eq!(parent_of(basis).await.unwrap().unwrap(), fit[1].0.id);
    }
    assert_eq!(parent_of(Basis::Full).await.unwrap(), None);
    // One that is being written, here or by another driver, though it is listed.
    let another = auto(place, None);
    let writers = [&rooms, &another];
    for writer in &writers[..if place.tells_others { 2 } else { 1 }] {
        let sink = writer.driver.create("v", Basis::Full).await.unwrap();
        store_all(sink.as_ref(), &image).await.unwrap();
        let listed = sink.publish(100_000, &described("a")).await.unwrap();
        assert_eq!(
            parent_of(Basis::Newest).await.unwrap().unwrap(),
            fit[1].0.id
        );
        sink.seal();
        assert_eq!(parent_of(Basis::Newest).await.unwrap().unwrap(), listed.id);
        sink.discard().await.unwrap();
    }
    // An increment whose parent is missing.
    let base = cinder.back_up(store, "v", &image, None).await;
    let orphan = cinder.back_up(store, "v", &image, Some(&base)).await;
    set_created(place, &orphan, "2025-03-01 00:00:00+00:00").await;
    set_created(place, &base, "2025-02-28 00:00:00+00:00").await;
    assert_eq!(parent_of(Basis::Newest).await.unwrap().unwrap(), orphan.id);
    store
        .delete(&base.container, &base.metadata())
        .await
        .unwrap();
    assert_eq!(
        parent_of(Basis::Newest).await.unwrap().unwrap(),
        fit[1].0.id
    );
    for (made, _) in &fit[..3] {
        store
            .delete(&made.container, &made.metadata())
            .await
            .unwrap();
    }
    let refused = parent_of(Basis::Newest).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Invalid);
    assert!(refused.to_string().contains(&orphan.id), "{refused}");
    assert_eq!(parent_of(Basis::Configured).await.unwrap(), None);
}

pub async fn a_chain_is_no_longer_than_it_may_be(place: &impl Ground) {
    let image = Dice(1).image(100_000);
    for most in 1..4 {
        let rooms = auto(place, Some(most));
        let mut depths = Vec::new();
        for _ in 0..3 * (most + 1) {
            depths.push(
                write(&rooms, Basis::Configured, &image)
                    .await
                    .unwrap()
                    .depth,
            );
        }
        let cycle: Vec<u32> = (0..=most).collect();
        assert_eq!(depths, cycle.repeat(3));
        // Who asks for an increment gets it.
        let asked = write(&rooms, Basis::Newest, &image).await.unwrap();
        assert_eq!(asked.depth, most + 1);
        assert_eq!(
            write(&rooms, Basis::Configured, &image)
                .await
                .unwrap()
                .depth,
            0
        );
        let mut backups = rooms.driver.backups("v").await.unwrap();
        cinderfs::driver::leaves_first(&mut backups, |backup| backup);
        for backup in backups {
            rooms.driver.delete(&backup).await.unwrap();
        }
    }
}

/// What another program does meanwhile.
pub async fn a_parent_that_is_deleted_by_another(place: &Place) {
    let rooms = place.rooms();
    let image = Dice(1).image(200_000);
    for stored in [false, true] {
        let parent = write(&rooms, Basis::Full, &image).await.unwrap();
        let sink = rooms.driver.create("v", Basis::Newest).await.unwrap();
        if stored {
            store_all(sink.as_ref(), &image).await.unwrap();
        }
        let other = place.rooms();
        if place.tells_others {
            let seen = other.find("v", &parent.id).await;
            let busy = kind(other.driver.delete(&seen).await);
            assert_eq!(busy, Kind::Dependents);
        }
        // Cinder does not know that anybody builds on it.
        let store = place.store.as_ref();
        for entry in store.list(&parent.container, "").await.unwrap() {
            store.delete(&parent.container, &entry.name).await.unwrap();
        }
        store.remove_container(&parent.container).await.unwrap();
        let refused = match stored {
            false => store_all(sink.as_ref(), &image).await.unwrap_err(),
            true => sink.publish(200_000, &described("a")).await.unwrap_err(),
        };
        assert_eq!(refused.kind(), Kind::Unavailable);
        assert!(refused.to_string().contains(&parent.id), "{refused}");
        for rooms in [&rooms, &other] {
            assert_eq!(rooms.driver.backups("v").await.unwrap().len(), 0);
        }
        sink.discard().await.unwrap();
        assert_eq!(place.objects().await, [""; 0]);
    }
}

/// In the moment between the last look and the metadata.
pub async fn a_parent_that_is_deleted_in_the_last_moment(place: &Place) {
    let rooms = place.rooms();
    let image = Dice(1).image(100_000);
    let parent = write(&rooms, Basis::Full, &image).await.unwrap();
    let sink = rooms.driver.create("v", Basis::Newest).await.unwrap();
    let mut other = image.clone();
    other[5] ^= 1;
    store_all(sink.as_ref(), &other).await.unwrap();
    // Its metadata goes away while ours is stored.
    let metadata = format!("{}_metadata", parent.service_metadata);
    let looks = Arc::new(AtomicUsize::new(0));
    place.faults.fail_when(Box::new(move |call| match call {
        Call::Stat(name) if *name == metadata && looks.fetch_add(1, Ordering::Relaxed) > 0 => {
            Some(Kind::NotFound)
        }
        _ => None,
    }));
    let refused = sink.publish(100_000, &described("a")).await.unwrap_err();
    assert!(refused.to_string().contains(&parent.id), "{refused}");
    place.faults.fail_when(Box::new(|_| None));
    let listed = place.rooms().driver.backups("v").await.unwrap();
    assert_eq!(
        listed.iter().map(|one| &one.id).collect::<Vec<_>>(),
        [&parent.id]
    );
    sink.discard().await.unwrap();
    check(place, &parent, None, &image).await;
}

/// A parent that somebody else has written anew meanwhile is not what was compared with.
/// Not in every store can be seen who writes.
pub async fn a_parent_that_is_written_anew_by_another(place: &Place) {
    let rooms = place.rooms();
    let image = Dice(1).image(100_000);
    let parent = write(&rooms, Basis::Full, &image).await.unwrap();
    let sink = rooms.driver.create("v", Basis::Newest).await.unwrap();
    store_all(sink.as_ref(), &image).await.unwrap();
    for end in ["_sha256file", "_metadata"] {
        let mut document = json(place, &parent, end).await;
        document["cinderfs"]["generation"] = serde_json::json!(1);
        let text = serde_json::to_vec_pretty(&document).unwrap();
        let name = format!("{}{end}", parent.service_metadata);
        put(place.store.as_ref(), &parent.container, &name, text).await;
    }
    let refused = sink.publish(100_000, &described("a")).await.unwrap_err();
    assert!(refused.to_string().contains(&parent.id), "{refused}");
    sink.discard().await.unwrap();
    assert_eq!(place.rooms().driver.backups("v").await.unwrap().len(), 1);
    check_unpublished(place, &parent, &image).await;
}

/// Name, words and time of a parent may change while its child is written.
pub async fn a_parent_may_be_renamed_meanwhile(place: &impl Ground) {
    let rooms = place.rooms();
    let before = Dice(1).image(100_000);
    let parent = write(&rooms, Basis::Full, &before).await.unwrap();
    let sink = rooms.driver.create("v", Basis::Newest).await.unwrap();
    let mut image = before.clone();
    image[5000] ^= 1;
    store_all(sink.as_ref(), &image).await.unwrap();
    let change = cinderfs::driver::Change {
        name: Some("another.img".into()),
        description: Some(Some("x".repeat(9000))),
        ..Default::default()
    };
    let other = place.rooms();
    let seen = other.find("v", &parent.id).await;
    other.driver.update(&seen, change).await.unwrap();
    let child = sink.publish(100_000, &described("a")).await.unwrap();
    check(place, &child, Some((&parent, &before)), &image).await;
}

pub async fn a_parent_stays_while_its_child_is_written(place: &impl Ground) {
    let rooms = place.rooms();
    let image = Dice(1).image(200_000);
    let parent = write(&rooms, Basis::Full, &image).await.unwrap();
    let sink = rooms.driver.create("v", Basis::Newest).await.unwrap();
    let refused = rooms.driver.delete(&parent).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Dependents);
    assert!(refused.to_string().contains(sink.backup_id()), "{refused}");
    let child = publish(sink.as_ref(), &image).await.unwrap();
    assert_eq!(kind(rooms.driver.delete(&parent).await), Kind::Dependents);
    // Its own name may go while it is open: nobody is to build on it any more.
    rooms.driver.withdraw(&child).await.unwrap();
    assert_eq!(rooms.driver.backups("v").await.unwrap().len(), 1);
    assert_eq!(kind(rooms.driver.delete(&parent).await), Kind::Dependents);
    sink.discard().await.unwrap();
    rooms.driver.delete(&parent).await.unwrap();
    assert_eq!(place.objects().await, [""; 0]);
}

/// A child may be begun while its parent is being deleted: one of the two fails.
pub async fn a_child_that_is_begun_while_its_parent_goes(place: &Place) {
    let image = Dice(1).image(70_000);
    let mut began = 0;
    for round in 0..60 {
        let rooms = Arc::new(place.rooms());
        let parent = write(&rooms, Basis::Full, &image).await.unwrap();
        let deleting = {
            let (rooms, parent) = (Arc::clone(&rooms), Arc::clone(&parent));
            tokio::spawn(async move { rooms.driver.delete(&parent).await })
        };
        for _ in 0..round % 12 {
            tokio::task::yield_now().await;
        }
        let sink = rooms.driver.create("v", Basis::Newest).await;
        let deleted = deleting.await.unwrap();
        let listed = rooms.driver.backups("v").await.unwrap().len();
        match (sink, deleted) {
            (Ok(sink), Err(e)) => {
                assert_eq!((e.kind(), listed), (Kind::Dependents, 1));
                let child = publish(sink.as_ref(), &image).await.unwrap();
                check(place, &child, Some((&parent, &image)), &image).await;
                sink.discard().await.unwrap();
                rooms.driver.delete(&parent).await.unwrap();
                began += 1;
            }
            (Err(e), Ok(())) => assert_eq!((e.kind(), listed), (Kind::Invalid, 0), "{e}"),
            (Ok(_), Ok(())) => panic!("a child of what is deleted, in round {round}"),
            (Err(one), Err(other)) => panic!("both have failed in round {round}: {one}; {other}"),
        }
        assert_eq!(place.objects().await, [""; 0], "in round {round}");
    }
    eprintln!("{began} children were begun");
}

pub async fn two_children_of_one_parent(place: &Place) {
    let rooms = place.rooms();
    let mut dice = Dice(7);
    let before = dice.image(300_000);
    let parent = write(&rooms, Basis::Full, &before).await.unwrap();
    let other = place.rooms();
    let sinks = [
        rooms.driver.create("v", Basis::Newest).await.unwrap(),
        rooms.driver.create("v", Basis::Newest).await.unwrap(),
        other.driver.create("v", Basis::Newest).await.unwrap(),
    ];
    let images: Vec<Vec<u8>> = sinks
        .iter()
        .map(|_| {
            let mut image = before.clone();
            change(&mut dice, &mut image);
            image
        })
        .collect();
    for index in 0..5 {
        for (sink, image) in sinks.iter().zip(&images) {
            let end = ((index + 1) * OBJECT).min(image.len());
            let bytes = &image[index * OBJECT..end];
            sink.store(index as u64, chunk(bytes)).await.unwrap();
        }
    }
    for (sink, image) in sinks.iter().zip(&images) {
        let child = sink.publish(300_000, &described("a")).await.unwrap();
        sink.seal();
        check(place, &child, Some((&parent, &before)), image).await;
    }
    let newest = write(&rooms, Basis::Newest, &before).await.unwrap();
    assert_eq!(newest.depth, 2);
    let mut backups = rooms.driver.backups("v").await.unwrap();
    cinderfs::driver::leaves_first(&mut backups, |backup| backup);
    for backup in backups {
        rooms.driver.delete(&backup).await.unwrap();
    }
    assert_eq!(place.objects().await, [""; 0]);
}

pub async fn a_child_of_what_was_just_published(place: &impl Ground) {
    let rooms = place.rooms();
    let mut image = Dice(1).image(150_000);
    let mut parent: Option<(Arc<Backup>, Vec<u8>)> = None;
    for number in 0..20 {
        image[number * 7000] ^= 1;
        let basis = if parent.is_some() {
            Basis::Newest
        } else {
            Basis::Full
        };
        let sink = rooms.driver.create("v", basis).await.unwrap();
        let backup = publish(sink.as_ref(), &image).await.unwrap();
        sink.seal();
        let before = parent
            .as_ref()
            .map(|(parent, image)| (&**parent, &image[..]));
        check(place, &backup, before, &image).await;
        parent = Some((backup, image.clone()));
    }
}
