//! How many requests it takes to list, in containers with more chunks than fit on a page.

use crate::case::{CONTAINER, Case, NO_TTL, SMALL, VOLUME, cat, must_copy, noise};
use crate::common::mount::{Mount, command, names, run};
use crate::common::proxy::Request;
use crate::common::swift::{Options, Swift};
use crate::rows;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

fn shown(requests: &[Request]) -> String {
    let lines = requests
        .iter()
        .map(|request| format!("  {} {}?{}\n", request.method, request.path, request.query));
    lines.collect()
}

/// The lines of `ls -l`, and the requests that it took, which are no more than `most`.
fn list(case: &Case, what: &str, path: &Path, most: usize) -> Vec<String> {
    case.proxy.take_requests();
    let began = Instant::now();
    let lines = run(&mut command(
        "ls",
        &["-l".as_ref(), "-U".as_ref(), path.as_os_str()],
    ));
    let took = began.elapsed();
    let requests = case.proxy.take_requests();
    println!(
        "{what}: {} requests in {took:?}, {most} at most",
        requests.len()
    );
    assert!(requests.len() <= most, "{what}:\n{}", shown(&requests));
    let lines = lines.lines().filter(|line| !line.starts_with("total "));
    lines.map(str::to_owned).collect()
}

/// What all objects of the backups of a volume begin with.
fn prefixes(case: &Case, volume: &str) -> Vec<String> {
    let names = case.client.list(CONTAINER, &format!("volume_{volume}/"));
    let metadata = names
        .iter()
        .filter_map(|name| name.strip_suffix("_metadata"));
    metadata.map(str::to_owned).collect()
}

fn folder(mount: &Mount<'_>, volume: &str) -> std::path::PathBuf {
    mount.root().join("swift").join(volume)
}

#[test]
fn listings_do_not_page_through_chunks() {
    const BACKUPS: usize = 10;
    let Some(case) = Case::new(SMALL) else {
        return;
    };
    let swift = Swift::shared().unwrap();
    let source = case.lab.source("source", &noise(3, 5000));
    let mount = case.lab.mount();
    let other = "another";
    for number in 0..BACKUPS {
        must_copy(&source, &mount.volume(VOLUME).join(format!("{number}")));
    }
    must_copy(&source, &mount.volume(other).join("image"));
    assert_eq!(mount.unmount(), 0);
    let mut chunks = Vec::new();
    let mut add = |prefix: &str, last: u64| {
        let name = format!("{prefix}_metadata");
        let mut metadata: Value =
            serde_json::from_slice(&case.client.get(CONTAINER, &name)).unwrap();
        let objects = metadata["objects"].as_array_mut().unwrap();
        let what = objects[0]
            .as_object()
            .unwrap()
            .values()
            .next()
            .unwrap()
            .clone();
        for number in 2..=last {
            let (chunk, mut what) = (format!("{prefix}-{number:05}"), what.clone());
            what["offset"] = json!((number - 1) << 20);
            objects.push(json!({ &*chunk: what }));
            chunks.push(chunk);
        }
        let text = metadata.to_string().into_bytes();
        case.client.put(CONTAINER, &name, &text);
    };
    for (number, prefix) in prefixes(&case, VOLUME).iter().enumerate() {
        // The numbers of one of them begin with a 1, too.
        add(prefix, if number == 0 { 20_000 } else { 9_999 });
    }
    for prefix in prefixes(&case, other) {
        add(&prefix, 9_999);
    }
    let began = Instant::now();
    rows::add(swift, &case.client, CONTAINER, &chunks);
    println!("{} chunks in {:?}", chunks.len(), began.elapsed());
    assert!(chunks.len() > 110_000);

    let mount = case.lab.mount();
    let path = folder(&mount, VOLUME);
    let lines = list(&case, "cold", &path, 3 + 2 * BACKUPS);
    assert_eq!(lines.len(), BACKUPS, "{lines:?}");
    list(&case, "warm, within list_ttl", &path, 0);
    std::thread::sleep(Duration::from_millis(5100));
    // And one more for the backup whose chunks do not all begin alike.
    let lines = list(&case, "warm, after list_ttl", &path, 1 + 1);
    assert_eq!(lines.len(), BACKUPS, "{lines:?}");
    drop(mount);

    let mount = case.lab.mount();
    let lines = list(&case, "volumes, cold", &mount.path("swift"), 4);
    assert_eq!(lines.len(), 2, "{lines:?}");
    list(&case, "volumes, warm", &mount.path("swift"), 0);
    assert_eq!(case.proxy.count("PUT", ""), 0);
}

