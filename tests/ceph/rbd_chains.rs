//! `cinderfs backup rbd:POOL/IMAGE`, again and again: of clones, which show what their parents
//! have, and from one pool into a backend in another.

use crate::common::ceph::Ceph;
use crate::common::mount::{Lab, SMALL_OBJECTS, fail, run};
use crate::model::{MIB, Model, VOLUME, check_equal};
use crate::rbd_source::{ask, back_up, back_up_to, check, check_in, image, read_by, snaps, source};

const OBJECT: u64 = 4 * MIB;

/// Cinder makes volumes from images and from snapshots so.
#[test]
fn clones() {
    let Some(ceph) = Ceph::shared() else { return };
    for has_fast_diff in [true, false] {
        let pool = ceph.pool();
        let lab = Lab::with(SMALL_OBJECTS);
        let mut parent = Model::new(&pool, &lab.path(""), "parent", 48 * MIB, &[]);
        parent.write(0..40 * MIB);
        let mut model = parent.clone_as(&image());
        // What the parent becomes is of no matter.
        parent.write(0..MIB);
        if !has_fast_diff {
            pool.rbd(&["feature", "disable", &image(), "fast-diff", "object-map"]);
        }
        let source = source(&pool);
        let full = |name: &str, model: &Model<'_>| {
            read_by(&mut back_up(
                &lab,
                &pool,
                &source,
                &["--full", "--name", name],
            ));
            check(&lab, name, &model.file);
        };
        let take = |name: &str, model: &Model<'_>| {
            let more = ["--incremental", "--name", name];
            let told = read_by(&mut back_up(&lab, &pool, &source, &more));
            check(&lab, name, &model.file);
            told
        };
        let increment = |name: &str, model: &Model<'_>, is_known: bool| {
            let (said, bytes) = take(name, model);
            assert_eq!(!said.contains("it is a clone"), is_known, "{said}");
            assert_eq!(!said.contains("read and compared"), is_known, "{said}");
            bytes
        };
        // It has nothing of its own.
        full("untouched", &model);
        let bytes = increment("nothing", &model, has_fast_diff);
        assert_eq!(bytes == 0, has_fast_diff, "{bytes} bytes read");

        // Objects of which it had nothing: part of one written, one discarded, one discarded
        // and then written, half of one discarded, one discarded in two halves.
        model.write(5 * MIB..5 * MIB + 4096);
        model.discard(&(8 * MIB..12 * MIB));
        model.discard(&(12 * MIB..16 * MIB));
        model.write(13 * MIB..13 * MIB + 100);
        model.discard(&(17 * MIB..19 * MIB));
        model.discard(&(20 * MIB..22 * MIB));
        model.discard(&(22 * MIB..24 * MIB));
        let bytes = increment("changed", &model, has_fast_diff);
        assert!(!has_fast_diff || bytes <= 5 * OBJECT, "{bytes} bytes read");
        full("changed, whole", &model);

        // What it has of its own goes, and what lies between two snapshots of others.
        model.discard(&(4 * MIB..8 * MIB));
        model.snap("of-the-user");
        model.discard(&(24 * MIB..28 * MIB));
        model.write(24 * MIB..24 * MIB + 4096);
        model.resize(30 * MIB);
        model.resize(48 * MIB);
        increment("cut and grown", &model, has_fast_diff);

        model.discard(&(0..OBJECT));
        pool.rbd(&["flatten", &image(), "--no-progress"]);
        model.discard(&(16 * MIB..20 * MIB));
        // Whether the snapshots have become independent, too, is up to its features.
        take("flattened", &model);
        full("flattened, whole", &model);
        // It is no clone any more.
        model.write(41 * MIB..41 * MIB + 4096);
        model.discard(&(24 * MIB..28 * MIB));
        let bytes = increment("independent", &model, true);
        assert!(bytes <= 2 * OBJECT, "{bytes} bytes read");
    }
}

#[test]
fn into_another_pool_goes_by_what_has_changed() {
    let Some(ceph) = Ceph::shared() else { return };
    let (pool, backups) = (ceph.pool(), ceph.pool());
    let lab = Lab::on_ceph(&backups, "");
    let mut model = Model::new(&pool, &lab.path(""), &image(), 96 * MIB, &[]);
    model.write(4 * MIB..5 * MIB);
    model.write(41 * MIB + 5..41 * MIB + 70_000);
    model.write(88 * MIB..90 * MIB);
    let source = source(&pool);
    let back_up = |more: &[&str]| back_up_to("ceph", &lab, &pool, &source, more);
    let (_, bytes) = read_by(&mut back_up(&["--full", "--name", "full"]));
    assert!(bytes <= 3 * OBJECT, "{bytes} bytes read");
    check_in("ceph", &lab, "full", &model.file);
    let full = model.copy("full");
    let base = match backups.images().as_slice() {
        [base] => base.clone(),
        images => panic!("{images:?}"),
    };
    let increment = |name: &str, model: &Model<'_>, most: u64| {
        let more = ["--incremental", "--name", name];
        let (said, bytes) = read_by(&mut back_up(&more));
        assert!(!said.contains("compared"), "{said}");
        assert!(bytes <= most, "{name}: {bytes} bytes read");
        check_in("ceph", &lab, name, &model.file);
        assert_eq!(backups.images(), std::slice::from_ref(&base));
        assert_eq!(snaps(&pool).len(), 1);
        model.copy(name)
    };
    let nothing = increment("nothing", &model, 0);

    model.write(20 * MIB + 100..20 * MIB + 200);
    model.discard(&(88 * MIB..89 * MIB));
    model.discard(&(4 * MIB..8 * MIB));
    let changed = increment("changed", &model, 3 * OBJECT);

    // What an attempt that failed has left is no part of the next one: where there was data,
    // where there was none, and behind the end.
    let junk = vec![0xee; 1 << 20];
    for at in [41, 60, 88, 99, 120] {
        backups.write(&base, at * MIB, &junk);
    }
    model.resize(100 * MIB + 1000);
    model.write(100 * MIB..100 * MIB + 1000);
    let larger = increment("larger", &model, 3 * OBJECT);
    backups.discard(&base, &(40 * MIB..44 * MIB));
    model.resize(130 * MIB);
    let hole = increment("with a hole behind", &model, 2 * OBJECT);

    model.resize(40 * MIB);
    let (code, said) = fail(&mut back_up(&["--incremental", "--name", "smaller"]));
    assert!(said.contains("make a full backup"), "{said}");
    assert_eq!((code, snaps(&pool).len()), (1, 1));
    read_by(&mut back_up(&["--full", "--name", "smaller"]));
    let smaller = model.copy("smaller");

    let mount = lab.mount();
    for (name, expected) in [
        ("full", full),
        ("nothing", nothing),
        ("changed", changed),
        ("larger", larger),
        ("with a hole behind", hole),
        ("smaller", smaller),
    ] {
        check_equal(&mount.path("ceph").join(VOLUME).join(name), &expected);
    }
    assert_eq!(mount.unmount(), 0);
    let left = run(&mut ask(&lab, &["gc", "--older-than", "0"]));
    assert_eq!(left, "nothing is left over\n");
}
