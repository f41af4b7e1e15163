//! Requests and answers.

use std::path::Path;
use tokio::runtime::Runtime;

/// What a server said.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header, whose name is in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Requests that block, wherever they come from.
pub struct Http {
    runtime: Option<Runtime>,
    client: reqwest::Client,
}

impl Http {
    /// Trusts the certificates in that file only.
    pub fn new(certificates: Option<&Path>) -> Self {
        // Fails when there is one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let pem = certificates.map(|file| std::fs::read(file).unwrap());
        let trusted = pem.map(|pem| reqwest::Certificate::from_pem_bundle(&pem).unwrap());
        let client = reqwest::Client::builder()
            .tls_certs_only(trusted.unwrap_or_default())
            .no_proxy()
            .build()
            .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        Self {
            runtime: Some(runtime.unwrap()),
            client,
        }
    }

    pub fn send(&self, method: &str, url: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        let answer = self.try_send(method, url, headers, body);
        answer.unwrap_or_else(|e| panic!("{method} {url}: {e:?}"))
    }

    /// The same where no answer is expected.
    pub fn try_send(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> reqwest::Result<Answer> {
        let mut request = self.client.request(method.parse().unwrap(), url);
        if body.is_empty() && matches!(method, "PUT" | "POST") {
            // Swift insists on being told.
            request = request.header("Content-Length", "0");
        }
        request = request.body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = async {
            let answer = request.send().await?;
            let headers = answer.headers().iter().map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                (name.as_str().to_owned(), value)
            });
            Ok(Answer {
                status: answer.status().as_u16(),
                headers: headers.collect(),
                body: answer.bytes().await?.to_vec(),
            })
        };
        let runtime = self.runtime.as_ref().unwrap();
        // A thread of its own: callers may be in a runtime.
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| runtime.block_on(answer));
            waiting.join().unwrap()
        })
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        // Callers may be in a runtime, where others must not be waited for.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
