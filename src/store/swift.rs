//! Objects in a Swift, or in whatever speaks its API (RADOS Gateway).
//!
//! `login` finds out who we are, `account` sends requests and has patience, `failure`
//! knows what went wrong, `listing` and `stream` read. Must not know what the objects are.

mod account;
mod call;
mod failure;
mod listing;
mod login;
mod stream;
mod trust;

use super::{Body, Entry, ObjectStore, ObjectStream, Page, Select, Space, Stat};
use crate::config::{self, Containers};
use crate::error::{Error, Kind, Result};
use crate::task::{Queue, blocking};
use account::Account;
use async_trait::async_trait;
use bytes::Bytes;
use call::Call;
use listing::Limits;
use md5::{Digest, Md5};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, LAST_MODIFIED};
use reqwest::{Method, StatusCode};
use std::collections::HashMap;
use std::fmt::{self, Debug};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use stream::SwiftStream;

/// How long it is taken for true that we may write, and how much room there is.
const KNOWN: Duration = Duration::from_secs(30);
/// How often an object is stored that the store then does not have, or whose container it
/// does not know, and the first pause between: clocks catch up, and caches forget.
const PUTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// How often an object is read whole that does not come as it is.
const TRIES_OF_WHOLE: u32 = 3;
/// Asks a Swift to look at all copies of an object: one or the other may be behind.
const NEWEST: &str = "x-newest";
/// Nothing has this name: who may delete it may write.
const PROBE: &str = ".cinderfs-may-i-write";

/// See the module's page.
pub struct SwiftStore {
    account: Arc<Account>,
    containers: Containers,
    /// The container of new backups.
    container: String,
    storage_policy: Option<String>,
    /// How long pages are, and when that was asked.
    limits: Queue<Option<(Instant, Limits)>>,
    /// Containers that were there once, and those that never were.
    known: std::sync::Mutex<HashMap<String, bool>>,
    writable: Queue<Option<Instant>>,
    space: Queue<Option<(Instant, Option<Space>)>>,
}

impl Debug for SwiftStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SwiftStore at {}", self.account.server())
    }
}

impl SwiftStore {
    /// A store. Nothing is asked of it yet: it may be down.
    ///
    /// # Errors
    /// When the certificates that it is to trust cannot be read.
    pub fn new(options: &config::Swift) -> Result<Self> {
        let container = options.chunked.container.clone();
        Ok(Self {
            account: Arc::new(Account::new(options)?),
            containers: options.containers.clone(),
            container: container.unwrap_or_else(|| "volumebackups".to_owned()),
            storage_policy: options.storage_policy.clone(),
            limits: Queue::default(),
            known: std::sync::Mutex::default(),
            writable: Queue::default(),
            space: Queue::default(),
        })
    }

    /// Stores an object, and sees to it that this is what the store holds then.
    async fn put_once(&self, call: &Call<'_>, md5: &str) -> Result<Put> {
        let answer = self.account.ask(call).await?;
        let etag = text(&answer.headers, ETAG.as_str()).map(unquote);
        let is_it = etag.is_some_and(|etag| etag.eq_ignore_ascii_case(md5));
        Ok(match answer.status {
            StatusCode::NOT_FOUND => Put::NoContainer,
            _ if is_it => Put::Done,
            _ => Put::Dropped,
        })
    }

    /// A range of an object, checked where it is the whole: metadata has no hash of its own.
    async fn read_checked(
        &self,
        container: &str,
        name: &str,
        range: Range<u64>,
        prepare: impl Fn(SwiftStream) -> SwiftStream + Send + Sync,
    ) -> Result<Bytes> {
        let length = range.end.saturating_sub(range.start);
        let (start, end) = (range.start, Some(range.end));
        for _ in 0..TRIES_OF_WHOLE {
            let stream = SwiftStream::new(&self.account, container, name, start, end);
            let mut stream = prepare(stream);
            let bytes = stream.next(length).await?;
            let is_whole = start == 0 && (bytes.len() as u64) < length;
            let expected = stream.md5().filter(|_| is_whole);
            let Some(expected) = expected.map(str::to_owned) else {
                return Ok(bytes);
            };
            let body = Body::Bytes(bytes.clone());
            let found = blocking(move || Ok(hex_md5(&body))).await?;
            if found.is_ok_and(|found| found == expected) {
                return Ok(bytes);
            }
        }
        let reason = "what came is not what the store says it holds (ETag)";
        let subject = format!("{container}/{name}");
        Err(Error::new(
            Kind::Unavailable,
            "read object",
            subject,
            reason,
        ))
    }

