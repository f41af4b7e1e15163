//! Containers and objects, by plain HTTP.

use super::http::{Answer, Http};
use std::path::Path;

/// Somebody who has logged in. Its methods panic when Swift refuses; [`Client::send`] does
/// not.
pub struct Client {
    pub(super) http: Http,
    pub token: String,
    /// As in `http://127.0.0.1:8080/v1/AUTH_test`.
    pub storage_url: String,
}

impl Client {
    /// A request to a path below the account, which is quoted here, with a query that is
    /// not.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        query: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Answer {
        let mark = if query.is_empty() { "" } else { "?" };
        let url = format!("{}{}{mark}{query}", self.storage_url, quoted(path));
        let mut all = vec![("X-Auth-Token", self.token.as_str())];
        all.extend(headers);
        self.http.send(method, &url, &all, body)
    }

    fn must(&self, method: &str, path: &str, query: &str, body: Vec<u8>) -> Answer {
        let answer = self.send(method, path, query, &[], body);
        assert!(answer.status < 300, "{method} {path}: {answer:?}");
        answer
    }

    pub fn put_container(&self, container: &str) {
        self.must("PUT", &format!("/{container}"), "", Vec::new());
    }

    pub fn put(&self, container: &str, name: &str, bytes: &[u8]) {
        self.must("PUT", &format!("/{container}/{name}"), "", bytes.to_vec());
    }

    pub fn get(&self, container: &str, name: &str) -> Vec<u8> {
        self.must("GET", &format!("/{container}/{name}"), "", Vec::new())
            .body
    }

    pub fn delete(&self, container: &str, name: &str) {
        self.must("DELETE", &format!("/{container}/{name}"), "", Vec::new());
    }

    /// Sets headers of a container, as `X-Container-Read`.
    pub fn set(&self, container: &str, headers: &[(&str, &str)]) {
        let path = format!("/{container}");
        let answer = self.send("POST", &path, "", headers, Vec::new());
        assert!(answer.status < 300, "POST {path}: {answer:?}");
    }

    /// What a header of a container says.
    pub fn told(&self, container: &str, header: &str) -> Option<String> {
        let answer = self.must("HEAD", &format!("/{container}"), "", Vec::new());
        answer.header(header).map(str::to_owned)
    }

    /// The names of all containers.
    pub fn containers(&self) -> Vec<String> {
        self.pages("", "")
    }

    /// The names of all objects of a container that begin so.
    pub fn list(&self, container: &str, prefix: &str) -> Vec<String> {
        self.pages(&format!("/{container}"), prefix)
    }

    fn pages(&self, path: &str, prefix: &str) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        loop {
            let marker = names.last().map(|name| quoted(name)).unwrap_or_default();
            let query = format!("prefix={}&marker={marker}", quoted(prefix));
            let page = self.must("GET", path, &query, Vec::new());
            if page.body.is_empty() {
                return names;
            }
            let page = String::from_utf8(page.body).unwrap();
            names.extend(page.lines().map(str::to_owned));
        }
    }

    /// Loads a tree in which each folder at the top is a container, and each file below
    /// it an object named by its path there, slashes and all.
    pub fn load(&self, root: &Path) {
        for container in std::fs::read_dir(root).unwrap() {
            let container = container.unwrap();
            let name = container.file_name().into_string().unwrap();
            self.put_container(&name);
            self.load_folder(&name, &container.path(), "");
        }
    }

    fn load_folder(&self, container: &str, folder: &Path, prefix: &str) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                self.load_folder(container, &entry.path(), &format!("{name}/"));
            } else {
                self.put(container, &name, &std::fs::read(entry.path()).unwrap());
            }
        }
    }
}

impl Client {
    /// The opposite of [`Self::load`]. What vanishes meanwhile is left out.
    pub fn fetch(&self, root: &Path) {
        for container in self.containers() {
            for name in self.list(&container, "") {
                let path = format!("/{container}/{name}");
                let answer = self.send("GET", &path, "", &[], Vec::new());
                if answer.status == 404 {
                    continue;
                }
                assert_eq!(answer.status, 200, "{path}");
                let file = root.join(&container).join(&name);
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(file, answer.body).unwrap();
            }
        }
    }
}

/// All but letters, digits and what Swift takes as it is.
fn quoted(text: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'/')
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'~');
    utf8_percent_encode(text, KEPT).to_string()
}
