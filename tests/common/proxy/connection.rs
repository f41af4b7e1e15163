//! One connection of a client, and that to the server.

use super::wire::{Body, Head, Wire, cut};
use super::{Harm, Request, Shared};
use bytes::{Bytes, BytesMut};
use rustix::net::sockopt::set_socket_linger;
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// How a connection ends.
enum End {
    /// As it should.
    Closed,
    /// With a reset.
    Reset,
}

/// What is known of a request when its answer is due.
struct Asked {
    method: String,
    /// Its place in the list of requests, if that is still the same.
    number: usize,
    harm: Option<Harm>,
}

pub struct Connection {
    shared: Arc<Shared>,
    number: u64,
    /// The client's socket, below whatever is spoken there.
    socket: OwnedFd,
}

impl Connection {
    pub fn new(shared: Arc<Shared>, number: u64, client: &TcpStream) -> Self {
        let _ = client.set_nodelay(true);
        Self {
            shared,
            number,
            socket: rustix::io::fcntl_dupfd_cloexec(client, 0).unwrap(),
        }
    }

    /// Serves it to its end.
    pub async fn serve(self, client: impl AsyncRead + AsyncWrite) {
        let end = match TcpStream::connect(("127.0.0.1", self.shared.target)).await {
            Ok(server) => {
                let _ = server.set_nodelay(true);
                let (from_client, mut to_client) = tokio::io::split(client);
                let (from_server, to_server) = server.into_split();
                let (sender, asked) = mpsc::unbounded_channel();
                let end = tokio::select! {
                    end = self.take_requests(from_client, to_server, sender) => end,
                    end = self.give_answers(from_server, &mut to_client, asked) => end,
                };
                if matches!(end, Ok(End::Closed)) {
                    let _ = to_client.shutdown().await;
                }
                // Both halves go below.
                end.unwrap_or(End::Reset)
            }
            Err(_) => End::Reset,
        };
        if matches!(end, End::Reset) {
            let _ = set_socket_linger(&self.socket, Some(Duration::ZERO));
        }
    }

    /// Forwards requests until the client has no more.
    async fn take_requests(
        &self,
        client: impl AsyncRead + Unpin,
        mut server: impl AsyncWrite + Unpin,
        asked: mpsc::UnboundedSender<Asked>,
    ) -> io::Result<End> {
        let mut client = Wire::new(client);
        while let Some(head) = client.head().await? {
            let (request, latency) = self.note(&head);
            let mut body = head.body_of_request()?;
            let harm = request.harm.clone();
            let mut most = match &harm {
                Some(Harm::ResetRequest(None)) => return Ok(End::Reset),
                Some(Harm::ResetRequest(Some(bytes)) | Harm::StallRequest(bytes)) => *bytes,
                _ => u64::MAX,
            };
            let goes_on = !matches!(harm, Some(Harm::NoAnswer | Harm::Answer(..)));
            if goes_on {
                tokio::time::sleep(latency).await;
                server.write_all(&head.bytes()).await?;
                // The answer may come before the body is through.
                let _ = asked.send(request);
                let mut sent = 0;
                while most > 0 {
                    let Some(mut piece) = client.piece(&mut body).await? else {
                        break;
                    };
                    cut(&mut piece, &mut most);
                    if let Some(Harm::FlipRequest(at)) = harm {
                        piece = flipped(piece, at, sent);
                    }
                    sent += piece.len() as u64;
                    server.write_all(&piece).await?;
                }
                match harm {
                    Some(Harm::ResetRequest(_)) => return Ok(End::Reset),
                    Some(Harm::StallRequest(_)) => pending().await,
                    _ => {}
                }
            } else {
                while client.piece(&mut body).await?.is_some() {}
                tokio::time::sleep(latency).await;
                let _ = asked.send(request);
            }
        }
        Ok(End::Closed)
    }

