//! The wish to stop, from a signal or from a failure elsewhere.

use tokio::sync::watch;
use tokio::time::Instant;

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
pub struct Stopper(watch::Sender<Option<Wish>>);

/// Tells those who work that they should come to an end.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<Option<Wish>>);

#[derive(Debug, Clone, Copy)]
struct Wish {
    signal: Signal,
    since: Instant,
}

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
            current.get_or_insert_with(|| Wish {
                signal,
                since: Instant::now(),
            });
            is_first
        });
    }
}

impl Stop {
    /// Waits for the wish to stop; for ever, if nobody can have it any more.
    pub async fn requested(&self) -> Signal {
        let mut receiver = self.0.clone();
        match receiver.wait_for(Option::is_some).await.map(|wish| *wish) {
            Ok(Some(wish)) => wish.signal,
            _ => std::future::pending().await,
        }
    }

    /// Since when the wish is there; `None` if there is none.
    pub fn requested_at(&self) -> Option<Instant> {
        self.0.borrow().map(|wish| wish.since)
    }
}
