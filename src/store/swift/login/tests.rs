//! Answers of servers, as they come from a real Swift and a real Keystone.

use super::*;
use crate::config::{Credential, Domain, Endpoint, Identity, Named};
use serde_json::json;

const AUTH_URL: &str = "http://keystone.example:5000/v3";

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &str)| {
        (name.parse().unwrap(), HeaderValue::from_str(value).unwrap())
    };
    pairs.iter().map(pair).collect()
}

fn message(failure: Result<Session, Failure>) -> String {
    let failure = failure.unwrap_err();
    assert_eq!(failure.again, Again::Never);
    assert_eq!(failure.error.kind(), Kind::Unavailable);
    failure.error.to_string()
}

fn endpoint(region: Option<&str>, interface: Option<&str>) -> Endpoint {
    Endpoint {
        region: region.map(str::to_owned),
        interface: interface.map(str::to_owned),
        ..Endpoint::default()
    }
}

fn v3_answer() -> serde_json::Value {
    let swift = |interface: &str, region: &str| {
        json!({
            "id": "fd1c", "interface": interface, "region": region, "region_id": region,
            "url": format!("http://{interface}.{region}.example:8080/v1/KS_9f2a"),
        })
    };
    json!({"token": {
        "methods": ["password"],
        "user": {"domain": {"id": "default", "name": "Default"}, "id": "0a1b", "name": "cinder",
                 "password_expires_at": null},
        "audit_ids": ["WLKJ"],
        "expires_at": "2026-11-21T10:20:33.000000Z",
        "issued_at": "2026-11-21T09:20:33.000000Z",
        "project": {"domain": {"id": "default", "name": "Default"}, "id": "9f2a",
                    "name": "service"},
        "is_domain": false,
        "roles": [{"id": "1", "name": "member"}],
        "catalog": [
            {"id": "1", "type": "identity", "name": "keystone", "endpoints": [
                {"id": "2", "interface": "public", "region": "east", "region_id": "east",
                 "url": AUTH_URL}]},
            {"id": "3", "type": "object-store", "name": "swift", "endpoints": [
                swift("internal", "east"), swift("admin", "east"), swift("public", "east"),
                swift("public", "west")]},
        ],
    }})
}

fn v3(answer: &serde_json::Value, endpoint: &Endpoint) -> Result<Session, Failure> {
    let token = HeaderValue::from_static("gAAAAABn");
    let body = serde_json::to_vec(answer).unwrap();
    keystone::of_v3(Some(&token), &body, AUTH_URL, endpoint, Instant::now())
}

