//! Who we are to Swift: of a file, of the environment, and of both.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::swift::swift_in;
use crate::config::ini::Document;
use crate::config::{Credential, Domain, Endpoint, Identity, Login, Named, options};
use crate::error::Kind;
use crate::secret::Secret;

const SECRET: &str = "hunter2";

/// An administrator's `openrc`.
const OPENRC: &[(&str, &str)] = &[
    ("OS_AUTH_URL", "https://keystone.env:5000"),
    ("OS_USERNAME", "ada"),
    ("OS_PASSWORD", SECRET),
    ("OS_PROJECT_NAME", "demo"),
    ("OS_USER_DOMAIN_NAME", "people"),
    ("OS_PROJECT_DOMAIN_ID", "d0"),
    ("OS_REGION_NAME", "east"),
    ("OS_INTERFACE", "internal"),
    ("OS_IDENTITY_API_VERSION", "3"),
];

fn login_in(lines: &str, variables: &[(&str, &str)]) -> Login {
    let text = format!("[x]\nbackup_driver = swift\n{lines}\n");
    let swift = swift_in(&text, variables);
    swift
        .unwrap_or_else(|error| panic!("{lines}\n{error}"))
        .login
}

/// The message for what must be refused; the secret is never part of it.
fn refuse_in(lines: &str, variables: &[(&str, &str)]) -> String {
    let text = format!("[x]\nbackup_driver = swift\n{lines}\n");
    let error = swift_in(&text, variables).expect_err(lines);
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    let message = error.to_string();
    assert!(!message.contains("hunter"), "{message}");
    message
}

fn secret() -> Secret {
    Secret::new(SECRET)
}

fn name(name: &str, domain: &str) -> Named {
    Named::Name(name.into(), Domain::Name(domain.into()))
}

fn name_in_default(name: &str) -> Named {
    Named::Name(name.into(), Domain::Id("default".into()))
}

fn public() -> Endpoint {
    Endpoint {
        service_type: Some("object-store".into()),
        region: None,
        interface: Some("public".into()),
        storage_url: None,
    }
}

const V1: &str = "backup_swift_auth = single_user\n\
    backup_swift_auth_url = http://swift.example:8080/auth/v1.0/\n\
    backup_swift_user = test:tester\nbackup_swift_key = hunter2\n";

const V3: &str = "backup_swift_auth = single_user\nbackup_swift_auth_version = 3\n\
    backup_swift_auth_url = https://keystone.example:5000/v3\n\
    backup_swift_user = cinder\nbackup_swift_key = hunter2\n";

#[test]
fn each_version_has_its_login() {
    let v1 = Login::V1 {
        auth_url: "http://swift.example:8080/auth/v1.0".into(),
        user: "test:tester".into(),
        key: secret(),
    };
    assert_eq!(login_in(V1, &[]), v1);
    // The user alone says that there is a single one; and an openrc changes nothing.
    let without = V1.replace("backup_swift_auth = single_user\n", "");
    assert_eq!(login_in(&without, OPENRC), v1);
    assert_eq!(
        login_in(&format!("{V1}backup_swift_auth_version = 1.0"), &[]),
        v1
    );

    for (lines, user, tenant) in [
        (
            "backup_swift_user = cinder\nbackup_swift_tenant = service",
            "cinder",
            "service",
        ),
        (
            "backup_swift_user = cinder\nbackup_swift_project = service",
            "cinder",
            "service",
        ),
        ("backup_swift_user = service:cinder", "cinder", "service"),
    ] {
        let lines = format!(
            "backup_swift_auth = single_user\nbackup_swift_auth_version = 2.0\n\
             backup_swift_auth_url = http://k/v2.0\nbackup_swift_key = hunter2\n{lines}"
        );
        let v2 = Login::V2 {
            auth_url: "http://k/v2.0".into(),
            user: user.into(),
            password: secret(),
            tenant: Some(tenant.into()),
            endpoint: public(),
        };
        assert_eq!(login_in(&lines, &[]), v2, "{lines}");
    }

    let lines = format!(
        "{V3}backup_swift_user_domain = people\nbackup_swift_project = service\n\
         backup_swift_project_domain = things\nbackup_swift_region_name = west\n\
         swift_catalog_info = s3ish:swift:internalURL"
    );
    let v3 = Login::V3 {
        auth_url: "https://keystone.example:5000/v3".into(),
        identity: Identity::Password {
            user: name("cinder", "people"),
            password: secret(),
        },
        project: Some(name("service", "things")),
        endpoint: Endpoint {
            service_type: Some("s3ish".into()),
            region: Some("west".into()),
            interface: Some("internal".into()),
            storage_url: None,
        },
    };
    // What the file says, no variable changes.
    let mut variables = OPENRC.to_vec();
    variables.extend([
        ("OS_USER_ID", "u1"),
        ("OS_PROJECT_ID", "p1"),
        ("OS_STORAGE_URL", "http://elsewhere/v1/AUTH_x"),
        ("OS_AUTH_TOKEN", "t"),
        ("OS_AUTH_TYPE", "v3applicationcredential"),
        ("OS_APPLICATION_CREDENTIAL_ID", "a1"),
        ("OS_APPLICATION_CREDENTIAL_SECRET", "s"),
    ]);
    assert_eq!(login_in(&lines, &[]), v3);
    assert_eq!(login_in(&lines, &variables), v3);
}

