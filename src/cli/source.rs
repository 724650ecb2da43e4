//! Which registries a command is about: the instances of its sources.

use futures_util::{StreamExt, stream};

use super::exit::{Exit, Failure};
use super::job::TargetName;
use super::settings::RegistryArgs;
use crate::artifact::ListedInstance;
use crate::clock::Clock;
use crate::registry::{Project, ProjectSettings, Registry, RegistryError};
use crate::sync::{FIRST_VERSION, is_older};

/// A project of a region, and which of its instances.
#[derive(Debug)]
pub(super) struct Source {
    /// Its name in the configuration file.
    pub name: Option<String>,
    /// The region, if known.
    pub region: Option<String>,
    /// How the project is reached.
    pub settings: ProjectSettings,
    /// The client that its instances share.
    pub project: Project,
    /// Which instances.
    pub instances: Instances,
}

/// Which instances of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Instances {
    /// All that are running and have an artifact list.
    All {
        /// Of these only, if it is given.
        among: Option<Vec<String>>,
    },
    /// These, by their ids.
    These(Vec<String>),
}

/// One instance of a source.
#[derive(Debug)]
pub(super) struct Target<'a> {
    /// The source it is of.
    pub source: &'a Source,
    /// Its id in SWR.
    pub swr_instance_id: String,
    /// Its client.
    pub registry: Registry,
}

/// A source that could not be prepared or asked, and why.
#[derive(Debug)]
pub(super) struct SourceFailure {
    /// Which one.
    pub target: TargetName,
    /// Why not.
    pub failure: Failure,
}

/// Prepares the clients. What is wrong with one source among several does not keep the others
/// from their work; with one alone there is nothing else to do.
pub(super) async fn prepare(
    registries: &[RegistryArgs],
    clock: &Clock,
) -> Result<(Vec<Source>, Vec<SourceFailure>), Failure> {
    let mut sources = Vec::new();
    let mut failures = Vec::new();
    for registry in registries {
        match registry.source(clock.clone()).await {
            Ok(source) => sources.push(source),
            Err(failure) if registries.len() == 1 => return Err(failure),
            Err(failure) => failures.push(SourceFailure {
                target: TargetName::of_settings(registry),
                failure,
            }),
        }
    }
    Ok((sources, failures))
}

/// The instances of all sources, and the sources that did not give theirs. So many are asked at
/// a time.
pub(super) async fn find_targets(
    sources: &[Source],
    parallel: usize,
) -> Result<(Vec<Target<'_>>, Vec<SourceFailure>), Failure> {
    let mut targets = Vec::new();
    let mut failures = Vec::new();
    // In the order of the file, whichever answers first.
    let mut asked = stream::iter(sources)
        .map(async |source| (source, source.targets().await))
        .buffered(parallel);
    while let Some((source, found)) = asked.next().await {
        match found {
            Ok(found) => targets.extend(found),
            Err(error) => failures.push(SourceFailure {
                target: TargetName::new(source, None),
                failure: super::hints::failure(error.into()),
            }),
        }
    }
    if failures.is_empty() {
        check_found(sources, &targets)?;
    }
    Ok((targets, failures))
}

/// An instance that was asked for by its id is one that somebody expects to be there.
fn check_found(sources: &[Source], targets: &[Target<'_>]) -> Result<(), Failure> {
    let among = sources.iter().filter_map(|source| match &source.instances {
        Instances::All { among } => among.as_ref(),
        Instances::These(_) => None,
    });
    let has = |id: &String| targets.iter().any(|target| target.swr_instance_id == *id);
    let Some(unfound) = among.flatten().find(|id| !has(id)) else {
        return Ok(());
    };
    let text = format!("no source has an instance {unfound} that can be mirrored");
    Err(Failure::new(Exit::Usage, text).hint("check --instance-id and SWR_INSTANCE_ID"))
}

impl Source {
    /// The instances, which the project is asked for where they are not named. It is asked
    /// anew in each run, so that a new instance needs no change of any settings.
    pub(super) async fn targets(&self) -> Result<Vec<Target<'_>>, RegistryError> {
        let ids = match &self.instances {
            Instances::These(ids) => ids.clone(),
            Instances::All { among: None } => self.discover().await?,
            Instances::All { among: Some(among) } => {
                let mut ids = self.discover().await?;
                ids.retain(|id| among.contains(id));
                ids
            }
        };
        Ok(ids
            .into_iter()
            .map(|swr_instance_id| Target {
                source: self,
                registry: self.project.registry(&swr_instance_id),
                swr_instance_id,
            })
            .collect())
    }

    async fn discover(&self) -> Result<Vec<String>, RegistryError> {
        let mut ids = Vec::new();
        for instance in self.project.instances().await? {
            match unfit(&instance) {
                None => ids.push(instance.swr_instance_id),
                Some(reason) => tracing::warn!(
                    instance = instance.swr_instance_id,
                    name = instance.name,
                    "left out: {reason}"
                ),
            }
        }
        if ids.is_empty() {
            tracing::warn!(
                project_id = self.settings.project_id,
                "the project has no instance to mirror"
            );
        }
        ids.sort();
        Ok(ids)
    }
}

/// Why an instance cannot be crawled.
fn unfit(instance: &ListedInstance) -> Option<String> {
    match (&instance.status, &instance.version) {
        (Some(status), _) if status != "Running" => Some(format!("its status is {status}")),
        (_, Some(version)) if is_older(version, FIRST_VERSION) => Some(format!(
            "its version is {version}, and the artifact list exists from 25.6.0 on"
        )),
        _ => None,
    }
}
