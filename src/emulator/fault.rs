//! Planned misbehaviour: what a request meets instead of its answer.

use std::collections::{HashMap, VecDeque};

use super::requests::RequestKind;

/// What happens to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// This status and body, whatever was asked.
    Answer { status: u16, body: String },
    /// No answer, until the client gives up.
    Hang,
}

/// The faults to come.
#[derive(Debug, Default)]
pub(super) struct Faults {
    queued: HashMap<RequestKind, VecDeque<Fault>>,
}

impl Faults {
    pub(super) fn queue(&mut self, kind: RequestKind, fault: Fault) {
        self.queued.entry(kind).or_default().push_back(fault);
    }

    /// Asked once for each request, before anything else is done with it. Whatever
    /// kind of fault there may be, this is where it is chosen.
    pub(super) fn next(&mut self, kind: RequestKind) -> Option<Fault> {
        self.queued.get_mut(&kind)?.pop_front()
    }
}
