//! Where objects are kept: named bytes in named containers.
//!
//! An [`ObjectStore`] knows nothing of backups, chunks or codecs. To add one: a file
//! here, and a line that runs the conformance suite (`tests/store_conformance/`).

pub mod fault;
pub mod memory;
pub mod posix;
mod share;
pub mod swift;

pub use share::close_files_of_shares;

use crate::error::{Error, Kind, Result};
use async_trait::async_trait;
use bytes::Bytes;
use std::fmt::Debug;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::SystemTime;

/// The content of an object to be stored.
#[derive(Debug, Clone)]
pub enum Body {
    /// Bytes in memory.
    Bytes(Bytes),
    /// The first `length` bytes of a file.
    File {
        /// The file; it is read at offsets, its position does not matter.
        file: Arc<File>,
        /// How much of it to store, in bytes.
        length: u64,
    },
}

impl Body {
    /// How many bytes it is.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { length, .. } => *length,
        }
    }

    /// Whether it is no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives the content to `sink`, a piece at a time. Blocks.
    ///
    /// # Errors
    /// Those of `sink`, and of reading the file.
    pub fn pieces(
        &self,
        mut sink: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        match self {
            Self::Bytes(bytes) => sink(bytes),
            Self::File { file, length } => {
                let mut buffer = vec![0; (1 << 20).min(*length) as usize];
                let mut at = 0;
                while at < *length {
                    let want = (buffer.len() as u64).min(length - at) as usize;
                    let Some(piece) = buffer.get_mut(..want) else {
                        break;
                    };
                    file.read_exact_at(piece, at)?;
                    sink(piece)?;
                    at += want as u64;
                }
                Ok(())
            }
        }
    }
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The object's name in its container.
    pub name: String,
    /// Changes whenever the content does; `None` where a listing does not tell and
    /// [`ObjectStore::stat`] must be asked.
    pub version: Option<String>,
}

/// What is known of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Size in bytes.
    pub size: u64,
    /// Changes whenever the content does.
    pub version: String,
    /// When it was written.
    pub modified: SystemTime,
}

/// A sign for other processes, which ends when this is dropped or the process ends.
#[derive(Default)]
pub struct Claim {
    _held: Option<Box<dyn std::any::Any + Send + Sync>>,
}

impl Claim {
    /// A sign that stands for as long as `held` lives.
    pub fn holding(held: impl std::any::Any + Send + Sync) -> Self {
        Self {
            _held: Some(Box::new(held)),
        }
    }
}

/// Which objects of a container a page of a listing is to hold.
#[derive(Debug, Clone, Copy, Default)]
pub struct Select<'a> {
    /// Those whose names begin so.
    pub prefix: &'a str,
    /// All whose names are equal up to and with this, behind the prefix, stand as one.
    pub delimiter: Option<&'a str>,
    /// Those behind this name, which need not be there. What stands for several may come
    /// again when only some of them are behind it.
    pub after: Option<&'a str>,
    /// No more than so many, objects and folders together.
    pub most: Option<usize>,
}

/// A page of a listing, sorted by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Objects that stand for themselves.
    pub entries: Vec<Entry>,
    /// What stands for several: their common beginning, with the delimiter.
    pub folders: Vec<String>,
    /// The last name on the page, when there may be more behind it.
    pub next: Option<String>,
}

/// An object, read from one place to its end.
#[async_trait]
pub trait ObjectStream: Send {
    /// The next bytes, about as many as `want`; none at the end of the object.
    ///
    /// # Errors
    /// As [`ObjectStore::read`]. Afterwards it may be asked again.
    async fn next(&mut self, want: u64) -> Result<Bytes>;
}

/// Room in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it, in bytes.
    pub total: u64,
    /// What is free for us, in bytes.
    pub free: u64,
    /// How many backups there may be, and how many more, where that is limited.
    pub files: Option<(u64, u64)>,
}

/// Named bytes in named containers. Container names may have slashes in some stores.
///
/// Errors: `NotFound` for a missing container or object, `Denied` and `ReadOnly` when
/// the store does not let us, `NoSpace`, `Unavailable` and `TimedOut`.
#[async_trait]
pub trait ObjectStore: Send + Sync + Debug {
    /// The containers, sorted: every one that holds an object whose name begins with
    /// `prefix`, and, where to know that would take a question for each, others.
    async fn containers(&self, prefix: &str) -> Result<Vec<String>>;

    /// Containers, or what holds such, that we may not look into, and that were missing
    /// from the last [`ObjectStore::containers`] therefore.
    fn hidden(&self) -> Vec<String> {
        Vec::new()
    }

    /// The objects of `container` whose names begin with `prefix`, sorted by name.
    /// A container that does not exist has none.
    async fn list(&self, container: &str, prefix: &str) -> Result<Vec<Entry>>;

    /// A page of a listing. A container that does not exist has an empty one.
    ///
    /// # Errors
    /// `Unsupported` when the store knows no such delimiter; those of the store.
    async fn page(&self, container: &str, select: Select<'_>) -> Result<Page> {
        Ok(page_of(self.list(container, select.prefix).await?, select))
    }

    /// Size and version of an object.
    async fn stat(&self, container: &str, name: &str) -> Result<Stat>;

    /// The bytes of an object in `range`, cut off at its end: fewer bytes than asked
    /// for mean that it ends there.
    async fn read(&self, container: &str, name: &str, range: Range<u64>) -> Result<Bytes>;

    /// The same, of what was stored last: where there are several copies, one may be behind.
    async fn read_newest(&self, container: &str, name: &str, range: Range<u64>) -> Result<Bytes> {
        self.read(container, name, range).await
    }

