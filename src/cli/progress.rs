//! What a run is doing: a live view on a terminal, a log line every 15 s elsewhere.

use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::telemetry::Telemetry;
use crate::registry::{PaceNow, Registry};
use crate::sync::{Phase, Progress, ProgressNow};
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
            _ = tick.tick() => view.show(progress.now(), registry),
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
    fn show(&mut self, now: ProgressNow, registry: &Registry) {
        let counts = registry.meter().counts();
        let pace = registry.pace();
        let requests_per_second =
            counts.total() as f64 / self.begin.elapsed().as_secs_f64().max(0.001);
        let eta = self.eta(now);
        if !self.telemetry.is_live {
            if now.phase == Phase::Waiting {
                // The wait tells of itself, less often: it may take hours.
                return;
            }
            tracing::info!(
                phase = phase(now.phase),
                pages = now.pages,
                artifacts = now.artifacts_listed,
                histories_done = now.histories_done,
                histories_wanted = now.histories_wanted,
                histories_failed = now.histories_failed,
                histories_skipped = now.histories_skipped,
                requests = counts.total(),
                retries = counts.retries,
                throttled = counts.throttled(),
                requests_per_second = format!("{requests_per_second:.1}"),
                in_flight = pace.in_flight,
                pauses = pace.pauses,
                limit_found = limit(&pace),
                "{}",
                phase(now.phase)
            );
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = self.telemetry.bars.add(ProgressBar::new(0));
            // The template is a constant; if it were wrong, the plain style would do.
            if let Ok(style) = ProgressStyle::with_template(
                "{spinner} {prefix:<18} {bar:24} {pos}/{len} histories  {msg}",
            ) {
                bar.set_style(style);
            }
            bar
        });
        bar.set_prefix(match &self.telemetry.instance {
            None => phase(now.phase).to_owned(),
            Some(instance) => format!("{} {}", visible(&beginning(instance)), phase(now.phase)),
        });
        bar.set_length(now.histories_wanted);
        bar.set_position(now.histories_done + now.histories_skipped);
        bar.set_message(format!(
            "{} artifacts on {} pages, {requests_per_second:.0} requests/s, {} retries, {} throttled{}{}",
            now.artifacts_listed,
            now.pages,
            counts.retries,
            counts.throttled(),
            limit(&pace)
                .map(|limit| format!(", limit found: {limit}"))
                .unwrap_or_default(),
            eta.map(|eta| format!(", {} left", HumanDuration(eta))).unwrap_or_default()
        ));
        bar.tick();
    }

    /// Known once the listing is complete, for then the number of histories is.
    fn eta(&self, now: ProgressNow) -> Option<Duration> {
        let left = now
            .histories_wanted
            .saturating_sub(now.histories_done + now.histories_skipped);
        if now.phase != Phase::Histories || now.histories_done == 0 || left == 0 {
            return None;
        }
        Some(
            self.begin
                .elapsed()
                .mul_f64(left as f64 / now.histories_done as f64),
        )
    }
}

/// Enough of an id to tell a few apart, on a line that has more to say.
fn beginning(instance: &str) -> String {
    instance.chars().take(8).collect()
}

/// The gateway's limit as far as it is known: what it said, or what was found.
fn limit(pace: &PaceNow) -> Option<String> {
    match pace.quoted_limit {
        Some(quoted) => Some(format!("{quoted:.1}/s quoted")),
        None if pace.pauses > 0 => Some(format!("about {:.0}/s", pace.requests_per_second)),
        None => None,
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Waiting => "waiting for a lock",
        Phase::Catalog => "reading catalog",
        Phase::Listing => "listing artifacts",
        Phase::Histories => "fetching histories",
        Phase::Publishing => "publishing",
    }
}
