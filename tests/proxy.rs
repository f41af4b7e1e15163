//! The proxy that other tests put before servers does what it says, and nothing else.

mod common;

use common::proxy::{Harm, Proxy, Request, Rule};
use common::swift::{Answer, Http};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// What a server was asked: the first line and the body.
type Asked = (String, Vec<u8>);

/// A server that keeps connections, takes bodies of either form, and answers `GET /N` with
/// N bytes, `GET /chunks/N` with the same in chunks of seven, and anything else with what
/// was sent.
fn serve() -> (u16, Receiver<Asked>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, asked) = channel();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let (connection, sender) = (connection.unwrap(), sender.clone());
            std::thread::spawn(move || answer_all(connection, |asked| sender.send(asked).is_ok()));
        }
    });
    (port, asked)
}

fn answer_all(mut connection: TcpStream, mut tell: impl FnMut(Asked) -> bool) {
    let mut reader = BufReader::new(connection.try_clone().unwrap());
    while let Some(lines) = head(&mut reader) {
        let Some(body) = body(&mut reader, &lines) else {
            return;
        };
        let words: Vec<&str> = lines[0].split(' ').collect();
        let path = words[1].split('?').next().unwrap();
        if !tell((lines[0].clone(), body.clone())) {
            return;
        }
        let answer = match (words[0], path.strip_prefix("/chunks/")) {
            ("HEAD", _) => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n".into(),
            ("GET", Some(length)) => {
                let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
                for chunk in pattern(length.parse().unwrap()).chunks(7) {
                    answer.extend(format!("{:x}\r\n", chunk.len()).bytes());
                    answer.extend(chunk);
                    answer.extend(b"\r\n");
                }
                answer.extend(b"0\r\n\r\n");
                answer
            }
            ("GET", None) if path == "/closing" => {
                let answer = b"HTTP/1.0 200 OK\r\n\r\nall";
                connection.write_all(answer).unwrap();
                return;
            }
            ("GET", None) if path == "/account" => {
                "HTTP/1.1 204 No\r\nX-Storage-Url: http://127.0.0.1:1/v1/AUTH_a\r\n\r\n".into()
            }
            ("GET", None) => whole(&pattern(path[1..].parse().unwrap())),
            _ => {
                let mut answer = Vec::new();
                if lines.iter().any(|line| line.starts_with("Expect: ")) {
                    answer.extend(b"HTTP/1.1 100 Continue\r\n\r\n");
                }
                answer.extend(whole(&body));
                answer
            }
        };
        if connection.write_all(&answer).is_err() {
            return;
        }
    }
}

fn whole(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut answer = head.into_bytes();
    answer.extend(body);
    answer
}

fn head(reader: &mut impl BufRead) -> Option<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => return Some(lines),
            line => lines.push(line.to_owned()),
        }
    }
}

fn body(reader: &mut impl BufRead, lines: &[String]) -> Option<Vec<u8>> {
    let value = |name: &str| {
        let mut found = lines.iter().filter_map(|line| line.split_once(": "));
        let found = found.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_owned())
    };
    let mut body = Vec::new();
    if let Some(length) = value("Content-Length") {
        body.resize(length.parse().unwrap(), 0);
        reader.read_exact(&mut body).ok()?;
    } else if value("Transfer-Encoding").is_some() {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = usize::from_str_radix(size.split(';').next().unwrap().trim(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            if size == 0 {
                break;
            }
            body.extend(&chunk[..size]);
        }
    }
    Some(body)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8).collect()
}

/// A client that sees every byte.
struct Raw(TcpStream);

impl Raw {
    fn to(proxy: &Proxy) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        Self(stream)
    }

    fn ask(&mut self, text: &str) -> &mut Self {
        self.0.write_all(text.as_bytes()).unwrap();
        self
    }

    /// All up to the end, and how it ends.
    fn rest(&mut self) -> (Vec<u8>, Option<ErrorKind>) {
        let mut all = Vec::new();
        let end = self.0.read_to_end(&mut all).err().map(|e| e.kind());
        (all, end)
    }

    /// That many bytes.
    fn some(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Whether nothing more comes, for a while.
    fn is_silent(&mut self) -> bool {
        let wait = Some(Duration::from_millis(200));
        self.0.set_read_timeout(wait).unwrap();
        let error = self.0.read(&mut [0]).unwrap_err();
        matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
    }
}

fn http() -> Http {
    Http::new(None)
}

fn get(http: &Http, proxy: &Proxy, path: &str) -> Answer {
    http.send("GET", &format!("{}{path}", proxy.url()), &[], Vec::new())
}

/// What follows the head.
fn body_of(answer: &[u8]) -> &[u8] {
    let at = answer.windows(4).position(|four| four == b"\r\n\r\n");
    &answer[at.unwrap() + 4..]
}

const RESET: Option<ErrorKind> = Some(ErrorKind::ConnectionReset);

