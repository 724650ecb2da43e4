//! One execution of `sync`: what became of each instance, and how it all ended.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::exit::{Exit, Failure};
use super::source::Target;
use crate::run::{RunCounters, RunOutcome, RunReport};
use crate::sync::SyncError;

/// What a job did.
#[derive(Debug)]
pub(super) struct JobReport {
    /// Tells this execution from all others.
    pub job_id: Uuid,
    pub started_at: DateTime<Utc>,
    pub elapsed: Duration,
    /// What it was to do, as far as the settings say; empty if they could not be read.
    pub targets: Vec<Target>,
    /// One for each instance, and for each source whose instances could not be listed; in the
    /// order in which they ended.
    pub instances: Vec<InstanceReport>,
    /// What kept the job from running any instance, or from ending well.
    pub failure: Option<Failure>,
}

/// What became of one instance, whether its run was begun or not.
#[derive(Debug)]
pub(super) struct InstanceReport {
    /// Which one; `None` if the settings could not be read.
    pub target: Option<Target>,
    pub started_at: DateTime<Utc>,
    pub elapsed: Duration,
    /// The number of its row, if it has one.
    pub run_id: Option<i64>,
    /// The exit code of this instance alone: success if it was left to another run.
    pub exit: Exit,
    /// What it did until it ended, however it ended; `None` if the job failed before it.
    pub counters: Option<RunCounters>,
    pub result: Result<RunReport, Failure>,
}

impl InstanceReport {
    /// Whether it was left to the run that holds the lock; then `result` tells which one that is.
    pub(super) fn is_skipped(&self) -> bool {
        self.result.is_err() && self.exit == Exit::Success
    }

    /// The word for how it ended; that of the run's row, if there is one.
    pub(super) fn outcome(&self) -> &'static str {
        match &self.result {
            Ok(report) => report.outcome.as_str(),
            Err(_) if self.is_skipped() => "skipped",
            Err(failure) => {
                let error = failure.error.downcast_ref::<SyncError>();
                error
                    .map_or(RunOutcome::Failed, SyncError::outcome)
                    .as_str()
            }
        }
    }

    /// Whether it ended as a run that is complete, and in this way.
    pub(super) fn is(&self, outcome: RunOutcome) -> bool {
        let is_same = |report: &RunReport| report.outcome == outcome;
        self.result.as_ref().is_ok_and(is_same)
    }
}

impl JobReport {
    /// A job that begins now.
    pub(super) fn begin(started_at: DateTime<Utc>) -> JobReport {
        JobReport {
            job_id: uuid::Builder::from_random_bytes(fastrand::u128(..).to_ne_bytes()).into_uuid(),
            started_at,
            elapsed: Duration::ZERO,
            targets: Vec::new(),
            instances: Vec::new(),
            failure: None,
        }
    }

    /// Reports what kept the job from running any instance as the failure of each of them, and what
    /// kept it from ending well as a failure of no instance.
    pub(super) fn report_failure(&mut self) {
        let Some(failure) = &self.failure else {
            return;
        };
        let failed = |target| InstanceReport {
            target,
            started_at: self.started_at,
            elapsed: self.elapsed,
            run_id: None,
            exit: failure.exit,
            counters: None,
            result: Err(failure.clone()),
        };
        let failed: Vec<InstanceReport> = match &self.targets[..] {
            targets if self.instances.is_empty() && !targets.is_empty() => {
                targets.iter().cloned().map(Some).map(failed).collect()
            }
            _ => vec![failed(None)],
        };
        self.instances.extend(failed);
    }

    /// The worst of what happened.
    pub(super) fn exit(&self) -> Exit {
        let instances = self.instances.iter().map(|report| report.exit);
        let whole = self.failure.as_ref().map(|failure| failure.exit);
        instances
            .chain(whole)
            .max_by_key(|exit| exit.severity())
            .unwrap_or(Exit::Success)
    }

    /// The end of the command. What failed in one of several instances was told when it did.
    pub(super) fn into_result(mut self) -> Result<Exit, Failure> {
        let exit = self.exit();
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        match self.instances.pop() {
            Some(only) if self.instances.is_empty() && !only.is_skipped() => {
                only.result.map(|_| exit)
            }
            _ => Ok(exit),
        }
    }
}
