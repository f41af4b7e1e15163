//! Quotas that the store itself sets.

use crate::case::{CONTAINER, Case, NO_TTL, VOLUME, cat, copy, image};
use crate::common::mount::{MIB, names, run, shell, wait_for};

#[test]
fn a_container_with_a_quota() {
    const QUOTA: usize = 4 * MIB;
    // In one object: Swift looks at what there is only now and then.
    let options = format!("backup_swift_object_size = 8388608\n{NO_TTL}");
    let Some((case, data)) = Case::with_backup(&options, 2 * MIB) else {
        return;
    };
    let quota = QUOTA.to_string();
    case.client
        .set(CONTAINER, &[("X-Container-Meta-Quota-Bytes", &quota)]);
    let source = case.lab.source("other", &crate::case::noise(40, 5 * MIB));
    let mount = case.lab.mount();
    let df = run(&mut shell(
        r#"df -B1 --output=size,used,avail "$1" | tail -n 1"#,
        &[mount.path("swift")],
    ));
    println!("df: {df}");
    let numbers: Vec<usize> = df
        .split_whitespace()
        .map(|number| number.parse().unwrap())
        .collect();
    assert!(numbers[0] <= QUOTA && numbers[0] + 65536 > QUOTA, "{df}");
    assert!(
        numbers[1] >= 2 * MIB && numbers[1] < 2 * MIB + 65536,
        "{df}"
    );
    let copied = copy(&source, &mount.volume(VOLUME).join("new"));
    let words = String::from_utf8_lossy(&copied.stderr).into_owned();
    assert!(words.contains("Disk quota exceeded"), "{words}");
    assert_eq!(names(&mount.volume(VOLUME)), ["image"]);
    wait_for("the rest is cleared away", || case.objects().len() == 3);
    assert!(case.lab.log().contains("quota"), "{}", case.lab.log());
    assert!(cat(&image(&mount)).unwrap() == data);

    // The account's, where the container has none.
    case.client
        .set(CONTAINER, &[("X-Container-Meta-Quota-Bytes", "")]);
    let swift = crate::common::swift::Swift::shared().unwrap();
    let mut admin = swift.user("admin:admin", "admin").client();
    admin.storage_url = case.client.storage_url.clone();
    let limit = [("X-Account-Meta-Quota-Bytes", &*quota)];
    assert_eq!(admin.send("POST", "", "", &limit, Vec::new()).status, 204);
    drop(mount);
    let mount = case.lab.mount();
    let copied = copy(&source, &mount.volume(VOLUME).join("new"));
    let words = String::from_utf8_lossy(&copied.stderr).into_owned();
    assert!(words.contains("Disk quota exceeded"), "{words}");
}
