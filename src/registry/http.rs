//! One HTTP exchange: sends a request and reads the answer, with a timeout and a size limit.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use reqwest::header::HeaderMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::clock::Clock;

/// An answer with an error status is read up to this size.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// An answer up to this size needs no reservation: most answers are smaller.
const SMALL_BYTES: usize = 32 << 10;
/// A larger answer needs a medium reservation. Above this size it also needs the only large one.
const MEDIUM_BYTES: usize = 256 << 10;
const MEDIUM_ANSWERS: usize = 32;
/// Memory for decoded answers until they are stored: enough for many batches.
const DECODED_KIB: usize = 32 << 10;
/// Maximum number of concurrent decodings. The size of a decoded answer is known only after decoding,
/// so this many answers can exceed the limit above.
const DECODED_AT_A_TIME: usize = 4;
/// How long a body waits for memory: longer than the timeout of a database step, which frees memory.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// The settings that all HTTP clients of the program share.
pub(crate) fn client_builder() -> reqwest::ClientBuilder {
    // Fails only if a provider is already installed, which is no problem.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .user_agent(concat!("swr-sync/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
}

/// The memory that the answers of one client may use together.
///
/// Up to 32 bodies of 32 KiB to 256 KiB and one larger body are read at a time. Each body reserves
/// more memory as it grows, always in this order, so there is no deadlock. The next large body is
/// read after the previous one is stored.
///
/// A decoded answer can take a hundred times as much memory as its body, or less than it. The size is
/// known only after decoding. So few answers are decoded at a time, and each then waits until its
/// size can be reserved. An answer with a reservation waits only for the database, so every answer
/// gets its reservation eventually.
#[derive(Debug)]
pub(crate) struct AnswerMemory {
    medium: Arc<Semaphore>,
    large: Arc<Semaphore>,
    decoding: Semaphore,
    decoded: Arc<Semaphore>,
}

/// Memory reserved for the body of an answer.
#[derive(Debug)]
pub(super) struct BodyReservation {
    _medium: OwnedSemaphorePermit,
    large: Option<OwnedSemaphorePermit>,
}

/// Memory reserved for a decoded answer. Keep it until the answer is stored; dropping it frees the
/// memory for other answers.
#[derive(Debug, Default)]
pub struct Reservation {
    weight_bytes: usize,
    _decoded: Option<OwnedSemaphorePermit>,
    _large_body: Option<OwnedSemaphorePermit>,
}

impl Reservation {
    /// The size of the answer in memory. It can exceed the memory that can be reserved.
    pub fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }
}

impl AnswerMemory {
    pub(crate) fn new() -> AnswerMemory {
        AnswerMemory {
            medium: Arc::new(Semaphore::new(MEDIUM_ANSWERS)),
            large: Arc::new(Semaphore::new(1)),
            decoding: Semaphore::new(DECODED_AT_A_TIME),
            decoded: Arc::new(Semaphore::new(DECODED_KIB)),
        }
    }

    /// Waits until an answer may be decoded. Keep the permit until its size is reserved.
    pub(crate) async fn decoding(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed, so acquiring cannot fail.
        self.decoding.acquire().await.ok()
    }

    /// Reserves this many bytes for a decoded answer. For an answer that is larger than all memory,
    /// reserves all of it. `large_body` is the reservation of its body.
    pub(crate) async fn reserve(
        &self,
        weight_bytes: usize,
        large_body: Option<OwnedSemaphorePermit>,
    ) -> Reservation {
        let kib = weight_bytes.div_ceil(1 << 10).min(DECODED_KIB) as u32;
        let decoded = Arc::clone(&self.decoded);
        Reservation {
            weight_bytes,
            _decoded: decoded.acquire_many_owned(kib).await.ok(),
            _large_body: large_body,
        }
    }

    /// Waits until a body may grow to this size.
    async fn reserve_body(&self, held: &mut Option<BodyReservation>, bytes: usize) {
        if bytes <= SMALL_BYTES {
            return;
        }
        // The semaphores are never closed, so acquiring cannot fail.
        if held.is_none()
            && let Ok(medium) = Arc::clone(&self.medium).acquire_owned().await
        {
            *held = Some(BodyReservation {
                _medium: medium,
                large: None,
            });
        }
        if bytes > MEDIUM_BYTES
            && let Some(BodyReservation { large, .. }) = held
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
    /// Released with the body.
    reservation: Option<BodyReservation>,
}

impl RawAnswer {
    /// The reservation of a large body; keep it until the decoded answer is stored.
    pub(super) fn take_large(&mut self) -> Option<OwnedSemaphorePermit> {
        self.reservation.as_mut()?.large.take()
    }
}

/// Why there is no complete answer.
pub(super) enum Unanswered {
    Lost {
        reason: String,
    },
    Untrusted {
        reason: String,
    },
    /// A success with more bytes than the limit. The size is known if a header had it.
    TooLarge {
        status: u16,
        size: Option<u64>,
    },
}

/// Limits of an exchange.
pub(super) struct Limits<'a> {
    /// From the start of the connection to the last byte, without the time spent waiting for memory.
    pub(super) timeout: Duration,
    /// For the decompressed body of a success.
    pub(super) max_bytes: usize,
    pub(super) memory: &'a AnswerMemory,
}

