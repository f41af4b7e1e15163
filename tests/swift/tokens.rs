//! Tokens that end while they are used.

use crate::case::{CONTAINER, SMALL, VOLUME, must_copy, noise};
use crate::common::mount::{Lab, MIB, wait_for};
use crate::common::proxy::{Proxy, Request, Rule};
use crate::common::swift::{Account, Cloud, Options, Swift};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Enough requests at a time that some wait while another one logs in.
const LENGTH: usize = 16 * MIB;

fn is_login(request: &&Request) -> bool {
    request.path.contains("/auth/")
}

/// No PUT that was taken is sent once more.
fn check_puts(requests: &[Request]) {
    let mut taken = HashMap::new();
    for request in requests {
        let is_chunk = request.method == "PUT" && request.path.contains(CONTAINER);
        if is_chunk && request.status == Some(201) && request.path.contains("_backup_") {
            *taken.entry(&request.path).or_insert(0) += 1;
        }
    }
    assert_eq!(taken.len(), LENGTH / MIB + 2);
    assert!(taken.values().all(|count| *count == 1), "{taken:?}");
}

/// A backup and a restore; then what was sent, and how long it took.
fn there_and_back(account: &Account, proxy: &Proxy, between: impl Fn()) -> Duration {
    let lab = Lab::on_swift(account, SMALL);
    let data = noise(20, LENGTH);
    let source = lab.source("source", &data);
    let mount = lab.mount();
    let began = Instant::now();
    let image = mount.volume(VOLUME).join("image");
    std::thread::scope(|scope| {
        let copy = scope.spawn(|| must_copy(&source, &image));
        wait_for("half of it is stored", || {
            proxy.count("PUT", "_backup_") > 8
        });
        between();
        copy.join().unwrap();
    });
    drop(mount);
    let mount = lab.mount();
    let image = mount.volume(VOLUME).join("image");
    let target = lab.path("restored");
    std::thread::scope(|scope| {
        let copy = scope.spawn(|| must_copy(&image, &target));
        wait_for("half of it is read", || proxy.count("GET", "-000") > 8);
        between();
        copy.join().unwrap();
    });
    assert!(std::fs::read(target).unwrap() == data);
    assert!(!lab.log().contains("ERROR"), "{}", lab.log());
    began.elapsed()
}

#[test]
fn tokens_of_a_few_seconds() {
    const LIFE: u32 = 4;
    let options = Options {
        token_life: Some(LIFE),
        ..Options::default()
    };
    let Some(cloud) = Cloud::start(&options) else {
        return;
    };
    let gate = Proxy::start(cloud.keystone.server.port());
    for kind in ["1", "3"] {
        let proxy = Proxy::start(cloud.swift.port());
        let account = match kind {
            "1" => cloud.swift.account().by_way_of(&proxy),
            _ => {
                let project = cloud.keystone.project();
                cloud.through(&project, &proxy).by_way_of(&gate)
            }
        };
        gate.take_requests();
        proxy.set_latency(Duration::from_millis(400));
        let took = there_and_back(&account, &proxy, || ());
        let requests = proxy.take_requests();
        let logins = match kind {
            "1" => requests.iter().filter(is_login).count(),
            _ => gate.take_requests().iter().filter(is_login).count(),
        };
        let lives = took.as_secs_f64() / f64::from(LIFE);
        let refused = requests
            .iter()
            .filter(|request| request.status == Some(401))
            .count();
        println!(
            "version {kind}: {logins} logins, {refused} refused, in {lives:.1} lives of a token; \
             {} requests",
            requests.len()
        );
        assert!(
            lives > 2.0,
            "it has to take longer than a token lives: {took:?}"
        );
        assert!(
            logins as f64 <= 2.0 * lives + 4.0,
            "{logins} in {lives} lives"
        );
        check_puts(&requests);
    }
}

/// All tokens are gone at once, in the middle, twice.
#[test]
fn tokens_that_are_revoked() {
    let Some(swift) = Swift::start(&Options::default()) else {
        return;
    };
    let port = std::fs::read_to_string(swift.server.folder().join("memcached.port")).unwrap();
    let port: u16 = port.split_whitespace().last().unwrap().parse().unwrap();
    let forget = || {
        let mut memory = TcpStream::connect(("127.0.0.1", port)).unwrap();
        memory.write_all(b"flush_all\r\n").unwrap();
        let mut said = [0; 4];
        memory.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"OK\r\n");
    };
    let proxy = Proxy::start(swift.port());
    let account = swift.account().by_way_of(&proxy);
    proxy.set_latency(Duration::from_millis(200));
    there_and_back(&account, &proxy, forget);
    let requests = proxy.take_requests();
    let logins = requests.iter().filter(is_login).count();
    let refused = requests
        .iter()
        .filter(|request| request.status == Some(401))
        .count();
    println!("{refused} requests were refused, {logins} logins");
    // One for each mount, and one for each time.
    assert_eq!(logins, 4);
    assert!(refused >= 2);
    check_puts(&requests);
}

/// The server takes no token for a while, however new, though it has taken some: its cache of
/// tokens is gone, or each ends before its request is looked at.
#[test]
fn tokens_that_are_not_taken_for_a_while() {
    let Some(swift) = Swift::start(&Options::default()) else {
        return;
    };
    let proxy = Proxy::start(swift.port());
    let lab = Lab::on_swift(&swift.account().by_way_of(&proxy), SMALL);
    let data = noise(21, 2 * MIB);
    let source = lab.source("source", &data);
    let mount = lab.mount();
    let image = mount.volume(VOLUME).join("image");
    let refused = || Rule::answer(401).at("_backup_").times(7);
    proxy.add(refused().on("PUT"));
    must_copy(&source, &image);
    drop(mount);
    let mount = lab.mount();
    let image = mount.volume(VOLUME).join("image");
    proxy.add(refused().on("GET").at("-0000"));
    let target = lab.path("restored");
    must_copy(&image, &target);
    assert!(std::fs::read(target).unwrap() == data);
    let refused = |request: &Request| request.status == Some(401);
    assert_eq!(proxy.requests().into_iter().filter(refused).count(), 14);
    assert!(!lab.log().contains("ERROR"), "{}", lab.log());
}