#[test]
fn all_goes_through_on_one_connection() {
    let (port, asked) = serve();
    let proxy = Proxy::start(port);
    let http = http();
    for length in [0, 1, 6, 7, 8, 100_000, 3_000_000] {
        for form in ["", "chunks/"] {
            let answer = get(&http, &proxy, &format!("/{form}{length}"));
            assert_eq!(answer.status, 200);
            assert!(answer.body == pattern(length), "{form}{length}");
        }
        let sent = http.send(
            "PUT",
            &format!("{}/a%20b?c=d", proxy.url()),
            &[],
            pattern(length),
        );
        assert!(sent.body == pattern(length), "{length}");
    }
    let head = http.send(
        "HEAD",
        &format!("{}/x", proxy.url()),
        &[("X-Mine", "1")],
        Vec::new(),
    );
    assert_eq!(head.header("content-length"), Some("1000"));
    assert_eq!(get(&http, &proxy, "/5").body, pattern(5));

    let requests = proxy.requests();
    assert_eq!(requests.len(), 7 * 3 + 2);
    assert_eq!(asked.try_iter().count(), requests.len());
    assert_eq!(proxy.connections(), 1);
    let put = &requests[2];
    assert_eq!(
        (&*put.method, &*put.path, &*put.query),
        ("PUT", "/a%20b", "c=d")
    );
    assert_eq!((put.connection, put.status), (1, Some(200)));
    assert_eq!(requests[21].header("x-mine"), Some("1"));
    assert_eq!(proxy.count("PUT", "a%20b?c=d"), 7);
    assert_eq!(proxy.count("GET", "/chunks/"), 7);
    assert_eq!(proxy.take_requests(), requests);
    assert_eq!(proxy.requests(), Vec::<Request>::new());
}

#[test]
fn requests_in_chunks_and_several_at_once() {
    let (port, asked) = serve();
    let proxy = Proxy::start(port);
    let mut raw = Raw::to(&proxy);
    raw.ask("POST /a HTTP/1.1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n");
    raw.ask("3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n");
    raw.ask("GET /3 HTTP/1.1\r\n\r\nGET /closing HTTP/1.1\r\n\r\n");
    let (all, end) = raw.rest();
    let all = String::from_utf8(all).unwrap();
    assert_eq!(end, None);
    assert!(
        all.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK"),
        "{all}"
    );
    assert!(all.contains("\r\n\r\nabcdeHTTP/1.1 200 OK"), "{all}");
    assert!(
        all.ends_with("\0\u{1}\u{2}HTTP/1.0 200 OK\r\n\r\nall"),
        "{all}"
    );
    let bodies: Vec<Vec<u8>> = asked.try_iter().map(|(_, body)| body).collect();
    assert_eq!(bodies, [b"abcde".to_vec(), vec![], vec![]]);
    assert_eq!(proxy.requests().len(), 3);
}

const PUT: &str = "PUT /x HTTP/1.1\r\nContent-Length: 10\r\n\r\n0123456789";

#[test]
fn requests_are_reset() {
    let (port, asked) = serve();
    let proxy = Proxy::start(port);
    for bytes in [None, Some(0), Some(5), Some(10)] {
        proxy.add(Rule::new(Harm::ResetRequest(bytes)).on("PUT").times(1));
        let (all, end) = Raw::to(&proxy).ask(PUT).rest();
        assert_eq!((all.len(), end), (0, RESET), "{bytes:?}");
    }
    // Only the last one was complete for the server.
    let (all, _) = Raw::to(&proxy)
        .ask(PUT)
        .ask("GET /closing HTTP/1.1\r\n\r\n")
        .rest();
    assert!(all.ends_with(b"all"));
    assert!(
        asked
            .try_iter()
            .filter(|(line, _)| line.contains("PUT"))
            .count()
            <= 2
    );
}

#[test]
fn answers_are_reset_cut_and_changed() {
    let (port, asked) = serve();
    let proxy = Proxy::start(port);
    for form in ["", "chunks/"] {
        let ask = format!("GET /{form}1000 HTTP/1.1\r\n\r\n");
        let (whole, _) = Raw::to(&proxy)
            .ask(&ask)
            .ask("GET /closing HTTP/1.1\r\n\r\n")
            .rest();
        let whole = body_of(&whole).to_vec();
        for bytes in [0_u64, 1, 999] {
            let begin = &whole[..usize::try_from(bytes).unwrap()];
            proxy.add(Rule::new(Harm::ResetAnswer(bytes)).times(1));
            let (all, end) = Raw::to(&proxy).ask(&ask).rest();
            assert_eq!((body_of(&all), end), (begin, RESET));
            proxy.add(Rule::new(Harm::Truncate(bytes)).times(1));
            let (all, end) = Raw::to(&proxy).ask(&ask).rest();
            assert_eq!((body_of(&all), end), (begin, None));
        }
    }
    proxy.add(Rule::new(Harm::Flip(700)).times(1));
    let flipped = get(&http(), &proxy, "/1000").body;
    let mut expected = pattern(1000);
    expected[700] ^= 1;
    assert!(flipped == expected);

    asked.try_iter().count();
    proxy.add(Rule::new(Harm::LoseAnswer).times(1));
    let (all, end) = Raw::to(&proxy).ask(PUT).rest();
    assert_eq!((all.len(), end), (0, RESET));
    assert_eq!(asked.try_iter().count(), 1, "the server has done it");
    assert_eq!(proxy.requests().last().unwrap().status, Some(200));
}

