//! The real servers that other tests use are as those tests take them to be.

mod common;

use common::ceph::{Ceph, Part};
use common::glusterfs::Gluster;
use common::golden::Tree;
use common::mount::{errno, fail, is_mounted, wait_for};
use common::proxy::{Proxy, Rule};
use common::swift::{Account, Cloud, Http, Keystone, Options, Swift};
use std::fs;

/// The status of one request to each of them, below the account.
fn statuses(account: &Account, requests: &[(&str, &str)]) -> Vec<u16> {
    let client = account.client();
    let requests = requests.iter();
    let send = |(method, path): &(&str, &str)| client.send(method, path, "", &[], Vec::new());
    requests.map(|request| send(request).status).collect()
}

const READ_AND_WRITE: [(&str, &str); 3] = [("GET", "/c"), ("GET", "/c/o"), ("PUT", "/c/p")];

#[test]
fn accounts_of_version_1() {
    let Some(swift) = Swift::shared() else {
        return;
    };
    let account = swift.account();
    let client = account.client();
    assert_eq!(client.containers(), [""; 0]);
    client.put_container("c");
    client.put("c", "o", b"data");
    client.put("c", "with/ %2F?\u{1F4BE}#", b"more");
    assert_eq!(client.get("c", "with/ %2F?\u{1F4BE}#"), b"more");
    assert_eq!(client.list("c", "with/"), ["with/ %2F?\u{1F4BE}#"]);
    assert_eq!(client.containers(), ["c"]);
    assert_eq!(client.told("c", "x-storage-policy").unwrap(), "gold");
    let silver = [("X-Storage-Policy", "silver")];
    let made = client.send("PUT", "/silver", "", &silver, Vec::new());
    assert_eq!(made.status, 201);
    assert_eq!(client.told("silver", "x-storage-policy").unwrap(), "silver");

    let reader = account.reader();
    assert_eq!(statuses(&reader, &READ_AND_WRITE), [403; 3]);
    let Account::V1(login) = &reader else {
        unreachable!()
    };
    client.set("c", &[("X-Container-Read", &*login.user)]);
    assert_eq!(statuses(&reader, &READ_AND_WRITE), [200, 200, 403]);
    client.delete("c", "o");
    assert_eq!(statuses(&account, &READ_AND_WRITE), [200, 404, 201]);
    // Nobody else has seen any of it.
    assert_eq!(swift.account().client().containers(), [""; 0]);

    let wrong = swift.user("test1:tester", "wrong");
    let Account::V1(wrong) = wrong else {
        unreachable!()
    };
    let headers = [("X-Auth-User", &*wrong.user), ("X-Auth-Key", &*wrong.key)];
    let refused = Http::new(None).send("GET", &wrong.auth_url, &headers, Vec::new());
    assert_eq!(refused.status, 401);
}

#[test]
fn quotas_of_version_1() {
    let Some(swift) = Swift::shared() else {
        return;
    };
    let client = swift.account().client();
    client.put_container("c");
    client.set("c", &[("X-Container-Meta-Quota-Bytes", "5")]);
    let more = client.send("PUT", "/c/more", "", &[], b"123456".to_vec());
    assert_eq!(more.status, 413);
    client.set("c", &[("X-Container-Meta-Quota-Bytes", "")]);
    client.put("c", "more", b"123456");

    let mut admin = swift.user("admin:admin", "admin").client();
    admin.storage_url = client.storage_url.clone();
    let limit = [("X-Account-Meta-Quota-Bytes", "100")];
    let limited = admin.send("POST", "", "", &limit, Vec::new());
    assert_eq!(limited.status, 204);
    let large = client.send("PUT", "/c/large", "", &[], vec![0; 101]);
    assert_eq!(large.status, 413);
}

#[test]
fn users_of_keystone() {
    let Some(cloud) = Cloud::shared() else {
        return;
    };
    let user = |name| cloud.keystone.user(name, "service");
    let cinder = user("cinder").client();
    cinder.put_container("c");
    cinder.put("c", "o", b"data");
    assert_eq!(statuses(&user("reader"), &READ_AND_WRITE), [200, 200, 403]);
    assert_eq!(statuses(&user("guest"), &READ_AND_WRITE), [403; 3]);
    cinder.set("c", &[("X-Container-Read", "observer")]);
    assert_eq!(statuses(&user("guest"), &READ_AND_WRITE), [200, 200, 403]);
    let Account::V3(mut keeper) = cloud.keystone.user("keeper", "vault") else {
        unreachable!()
    };
    keeper.domain = "Elsewhere".to_owned();
    let keeper = Account::V3(keeper).client();
    assert_eq!(keeper.containers(), [""; 0]);
    assert_ne!(keeper.storage_url, cinder.storage_url);
    let Account::V3(mut stranger) = user("stranger") else {
        unreachable!()
    };
    stranger.project = None;
    assert_eq!(Account::V3(stranger).client().storage_url, "");

    let http = Http::new(None);
    let url = format!("{}/auth/tokens", cloud.keystone.url());
    let id = cloud.keystone.server.said("application_credential_id");
    let log_in = |secret: &str| {
        let body = serde_json::json!({"auth": {"identity": {
            "methods": ["application_credential"],
            "application_credential": {"id": id, "secret": secret},
        }}});
        let headers = [("Content-Type", "application/json")];
        let body = body.to_string().into_bytes();
        http.send("POST", &url, &headers, body).status
    };
    assert_eq!([log_in("appsecret"), log_in("wrong")], [201, 401]);
    let project = cloud.keystone.project();
    assert_ne!(project.client().storage_url, cinder.storage_url);
}

