//! SIGINT and SIGTERM ask for a clean end; a second one gets an end at once.

use tokio::signal::unix::{SignalKind, signal};

use super::exit::{Exit, Failure};
use crate::stop::{self, Signal, Stop};

/// Listens for the rest of the process.
pub(super) fn listen() -> Result<Stop, Failure> {
    let (stopper, stop) = stop::channel();
    let fail = |error| Failure::new(Exit::Unexpected, error);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fail)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(fail)?;
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => Signal::Interrupt,
                _ = terminate.recv() => Signal::Terminate,
            }
        };
        stopper.stop(next().await);
        tracing::warn!(
            "stopping: what is on its way is stored, nothing is published; once more ends it at once"
        );
        // As hard as a kill, which the next run is made for.
        std::process::exit(i32::from(next().await.exit() as u8));
    });
    Ok(stop)
}
