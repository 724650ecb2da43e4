//! SIGINT and SIGTERM stop the program cleanly; a second one stops it immediately.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::exit::{Exit, Failure};
use crate::stop::{self, Stop, StopReason};

/// How long a command that only reads may take to stop: a blocked reader of its output would
/// otherwise block the whole program.
const READER_GRACE: Duration = Duration::from_secs(4);

/// Whether a pager has the terminal. It reacts to Ctrl-C itself; ending before it would leave two
/// programs reading from one terminal.
static IS_PAGING: AtomicBool = AtomicBool::new(false);

/// Runs a pager; until it ends, SIGINT is left to it.
pub(super) fn while_paging<T>(run: impl FnOnce() -> T) -> T {
    IS_PAGING.store(true, Ordering::Relaxed);
    let result = run();
    IS_PAGING.store(false, Ordering::Relaxed);
    result
}

/// Listens until the process ends.
pub(super) fn listen() -> Result<Stop, Failure> {
    let (stopper, stop) = stop::channel();
    let fail = |error| Failure::new(Exit::Unexpected, error);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fail)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(fail)?;
    tokio::spawn(async move {
        let mut next = async || loop {
            tokio::select! {
                _ = interrupt.recv() => if !IS_PAGING.load(Ordering::Relaxed) {
                    return StopReason::Interrupt;
                },
                _ = terminate.recv() => return StopReason::Terminate,
            }
        };
        stopper.stop(next().await);
        tracing::warn!(
            "stopping: a clean shutdown takes up to 5 s; a second signal stops immediately"
        );
        // Like a kill, which the next run can handle.
        exit_at_once(next().await);
    });
    Ok(stop)
}

/// Runs a command that only reads: it may be stopped at any point. In a container the program is
/// process 1, which signals stop only if it handles them.
pub(super) async fn reading(
    work: impl Future<Output = Result<Exit, Failure>>,
) -> Result<Exit, Failure> {
    let stop = listen()?;
    let held_up = stop.clone();
    tokio::spawn(async move {
        let reason = held_up.requested().await;
        tokio::time::sleep(READER_GRACE).await;
        exit_at_once(reason);
    });
    stop.or(work).await.map_err(stopped)?
}

/// A failure that only states the reason.
pub(super) fn stopped(reason: StopReason) -> Failure {
    Failure::new(reason.exit(), format!("stopped by {reason}"))
}

fn exit_at_once(reason: StopReason) -> ! {
    std::process::exit(i32::from(reason.exit() as u8))
}
