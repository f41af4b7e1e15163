//! An object, read from one place on: one long answer, taken up again where it broke off.

use super::account::Account;
use super::call::Call;
use super::failure::{Again, Failure};
use super::{NEWEST, text, unquote};
use crate::error::{Error, Kind, Result};
use crate::store::{ObjectStream, replaced};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};
use std::sync::Arc;
use tokio::time::timeout_at;

/// See the module's page.
pub(super) struct SwiftStream {
    account: Arc<Account>,
    container: String,
    object: String,
    /// Where the next byte stands.
    offset: u64,
    /// Where it is to end; at the end of the object, if that comes first.
    end: Option<u64>,
    response: Option<Response>,
    /// Where that one ends, by its own account, and where the object does.
    promised: Option<u64>,
    total: Option<u64>,
    /// The object's version, once it is known.
    version: Option<String>,
    /// Of all copies, the newest one is to be read.
    is_newest: bool,
    is_made_of_others: bool,
    /// What has come and was not asked for yet.
    rest: BytesMut,
    is_over: bool,
}

impl SwiftStream {
    /// The bytes of an object from `offset` to `end`, or to its own end.
    pub fn new(
        account: &Arc<Account>,
        container: &str,
        object: &str,
        offset: u64,
        end: Option<u64>,
    ) -> Self {
        Self {
            account: Arc::clone(account),
            container: container.to_owned(),
            object: object.to_owned(),
            offset,
            end,
            response: None,
            promised: None,
            total: None,
            version: None,
            is_newest: false,
            is_made_of_others: false,
            rest: BytesMut::new(),
            is_over: end.is_some_and(|end| end <= offset),
        }
    }

    /// From the newest of all copies, of which one or the other may be behind.
    pub fn newest(self) -> Self {
        Self {
            is_newest: true,
            ..self
        }
    }

    /// Of that version, and no other.
    pub fn of_version(self, version: &str) -> Self {
        Self {
            version: Some(version.to_owned()),
            ..self
        }
    }

    /// The size of the whole object, once an answer has told it.
    pub fn size(&self) -> Option<u64> {
        self.total
    }

    /// The md5 of the whole object, where its version is that: not of one that is made of
    /// others.
    pub fn md5(&self) -> Option<&str> {
        let tag = self
            .version
            .as_deref()
            .filter(|_| !self.is_made_of_others)?;
        let is_md5 = tag.len() == 32 && tag.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_md5.then_some(tag)
    }

    /// Waits until there are `want` bytes, or all that there are. May be given up at any
    /// point, and be asked again.
    async fn fill(&mut self, want: usize) -> Result<()> {
        let account = Arc::clone(&self.account);
        let mut tries = account.tries(0, true);
        let subject = format!("{}/{}", self.container, self.object);
        // Nothing is asked then, and nothing is learnt of the store.
        if self.rest.len() >= want || self.is_over {
            return Ok(());
        }
        if let Some(e) = account.just_failed(&subject) {
            return Err(e);
        }
        while self.rest.len() < want && !self.is_over {
            let received = match timeout_at(tries.deadline, self.receive()).await {
                Ok(Ok(bytes)) => {
                    tries.extend(bytes);
                    continue;
                }
                Ok(Err(failure)) => {
                    self.response = None;
                    tries.pause(failure).await
                }
                Err(_) => {
                    self.response = None;
                    Err(tries.timed_out("read object", &subject))
                }
            };
            if received.is_err() {
                return account.note(&tries, Some(&subject), received);
            }
        }
        account.note(&tries, None, Ok(()))
    }

    fn replaced(&self) -> Failure {
        Failure::new(replaced(&self.container, &self.object), Again::Never)
    }

    /// Adds what comes next to the rest, and gives how much that is.
    async fn receive(&mut self) -> Result<u64, Failure> {
        let mut call = Call::object("read object", Method::GET, &self.container, &self.object)
            .fine(&[StatusCode::RANGE_NOT_SATISFIABLE]);
        let response = match &mut self.response {
            Some(response) => response,
            None => {
                let range = match self.end {
                    Some(end) => format!("bytes={}-{}", self.offset, end - 1),
                    None => format!("bytes={}-", self.offset),
                };
                if let Ok(range) = range.parse() {
                    call.headers.insert(RANGE, range);
                }
                if self.is_newest {
                    call.headers
                        .insert(NEWEST, HeaderValue::from_static("true"));
                }
                let response = self.account.begin(&call).await?;
                let version = text(response.headers(), ETAG.as_str()).map(unquote);
                // Of two versions nothing may be pieced together.
                let is_another = self.version.is_some() && self.version.as_deref() != version;
                if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
                    // It is shorter than what has been read of it.
                    if self.promised.is_some_and(|end| self.offset < end) {
                        return Err(self.replaced());
                    }
                    self.is_over = true;
                    return Ok(0);
                }
                if is_another {
                    return Err(self.replaced());
                }
                self.version = version.map(str::to_owned);
                (self.promised, self.total) = check_range(&call, &response, self.offset)?;
                let has = |name| response.headers().contains_key(name);
                self.is_made_of_others = has("X-Static-Large-Object") || has("X-Object-Manifest");
                self.response.insert(response)
            }
        };
        match self.account.piece(&call, response).await? {
            Some(piece) => {
                self.offset += piece.len() as u64;
                self.rest.extend_from_slice(&piece);
                Ok(piece.len() as u64)
            }
            None if self.promised.is_some_and(|end| self.offset < end) => {
                let reason = "the answer ends before its end";
                let error = Error::new(Kind::Unavailable, call.op, call.subject(), reason);
                Err(Failure::new(error, Again::Soon))
            }
            None => {
                // A part of the range is an answer, too.
                let goal = self.end.into_iter().chain(self.total).min();
                let is_part = self.total.is_some() && goal.is_some_and(|goal| self.offset < goal);
                self.is_over = !is_part;
                self.response = None;
                Ok(0)
            }
        }
    }
}

/// The answer must begin where it was asked to. Gives where it is to end, and where the
/// object does, as far as it tells.
fn check_range(
    call: &Call<'_>,
    response: &Response,
    offset: u64,
) -> Result<(Option<u64>, Option<u64>), Failure> {
    let (begin, end, total) = match text(response.headers(), CONTENT_RANGE.as_str()) {
        Some(range) => {
            let range = range.strip_prefix("bytes ").unwrap_or(range);
            let (begin, rest) = range.split_once('-').unwrap_or_default();
            let (last, total) = rest.split_once('/').unwrap_or_default();
            let end = last.parse::<u64>().ok().map(|last| last.saturating_add(1));
            (begin.parse().ok(), end, total.parse().ok())
        }
        // Of the whole object.
        None if response.status() == StatusCode::OK => {
            let length = response.content_length();
            (Some(0), length, length)
        }
        None => (None, None, None),
    };
    if begin == Some(offset) {
        return Ok((end, total));
    }
    let reason = format!("the store gave another part of it than from {offset} on");
    Err(refuse(call, &reason))
}

fn refuse(call: &Call<'_>, reason: &str) -> Failure {
    let error = Error::new(Kind::Unavailable, call.op, call.subject(), reason);
    Failure::new(error, Again::Never)
}

#[async_trait]
impl ObjectStream for SwiftStream {
    async fn next(&mut self, want: u64) -> Result<Bytes> {
        let want = usize::try_from(want).unwrap_or(usize::MAX);
        self.fill(want).await?;
        Ok(self.rest.split_to(want.min(self.rest.len())).freeze())
    }
}