#[test]
fn swifts_own_answer() {
    let began = Instant::now();
    let mut pairs = vec![
        ("x-storage-url", "http://127.0.0.1:8080/v1/AUTH_test"),
        ("x-auth-token", "AUTH_tk1"),
        ("x-auth-token-expires", "86400"),
    ];
    let session = of_v1(&headers(&pairs), "http://s/auth/v1.0", began).unwrap();
    assert_eq!(session.token.expose(), "AUTH_tk1");
    assert_eq!(
        session.storage_url.as_str(),
        "http://127.0.0.1:8080/v1/AUTH_test"
    );
    assert_eq!(session.renew_at, Some(began + Duration::from_secs(86340)));
    assert!(!format!("{session:?}").contains("AUTH_tk1"));

    pairs.pop();
    pairs.push(("x-storage-token", "AUTH_tk2"));
    let session = of_v1(&headers(&pairs), "http://s/auth/v1.0", began).unwrap();
    assert_eq!(session.token.expose(), "AUTH_tk2");
    assert_eq!(session.renew_at, None);

    let of = |pairs: &[(&'static str, &str)]| {
        message(of_v1(&headers(pairs), "http://s/auth/v1.0", began))
    };
    let token = ("x-auth-token", "AUTH_tk1");
    assert!(of(&[token]).contains("X-Storage-Url"));
    assert!(of(&[("x-storage-url", "http://s/v1/AUTH_a")]).contains("no token"));
    for url in ["/v1/AUTH_test", "s:8080/v1/AUTH_test", "ftp://s/v1", ""] {
        let message = of(&[token, ("x-storage-url", url)]);
        assert!(message.contains("address of the account"), "{message}");
        assert!(!message.contains("AUTH_tk1"), "{message}");
    }
}

#[test]
fn keystones_answer() {
    let began = Instant::now();
    let session = v3(&v3_answer(), &Endpoint::default()).unwrap();
    assert_eq!(session.token.expose(), "gAAAAABn");
    assert_eq!(
        session.storage_url.as_str(),
        "http://public.east.example:8080/v1/KS_9f2a"
    );
    let renew_in = session.renew_at.unwrap().duration_since(began).as_secs();
    assert_eq!(renew_in, 3540);
    for (region, interface, host) in [
        (Some("west"), None, "public.west"),
        (Some("east"), Some("internal"), "internal.east"),
        (None, Some("admin"), "admin.east"),
    ] {
        let session = v3(&v3_answer(), &endpoint(region, interface)).unwrap();
        let host = format!("{host}.example");
        assert_eq!(session.storage_url.host_str(), Some(host.as_str()));
    }
    let elsewhere = Endpoint {
        storage_url: Some("http://elsewhere/v1/AUTH_x".into()),
        ..Endpoint::default()
    };
    let session = v3(&v3_answer(), &elsewhere).unwrap();
    assert_eq!(session.storage_url.as_str(), "http://elsewhere/v1/AUTH_x");
}

#[test]
fn what_keystone_does_not_have_is_named() {
    let told = message(v3(&v3_answer(), &endpoint(Some("north"), None)));
    assert!(told.contains("region \"north\""), "{told}");
    assert!(
        told.contains("backup_swift_region_name to one of: east, west"),
        "{told}"
    );
    let told = message(v3(&v3_answer(), &endpoint(Some("west"), Some("internal"))));
    assert!(told.contains("one of: east"), "{told}");

    let other = Endpoint {
        service_type: Some("object".into()),
        ..Endpoint::default()
    };
    let told = message(v3(&v3_answer(), &other));
    assert!(
        told.contains("no service of the type object (it has: identity, object-store)"),
        "{told}"
    );

    let mut only_internal = v3_answer();
    only_internal["token"]["catalog"][1]["endpoints"]
        .as_array_mut()
        .unwrap()
        .truncate(2);
    let told = message(v3(&only_internal, &Endpoint::default()));
    assert!(
        told.contains("no public endpoint of object-store (it has: admin, internal)"),
        "{told}"
    );

    let mut unscoped = v3_answer();
    let token = unscoped["token"].as_object_mut().unwrap();
    token.remove("project");
    token.remove("catalog");
    let told = message(v3(&unscoped, &Endpoint::default()));
    assert!(told.contains("set backup_swift_project"), "{told}");

    let began = Instant::now();
    let body = serde_json::to_vec(&v3_answer()).unwrap();
    let told = message(keystone::of_v3(
        None,
        &body,
        AUTH_URL,
        &Endpoint::default(),
        began,
    ));
    assert!(told.contains("no token"), "{told}");
    for body in [
        &b"<html>hunter2</html>"[..],
        b"{}",
        b"",
        b"{\"token\": \"hunter2\"}",
    ] {
        let token = HeaderValue::from_static("t");
        let endpoint = Endpoint::default();
        let told = message(keystone::of_v3(
            Some(&token),
            body,
            AUTH_URL,
            &endpoint,
            began,
        ));
        assert!(told.contains("not that of Keystone"), "{told}");
        assert!(!told.contains("hunter2"), "{told}");
    }
}

#[test]
fn the_answer_of_version_2() {
    let began = Instant::now();
    let answer = json!({"access": {
        "token": {"id": "aaaa-bbbb", "issued_at": "2014-01-30T15:30:54.819584",
                  "expires": "2014-01-31T15:30:58Z",
                  "tenant": {"id": "fc39", "name": "demo", "enabled": true}},
        "serviceCatalog": [
            {"type": "volume", "name": "cinder", "endpoints": []},
            {"type": "object-store", "name": "swift", "endpoints_links": [], "endpoints": [
                {"region": "RegionOne", "id": "1", "publicURL": "http://s:8080/v1/AUTH_fc39",
                 "internalURL": "http://i:8080/v1/AUTH_fc39", "adminURL": "http://a:8080/"}]},
        ],
        "user": {"username": "demo", "roles": [], "id": "9a63"},
    }});
    let body = serde_json::to_vec(&answer).unwrap();
    let session = keystone::of_v2(
        &body,
        "http://k/v2.0",
        &endpoint(None, Some("internal")),
        began,
    )
    .unwrap();
    assert_eq!(session.token.expose(), "aaaa-bbbb");
    assert_eq!(session.storage_url.as_str(), "http://i:8080/v1/AUTH_fc39");
    // That time of issue says no zone: the life is not known, then.
    assert_eq!(session.renew_at, None);
}

#[test]
fn requests_are_as_keystone_wants_them() {
    let secret = Secret::new("hunter2");
    let user = Named::Name("cinder".into(), Domain::Name("people".into()));
    let project = Named::Name("service".into(), Domain::Id("default".into()));
    let password = Identity::Password {
        user: user.clone(),
        password: secret.clone(),
    };
    assert_eq!(
        keystone::v3_request(&password, Some(&project)),
        json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {
                "name": "cinder", "domain": {"name": "people"}, "password": "hunter2"}}},
            "scope": {"project": {"name": "service", "domain": {"id": "default"}}},
        }})
    );
    let by_id = Identity::ApplicationCredential {
        credential: Credential::Id("a1".into()),
        secret: secret.clone(),
    };
    assert_eq!(
        keystone::v3_request(&by_id, None),
        json!({"auth": {"identity": {
            "methods": ["application_credential"],
            "application_credential": {"id": "a1", "secret": "hunter2"},
        }}})
    );
    let by_name = Identity::ApplicationCredential {
        credential: Credential::Name("mounts".into(), user),
        secret: secret.clone(),
    };
    assert_eq!(
        keystone::v3_request(&by_name, None)["auth"]["identity"]["application_credential"],
        json!({"name": "mounts", "secret": "hunter2",
               "user": {"name": "cinder", "domain": {"name": "people"}}})
    );
    let v2 = keystone::V2Request::new("demo", &secret, Some("service"));
    assert_eq!(
        serde_json::to_value(v2).unwrap(),
        json!({"auth": {"tenantName": "service",
                        "passwordCredentials": {"username": "demo", "password": "hunter2"}}})
    );
    for (auth_url, expected) in [
        ("http://k:5000", "http://k:5000/v3/auth/tokens"),
        ("http://k/identity/", "http://k/identity/v3/auth/tokens"),
        ("http://k/v3", "http://k/v3/auth/tokens"),
        ("http://k/v3/", "http://k/v3/auth/tokens"),
    ] {
        assert_eq!(keystone::address(auth_url, "v3", "auth/tokens"), expected);
    }
}

