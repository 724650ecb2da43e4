//! The wish to stop, from a signal or from a failure elsewhere.

use tokio::sync::watch;

use crate::exit::Exit;

/// Which signal asked the program to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl Signal {
    /// The exit code after a clean end.
    pub fn exit(self) -> Exit {
        match self {
            Signal::Interrupt => Exit::Interrupted,
            Signal::Terminate => Exit::Terminated,
        }
    }
}

/// The sender's side of [`Stop`].
#[derive(Debug)]
pub struct Stopper(watch::Sender<Option<Signal>>);

/// Tells those who work that they should come to an end.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<Option<Signal>>);

/// A pair of the two sides.
pub fn channel() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(None);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    /// Asks to stop. Only the first signal counts.
    pub fn stop(&self, signal: Signal) {
        self.0.send_if_modified(|current| {
            let is_first = current.is_none();
            current.get_or_insert(signal);
            is_first
        });
    }
}

impl Stop {
    /// Waits for the wish to stop; for ever, if nobody can have it any more.
    pub async fn requested(&self) -> Signal {
        let mut receiver = self.0.clone();
        match receiver
            .wait_for(Option::is_some)
            .await
            .map(|signal| *signal)
        {
            Ok(Some(signal)) => signal,
            _ => std::future::pending().await,
        }
    }
}
