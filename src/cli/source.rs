//! Finds the instances that a command works on.

use std::fmt;
use std::time::Duration;

use futures_util::{StreamExt, stream};

use super::exit::{Exit, Failure};
use super::hints;
use super::http::warn_of_clear_text;
use super::names::find_instance;
use super::proxy;
use super::settings::{Instances, RegistryArgs};
use super::variables::host;
use crate::artifact::ListedInstance;
use crate::clock::Clock;
use crate::registry::{
    Credentials, Project, ProjectSettings, Registry, RegistryError, RetryPolicy, TransportSettings,
};
use crate::store::InstanceName;
use crate::sync::{
    Ending, FIRST_VERSION, HEARTBEAT, PATIENCE, Safeguards, SyncError, SyncSettings, is_older,
};

/// Identifies an instance, or a source as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// The source's name in the configuration file.
    pub source: Option<String>,
    pub region: Option<String>,
    /// Scheme and host of the API.
    pub endpoint: String,
    pub project_id: String,
    /// The instance; `None` if the project did not return its instances.
    pub swr_instance_id: Option<String>,
}

impl Target {
    /// A source whose settings may be incomplete.
    pub(super) fn of_settings(registry: &RegistryArgs) -> Target {
        Target {
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

    /// The targets in the settings of a source; none if they have no project.
    pub(super) fn planned(registry: &RegistryArgs) -> Vec<Target> {
        let Ok(project_id) = registry.project_id() else {
            return Vec::new();
        };
        let source = Target {
            project_id,
            ..Target::of_settings(registry)
        };
        match registry.instances() {
            Ok(Instances::These(ids)) => ids.iter().map(|id| source.instance(id)).collect(),
            _ => vec![source],
        }
    }

    fn instance(&self, swr_instance_id: &str) -> Target {
        Target {
            swr_instance_id: Some(swr_instance_id.to_owned()),
            ..self.clone()
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.swr_instance_id, &self.source) {
            (Some(instance), _) => write!(f, "instance {instance}"),
            (None, Some(source)) => write!(f, "source {source}"),
            (None, None) => write!(f, "project {}", self.project_id),
        }
    }
}

/// A project of a region with some or all of its instances.
#[derive(Debug)]
pub(super) struct Source {
    pub target: Target,
    /// The connection settings of the project.
    pub settings: ProjectSettings,
    /// The client that its instances share.
    pub project: Project,
    pub instances: Instances,
}

impl RegistryArgs {
    /// Kind and origin of the credentials, without a value.
    pub(super) async fn credentials_source(&self, clock: &Clock) -> Result<String, Failure> {
        self.locate_credentials()?.check_secrets()?;
        // Only a user's own IAM endpoint needs the project, and no request is sent here.
        let (_, source) = self.find_credentials("", clock).await?;
        Ok(source)
    }

    async fn find_credentials(
        &self,
        project_id: &str,
        clock: &Clock,
    ) -> Result<(Credentials, String), Failure> {
        let located = self.locate_credentials()?;
        let iam_endpoint = || self.iam_endpoint();
        located.resolve(project_id, iam_endpoint, clock).await
    }

    /// Creates the client of the project.
    pub(super) async fn source(&self, clock: Clock) -> Result<Source, Failure> {
        let project_id = self.project_id()?;
        let instances = self.instances()?;
        let endpoint = self.endpoint()?;
        proxy::check()?;
        // Checked first, because the metadata service may take long.
        let ca_certificates = self.ca_certificates()?;
        let (credentials, _) = self.find_credentials(&project_id, &clock).await?;
        warn_of_clear_text(&endpoint);
        if let Credentials::Password(login) = &credentials {
            warn_of_clear_text(&login.iam_endpoint);
        }
        let settings = ProjectSettings {
            endpoint,
            credentials,
            project_id,
            transport: TransportSettings {
                connect_timeout: *self.connect_timeout,
                request_timeout: *self.request_timeout,
                retry: RetryPolicy {
                    max_attempts: self.max_attempts,
                    base_delay: *self.retry_delay,
                    max_delay: (*self.max_retry_delay).max(Duration::from_millis(1)),
                    ..RetryPolicy::default()
                },
                max_in_flight: usize::from(self.max_in_flight),
                max_requests_per_second: (self.max_requests_per_second > 0.0)
                    .then_some(self.max_requests_per_second),
                ca_certificates,
            },
            redact_commands: self.redact_commands,
            clock,
        };
        let project = Project::new(settings.clone())
            .map_err(|error| Failure::new(Exit::Unexpected, error))?;
        let target = Target {
            project_id: settings.project_id.clone(),
            ..Target::of_settings(self)
        };
        Ok(Source {
            target,
            settings,
            project,
            instances,
        })
    }
}

/// One instance of a source.
#[derive(Debug)]
pub(super) struct Instance {
    pub swr_instance_id: String,
    /// The name that the project lists it with, if it was asked.
    pub name: Option<String>,
    /// What to do if it does not exist.
    pub hint: Option<String>,
    pub target: Target,
    pub registry: Registry,
}

impl Instance {
    /// The failure of a run, with the nearest names if the instance does not exist.
    pub(super) fn failure(&self, error: SyncError) -> Failure {
        let is_unknown = matches!(
            &error,
            SyncError::Registry(error) if error.status().is_some_and(|status| status.status == 404)
        );
        let failure = hints::failure(error);
        match &self.hint {
            Some(hint) if is_unknown => failure.hint(hint),
            _ => failure,
        }
    }

    /// The settings of a run that publishes, with the usual safeguards, and does not wait for the
    /// lock.
    pub(super) fn sync_settings(&self, clock: &Clock) -> SyncSettings {
        SyncSettings {
            swr_instance_id: self.swr_instance_id.clone(),
            project_id: self.target.project_id.clone(),
            endpoint: self.target.endpoint.clone(),
            region: self.target.region.clone(),
            ending: Ending::Publish,
            safeguards: Safeguards::default(),
            lock_timeout: Some(Duration::ZERO),
            patience: PATIENCE,
            heartbeat: HEARTBEAT,
            host: host(),
            clock: clock.clone(),
        }
    }
}

/// A source that could not be prepared or listed, and why.
#[derive(Debug)]
pub(super) struct SourceFailure {
    pub target: Target,
    pub failure: Failure,
}

/// Creates the clients. If one source of several has wrong settings, the others are still
/// synced; a single one is an error.
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
                target: Target::of_settings(registry),
                failure,
            }),
        }
    }
    Ok((sources, failures))
}

