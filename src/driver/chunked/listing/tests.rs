use super::watched::{CONTAINER, Watched, Ways};
use super::*;
use crate::driver::chunked::summary::Summarizer;
use proptest::prelude::*;

/// Without `-0`.
const ID: &str = "1a2b3c4d-1111-4567-89ab-1cdef1234567";
const STAMP: &str = "20261121003832";

fn name(zone: &str, volume: &str, id: &str) -> BackupName {
    BackupName::new_swift(CONTAINER, zone, volume, id, STAMP)
}

fn numbered(number: u32) -> BackupName {
    name(
        "nova",
        "v",
        &format!("{number:08x}-1111-4567-89ab-1cdef1234567"),
    )
}

/// All names of a backup of so many chunks.
fn objects(name: &BackupName, chunks: u64) -> Vec<String> {
    let documents = [name.metadata(), name.sha256file()];
    documents
        .into_iter()
        .chain((1..=chunks).map(|number| name.chunk(number)))
        .collect()
}

/// What is known of a backup after its metadata was read.
fn known(store: &Arc<dyn ObjectStore>, name: &BackupName, object_count: u64) -> Backup {
    let summarizer = Summarizer {
        store: Arc::clone(store),
        service: "swift",
    };
    Backup {
        object_count,
        ..summarizer.bare(name)
    }
}

struct Lab {
    store: Arc<Watched>,
    shared: Arc<dyn ObjectStore>,
    listing: Arc<Listing>,
}

impl Lab {
    fn new(ways: Ways) -> Self {
        let store = Arc::new(Watched::new(ways));
        let shared: Arc<dyn ObjectStore> = Arc::clone(&store) as _;
        Self {
            listing: Arc::new(Listing::new(&shared)),
            shared,
            store,
        }
    }

    /// The prefixes of the backups that are found, and how many requests that took.
    async fn find(&self, volume: &str, known: &[Backup]) -> (BTreeSet<String>, u64) {
        let known: Vec<&Backup> = known.iter().collect();
        self.store.take_pages();
        let found = self.listing.backups(volume, &known).await.unwrap();
        let found: BTreeSet<_> = found.into_keys().map(|name| name.prefix).collect();
        (found, self.store.take_pages())
    }
}

fn prefixes<'a>(names: impl IntoIterator<Item = &'a BackupName>) -> BTreeSet<String> {
    names.into_iter().map(|name| name.prefix.clone()).collect()
}

#[tokio::test]
async fn volumes_take_a_request_for_a_page_of_them() {
    let lab = Lab::new(Ways {
        most: 10,
        ..Ways::default()
    });
    for number in 0..25 {
        let name = name("nova", &format!("{number:02}-00"), ID);
        lab.store.fill(objects(&name, 50)).await;
    }
    lab.store
        .fill(["volume_", "volume_/x", "volume_of_nobody", "other/y"])
        .await;
    let volumes = lab.listing.volumes().await.unwrap();
    let expected: BTreeSet<String> = (0..25).map(|number| format!("{number:02}-00")).collect();
    assert_eq!(volumes, expected);
    // 25 folders and three others that begin so.
    assert_eq!(lab.store.take_pages(), 3);
}

#[tokio::test]
async fn chunks_are_not_paged_through() {
    let lab = Lab::new(Ways::default());
    let names: Vec<BackupName> = (1..=3).map(numbered).collect();
    for name in &names {
        lab.store.fill(objects(name, 105_000)).await;
    }
    lab.store.fill(objects(&name("nova", "v1", ID), 10)).await;
    // Of each, the chunks from 10000 on fill a page.
    assert_eq!(lab.find("v", &[]).await, (prefixes(&names), 4));
    let knowledge: Vec<Backup> = names
        .iter()
        .map(|name| known(&lab.shared, name, 105_000))
        .collect();
    assert_eq!(lab.find("v", &knowledge).await, (prefixes(&names), 4));
    assert_eq!(lab.find("w", &[]).await, (prefixes([]), 1));
}

#[tokio::test]
async fn a_thousand_backups_of_9999_chunks_take_one_request() {
    let lab = Lab::new(Ways::default());
    let names: Vec<BackupName> = (0..1000).map(|n| numbered(n + (1 << 30))).collect();
    for name in &names {
        let some = [1, 2, 4711, 9999].map(|number| name.chunk(number));
        lab.store.fill(some).await;
        lab.store.fill(objects(name, 0)).await;
    }
    assert_eq!(lab.find("v", &[]).await, (prefixes(&names), 1));
}