#[test]
fn stalls() {
    let (port, asked) = serve();
    let proxy = Proxy::start(port);
    proxy.add(Rule::new(Harm::NoAnswer).at("/1"));
    proxy.add(Rule::new(Harm::StallAnswer(3)).at("/2"));
    proxy.add(Rule::new(Harm::StallRequest(4)).on("PUT"));
    let mut raw = Raw::to(&proxy);
    assert!(raw.ask("GET /1 HTTP/1.1\r\n\r\n").is_silent());
    assert_eq!(asked.try_iter().count(), 0);

    let mut raw = Raw::to(&proxy);
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n".len();
    let mut first = Raw::to(&proxy);
    first.ask("GET /222 HTTP/1.1\r\n\r\n");
    first.some(head + 2 + 3);
    assert!(first.is_silent());
    assert!(raw.ask(PUT).is_silent());
    let lines: Vec<Asked> = asked.try_iter().collect();
    assert_eq!(lines.len(), 1, "half a request is none: {lines:?}");
    // What is stalled remains so; the rest goes on.
    proxy.relent();
    assert!(raw.is_silent());
    assert_eq!(get(&http(), &proxy, "/1").body, pattern(1));
}

#[test]
fn rules_choose() {
    let (port, _asked) = serve();
    let proxy = Proxy::start(port);
    let http = http();
    let wait = ("Retry-After", "7".to_owned());
    proxy.add(Rule::answer(507).on("GET").at("/1").skip(1).times(2));
    proxy.add(Rule::new(Harm::Answer(429, vec![wait])).at("?x=/1"));
    let mut seen: Vec<u16> = Vec::new();
    for _ in 0..4 {
        seen.push(get(&http, &proxy, "/1").status);
    }
    assert_eq!(seen, [200, 507, 507, 200]);
    assert_eq!(get(&http, &proxy, "/2").status, 200);
    let later = http.send(
        "PUT",
        &format!("{}/?x=/1", proxy.url()),
        &[],
        b"abc".to_vec(),
    );
    assert_eq!(
        (later.status, later.header("retry-after")),
        (429, Some("7"))
    );
    // The connection is good for more.
    assert_eq!(get(&http, &proxy, "/2").status, 200);
    assert_eq!(proxy.connections(), 1);
    let of = |status| {
        proxy
            .requests()
            .iter()
            .filter(|r| r.status == Some(status))
            .count()
    };
    assert_eq!([of(200), of(507), of(429)], [4, 2, 1]);
}

#[test]
fn dice_fall_the_same_again() {
    let (port, _asked) = serve();
    let fallen = |seed| {
        let proxy = Proxy::start(port);
        proxy.add(Rule::random(10.0, seed));
        let http = http();
        for _ in 0..300 {
            let _ = http.try_send("GET", &format!("{}/100", proxy.url()), &[], Vec::new());
        }
        let requests = proxy.take_requests();
        let harms = requests.into_iter().map(|request| request.harm);
        harms.collect::<Vec<Option<Harm>>>()
    };
    let first = fallen(3);
    let count = first.iter().flatten().count();
    assert!((10..60).contains(&count), "{count} of 300");
    assert!(first[..200] == fallen(3)[..200]);
    assert!(first[..200] != fallen(4)[..200]);
}

#[test]
fn latency_is_added() {
    let (port, _asked) = serve();
    let proxy = Proxy::start(port);
    proxy.set_latency(Duration::from_millis(30));
    let http = http();
    let start = Instant::now();
    for _ in 0..5 {
        get(&http, &proxy, "/1");
    }
    assert!(start.elapsed() >= Duration::from_millis(150));
}

#[test]
fn tls_is_trusted_by_those_who_know_the_certificate() {
    let (port, _asked) = serve();
    let proxy = Proxy::start_tls(port);
    let url = proxy.url();
    let friend = Http::new(Some(proxy.certificate()));
    assert_eq!(get(&friend, &proxy, "/1000").body, pattern(1000));
    let put = friend.send("PUT", &format!("{url}/x"), &[], pattern(200_000));
    assert!(put.body == pattern(200_000));
    // The address of the account leads here again.
    let account = get(&friend, &proxy, "/account");
    assert_eq!(
        account.header("x-storage-url"),
        Some(&*format!("{url}/v1/AUTH_a"))
    );
    let seen = proxy.requests().len();
    let refused = http().try_send("GET", &format!("{url}/1"), &[], Vec::new());
    assert!(refused.unwrap_err().is_connect());
    assert_eq!(proxy.requests().len(), seen);
}

#[test]
fn a_server_that_is_gone() {
    let (port, listener) = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        (listener.local_addr().unwrap().port(), listener)
    };
    drop(listener);
    let proxy = Proxy::start(port);
    let (all, end) = Raw::to(&proxy).rest();
    assert_eq!((all.len(), end), (0, RESET));
}
