//! One execution of `sync`: what became of each instance, and how it all ended.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::exit::{Exit, Failure};
use super::settings::RegistryArgs;
use super::source::Source;
use crate::run::RunReport;

/// What a job did.
#[derive(Debug)]
pub(super) struct JobReport {
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// How long it took.
    pub elapsed: Duration,
    /// One for each instance, and for each source whose instances could not be listed; in the
    /// order in which they ended.
    pub runs: Vec<InstanceRun>,
    /// What kept the job from running any instance.
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
}

impl JobReport {
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
