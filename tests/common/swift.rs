//! Real Swifts and Keystones, accounts of theirs for each test, and what a test does in
//! them past the program: containers and objects by plain HTTP.

mod account;
mod client;
mod http;

pub use account::{Account, V1, V3};
pub use client::Client;
pub use http::{Answer, Http};

use super::proxy::Proxy;
use super::server::{Origin, Program, Server};
use serde_json::{Value, json};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

const SWIFT: Program = Program {
    name: "swift",
    origin: Origin::PyPi("2.38.3"),
};
const KEYSTONE: Program = Program {
    name: "keystone",
    origin: Origin::PyPi("30.0.0"),
};

/// How servers are started, where it matters.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How long tokens are good for, in seconds: a day.
    pub token_life: Option<u32>,
    /// The most lines of one page of a listing: 10,000.
    pub listing_limit: Option<u32>,
}

/// A Keystone. `tests/services/keystone/template.py` tells its users.
pub struct Keystone {
    pub server: Server,
    /// How many of its projects for tests are taken.
    projects: AtomicUsize,
}

/// A Swift. `tests/services/swift/serve.py` tells its users.
pub struct Swift {
    pub server: Server,
    /// How many of its accounts for tests are taken.
    accounts: AtomicUsize,
}

/// Both, which know of each other.
pub struct Cloud {
    pub keystone: Keystone,
    pub swift: Swift,
}

impl Keystone {
    /// None when it is not installed and `--quick` leaves it out.
    pub fn start(options: &Options) -> Option<Self> {
        let mut arguments = Vec::new();
        add(&mut arguments, "--token-life", options.token_life);
        Some(Self {
            server: Server::start(KEYSTONE, arguments)?,
            projects: AtomicUsize::new(0),
        })
    }

    /// As in `http://127.0.0.1:5000/v3`.
    pub fn url(&self) -> &str {
        self.server.said("url")
    }

    /// The user `cinder` in a project that no other test has.
    pub fn project(&self) -> Account {
        let number = 1 + self.projects.fetch_add(1, Ordering::Relaxed);
        assert!(number < 20, "template.py makes no more projects");
        self.user("cinder", &format!("test{number}"))
    }

    /// That user of the domain Default, in that project of it.
    pub fn user(&self, user: &str, project: &str) -> Account {
        Account::V3(V3 {
            auth_url: self.url().to_owned(),
            user: user.to_owned(),
            password: format!("{user}pass"),
            project: Some(project.to_owned()),
            domain: "Default".to_owned(),
            region: None,
        })
    }

    /// Puts an address of Swift's into the catalogue, in a region of its own. That of the
    /// account begins with `url`.
    pub fn add_region(&self, region: &str, url: &str) {
        let admin = self.user("admin", "admin");
        let Account::V3(login) = admin else {
            unreachable!()
        };
        let http = Http::new(None);
        let token = login.log_in(&http).0;
        let ask = |method: &str, path: &str, body: Option<Value>| {
            let url = format!("{}{path}", self.url());
            let body = body.map(|body| body.to_string().into_bytes());
            let headers = [
                ("X-Auth-Token", token.as_str()),
                ("Content-Type", "application/json"),
            ];
            let answer = http.send(method, &url, &headers, body.unwrap_or_default());
            assert!(answer.status < 300, "{method} {url}: {answer:?}");
            serde_json::from_slice::<Value>(&answer.body).unwrap()
        };
        let services = ask("GET", "/services?type=object-store", None);
        let service = &services["services"][0]["id"];
        ask(
            "PUT",
            &format!("/regions/{region}"),
            Some(json!({"region": {}})),
        );
        for interface in ["public", "internal", "admin"] {
            let endpoint = json!({
                "interface": interface, "region_id": region, "service_id": service,
                "url": format!("{url}/v1/KS_%(project_id)s"),
            });
            ask("POST", "/endpoints", Some(json!({"endpoint": endpoint})));
        }
    }
}

impl Swift {
    /// None when it is not installed and `--quick` leaves it out.
    pub fn start(options: &Options) -> Option<Self> {
        Self::with(options, None)
    }

    /// The one that all tests of this program share.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Swift>> = OnceLock::new();
        SHARED
            .get_or_init(|| Self::start(&Options::default()))
            .as_ref()
    }

    fn with(options: &Options, keystone: Option<&Keystone>) -> Option<Self> {
        let mut arguments = Vec::new();
        add(&mut arguments, "--token-life", options.token_life);
        add(&mut arguments, "--listing-limit", options.listing_limit);
        if let Some(keystone) = keystone {
            arguments.extend(["--keystone".to_owned(), keystone.url().to_owned()]);
        }
        Some(Self {
            server: Server::start(SWIFT, arguments)?,
            accounts: AtomicUsize::new(0),
        })
    }

    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// As in `http://127.0.0.1:8080/auth/v1.0`.
    pub fn auth_url(&self) -> &str {
        self.server.said("auth_url")
    }

    /// An account that no other test has, as version 1 knows it.
    pub fn account(&self) -> Account {
        let number = 1 + self.accounts.fetch_add(1, Ordering::Relaxed);
        assert!(number < 100, "serve.py makes no more accounts");
        self.user(&format!("test{number}:tester"), "testing")
    }

    /// That user, as in `test:reader`.
    pub fn user(&self, user: &str, key: &str) -> Account {
        Account::V1(V1 {
            auth_url: self.auth_url().to_owned(),
            user: user.to_owned(),
            key: key.to_owned(),
        })
    }
}

impl Cloud {
    /// None when they are not installed and `--quick` leaves them out.
    pub fn start(options: &Options) -> Option<Self> {
        let keystone = Keystone::start(options)?;
        let swift = Swift::with(options, Some(&keystone))?;
        Some(Self { keystone, swift })
    }

    /// The one that all tests of this program share.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Cloud>> = OnceLock::new();
        SHARED
            .get_or_init(|| Self::start(&Options::default()))
            .as_ref()
    }

    /// The same account, by way of a proxy before Swift: in a region of the catalogue.
    pub fn through(&self, account: &Account, proxy: &Proxy) -> Account {
        let Account::V3(login) = account else {
            panic!("{account:?} is not of Keystone");
        };
        let region = format!("by-port-{}", proxy.port());
        self.keystone.add_region(&region, &proxy.url());
        Account::V3(V3 {
            region: Some(region),
            ..login.clone()
        })
    }
}

fn add(arguments: &mut Vec<String>, option: &str, value: Option<u32>) {
    if let Some(value) = value {
        arguments.extend([option.to_owned(), value.to_string()]);
    }
}
