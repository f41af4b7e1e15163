use super::failure::{Again, Failure};
use crate::{
    config,
    error::{Error, Kind},
    secret::Secret,
};
use std::time::Instant;
pub(super) struct Session {
    pub token: Secret,
    pub storage_url: reqwest::Url,
    pub renew_at: Option<Instant>,
}
pub(super) async fn log_in(
    client: &reqwest::Client,
    login: &config::Login,
) -> Result<Session, Failure> {
    let config::Login::V1 {
        auth_url,
        user,
        key,
    } = login
    else {
        todo!()
    };
    let r = client
        .get(auth_url)
        .header("X-Auth-User", user)
        .header("X-Auth-Key", key.expose())
        .send()
        .await
        .map_err(|e| Failure::of_transport("log in to", auth_url, &e))?;
    if !r.status().is_success() {
        return Err(Failure {
            error: Error::new(Kind::Denied, "log in to", auth_url, r.status()),
            again: Again::Never,
        });
    }
    let h = |n: &str| r.headers().get(n).unwrap().to_str().unwrap().to_owned();
    Ok(Session {
        token: Secret::new(h("X-Auth-Token")),
        storage_url: h("X-Storage-Url").parse().unwrap(),
        renew_at: None,
    })
}
