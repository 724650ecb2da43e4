//! One exchange over HTTP: a request is sent and its answer read, within limits.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use reqwest::header::HeaderMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clock::Clock;

/// The rest of an answer with an error status is not read.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// An answer up to this size needs no reservation: most answers are smaller.
const SMALL_BYTES: usize = 32 << 10;
/// A larger one needs a medium reservation, and beyond this size also the only large one.
const MEDIUM_BYTES: usize = 256 << 10;
const MEDIUM_ANSWERS: usize = 32;

/// The settings that all HTTP clients of the program share.
pub(crate) fn client_builder() -> reqwest::ClientBuilder {
    // Fails only if a provider is installed already, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .user_agent(concat!("swr-sync/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
}

/// Limits the total memory of answers beyond 32 KiB: 32 answers of up to 256 KiB, and one larger
/// answer. Each answer makes its reservations in this order as it grows, so no two answers wait for
/// each other.
#[derive(Debug)]
pub(super) struct AnswerMemory {
    medium: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

/// Memory reserved for a large answer. Keep it until the answer is stored; dropping it releases the
/// memory to the next large answer.
#[derive(Debug)]
pub struct Reservation {
    _medium: OwnedSemaphorePermit,
    large: Option<OwnedSemaphorePermit>,
}

impl AnswerMemory {
    pub(super) fn new() -> AnswerMemory {
        AnswerMemory {
            medium: Arc::new(Semaphore::new(MEDIUM_ANSWERS)),
            large: Arc::new(Semaphore::new(1)),
        }
    }

    /// Waits until an answer may use this much memory.
    async fn reserve(&self, held: &mut Option<Reservation>, bytes: usize) {
        if bytes <= SMALL_BYTES {
            return;
        }
        // The semaphores are never closed, so acquiring cannot fail.
        if held.is_none()
            && let Ok(medium) = Arc::clone(&self.medium).acquire_owned().await
        {
            *held = Some(Reservation {
                _medium: medium,
                large: None,
            });
        }
        if bytes > MEDIUM_BYTES
            && let Some(Reservation { large, .. }) = held
            && large.is_none()
        {
            *large = Arc::clone(&self.large).acquire_owned().await.ok();
        }
    }
}

/// An answer with any status. The body of one with an error status may be truncated.
pub(super) struct RawAnswer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) reservation: Option<Reservation>,
}

/// Why there is no complete answer.
pub(super) enum Unanswered {
    Lost {
        reason: String,
    },
    Untrusted {
        reason: String,
    },
    /// A success with more bytes than the limit; the size is known if it was in a header.
    TooLarge {
        status: u16,
        size: Option<u64>,
    },
}

/// Limits of an exchange.
pub(super) struct Limits<'a> {
    /// From the start of the connection to the last byte, waiting for memory included.
    pub(super) timeout: Duration,
    /// For the body of a success, decompressed.
    pub(super) max_bytes: usize,
    pub(super) memory: &'a AnswerMemory,
}

/// Sends a request and reads the answer to its end; `on_headers` gets the headers as they arrive.
#[expect(clippy::disallowed_methods, reason = "every request is sent here")]
pub(super) async fn exchange(
    http: &reqwest::Client,
    request: reqwest::Request,
    limits: Limits<'_>,
    on_headers: impl FnOnce(&HeaderMap),
) -> Result<RawAnswer, Unanswered> {
    let answering = async {
        let response = http.execute(request).await.map_err(unanswered)?;
        on_headers(response.headers());
        read(response, &limits).await
    };
    // The client's own timeout does not include the wait for memory.
    match tokio::time::timeout(limits.timeout, answering).await {
        Ok(answered) => answered,
        Err(_) => Err(Unanswered::Lost {
            reason: TIMED_OUT.to_owned(),
        }),
    }
}

async fn read(
    mut response: reqwest::Response,
    limits: &Limits<'_>,
) -> Result<RawAnswer, Unanswered> {
    let status = response.status().as_u16();
    let is_success = (200..300).contains(&status);
    let size = response.content_length();
    let too_large = Unanswered::TooLarge { status, size };
    if is_success && size.is_some_and(|size| size > limits.max_bytes as u64) {
        return Err(too_large);
    }
    let mut body = Vec::new();
    let mut reservation = None;
    while let Some(chunk) = response.chunk().await.map_err(unanswered)? {
        if !is_success && body.len() + chunk.len() > MAX_ERROR_BYTES {
            body.extend_from_slice(&chunk[..MAX_ERROR_BYTES - body.len()]);
            break;
        }
        if body.len() + chunk.len() > limits.max_bytes {
            return Err(too_large);
        }
        let bytes = body.len() + chunk.len();
        limits.memory.reserve(&mut reservation, bytes).await;
        if bytes > MEDIUM_BYTES {
            // All at once: growing in steps would temporarily take twice the memory.
            body.reserve_exact(limits.max_bytes - body.len());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(RawAnswer {
        status,
        headers: std::mem::take(response.headers_mut()),
        body,
        reservation,
    })
}

/// By how much the server's clock is ahead of ours, according to the `Date` of an answer that is
/// arriving.
pub(super) fn skew(headers: &HeaderMap, clock: &Clock) -> Option<TimeDelta> {
    let date = headers.get("date")?.to_str().ok()?;
    let date = DateTime::parse_from_rfc2822(date).ok()?;
    Some(date.to_utc() - clock.now())
}

fn unanswered(error: reqwest::Error) -> Unanswered {
    match untrusted(&error) {
        Some(reason) => Unanswered::Untrusted { reason },
        None => Unanswered::Lost {
            reason: reason(error),
        },
    }
}

/// Why the server's certificate is not trusted, if that is what failed; trying again cannot help.
fn untrusted(error: &reqwest::Error) -> Option<String> {
    let mut cause: &dyn std::error::Error = error;
    loop {
        // The `source` of an I/O error skips the error that it wraps.
        if let Some(inner) = cause
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
        {
            cause = inner;
        } else {
            cause = cause.source()?;
        }
        if let Some(rustls::Error::InvalidCertificate(reason)) = cause.downcast_ref() {
            return Some(reason.to_string());
        }
    }
}

const TIMED_OUT: &str = "the request timed out";

/// The message of the innermost cause: the causes around it repeat the URL.
pub(crate) fn reason(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return if error.is_connect() {
            "the connection timed out"
        } else {
            TIMED_OUT
        }
        .to_owned();
    }
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use super::*;

    fn is_ready(future: impl Future<Output = ()>) -> bool {
        let mut future = std::pin::pin!(future);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        future.as_mut().poll(&mut context).is_ready()
    }

    #[test]
    fn only_one_answer_at_a_time_is_large_and_32_are_medium() {
        let memory = AnswerMemory::new();
        let mut held: Vec<Option<Reservation>> = (0..33).map(|_| None).collect();
        for answer in &mut held {
            assert!(is_ready(memory.reserve(answer, SMALL_BYTES)));
            assert!(answer.is_none());
        }
        for answer in &mut held[..32] {
            assert!(is_ready(memory.reserve(answer, MEDIUM_BYTES)));
        }
        assert!(!is_ready(memory.reserve(&mut held[32], SMALL_BYTES + 1)));
        assert!(is_ready(memory.reserve(&mut held[0], MEDIUM_BYTES + 1)));
        assert!(!is_ready(memory.reserve(&mut held[1], MEDIUM_BYTES + 1)));
        held[0] = None;
        assert!(is_ready(memory.reserve(&mut held[1], MEDIUM_BYTES + 1)));
        assert!(is_ready(memory.reserve(&mut held[32], SMALL_BYTES + 1)));
    }
}