/// The instances of all sources, and the sources that failed. At most this many are requested
/// concurrently.
pub(super) async fn find_instances(
    sources: &[Source],
    parallel: usize,
) -> Result<(Vec<Instance>, Vec<SourceFailure>), Failure> {
    let mut instances = Vec::new();
    let mut failures = Vec::new();
    // In the order of the file, not of the responses.
    let mut asked = stream::iter(sources)
        .map(async |source| (source, source.chosen().await))
        .buffered(parallel);
    while let Some((source, found)) = asked.next().await {
        match found {
            Ok(chosen) => instances.extend(chosen.into_iter().map(|chosen| Instance {
                target: source.target.instance(&chosen.swr_instance_id),
                registry: source.project.registry(&chosen.swr_instance_id),
                swr_instance_id: chosen.swr_instance_id,
                name: chosen.name,
                hint: chosen.hint,
            })),
            Err(error) => failures.push(SourceFailure {
                target: source.target.clone(),
                failure: hints::failure(error.into()),
            }),
        }
    }
    if failures.is_empty() {
        check_found(sources, &instances)?;
    }
    Ok((instances, failures))
}

/// An instance that was selected by id must exist.
fn check_found(sources: &[Source], instances: &[Instance]) -> Result<(), Failure> {
    let among = sources.iter().filter_map(|source| match &source.instances {
        Instances::All { among } => among.as_ref(),
        Instances::These(_) => None,
    });
    let has = |wanted: &String| {
        instances.iter().any(|instance| {
            instance.swr_instance_id == *wanted || instance.name.as_ref() == Some(wanted)
        })
    };
    let Some(unfound) = among.flatten().find(|id| !has(id)) else {
        return Ok(());
    };
    let text = format!("no source has an instance {unfound} that can be mirrored");
    Err(Failure::new(Exit::Usage, text).hint("check --instance-id and SWR_INSTANCE_ID"))
}

