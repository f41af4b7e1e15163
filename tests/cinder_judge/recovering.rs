//! The database is lost: a new Cinder learns of all backups by the records that we make.

use crate::case::{Case, Ground, To, lab, mib, name_of, new_volume, next_second};
use crate::common::judge::CINDER;
use crate::common::mount::{Mount, run, shell};
use crate::image::{Edit, MIB, edited, image};
use serde_json::Value;

/// What a record says.
fn decoded(record: &Value) -> Value {
    let text = record["backup_url"].as_str().unwrap();
    let json = run(&mut shell(r#"printf %s "$1" | base64 -d"#, &[text]));
    serde_json::from_str(&json).unwrap()
}

/// What Cinder cannot do without, and what we can know.
const TOLD: [&str; 16] = [
    "id",
    "volume_id",
    "container",
    "parent_id",
    "size",
    "display_name",
    "display_description",
    "service_metadata",
    "service",
    "object_count",
    "num_dependent_backups",
    "status",
    "created_at",
    "data_timestamp",
    "metadata",
    "driver_info",
];

pub fn check_records(ground: &Ground) {
    let lab = lab(ground, mib("zlib"));
    let Some(mut case) = Case::new(ground, &lab, CINDER) else {
        return;
    };
    let volume = new_volume();
    let mut images = vec![image(41, 2 * MIB + 5)];
    for turn in 1..3 {
        let at = turn * 600_000;
        let edits = [Edit::Zeros(at..at + 500_000), Edit::Data(turn..turn + 1)];
        images.push(edited(&images[turn - 1], &edits));
    }
    case.volume(&volume, &images[0]);
    let full = case.judge.full(&volume, "Nº 1 \u{1F4BE}", "ein \"Satz\"\n");
    case.volume(&volume, &images[1]);
    let next = case.judge.increment(&volume, "Nº 2", "");
    let mount = lab.mount();

    // Ours are those that Cinder would make.
    let record = |case: &Case<'_>, mount: &Mount<'_>, id: &str| {
        let record = case.record(&volume, &name_of(mount, id));
        let fields = decoded(&record);
        (record, fields)
    };
    for row in [&full, &next] {
        let cinders = case.judge.export(&row.id);
        let (ours, fields) = record(&case, &mount, &row.id);
        assert_eq!(ours["backup_service"], cinders["backup_service"]);
        let cinders = decoded(&cinders);
        for key in TOLD {
            assert_eq!(fields[key], cinders[key], "{key}");
        }
        let keys = |record: &Value| -> Vec<String> {
            record.as_object().unwrap().keys().cloned().collect()
        };
        let (mut ours, mut theirs) = (keys(&fields), keys(&cinders));
        ours.sort_unstable();
        theirs.sort_unstable();
        assert_eq!(ours, theirs);
    }

    next_second();
    case.copy(&mount, &volume, To::Incremental, "ours", &images[2]);
    case.replace_judge(CINDER);
    assert!(case.judge.list().is_empty());
    for (id, image) in [&full.id, &next.id].into_iter().zip(&images) {
        let (ours, _) = record(&case, &mount, id);
        assert_eq!(&case.judge.import(&ours).id, id);
        case.check_restored(id, image);
    }
    let ours = case.import(&volume, "ours");
    assert_eq!(ours.parent_id.as_ref(), Some(&next.id));
    case.check_restored(&ours.id, &images[2]);

    // What is known already is refused, and what was deleted can be imported again.
    let (again, _) = record(&case, &mount, &full.id);
    let refused = case
        .judge
        .refuse(serde_json::json!({"op": "import", "record": again}));
    assert_eq!(refused.error, "InvalidBackup", "{}", refused.message);
}

#[test]
fn a_new_cinder_restores_all_by_our_records() {
    check_records(&Ground::Posix);
}