    /// The same, with the size of the whole object.
    async fn read_sized(
        &self,
        container: &str,
        name: &str,
        range: Range<u64>,
    ) -> Result<(Bytes, u64)> {
        let size = self.stat(container, name).await?.size;
        Ok((self.read(container, name, range).await?, size))
    }

    /// The same of one version of it: of two versions nothing is pieced together.
    ///
    /// # Errors
    /// `Unavailable` when there is another version now.
    async fn read_of(
        &self,
        container: &str,
        name: &str,
        range: Range<u64>,
        version: &str,
    ) -> Result<Bytes> {
        let bytes = self.read(container, name, range).await?;
        match self.stat(container, name).await?.version == version {
            true => Ok(bytes),
            false => Err(replaced(container, name)),
        }
    }

    /// The bytes of an object from `offset` on, where the store has something better for
    /// that than to read one range after the other.
    fn stream(&self, _container: &str, _name: &str, _offset: u64) -> Option<Box<dyn ObjectStream>> {
        None
    }

    /// Stores an object whole, in place of one of that name. When it returns, the
    /// content is durable; the name is so after [`ObjectStore::sync`].
    async fn put(&self, container: &str, name: &str, body: Body) -> Result<()>;

    /// Makes the names in `container`, and the container itself, durable.
    async fn sync(&self, container: &str) -> Result<()>;

    /// Removes an object.
    async fn delete(&self, container: &str, name: &str) -> Result<()>;

    /// Removes a container if it is empty, and does nothing otherwise.
    async fn remove_container(&self, container: &str) -> Result<()>;

    /// Whether anything can be stored at all, as far as that can be told beforehand.
    ///
    /// # Errors
    /// `Denied`, `ReadOnly`.
    async fn check_writable(&self) -> Result<()> {
        Ok(())
    }

    /// Whether claims mean anything here.
    fn has_claims(&self) -> bool {
        false
    }

    /// Tells all other processes that the backup of this id is being written, for as
    /// long as the result is held. A store in which that cannot be told does nothing.
    async fn claim(&self, _backup_id: &str) -> Result<Claim> {
        Ok(Claim::default())
    }

    /// Whether any process, this one among them, holds a claim on a backup.
    async fn is_claimed(&self, _backup_id: &str) -> Result<bool> {
        Ok(false)
    }

    /// Objects that somebody began to store and nobody is storing any more, in the
    /// containers in which they lie, under names that [`ObjectStore::delete`] takes.
    async fn leftovers(&self) -> Result<Vec<(String, Entry)>> {
        Ok(Vec::new())
    }

    /// What has gone wrong with the last request and is tried again just now.
    fn retried(&self) -> Option<Error> {
        None
    }

    /// How much room there is, where the store can tell.
    async fn space(&self) -> Result<Option<Space>>;
}

/// The failure of who reads an object that is not what it was.
fn replaced(container: &str, name: &str) -> Error {
    let subject = format!("{container}/{name}");
    let reason = "another one was stored in its place while it was read";
    Error::new(Kind::Unavailable, "read object", subject, reason).advise("open it again")
}

/// The page that `select` asks for, of a listing of all objects with its prefix.
fn page_of(entries: Vec<Entry>, select: Select<'_>) -> Page {
    let mut page = Page::default();
    for entry in entries {
        let behind = entry.name.get(select.prefix.len()..).unwrap_or_default();
        let folded = select.delimiter.and_then(|delimiter| {
            let length = behind.find(delimiter)? + delimiter.len();
            entry.name.get(..select.prefix.len() + length)
        });
        let name = folded.unwrap_or(&entry.name);
        let is_behind = select.after.is_none_or(|after| name > after);
        if !is_behind || page.folders.last().is_some_and(|last| last == name) {
            continue;
        }
        if select.most == Some(page.entries.len() + page.folders.len()) {
            let last = page.entries.last().map(|entry| &entry.name);
            page.next = last.max(page.folders.last()).cloned();
            break;
        }
        match folded {
            Some(folder) => page.folders.push(folder.to_owned()),
            None => page.entries.push(entry),
        }
    }
    page
}

/// The bytes of an object from `offset` on, piece by piece.
pub fn stream(
    store: &Arc<dyn ObjectStore>,
    container: &str,
    name: &str,
    offset: u64,
) -> Box<dyn ObjectStream> {
    let own = store.stream(container, name, offset);
    own.unwrap_or_else(|| {
        Box::new(Ranges {
            store: Arc::clone(store),
            container: container.to_owned(),
            name: name.to_owned(),
            offset,
        })
    })
}

/// One range after the other.
struct Ranges {
    store: Arc<dyn ObjectStore>,
    container: String,
    name: String,
    offset: u64,
}

#[async_trait]
impl ObjectStream for Ranges {
    async fn next(&mut self, want: u64) -> Result<Bytes> {
        let range = self.offset..self.offset.saturating_add(want);
        let bytes = self.store.read(&self.container, &self.name, range).await?;
        self.offset += bytes.len() as u64;
        Ok(bytes)
    }
}

/// The whole of a small object as it is now, `limit` bytes at most.
///
/// # Errors
/// `Corrupt` when it is larger; those of the store.
pub async fn read_whole(
    store: &dyn ObjectStore,
    container: &str,
    name: &str,
    limit: u64,
) -> Result<Bytes> {
    let bytes = store
        .read_newest(container, name, 0..limit.saturating_add(1))
        .await?;
    if bytes.len() as u64 > limit {
        return Err(Error::new(
            Kind::Corrupt,
            "read object",
            format!("{container}/{name}"),
            format!("it is larger than the {limit} bytes that make sense"),
        ));
    }
    Ok(bytes)
}