#[tokio::test]
async fn what_is_folded_too_early_is_looked_into_and_avoided_afterwards() {
    let lab = Lab::new(Ways::default());
    let names: Vec<BackupName> = [
        ("nova", ID),
        ("nova", "1a2b3c4d-0111-4567-89ab-1cdef1234567"),
        ("nova", "1a2b3c4d-0011-4567-89ab-01def1234567"),
        ("az-0", "00000000-1111-4567-89ab-1cdef1234567"),
        ("az-0", "00000000-0111-4567-89ab-1cdef1234567"),
        ("a_b-0-0_backup_", "00000000-1111-4567-89ab-1cdef1234568"),
    ]
    .map(|(zone, id)| name(zone, "v", id))
    .into();
    for name in &names {
        lab.store.fill(objects(name, 120)).await;
    }
    // Cold: the whole, and what begins with `az_nova_backup_1a2b3c4d-0`, in that with
    // `011-4567-89ab-0`, `az_az-0`, `_backup_00000000-0` in that, `a_b-0`, and `-0` in that.
    let (found, requests) = lab.find("v", &[]).await;
    assert_eq!(found, prefixes(&names));
    assert_eq!(requests, 7);
    let knowledge: Vec<Backup> = names
        .iter()
        .map(|name| known(&lab.shared, name, 120))
        .collect();
    // Warm, with `-000`: the chunks from 100 on are names of their own.
    assert_eq!(lab.find("v", &knowledge).await, (prefixes(&names), 1));
}

#[test]
fn the_delimiter_is_the_one_that_takes_the_fewest_requests() {
    let store: Arc<dyn ObjectStore> = Arc::new(Watched::new(Ways::default()));
    let early = "1a2b3c4d-0111-4567-89ab-1cdef1234567";
    let earlier = "1a2b3c4d-0011-4567-89ab-1cdef1234567";
    let choose = |backups: &[(&str, &str, u64)]| {
        let known: Vec<Backup> = backups
            .iter()
            .map(|(zone, id, count)| known(&store, &name(zone, "v", id), *count))
            .collect();
        delimiter_for("v", &known.iter().collect::<Vec<_>>())
    };
    assert_eq!(choose(&[]), "-0");
    assert_eq!(choose(&[("nova", ID, 1_000_000)]), "-0");
    assert_eq!(choose(&[("nova", early, 10)]), "-00");
    assert_eq!(choose(&[("nova", early, 5000)]), "-00");
    assert_eq!(choose(&[("nova", early, 11_000)]), "-00");
    assert_eq!(choose(&[("nova", earlier, 200)]), "-000");
    assert_eq!(choose(&[("az-000", ID, 5)]), "-0000");
    assert_eq!(choose(&[("az-0000", ID, 5)]), "-0");
    // A request for one of them, or for the chunks of the other.
    assert_eq!(choose(&[("nova", early, 9999), ("nova", ID, 9999)]), "-0");
    // The volume's own name is no matter.
    let own = known(&store, &name("nova", "-0-00", ID), 5);
    assert_eq!(delimiter_for("-0-00", &[&own]), "-0");
}

#[tokio::test]
async fn a_store_that_folds_at_one_character_takes_a_request_a_backup() {
    let lab = Lab::new(Ways {
        folds: false,
        ..Ways::default()
    });
    let names: Vec<BackupName> = (1..=20).map(numbered).collect();
    for name in &names {
        lab.store.fill(objects(name, 200)).await;
    }
    // The first is the one that is refused.
    assert_eq!(lab.find("v", &[]).await, (prefixes(&names), 1 + 21));
    // That is not tried again.
    assert_eq!(lab.find("v", &[]).await, (prefixes(&names), 21));
    // Where nothing can be skipped, pages become longer.
    lab.store.fill(objects(&name("nova", "w", "7"), 9000)).await;
    let (found, requests) = lab.find("w", &[]).await;
    assert_eq!(found.len(), 1);
    assert!(requests < 15, "{requests}");
}

#[tokio::test]
async fn what_is_no_backup_is_passed_over() {
    let lab = Lab::new(Ways {
        most: 3,
        ..Ways::default()
    });
    let finished = numbered(1);
    let unfinished = numbered(2);
    lab.store.fill(objects(&finished, 7)).await;
    lab.store
        .fill((1..9).map(|number| unfinished.chunk(number)))
        .await;
    lab.store
        .fill([
            unfinished.sha256file(),
            format!("{}.tmp", unfinished.metadata()),
        ])
        .await;
    lab.store
        .fill(
            [
                "a-0b",
                "-0",
                "-0-0",
                "x_metadata",
                "20261121003832/az_",
                "é-0",
            ]
            .map(|name| format!("volume_v/{name}")),
        )
        .await;
    assert_eq!(lab.find("v", &[]).await.0, prefixes([&finished]));
}

