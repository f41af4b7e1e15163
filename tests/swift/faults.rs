//! A Swift, or a way to it, that fails: what passes nobody notices, what does not is an
//! error in bounded time, and nothing is ever wrong.

use crate::case::{
    CONTAINER, Case, IMPATIENT, NO_TTL, SMALL, VOLUME, cat, copy, image, must_copy, noise,
};
use crate::common::mount::{MIB, Mount, command, fail, names, run, shell, wait_for};
use crate::common::proxy::{Harm, Rule};
use std::path::PathBuf;
use std::time::Instant;

/// Bytes that become half as many.
fn text(seed: u64, length: usize) -> Vec<u8> {
    let mut data = noise(seed, length);
    data.iter_mut().for_each(|byte| *byte &= 15);
    data
}

/// The path of a new backup in the volume.
fn new(mount: &Mount<'_>, name: &str) -> PathBuf {
    mount.volume(VOLUME).join(name)
}

fn chunk(number: usize) -> String {
    format!("-{number:05}")
}

/// The number of requests of that method for the chunk.
fn asked(case: &Case, method: &str, number: usize) -> usize {
    case.proxy.count(method, &chunk(number))
}

fn harms_of_answers() -> Vec<Harm> {
    vec![
        Harm::ResetRequest(None),
        Harm::LoseAnswer,
        Harm::ResetAnswer(0),
        Harm::ResetAnswer(300_000),
        Harm::Truncate(0),
        Harm::Truncate(300_000),
        Harm::StallAnswer(0),
        Harm::StallAnswer(300_000),
        Harm::NoAnswer,
        Harm::Answer(408, Vec::new()),
        Harm::Answer(429, vec![("Retry-After", "1".to_owned())]),
        Harm::Answer(500, Vec::new()),
        Harm::Answer(502, Vec::new()),
        Harm::Answer(503, vec![("Retry-After", "0".to_owned())]),
    ]
}

/// What is stored as it is, is read by ranges; what is compressed, as a stream.
#[test]
fn reads_that_fail_once() {
    let harms = harms_of_answers();
    for make in [noise, text] {
        let Some(case) = Case::new(&format!("{SMALL}request_timeout = 6\n")) else {
            return;
        };
        let data = make(10, harms.len() * MIB);
        let source = case.lab.source("source", &data);
        let mount = case.lab.mount();
        must_copy(&source, &new(&mount, "image"));
        drop(mount);
        for (number, harm) in (1..).zip(&harms) {
            let rule = Rule::new(harm.clone()).on("GET").at(chunk(number));
            case.proxy.add(rule.times(1));
        }
        let mount = case.lab.mount();
        case.proxy.take_requests();
        assert!(cat(&image(&mount)).unwrap() == data);
        for (number, harm) in (1..).zip(&harms) {
            // Of what is stored as it is, parts are asked for.
            assert!(asked(&case, "GET", number) >= 2, "{harm:?}");
        }
    }
}

#[test]
fn writes_that_fail_once() {
    let harms = [
        Harm::ResetRequest(None),
        Harm::ResetRequest(Some(1000)),
        Harm::StallRequest(1000),
        Harm::FlipRequest(1000),
        Harm::LoseAnswer,
        Harm::NoAnswer,
        Harm::Answer(408, Vec::new()),
        Harm::Answer(429, vec![("Retry-After", "1".to_owned())]),
        Harm::Answer(500, Vec::new()),
        Harm::Answer(502, Vec::new()),
        Harm::Answer(503, vec![("Retry-After", "0".to_owned())]),
    ];
    let Some(case) = Case::new(&format!("{SMALL}request_timeout = 6\n")) else {
        return;
    };
    let data = noise(11, harms.len() * MIB);
    let source = case.lab.source("source", &data);
    for (number, harm) in (1..).zip(&harms) {
        let rule = Rule::new(harm.clone()).on("PUT").at(chunk(number));
        case.proxy.add(rule.times(1));
    }
    for name in ["_sha256file", "_metadata"] {
        case.proxy
            .add(Rule::new(Harm::LoseAnswer).on("PUT").at(name).times(1));
    }
    let mount = case.lab.mount();
    must_copy(&source, &new(&mount, "image"));
    for (number, harm) in (1..).zip(&harms) {
        // The very first one finds that there is no container.
        let extra =
            usize::from(case.proxy.requests().iter().any(|request| {
                request.path.ends_with(&chunk(number)) && request.status == Some(404)
            }));
        assert_eq!(asked(&case, "PUT", number), 2 + extra, "{harm:?}");
    }
    drop(mount);
    assert_eq!(case.objects().len(), harms.len() + 2);
    let mount = case.lab.mount();
    assert!(cat(&image(&mount)).unwrap() == data);
    // A lost answer to a DELETE: it is gone, which is what was wanted.
    case.proxy
        .add(Rule::new(Harm::LoseAnswer).on("DELETE").times(2));
    run(&mut command("rm", &["-f".into(), image(&mount)]));
    assert_eq!(case.objects(), [""; 0]);
}

