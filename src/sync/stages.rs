//! The loops that a run's tasks consist of, and the channels between them.
//!
//! ```text
//! page task ──pages──▶ lister ──wanted──▶ fetch task ──answers──▶ write task
//! ```
//!
//! Every loop that sends requests is a separate task. A request queues for its turn and for tokens that
//! other requests need too. If its future were not polled while its task waits for a full channel or
//! for the database, all requests behind it would wait permanently. So no task alternates between a
//! request and another wait: it either polls everything it has started, or holds nothing.

use std::panic;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

use crate::artifact::{Artifact, Page};
use crate::registry::{ArtifactPages, CatalogPages, RegistryError};

/// Pages that may wait to be staged. Those that wait are staged together, which takes less time for each.
const PAGES_CAPACITY: usize = 3;

/// A listing that is read page by page.
pub(crate) trait PageSource: Send + 'static {
    type Page: Send + 'static;
    type Error: Send + 'static;

    /// The next page; `None` after the last one, and only then is the listing complete.
    fn next(&mut self) -> impl Future<Output = Result<Option<Self::Page>, Self::Error>> + Send;
}

impl PageSource for ArtifactPages {
    type Page = Page<Artifact>;
    type Error = RegistryError;

    async fn next(&mut self) -> Result<Option<Page<Artifact>>, RegistryError> {
        ArtifactPages::next(self).await
    }
}

impl<T: Send + 'static> PageSource for CatalogPages<T> {
    type Page = Page<T>;
    type Error = RegistryError;

    async fn next(&mut self) -> Result<Option<Page<T>>, RegistryError> {
        CatalogPages::next(self).await
    }
}

/// The pages of a listing, read by a task that is aborted when this value is dropped.
pub(crate) struct Pages<S: PageSource> {
    pages: mpsc::Receiver<S::Page>,
    reading: JoinHandle<Result<(), S::Error>>,
}

impl<S: PageSource> Pages<S> {
    /// Starts the task.
    pub(crate) fn spawn(mut source: S) -> Pages<S> {
        let (sender, pages) = mpsc::channel(PAGES_CAPACITY);
        let reading = tokio::spawn(async move {
            while let Some(page) = source.next().await? {
                // Closed when the rest is not needed.
                if sender.send(page).await.is_err() {
                    break;
                }
            }
            Ok(())
        });
        Pages { pages, reading }
    }

    /// The next page, or `None` if the listing is complete.
    pub(crate) async fn next(&mut self) -> Result<Option<S::Page>, S::Error> {
        if let Some(page) = self.pages.recv().await {
            return Ok(Some(page));
        }
        match (&mut self.reading).await {
            Ok(result) => result.map(|()| None),
            Err(error) => resume_panic(error).await,
        }
    }

    /// A page that has already arrived.
    pub(crate) fn arrived(&mut self) -> Option<S::Page> {
        self.pages.try_recv().ok()
    }
}