#[test]
fn proxies_are_where_accounts_lead() {
    let Some(cloud) = Cloud::shared() else {
        return;
    };
    let (proxy, gate) = (
        Proxy::start(cloud.swift.port()),
        Proxy::start(cloud.keystone.server.port()),
    );
    let first = cloud.swift.account().by_way_of(&proxy);
    let project = cloud.keystone.project();
    let second = cloud.through(&project, &proxy).by_way_of(&gate);
    for (account, logins) in [(first, &proxy), (second, &gate)] {
        let client = account.client();
        assert_eq!(
            logins.count("GET", "/auth/") + logins.count("POST", "/auth/"),
            1
        );
        client.put_container("c");
        proxy.add(Rule::answer(507).on("PUT").times(1));
        assert_eq!(client.send("PUT", "/c/o", "", &[], Vec::new()).status, 507);
        client.put("c", "o", b"data");
        assert_eq!(proxy.count("PUT", "/c/o"), 2);
        proxy.take_requests();
        gate.take_requests();
    }
}

#[test]
fn tokens_that_expire() {
    let options = Options {
        token_life: Some(3),
        ..Options::default()
    };
    let Some(cloud) = Cloud::start(&options) else {
        return;
    };
    for account in [cloud.swift.account(), cloud.keystone.project()] {
        let client = account.client();
        let is_over = || client.send("GET", "", "", &[], Vec::new()).status == 401;
        wait_for("the token expires", is_over);
        assert_ne!(statuses(&account, &[("GET", "")]), [401]);
    }
}

#[test]
fn listings_in_pages() {
    let options = Options {
        listing_limit: Some(3),
        ..Options::default()
    };
    let Some(swift) = Swift::start(&options) else {
        return;
    };
    let client = swift.account().client();
    client.put_container("c");
    let names: Vec<String> = (0..8).map(|number| number.to_string()).collect();
    for name in &names {
        client.put("c", name, b"");
        client.put_container(&format!("c{name}"));
    }
    let page = client.send("GET", "/c", "", &[], Vec::new());
    assert_eq!(page.body, b"0\n1\n2\n");
    assert_eq!(client.list("c", ""), names);
    assert_eq!(client.containers().len(), 9);
}

#[test]
fn servers_that_come_back() {
    let Some(mut swift) = Swift::start(&Options::default()) else {
        return;
    };
    let account = swift.account();
    let client = account.client();
    client.put_container("c");
    client.put("c", "o", b"data");
    let port = swift.port();
    swift.server.stop();
    let refused = Http::new(None).try_send("GET", swift.auth_url(), &[], Vec::new());
    assert!(refused.unwrap_err().is_connect());
    swift.server.go_on();
    assert_eq!(swift.port(), port);
    assert_eq!(account.client().get("c", "o"), b"data");
    let folder = swift.server.folder().to_owned();
    assert!(folder.exists());
    drop(swift);
    assert!(!folder.exists());

    let mut keystone = Keystone::start(&Options::default()).unwrap();
    let project = keystone.project();
    let Account::V3(login) = &project else {
        unreachable!()
    };
    keystone.server.stop();
    keystone.server.go_on();
    assert_eq!(keystone.url(), login.auth_url);
    // Without a Swift nothing is in the catalogue.
    assert_eq!(project.client().storage_url, "");
}

#[test]
fn trees_are_loaded() {
    let Some(swift) = Swift::shared() else {
        return;
    };
    let client = swift.account().client();
    for tree in [Tree::Swift, Tree::OldSwift] {
        client.load(&tree.path());
        for backup in tree.backups() {
            let names = client.list(&backup.container, &backup.prefix);
            let metadata = format!("{}_metadata", backup.prefix);
            assert!(names.contains(&metadata), "{metadata}");
            let path = tree.path().join(&backup.container);
            for name in names {
                let file = fs::read(path.join(&name)).unwrap();
                assert!(client.get(&backup.container, &name) == file, "{name}");
            }
        }
    }
}

#[test]
fn a_share_of_glusterfs() {
    let Some(gluster) = Gluster::shared() else {
        return;
    };
    let (first, second) = (gluster.mount(), gluster.mount());
    fs::write(first.path("f"), b"data").unwrap();
    assert_eq!(fs::read(second.path("f")).unwrap(), b"data");
    assert_eq!(fs::read(gluster.brick().join("f")).unwrap(), b"data");
    let folder = first.root().to_owned();
    first.unmount().unwrap();
    assert!(!folder.exists());
    let gone = second.root().to_owned();
    drop(second);
    assert!(!is_mounted(&gone) && !gone.exists());
}

