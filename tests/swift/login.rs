//! Who may not log in, or may not do all; servers that are not there, or are not who they
//! should be: one clear message each, and the mount starts, waits and recovers.

use crate::case::{CONTAINER, Case, NO_TTL, SMALL, VOLUME, cat, copy, image, must_copy, noise};
use crate::common::mount::{
    Lab, MIB, command, detach, fail, kill, names, output, run, shell, wait_for,
};
use crate::common::proxy::{Proxy, Rule};
use crate::common::swift::{Account, Cloud, Options, Swift, V1, V3};
use std::path::{Path, PathBuf};

fn of_v1(account: &Account) -> V1 {
    match account {
        Account::V1(login) => login.clone(),
        Account::V3(_) => panic!("{account:?}"),
    }
}

fn of_v3(account: &Account) -> V3 {
    match account {
        Account::V3(login) => login.clone(),
        Account::V1(_) => panic!("{account:?}"),
    }
}

/// Mounts in the background, as users do. Gives what they read then, and takes the mount
/// away again.
fn mount_says(lab: &Lab) -> String {
    let folder = lab.path("mnt");
    let log = format!("log={}", lab.path("log").display());
    let mut mount = lab.cinderfs(&[
        "mount".as_ref(),
        "--config".as_ref(),
        lab.config().as_os_str(),
        "-o".as_ref(),
        log.as_ref(),
        folder.as_os_str(),
    ]);
    let mounted = output(&mut mount);
    let said = String::from_utf8_lossy(&mounted.stderr).into_owned();
    assert!(mounted.status.success(), "{said}");
    // It is there all the same.
    assert_eq!(names(&folder), ["swift"]);
    let pid = lab.daemon_of(&folder).unwrap();
    kill(pid, libc::SIGTERM);
    wait_for("the daemon ends", || lab.daemon_of(&folder).is_none());
    detach(&folder);
    said
}

/// What is said on standard error, in one line, holds all these words.
fn check_message(what: &str, lab: &Lab, words: &[&str]) {
    let said = mount_says(lab);
    println!("{what}: {said}");
    assert_eq!(said.lines().count(), 1, "{what}: {said}");
    for word in words {
        assert!(said.contains(word), "{what}: \"{word}\" is not in: {said}");
    }
    let log = lab.log();
    assert!(
        log.contains(said.trim().strip_prefix("cinderfs: ").unwrap()),
        "{log}"
    );
}

#[test]
fn one_message_for_each_trouble() {
    let Some(swift) = Swift::shared() else {
        return;
    };
    let good = of_v1(&swift.account());
    let check = |what: &str, login: V1, options: &str, words: &[&str]| {
        let lab = Lab::on_swift(&Account::V1(login), options);
        check_message(what, &lab, words);
    };
    let wrong = V1 {
        key: "wrong".into(),
        ..good.clone()
    };
    check(
        "wrong password",
        wrong,
        "",
        &["wrong user or key", "backup_swift_key", "401"],
    );
    let nobody = V1 {
        user: "test:nobody".into(),
        ..good.clone()
    };
    check(
        "no such user",
        nobody,
        "",
        &["wrong user or key", "backup_swift_user"],
    );
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let auth_url = format!("http://127.0.0.1:{port}/auth/v1.0");
    let refused = V1 {
        auth_url,
        ..good.clone()
    };
    check(
        "connection refused",
        refused,
        "",
        &["connection refused", "is the server up"],
    );
    let auth_url = "http://swift.invalid:8080/auth/v1.0".to_owned();
    let unknown = V1 {
        auth_url,
        ..good.clone()
    };
    check(
        "no such host",
        unknown,
        "",
        &["the name of swift.invalid:8080 is not known", "DNS"],
    );
    let auth_url = good.auth_url.replace("/auth/v1.0", "/info");
    let elsewhere = V1 {
        auth_url,
        ..good.clone()
    };
    check(
        "not where one logs in",
        elsewhere,
        "",
        &["backup_swift_auth_url"],
    );

    let tls = Proxy::start_tls(swift.port());
    let auth_url = format!("{}/auth/v1.0", tls.url());
    let safe = V1 {
        auth_url,
        ..good.clone()
    };
    let words = [
        "is not trusted",
        "unknown authority",
        "backup_swift_ca_cert_file",
    ];
    check("not trusted", safe.clone(), "", &words);
    let auth_url = safe.auth_url.replace("https://", "http://");
    let plain = V1 {
        auth_url,
        ..good.clone()
    };
    check("plain where TLS is spoken", plain, SMALL, &["127.0.0.1"]);
    let auth_url = good.auth_url.replace("http://", "https://");
    let no_tls = V1 { auth_url, ..good };
    check("TLS where none is spoken", no_tls, SMALL, &["TLS", "https"]);

    // And what helps.
    let trusted = format!(
        "backup_swift_ca_cert_file = {}\n",
        tls.certificate().display()
    );
    for options in [&*trusted, "backup_swift_auth_insecure = true\n"] {
        let lab = Lab::on_swift(&Account::V1(safe.clone()), options);
        assert_eq!(mount_says(&lab), "");
        let data = noise(30, 3000);
        let mount = lab.mount();
        let path = mount.volume(VOLUME).join(options.len().to_string());
        must_copy(&lab.source("source", &data), &path);
        assert_eq!(cat(&path).unwrap(), data);
    }
}

