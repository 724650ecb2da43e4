//! One execution of `sync`: what became of each instance, and how it all ended.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::exit::{Exit, Failure};
use super::settings::RegistryArgs;
use super::source::{Instances, Source};
use crate::run::{RunCounters, RunOutcome, RunReport};
use crate::sync::SyncError;

/// What a job did.
#[derive(Debug)]
pub(super) struct JobReport {
    /// Tells this execution from all others.
    pub job_id: Uuid,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// How long it took.
    pub elapsed: Duration,
    /// What it was to do, as far as the settings say; empty if they could not be read.
    pub targets: Vec<TargetName>,
    /// One for each instance, and for each source whose instances could not be listed; in the
    /// order in which they ended.
    pub runs: Vec<InstanceRun>,
    /// What kept the job from running any instance, or from ending well.
    pub failure: Option<Failure>,
}

/// What became of one instance.
#[derive(Debug)]
pub(super) struct InstanceRun {
    /// Which one.
    pub target: TargetName,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// How long it took.
    pub elapsed: Duration,
    /// The number of its row, if it has one.
    pub run_id: Option<i64>,
    /// What it did until its end, whichever that was.
    pub counters: RunCounters,
    /// What it did, or why not.
    pub result: Result<RunReport, Failure>,
    /// Whether it is no failure that another run over the instance is going on.
    pub skips_locked: bool,
}

/// What an instance is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TargetName {
    /// The source's name in the configuration file.
    pub source: Option<String>,
    /// The region, if known.
    pub region: Option<String>,
    /// Scheme and host of the API.
    pub endpoint: String,
    /// The project.
    pub project_id: String,
    /// The instance; `None` if the project did not say which there are.
    pub swr_instance_id: Option<String>,
}

/// How it ended for one target, whether it was begun or not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ending<'a> {
    /// Which one; `None` if the settings could not be read.
    pub target: Option<&'a TargetName>,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// How long it took.
    pub elapsed: Duration,
    /// The number of the run, if it has one.
    pub run_id: Option<i64>,
    /// The exit code of this target alone.
    pub exit: Exit,
    /// What it did; `None` if it was not begun.
    pub counters: Option<&'a RunCounters>,
    /// What it did, or why not.
    pub result: Result<&'a RunReport, &'a Failure>,
}

impl TargetName {
    /// An instance of a source, or the source as a whole.
    pub(super) fn new(source: &Source, swr_instance_id: Option<&str>) -> TargetName {
        TargetName {
            source: source.name.clone(),
            region: source.region.clone(),
            endpoint: source.settings.endpoint.to_string(),
            project_id: source.settings.project_id.clone(),
            swr_instance_id: swr_instance_id.map(str::to_owned),
        }
    }

    /// What the settings of a source say about its instances; nothing if they name no project.
    pub(super) fn planned(registry: &RegistryArgs) -> Vec<TargetName> {
        let Ok(project_id) = registry.project_id() else {
            return Vec::new();
        };
        let source = TargetName {
            project_id,
            ..TargetName::of_settings(registry)
        };
        let Ok(Instances::These(ids)) = registry.instances() else {
            return vec![source];
        };
        let target = |id| TargetName {
            swr_instance_id: Some(id),
            ..source.clone()
        };
        ids.into_iter().map(target).collect()
    }

    /// A source as far as its settings go, which may not be enough to reach it.
    pub(super) fn of_settings(registry: &RegistryArgs) -> TargetName {
        TargetName {
            source: registry.configured.name.clone(),
            region: registry.region(),
            endpoint: registry
                .endpoint()
                .map(|endpoint| endpoint.to_string())
                .unwrap_or_default(),
            project_id: registry.project_id.clone().unwrap_or_default(),
            swr_instance_id: None,
        }
    }
}

impl std::fmt::Display for TargetName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.swr_instance_id, &self.source) {
            (Some(instance), _) => write!(f, "instance {instance}"),
            (None, Some(source)) => write!(f, "source {source}"),
            (None, None) => write!(f, "project {}", self.project_id),
        }
    }
}

impl InstanceRun {
    /// The exit code of this instance alone.
    pub(super) fn exit(&self) -> Exit {
        match &self.result {
            Ok(report) => report.counters.exit(),
            Err(_) if self.is_skipped() => Exit::Success,
            Err(failure) => failure.exit,
        }
    }

    /// Whether it was left to the run that is going on; then `result` tells which one that is.
    pub(super) fn is_skipped(&self) -> bool {
        let is_locked = |failure: &Failure| failure.exit == Exit::Locked;
        self.skips_locked && self.result.as_ref().is_err_and(is_locked)
    }

    /// How it ended.
    pub(super) fn ending(&self) -> Ending<'_> {
        Ending {
            target: Some(&self.target),
            started_at: self.started_at,
            elapsed: self.elapsed,
            run_id: self.run_id,
            exit: self.exit(),
            counters: Some(&self.counters),
            result: self.result.as_ref(),
        }
    }
}

impl Ending<'_> {
    /// The word for it; that of the run's row, if there is one.
    pub(super) fn outcome(&self) -> &'static str {
        match self.result {
            Ok(report) => report.outcome.as_str(),
            // Left alone on purpose.
            Err(_) if self.exit == Exit::Success => "skipped",
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
        self.result.is_ok_and(|report| report.outcome == outcome)
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
            runs: Vec::new(),
            failure: None,
        }
    }

    /// How it ended for each target. What kept the job from running any counts for each of them.
    pub(super) fn endings(&self) -> Vec<Ending<'_>> {
        let mut endings: Vec<Ending<'_>> = self.runs.iter().map(InstanceRun::ending).collect();
        let Some(failure) = &self.failure else {
            return endings;
        };
        let failed = |target| Ending {
            target,
            started_at: self.started_at,
            elapsed: self.elapsed,
            run_id: None,
            exit: failure.exit,
            counters: None,
            result: Err(failure),
        };
        if endings.is_empty() && !self.targets.is_empty() {
            return self.targets.iter().map(Some).map(failed).collect();
        }
        endings.push(failed(None));
        endings
    }

    /// The worst of what happened.
    pub(super) fn exit(&self) -> Exit {
        let runs = self.runs.iter().map(InstanceRun::exit);
        let whole = self.failure.as_ref().map(|failure| failure.exit);
        runs.chain(whole)
            .max_by_key(|exit| exit.severity())
            .unwrap_or(Exit::Success)
    }

    /// The end of the command. What failed in one of several instances was told when it did.
    pub(super) fn into_result(mut self) -> Result<Exit, Failure> {
        let exit = self.exit();
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        match self.runs.pop() {
            Some(only) if self.runs.is_empty() && !only.is_skipped() => {
                only.result.map(|report| report.counters.exit())
            }
            _ => Ok(exit),
        }
    }
}
