//! The stored bytes of one chunk object, and their decoding from the beginning, or from a
//! check point, onwards. What they decode to is not looked at here.

use crate::codec::{Checkpoint, Codec, Decoder};
use crate::error::{Error, Kind, Result};
use crate::format::BackupName;
use crate::store::{self, ObjectStore, ObjectStream};
use crate::task::blocking;
use bytes::Bytes;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// How much of a stored object is read at a time.
const FEED_BYTES: u64 = 1 << 20;

/// An object as it lies in the store. Its errors name it and its backup.
#[derive(Debug)]
pub struct Stored {
    store: Arc<dyn ObjectStore>,
    backup_id: String,
    container: String,
    name: String,
}

impl Stored {
    /// Chunk `number` of the backup `name`.
    pub fn new(store: &Arc<dyn ObjectStore>, name: &BackupName, number: u64) -> Self {
        Self {
            store: Arc::clone(store),
            backup_id: name.backup_id.clone(),
            container: name.container.clone(),
            name: name.chunk(number),
        }
    }

    /// The failure of an object that is not what the metadata says.
    pub fn corrupt(&self, reason: impl fmt::Display) -> Error {
        Error::corrupt(
            "read object",
            format!("{} of backup {}", self.name, self.backup_id),
            reason,
        )
    }

    /// A codec does not know what it decodes, nor a store what for.
    fn name_it(&self, error: Error) -> Error {
        // An object that metadata names and that is not there is damage, not absence.
        if error.kind() == Kind::NotFound {
            return self.corrupt("the object is missing");
        }
        error.within(format!("{} of backup {}", self.name, self.backup_id))
    }

    /// Its size in the store, in bytes.
    pub async fn size(&self) -> Result<u64> {
        let stat = self.store.stat(&self.container, &self.name).await;
        stat.map(|stat| stat.size).map_err(|e| self.name_it(e))
    }

    /// A range of it; fewer bytes at its end.
    pub async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let read = self.store.read(&self.container, &self.name, range).await;
        read.map_err(|e| self.name_it(e))
    }

    /// All of it from `offset` on. For a store behind a network that is less work than
    /// many ranges.
    pub fn from(&self, offset: u64) -> Source {
        Source(store::stream(
            &self.store,
            &self.container,
            &self.name,
            offset,
        ))
    }
}

/// The bytes of a stored object, one after the other.
pub struct Source(Box<dyn ObjectStream>);

impl Source {
    /// The next piece of `stored`, which it was made of; nothing at its end.
    pub async fn next(&mut self, stored: &Stored) -> Result<Bytes> {
        let piece = self.0.next(FEED_BYTES).await;
        piece.map_err(|e| stored.name_it(e))
    }
}

/// A decoder and its place in the stored object. On failure it is gone with its state:
/// whoever reads the object next begins anew.
pub struct Stream {
    decoder: Decoder,
    source: Source,
    /// What has been read and not decoded yet.
    input: Bytes,
    /// How much has been read.
    taken: u64,
    /// Room for decoded data: clearing a new one for each step would cost time.
    room: Vec<u8>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream at {}", self.position())
    }
}

impl Stream {
    /// Decodes `stored` from `checkpoint`, or from its beginning.
    ///
    /// # Errors
    /// `Unavailable` where there is no memory for a decoder.
    pub fn new(stored: &Stored, codec: Codec, checkpoint: Option<&Checkpoint>) -> Result<Self> {
        let decoder = match checkpoint {
            Some(checkpoint) => Decoder::resume(checkpoint),
            None => Decoder::new(codec),
        };
        Ok(Self {
            decoder: decoder.map_err(|e| stored.name_it(e))?,
            source: stored.from(checkpoint.map_or(0, Checkpoint::input_offset)),
            input: Bytes::new(),
            taken: 0,
            room: Vec::new(),
        })
    }

    /// Where in the decoded data it stands.
    pub fn position(&self) -> u64 {
        self.decoder.position()
    }

    /// The last place, here or before, from which decoding can be taken up again.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.decoder.checkpoint()
    }

    /// Decodes exactly `length` bytes and gives what `use_data` makes of them, on a thread
    /// that may compute.
    ///
    /// # Errors
    /// `Corrupt` when there are not as many or they cannot be decoded; those of the store.
    pub async fn decode<T, F>(
        mut self,
        stored: &Stored,
        length: u64,
        use_data: F,
    ) -> Result<(Self, T)>
    where
        T: Send + 'static,
        F: FnOnce(&[u8]) -> T + Send + 'static,
    {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let mut filled = 0;
        let mut use_data = Some(use_data);
        loop {
            if self.input.is_empty() && filled < length {
                self.feed(stored).await?;
            }
            let before = (self.taken, self.input.len(), filled);
            let made;
            (self, filled, use_data, made) = blocking(move || {
                self.room.resize(length, 0);
                let filled = self.decode_some(filled)?;
                let use_now = use_data.take_if(|_| filled == length);
                let made = use_now.map(|use_data| use_data(&self.room));
                Ok((self, filled, use_data, made))
            })
            .await
            .map_err(|e| stored.name_it(e))?;
            if let Some(made) = made {
                return Ok((self, made));
            }
            if before == (self.taken, self.input.len(), filled) {
                let position = self.position();
                return Err(stored.corrupt(format!("its data ends after {position} bytes")));
            }
        }
    }

    /// Decodes into the room from `filled` on, until it is full or all of the input is
    /// used that can be. Gives how far it is filled then.
    fn decode_some(&mut self, mut filled: usize) -> Result<usize> {
        while let Some(space) = self
            .room
            .get_mut(filled..)
            .filter(|space| !space.is_empty())
        {
            // Called without input, too: a codec may hold back what it has decoded.
            let progress = self.decoder.decode(&self.input, space)?;
            self.input = self.input.slice(progress.consumed..);
            filled += progress.produced;
            if progress.ended || progress.produced == 0 && self.input.is_empty() {
                break;
            }
        }
        Ok(filled)
    }

    /// Reads the next piece of the stored object; `false` at its end.
    async fn feed(&mut self, stored: &Stored) -> Result<bool> {
        self.input = self.source.next(stored).await?;
        self.taken += self.input.len() as u64;
        Ok(!self.input.is_empty())
    }

    /// Makes sure that an object whose data has been decoded to its full length really
    /// ends there: that no data and no stored bytes follow, and that the codec's own
    /// check sum, which stands last, is right.
    ///
    /// # Errors
    /// `Corrupt` when it does not; those of the store.
    pub async fn end(mut self, stored: &Stored) -> Result<()> {
        loop {
            let mut more = [0];
            let progress = self
                .decoder
                .decode(&self.input, &mut more)
                .map_err(|e| stored.name_it(e))?;
            if progress.produced > 0 {
                let length = self.position() - progress.produced as u64;
                return Err(
                    stored.corrupt(format!("it holds more than its {length} bytes of data"))
                );
            }
            self.input = self.input.slice(progress.consumed..);
            if self.input.is_empty() && !self.feed(stored).await? {
                return self.decoder.finish().map_err(|e| stored.name_it(e));
            }
            if progress.ended {
                return Err(stored.corrupt("it goes on behind the end of its data"));
            }
        }
    }
}
