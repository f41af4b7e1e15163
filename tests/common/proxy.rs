//! A proxy for HTTP that stands between a client and a server, counts what goes by, and
//! does harm on demand. It may speak TLS to the client, with a certificate that nobody
//! trusts unless told to.
//!
//! It knows where requests and answers begin and end (HTTP/1.1 with connections that are
//! kept), and changes nothing in them, but for one header: Swift builds the address of the
//! account (X-Storage-Url) from the header Host, and so sends the client to the proxy
//! again; but over plain HTTP, where the client came by TLS.

mod connection;
mod wire;

use connection::Connection;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

/// What is done to a request, or to its answer. Bytes are those of bodies, as they are
/// sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Harm {
    /// The connection is reset after that many bytes of the request's body have reached
    /// the server; with None, before anything of the request has.
    ResetRequest(Option<u64>),
    /// After that many bytes of the request's body no more of them are taken.
    StallRequest(u64),
    /// A bit of that byte of the request's body is flipped.
    FlipRequest(u64),
    /// The request never reaches the server, and nothing answers.
    NoAnswer,
    /// The server does what it is asked for, and its answer is lost: the connection is
    /// reset.
    LoseAnswer,
    /// The connection is reset after that many bytes of the answer's body.
    ResetAnswer(u64),
    /// Nothing comes after that many bytes of the answer's body.
    StallAnswer(u64),
    /// The connection is closed, in order, after that many bytes of the answer's body.
    Truncate(u64),
    /// A bit of that byte of the answer's body is flipped.
    Flip(u64),
    /// The request never reaches the server: this is answered, with these headers.
    Answer(u16, Vec<(&'static str, String)>),
    /// One of these, by the rule's dice.
    OneOf(Vec<Harm>),
}

/// Which requests are harmed, and how.
#[derive(Debug, Clone)]
pub struct Rule {
    harm: Harm,
    method: Option<&'static str>,
    part: String,
    skip: u64,
    times: u64,
    /// Of a million.
    chance: u32,
    dice: fastrand::Rng,
}

impl Rule {
    /// For every request.
    pub fn new(harm: Harm) -> Self {
        Self {
            harm,
            method: None,
            part: String::new(),
            skip: 0,
            times: u64::MAX,
            chance: 1_000_000,
            dice: fastrand::Rng::with_seed(1),
        }
    }

    /// The proxy answers these requests itself.
    pub fn answer(status: u16) -> Self {
        Self::new(Harm::Answer(status, Vec::new()))
    }

    /// A percentage of all requests, by dice that fall the same in every run: they fail in
    /// each of the ways that pass when one tries again.
    pub fn random(percent: f64, seed: u64) -> Self {
        let mut rule = Self::new(Harm::OneOf(vec![
            Harm::ResetRequest(None),
            Harm::ResetRequest(Some(10)),
            Harm::LoseAnswer,
            Harm::ResetAnswer(10),
            Harm::Truncate(10),
            Harm::Answer(500, Vec::new()),
            Harm::Answer(503, vec![("Retry-After", "0".to_owned())]),
        ]));
        rule.chance = (percent * 10_000.0) as u32;
        rule.dice = fastrand::Rng::with_seed(seed);
        rule
    }

    /// Only requests of that method.
    pub fn on(mut self, method: &'static str) -> Self {
        self.method = Some(method);
        self
    }

    /// Only requests whose path, with the query, has that part in it.
    pub fn at(mut self, part: impl Into<String>) -> Self {
        self.part = part.into();
        self
    }

    /// Not the first so many of them.
    pub fn skip(mut self, count: u64) -> Self {
        self.skip = count;
        self
    }

    /// Only that many of them.
    pub fn times(mut self, count: u64) -> Self {
        self.times = count;
        self
    }

    /// What is done to this request.
    fn judge(&mut self, method: &str, target: &str) -> Option<Harm> {
        let is_meant = self.method.is_none_or(|wanted| wanted == method);
        if !is_meant || !target.contains(&self.part) || self.times == 0 {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        if self.dice.u32(0..1_000_000) >= self.chance {
            return None;
        }
        self.times -= 1;
        Some(match &self.harm {
            Harm::OneOf(all) => self.dice.choice(all).unwrap().clone(),
            harm => harm.clone(),
        })
    }
}

/// A request that has come by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// Without the query.
    pub path: String,
    /// Empty when there is none.
    pub query: String,
    pub headers: Vec<(String, String)>,
    /// The connection that it came by, from 1.
    pub connection: u64,
    /// What was done to it.
    pub harm: Option<Harm>,
    /// What was answered, by the server or by the proxy; None when nothing was (yet).
    pub status: Option<u16>,
}

impl Request {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        wire::value_of(&self.headers, name)
    }
}