    /// Forwards answers until the server has no more.
    async fn give_answers(
        &self,
        server: impl AsyncRead + Unpin,
        client: &mut (impl AsyncWrite + Unpin),
        mut asked: mpsc::UnboundedReceiver<Asked>,
    ) -> io::Result<End> {
        let mut server = Wire::new(server);
        loop {
            let Some(request) = asked.recv().await else {
                // The other half says how it ends.
                pending().await
            };
            match &request.harm {
                Some(Harm::NoAnswer) => pending().await,
                Some(Harm::Answer(status, headers)) => {
                    self.note_status(&request, *status);
                    client.write_all(&made_up(*status, headers)).await?;
                    continue;
                }
                // What the server says to half a request does not matter.
                Some(Harm::ResetRequest(_) | Harm::StallRequest(_)) => pending().await,
                _ => {}
            }
            let mut head = loop {
                match server.head().await? {
                    None => return Ok(End::Closed),
                    Some(head) if head.status()? < 200 => client.write_all(&head.bytes()).await?,
                    Some(head) => break head,
                }
            };
            self.note_status(&request, head.status()?);
            self.readdress(&mut head);
            let mut body = head.body_of_answer(&request.method)?;
            let is_last = body == Body::Close;
            if request.harm == Some(Harm::LoseAnswer) {
                return Ok(End::Reset);
            }
            client.write_all(&head.bytes()).await?;
            let mut most = match &request.harm {
                Some(Harm::ResetAnswer(n) | Harm::StallAnswer(n) | Harm::Truncate(n)) => *n,
                _ => u64::MAX,
            };
            let mut sent = 0;
            while most > 0 {
                let Some(mut piece) = server.piece(&mut body).await? else {
                    break;
                };
                cut(&mut piece, &mut most);
                if let Some(Harm::Flip(at)) = request.harm {
                    piece = flipped(piece, at, sent);
                }
                sent += piece.len() as u64;
                client.write_all(&piece).await?;
            }
            client.flush().await?;
            match &request.harm {
                Some(Harm::ResetAnswer(_)) => {
                    // A reset overtakes what the client has not read yet.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    return Ok(End::Reset);
                }
                Some(Harm::StallAnswer(_)) => pending().await,
                Some(Harm::Truncate(_)) => return Ok(End::Closed),
                _ if is_last => return Ok(End::Closed),
                _ => {}
            }
        }
    }

    /// Records a request, and finds out what is to be done to it.
    fn note(&self, head: &Head) -> (Asked, Duration) {
        let (method, target) = (head.word(0), head.word(1));
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut state = self.shared.lock();
        let mut rules = state.rules.iter_mut();
        let harm = rules.find_map(|rule| rule.judge(method, target));
        let latency = state.latency;
        state.requests.push(Request {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers: head.headers.clone(),
            connection: self.number,
            harm: harm.clone(),
            status: None,
        });
        let asked = Asked {
            method: method.to_owned(),
            number: state.taken + state.requests.len() - 1,
            harm,
        };
        (asked, latency)
    }

    fn note_status(&self, asked: &Asked, status: u16) {
        let mut state = self.shared.lock();
        let place = asked.number.checked_sub(state.taken);
        if let Some(request) = place.and_then(|place| state.requests.get_mut(place)) {
            request.status = Some(status);
        }
    }

    /// See the page of the module above.
    fn readdress(&self, head: &mut Head) {
        let Some(own) = &self.shared.own_url else {
            return;
        };
        let found = head
            .headers
            .iter_mut()
            .find(|(name, _)| name.eq_ignore_ascii_case("x-storage-url"));
        if let Some((_, url)) = found {
            let path = url.splitn(4, '/').nth(3).unwrap_or_default();
            *url = format!("{own}/{path}");
        }
    }
}

/// An answer without a body.
fn made_up(status: u16, headers: &[(&str, String)]) -> Bytes {
    let mut head = Head {
        first: format!("HTTP/1.1 {status} Made up"),
        headers: vec![("content-length".to_owned(), "0".to_owned())],
    };
    let more = headers.iter();
    head.headers
        .extend(more.map(|(name, value)| ((*name).to_owned(), value.clone())));
    head.bytes()
}

/// A piece that begins at `start` of a body, with a bit of the byte `at` flipped.
fn flipped(piece: Bytes, at: u64, start: u64) -> Bytes {
    let place = at
        .checked_sub(start)
        .and_then(|at| usize::try_from(at).ok());
    let mut piece = BytesMut::from(piece);
    if let Some(byte) = place.and_then(|place| piece.get_mut(place)) {
        *byte ^= 1;
    }
    piece.freeze()
}