#[test]
fn what_is_not_told_is_as_with_cinder() {
    let Login::V3 {
        identity, project, ..
    } = login_in(&format!("{V3}backup_swift_tenant = service"), &[])
    else {
        panic!();
    };
    let Identity::Password { user, .. } = identity else {
        panic!();
    };
    assert_eq!(user, name_in_default("cinder"));
    assert_eq!(project, Some(name_in_default("service")));
    // The end of the address tells what nobody else does.
    let text = V3.replace("backup_swift_auth_version = 3\n", "");
    let login = login_in(&text, &[]);
    assert!(
        matches!(login, Login::V3 { project: None, .. }),
        "{login:?}"
    );
    let text = text.replace("/v3", "");
    assert!(matches!(login_in(&text, &[]), Login::V1 { .. }));
    // A version in the environment is that of the address there.
    assert!(matches!(login_in(&text, OPENRC), Login::V1 { .. }));
}

#[test]
fn the_environment_fills_in() {
    let endpoint = Endpoint {
        service_type: Some("object-store".into()),
        region: Some("east".into()),
        interface: Some("internal".into()),
        storage_url: None,
    };
    let mut expected = Login::V3 {
        auth_url: "https://keystone.env:5000".into(),
        identity: Identity::Password {
            user: name("ada", "people"),
            password: secret(),
        },
        project: Some(Named::Name("demo".into(), Domain::Id("d0".into()))),
        endpoint: endpoint.clone(),
    };
    assert_eq!(login_in("", OPENRC), expected);
    assert_eq!(
        login_in("backup_swift_auth = single_user", OPENRC),
        expected
    );

    let mut variables = OPENRC.to_vec();
    variables.extend([
        ("OS_USER_ID", "u1"),
        ("OS_PROJECT_ID", "p1"),
        ("OS_STORAGE_URL", "http://s/v1/AUTH_p1"),
    ]);
    let Login::V3 {
        identity,
        project,
        endpoint,
        ..
    } = &mut expected
    else {
        panic!();
    };
    *identity = Identity::Password {
        user: Named::Id("u1".into()),
        password: secret(),
    };
    *project = Some(Named::Id("p1".into()));
    endpoint.storage_url = Some("http://s/v1/AUTH_p1".into());
    assert_eq!(login_in("", &variables), expected);

    // A password need not stand in the file.
    let text = V3.replace("backup_swift_key = hunter2\n", "");
    let login = login_in(&text, &[("OS_PASSWORD", SECRET)]);
    assert!(matches!(
        login,
        Login::V3 { identity: Identity::Password { password, .. }, .. } if password == secret()
    ));

    let v1 = [
        ("ST_AUTH", "http://swift/auth/v1.0"),
        ("ST_USER", "test:tester"),
        ("ST_KEY", SECRET),
    ];
    let expected = Login::V1 {
        auth_url: "http://swift/auth/v1.0".into(),
        user: "test:tester".into(),
        key: secret(),
    };
    assert_eq!(login_in("", &v1), expected);
}