/// What does not pass is not tried again; what does is, as often as it should be.
#[test]
fn what_is_tried_again() {
    let Some((case, data)) = Case::with_backup(SMALL, 2 * MIB) else {
        return;
    };
    let source = case.lab.source("other", &data);
    let is = |status, often, said: &str| {
        let mount = case.lab.mount();
        case.proxy.take_requests();
        case.proxy.add(Rule::answer(status).on("GET").at(chunk(1)));
        // Past the kernel, which would ask for more of it at once.
        let dd = shell(
            r#"exec dd if="$1" of=/dev/null bs=4096 count=1 iflag=direct"#,
            &[image(&mount)],
        );
        fail(&mut { dd });
        assert_eq!(asked(&case, "GET", 1), often, "GET: {status}");
        case.proxy.relent();
        drop(mount);

        let mount = case.lab.mount();
        case.proxy.take_requests();
        case.proxy.add(Rule::answer(status).on("PUT").at(chunk(1)));
        let copied = copy(&source, &new(&mount, "new"));
        let words = String::from_utf8_lossy(&copied.stderr).into_owned();
        assert!(
            !copied.status.success() && words.contains(said),
            "{status}: {words}"
        );
        // Without a container it is made, and other servers may know of it later.
        let puts = if status == 404 { 5 } else { often };
        assert_eq!(asked(&case, "PUT", 1), puts, "PUT: {status}");
        assert_eq!(names(&mount.volume(VOLUME)), ["image"], "{status}");
        case.proxy.relent();
        // What was stored of it is cleared away.
        wait_for("the rest is cleared away", || case.objects().len() == 4);
    };
    is(403, 1, "Permission denied");
    is(404, 1, "Input/output error");
    is(413, 1, "Disk quota exceeded");
    is(507, 1, "No space left");
    is(500, 4, "Input/output error");
    is(503, 4, "Input/output error");
}

#[test]
fn one_percent_of_all_requests_fail() {
    const LENGTH: usize = 64 * MIB;
    let options = "backup_swift_object_size = 262144\nbackup_swift_retry_backoff = 0.1\n";
    let Some(case) = Case::new(options) else {
        return;
    };
    let mut data = noise(12, LENGTH / 2);
    data.extend(text(13, LENGTH / 2));
    let source = case.lab.source("source", &data);
    case.proxy.add(Rule::random(1.0, 7));
    let mount = case.lab.mount();
    must_copy(&source, &new(&mount, "image"));
    drop(mount);
    let mount = case.lab.mount();
    let target = case.lab.path("restored");
    must_copy(&image(&mount), &target);
    assert!(std::fs::read(target).unwrap() == data);
    let requests = case.proxy.take_requests();
    let harmed = requests.iter().filter(|request| request.harm.is_some());
    let harmed = harmed.count();
    println!("{harmed} of {} requests failed", requests.len());
    assert!(harmed >= 3);
    assert!(!case.lab.log().contains("ERROR"), "{}", case.lab.log());
}

