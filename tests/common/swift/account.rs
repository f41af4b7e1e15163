//! Accounts: what a configuration says of them, and how one logs in.

use super::super::proxy::Proxy;
use super::client::Client;
use super::http::Http;
use cinderfs::config::{Config, Containers, Driver};
use cinderfs::store::swift::SwiftStore;
use serde_json::{Value, json};

/// Who somebody is, and to whom.
#[derive(Debug, Clone)]
pub enum Account {
    V1(V1),
    V3(V3),
}

/// To Swift itself.
#[derive(Debug, Clone)]
pub struct V1 {
    pub auth_url: String,
    /// `account:user`
    pub user: String,
    pub key: String,
}

/// To Keystone.
#[derive(Debug, Clone)]
pub struct V3 {
    pub auth_url: String,
    pub user: String,
    pub password: String,
    pub project: Option<String>,
    /// Of the user and of the project.
    pub domain: String,
    /// The first without.
    pub region: Option<String>,
}

impl Account {
    /// Lines for a section of Cinder's file.
    pub fn lines(&self) -> String {
        match self {
            Self::V1(login) => format!(
                "backup_swift_auth = single_user\nbackup_swift_auth_version = 1\n\
                 backup_swift_auth_url = {}\nbackup_swift_user = {}\nbackup_swift_key = {}\n",
                login.auth_url, login.user, login.key
            ),
            Self::V3(login) => {
                let mut lines = format!(
                    "backup_swift_auth = single_user\nbackup_swift_auth_version = 3\n\
                     backup_swift_auth_url = {}\nbackup_swift_user = {}\n\
                     backup_swift_key = {}\nbackup_swift_user_domain = {}\n",
                    login.auth_url, login.user, login.password, login.domain
                );
                if let Some(project) = &login.project {
                    lines += &format!(
                        "backup_swift_project = {project}\nbackup_swift_project_domain = {}\n",
                        login.domain
                    );
                }
                if let Some(region) = &login.region {
                    lines += &format!("backup_swift_region_name = {region}\n");
                }
                lines
            }
        }
    }

    /// The program's own store over it, with all of its containers.
    pub fn store(&self) -> SwiftStore {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cinderfs.conf");
        let driver = "backup_driver = cinder.backup.drivers.swift.SwiftBackupDriver";
        let text = format!("[DEFAULT]\n{driver}\n{}", self.lines());
        std::fs::write(&file, text).unwrap();
        let config = Config::load(&file).unwrap();
        let Driver::Swift(options) = &config.backends[0].driver else {
            panic!("{config:?}");
        };
        let mut options = options.clone();
        options.containers = Containers::All;
        SwiftStore::new(&options).unwrap()
    }

    /// The same account, by way of a proxy where one logs in. Version 1 then gives an
    /// address of the account by way of it, too.
    pub fn by_way_of(&self, proxy: &Proxy) -> Self {
        let through = |url: &str| {
            let path = url.splitn(4, '/').nth(3).unwrap();
            format!("{}/{path}", proxy.url())
        };
        match self {
            Self::V1(login) => Self::V1(V1 {
                auth_url: through(&login.auth_url),
                ..login.clone()
            }),
            Self::V3(login) => Self::V3(V3 {
                auth_url: through(&login.auth_url),
                ..login.clone()
            }),
        }
    }

    /// The same account, for its user who may do only what containers allow.
    pub fn reader(&self) -> Self {
        let Self::V1(login) = self else {
            panic!("{self:?} has no such user");
        };
        let account = login.user.split(':').next().unwrap();
        Self::V1(V1 {
            user: format!("{account}:reader"),
            key: "reading".to_owned(),
            auth_url: login.auth_url.clone(),
        })
    }

    /// Logs in.
    pub fn client(&self) -> Client {
        let http = Http::new(None);
        let (token, storage_url) = match self {
            Self::V1(login) => login.log_in(&http),
            Self::V3(login) => login.log_in(&http),
        };
        Client {
            http,
            token,
            storage_url,
        }
    }
}

impl V1 {
    /// A token, and the address of the account.
    pub(super) fn log_in(&self, http: &Http) -> (String, String) {
        let headers = [("X-Auth-User", &*self.user), ("X-Auth-Key", &*self.key)];
        let answer = http.send("GET", &self.auth_url, &headers, Vec::new());
        assert_eq!(answer.status, 200, "{self:?}: {answer:?}");
        (
            answer.header("x-auth-token").unwrap().to_owned(),
            answer.header("x-storage-url").unwrap().to_owned(),
        )
    }
}

impl V3 {
    /// A token, and the address of the account, which is empty when there is none.
    pub(super) fn log_in(&self, http: &Http) -> (String, String) {
        let domain = json!({"name": self.domain});
        let user = json!({"name": self.user, "password": self.password, "domain": domain});
        let mut auth = json!({"identity": {"methods": ["password"], "password": {"user": user}}});
        if let Some(project) = &self.project {
            auth["scope"] = json!({"project": {"name": project, "domain": domain}});
        }
        let url = format!("{}/auth/tokens", self.auth_url);
        let headers = [("Content-Type", "application/json")];
        let body = json!({ "auth": auth }).to_string().into_bytes();
        let answer = http.send("POST", &url, &headers, body);
        assert_eq!(answer.status, 201, "{self:?}: {answer:?}");
        let said: Value = serde_json::from_slice(&answer.body).unwrap();
        let mut storage_url = String::new();
        for service in said["token"]["catalog"].as_array().into_iter().flatten() {
            for endpoint in service["endpoints"].as_array().unwrap() {
                let region = endpoint["region_id"].as_str();
                let wanted = self.region.as_deref().unwrap_or("RegionOne");
                if service["type"] == "object-store" && region == Some(wanted) {
                    storage_url = endpoint["url"].as_str().unwrap().to_owned();
                }
            }
        }
        let token = answer.header("x-subject-token").unwrap().to_owned();
        (token, storage_url)
    }
}