#[test]
fn application_credentials() {
    let expected = |credential| Login::V3 {
        auth_url: "https://k:5000".into(),
        identity: Identity::ApplicationCredential {
            credential,
            secret: secret(),
        },
        project: None,
        endpoint: public(),
    };
    let url = "backup_swift_auth_url = https://k:5000\n";
    let by_id = format!(
        "{url}backup_swift_application_credential_id = a1\n\
         backup_swift_application_credential_secret = hunter2\n"
    );
    let id = || expected(Credential::Id("a1".into()));
    assert_eq!(login_in(&by_id, &[]), id());
    // They stand beside what Cinder itself logs in with.
    let cinders = "backup_swift_auth = single_user\nbackup_swift_user = cinder\n\
                   backup_swift_key = k\nbackup_swift_project = service\n";
    assert_eq!(login_in(&format!("{by_id}{cinders}"), &[]), id());
    assert_eq!(
        login_in(&format!("{by_id}backup_swift_auth = per_user"), &[]),
        id()
    );
    let by_name = format!(
        "{url}backup_swift_application_credential_name = mounts\n\
         backup_swift_application_credential_secret = hunter2\n\
         backup_swift_user = ada\nbackup_swift_user_domain = people"
    );
    let credential = Credential::Name("mounts".into(), name("ada", "people"));
    assert_eq!(login_in(&by_name, &[]), expected(credential));

    for auth_type in [&[][..], &[("OS_AUTH_TYPE", "v3applicationcredential")]] {
        let mut variables = vec![
            ("OS_AUTH_URL", "https://k:5000"),
            ("OS_APPLICATION_CREDENTIAL_ID", "a1"),
            ("OS_APPLICATION_CREDENTIAL_SECRET", SECRET),
        ];
        variables.extend(auth_type);
        assert_eq!(login_in("", &variables), id());
    }

    let message = refuse_in(&format!("{by_id}backup_swift_auth_version = 2"), &[]);
    assert!(message.contains("need version 3"), "{message}");
    let message = refuse_in(
        &format!("{url}backup_swift_application_credential_secret = hunter2"),
        &[],
    );
    assert!(
        message.contains("backup_swift_application_credential_id: it is not set"),
        "{message}"
    );
    let message = refuse_in(
        &format!("{url}backup_swift_application_credential_id = a1"),
        &[],
    );
    assert!(
        message.contains("backup_swift_application_credential_secret: it is not set"),
        "{message}"
    );
}

