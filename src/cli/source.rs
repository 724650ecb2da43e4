//! Which registries a command is about: the instances of its sources.

use crate::artifact::ListedInstance;
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
    All,
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

impl Source {
    /// The instances, which the project is asked for where they are not named. It is asked
    /// anew in each run, so that a new instance needs no change of any settings.
    pub(super) async fn targets(&self) -> Result<Vec<Target<'_>>, RegistryError> {
        let ids = match &self.instances {
            Instances::These(ids) => ids.clone(),
            Instances::All => self.discover().await?,
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
