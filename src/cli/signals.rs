//! SIGINT and SIGTERM ask for a clean end.

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
        loop {
            tokio::select! {
                Some(()) = interrupt.recv() => stopper.stop(Signal::Interrupt),
                Some(()) = terminate.recv() => stopper.stop(Signal::Terminate),
                else => break,
            }
            tracing::warn!("stopping: what is on its way is stored, nothing is published");
        }
    });
    Ok(stop)
}