#[test]
fn tokens_are_renewed_a_while_before_their_end() {
    let began = Instant::now();
    for (life, wait) in [
        (4000, 3000),
        (100_000, 75_000),
        (240_000, 180_000),
        (3_600_000, 3_540_000),
    ] {
        let at = renew_at(began, Some(Duration::from_millis(life)));
        assert_eq!(at, Some(began + Duration::from_millis(wait)));
    }
    assert_eq!(renew_at(began, None), None);
    assert_eq!(renew_at(began, Some(Duration::ZERO)), None);
    assert_eq!(renew_at(began, Some(Duration::MAX)), None);
}

#[test]
fn a_login_that_is_refused_says_why() {
    let refuse = |status: u16| {
        let answer = Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: BytesMut::new(),
        };
        refused("http://s/auth/v1.0", &answer, "wrong user or key", "see it")
    };
    let failure = refuse(401);
    assert_eq!(failure.error.kind(), Kind::Denied);
    assert_eq!(
        failure.error.to_string(),
        "cannot log in to http://s/auth/v1.0: wrong user or key (401 Unauthorized); see it"
    );
    assert_eq!(refuse(403).error.kind(), Kind::Denied);
    for status in [500, 502, 503, 504, 429, 408] {
        assert_eq!(refuse(status).again, Again::Backoff);
        assert_eq!(refuse(status).error.kind(), Kind::Unavailable);
    }
    // None of these says anything of an object.
    for status in [300, 301, 400, 404, 405, 410, 413, 501, 507] {
        let failure = refuse(status);
        assert_eq!(failure.again, Again::Never);
        assert_eq!(failure.error.kind(), Kind::Unavailable);
        let told = failure.error.to_string();
        assert!(told.contains("backup_swift_auth_url"), "{told}");
    }
}
