//! How is the network asked, for how long, and what is said when it refuses?

use std::time::Duration;

use ureq::http::Response;
use ureq::{Agent, Body};

use super::ELSEWHERE;
use crate::exit::{Exit, Failure};

/// Longest silence that is waited for, at every stage of a request.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Attempts for what may go better the next time.
pub(super) const ATTEMPTS: u32 = 4;

/// Makes requests that end in bounded time and leave the meaning of a status to the caller.
pub(super) fn agent() -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .timeout_resolve(Some(PATIENCE))
        .timeout_connect(Some(PATIENCE))
        .timeout_send_request(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .timeout_per_read(Some(PATIENCE))
        .redirect_auth_headers(ureq::config::RedirectAuthHeaders::SameHost)
        // Lengths are those of the file, not of a compressed form.
        .accept_encoding("identity")
        .user_agent(concat!("ijepa/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

/// Waits before attempt number `attempt`, counted from 0: not at all, then longer each time.
pub(super) fn wait(attempt: u32) {
    if attempt > 0 {
        std::thread::sleep(Duration::from_millis(200 << attempt));
    }
}

/// Whether another attempt may help: something was cut off, and it is not the address that is wrong.
pub(super) fn may_pass(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Io(error) => error.kind() != std::io::ErrorKind::ConnectionRefused,
        ureq::Error::Protocol(_) | ureq::Error::ConnectionFailed => true,
        ureq::Error::StatusCode(status) => *status == 429 || *status >= 500,
        _ => false,
    }
}

/// One header of an answer.
pub(super) fn header<'r>(answer: &'r Response<Body>, name: &str) -> Option<&'r str> {
    answer.headers().get(name)?.to_str().ok()
}

/// The network cannot be had, or broke off.
pub(super) fn unreachable(said: &str, address: &str, error: impl Into<anyhow::Error>) -> Failure {
    Failure::new(Exit::Checkpoint, format!("{said} is not in the cache and cannot be downloaded from {address}"))
        .because(error)
        .remedy(ELSEWHERE)
}

/// The server answered with a status that is no success. `token` says whether one was sent, where the server takes them.
pub(super) fn refused(said: &str, address: &str, status: u16, token: Option<bool>) -> Failure {
    let failure = |meaning: &str| {
        Failure::new(Exit::Checkpoint, format!("{said}: {address} answered {status}, expected 200: {meaning}"))
    };
    match (status, token) {
        (401 | 403, Some(true)) => failure("the token does not open it, or there is no such repository").remedy(
            "check the name; accept the terms on the model's page, and let HF_TOKEN be a token that may read it",
        ),
        (401 | 403, Some(false)) => failure("it is private, asks for its terms to be accepted, or does not exist")
            .remedy("check the name; if it is right, accept the terms on the model's page and set HF_TOKEN"),
        (404, _) => failure("there is nothing of this name").remedy(format!("check the name; {ELSEWHERE}")),
        _ => failure("it is not to be had there now").remedy(format!("try again later; {ELSEWHERE}")),
    }
}