#[test]
fn a_token_that_somebody_has() {
    let token = |storage_url: &str| Login::Token {
        storage_url: storage_url.into(),
        token: secret(),
    };
    let given = ("OS_AUTH_TOKEN", SECRET);
    let whole = ("OS_STORAGE_URL", "http://s/v1/AUTH_p1/");
    for (lines, variables, storage_url) in [
        ("", vec![given, whole], "http://s/v1/AUTH_p1"),
        (
            "backup_swift_auth = per_user",
            vec![given, whole],
            "http://s/v1/AUTH_p1",
        ),
        (
            "backup_swift_url = http://s/v1/AUTH_",
            vec![("OS_TOKEN", SECRET), ("OS_PROJECT_ID", "p1")],
            "http://s/v1/AUTH_p1",
        ),
        (
            "backup_swift_url = http://s/v1/",
            vec![given, ("OS_PROJECT_ID", "p1")],
            "http://s/v1/p1",
        ),
        (
            "backup_swift_url = http://s/v1/AUTH_",
            vec![given, whole],
            "http://s/v1/AUTH_p1",
        ),
        (
            "backup_swift_url = http://s/v1/AUTH_p2",
            vec![given, ("OS_PROJECT_ID", "p1"), whole],
            "http://s/v1/AUTH_p2",
        ),
        (
            "",
            {
                let mut variables = OPENRC.to_vec();
                variables.extend([("OS_AUTH_TYPE", "token"), given, whole]);
                variables
            },
            "http://s/v1/AUTH_p1",
        ),
    ] {
        assert_eq!(login_in(lines, &variables), token(storage_url), "{lines}");
    }

    for (lines, variables, parts) in [
        (
            "",
            vec![],
            &["[x] backup_swift_auth: ", "single_user", "OS_AUTH_TOKEN"][..],
        ),
        (
            "backup_swift_auth = per_user",
            OPENRC.to_vec(),
            &["nobody has logged in", "single_user"],
        ),
        (
            "",
            vec![given],
            &["[x] backup_swift_url: it is not set", "OS_STORAGE_URL"],
        ),
        (
            "backup_swift_url = http://s/v1/AUTH_",
            vec![given],
            &["cinder.conf:3, [x] backup_swift_url", "OS_PROJECT_ID"],
        ),
        (
            "backup_swift_url = http://s/v1/AUTH_",
            vec![given, ("OS_PROJECT_ID", "../x")],
            &["OS_PROJECT_ID: it is not the id"],
        ),
        (
            "backup_swift_url = http://ada:hunter2@s/v1",
            vec![given],
            &["\"@\""],
        ),
        (
            "backup_swift_url = s/v1",
            vec![given],
            &["is not an address"],
        ),
        (
            "backup_swift_url = ftp://s/v1",
            vec![given],
            &["http or https"],
        ),
    ] {
        let message = refuse_in(lines, &variables);
        for part in parts {
            assert!(message.contains(part), "{lines}: {message}");
        }
    }
}

#[test]
fn a_token_in_a_file_is_only_for_its_owner() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let lines = format!(
        "backup_swift_token_file = {}\nbackup_swift_url = http://s/v1/AUTH_a",
        path.display()
    );
    assert!(refuse_in(&lines, &[]).contains("cannot be read: No such file"));
    let write = |text: &str, mode| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    };
    write("hunter2\n", 0o600);
    let expected = Login::Token {
        storage_url: "http://s/v1/AUTH_a".into(),
        token: secret(),
    };
    assert_eq!(login_in(&lines, &[]), expected);
    // Whatever else somebody could log in with.
    assert_eq!(login_in(&lines, OPENRC), expected);
    for mode in [0o640, 0o604, 0o660] {
        write("hunter2\n", mode);
        let message = refuse_in(&lines, &[]);
        assert!(message.contains("others than its owner"), "{message}");
        assert!(message.contains("chmod 600"), "{message}");
    }
    for text in ["", "\n", "hunter2 hunter3\n", "hunter2\nhunter3"] {
        write(text, 0o400);
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let message = refuse_in(&lines, &[]);
        assert!(message.contains("does not hold a token"), "{message}");
    }
    let folder_lines = lines.replace("/token", "");
    assert!(refuse_in(&folder_lines, &[]).contains("is not a file"));
    write("hunter2\n", 0o600);
    for other in [
        "backup_swift_auth = single_user",
        "backup_swift_application_credential_id = a",
    ] {
        let message = refuse_in(&format!("{lines}\n{other}"), &[]);
        assert!(
            message.contains("cinder.conf:3, [x] backup_swift_token_file"),
            "{message}"
        );
        assert!(
            message.contains(other.split(' ').next().unwrap()),
            "{message}"
        );
    }
}