/// Sends a request and reads the whole answer. Calls `on_headers` as soon as the headers arrive.
#[expect(clippy::disallowed_methods, reason = "every request is sent here")]
pub(super) async fn exchange(
    http: &reqwest::Client,
    request: reqwest::Request,
    limits: Limits<'_>,
    on_headers: impl FnOnce(&HeaderMap),
) -> Result<RawAnswer, Unanswered> {
    let end = Instant::now() + limits.timeout;
    let response = until(end, http.execute(request)).await?;
    on_headers(response.headers());
    read(response, &limits, end).await
}

async fn read(
    mut response: reqwest::Response,
    limits: &Limits<'_>,
    mut end: Instant,
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
    while let Some(chunk) = until(end, response.chunk()).await? {
        if !is_success && body.len() + chunk.len() > MAX_ERROR_BYTES {
            body.extend_from_slice(&chunk[..MAX_ERROR_BYTES - body.len()]);
            break;
        }
        if body.len() + chunk.len() > limits.max_bytes {
            return Err(too_large);
        }
        let bytes = body.len() + chunk.len();
        let waiting = Instant::now();
        let reserving = limits.memory.reserve_body(&mut reservation, bytes);
        if tokio::time::timeout(MEMORY_TIMEOUT, reserving)
            .await
            .is_err()
        {
            return Err(Unanswered::Lost {
                reason: "no memory was free for the answer".to_owned(),
            });
        }
        // The registry is not responsible for this delay, so it does not count.
        end += waiting.elapsed();
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

async fn until<T>(
    end: Instant,
    step: impl Future<Output = Result<T, reqwest::Error>>,
) -> Result<T, Unanswered> {
    match tokio::time::timeout_at(end, step).await {
        Ok(result) => result.map_err(unanswered),
        Err(_) => Err(Unanswered::Lost {
            reason: TIMED_OUT.to_owned(),
        }),
    }
}

/// How far the server's clock is ahead of ours, according to the `Date` of an answer that has just
/// arrived.
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

/// Why the server's certificate is not trusted, if that is the cause. A retry cannot help then.
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
    use super::*;

    fn is_ready(future: impl Future<Output = ()>) -> bool {
        let mut future = std::pin::pin!(future);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        future.as_mut().poll(&mut context).is_ready()
    }

    #[test]
    fn only_one_answer_at_a_time_is_large_and_32_are_medium() {
        let memory = AnswerMemory::new();
        let mut held: Vec<Option<BodyReservation>> = (0..33).map(|_| None).collect();
        for answer in &mut held {
            assert!(is_ready(memory.reserve_body(answer, SMALL_BYTES)));
            assert!(answer.is_none());
        }
        for answer in &mut held[..32] {
            assert!(is_ready(memory.reserve_body(answer, MEDIUM_BYTES)));
        }
        assert!(!is_ready(
            memory.reserve_body(&mut held[32], SMALL_BYTES + 1)
        ));
        assert!(is_ready(
            memory.reserve_body(&mut held[0], MEDIUM_BYTES + 1)
        ));
        assert!(!is_ready(
            memory.reserve_body(&mut held[1], MEDIUM_BYTES + 1)
        ));
        held[0] = None;
        assert!(is_ready(
            memory.reserve_body(&mut held[1], MEDIUM_BYTES + 1)
        ));
        assert!(is_ready(
            memory.reserve_body(&mut held[32], SMALL_BYTES + 1)
        ));
    }

    #[test]
    fn decoded_answers_share_32_mib_and_a_larger_one_takes_all() {
        let memory = AnswerMemory::new();
        let reserve = |bytes| {
            let mut reserving = std::pin::pin!(memory.reserve(bytes, None));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            match reserving.as_mut().poll(&mut context) {
                std::task::Poll::Ready(reservation) => Some(reservation),
                std::task::Poll::Pending => None,
            }
        };
        let mut held: Vec<Option<Reservation>> = (0..32).map(|_| reserve(1 << 20)).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(reserve(1).is_none());
        held.pop();
        assert!(reserve(1 << 20).is_some());
        assert!(reserve(1 << 30).is_none());
        held.clear();
        let all = reserve(1 << 30).unwrap();
        assert_eq!(all.weight_bytes(), 1 << 30);
        assert!(reserve(1).is_none());
    }
}
