//! A secret that expires: which one is in use, whether it has worked, and when it is replaced.
//!
//! IAM tokens and temporary keys follow the same rules. One caller at a time requests a secret; the
//! others wait for it. A secret that has worked is replaced shortly before it expires, and whenever it
//! is refused. One that is refused at its first use is not replaced: another secret from the same
//! issuer would not help, and repeated refusals lock an account.

use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Mutex;

use super::error::{RegistryError, RequestFailure, StatusFailure};
use crate::clock::Clock;

/// The minimum time between two requests to the issuer.
pub(super) const LEAST_INTERVAL: TimeDelta = TimeDelta::seconds(10);

/// Something that authenticates a request.
pub(super) trait Secret {
    /// Whether the gateway treats both as the same. An issuer may return a secret twice.
    fn is_same(&self, other: &Self) -> bool;
}

/// Holds the secret in use.
pub(super) struct Expiring<T> {
    /// Held during a request to the issuer.
    asking: Mutex<()>,
    state: StdMutex<State<T>>,
}

/// A secret as it was issued.
pub(super) struct Issued<T> {
    pub(super) secret: T,
    /// According to our clock.
    pub(super) expires_at: DateTime<Utc>,
    /// When to request another one.
    pub(super) renew_at: DateTime<Utc>,
}

/// A secret in use.
pub(super) struct InUse<T> {
    pub(super) secret: Arc<T>,
    /// A different number for each secret.
    pub(super) generation: u64,
    pub(super) expires_at: DateTime<Utc>,
    renew_at: DateTime<Utc>,
    has_worked: bool,
}

struct State<T> {
    current: Option<InUse<T>>,
    /// The last one that was refused.
    refused: Option<(Arc<T>, StatusFailure)>,
    /// The last answer if it was not a secret: all callers that waited get it.
    failed: Option<(DateTime<Utc>, Box<RegistryError>)>,
    generation: u64,
}

impl<T> Default for Expiring<T> {
    fn default() -> Expiring<T> {
        Expiring {
            asking: Mutex::default(),
            state: StdMutex::new(State {
                current: None,
                refused: None,
                failed: None,
                generation: 0,
            }),
        }
    }
}

impl<T: Secret> Expiring<T> {
    /// The secret to use now; calls `issue` for another one if there is none or it expires soon.
    /// Waits at most `patience` while another caller requests one.
    pub(super) async fn current(
        &self,
        clock: &Clock,
        patience: Duration,
        issue: impl AsyncFnOnce() -> Result<Issued<T>, RegistryError>,
    ) -> Result<InUse<T>, RegistryError> {
        if let Some(settled) = self.settled(clock.now()) {
            return settled.map_err(|error| *error);
        }
        let Ok(_asking) = tokio::time::timeout(patience, self.asking.lock()).await else {
            return Err(RegistryError {
                request: "waiting for a token or temporary key".to_owned(),
                attempts: 1,
                elapsed: patience,
                failure: RequestFailure::NoAnswer {
                    reason: "another request for it has not ended".to_owned(),
                },
            });
        };
        // Another caller may have requested one while this one waited.
        if let Some(settled) = self.settled(clock.now()) {
            return settled.map_err(|error| *error);
        }
        let issued = issue().await.map_err(Box::new);
        let taken = self.state().take_in(issued, clock.now());
        taken.map_err(|error| *error)
    }

    /// Whether no secret has been issued yet.
    pub(super) fn is_first(&self) -> bool {
        self.state().generation == 0
    }

    /// Whether a request may use this secret now: it is the current one and has not expired.
    pub(super) fn is_usable(&self, generation: u64, now: DateTime<Utc>) -> bool {
        let state = self.state();
        let mut current = state.current.iter();
        current.any(|current| current.generation == generation && now < current.expires_at)
    }

    /// The gateway accepted this secret.
    pub(super) fn accept(&self, generation: u64) {
        let mut state = self.state();
        if let Some(current) = &mut state.current
            && current.generation == generation
        {
            current.has_worked = true;
        }
    }

    /// The gateway refused this secret, and it is not used again. Returns whether the request may
    /// be repeated with another one: yes if this one has worked or has been replaced already.
    pub(super) fn refuse(&self, generation: u64, failure: &StatusFailure) -> bool {
        let mut state = self.state();
        let is_current = |current: &mut InUse<T>| current.generation == generation;
        let Some(refused) = state.current.take_if(is_current) else {
            return true;
        };
        state.refused = Some((refused.secret, failure.clone()));
        refused.has_worked
    }

    /// The answer that needs no request: a fresh secret, or a recent failure.
    fn settled(&self, now: DateTime<Utc>) -> Option<Result<InUse<T>, Box<RegistryError>>> {
        let state = self.state();
        let is_fresh = |current: &&InUse<T>| now < current.renew_at && now < current.expires_at;
        if let Some(current) = state.current.as_ref().filter(is_fresh) {
            return Some(Ok(current.clone()));
        }
        let (at, error) = state.failed.as_ref()?;
        ((now - *at).abs() < LEAST_INTERVAL).then(|| Err(error.clone()))
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Secret> State<T> {
    fn take_in(
        &mut self,
        issued: Result<Issued<T>, Box<RegistryError>>,
        now: DateTime<Utc>,
    ) -> Result<InUse<T>, Box<RegistryError>> {
        self.failed = None;
        let taken = match issued {
            Ok(issued) => self.replace(issued),
            Err(error) => self.keep(error, now),
        };
        if let Err(error) = &taken {
            self.failed = Some((now, error.clone()));
        }
        taken
    }

    /// Fails with the gateway's message if this is the secret that was refused: further refusals
    /// could lock it.
    fn replace(&mut self, issued: Issued<T>) -> Result<InUse<T>, Box<RegistryError>> {
        let Issued {
            secret,
            expires_at,
            renew_at,
        } = issued;
        if let Some((refused, failure)) = &self.refused
            && refused.is_same(&secret)
        {
            return Err(Box::new(RegistryError {
                request: "a request with the same credentials as before".to_owned(),
                attempts: 1,
                elapsed: Duration::ZERO,
                failure: failure.clone().into(),
            }));
        }
        // An issuer may return the same secret until shortly before it expires.
        let same = self
            .current
            .take_if(|current| current.secret.is_same(&secret));
        if same.is_none() {
            self.generation += 1;
        }
        let current = InUse {
            secret: Arc::new(secret),
            generation: self.generation,
            expires_at,
            renew_at,
            has_worked: same.is_some_and(|same| same.has_worked),
        };
        Ok(self.current.insert(current).clone())
    }

    /// Handles a failed renewal: keeps the current secret until it expires, and tries again before.
    fn keep(
        &mut self,
        error: Box<RegistryError>,
        now: DateTime<Utc>,
    ) -> Result<InUse<T>, Box<RegistryError>> {
        match &mut self.current {
            Some(current) if now < current.expires_at => {
                tracing::warn!(
                    "{error}; the current token or key stays in use until it expires at {}",
                    current.expires_at.format("%Y-%m-%d %H:%M:%S UTC")
                );
                let rest = current.expires_at - now;
                current.renew_at = now + (rest / 10).max(LEAST_INTERVAL);
                Ok(current.clone())
            }
            _ => Err(error),
        }
    }
}

impl<T> Clone for InUse<T> {
    fn clone(&self) -> InUse<T> {
        InUse {
            secret: Arc::clone(&self.secret),
            generation: self.generation,
            expires_at: self.expires_at,
            renew_at: self.renew_at,
            has_worked: self.has_worked,
        }
    }
}