#[tokio::test]
async fn a_listing_that_does_not_go_on_is_given_up() {
    for folds in [true, false] {
        let lab = Lab::new(Ways {
            is_stuck: true,
            folds,
            ..Ways::default()
        });
        lab.store.fill(objects(&numbered(1), 7)).await;
        let error = lab.listing.backups("v", &[]).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        assert_eq!(
            lab.listing.volumes().await.unwrap_err().kind(),
            Kind::Unavailable
        );
    }
}

/// Ids with many a `-0` in them, and some that are not Cinder's.
fn any_id() -> impl Strategy<Value = String> {
    let uuid = "[0a]{8}-0[01a]{3}-[04]0[0a]{2}-[08]0[0a]{2}-[01]{12}";
    prop_oneof![
        4 => uuid,
        1 => Just("b".to_owned()),
        1 => Just("b-0".to_owned()),
        1 => Just("b-00001".to_owned()),
        1 => Just("0-00-000-0000".to_owned()),
    ]
}

fn any_object() -> impl Strategy<Value = String> {
    let volume = prop::sample::select(vec!["v", "v-0", "w", "-0"]);
    let stamp = prop::sample::select(vec!["20261121003832", "20261121003833", "2026"]);
    let zone = prop::sample::select(vec!["nova", "az-0", "a_b-00", "-0-0-000", "x_backup_y", ""]);
    let suffix = prop_oneof![
        3 => (1..30_u64).prop_map(|number| format!("-{number:05}")),
        1 => (9990..200_000_u64).prop_map(|number| format!("-{number:05}")),
        3 => Just("_metadata".to_owned()),
        1 => Just("_sha256file".to_owned()),
        1 => Just("-0_metadata.tmp".to_owned()),
        1 => Just("-0".to_owned()),
        1 => Just(String::new()),
    ];
    (volume, stamp, zone, any_id(), suffix).prop_map(|(volume, stamp, zone, id, suffix)| {
        format!("volume_{volume}/{stamp}/az_{zone}_backup_{id}{suffix}")
    })
}

proptest! {
    /// Whatever lies in a container: no backup is missed, and none is made up.
    #[test]
    fn finds_what_a_listing_of_everything_finds(
        objects in prop::collection::vec(any_object(), 0..80),
        most in 1_usize..30,
        folds: bool,
        count in 0_u64..20_000,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let lab = Lab::new(Ways { most, folds, ..Ways::default() });
            lab.store.fill(&objects).await;
            let all: BTreeSet<BackupNameAndVersion> = lab
                .store
                .list(CONTAINER, ANY_BACKUP)
                .await
                .unwrap()
                .into_iter()
                .filter_map(|entry| {
                    let name = BackupName::of_metadata(Layout::Swift, CONTAINER, &entry.name)?;
                    Some((name.volume_id, name.prefix, entry.version))
                })
                .collect();
            let volumes = lab.listing.volumes().await.unwrap();
            let knowledge: Vec<Backup> = all
                .iter()
                .filter_map(|(_, prefix, _)| {
                    let metadata = format!("{prefix}_metadata");
                    BackupName::of_metadata(Layout::Swift, CONTAINER, &metadata)
                })
                .map(|name| known(&lab.shared, &name, count))
                .collect();
            for volume in ["v", "v-0", "w", "-0", "x"] {
                let of_volume = |backup: &&BackupNameAndVersion| backup.0 == volume;
                let expected: BTreeSet<_> = all.iter().filter(of_volume).cloned().collect();
                let is_there = objects.iter().any(|name| name.starts_with(&folder_of(volume)));
                assert_eq!(volumes.contains(volume), is_there);
                let known: Vec<&Backup> = knowledge
                    .iter()
                    .filter(|backup| backup.volume_id == volume)
                    .collect();
                for known in [&[][..], &known] {
                    let found = lab.listing.backups(volume, known).await.unwrap();
                    let found: BTreeSet<BackupNameAndVersion> = found
                        .into_iter()
                        .map(|(name, version)| (name.volume_id, name.prefix, version))
                        .collect();
                    assert_eq!(found, expected);
                }
            }
        });
    }
}

type BackupNameAndVersion = (String, String, Option<String>);