/// See the module's page. All connections end with it.
pub struct Proxy {
    runtime: Option<Runtime>,
    port: u16,
    shared: Arc<Shared>,
    certificate: Option<tempfile::NamedTempFile>,
}

/// What a test says while connections are served.
struct Shared {
    /// Where the server is.
    target: u16,
    /// The own address, when it differs from what the server thinks.
    own_url: Option<String>,
    state: Mutex<State>,
    connections: AtomicU64,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    latency: Duration,
    requests: Vec<Request>,
    /// How many were taken away before these.
    taken: usize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proxy {
    /// Before the server at that port.
    pub fn start(target: u16) -> Self {
        Self::with(target, false)
    }

    /// The same, with TLS to the client.
    pub fn start_tls(target: u16) -> Self {
        Self::with(target, true)
    }

    fn with(target: u16, tls: bool) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        // Not by the runtime: callers may be in one, where others must not be waited for.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (acceptor, certificate) = tls.then(certified).unzip();
        let shared = Arc::new(Shared {
            target,
            own_url: tls.then(|| format!("https://127.0.0.1:{port}")),
            state: Mutex::default(),
            connections: AtomicU64::new(0),
        });
        runtime.spawn(accept(listener, acceptor, Arc::clone(&shared)));
        Self {
            runtime: Some(runtime),
            port,
            shared,
            certificate,
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// As in `http://127.0.0.1:8080`.
    pub fn url(&self) -> String {
        let plain = || format!("http://127.0.0.1:{}", self.port);
        self.shared.own_url.clone().unwrap_or_else(plain)
    }

    /// A file with the certificate (PEM), when it speaks TLS.
    pub fn certificate(&self) -> &Path {
        self.certificate.as_ref().unwrap().path()
    }

    /// From now on, each request reaches the server that much later.
    pub fn set_latency(&self, latency: Duration) {
        self.shared.lock().latency = latency;
    }

    /// One more rule. Of those that are meant for a request the first one counts.
    pub fn add(&self, rule: Rule) {
        self.shared.lock().rules.push(rule);
    }

    /// No more harm, but what is stalled remains so.
    pub fn relent(&self) {
        self.shared.lock().rules.clear();
    }

    /// All requests since the last call.
    pub fn take_requests(&self) -> Vec<Request> {
        let mut state = self.shared.lock();
        state.taken += state.requests.len();
        std::mem::take(&mut state.requests)
    }

    /// All requests since the last call of [`Self::take_requests`].
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().requests.clone()
    }

    /// How many of these have that method, and that part in their path and query.
    pub fn count(&self, method: &str, part: &str) -> usize {
        let is_meant = |request: &&Request| {
            let target = format!("{}?{}", request.path, request.query);
            request.method == method && target.contains(part)
        };
        self.requests().iter().filter(is_meant).count()
    }

    /// How many connections there have been.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(
    listener: std::net::TcpListener,
    acceptor: Option<TlsAcceptor>,
    shared: Arc<Shared>,
) {
    let listener = TcpListener::from_std(listener).unwrap();
    while let Ok((client, _)) = listener.accept().await {
        let number = 1 + shared.connections.fetch_add(1, Ordering::Relaxed);
        let connection = Connection::new(Arc::clone(&shared), number, &client);
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            match acceptor {
                None => connection.serve(client).await,
                // Who does not trust us says so, and is gone.
                Some(acceptor) => {
                    if let Ok(client) = acceptor.accept(client).await {
                        connection.serve(client).await;
                    }
                }
            }
        });
    }
}

/// TLS with a certificate of its own, and the file that it is in.
fn certified() -> (TlsAcceptor, tempfile::NamedTempFile) {
    use tokio_rustls::rustls;
    let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), made.cert.pem()).unwrap();
    let key = made.signing_key.serialize_der();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), file)
}