impl<S: PageSource> Drop for Pages<S> {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// Resumes the panic of a task. If the task was cancelled, which happens only when the runtime shuts
/// down, never returns.
pub(crate) async fn resume_panic<T>(error: JoinError) -> T {
    match error.try_into_panic() {
        Ok(cause) => panic::resume_unwind(cause),
        Err(_) => std::future::pending().await,
    }
}

/// Fetches everything that is wanted, up to `limit` at a time. Each future also sends its answer to the
/// next stage, so that a slow database leaves no answer unread.
///
/// Ends when the channel of wanted items is closed and all answers are sent, or with the first error.
pub(crate) async fn fetch_all<R, A, E, F>(
    limit: usize,
    mut wanted: mpsc::Receiver<R>,
    answered: mpsc::Sender<A>,
    fetch: impl Fn(R) -> F,
) -> Result<(), E>
where
    F: Future<Output = Result<Option<A>, E>>,
{
    let (answered, fetch) = (&answered, &fetch);
    stream::poll_fn(|context| wanted.poll_recv(context))
        .map(Ok)
        .try_for_each_concurrent(limit, |request| async move {
            if let Some(answer) = fetch(request).await? {
                // Closed when the write task failed, which has its own error.
                let _ = answered.send(answer).await;
            }
            Ok(())
        })
        .await
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchLimits {
    /// Maximum number of answers.
    pub(crate) count: usize,
    /// Maximum total weight, in the unit of the caller's `weigh`. The answer that exceeds it is the
    /// last of its batch.
    pub(crate) weight: usize,
    /// Maximum time in which a batch is filled.
    pub(crate) fill: Duration,
}

/// Collects the answers that have arrived, or arrive within `limits.fill` after the first, into one
/// batch. It is empty when no more answers will arrive.
pub(crate) async fn next_batch<A>(
    answered: &mut mpsc::Receiver<A>,
    limits: BatchLimits,
    weigh: impl Fn(&A) -> usize,
) -> Vec<A> {
    let mut batch = Vec::new();
    let Some(first) = answered.recv().await else {
        return batch;
    };
    let mut weight = weigh(&first);
    batch.push(first);
    let end = Instant::now() + limits.fill;
    while batch.len() < limits.count && weight < limits.weight {
        match tokio::time::timeout_at(end, answered.recv()).await {
            Ok(Some(answer)) => {
                weight += weigh(&answer);
                batch.push(answer);
            }
            Ok(None) | Err(_) => break,
        }
    }
    batch
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::registry::pace::Pace;
    use crate::registry::{AnswerMemory, Reservation};

    /// The size, latencies and failures of a simulated world.
    #[derive(Debug, Clone)]
    struct Case {
        digests: u64,
        max_in_flight: usize,
        max_requests_per_second: Option<f64>,
        wanted_capacity: usize,
        page_latency_ms: u64,
        history_latency_ms: u64,
        /// One history in this many takes three seconds.
        slow_one_in: u64,
        statement_ms: u64,
        /// The memory that an answer takes until it is stored.
        weight_bytes: usize,
        /// The database does not answer during this period.
        database_stall_ms: (u64, u64),
        /// Requests for histories fail during this period, and are retried after a delay.
        outage_ms: (u64, u64),
    }

    /// A start within 20 s, and an end within 60 s after that.
    fn period_ms() -> impl Strategy<Value = (u64, u64)> {
        (0..20_000_u64, 0..60_000_u64).prop_map(|(from, long)| (from, from + long))
    }

    prop_compose! {
        fn cases()(
            digests in 1..4_000_u64,
            max_in_flight in prop_oneof![1..=256_usize, Just(1), Just(256)],
            max_requests_per_second in
                prop::option::of(prop_oneof![Just(5.0), Just(200.0), 20.0..400.0_f64]),
            wanted_capacity in prop_oneof![Just(1), Just(100), Just(1_000)],
            page_latency_ms in 0..200_u64,
            history_latency_ms in 0..200_u64,
            slow_one_in in 2..50_u64,
            statement_ms in 0..50_u64,
            weight_bytes in prop_oneof![Just(0), Just(64 << 20), 0..4_usize << 20],
            database_stall_ms in period_ms(),
            outage_ms in period_ms(),
        ) -> Case {
            Case {
                digests,
                max_in_flight,
                max_requests_per_second,
                wanted_capacity,
                page_latency_ms,
                history_latency_ms,
                slow_one_in,
                statement_ms,
                weight_bytes,
                database_stall_ms,
                outage_ms,
            }
        }
    }

    struct Simulation {
        case: Case,
        pace: Pace,
        memory: AnswerMemory,
        begin: Instant,
    }

    impl Simulation {
        fn is_within(&self, (from, to): (u64, u64)) -> bool {
            let elapsed = self.begin.elapsed().as_millis() as u64;
            (from..to).contains(&elapsed)
        }

        async fn request(&self, latency_ms: u64) {
            let permit = self.pace.permit().await;
            tokio::time::sleep(Duration::from_millis(latency_ms)).await;
            permit.answered();
        }

        async fn statement(&self) {
            tokio::time::sleep(Duration::from_millis(self.case.statement_ms)).await;
            let (from, to) = self.case.database_stall_ms;
            if self.is_within((from, to)) {
                tokio::time::sleep_until(self.begin + Duration::from_millis(to)).await;
            }
        }

        async fn history(&self, digest: u64) -> Result<Option<(u64, Reservation)>, ()> {
            let is_slow = digest.is_multiple_of(self.case.slow_one_in);
            let latency_ms = if is_slow {
                3_000
            } else {
                self.case.history_latency_ms
            };
            let mut delay = Duration::from_millis(500);
            loop {
                self.request(latency_ms).await;
                if !self.is_within(self.case.outage_ms) {
                    let _decoding = self.memory.decoding().await;
                    let reservation = self.memory.reserve(self.case.weight_bytes, None).await;
                    return Ok(Some((digest, reservation)));
                }
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(Duration::from_secs(60));
            }
        }

        /// Runs the whole pipeline, connected as in the crawl. Returns the stored digests.
        async fn run(self: Arc<Simulation>) -> HashSet<u64> {
            let case = self.case.clone();
            let (answered_sender, mut answered) = mpsc::channel(1_000);
            let (wanted, requests) = mpsc::channel(case.wanted_capacity);
            let fetching = Arc::clone(&self);
            let fetched = tokio::spawn(async move {
                let fetch = |digest| fetching.history(digest);
                fetch_all(case.max_in_flight, requests, answered_sender, fetch).await
            });
            let storing = Arc::clone(&self);
            let stored = tokio::spawn(async move {
                let limits = BatchLimits {
                    count: 300,
                    weight: 4 << 20,
                    fill: Duration::from_millis(100),
                };
                let weigh = |(_, reservation): &(u64, Reservation)| reservation.weight_bytes();
                let mut stored = HashSet::new();
                loop {
                    let batch = next_batch(&mut answered, limits, weigh).await;
                    if batch.is_empty() {
                        return stored;
                    }
                    storing.statement().await;
                    stored.extend(batch.into_iter().map(|(digest, _)| digest));
                }
            });
            let mut pages = Pages::spawn(Listed {
                simulation: Arc::clone(&self),
                next: 0,
            });
            while let Some(page) = pages.next().await.unwrap() {
                self.statement().await;
                for digest in page {
                    wanted.send(digest).await.unwrap();
                }
            }
            drop(wanted);
            fetched.await.unwrap().unwrap();
            stored.await.unwrap()
        }
    }

    struct Listed {
        simulation: Arc<Simulation>,
        next: u64,
    }

    impl PageSource for Listed {
        type Page = std::ops::Range<u64>;
        type Error = ();

        async fn next(&mut self) -> Result<Option<std::ops::Range<u64>>, ()> {
            let case = &self.simulation.case;
            if self.next >= case.digests {
                return Ok(None);
            }
            let page = self.next..(self.next + 100).min(case.digests);
            self.next = page.end;
            let latency_ms = case.page_latency_ms;
            self.simulation.request(latency_ms).await;
            Ok(Some(page))
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        #[test]
        fn no_capacity_latency_or_outage_makes_the_pipeline_hang(case in cases()) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            let digests = case.digests;
            let stored = runtime.block_on(async {
                let pace = Pace::new(
                    case.max_requests_per_second,
                    case.max_in_flight,
                    Duration::from_secs(60),
                );
                let (memory, begin) = (AnswerMemory::new(), Instant::now());
                let simulation = Arc::new(Simulation { case, pace, memory, begin });
                // Hours on the paused clock: at 5 a second 4,000 digests alone take 13 minutes.
                tokio::time::timeout(Duration::from_secs(4 * 3600), simulation.run()).await
            });
            prop_assert_eq!(stored.map(|stored| stored.len() as u64), Ok(digests));
        }
    }
}
