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
    loop {
        tokio::select! {
            biased;
            result = &mut work => break result,
            _ = tick.tick() => view.show(progress, registry),
        }
    }
}

struct View<'a> {
    telemetry: &'a Telemetry,
    bar: Option<ProgressBar>,
    begin: Instant,
}

impl Drop for View<'_> {
    /// Also when the run is given up, which drops everything.
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl View<'_> {
    fn show(&mut self, progress: &Progress, registry: &Registry) {
        let (phase, histories_wanted) = (progress.phase(), progress.histories_wanted());
        let counters = progress.counters(&registry.meter());
        let pace = registry.pace();
        if self.telemetry.is_live {
            self.draw(phase, progress, &counters, &pace);
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

    fn draw(&mut self, phase: Phase, progress: &Progress, counters: &RunCounters, pace: &PaceNow) {
        let requests_per_second = self.requests_per_second(counters);
        // An artifact is done when it is listed and its history is there.
        let histories_over = counters.histories_done() + counters.histories_skipped;
        let histories_left = progress.histories_wanted().saturating_sub(histories_over);
        let done = counters.artifacts_listed.saturating_sub(histories_left);
        let all = progress.artifacts_expected().max(counters.artifacts_listed);
        let left = match phase {
            Phase::Listing | Phase::Histories => self.time_left(all.saturating_sub(done), done),
            _ => None,
        };
        let bar = self.bar.get_or_insert_with(|| {
            let bar = self.telemetry.bars.add(ProgressBar::new(0));
            // The template is a constant; if it were wrong, the default style would be used.
            if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:16} {pos}/{wide_msg}") {
                bar.set_style(style);
            }
            bar
        });
        bar.set_prefix(match &self.telemetry.instance {
            None => words(phase).to_owned(),
            Some(instance) => format!("{}: {}", visible(instance), words(phase)),
        });
        // A bar of length 0 would be full.
        bar.set_length(all.max(1));
        bar.set_position(done);
        let mut parts = vec![format!("{all} artifacts")];
        parts.extend(left.map(|left| format!("{} left", HumanDuration(left))));
        parts.push(format!("{requests_per_second:.0} requests/s"));
        parts.extend(limit(pace).map(|limit| format!("limit {limit}")));
        for (count, what) in [
            (counters.requests.retries, "retries"),
            (counters.requests.throttled(), "throttled"),
        ] {
            if count > 0 {
                parts.push(format!("{count} {what}"));
            }
        }
        bar.set_message(parts.join(", "));
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
