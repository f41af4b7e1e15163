//! What a user is told when a server cannot be asked, or does not do what it is asked.

use super::*;
use reqwest::header::HeaderValue;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

/// Of 127.0.0.1, signed by itself, until 2126: made with `openssl req -x509 -newkey ec
/// -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 -addext
/// subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE`.
const CERTIFICATE: &[u8] = include_bytes!("certificate.pem");
const PRIVATE_KEY: &[u8] = include_bytes!("key.pem");

fn of_status(status: u16, wait: Option<&str>) -> Failure {
    let mut headers = HeaderMap::new();
    if let Some(wait) = wait {
        headers.insert(RETRY_AFTER, HeaderValue::from_str(wait).unwrap());
    }
    let status = StatusCode::from_u16(status).unwrap();
    Failure::of_status("read object", "c/o", status, &headers)
}

#[test]
fn a_status_tells_what_it_is_and_whether_it_passes() {
    for (status, kind, again) in [
        (401, Kind::Denied, Again::Never),
        (403, Kind::Denied, Again::Never),
        (404, Kind::NotFound, Again::Never),
        (408, Kind::Unavailable, Again::Backoff),
        (409, Kind::Unavailable, Again::Backoff),
        (412, Kind::Invalid, Again::Never),
        (413, Kind::Quota, Again::Never),
        (416, Kind::Invalid, Again::Never),
        (418, Kind::Invalid, Again::Never),
        (422, Kind::Unavailable, Again::Backoff),
        (429, Kind::Unavailable, Again::Backoff),
        (498, Kind::Unavailable, Again::Backoff),
        (500, Kind::Unavailable, Again::Backoff),
        (501, Kind::Unsupported, Again::Never),
        (502, Kind::Unavailable, Again::Backoff),
        (503, Kind::Unavailable, Again::Backoff),
        (504, Kind::Unavailable, Again::Backoff),
        (507, Kind::NoSpace, Again::Never),
        (599, Kind::Unavailable, Again::Backoff),
        (301, Kind::Unavailable, Again::Never),
        (204, Kind::Unavailable, Again::Backoff),
    ] {
        let failure = of_status(status, None);
        assert_eq!(failure.error.kind(), kind, "{status}");
        assert_eq!(failure.again, again, "{status}");
        let message = failure.error.to_string();
        assert!(message.contains(&status.to_string()), "{message}");
    }
    let message = of_status(404, None).error.to_string();
    assert_eq!(
        message,
        "cannot read object c/o: it is not there (404 Not Found)"
    );
}

#[test]
fn a_server_says_when_to_come_again() {
    let after = |seconds| Again::After(Duration::from_secs(seconds));
    for status in [408, 429, 503] {
        assert_eq!(of_status(status, Some("7")).again, after(7));
        assert_eq!(of_status(status, Some("0")).again, after(0));
        assert_eq!(of_status(status, Some("86400")).again, after(60));
        assert_eq!(of_status(status, Some("soon")).again, Again::Backoff);
        assert_eq!(of_status(status, Some("-1")).again, Again::Backoff);
        let past = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(of_status(status, past).again, Again::Backoff);
        let later = SystemTime::now() + Duration::from_secs(3600);
        let later = httpdate::fmt_http_date(later);
        assert_eq!(of_status(status, Some(&later)).again, after(60));
    }
    assert_eq!(of_status(403, Some("7")).again, Again::Never);
}

async fn failed(address: &str) -> Failure {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .tls_certs_only([])
        .build()
        .unwrap();
    let error = client.get(address).send().await.unwrap_err();
    Failure::of_transport("log in to", address, &error)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// What comes of asking a server that treats its only client like this.
fn failed_at(scheme: &str, serve: impl FnOnce(TcpStream) + Send + 'static) -> (Failure, u16) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let served = thread::spawn(move || serve(server.accept().unwrap().0));
    let failure = runtime().block_on(failed(&format!("{scheme}://127.0.0.1:{port}/auth")));
    served.join().unwrap();
    (failure, port)
}

/// Takes a request and answers it with these bytes.
fn answer(mut client: TcpStream, answer: &str) {
    let _ = client.read(&mut [0; 1000]).unwrap();
    client.write_all(answer.as_bytes()).unwrap();
}

#[test]
fn nobody_there_is_said_so() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let failure = runtime().block_on(failed(&format!("http://127.0.0.1:{port}/auth")));
    assert_eq!(failure.again, Again::Backoff);
    assert_eq!(failure.error.kind(), Kind::Unavailable);
    assert_eq!(
        failure.error.to_string(),
        format!(
            "cannot log in to http://127.0.0.1:{port}/auth: nobody answers at \
             127.0.0.1:{port} (connection refused); is the server up, and its address right?"
        )
    );
}

#[test]
fn a_name_that_nobody_knows_is_said_so() {
    // No name has such a long part, which is known without asking.
    let name = format!("{}.invalid", "a".repeat(64));
    let failure = runtime().block_on(failed(&format!("http://{name}/auth")));
    assert_eq!(failure.again, Again::Backoff);
    let message = failure.error.to_string();
    assert!(message.contains("invalid is not known"), "{message}");
}

#[test]
fn a_connection_that_breaks_is_tried_again_soon() {
    for half in ["", "HTTP/1.1 200 OK\r\nContent-Len"] {
        let (failure, port) = failed_at("http", move |client| answer(client, half));
        assert_eq!(failure.again, Again::Soon, "{:?}", failure.error);
        assert_eq!(failure.error.kind(), Kind::Unavailable);
        let message = failure.error.to_string();
        let broke = format!("the connection to 127.0.0.1:{port} broke");
        assert!(message.contains(&broke), "{message}");
    }
}

#[test]
fn what_speaks_no_tls_is_said_so() {
    let plain = |client| answer(client, "HTTP/1.1 400 Bad Request\r\n\r\n");
    let (failure, port) = failed_at("https", plain);
    assert_eq!(failure.again, Again::Never, "{:?}", failure.error);
    let message = failure.error.to_string();
    let why = format!("there is no TLS connection to 127.0.0.1:{port}");
    assert!(message.contains(&why), "{message}");
}

#[test]
fn who_is_not_trusted_is_said_so() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE).unwrap();
    let key = PrivateKeyDer::from_pem_slice(PRIVATE_KEY).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let (failure, port) = failed_at("https", move |mut client| {
        let mut tls = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        // The client breaks it off.
        while tls.complete_io(&mut client).is_ok() && tls.is_handshaking() {}
    });
    assert_eq!(failure.again, Again::Never, "{:?}", failure.error);
    assert_eq!(failure.error.kind(), Kind::Unavailable);
    let message = failure.error.to_string();
    let why = format!(
        "the certificate of 127.0.0.1:{port} is not trusted (it is signed by an unknown \
         authority); name the certificate of its authority in backup_swift_ca_cert_file"
    );
    assert!(message.contains(&why), "{message}");
}
