//! The client that sends requests, and which servers it takes for what they say they are.

use super::failure::reason_of;
use crate::config::Trust;
use crate::error::{Error, Kind, Result};
use reqwest::{Certificate, Client, ClientBuilder, redirect};
use std::time::Duration;

/// How long a connection may take at most.
const CONNECT: Duration = Duration::from_secs(10);
/// How long one that nobody needs is kept: servers close them after a while.
const IDLE: Duration = Duration::from_secs(30);

/// A client.
///
/// # Errors
/// `Invalid` and those of reading, for the file of certificates.
pub(super) fn client(trust: &Trust, request_timeout: Duration) -> Result<Client> {
    // Fails when there is one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = || {
        Client::builder()
            .user_agent(concat!("cinderfs/", env!("CARGO_PKG_VERSION")))
            // The token would go along to wherever it leads.
            .redirect(redirect::Policy::none())
            .http1_only()
            .connect_timeout(CONNECT.min(request_timeout))
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
    };
    let refuse = |e: reqwest::Error| Error::new(Kind::Invalid, "prepare", "TLS", reason_of(&e));
    if trust.insecure {
        let careless = builder().tls_danger_accept_invalid_certs(true);
        return careless.build().map_err(refuse);
    }
    match &trust.ca_cert_file {
        Some(file) => {
            let subject = file.display().to_string();
            let pem = std::fs::read(file)
                .map_err(|e| Error::io("read the certificates in", &subject, &e))?;
            let certificates = Certificate::from_pem_bundle(&pem);
            let certificates = certificates.map_err(|e| reason_of(&e)).and_then(|all| {
                let some = !all.is_empty();
                some.then_some(all)
                    .ok_or_else(|| "there is none in it".to_owned())
            });
            let certificates = certificates.map_err(|reason| {
                Error::new(Kind::Invalid, "use the certificates in", &subject, reason)
                    .advise("backup_swift_ca_cert_file names a file of certificates (PEM)")
            })?;
            builder()
                .tls_certs_only(certificates)
                .build()
                .map_err(refuse)
        }
        None => builder().build().or_else(|e| {
            // A machine without any authority's certificate can speak plain HTTP.
            tracing::debug!("no server can be trusted: {e}");
            ClientBuilder::tls_certs_only(builder(), [])
                .build()
                .map_err(refuse)
        }),
    }
}