#[test]
fn what_is_missing_or_contradicts_itself_is_named() {
    let single = "backup_swift_auth = single_user\n";
    for (lines, parts) in [
        (
            "backup_swift_auth = both".to_owned(),
            &["cinder.conf:3, [x] backup_swift_auth: \"both\"", "per_user"][..],
        ),
        (
            single.to_owned(),
            &["[x] backup_swift_auth_url: it is not set", "https://"],
        ),
        (
            format!("{single}backup_swift_auth_url = http://s/auth/v1.0"),
            &["[x] backup_swift_user: it is not set", "ST_USER"],
        ),
        (
            format!("{single}backup_swift_auth_url = http://k/v3"),
            &["[x] backup_swift_user: it is not set", "OS_USERNAME"],
        ),
        (
            V1.replace("backup_swift_key = hunter2\n", ""),
            &["[x] backup_swift_key: it is not set", "ST_KEY"],
        ),
        (
            V3.replace("backup_swift_key = hunter2\n", ""),
            &["[x] backup_swift_key: it is not set", "OS_PASSWORD"],
        ),
        (
            V3.replace("version = 3", "version = 2").replace("/v3", ""),
            &["[x] backup_swift_tenant: it is not set"],
        ),
        (
            V3.replace("version = 3", "version = 1"),
            &[
                "backup_swift_auth_version: it is not the version of the address",
                "/v3",
            ],
        ),
        (
            V3.replace("version = 3", "version = 4"),
            &["\"4\" is no version"],
        ),
        (
            format!("{V3}swift_catalog_info = object-store:publicURL"),
            &["TYPE:NAME:INTERFACE", "internalURL"],
        ),
        (
            format!("{V3}swift_catalog_info = object-store:swift:secretURL"),
            &["\"secretURL\" is no interface"],
        ),
        (
            V3.replace("https://keystone", "keystone"),
            &["backup_swift_auth_url: ", "http or https"],
        ),
    ] {
        let message = refuse_in(&lines, &[]);
        for part in parts {
            assert!(message.contains(part), "{lines}: {message}");
        }
    }
}

#[test]
fn secrets_are_in_no_error() {
    for key in [
        "hunter2\n  more",
        "hunter2$hunter3",
        "${hunter2}",
        "$backup_swift_key hunter2",
        "$other.hunter",
    ] {
        let lines = V1.replace("key = hunter2", &format!("key = {key}"));
        let message = refuse_in(&lines, &[]);
        assert!(message.contains("[x] backup_swift_key: "), "{message}");
    }
    let lines = V1.replace("key = hunter2", "key = $$hunter2$");
    let Login::V1 { key, .. } = login_in(&lines, &[]) else {
        panic!();
    };
    assert_eq!(key.expose(), "$hunter2$");
    // Nor do they get into what is no secret.
    let lines = format!("{V1}backup_swift_container = a/$backup_swift_key\n");
    let message = refuse_in(&lines, &[]);
    assert!(message.contains("which is secret"), "{message}");
    let lines = format!("{V1}a = $backup_swift_key\nbackup_swift_container = $x.a\n");
    assert!(swift_in(&format!("[x]\nbackup_driver = swift\n{lines}"), &[]).is_err());
    let message = refuse_in(V3, &[("OS_REGION_NAME", "a\nb")]);
    assert!(message.contains("OS_REGION_NAME"), "{message}");
    let text = V3.replace("backup_swift_key = hunter2\n", "");
    let message = refuse_in(&text, &[("OS_PASSWORD", "hunter2\nhunter3")]);
    assert!(message.contains("OS_PASSWORD"), "{message}");
    let shown = format!("{:?}", login_in(V1, &[]));
    assert!(!shown.contains(SECRET), "{shown}");
}

#[test]
fn a_file_that_others_may_read_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cinder.conf");
    let warning = |text: &str, mode| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let warning = Document::read(&path).unwrap().exposed(options::SECRET);
        assert!(!warning.as_ref().is_some_and(|it| it.contains("hunter")));
        warning
    };
    let text = format!("[x]\nbackup_driver = swift\n{V1}");
    for (mode, who) in [
        (0o640, "its group"),
        (0o644, "everybody"),
        (0o660, "its group"),
    ] {
        let warning = warning(&text, mode).unwrap();
        let place = format!("{}:6: backup_swift_key", path.display());
        assert!(warning.contains(&place), "{warning}");
        assert!(warning.contains(who), "{warning}");
    }
    assert_eq!(warning(&text, 0o600), None);
    assert_eq!(warning("[x]\nbackup_driver = posix\n", 0o644), None);
    let parsed = Document::parse(Path::new("x"), &text).unwrap();
    assert_eq!(parsed.exposed(options::SECRET), None);
    assert!(!format!("{parsed:?}").contains(SECRET));
}