#[test]
fn flipped_bits_are_never_served() {
    for make in [noise, text] {
        let Some(case) = Case::new(&format!("{SMALL}{NO_TTL}")) else {
            return;
        };
        let data = make(14, 2 * MIB);
        let source = case.lab.source("source", &data);
        let mount = case.lab.mount();
        must_copy(&source, &new(&mount, "image"));
        drop(mount);
        let look = || {
            let mount = case.lab.mount();
            cat(&image(&mount))
        };
        for part in [chunk(1), "_sha256file".to_owned(), "_metadata".to_owned()] {
            for at in [0, 130, 200_000] {
                let flip = || Rule::new(Harm::Flip(at)).on("GET").at(part.clone());
                case.proxy.add(flip().times(1));
                let once = look();
                assert!(once.is_ok_and(|read| read == data), "{part} at {at}, once");
                case.proxy.relent();
                case.proxy.add(flip());
                let seen = look();
                let is_fine = match part.starts_with('-') {
                    true if at < 200 => seen.is_err(),
                    // Shorter than that; or asked for in other parts.
                    _ => seen.is_err() || seen.is_ok_and(|read| read == data),
                };
                assert!(is_fine, "{part} at {at}");
                case.proxy.relent();
            }
        }
        assert!(look().unwrap() == data);
    }
}

/// What the store does not hold as it was sent is no backup.
#[test]
fn bits_that_flip_on_the_way_to_the_store() {
    let Some((case, data)) = Case::with_backup(SMALL, MIB) else {
        return;
    };
    let source = case.lab.source("other", &data);
    for part in [chunk(1), "_sha256file".to_owned(), "_metadata".to_owned()] {
        let mount = case.lab.mount();
        case.proxy
            .add(Rule::new(Harm::FlipRequest(77)).on("PUT").at(part.clone()));
        let copied = copy(&source, &new(&mount, "new"));
        let words = String::from_utf8_lossy(&copied.stderr).into_owned();
        assert!(words.contains("Input/output error"), "{part}: {words}");
        assert_eq!(names(&mount.volume(VOLUME)), ["image"], "{part}");
        case.proxy.relent();
        wait_for("the rest is cleared away", || case.objects().len() == 3);
        drop(mount);
        let mount = case.lab.mount();
        assert_eq!(names(&mount.volume(VOLUME)), ["image"], "{part}");
    }
}

/// A mount of this store and of a folder: the one stalls, the other goes on.
#[test]
fn a_store_that_stalls() {
    let Some((case, data)) = Case::with_backup(IMPATIENT, 3 * MIB) else {
        return;
    };
    let local = format!(
        "{IMPATIENT}{NO_TTL}\n[local]\nbackup_driver = posix\nbackup_posix_path = {}\n",
        case.lab.store().display()
    );
    case.lab.configure(&local);
    let source = case.lab.source("other", &data);
    for harm in [
        Harm::NoAnswer,
        Harm::StallAnswer(10),
        Harm::StallRequest(10),
    ] {
        for part in ["", "-0000"] {
            let mount = case.lab.mount();
            let folder = mount.path("local").join(VOLUME);
            if !folder.exists() {
                std::fs::create_dir(&folder).unwrap();
                must_copy(&source, &folder.join("image"));
            }
            case.proxy.add(Rule::new(harm.clone()).at(part));
            let is_read = harm != Harm::StallRequest(10);
            let began = Instant::now();
            let path = image(&mount);
            std::thread::scope(|scope| {
                let readers: Vec<_> = (0..8).map(|_| scope.spawn(|| cat(&path))).collect();
                let writer = scope.spawn(|| {
                    let target = mount.path("swift").join(VOLUME).join("new");
                    copy(&source, &target)
                });
                // It answers while the others wait.
                for _ in 0..3 {
                    assert!(cat(&folder.join("image")).unwrap() == data);
                    let names = names(&folder);
                    assert_eq!(names, ["image"]);
                }
                for reader in readers {
                    let read = reader.join().unwrap();
                    match is_read {
                        true => assert!(read.unwrap_err().contains("Input/output error")),
                        false => drop(read),
                    }
                }
                let wrote = writer.join().unwrap();
                let words = String::from_utf8_lossy(&wrote.stderr).into_owned();
                let may_write = !part.is_empty() && harm == Harm::StallAnswer(10);
                assert!(may_write || words.contains("Input/output error"), "{words}");
            });
            println!("{harm:?} at {part:?}: {:?} in all", began.elapsed());
            case.proxy.relent();
            let _ = std::fs::remove_file(mount.path("swift").join(VOLUME).join("new"));
            wait_for("it goes on", || {
                cat(&image(&mount)).is_ok_and(|read| read == data)
            });
            assert_eq!(names(&mount.volume(VOLUME)), ["image"]);
        }
    }
}

