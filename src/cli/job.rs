//! One execution of `sync`: the results of its instances, and the result of the job.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::exit::{Exit, Failure};
use super::source::Target;
use crate::run::{RunCounters, RunOutcome, RunReport};
use crate::sync::SyncError;

/// The result of a job.
#[derive(Debug)]
pub(super) struct JobReport {
    /// Unique id of this execution.
    pub job_id: Uuid,
    pub started_at: DateTime<Utc>,
    pub elapsed: Duration,
    /// The configured targets; empty if the settings could not be read.
    pub targets: Vec<Target>,
    /// One report for each instance, and for each source whose instances could not be listed, in the
    /// order in which they ended.
    pub instances: Vec<InstanceReport>,
    /// Why the job could not run any instance, or could not shut down cleanly.
    pub failure: Option<Failure>,
}

/// The result for one instance, whether or not its run started.
#[derive(Debug)]
pub(super) struct InstanceReport {
    /// `None` if the settings could not be read.
    pub target: Option<Target>,
    pub started_at: DateTime<Utc>,
    pub elapsed: Duration,
    /// The id of its row, if it has one.
    pub run_id: Option<i64>,
    /// The exit code of this instance alone: success if it was skipped because another run holds the lock.
    pub exit: Exit,
    /// What it did before it ended; `None` if the job failed before it started.
    pub counters: Option<RunCounters>,
    pub result: Result<RunReport, Failure>,
}

impl InstanceReport {
    /// Whether it was skipped because another run holds the lock; `result` then describes that run.
    pub(super) fn is_skipped(&self) -> bool {
        self.result.is_err() && self.exit == Exit::Success
    }

    /// The outcome as a word; that of the run's row, if there is one.
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

    /// Whether the run is complete, with this outcome.
    pub(super) fn is(&self, outcome: RunOutcome) -> bool {
        let is_same = |report: &RunReport| report.outcome == outcome;
        self.result.as_ref().is_ok_and(is_same)
    }
}

impl JobReport {
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

    /// If the job ran no instance, records its failure for each target; otherwise records it
    /// without a target.
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

    /// The most severe exit code.
    pub(super) fn exit(&self) -> Exit {
        let instances = self.instances.iter().map(|report| report.exit);
        let whole = self.failure.as_ref().map(|failure| failure.exit);
        instances
            .chain(whole)
            .max_by_key(|exit| exit.severity())
            .unwrap_or(Exit::Success)
    }

    /// The result of the command. With several instances, their failures were already printed.
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
