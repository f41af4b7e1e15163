//! One request to an account: what is asked for, and what is sent along.

use super::failure::{Again, Failure};
use crate::error::{Error, Kind};
use crate::store::Body;
use crate::task::blocking;
use bytes::Bytes;
use futures_util::stream;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode, Url};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fmt, io};

/// What stands for itself in an address; in names of objects slashes do, too.
const IN_CONTAINER: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');
const IN_OBJECT: &AsciiSet = &IN_CONTAINER.remove(b'/');

/// Bodies are sent in pieces of this size, so that it shows how far they are.
const PIECE_BYTES: u64 = 256 << 10;

/// See the module's page.
pub(super) struct Call<'a> {
    /// What is done, for messages.
    pub op: &'static str,
    pub method: Method,
    /// The container; without, the account itself.
    pub container: Option<&'a str>,
    pub object: Option<&'a str>,
    pub query: Vec<(&'static str, String)>,
    pub headers: HeaderMap,
    pub body: Option<Body>,
    /// Answers that are no failure, beside all of the 200s.
    pub fine: &'static [StatusCode],
}

impl<'a> Call<'a> {
    /// A request for a container, or the account.
    pub fn new(op: &'static str, method: Method, container: Option<&'a str>) -> Self {
        Self {
            op,
            method,
            container,
            object: None,
            query: Vec::new(),
            headers: HeaderMap::new(),
            body: None,
            fine: &[],
        }
    }

    /// A request for an object.
    pub fn object(op: &'static str, method: Method, container: &'a str, object: &'a str) -> Self {
        Self {
            object: Some(object),
            ..Self::new(op, method, Some(container))
        }
    }

    /// Those answers, too, are none that failed.
    pub fn fine(mut self, fine: &'static [StatusCode]) -> Self {
        self.fine = fine;
        self
    }

    /// What it is about, for messages.
    pub fn subject(&self) -> String {
        match (self.container, self.object) {
            (Some(container), Some(object)) => format!("{container}/{object}"),
            (Some(container), None) => format!("container {container}"),
            _ => "the account".to_owned(),
        }
    }

    /// What is asked for, if this only looks: it can be asked for again.
    pub fn question(&self) -> Option<String> {
        let looks = matches!(self.method, Method::GET | Method::HEAD);
        looks.then(|| {
            let query = self.query.iter();
            query.fold(self.subject(), |text, (_, value)| text + " " + value)
        })
    }

    /// The failure of what would fail again and again.
    pub fn invalid(&self, reason: impl fmt::Display) -> Failure {
        let error = Error::new(Kind::Invalid, self.op, self.subject(), reason);
        Failure::new(error, Again::Never)
    }

    /// How many bytes are sent along.
    pub fn bytes(&self) -> u64 {
        self.body.as_ref().map_or(0, Body::len)
    }

    /// Its address in an account.
    pub fn url(&self, account: &Url) -> Result<Url, Failure> {
        let mut path = account.path().trim_end_matches('/').to_owned();
        if let Some(container) = self.container {
            path.push('/');
            path.extend(utf8_percent_encode(container, IN_CONTAINER));
        }
        if let Some(object) = self.object {
            path.push('/');
            path.extend(utf8_percent_encode(object, IN_OBJECT));
        }
        let mut url = account.clone();
        url.set_path(&path);
        // Segments like ".." vanish from addresses, and another object would be meant.
        if url.path() != path {
            return Err(self.invalid("no address can hold such a name"));
        }
        url.set_query(None);
        if !self.query.is_empty() {
            let mut query = String::new();
            for (name, value) in &self.query {
                let mark = if query.is_empty() { "" } else { "&" };
                query.extend([mark, name, "="]);
                query.extend(utf8_percent_encode(value, IN_CONTAINER));
            }
            url.set_query(Some(&query));
        }
        Ok(url)
    }
}

/// How much of a body was taken for sending.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress(Arc<AtomicU64>);

impl Progress {
    /// In bytes.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// The body, which counts here what is taken of it.
    pub fn stream(&self, body: Body) -> reqwest::Body {
        let sent = self.clone();
        let pieces = stream::try_unfold((body, 0), move |(body, at)| {
            let sent = sent.clone();
            async move {
                let length = body.len().saturating_sub(at).min(PIECE_BYTES);
                if length == 0 {
                    return Ok::<_, io::Error>(None);
                }
                let piece = piece(&body, at, length).await?;
                sent.0.fetch_add(length, Ordering::Relaxed);
                Ok(Some((piece, (body, at + length))))
            }
        });
        reqwest::Body::wrap_stream(pieces)
    }
}

async fn piece(body: &Body, at: u64, length: u64) -> io::Result<Bytes> {
    match body {
        Body::Bytes(bytes) => {
            let (start, end) = (at as usize, (at + length) as usize);
            Ok(bytes.slice(start..end))
        }
        Body::File { file, .. } => {
            let file = Arc::clone(file);
            let read = blocking(move || {
                let mut piece = vec![0; length as usize];
                Ok(file.read_exact_at(&mut piece, at).map(|()| piece))
            });
            let piece = read.await.map_err(io::Error::other)??;
            Ok(piece.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(container: &str, object: &str) -> Option<String> {
        let account = Url::parse("http://swift.example:8080/v1/AUTH_x/").unwrap();
        let call = Call::object("read", Method::GET, container, object);
        call.url(&account).ok().map(|url| url.to_string())
    }

    #[test]
    fn names_are_quoted() {
        let base = "http://swift.example:8080/v1/AUTH_x";
        for (container, object, path) in [
            (
                "c",
                "volume_1/2/az_nova_backup_3-00001",
                "c/volume_1/2/az_nova_backup_3-00001",
            ),
            ("two words", "a b", "two%20words/a%20b"),
            ("c", "100%?#&+;=", "c/100%25%3F%23%26%2B%3B%3D"),
            ("ü", "日\u{7f}\n", "%C3%BC/%E6%97%A5%7F%0A"),
            ("c", "a//b", "c/a//b"),
            ("c", "%2e%2e/x", "c/%252e%252e/x"),
        ] {
            assert_eq!(url(container, object), Some(format!("{base}/{path}")));
        }
        for (container, object) in [("c", "a/../b"), ("c", "./b"), ("..", "b"), ("c", "a/..")] {
            assert_eq!(url(container, object), None, "{container}/{object}");
        }
    }
}