    async fn make_container(&self, container: &str) -> Result<()> {
        let mut call = Call::new("make", Method::PUT, Some(container));
        if let Some(policy) = &self.storage_policy {
            let value = HeaderValue::from_str(policy).map_err(|_| {
                let reason = "no storage policy has such a name";
                Error::new(Kind::Invalid, call.op, call.subject(), reason)
                    .advise("see backup_swift_create_storage_policy")
            })?;
            call.headers.insert("X-Storage-Policy", value);
        }
        let made = self.account.ask(&call).await;
        made.map_err(|e| match (e.kind(), &self.storage_policy) {
            (Kind::Invalid, Some(policy)) => e.advise(format!(
                "is there a storage policy {policy} (backup_swift_create_storage_policy)?"
            )),
            _ => e,
        })?;
        tracing::info!("container {container} is made");
        Ok(())
    }

    /// What a quota leaves: of the container, else of the account.
    async fn quota(&self) -> Result<Option<Space>> {
        for (container, quota, used) in [
            (
                Some(self.container.as_str()),
                "X-Container-Meta-Quota-Bytes",
                "X-Container-Bytes-Used",
            ),
            (None, "X-Account-Meta-Quota-Bytes", "X-Account-Bytes-Used"),
        ] {
            let call = Call::new("look at", Method::HEAD, container);
            // Who may only read a container may not look at the account.
            let call = call.fine(&[StatusCode::NOT_FOUND, StatusCode::FORBIDDEN]);
            let headers = self.account.ask(&call).await?.headers;
            let number = |name| text(&headers, name)?.parse::<u64>().ok();
            if let (Some(total), Some(used)) = (number(quota), number(used)) {
                return Ok(Some(Space {
                    total,
                    free: total.saturating_sub(used),
                    files: None,
                }));
            }
        }
        Ok(None)
    }
}