impl Source {
    /// The instances. Those that are not configured by their id are requested from the project in each
    /// run, so that a new instance needs no change of the settings.
    pub(super) async fn chosen(&self) -> Result<Vec<Chosen>, RegistryError> {
        match &self.instances {
            Instances::These(ids) if ids.iter().all(|id| is_id(id)) => {
                Ok(ids.iter().map(|id| Chosen::by_id(id)).collect())
            }
            Instances::These(names) => self.by_name(names).await,
            Instances::All { among } => {
                let mut found = self.discover().await?;
                if let Some(among) = among {
                    let is_among = |found: &Chosen| {
                        let (id, name) = (&found.swr_instance_id, &found.name);
                        among.contains(id) || name.as_ref().is_some_and(|name| among.contains(name))
                    };
                    found.retain(is_among);
                }
                Ok(found)
            }
        }
    }

    /// The instances with these ids or names. One that is not listed is kept, so that the others do not
    /// fail with it.
    async fn by_name(&self, names: &[String]) -> Result<Vec<Chosen>, RegistryError> {
        let listed = match self.project.instances().await {
            Ok(listed) => listed,
            // Without the permission to list them, it can only be an id of another form.
            Err(error) if error.status().is_some_and(|status| status.status == 403) => {
                return Ok(names.iter().map(|id| Chosen::by_id(id)).collect());
            }
            Err(error) => return Err(error),
        };
        let all: Vec<InstanceName> = listed.into_iter().map(InstanceName::from).collect();
        let choose = |name: &String| match find_instance(name, &all) {
            Ok(found) => Chosen::from(found.clone()),
            Err(failure) => Chosen {
                hint: failure.hint,
                ..Chosen::by_id(name)
            },
        };
        let mut chosen: Vec<Chosen> = names.iter().map(choose).collect();
        chosen.sort_by(|one, other| one.swr_instance_id.cmp(&other.swr_instance_id));
        chosen.dedup();
        Ok(chosen)
    }

    async fn discover(&self) -> Result<Vec<Chosen>, RegistryError> {
        let listed = self.project.instances().await?;
        let mut chosen = Vec::new();
        for instance in listed {
            match unfit(&instance) {
                None => chosen.push(Chosen::from(InstanceName::from(instance))),
                Some(reason) => tracing::warn!(
                    instance = instance.swr_instance_id,
                    name = instance.name,
                    "skipped: {reason}"
                ),
            }
        }
        if chosen.is_empty() {
            tracing::warn!(
                project_id = self.target.project_id,
                "the project has no instance to mirror"
            );
        }
        chosen.sort_by(|one, other| one.swr_instance_id.cmp(&other.swr_instance_id));
        Ok(chosen)
    }
}

/// An instance to work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chosen {
    pub swr_instance_id: String,
    /// Known if the instances of the project were listed.
    pub name: Option<String>,
    /// What to do if it does not exist; `None` for an id.
    pub hint: Option<String>,
}

impl Chosen {
    fn by_id(id: &str) -> Chosen {
        Chosen {
            swr_instance_id: id.to_owned(),
            name: None,
            hint: None,
        }
    }
}

impl From<InstanceName> for Chosen {
    fn from(instance: InstanceName) -> Chosen {
        let InstanceName {
            swr_instance_id,
            name,
        } = instance;
        Chosen {
            swr_instance_id,
            name,
            hint: None,
        }
    }
}

impl From<ListedInstance> for InstanceName {
    fn from(instance: ListedInstance) -> InstanceName {
        InstanceName {
            swr_instance_id: instance.swr_instance_id,
            name: instance.name,
        }
    }
}

/// Whether this is an id of SWR, a UUID, and no name.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == 36 && uuid::Uuid::try_parse(text).is_ok()
}

/// Why an instance cannot be crawled.
fn unfit(instance: &ListedInstance) -> Option<String> {
    match (&instance.status, &instance.version) {
        (Some(status), _) if status != "Running" => Some(format!("its status is {status}")),
        (_, Some(version)) if is_older(version, FIRST_VERSION) => Some(format!(
            "its version is {version}, but the artifact list requires 25.6.0 or later"
        )),
        _ => None,
    }
}