#[test]
fn a_brick_that_ends_or_stands_still() {
    let Some(gluster) = Gluster::start() else {
        return;
    };
    gluster.set("network.ping-timeout", "2");
    let mounted = gluster.mount();
    let file = mounted.path("f");
    fs::write(&file, b"data").unwrap();
    let is_there = || fs::metadata(&file).is_ok();
    gluster.kill_brick();
    wait_for("its clients hear of it", || {
        errno(fs::metadata(&file)) == libc::ENOTCONN
    });
    gluster.heal();
    wait_for("its clients find it", is_there);
    assert_eq!(fs::read(&file).unwrap(), b"data");
    let before = gluster.brick_pid();
    gluster.pause_brick();
    // A new file, for what was read may be in the kernel's cache.
    assert_eq!(errno(fs::write(mounted.path("g"), b"")), libc::ENOTCONN);
    gluster.resume_brick();
    wait_for("its clients find it", is_there);
    assert_eq!(gluster.brick_pid(), before);
}

#[test]
fn a_glusterfs_that_comes_back_and_leaves_nothing() {
    let Some(mut gluster) = Gluster::start() else {
        return;
    };
    let other = Gluster::start().unwrap();
    assert_ne!(gluster.share(), other.share());
    let mounted = gluster.mount();
    fs::write(mounted.path("f"), b"data").unwrap();
    let share = gluster.share().to_owned();
    let folder = gluster.server.folder().to_owned();
    let processes = || {
        let folder = folder.to_str().unwrap();
        let running = fs::read_dir("/proc").unwrap().filter(|entry| {
            let line = entry.as_ref().unwrap().path().join("cmdline");
            fs::read(line).is_ok_and(|line| String::from_utf8_lossy(&line).contains(folder))
        });
        running.count()
    };
    drop(mounted);
    // serve.py twice, glusterd, the brick.
    assert_eq!(processes(), 4);
    gluster.server.stop();
    assert_eq!(processes(), 0);
    gluster.server.go_on();
    assert_eq!(gluster.share(), share);
    let mounted = gluster.mount();
    assert_eq!(fs::read(mounted.path("f")).unwrap(), b"data");
    // While it stands still and somebody uses it.
    gluster.pause_brick();
    drop(gluster);
    drop(mounted);
    assert_eq!(processes(), 0);
    assert!(!folder.exists());
}

#[test]
fn pools_and_users_of_ceph() {
    let Some(ceph) = Ceph::shared() else {
        return;
    };
    let pool = ceph.pool();
    assert_eq!(pool.images(), [""; 0]);
    pool.rbd(&["create", "image", "--size", "1G"]);
    pool.rbd(&["snap", "create", "image@snap"]);
    assert_eq!(pool.images(), ["image"]);
    let told = pool.rbd(&["info", "image"]);
    assert!(
        told.contains("layering, exclusive-lock, object-map, fast-diff"),
        "{told}"
    );
    // Nobody else has seen any of it.
    assert_eq!(ceph.pool().images(), [""; 0]);

    let reader = ceph.user("reader", "profile rbd", "profile rbd-read-only");
    let as_user = |name: &str, conf: &std::path::Path, arguments: &[&str]| {
        let mut command = pool.rbd_command(arguments);
        command.arg("--conf").arg(conf).args(["--id", name]);
        command
    };
    common::mount::run(&mut as_user("reader", &reader, &["info", "image"]));
    fail(&mut as_user(
        "reader",
        &reader,
        &["create", "more", "--size", "1"],
    ));
    let wrong = ceph.conf_with_key("cinder", "AQAcqD5kAAAAABAAz2g2kTUZ8gPVYMJnC9RjKw==");
    fail(&mut as_user("cinder", &wrong, &["ls"]));
}

#[test]
fn clusters_that_come_back() {
    let Some(mut ceph) = Ceph::start() else {
        return;
    };
    let pool = ceph.pool();
    pool.rbd(&["create", "image", "--size", "1M"]);
    for part in [Part::ObjectStore, Part::Monitor] {
        let before = ceph.pid(part);
        ceph.stop(part);
        ceph.go_on(part);
        assert_ne!(ceph.pid(part), before);
        assert_eq!(pool.images(), ["image"]);
    }
    ceph.server.stop();
    ceph.server.go_on();
    assert_eq!(pool.images(), ["image"]);
    let folder = ceph.server.folder().to_owned();
    let pids = [Part::Monitor, Part::ObjectStore].map(|part| ceph.pid(part));
    drop(ceph);
    assert!(!folder.exists());
    for pid in pids {
        let process = format!("/proc/{pid}");
        assert!(!std::path::Path::new(&process).exists(), "{pid} still runs");
    }
}
