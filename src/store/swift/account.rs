//! An account of a Swift: requests to it, sent by who is logged in, repeated while what
//! went wrong may pass, and given up at their deadline.
//!
//! Knows HTTP, tokens and patience. Must not know what the objects are for.

use super::call::{Call, Progress};
use super::failure::{Again, Failure};
use super::login::{Session, log_in};
use super::trust;
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::store::Body;
use crate::task::Queue;
use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderValue};
use reqwest::{Client, Method, Response, StatusCode};
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout, timeout_at};

/// The longest wait between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(64);
/// A first connection that broke was perhaps an idle one that the server had closed: that
/// is no sign of trouble.
const SHORT_PAUSE: Duration = Duration::from_millis(100);
/// A request that shows no progress for this part of its time is given up, and sent again.
const STALLS_IN_TIME: u32 = 2;
/// So long after a request was given up that nobody answered, those that only look are not
/// repeated: a folder of a store that is down should not take a minute to say so, again and
/// again. What is stored is worth the wait: a backup would fail.
const DOWN: Duration = Duration::from_secs(5);
/// So long after a question was given up that nobody answered, it is not asked again. The
/// kernel asks once for everybody who waits for a page, one after the other.
const SAME_QUESTION: Duration = Duration::from_secs(1);
/// So soon a token is asked for again when the old one was given, whose end is near.
const SAME_TOKEN: Duration = Duration::from_millis(250);
/// So long after a token could not be renewed that holds still, it is not tried again.
const RENEWAL_PAUSE: Duration = Duration::from_secs(5);
/// So long a refused login is not tried again: services lock users out who try too often.
const REFUSED: Duration = Duration::from_secs(10);
/// A second more for each so many bytes of a body: the least speed that is taken for one.
const LEAST_BYTES_A_SECOND: u64 = 1 << 20;
/// So many tokens may be refused in a row: TempAuth gives one that ends at once.
const LOGINS: u32 = 3;
/// What is collected of an answer is never longer than this.
const LARGEST_ANSWER: usize = 64 << 20;

/// See the module's page.
pub(super) struct Account {
    login: config::Login,
    retry_attempts: u32,
    retry_backoff: Duration,
    request_timeout: Duration,
    client: Client,
    entry: Queue<Entry>,
    /// How often somebody has logged in, also for those who wait for that.
    logins: AtomicU64,
    /// A token of ours was taken at least once.
    was_taken: AtomicBool,
    began: Instant,
    /// When a request was given up that nobody answered, in milliseconds from `began`; 0:
    /// not.
    failed: AtomicU64,
    /// Questions that were given up a moment ago.
    unanswered: std::sync::Mutex<HashMap<String, (Instant, Error)>>,
    /// What was last tried again and has not been better since.
    retried: std::sync::Mutex<Option<Error>>,
}

/// Whether we are logged in.
#[derive(Default)]
struct Entry {
    /// Counts logins.
    number: u64,
    session: Option<Arc<Session>>,
    /// The last login was refused, and would be again.
    refused: Option<(Instant, Failure)>,
}

/// An answer with all of its body.
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account at {}", self.server())
    }
}

/// How often, and until when, a request is tried.
pub(super) struct Tries {
    pub deadline: tokio::time::Instant,
    time: Duration,
    left: u32,
    done: u32,
    backoff: Duration,
    last: Option<Error>,
    /// The server has answered, though not as it should.
    answered: bool,
}

impl Tries {
    /// Waits until it is time to try again.
    ///
    /// # Errors
    /// The failure, when there is no point in that.
    pub async fn pause(&mut self, failure: Failure) -> Result<()> {
        let Failure {
            error,
            again,
            answered,
        } = failure;
        self.answered |= answered;
        let jitter = |longest: Duration| longest.mul_f64(0.5 + fastrand::f64() / 2.0);
        let wait = match again {
            Again::Never => return Err(error),
            Again::Soon if self.done == 0 => jitter(SHORT_PAUSE),
            Again::Soon | Again::Backoff => jitter(self.backoff),
            Again::After(wait) => wait + jitter(SHORT_PAUSE),
        };
        let is_late = tokio::time::Instant::now() + wait >= self.deadline;
        if self.left == 0 || is_late {
            return Err(error);
        }
        tracing::debug!("tried again in {wait:?}: {error}");
        self.left -= 1;
        self.done += 1;
        self.backoff = (self.backoff * 2).min(LONGEST_PAUSE);
        self.last = Some(error);
        sleep(wait).await;
        Ok(())
    }

