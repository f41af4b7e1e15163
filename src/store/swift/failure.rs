use crate::error::{Error, Kind};
use reqwest::{StatusCode, header::HeaderMap};
use std::time::Duration;
#[derive(Clone)]
pub(super) struct Failure {
    pub error: Error,
    pub again: Again,
}
#[derive(Clone, Copy)]
pub(super) enum Again {
    Never,
    Soon,
    Backoff,
    After(Duration),
}
pub(super) fn reason_of(e: &dyn std::error::Error) -> String {
    e.to_string()
}
impl Failure {
    pub fn of_transport(op: &'static str, subject: &str, e: &reqwest::Error) -> Self {
        Failure {
            error: Error::new(Kind::Unavailable, op, subject, e),
            again: Again::Soon,
        }
    }
    pub fn of_status(op: &'static str, subject: &str, s: StatusCode, _h: &HeaderMap) -> Self {
        Failure {
            error: Error::new(
                if s == 404 {
                    Kind::NotFound
                } else {
                    Kind::Unavailable
                },
                op,
                subject,
                s,
            ),
            again: Again::Backoff,
        }
    }
}