/// The logins of Keystone, right and wrong; what the server says of it is no secret.
#[test]
fn keystone() {
    let Some(cloud) = Cloud::shared() else {
        return;
    };
    let good = of_v3(&cloud.keystone.user("cinder", "service"));
    let wrong = |login: V3, words: &[&str]| {
        let lab = Lab::on_swift(&Account::V3(login), "");
        check_message("Keystone", &lab, words);
    };
    let words = ["wrong user, password or domain", "backup_swift_key", "401"];
    wrong(
        V3 {
            password: "wrong".into(),
            ..good.clone()
        },
        &words,
    );
    wrong(
        V3 {
            user: "nobody".into(),
            ..good.clone()
        },
        &words,
    );
    wrong(
        V3 {
            domain: "Nowhere".into(),
            ..good.clone()
        },
        &words,
    );
    wrong(
        V3 {
            project: Some("test7".into()),
            user: "stranger".into(),
            password: "strangerpass".into(),
            ..good.clone()
        },
        &words,
    );
    let nowhere = V3 {
        region: Some("Nowhere".into()),
        ..good.clone()
    };
    wrong(nowhere, &["Nowhere", "backup_swift_region_name"]);

    let data = noise(31, 5000);
    let check = |lab: &Lab, name: &str| {
        let source = lab.source("source", &data);
        let mount = lab.mount();
        let path = mount.volume(VOLUME).join(name);
        must_copy(&source, &path);
        assert_eq!(cat(&path).unwrap(), data, "{name}");
        assert_eq!(mount.unmount(), 0);
        assert!(!lab.log().contains("ERROR"), "{}", lab.log());
    };
    let lab = Lab::on_swift(&Account::V3(good.clone()), "");
    check(&lab, "password");
    let credential = |name_or_id: String, secret: &str| {
        format!("{name_or_id}backup_swift_application_credential_secret = {secret}\n")
    };
    let id = cloud.keystone.server.said("application_credential_id");
    let by_id = format!("backup_swift_application_credential_id = {id}\n");
    let by_name = "backup_swift_application_credential_name = cinderfs\n".to_owned();
    check(
        &Lab::on_swift(
            &Account::V3(good.clone()),
            &credential(by_id.clone(), "appsecret"),
        ),
        "by id",
    );
    check(
        &Lab::on_swift(
            &Account::V3(good.clone()),
            &credential(by_name, "appsecret"),
        ),
        "by name",
    );
    let lab = Lab::on_swift(&Account::V3(good.clone()), &credential(by_id, "wrong"));
    check_message(
        "credential",
        &lab,
        &["wrong application credential or secret"],
    );

    // A token that somebody else got.
    let client = Account::V3(good).client();
    let per_user = |more: &str| {
        let lab = Lab::on_swift(&cloud.keystone.user("cinder", "service"), "");
        let text = format!(
            "[DEFAULT]\nbackup_driver = swift\nspool_path = {}\nbackup_swift_auth = per_user\n\
             backup_swift_url = {}\n{more}",
            lab.path("spool").display(),
            client.storage_url
        );
        std::fs::write(lab.config(), text).unwrap();
        lab
    };
    let lab = per_user("");
    let file = lab.source("token", client.token.as_bytes());
    run(&mut command("chmod", &["600".as_ref(), file.as_os_str()]));
    lab.configure("");
    let text = std::fs::read_to_string(per_user("").config()).unwrap();
    std::fs::write(
        lab.config(),
        format!("{text}backup_swift_token_file = {}\n", file.display()),
    )
    .unwrap();
    check(&lab, "by a token in a file");
    let lab = per_user("");
    let folder = lab.path("mnt");
    let mut mount = lab.cinderfs(&[
        "mount".as_ref(),
        "--config".as_ref(),
        lab.config().as_os_str(),
        folder.as_os_str(),
    ]);
    run(mount.env("OS_AUTH_TOKEN", &client.token));
    assert_eq!(names(&folder.join("swift").join(VOLUME)).len(), 4);
    run(&mut lab.cinderfs(&["umount".as_ref(), folder.as_os_str()]));
}

