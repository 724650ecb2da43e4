//! Prevents refused credentials from being used repeatedly.
//!
//! More than five failed signature checks in a row lock a key for five minutes (devg-apisign,
//! api-sign-0001). So the first request with a key or an issued token is sent alone until the gateway
//! has accepted it, and a key that is wrong from the start causes one failed check. The same applies
//! to a temporary key or token that replaces another: a refusal at its first use is final.
//!
//! A key that becomes invalid during a run fails as many checks as requests start within one round
//! trip to the gateway, which refuses before it calls the service: at 200 requests a second and
//! 10 ms, two. The pace spreads them evenly, so there are no bursts beyond that. A clock that was
//! set, or a machine that was suspended, can cause refusals of a valid key; after either, one request
//! is sent alone again.

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;
use tokio::time::Instant;

use super::error::RequestFailure;

/// After this time without an accepted request, the key is checked again: it may have been changed.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(5 * 60);
/// If the wall clock and the monotonic clock differ by more than this, the wall clock was set.
const JUMP: TimeDelta = TimeDelta::seconds(60);

/// Whether requests may carry the credentials to the gateway.
#[derive(Debug)]
pub(super) struct Gate {
    trust: watch::Sender<Trust>,
    /// Whether one request is sent alone first. A token that the user supplied needs no probe: its
    /// refusal locks nothing, and it cannot be replaced.
    probes: bool,
}

#[derive(Debug)]
enum Trust {
    /// Not accepted yet, or not recently.
    Unknown,
    /// One request is in flight as a probe.
    Probing,
    /// This key was accepted for a request that started at this time, according to both clocks.
    Accepted {
        generation: u64,
        at: Instant,
        wall: DateTime<Utc>,
    },
    /// Refused, for the rest of the run.
    Refused(RequestFailure),
}

/// Whether a request may be sent.
#[derive(Debug)]
pub(super) enum Entry<'a> {
    Go(Pass<'a>),
    /// Another request is the probe; try again after [`Gate::changed`].
    Wait,
    Refused(RequestFailure),
}

/// A request that carries the credentials. If it is dropped without a result, nothing is known about
/// them.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    is_probe: bool,
    generation: u64,
    at: Instant,
    wall: DateTime<Utc>,
}

impl Gate {
    pub(super) fn new(probes: bool) -> Gate {
        Gate {
            trust: watch::Sender::new(Trust::Unknown),
            probes,
        }
    }

    /// Called immediately before a request is sent. `generation` is different for each key.
    pub(super) fn enter(&self, now: Instant, wall: DateTime<Utc>, generation: u64) -> Entry<'_> {
        let mut entry = Entry::Wait;
        self.trust.send_if_modified(|trust| {
            let is_probe = match trust {
                Trust::Refused(failure) => {
                    entry = Entry::Refused(failure.clone());
                    return false;
                }
                _ if !self.probes => false,
                Trust::Probing => return false,
                Trust::Unknown => true,
                Trust::Accepted {
                    generation: accepted,
                    at,
                    wall: wall_then,
                } => {
                    let elapsed = now - *at;
                    let jump = wall - *wall_then - TimeDelta::from_std(elapsed).unwrap_or_default();
                    *accepted != generation || elapsed > SILENCE || jump.abs() > JUMP
                }
            };
            if is_probe {
                *trust = Trust::Probing;
            }
            entry = Entry::Go(Pass {
                gate: self,
                is_probe,
                generation,
                at: now,
                wall,
            });
            false
        });
        entry
    }

    /// Refuses all requests from now on.
    pub(super) fn close(&self, failure: &RequestFailure) {
        self.trust.send_if_modified(|trust| {
            let is_first = !matches!(trust, Trust::Refused(_));
            if is_first {
                *trust = Trust::Refused(failure.clone());
            }
            is_first
        });
    }

    /// Why no more requests may start; `None` if they may.
    pub(super) fn refusal(&self) -> Option<RequestFailure> {
        match &*self.trust.borrow() {
            Trust::Refused(failure) => Some(failure.clone()),
            _ => None,
        }
    }

    /// Waits until no more requests may start.
    pub(super) async fn closed(&self) -> RequestFailure {
        let mut trust = self.trust.subscribe();
        loop {
            if let Some(failure) = self.refusal() {
                return failure;
            }
            // The sender is part of the gate, so there is always a next change.
            let _ = trust.changed().await;
        }
    }

    /// Waits until the probe has ended.
    pub(super) async fn changed(&self) {
        // The sender is part of the gate, so waiting cannot fail.
        let _ = self
            .trust
            .subscribe()
            .wait_for(|trust| !matches!(trust, Trust::Probing))
            .await;
    }
}