/// What became of an object that was to be stored.
enum Put {
    Done,
    NoContainer,
    /// Swift accepts (202), and drops, what is older by its clock than what it has: it says
    /// so by not saying what it holds.
    Dropped,
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The tag of an object that is made of others stands in quotes.
fn unquote(tag: &str) -> &str {
    tag.trim_matches('"')
}

fn hex_md5(body: &Body) -> std::io::Result<String> {
    let mut sum = Md5::new();
    body.pieces(|piece| {
        sum.update(piece);
        Ok(())
    })?;
    let sum = sum.finalize();
    Ok(sum.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[async_trait]
impl ObjectStore for SwiftStore {
    async fn containers(&self, _prefix: &str) -> Result<Vec<String>> {
        match &self.containers {
            Containers::Named(names) => Ok(names.clone()),
            Containers::All => self.list_containers().await,
        }
    }

    async fn list(&self, container: &str, prefix: &str) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let select = Select {
                prefix,
                after: after.as_deref(),
                ..Select::default()
            };
            let page = self.page(container, select).await?;
            entries.extend(page.entries);
            match page.next {
                Some(next) if Some(&next) <= after.as_ref() => {
                    let reason = "the store gives the same page again and again";
                    let subject = format!("container {container}");
                    return Err(Error::new(Kind::Unavailable, "list", subject, reason));
                }
                Some(next) => after = Some(next),
                None => return Ok(entries),
            }
        }
    }

    async fn page(&self, container: &str, select: Select<'_>) -> Result<Page> {
        self.list_page(container, select).await
    }

    async fn stat(&self, container: &str, name: &str) -> Result<Stat> {
        let mut call = Call::object("find object", Method::HEAD, container, name);
        call.headers
            .insert(NEWEST, HeaderValue::from_static("true"));
        let headers = self.account.ask(&call).await?.headers;
        let missing = |what: &str| {
            let reason = format!("the store does not tell its {what}");
            Error::new(Kind::Unavailable, call.op, call.subject(), reason)
        };
        let size = text(&headers, CONTENT_LENGTH.as_str()).and_then(|size| size.parse().ok());
        let version = text(&headers, ETAG.as_str()).map(unquote);
        let modified = text(&headers, LAST_MODIFIED.as_str());
        Ok(Stat {
            size: size.ok_or_else(|| missing("size"))?,
            version: version.ok_or_else(|| missing("ETag"))?.to_owned(),
            modified: modified
                .and_then(|time| httpdate::parse_http_date(time).ok())
                .unwrap_or_else(SystemTime::now),
        })
    }

    async fn read(&self, container: &str, name: &str, range: Range<u64>) -> Result<Bytes> {
        self.read_checked(container, name, range, |stream| stream)
            .await
    }

    async fn read_newest(&self, container: &str, name: &str, range: Range<u64>) -> Result<Bytes> {
        self.read_checked(container, name, range, SwiftStream::newest)
            .await
    }

    async fn read_sized(
        &self,
        container: &str,
        name: &str,
        range: Range<u64>,
    ) -> Result<(Bytes, u64)> {
        let length = range.end.saturating_sub(range.start);
        let (start, end) = (range.start, Some(range.end));
        let mut stream = SwiftStream::new(&self.account, container, name, start, end);
        let bytes = stream.next(length).await?;
        let size = match stream.size() {
            Some(size) => size,
            None => self.stat(container, name).await?.size,
        };
        Ok((bytes, size))
    }

    async fn read_of(
        &self,
        container: &str,
        name: &str,
        range: Range<u64>,
        version: &str,
    ) -> Result<Bytes> {
        self.read_checked(container, name, range, |stream| stream.of_version(version))
            .await
    }

    fn stream(&self, container: &str, name: &str, offset: u64) -> Option<Box<dyn ObjectStream>> {
        let stream = SwiftStream::new(&self.account, container, name, offset, None);
        Some(Box::new(stream))
    }

    async fn put(&self, container: &str, name: &str, body: Body) -> Result<()> {
        let mut call = Call::object("store object", Method::PUT, container, name)
            .fine(&[StatusCode::NOT_FOUND]);
        let (md5, body) = blocking(move || {
            let md5 = hex_md5(&body);
            Ok((md5, body))
        })
        .await?;
        let md5 = md5.map_err(|e| Error::io(call.op, call.subject(), &e))?;
        let octets = HeaderValue::from_static("application/octet-stream");
        call.headers.insert(CONTENT_TYPE, octets);
        // The store takes nothing else for it, then.
        if let Ok(tag) = HeaderValue::from_str(&md5) {
            call.headers.insert(ETAG, tag);
        }
        call.body = Some(body);
        let mut pause = FIRST_PAUSE;
        let mut is_made = false;
        let mut reason = "";
        for _ in 0..PUTS {
            match self.put_once(&call, &md5).await? {
                Put::Done => {
                    self.note_container(container, true);
                    return Ok(());
                }
                Put::NoContainer if !is_made => {
                    self.make_container(container).await?;
                    is_made = true;
                    continue;
                }
                // Some proxy servers do not know of it yet.
                Put::NoContainer => reason = "the store does not know its container",
                Put::Dropped => {
                    reason = "the store answers that all is well, and not that it holds what was \
                              sent (are the clocks of its servers right?)";
                }
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(Error::new(
            Kind::Unavailable,
            call.op,
            call.subject(),
            reason,
        ))
    }

    /// Whatever is stored is durable, and so is its name.
    async fn sync(&self, _container: &str) -> Result<()> {
        Ok(())
    }

    async fn delete(&self, container: &str, name: &str) -> Result<()> {
        let call = Call::object("delete object", Method::DELETE, container, name);
        self.account.ask(&call).await.map(drop)
    }

    /// Containers stay, as with Cinder: who made them may have given others rights there.
    async fn remove_container(&self, _container: &str) -> Result<()> {
        Ok(())
    }

    async fn check_writable(&self) -> Result<()> {
        let mut known = self.writable.turn().await?;
        if known.is_some_and(|at| at.elapsed() < KNOWN) {
            return Ok(());
        }
        let call = Call::object("write to", Method::DELETE, &self.container, PROBE);
        let call = call.fine(&[StatusCode::NOT_FOUND]);
        let asked = self.account.ask(&call).await;
        known.note(asked)?;
        *known = Some(Instant::now());
        Ok(())
    }

    fn retried(&self) -> Option<Error> {
        self.account.retried()
    }

    async fn space(&self) -> Result<Option<Space>> {
        let mut known = self.space.turn().await?;
        if let Some((at, space)) = *known
            && at.elapsed() < KNOWN
        {
            return Ok(space);
        }
        let space = self.quota().await;
        let space = known.note(space)?;
        *known = Some((Instant::now(), space));
        Ok(space)
    }
}