#[test]
fn volumes_by_the_ten_thousand() {
    const VOLUMES: usize = 25_000;
    let Some(case) = Case::new(SMALL) else {
        return;
    };
    case.client.put_container(CONTAINER);
    let objects = (0..VOLUMES).flat_map(|number| {
        let id = format!("{number:08x}-0000-4000-8000-000000000000");
        let prefix = format!("volume_{id}/20260101000000/az_nova_backup_{id}");
        ["-00001", "-00002", "_metadata", "_sha256file"].map(|rest| format!("{prefix}{rest}"))
    });
    let objects: Vec<String> = objects.collect();
    rows::add(Swift::shared().unwrap(), &case.client, CONTAINER, &objects);
    let mount = case.lab.mount();
    case.proxy.take_requests();
    let began = Instant::now();
    assert_eq!(names(&mount.path("swift")).len(), VOLUMES);
    let requests = case.proxy.take_requests();
    println!(
        "{VOLUMES} volumes: {} requests in {:?}",
        requests.len(),
        began.elapsed()
    );
    assert!(
        requests.len() <= 3 + VOLUMES.div_ceil(10_000),
        "{}",
        shown(&requests)
    );
}

/// Names that have to be quoted, in listings of many pages.
#[test]
fn pages_and_names() {
    let options = Options {
        listing_limit: Some(4),
        ..Options::default()
    };
    let Some(swift) = Swift::start(&options) else {
        return;
    };
    const ZONE: &str = "Zürich 100% #1?&=+";
    let container = "bäckups 50% #2?";
    let volumes = [
        "ä ö", "a%2520b", "what?", "#1", "a&b=c+d", "v1", "v2", "v3", "v4",
    ];
    let options = format!("{SMALL}{NO_TTL}backup_swift_container = {container}\n");
    let case = Case::on(&swift, &options);
    let data = noise(4, 2_500_000);
    let source = case.lab.source("source", &data);
    let mount = case.lab.mount();
    for volume in volumes {
        must_copy(&source, &mount.volume(volume).join("ä 1% ?#.img"));
    }
    for number in 0..9 {
        must_copy(&source, &mount.volume("v1").join(format!("{number}")));
    }
    assert_eq!(mount.unmount(), 0);
    assert_eq!(case.client.containers(), [container]);

    // Cinder's service may stand in a zone of any name.
    for name in case.client.list(container, "volume_v1/") {
        let moved = name.replace("az_nova_", &format!("az_{ZONE}_"));
        let body = case.client.get(container, &name);
        let body = match std::str::from_utf8(&body) {
            Ok(text) => {
                let ascii = format!("az_{ZONE}_").replace('ü', "\\u00fc");
                text.replace("az_nova_", &ascii).into_bytes()
            }
            Err(_) => body,
        };
        case.client.put(container, &moved, &body);
        case.client.delete(container, &name);
    }
    let mount = case.lab.mount();
    let mut sorted = volumes.map(str::to_owned);
    sorted.sort_unstable();
    assert_eq!(names(&mount.path("swift")), sorted);
    for volume in volumes {
        let folder = folder(&mount, volume);
        let found = names(&folder);
        assert_eq!(found.len(), if volume == "v1" { 10 } else { 1 }, "{volume}");
        for name in found {
            assert!(cat(&folder.join(&name)).unwrap() == data, "{volume}/{name}");
        }
    }
    run(&mut command("rm", &["-r".into(), folder(&mount, "v1")]));
    assert_eq!(case.client.list(container, "volume_v1/"), [""; 0]);
}

#[test]
fn containers_of_the_users_own() {
    let Some(case) = Case::new(SMALL) else {
        return;
    };
    let data = noise(5, 3000);
    let source = case.lab.source("source", &data);
    for container in ["one", "two words", "three"] {
        let options = format!("{SMALL}backup_swift_container = {container}\n");
        case.lab.configure(&options);
        let mount = case.lab.mount();
        must_copy(&source, &mount.volume(VOLUME).join(container));
        assert_eq!(mount.unmount(), 0);
    }
    let mut seen = Vec::new();
    for (containers, expected) in [
        ("configured", &["one"][..]),
        ("one, two words", &["one", "two words"]),
        ("all", &["one", "three", "two words"]),
    ] {
        let options = format!(
            "{SMALL}backup_swift_container = one\nbackup_swift_containers = {containers}\n"
        );
        case.lab.configure(&options);
        let mount = case.lab.mount();
        case.proxy.take_requests();
        assert_eq!(names(&folder(&mount, VOLUME)), expected, "{containers}");
        seen.push(case.proxy.take_requests().len());
        for name in expected {
            assert_eq!(cat(&folder(&mount, VOLUME).join(name)).unwrap(), data);
        }
    }
    println!("one, two and all three containers: {seen:?} requests");
}