/// A thousand backups that nobody answers for do not take a deadline each.
#[test]
fn many_backups_in_a_store_that_stalls() {
    const BACKUPS: usize = 200;
    let Some((case, _)) = Case::with_backup(IMPATIENT, 1000) else {
        return;
    };
    let all = case.objects();
    let metadata = all.iter().find(|name| name.ends_with("_metadata")).unwrap();
    let prefix = metadata.strip_suffix("_metadata").unwrap();
    let names: Vec<String> = (1..BACKUPS)
        .map(|number| {
            let id = format!("{number:08x}-1000-4000-8000-100000000000");
            let (start, _) = prefix.rsplit_once('_').unwrap();
            format!("{start}_{id}_metadata")
        })
        .collect();
    let swift = crate::common::swift::Swift::shared().unwrap();
    crate::rows::add(swift, &case.client, CONTAINER, &names);
    case.proxy
        .add(Rule::new(Harm::NoAnswer).on("GET").at("_metadata"));
    let mount = case.lab.mount();
    let listed = run(&mut shell(
        r#"exec timeout 60 ls -l "$1""#,
        &[mount.path("swift").join(VOLUME)],
    ));
    assert_eq!(listed.lines().count(), 1 + BACKUPS);
}

/// The store is gone in the middle of a backup: nothing is listed, and what is left of it
/// is found.
#[test]
fn a_store_that_goes_away_during_a_backup() {
    let Some((case, data)) = Case::with_backup(IMPATIENT, 4 * MIB) else {
        return;
    };
    let source = case.lab.source("other", &data);
    let mount = case.lab.mount();
    mount.volume(VOLUME);
    case.proxy
        .add(Rule::new(Harm::StallRequest(1000)).on("PUT").at(chunk(3)));
    case.proxy
        .add(Rule::new(Harm::NoAnswer).on("DELETE").at("-0"));
    case.proxy
        .add(Rule::new(Harm::NoAnswer).on("DELETE").at("_backup_"));
    let copied = copy(&source, &new(&mount, "new"));
    let words = String::from_utf8_lossy(&copied.stderr).into_owned();
    assert!(words.contains("Input/output error"), "{words}");
    wait_for("it is given up", || case.lab.log().contains("are left"));
    case.proxy.relent();
    assert_eq!(names(&mount.volume(VOLUME)), ["image"]);
    assert!(cat(&image(&mount)).unwrap() == data);
    drop(mount);
    assert!(case.objects().len() > 6);
    let gc = |more: &[&str]| {
        let config = case.lab.config();
        let mut arguments = vec!["gc", "--config", config.to_str().unwrap()];
        arguments.extend(more);
        output_of(&case, &arguments)
    };
    gc(&["--delete", "--older-than", "0"]);
    assert_eq!(case.objects().len(), 6);
    let mount = case.lab.mount();
    assert!(cat(&image(&mount)).unwrap() == data);
}

fn output_of(case: &Case, arguments: &[&str]) -> String {
    let output = crate::common::mount::output(&mut case.lab.cinderfs(arguments));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    format!("{}{said}", String::from_utf8_lossy(&output.stdout))
}
