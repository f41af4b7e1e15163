//! Pages of listings, of containers and of an account.

use super::account::Answer;
use super::call::Call;
use super::{SwiftStore, unquote};
use crate::error::{Error, Kind, Result};
use crate::store::{Entry, Page, Select};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// So long a server that has not told how long its pages are is not asked again.
const LIMITS_UNKNOWN: Duration = Duration::from_secs(300);

/// A line of a listing.
#[derive(Debug, Deserialize)]
struct Line {
    name: Option<String>,
    hash: Option<String>,
    subdir: Option<String>,
}

/// What `/info` tells of a Swift, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Info {
    swift: Option<Limits>,
}

/// The longest pages there are.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct Limits {
    container_listing_limit: Option<usize>,
    account_listing_limit: Option<usize>,
}

impl SwiftStore {
    /// See [`crate::store::ObjectStore::page`].
    pub(super) async fn list_page(&self, container: &str, select: Select<'_>) -> Result<Page> {
        let mut call = Call::new("list", Method::GET, Some(container)).fine(&[
            StatusCode::NOT_FOUND,
            StatusCode::PRECONDITION_FAILED,
            StatusCode::BAD_REQUEST,
        ]);
        let mut ask = |name, value: &str| call.query.push((name, value.to_owned()));
        ask("format", "json");
        ask("prefix", select.prefix);
        if let Some(delimiter) = select.delimiter {
            ask("delimiter", delimiter);
        }
        if let Some(after) = select.after {
            ask("marker", after);
        }
        if let Some(most) = select.most {
            ask("limit", &most.to_string());
        }
        let answer = self.account.ask(&call).await?;
        match answer.status {
            StatusCode::NOT_FOUND => {
                self.miss(&call, container)?;
                return Ok(Page::default());
            }
            StatusCode::PRECONDITION_FAILED | StatusCode::BAD_REQUEST => {
                let is_delimiter = select.delimiter.is_some_and(|text| text.len() > 1);
                let (kind, reason) = match is_delimiter {
                    true => (
                        Kind::Unsupported,
                        "it knows only delimiters of one character",
                    ),
                    false => (Kind::Invalid, "the store does not take such a question"),
                };
                return Err(Error::new(kind, call.op, call.subject(), reason));
            }
            _ => {}
        }
        self.note_container(container, true);
        let mut page = Page::default();
        let mut last = None;
        let mut count = 0;
        for line in lines(&call, &answer)? {
            count += 1;
            match line {
                Line {
                    subdir: Some(folder),
                    ..
                } => {
                    last = Some(folder.clone());
                    page.folders.push(folder);
                }
                Line {
                    name: Some(name),
                    hash,
                    ..
                } => {
                    last = Some(name.clone());
                    let version = hash.as_deref().map(|hash| unquote(hash).to_owned());
                    page.entries.push(Entry { name, version });
                }
                _ => return Err(unreadable(&call, "a line of it names nothing")),
            }
        }
        let limit = self.limits().await.container_listing_limit;
        page.next = last.filter(|_| is_full(count, select.most, limit));
        Ok(page)
    }

    /// A container that is not there is empty, or mistyped: said once. One that was there is
    /// not taken for empty: somebody may answer who knows nothing of it.
    fn miss(&self, call: &Call<'_>, container: &str) -> Result<()> {
        match self.note_container(container, false) {
            Some(true) => {
                let reason = "the container was there, and now the store says that it is not";
                let error = Error::new(Kind::Unavailable, call.op, call.subject(), reason);
                return Err(error.advise("is it still the right server that answers?"));
            }
            Some(false) => {}
            None => tracing::warn!(
                "there is no container {container} at {}, so there are no backups in it; is \
                 backup_swift_container right? The first backup makes it",
                self.account.server()
            ),
        }
        Ok(())
    }

    /// Keeps in mind whether a container is there, once it was. Gives what was known.
    pub(super) fn note_container(&self, container: &str, is_there: bool) -> Option<bool> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.get(container).copied();
        if is_there || before.is_none() {
            known.insert(container.to_owned(), is_there);
        }
        before
    }

    /// Every container of the account.
    pub(super) async fn list_containers(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = Vec::new();
        loop {
            let mut call = Call::new("list", Method::GET, None);
            call.query.push(("format", "json".to_owned()));
            if let Some(last) = names.last() {
                call.query.push(("marker", last.clone()));
            }
            let answer = self.account.ask(&call).await?;
            let page = lines(&call, &answer)?;
            let count = page.len();
            if page
                .first()
                .is_some_and(|line| line.name.as_ref() <= names.last())
                && !names.is_empty()
            {
                return Err(unreadable(&call, "the same page comes again and again"));
            }
            names.extend(page.into_iter().filter_map(|line| line.name));
            if !is_full(count, None, self.limits().await.account_listing_limit) {
                return Ok(names);
            }
        }
    }

    /// How long pages are, if the store tells, and is surely a Swift: others (RADOS Gateway)
    /// have pages that are not full though there are more.
    async fn limits(&self) -> Limits {
        let mut known = self.limits.value().await;
        if let Some((asked, limits)) = *known
            && (limits.is_of_swift() || asked.elapsed() < LIMITS_UNKNOWN)
        {
            return limits;
        }
        let limits = match self.account.capabilities().await {
            Ok(text) => {
                let info = text.and_then(|text| serde_json::from_slice::<Info>(&text).ok());
                info.and_then(|info| info.swift).unwrap_or_default()
            }
            Err(e) => {
                tracing::debug!("{e}");
                Limits::default()
            }
        };
        let limits = match limits.is_of_swift() {
            true => limits,
            false => Limits::default(),
        };
        *known = Some((Instant::now(), limits));
        limits
    }
}

impl Limits {
    /// RADOS Gateway tells the first only.
    fn is_of_swift(self) -> bool {
        self.container_listing_limit.is_some() && self.account_listing_limit.is_some()
    }
}

/// Whether there may be more behind a page of `count` lines, of which no more than `most`
/// were asked for and `limit` is what the store gives at a time, if that is known.
fn is_full(count: usize, most: Option<usize>, limit: Option<usize>) -> bool {
    let length = match (most, limit) {
        (Some(most), Some(limit)) => Some(most.min(limit)),
        // Who asks for less than a page gets as much.
        (None, limit) => limit,
        (Some(_), None) => None,
    };
    count > 0 && length.is_none_or(|length| count >= length)
}

fn lines(call: &Call<'_>, answer: &Answer) -> Result<Vec<Line>> {
    // Of an empty page some stores send nothing at all.
    if answer.body.is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_slice(&answer.body).map_err(|e| unreadable(call, &e.to_string()))
}

fn unreadable(call: &Call<'_>, reason: &str) -> Error {
    let reason = format!("what the store answers is no listing: {reason}");
    Error::new(Kind::Unavailable, call.op, call.subject(), reason)
}
