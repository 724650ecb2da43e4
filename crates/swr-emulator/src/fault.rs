//! Fault injection: the ways in which a request can fail, and the plans
//! that choose among them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::RngExt;

use super::image::roll;
use super::recipe::chance;
use super::requests::RequestKind;

/// A fault of a request.
///
/// Some are transport errors, which a client should hide; some are responses that
/// no client can use; some are legal but rare, and must not be treated as errors.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Fault {
    /// This status and body, for any request.
    Answer {
        /// The status.
        status: u16,
        /// The body, sent as JSON.
        body: String,
    },
    /// The gateway's 429. No `Retry-After` is documented.
    Throttled {
        /// Sent as `Retry-After`, in whole seconds.
        retry_after: Option<Duration>,
    },
    /// A 5xx.
    ServerError {
        /// 500, 502, 503 or 504.
        status: u16,
        /// The format of the body.
        body: ErrorBody,
    },
    /// No response until the client gives up.
    Hang,
    /// The correct response, after this delay.
    Late(Duration),
    /// The connection is reset before the first byte of the response.
    ResetBeforeHeaders,
    /// The connection is reset within the headers.
    ResetWithinHeaders,
    /// The connection is reset after the headers, within the body.
    ResetWithinBody,
    /// The connection is closed cleanly before the promised `Content-Length`.
    ShortBody,
    /// A chunked body ends within a chunk.
    UnfinishedChunks,
    /// A chunked body. Legal.
    Chunked,
    /// A compressed body, if the client accepts one. Legal.
    Gzip,
    /// A compressed body that was damaged, if the client accepts one.
    DamagedGzip,
    /// The correct body with the content type `text/html`.
    WrongContentType,
    /// Status 200 with an error document as body.
    ErrorDocument,
    /// Status 200 with a web page as body, as from a proxy that requires a login.
    WebPage,
    /// Status 200 without a body.
    EmptyBody,
    /// Half a document in a body of the right length.
    HalfDocument,
    /// All tokens issued so far are no longer valid.
    ExpiredTokens,
    /// The next marker is the one in the request.
    RepeatedMarker,
    /// The next marker leads back to an earlier position, from which the listing continues. Markers are
    /// opaque, so this is legal; rows repeat.
    DecreasingMarker,
    /// All following pages have the same rows and different next markers.
    EndlessMarkers,
    /// A page without rows but with a next marker, from which the listing continues. Legal.
    EmptyPage,
    /// Half a page, with a next marker. Legal.
    ShortPage,
    /// A page begins with rows of the page before it, as when a listing by offset shifts.
    DuplicateRows,
    /// A page, except the first one of the artifact list, lacks its first row, as when a listing
    /// by offset shifts. Affects each artifact once at most.
    MissingRows,
    /// An artifact is deleted just before the response.
    ArtifactDeleted,
    /// An artifact is pushed just before the response.
    ArtifactPushed,
    /// A repository is deleted with its artifacts just before the response.
    RepositoryDeleted,
    /// A repository is created, with an artifact, just before the response.
    RepositoryCreated,
    /// A tag moves to an older artifact of its repository just before the response.
    TagMoved,
}

/// The format of an error body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorBody {
    /// JSON of the service.
    Json,
    /// HTML of a load balancer.
    Html,
    /// No body.
    Empty,
}

impl Fault {
    /// One of each kind, with each status and body, except [`Fault::Answer`].
    pub fn every() -> Vec<Fault> {
        use Fault::*;
        let mut faults = vec![
            Throttled { retry_after: None },
            Throttled {
                retry_after: Some(Duration::from_secs(1)),
            },
        ];
        for status in [500, 502, 503, 504] {
            for body in [ErrorBody::Json, ErrorBody::Html, ErrorBody::Empty] {
                faults.push(ServerError { status, body });
            }
        }
        faults.extend([
            Hang,
            Late(Duration::from_millis(40)),
            ResetBeforeHeaders,
            ResetWithinHeaders,
            ResetWithinBody,
            ShortBody,
            UnfinishedChunks,
            Chunked,
            Gzip,
            DamagedGzip,
            WrongContentType,
            ErrorDocument,
            WebPage,
            EmptyBody,
            HalfDocument,
            ExpiredTokens,
            RepeatedMarker,
            DecreasingMarker,
            EndlessMarkers,
            EmptyPage,
            ShortPage,
            DuplicateRows,
            MissingRows,
            ArtifactDeleted,
            ArtifactPushed,
            RepositoryDeleted,
            RepositoryCreated,
            TagMoved,
        ]);
        faults
    }