/// Who may read and not write: the mount works, and whatever would change something says so
/// at once.
#[test]
fn a_user_who_may_only_read() {
    let Some(swift) = Swift::shared() else {
        return;
    };
    let Some(cloud) = Cloud::shared() else {
        return;
    };
    let one = swift.account();
    let two = cloud.keystone.user("cinder", "service");
    for (owner, reader) in [
        (one.clone(), one.reader()),
        (two, cloud.keystone.user("reader", "service")),
    ] {
        let container = "readable";
        let options = format!("{SMALL}backup_swift_container = {container}\n");
        let lab = Lab::on_swift(&owner, &options);
        let data = noise(32, 3 * MIB);
        let source = lab.source("source", &data);
        let mount = lab.mount();
        must_copy(&source, &mount.volume(VOLUME).join("image"));
        assert_eq!(mount.unmount(), 0);
        let lab = Lab::on_swift(&reader, &options);
        if let Account::V1(login) = &reader {
            // Before, not even that.
            let mount = lab.mount();
            let (_, said) = fail(&mut command("ls", &[mount.path("swift")]));
            assert!(said.contains("Permission denied"), "{said}");
            drop(mount);
            let readers = format!("{},.rlistings", login.user);
            owner
                .client()
                .set(container, &[("X-Container-Read", &readers)]);
        }
        let source = lab.source("source", &data);
        let mount = lab.mount();
        assert_eq!(names(&mount.volume(VOLUME)), ["image"]);
        assert!(cat(&image(&mount)).unwrap() == data);
        let before = owner.client().list(container, "");
        let new = mount.volume(VOLUME).join("new");
        let created = std::fs::File::create(&new);
        assert_eq!(created.unwrap_err().raw_os_error(), Some(libc::EACCES));
        let copied = copy(&source, &new);
        let words = String::from_utf8_lossy(&copied.stderr).into_owned();
        assert!(
            words.contains("cannot create regular file") && words.contains("Permission denied"),
            "{words}"
        );
        let gone = std::fs::remove_file(image(&mount));
        assert_eq!(gone.unwrap_err().raw_os_error(), Some(libc::EACCES));
        let renamed = std::fs::rename(image(&mount), mount.volume(VOLUME).join("other"));
        assert_eq!(renamed.unwrap_err().raw_os_error(), Some(libc::EACCES));
        assert_eq!(names(&mount.volume(VOLUME)), ["image"]);
        run(&mut shell(r#"df "$1" >/dev/null"#, &[mount.root()]));
        assert_eq!(owner.client().list(container, ""), before);
    }
}

/// It is said once that there is no container, and the first backup makes it.
#[test]
fn a_container_that_is_missing() {
    let Some(case) = Case::new(&format!(
        "{SMALL}{NO_TTL}backup_swift_create_storage_policy = silver\n"
    )) else {
        return;
    };
    let source = case.lab.source("source", &noise(33, 2 * MIB));
    let mount = case.lab.mount();
    for _ in 0..3 {
        assert_eq!(names(&mount.path("swift")), [""; 0]);
    }
    assert_eq!(case.lab.log().matches("there is no container").count(), 1);
    assert_eq!(case.client.containers(), [""; 0]);
    must_copy(&source, &mount.volume(VOLUME).join("image"));
    let policy = case.client.told(CONTAINER, "x-storage-policy");
    assert_eq!(policy.as_deref(), Some("silver"));
    drop(mount);

    // One that we may not make.
    let reader = case.account.reader();
    let options = "backup_swift_container = another\n";
    let lab = Lab::on_swift(&reader, options);
    let mount = lab.mount();
    let made = std::fs::create_dir(mount.path("swift").join(VOLUME));
    if made.is_ok() {
        let copied = copy(
            &case.lab.path("source"),
            &mount.path("swift").join(VOLUME).join("x"),
        );
        let words = String::from_utf8_lossy(&copied.stderr).into_owned();
        assert!(words.contains("Permission denied"), "{words}");
    }
    // Nor with a policy that there is not.
    case.lab
        .configure("backup_swift_container = third\nbackup_swift_create_storage_policy = lead\n");
    let mount = case.lab.mount();
    let copied = copy(&case.lab.path("source"), &mount.volume(VOLUME).join("x"));
    assert!(!copied.status.success());
    let log = case.lab.log();
    assert!(log.contains("storage policy lead (backup_swift"), "{log}");
}

/// The server comes later, goes, and comes back: the same mount works whenever it does.
#[test]
fn servers_that_come_and_go() {
    let Some(mut swift) = Swift::start(&Options::default()) else {
        return;
    };
    let account = swift.account();
    let data = noise(34, 3 * MIB);
    let lab = Lab::on_swift(&account, &format!("{SMALL}{NO_TTL}"));
    let source = lab.source("source", &data);
    swift.server.stop();
    let mount = lab.mount();
    assert_eq!(names(mount.root()), ["swift"]);
    let (_, said) = fail(&mut command("ls", &[mount.path("swift")]));
    assert!(said.contains("Input/output error"), "{said}");
    swift.server.go_on();
    let is_there = || mount.path("swift").read_dir().is_ok();
    wait_for("it is there", is_there);
    must_copy(&source, &mount.volume(VOLUME).join("image"));
    swift.server.stop();
    let (_, said) = fail(&mut shell(
        r#"exec dd if="$1" iflag=direct of=/dev/null bs=1M"#,
        &[image(&mount)],
    ));
    assert!(said.contains("Input/output error"), "{said}");
    swift.server.go_on();
    wait_for("it is there", || cat(&image(&mount)).is_ok());
    assert!(cat(&image(&mount)).unwrap() == data);
}

/// Passwords and tokens stand nowhere.
#[test]
fn secrets_stay_secret() {
    const KEY: &str = "testing";
    let Some(case) = Case::new(SMALL) else {
        return;
    };
    let log = case.lab.path("trace");
    let folder = case.lab.path("mnt");
    let mut mount = case.lab.cinderfs(&[
        "mount".as_ref(),
        "--config".as_ref(),
        case.lab.config().as_os_str(),
        "-o".as_ref(),
        format!("log={}", log.display()).as_ref(),
        folder.as_os_str(),
    ]);
    run(mount.env("CINDERFS_LOG", "trace"));
    let pid = case.lab.daemon_of(&folder).unwrap();
    let volume = folder.join("swift").join(VOLUME);
    std::fs::create_dir(&volume).unwrap();
    let source = case.lab.source("source", &noise(35, 2 * MIB));
    must_copy(&source, &volume.join("image"));
    // With something to say.
    case.proxy
        .add(Rule::answer(500).on("GET").at("-0000").times(3));
    case.proxy
        .add(Rule::answer(401).on("GET").at("-0000").times(2));
    let _ = cat(&volume.join("image"));
    let mut told = vec![
        std::fs::read(format!("/proc/{pid}/cmdline")).unwrap(),
        std::fs::read(&log).unwrap(),
    ];
    let control = folder.join(".cinderfs");
    let all = run(&mut shell(
        r#"find "$1" -type f; find "$1" -type l"#,
        &[&control],
    ));
    let files: Vec<PathBuf> = all.lines().map(PathBuf::from).collect();
    assert!(files.len() >= 4, "{files:?}");
    told.extend(
        files
            .iter()
            .map(|file| std::fs::read(file).unwrap_or_default()),
    );
    let attributes = |path: &Path| {
        run(&mut command(
            "getfattr",
            &["-d".as_ref(), "-m".as_ref(), "-".as_ref(), path.as_os_str()],
        ))
    };
    told.push(attributes(&volume.join("image")).into_bytes());
    let requests = case.proxy.take_requests();
    let tokens = requests
        .iter()
        .filter_map(|request| request.header("x-auth-token"));
    let mut secrets: Vec<String> = tokens.map(str::to_owned).collect();
    secrets.push(KEY.to_owned());
    secrets.sort_unstable();
    secrets.dedup();
    assert!(secrets.len() >= 2);
    for text in &told {
        let text = String::from_utf8_lossy(text);
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{secret} in {text}");
        }
    }
    run(&mut case.lab.cinderfs(&["umount".as_ref(), folder.as_os_str()]));
}
