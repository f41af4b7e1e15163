//! Pages of listings, of containers and of an account.

use super::account::Answer;
use super::call::Call;
use super::{SwiftStore, unquote};
use crate::error::{Error, Kind, Result};
use crate::store::{Entry, Page, Select};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use std::sync::PoisonError;

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
                self.tell_missing(container);
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

    /// A container that is not there is empty, or mistyped: said once.
    fn tell_missing(&self, container: &str) {
        let mut told = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if told.insert(container.to_owned()) {
            tracing::warn!(
                "there is no container {container} at {}, so there are no backups in it; is \
                 backup_swift_container right? The first backup makes it",
                self.account.server()
            );
        }
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
            names.extend(page.into_iter().filter_map(|line| line.name));
            if !is_full(count, None, self.limits().await.account_listing_limit) {
                return Ok(names);
            }
        }
    }

    /// How long pages are, if the store tells. It is asked once.
    async fn limits(&self) -> Limits {
        let ask = async {
            let text = self.account.capabilities().await?;
            let info = text.and_then(|text| serde_json::from_slice::<Info>(&text).ok());
            Ok::<_, Error>(info.and_then(|info| info.swift).unwrap_or_default())
        };
        match self.limits.get_or_try_init(|| ask).await {
            Ok(limits) => *limits,
            Err(e) => {
                tracing::debug!("{e}");
                Limits::default()
            }
        }
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