impl Pass<'_> {
    /// The gateway forwarded the request to the service.
    pub(super) fn accepted(self) {
        self.gate.trust.send_if_modified(|trust| {
            let is_news = match trust {
                Trust::Unknown | Trust::Refused(_) => false,
                // During a probe, answers to requests that started before it are ignored.
                Trust::Probing => self.is_probe,
                Trust::Accepted { generation, at, .. } => {
                    self.generation == *generation && self.at > *at
                }
            };
            if is_news {
                *trust = Trust::Accepted {
                    generation: self.generation,
                    at: self.at,
                    wall: self.wall,
                };
            }
            self.is_probe
        });
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.gate.trust.send_if_modified(|trust| {
            let is_open = self.is_probe && matches!(trust, Trust::Probing);
            if is_open {
                *trust = Trust::Unknown;
            }
            is_open
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::error::StatusFailure;
    use super::*;

    struct Clocks {
        at: Instant,
        wall: DateTime<Utc>,
    }

    impl Clocks {
        fn new() -> Clocks {
            Clocks {
                at: Instant::now(),
                wall: "2026-03-01T12:00:00Z".parse().unwrap(),
            }
        }

        fn pass(&mut self, seconds: u64) {
            self.at += Duration::from_secs(seconds);
            self.wall += TimeDelta::seconds(seconds as i64);
        }
    }

    fn enter<'a>(gate: &'a Gate, clocks: &Clocks) -> Option<Pass<'a>> {
        enter_with(gate, clocks, 0)
    }

    fn enter_with<'a>(gate: &'a Gate, clocks: &Clocks, generation: u64) -> Option<Pass<'a>> {
        match gate.enter(clocks.at, clocks.wall, generation) {
            Entry::Go(pass) => Some(pass),
            Entry::Wait | Entry::Refused(_) => None,
        }
    }

    fn refusal() -> RequestFailure {
        StatusFailure::read(401, None, b"", &[]).into()
    }

    #[test]
    fn the_first_request_goes_alone_until_it_is_accepted() {
        let (gate, clocks) = (Gate::new(true), Clocks::new());
        let first = enter(&gate, &clocks).unwrap();
        assert!(enter(&gate, &clocks).is_none());
        // Without an answer nothing is known, so the next request is sent alone, too.
        drop(first);
        let second = enter(&gate, &clocks).unwrap();
        assert!(enter(&gate, &clocks).is_none());
        second.accepted();
        let _third = enter(&gate, &clocks).unwrap();
        assert!(enter(&gate, &clocks).is_some());
    }

    #[test]
    fn without_probes_a_refusal_is_final_too() {
        let (gate, clocks) = (Gate::new(false), Clocks::new());
        let _first = enter(&gate, &clocks).unwrap();
        let second = enter(&gate, &clocks).unwrap();
        gate.close(&refusal());
        assert!(enter(&gate, &clocks).is_none());
        second.accepted();
        assert!(enter(&gate, &clocks).is_none());
        assert!(gate.refusal().is_some());
    }

    #[test]
    fn after_a_silence_or_a_jump_of_the_wall_clock_one_request_goes_alone() {
        let (gate, mut clocks) = (Gate::new(true), Clocks::new());
        enter(&gate, &clocks).unwrap().accepted();
        clocks.pass(299);
        let on_its_way = enter(&gate, &clocks).unwrap();
        clocks.pass(2);
        let probe = enter(&gate, &clocks).unwrap();
        assert!(enter(&gate, &clocks).is_none(), "silence");
        // It was signed before the pause, so it does not prove that the key is valid now.
        on_its_way.accepted();
        assert!(enter(&gate, &clocks).is_none());
        probe.accepted();
        assert!(enter(&gate, &clocks).is_some());

        for jump in [-62, 62] {
            let on_its_way = enter(&gate, &clocks).unwrap();
            clocks.wall += TimeDelta::seconds(jump);
            clocks.at += Duration::from_secs(1);
            on_its_way.accepted();
            let probe = enter(&gate, &clocks).unwrap();
            assert!(enter(&gate, &clocks).is_none(), "jump of {jump} s");
            probe.accepted();
            assert!(enter(&gate, &clocks).is_some());
        }
    }

    #[test]
    fn a_key_that_replaces_another_is_proved_by_one_request_too() {
        let (gate, clocks) = (Gate::new(true), Clocks::new());
        enter_with(&gate, &clocks, 1).unwrap().accepted();
        let on_its_way = enter_with(&gate, &clocks, 1).unwrap();
        let probe = enter_with(&gate, &clocks, 2).unwrap();
        // Acceptance of the old key does not prove that the new one is valid.
        on_its_way.accepted();
        assert!(enter_with(&gate, &clocks, 2).is_none());
        probe.accepted();
        let _second = enter_with(&gate, &clocks, 2).unwrap();
        assert!(enter_with(&gate, &clocks, 2).is_some());
    }

    #[tokio::test]
    async fn all_that_wait_get_the_verdict() {
        let (gate, clocks) = (Gate::new(true), Clocks::new());
        let probe = enter(&gate, &clocks).unwrap();
        let ((), refused, ()) = tokio::join!(gate.changed(), gate.closed(), async {
            tokio::task::yield_now().await;
            gate.close(&refusal());
            drop(probe);
        });
        assert_eq!(refused.to_string(), refusal().to_string());
    }
}
