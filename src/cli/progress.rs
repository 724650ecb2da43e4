//! The progress of a run: a live view on a terminal, otherwise a log line every 15 s.

use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::telemetry::Telemetry;
use crate::registry::{PaceNow, Registry};
use crate::run::RunCounters;
use crate::sync::{Phase, Progress};
use crate::visible::visible;

const LIVE_INTERVAL: Duration = Duration::from_millis(200);
const LOG_INTERVAL: Duration = Duration::from_secs(15);

/// Shows progress until `work` is done.
pub(super) async fn show<T>(
    telemetry: &Telemetry,
    progress: &Progress,
    registry: &Registry,
    work: impl Future<Output = T>,
) -> T {
    let interval = if telemetry.is_live {
        LIVE_INTERVAL
    } else {
        LOG_INTERVAL
    };
    let mut view = View {
        telemetry,
        bar: None,
        begin: Instant::now(),
    };
    let mut tick = tokio::time::interval_at(Instant::now() + interval, interval);
    tokio::pin!(work);
    let result = loop {
        tokio::select! {
            biased;
            result = &mut work => break result,
            _ = tick.tick() => view.show(progress, registry),
        }
    };
    if let Some(bar) = view.bar {
        bar.finish_and_clear();
    }
    result
}

struct View<'a> {
    telemetry: &'a Telemetry,
    bar: Option<ProgressBar>,
    begin: Instant,
}

impl View<'_> {
    fn show(&mut self, progress: &Progress, registry: &Registry) {
        let (phase, histories_wanted) = (progress.phase(), progress.histories_wanted());
        let counters = progress.counters(&registry.meter());
        let pace = registry.pace();
        if self.telemetry.is_live {
            self.draw(phase, histories_wanted, &counters, &pace);
        } else if phase != Phase::Waiting {
            // `sync` logs the wait itself, less often: it may take hours.
            self.log(phase, histories_wanted, &counters, &pace);
        }
    }

    fn log(&self, phase: Phase, histories_wanted: u64, counters: &RunCounters, pace: &PaceNow) {
        let requests = &counters.requests;
        tracing::info!(
            phase = words(phase),
            pages = counters.pages,
            artifacts = counters.artifacts_listed,
            histories_done = counters.histories_done(),
            histories_wanted,
            histories_failed = counters.histories_failed,
            histories_skipped = counters.histories_skipped,
            requests = requests.total(),
            retries = requests.retries,
            throttled = requests.throttled(),
            requests_per_second = format!("{:.1}", self.requests_per_second(counters)),
            in_flight = pace.in_flight,
            pauses = pace.pauses,
            limit_found = limit(pace),
            "{}",
            words(phase)
        );
    }

    fn draw(
        &mut self,
        phase: Phase,
        histories_wanted: u64,
        counters: &RunCounters,
        pace: &PaceNow,
    ) {
        let requests_per_second = self.requests_per_second(counters);
        let histories_over = counters.histories_done() + counters.histories_skipped;
        let histories_left = histories_wanted.saturating_sub(histories_over);
        // The number of histories is known once the listing is complete.
        let left = match phase {
            Phase::Histories => self.time_left(histories_left, counters.histories_done()),
            _ => None,
        };
        let bar = self.bar.get_or_insert_with(|| {
            let bar = self.telemetry.bars.add(ProgressBar::new(0));
            // The template is a constant; if it were wrong, the default style would be used.
            if let Ok(style) = ProgressStyle::with_template(
                "{spinner} {prefix:<18} {bar:24} {pos}/{len} histories  {msg}",
            ) {
                bar.set_style(style);
            }
            bar
        });
        bar.set_prefix(match &self.telemetry.instance {
            None => words(phase).to_owned(),
            Some(instance) => format!("{} {}", visible(&beginning(instance)), words(phase)),
        });
        bar.set_length(histories_wanted);
        bar.set_position(histories_over);
        bar.set_message(format!(
            "{} artifacts on {} pages, {requests_per_second:.0} requests/s, {} retries, {} throttled{}{}",
            counters.artifacts_listed,
            counters.pages,
            counters.requests.retries,
            counters.requests.throttled(),
            limit(pace)
                .map(|limit| format!(", limit detected: {limit}"))
                .unwrap_or_default(),
            left.map(|left| format!(", {} left", HumanDuration(left))).unwrap_or_default()
        ));
        bar.tick();
    }

    fn requests_per_second(&self, counters: &RunCounters) -> f64 {
        counters.requests.total() as f64 / self.begin.elapsed().as_secs_f64().max(0.001)
    }

    fn time_left(&self, left: u64, done: u64) -> Option<Duration> {
        let is_known = left > 0 && done > 0;
        is_known.then(|| self.begin.elapsed().mul_f64(left as f64 / done as f64))
    }
}

/// The first characters of an id: enough to distinguish a few instances.
fn beginning(instance: &str) -> String {
    instance.chars().take(8).collect()
}

/// The gateway's limit if known: quoted by the gateway, or detected.
fn limit(pace: &PaceNow) -> Option<String> {
    match pace.quoted_limit {
        Some(quoted) => Some(format!("{quoted:.1}/s quoted")),
        None if pace.pauses > 0 => Some(format!("about {:.0}/s", pace.requests_per_second)),
        None => None,
    }
}

fn words(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Waiting => "waiting for a lock",
        Phase::Catalog => "reading catalog",
        Phase::Listing => "listing artifacts",
        Phase::Histories => "fetching histories",
        Phase::Publishing => "publishing",
    }
}
