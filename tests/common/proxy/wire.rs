//! Where messages of HTTP/1.1 begin and end.

use bytes::{Buf, Bytes, BytesMut};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// No head is as long.
const LONGEST_HEAD: usize = 64 << 10;
/// What is read at once.
const PIECE: usize = 64 << 10;

/// One direction of a connection, as it is read.
pub struct Wire<R> {
    from: R,
    buffer: BytesMut,
}

/// The lines before a body.
#[derive(Debug, Clone)]
pub struct Head {
    /// The request's or the status line.
    pub first: String,
    pub headers: Vec<(String, String)>,
}

/// How the rest of a body is marked off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// So many bytes.
    Length(u64),
    /// In chunks: the next line is the size of one.
    Chunks,
    /// In the midst of one: so many bytes, with the end of its line.
    Chunk(u64),
    /// After the last one: lines up to an empty one.
    Trailer,
    /// All until the connection is closed.
    Close,
}

impl<R: AsyncRead + Unpin> Wire<R> {
    pub fn new(from: R) -> Self {
        Self {
            from,
            buffer: BytesMut::new(),
        }
    }

    /// Reads more. False at the end.
    async fn fill(&mut self) -> io::Result<bool> {
        self.buffer.reserve(PIECE);
        Ok(self.from.read_buf(&mut self.buffer).await? > 0)
    }

    /// The next head. None when the connection is closed before it.
    pub async fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                let head = self.buffer.split_to(at + 4);
                return Head::parse(&head[..at]).map(Some);
            }
            if self.buffer.len() > LONGEST_HEAD || !self.fill().await? {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::InvalidData.into()),
                };
            }
        }
    }

    /// The next piece of a body, with what marks it off. None at its end.
    pub async fn piece(&mut self, body: &mut Body) -> io::Result<Option<Bytes>> {
        let (piece, rest) = match *body {
            Body::Length(0) => return Ok(None),
            Body::Length(length) => {
                let piece = self.some(length).await?;
                let rest = length - piece.len() as u64;
                (piece, Body::Length(rest))
            }
            Body::Chunk(length) => {
                let piece = self.some(length).await?;
                match length - piece.len() as u64 {
                    0 => (piece, Body::Chunks),
                    rest => (piece, Body::Chunk(rest)),
                }
            }
            Body::Chunks => {
                let line = self.line().await?;
                let text = String::from_utf8_lossy(&line);
                let size = text.split(';').next().unwrap_or_default().trim();
                let size = u64::from_str_radix(size, 16);
                match size.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))? {
                    0 => (line, Body::Trailer),
                    size => (line, Body::Chunk(size + 2)),
                }
            }
            Body::Trailer => {
                let line = self.line().await?;
                let is_last = line.len() == 2;
                (line, if is_last { Body::Length(0) } else { *body })
            }
            Body::Close => {
                if self.buffer.is_empty() && !self.fill().await? {
                    return Ok(None);
                }
                (self.buffer.split().freeze(), *body)
            }
        };
        *body = rest;
        Ok(Some(piece))
    }

    /// Some bytes, and at most so many.
    async fn some(&mut self, most: u64) -> io::Result<Bytes> {
        if self.buffer.is_empty() && !self.fill().await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = self.buffer.len().min(usize::try_from(most).unwrap());
        Ok(self.buffer.split_to(length).freeze())
    }

    /// A line, with its end.
    async fn line(&mut self) -> io::Result<Bytes> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                return Ok(self.buffer.split_to(at + 2).freeze());
            }
            if !self.fill().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

impl Head {
    fn parse(bytes: &[u8]) -> io::Result<Self> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default().to_owned();
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
            Ok((name.to_owned(), value.trim().to_owned()))
        });
        let headers: Result<_, io::ErrorKind> = headers.collect();
        Ok(Self {
            first,
            headers: headers?,
        })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        value_of(&self.headers, name)
    }

    /// A word of the first line, from 0.
    pub fn word(&self, index: usize) -> &str {
        self.first.split(' ').nth(index).unwrap_or_default()
    }

    /// The number of a status line.
    pub fn status(&self) -> io::Result<u16> {
        let parsed = self.word(1).parse();
        parsed.map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// How the body of a request is marked off.
    pub fn body_of_request(&self) -> io::Result<Body> {
        Ok(self.marked()?.unwrap_or(Body::Length(0)))
    }

    /// How the body of an answer to a request of that method is marked off.
    pub fn body_of_answer(&self, method: &str) -> io::Result<Body> {
        if method == "HEAD" || matches!(self.status()?, 100..=199 | 204 | 304) {
            return Ok(Body::Length(0));
        }
        Ok(self.marked()?.unwrap_or(Body::Close))
    }

    fn marked(&self) -> io::Result<Option<Body>> {
        let coding = self.header("transfer-encoding").unwrap_or_default();
        if coding.to_ascii_lowercase().ends_with("chunked") {
            return Ok(Some(Body::Chunks));
        }
        let length = self.header("content-length").map(str::parse).transpose();
        let length = length.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(length.map(Body::Length))
    }

    pub fn bytes(&self) -> Bytes {
        let mut text = format!("{}\r\n", self.first);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += "\r\n";
        Bytes::from(text)
    }
}

/// The value of a header.
pub fn value_of<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut found = headers.iter();
    let found = found.find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_str())
}

/// Cuts a piece to what is left of `most`. True when nothing is left then.
pub fn cut(piece: &mut Bytes, most: &mut u64) -> bool {
    let length = usize::try_from(*most).unwrap_or(usize::MAX);
    piece.truncate(length);
    *most -= piece.remaining() as u64;
    *most == 0
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes
        .windows(pattern.len())
        .position(|window| window == pattern)
}