    /// Whether it can be injected into a request of this kind.
    pub fn applies_to(&self, kind: RequestKind) -> bool {
        use RequestKind::{Artifacts, BuildHistory, Namespaces, Repositories, Token, Unknown};
        match self {
            Fault::RepeatedMarker
            | Fault::DecreasingMarker
            | Fault::EndlessMarkers
            | Fault::EmptyPage
            | Fault::ShortPage => kind == Artifacts,
            Fault::DuplicateRows | Fault::MissingRows => {
                matches!(kind, Namespaces | Repositories | Artifacts)
            }
            Fault::ArtifactDeleted
            | Fault::ArtifactPushed
            | Fault::RepositoryDeleted
            | Fault::RepositoryCreated
            | Fault::TagMoved => matches!(kind, Repositories | Artifacts | BuildHistory),
            Fault::ExpiredTokens => !matches!(kind, Token | Unknown),
            _ => kind != Unknown,
        }
    }
}

/// The faults of requests: the n-th request of a kind always gets the same.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultPlan {
    seed: u64,
    share: f64,
    weighted: Vec<(u32, Fault)>,
}

/// Prefix of a plan's seed in the name of its random sequence.
const PLAN_CHANCE: u64 = 1 << 42;

impl FaultPlan {
    /// Injects faults into this share of the requests, between 0 and 1. Each fault is chosen with its
    /// weight among those that fit the request.
    pub fn new(seed: u64, share: f64, weighted: Vec<(u32, Fault)>) -> FaultPlan {
        FaultPlan {
            seed,
            share,
            weighted,
        }
    }

    /// A different mixture for each seed: some of the faults, a few of them frequent, for
    /// 1 to 25 % of the requests.
    pub fn random(seed: u64) -> FaultPlan {
        let mut chance = chance(seed, PLAN_CHANCE);
        let share = 0.01 * 25_f64.powf(chance.random());
        let weighted = Fault::every()
            .into_iter()
            .filter_map(|fault| {
                let weight = chance.random_range(0..4_u32).pow(2);
                (weight > 0).then_some((weight, fault))
            })
            .collect();
        FaultPlan::new(seed, share, weighted)
    }

    /// The fault of the request with this number among those of its kind.
    fn fault(&self, kind: RequestKind, number: u64) -> Option<&Fault> {
        let subject = self.seed ^ (number << 8) ^ kind as u64;
        if roll(subject, 0) >= self.share {
            return None;
        }
        let possible = || {
            self.weighted
                .iter()
                .filter(|(_, fault)| fault.applies_to(kind))
        };
        let total: u32 = possible().map(|(weight, _)| weight).sum();
        let mut left = roll(subject, 1) * f64::from(total);
        possible()
            .find(|(weight, _)| {
                left -= f64::from(*weight);
                left < 0.0
            })
            .map(|(_, fault)| fault)
    }
}

/// Queued and planned faults.
#[derive(Debug, Default)]
pub(super) struct Faults {
    queued: HashMap<RequestKind, VecDeque<Fault>>,
    plan: Option<FaultPlan>,
    /// Requests of each kind since the plan was set.
    numbers: HashMap<RequestKind, u64>,
    /// Number of requests with each fault.
    pub(super) met: HashMap<Fault, u64>,
}

impl Faults {
    pub(super) fn queue(&mut self, kind: RequestKind, fault: Fault) {
        self.queued.entry(kind).or_default().push_back(fault);
    }

    pub(super) fn clear(&mut self) {
        self.queued.clear();
    }

    pub(super) fn queued(&self) -> usize {
        self.queued.values().map(VecDeque::len).sum()
    }

    pub(super) fn follow(&mut self, plan: Option<FaultPlan>) {
        self.plan = plan;
        self.numbers.clear();
    }

    /// Called once for each request, before anything else. This is the only place that chooses
    /// faults.
    pub(super) fn next(&mut self, kind: RequestKind) -> Option<Fault> {
        let queued = self.queued.get_mut(&kind).and_then(VecDeque::pop_front);
        let fault = queued.or_else(|| self.planned(kind))?;
        *self.met.entry(fault.clone()).or_default() += 1;
        Some(fault)
    }

    fn planned(&mut self, kind: RequestKind) -> Option<Fault> {
        let plan = self.plan.as_ref()?;
        let number = self.numbers.entry(kind).or_default();
        *number += 1;
        plan.fault(kind, *number).cloned()
    }
}

/// The faults of a listing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Disturbance<'a> {
    pub(super) fault: Option<&'a Fault>,
    /// The artifacts that a page has lacked.
    pub(super) lost: &'a Mutex<HashSet<i64>>,
}

impl Disturbance<'_> {
    /// Whether this artifact must be missing now; at most once.
    pub(super) fn loses(&self, artifact_id: i64) -> bool {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.insert(artifact_id)
    }

    /// Applies faults to a page of a listing by offset.
    pub(super) fn shift<T: Clone>(&self, rows: &mut Vec<T>) {
        match self.fault {
            Some(Fault::DuplicateRows) => rows.extend(rows.last().cloned()),
            Some(Fault::MissingRows) if !rows.is_empty() => drop(rows.remove(0)),
            _ => {}
        }
    }
}