    /// So many bytes have come: that takes its time.
    pub fn extend(&mut self, bytes: u64) {
        self.deadline += Duration::from_secs_f64(bytes as f64 / LEAST_BYTES_A_SECOND as f64);
    }

    /// The error at the deadline.
    pub fn timed_out(&self, op: &'static str, subject: &str) -> Error {
        let time = self.time.as_secs_f64().round();
        let reason = match &self.last {
            Some(last) => format!("not done in {time} s; the last try: {}", last.reason()),
            None => format!("no answer in {time} s"),
        };
        Error::new(Kind::TimedOut, op, subject, reason)
            .advise("see whether the store is up, or allow more time (request_timeout)")
    }
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Account {
    /// An account, to which nobody is logged in yet.
    ///
    /// # Errors
    /// When the certificates that it is to trust cannot be read.
    pub fn new(options: &config::Swift) -> Result<Self> {
        Ok(Self {
            login: options.login.clone(),
            retry_attempts: options.retry_attempts,
            retry_backoff: options.retry_backoff,
            request_timeout: options.request_timeout,
            client: trust::client(&options.trust, options.request_timeout)?,
            entry: Queue::default(),
            logins: AtomicU64::new(0),
            was_taken: AtomicBool::new(false),
            began: Instant::now(),
            failed: AtomicU64::new(0),
            unanswered: std::sync::Mutex::default(),
            retried: std::sync::Mutex::default(),
        })
    }

    /// Where it is, as far as that is known without asking, for messages.
    pub fn server(&self) -> &str {
        match &self.login {
            config::Login::Token { storage_url, .. } => storage_url,
            config::Login::V1 { auth_url, .. }
            | config::Login::V2 { auth_url, .. }
            | config::Login::V3 { auth_url, .. } => auth_url,
        }
    }

    /// How often a request may be tried that sends so many bytes along, or only looks.
    pub fn tries(&self, bytes: u64, looks: bool) -> Tries {
        let time = self.request_timeout + Duration::from_secs(bytes / LEAST_BYTES_A_SECOND);
        let now = self.began.elapsed().as_millis() as u64;
        let failed = self.failed.load(Ordering::Relaxed);
        let is_down = failed > 0 && now.saturating_sub(failed) < DOWN.as_millis() as u64;
        Tries {
            deadline: tokio::time::Instant::now() + time,
            time,
            left: match looks && is_down {
                true => 0,
                false => self.retry_attempts,
            },
            done: 0,
            backoff: self.retry_backoff,
            last: None,
            answered: false,
        }
    }

    /// What the same question was given up with, a moment ago.
    pub fn just_failed(&self, question: &str) -> Option<Error> {
        let unanswered = lock(&self.unanswered);
        let (at, error) = unanswered.get(question)?;
        (at.elapsed() < SAME_QUESTION).then(|| error.clone())
    }

    /// What is tried again just now.
    pub fn retried(&self) -> Option<Error> {
        lock(&self.retried).clone()
    }

    /// A request was given up, or was not: others learn from it.
    pub fn note<T>(&self, tries: &Tries, question: Option<&str>, outcome: Result<T>) -> Result<T> {
        let failed = match &outcome {
            Err(e) if !tries.answered && matches!(e.kind(), Kind::Unavailable | Kind::TimedOut) => {
                if let Some(question) = question {
                    let mut unanswered = lock(&self.unanswered);
                    unanswered.retain(|_, (at, _)| at.elapsed() < SAME_QUESTION);
                    unanswered.insert(question.to_owned(), (Instant::now(), e.clone()));
                }
                (self.began.elapsed().as_millis() as u64).max(1)
            }
            _ => 0,
        };
        self.failed.store(failed, Ordering::Relaxed);
        outcome
    }

    /// Sends a request and collects the answer.
    ///
    /// # Errors
    /// Those of the call, once there is no point in trying again; `TimedOut`.
    pub async fn ask(&self, call: &Call<'_>) -> Result<Answer> {
        let question = call.question();
        let question = question.as_deref();
        if let Some(e) = question.and_then(|question| self.just_failed(question)) {
            return Err(e);
        }
        let mut tries = self.tries(call.bytes(), question.is_some());
        let asked = timeout_at(tries.deadline, async {
            loop {
                match self.ask_once(call).await {
                    Ok(answer) => {
                        *lock(&self.retried) = None;
                        return Ok(answer);
                    }
                    Err(failure) => {
                        *lock(&self.retried) = Some(failure.error.clone());
                        tries.pause(failure).await?;
                    }
                }
            }
        });
        let asked = asked.await;
        let asked = asked.unwrap_or_else(|_| Err(tries.timed_out(call.op, &call.subject())));
        self.note(&tries, question, asked)
    }

    async fn ask_once(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        let mut response = self.begin(call).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = BytesMut::new();
        while let Some(piece) = self.piece(call, &mut response).await? {
            body.extend_from_slice(&piece);
            if body.len() > LARGEST_ANSWER {
                return Err(call.invalid("the answer is far too long"));
            }
        }
        Ok(Answer {
            status,
            headers,
            body: body.freeze(),
        })
    }

    /// Sends a request once, and gives the answer as far as its headers. One that is refused
    /// because the login has ended is sent again after another.
    pub async fn begin(&self, call: &Call<'_>) -> Result<Response, Failure> {
        let mut logins = match &self.login {
            // It would be the same token again.
            config::Login::Token { .. } => 1,
            _ => LOGINS,
        };
        let mut over: Option<Arc<Session>> = None;
        let response = loop {
            let session = self.session(over.as_deref(), call).await?;
            let response = self.send(call, &session).await?;
            logins -= 1;
            if response.status() != StatusCode::UNAUTHORIZED || logins == 0 {
                break response;
            }
            over = Some(session);
        };
        let status = response.status();
        let is_refused = status == StatusCode::UNAUTHORIZED;
        if !is_refused {
            self.was_taken.store(true, Ordering::Relaxed);
        }
        if status.is_success() || call.fine.contains(&status) {
            return Ok(response);
        }
        let mut failure = Failure::of_status(call.op, &call.subject(), status, response.headers());
        // Who logs in is known to it: the tokens end faster than it answers, or it has
        // forgotten them all.
        if is_refused && over.is_some() && self.was_taken.load(Ordering::Relaxed) {
            failure.again = Again::Backoff;
        }
        Err(failure)
    }

    /// What the server tells of itself, without any login; `None` when it does not.
    ///
    /// # Errors
    /// When it is not known whether it would.
    pub async fn capabilities(&self) -> Result<Option<Bytes>> {
        let call = Call::new("ask", Method::GET, None);
        let asked = async {
            let session = self.session(None, &call).await?;
            let url = session.storage_url.join("/info");
            let url = url.map_err(|e| call.invalid(e))?;
            let sent = self.client.get(url).send().await;
            let of_transport = |e| Failure::of_transport(call.op, "the server", &e);
            let response = sent.map_err(of_transport)?;
            match response.status() {
                StatusCode::OK => response.bytes().await.map(Some).map_err(of_transport),
                status if status.is_server_error() => {
                    let headers = response.headers();
                    Err(Failure::of_status(call.op, "the server", status, headers))
                }
                _ => Ok(None),
            }
        };
        match timeout(self.patience(), asked).await {
            Ok(asked) => asked.map_err(|failure| failure.error),
            Err(_) => Err(self.stalled(&call, "there is no answer").error),
        }
    }

    /// The next piece of an answer.
    pub async fn piece(
        &self,
        call: &Call<'_>,
        response: &mut Response,
    ) -> Result<Option<Bytes>, Failure> {
        match timeout(self.patience(), response.chunk()).await {
            Ok(Ok(piece)) => Ok(piece),
            Ok(Err(e)) => Err(Failure::of_transport(call.op, &call.subject(), &e)),
            Err(_) => Err(self.stalled(call, "the answer stopped in the middle")),
        }
    }

    async fn send(&self, call: &Call<'_>, session: &Session) -> Result<Response, Failure> {
        let url = call.url(&session.storage_url)?;
        let token = HeaderValue::from_str(session.token.expose());
        let reason = "the token that was given holds characters that no header may hold";
        let mut token = token.map_err(|_| call.invalid(reason))?;
        token.set_sensitive(true);
        let progress = Progress::default();
        let mut request = self
            .client
            .request(call.method.clone(), url)
            .headers(call.headers.clone())
            .header("X-Auth-Token", token);
        // Without a body, too: some servers want to be told that there is none.
        if matches!(call.method, Method::PUT | Method::POST) {
            let length = call.body.as_ref().map_or(0, Body::len);
            request = request.header(CONTENT_LENGTH, length);
        }
        if let Some(body) = &call.body {
            request = request.body(progress.stream(body.clone()));
        }
        let mut sending = std::pin::pin!(request.send());
        let mut seen = progress.get();
        loop {
            match timeout(self.patience(), &mut sending).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(e)) => return Err(Failure::of_transport(call.op, &call.subject(), &e)),
                // A large body takes its time.
                Err(_) if progress.get() > seen => seen = progress.get(),
                Err(_) => return Err(self.stalled(call, "there is no answer")),
            }
        }
    }

    /// How long nothing may happen.
    fn patience(&self) -> Duration {
        self.request_timeout / STALLS_IN_TIME
    }

    fn stalled(&self, call: &Call<'_>, what: &str) -> Failure {
        let reason = format!("{what}, for {} s", self.patience().as_secs_f64());
        let error = Error::new(Kind::TimedOut, call.op, call.subject(), reason);
        Failure::new(error, Again::Soon)
    }

    /// Who we are: logs in when nobody has, or when the token of `over` has ended,
    /// or will in a moment. All who need it wait for one login.
    async fn session(
        &self,
        over: Option<&Session>,
        call: &Call<'_>,
    ) -> Result<Arc<Session>, Failure> {
        let before = self.logins.load(Ordering::Relaxed);
        let turn = self.entry.turn().await;
        let mut entry = turn.map_err(|error| Failure::new(error, Again::Backoff))?;
        // Not by number: several logins may have given the same token.
        let holds = |session: &Arc<Session>| over.is_none_or(|over| over.token != session.token);
        let known = entry.session.clone().filter(holds);
        // Of a login that has just been, or with one that holds for a while.
        if let Some(session) = &known
            && (before != entry.number || session.renew_at.is_none_or(|at| Instant::now() < at))
        {
            return Ok(Arc::clone(session));
        }
        if let Some((at, failure)) = &entry.refused
            && at.elapsed() < REFUSED
        {
            return Err(failure.clone());
        }
        let refused = |failure: &Failure| matches!(failure.again, Again::Never);
        match timeout(self.patience(), log_in(&self.client, &self.login)).await {
            Ok(Ok(mut session)) => {
                // TempAuth gives the same token until it has ended, which is any moment now.
                let is_same = |old: &Arc<Session>| old.token == session.token;
                if session.renew_at.is_none() && entry.session.as_ref().is_some_and(is_same) {
                    session.renew_at = Some(Instant::now() + SAME_TOKEN);
                }
                let session = Arc::new(session);
                let number = entry.number + 1;
                self.logins.store(number, Ordering::Relaxed);
                *entry = Entry {
                    number,
                    session: Some(Arc::clone(&session)),
                    refused: None,
                };
                tracing::debug!("logged in to {}", self.server());
                Ok(session)
            }
            Ok(Err(failure)) if refused(&failure) && known.is_none() => {
                entry.session = None;
                entry.refused = Some((Instant::now(), failure.clone()));
                Err(failure)
            }
            failed => match known {
                // The old one holds for a while still, and not everybody need try at once.
                Some(session) => {
                    let session = Arc::new(Session {
                        renew_at: Some(Instant::now() + RENEWAL_PAUSE),
                        token: session.token.clone(),
                        storage_url: session.storage_url.clone(),
                    });
                    entry.session = Some(Arc::clone(&session));
                    Ok(session)
                }
                None => {
                    let failure = match failed {
                        Ok(Err(failure)) => failure,
                        _ => self.stalled(call, "the login is not answered"),
                    };
                    let _ = entry.note::<()>(Err(failure.error.clone()));
                    Err(failure)
                }
            },
        }
    }
}
