//! Handles requests, from the raw path to the response.

use hyper::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::answer::{Answer, Refusal};
use super::fault::Disturbance;
use super::image::{Digest, History};
use super::metadata::MetadataRoute;
use super::requests::RequestKind;
use super::settings::{EmulatorSettings, Instance};
use super::signature::parse_query;
use super::wire::{
    ArtifactPage, BuildHistoryPage, InstancePage, InstanceRow, NamespacePage, NamespaceRow,
    RepositoryPage, RepositoryRow,
};
use super::world::{CannedAnswer, Namespace, Repository, World};

/// The first instance version that lists artifacts (swr_03_0306).
const ARTIFACT_LIST_SINCE: [u32; 3] = [25, 6, 0];
/// The maximum page size of every list.
const LARGEST_PAGE: usize = 100;

/// The operation of a path, with its parameters decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    Token,
    Metadata(MetadataRoute),
    Instances { project: String },
    Instance { project: String, instance: String },
    Namespaces { project: String, instance: String },
    Repositories { project: String, instance: String },
    Artifacts { project: String, instance: String },
    BuildHistory(Box<BuildHistoryRoute>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BuildHistoryRoute {
    project: String,
    instance: String,
    namespace: String,
    /// Decoded twice.
    repository: String,
    pub(super) reference: String,
    addition: String,
}

impl Route {
    /// The route of a raw path, or `None` for the gateway's
    /// 404. The gateway decodes before it routes, so a slash that is encoded once
    /// splits its segment and matches no route.
    pub(super) fn of(method: &Method, path: &str) -> Option<Route> {
        let segments: Option<Vec<String>> = path
            .strip_prefix('/')?
            .split('/')
            .map(decode_segment)
            .collect();
        let segments = segments?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        if let (&Method::POST, ["v3", "auth", "tokens"]) = (method, &segments[..]) {
            return Some(Route::Token);
        }
        let of_the_machine = match (method, &segments[..]) {
            (&Method::PUT, ["meta-data", "latest", "api", "token"]) => Some(MetadataRoute::Token),
            (&Method::GET, ["openstack", "latest", "securitykey"]) => {
                Some(MetadataRoute::SecurityKey)
            }
            (&Method::POST, ["v1", "credentials"]) => Some(MetadataRoute::PodIdentity),
            _ => None,
        };
        if let Some(route) = of_the_machine {
            return Some(Route::Metadata(route));
        }
        let ["v2", project, "instances", rest @ ..] = &segments[..] else {
            return None;
        };
        if method != Method::GET {
            return None;
        }
        let project = (*project).to_owned();
        let Some((instance, rest)) = rest.split_first() else {
            return Some(Route::Instances { project });
        };
        let instance = (*instance).to_owned();
        match rest {
            [] => Some(Route::Instance { project, instance }),
            ["namespaces"] => Some(Route::Namespaces { project, instance }),
            ["repositories"] => Some(Route::Repositories { project, instance }),
            ["artifacts"] => Some(Route::Artifacts { project, instance }),
            [
                "namespaces",
                namespace,
                "repositories",
                repository,
                "artifacts",
                reference,
                "additions",
                addition,
            ] => {
                // The service decodes this parameter a second time (swr_03_0305).
                let repository = percent_decode_str(repository).decode_utf8().ok()?;
                Some(Route::BuildHistory(Box::new(BuildHistoryRoute {
                    project,
                    instance,
                    namespace: (*namespace).to_owned(),
                    repository: repository.into_owned(),
                    reference: (*reference).to_owned(),
                    addition: (*addition).to_owned(),
                })))
            }
            _ => None,
        }
    }

    pub(super) fn kind(&self) -> RequestKind {
        match self {
            Route::Token => RequestKind::Token,
            Route::Metadata(MetadataRoute::Token) => RequestKind::MetadataToken,
            Route::Metadata(MetadataRoute::SecurityKey) => RequestKind::SecurityKey,
            Route::Metadata(MetadataRoute::PodIdentity) => RequestKind::PodIdentity,
            Route::Instances { .. } | Route::Instance { .. } => RequestKind::Instance,
            Route::Namespaces { .. } => RequestKind::Namespaces,
            Route::Repositories { .. } => RequestKind::Repositories,
            Route::Artifacts { .. } => RequestKind::Artifacts,
            Route::BuildHistory(_) => RequestKind::BuildHistory,
        }
    }

    /// The instance of the route, if it has one.
    pub(super) fn instance(&self) -> Option<&str> {
        self.project_and_instance().1
    }

    /// Whether the gateway has the route for an instance of this version.
    pub(super) fn exists_in(&self, version: &str) -> bool {
        !matches!(self, Route::Artifacts { .. }) || lists_artifacts(version)
    }

    fn project_and_instance(&self) -> (&str, Option<&str>) {
        match self {
            Route::Token | Route::Metadata(_) => ("", None),
            Route::Instances { project } => (project, None),
            Route::Instance { project, instance }
            | Route::Namespaces { project, instance }
            | Route::Repositories { project, instance }
            | Route::Artifacts { project, instance } => (project, Some(instance)),
            Route::BuildHistory(route) => (&route.project, Some(&route.instance)),
        }
    }
}

/// Handles everything except tokens and keys.
pub(super) fn answer(
    route: &Route,
    query: &str,
    settings: &EmulatorSettings,
    instances: &[(Instance, World)],
    disturbance: Disturbance<'_>,
) -> Result<Answer, Refusal> {
    let (project, instance) = route.project_and_instance();
    if project != settings.project_id {
        return Err(Refusal::Service {
            status: StatusCode::FORBIDDEN,
            code: "SVCSTG.SWR.4030170",
            message: format!("no permission for project {project}"),
        });
    }
    let query = Query(parse_query(query));
    let Some(instance) = instance else {
        return list_instances(&query, settings, instances);
    };
    let mut found = instances.iter().filter(|(known, _)| known.id == instance);
    let Some(found) = found.next() else {
        return Err(Refusal::not_found(format!("instance {instance} not found")));
    };
    let (_, world) = found;
    match route {
        Route::Token | Route::Metadata(_) | Route::Instances { .. } => {
            Err(Refusal::unknown_route())
        }
        Route::Instance { .. } => Ok(ok(&InstanceRow::new(settings, found))),
        Route::Namespaces { .. } => list_namespaces(&query, settings, world, disturbance),
        Route::Repositories { .. } => list_repositories(&query, settings, world, disturbance),
        Route::Artifacts { .. } => list_artifacts(&query, settings, world, disturbance),
        Route::BuildHistory(route) => show_build_history(route, settings, world),
    }
}

fn list_instances(
    query: &Query,
    settings: &EmulatorSettings,
    instances: &[(Instance, World)],
) -> Result<Answer, Refusal> {
    let page = query.offset_and_limit(LARGEST_PAGE)?;
    let status = query.get("status");
    let fitting = instances
        .iter()
        .filter(|(instance, _)| status.is_none_or(|status| instance.status == status));
    let rows: Vec<InstanceRow<'_>> = fitting
        .map(|instance| InstanceRow::new(settings, instance))
        .collect();
    let total = rows.len();
    Ok(ok(&InstancePage {
        instances: page.of(rows),
        total,
    }))
}

fn list_namespaces(
    query: &Query,
    settings: &EmulatorSettings,
    world: &World,
    disturbance: Disturbance<'_>,
) -> Result<Answer, Refusal> {
    let page = query.offset_and_limit(10)?;
    let mut found: Vec<&Namespace> = world
        .namespaces()
        .filter(|namespace| {
            query
                .get("name")
                .is_none_or(|name| namespace.name.contains(name))
        })
        .filter(|namespace| {
            query
                .get("public")
                .is_none_or(|public| namespace.is_public == (public == "true"))
        })
        .collect();
    found.sort_by_key(|namespace| (namespace.created_at, namespace.id));
    let total = settings.dialect.catalog_total.of(found.len());
    let mut found = page.of(query.in_order(found)?);
    disturbance.shift(&mut found);
    let namespaces = found
        .into_iter()
        .map(|namespace| {
            let repositories = world.repositories();
            let own = repositories.filter(|repository| repository.namespace_id == namespace.id);
            NamespaceRow::new(namespace, own.count())
        })
        .collect();
    Ok(ok(&NamespacePage { namespaces, total }))
}

fn list_repositories(
    query: &Query,
    settings: &EmulatorSettings,
    world: &World,
    disturbance: Disturbance<'_>,
) -> Result<Answer, Refusal> {
    let page = query.offset_and_limit(10)?;
    let namespace_id: Option<i64> = query.number("namespace_id")?;
    let by_update = query.get("order_column") == Some("updated_at");
    let mut found: Vec<&Repository> = world
        .repositories()
        .filter(|repository| namespace_id.is_none_or(|id| repository.namespace_id == id))
        .collect();
    found.sort_by_key(|repository| {
        let at = if by_update {
            repository.updated_at
        } else {
            repository.created_at
        };
        (at, repository.id)
    });
    let total = settings.dialect.catalog_total.of(found.len());
    let mut found = page.of(query.in_order(found)?);
    disturbance.shift(&mut found);
    let repositories = found
        .into_iter()
        .map(|repository| RepositoryRow::new(world, repository))
        .collect();
    Ok(ok(&RepositoryPage {
        repositories,
        total,
    }))
}

fn list_artifacts(
    query: &Query,
    settings: &EmulatorSettings,
    world: &World,
    disturbance: Disturbance<'_>,
) -> Result<Answer, Refusal> {
    let marker: Option<i64> = query.number("marker")?;
    let limit: Option<usize> = query.number("limit")?;
    let (marker, limit) = match (marker, limit) {
        (None, None) => (1, 10),
        (Some(marker), Some(limit)) => (marker, checked_limit(limit)?),
        // "marker and limit must be used together"; the status 400 is a guess.
        _ => {
            return Err(Refusal::bad_parameter(
                "marker and limit must be used together",
            ));
        }
    };
    let mut page = ArtifactPage::new(world, marker, limit);
    page.disturb(disturbance);
    Ok(Answer::bytes(
        StatusCode::OK,
        page.to_json(settings.dialect),
    ))
}

fn show_build_history(
    route: &BuildHistoryRoute,
    settings: &EmulatorSettings,
    world: &World,
) -> Result<Answer, Refusal> {
    let BuildHistoryRoute {
        namespace,
        repository,
        reference,
        addition,
        ..
    } = route;
    if addition != "build_history" {
        return Err(Refusal::bad_parameter(format!(
            "addition {addition} is not supported"
        )));
    }
    if let Some(CannedAnswer { status, body }) = world.answers.get(reference) {
        let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        return Ok(Answer::bytes(status, body.clone()));
    }
    let Some(digest) = Digest::parse(reference) else {
        return Err(Refusal::Service {
            status: StatusCode::BAD_REQUEST,
            code: "SVCSTG.SWR.4000013",
            message: format!("invalid digest {reference}"),
        });
    };
    let artifact = world
        .repository(namespace, repository)
        .and_then(|repository| repository.artifact_ids.get(&digest))
        .filter(|_| !world.is_gone(digest))
        .and_then(|id| world.artifact(*id));
    let Some(artifact) = artifact else {
        return Err(Refusal::not_found(format!(
            "artifact {namespace}/{repository}@{digest} not found"
        )));
    };
    match &artifact.manifest.history {
        History::Steps(_) => {
            let page = BuildHistoryPage::new(&artifact.manifest, &world.quirks, settings.dialect);
            Ok(Answer::bytes(StatusCode::OK, page.to_json()))
        }
        History::Document(document) => Ok(ok::<Value>(document)),
        History::Unsupported => Err(Refusal::bad_parameter(
            "addition BUILD_HISTORY isn't supported for this artifact",
        )),
    }
}

fn ok<T: serde::Serialize>(body: &T) -> Answer {
    Answer::json(StatusCode::OK, body)
}

/// Decoded names and values.
struct Query(Vec<(String, String)>);

impl Query {
    fn get(&self, name: &str) -> Option<&str> {
        let mut found = self.0.iter().filter(|(known, _)| known == name);
        found.next().map(|(_, value)| value.as_str())
    }

    fn number<N: std::str::FromStr>(&self, name: &str) -> Result<Option<N>, Refusal> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match value.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Refusal::bad_parameter(format!("{name} is not a number"))),
        }
    }

    /// "offset must be 0 or a multiple of limit; offset and limit belong together"
    /// (swr_03_0102, swr_03_0201).
    fn offset_and_limit(&self, default_limit: usize) -> Result<Page, Refusal> {
        let (offset, limit) = match (self.number("offset")?, self.number("limit")?) {
            (None, None) => (0, default_limit),
            (Some(offset), Some(limit)) => (offset, checked_limit(limit)?),
            _ => {
                return Err(Refusal::bad_parameter(
                    "offset and limit must be used together",
                ));
            }
        };
        if offset % limit != 0 {
            return Err(Refusal::bad_parameter("offset must be a multiple of limit"));
        }
        Ok(Page { offset, limit })
    }

    /// Lists are newest first by default.
    fn in_order<T>(&self, mut ascending: Vec<T>) -> Result<Vec<T>, Refusal> {
        match self.get("order_type") {
            Some("asc") => Ok(ascending),
            None | Some("desc") => {
                ascending.reverse();
                Ok(ascending)
            }
            Some(_) => Err(Refusal::bad_parameter("order_type must be asc or desc")),
        }
    }
}

struct Page {
    offset: usize,
    limit: usize,
}

impl Page {
    fn of<T>(&self, all: Vec<T>) -> Vec<T> {
        all.into_iter().skip(self.offset).take(self.limit).collect()
    }
}

fn checked_limit(limit: usize) -> Result<usize, Refusal> {
    if (1..=LARGEST_PAGE).contains(&limit) {
        Ok(limit)
    } else {
        Err(Refusal::bad_parameter("limit must be from 1 to 100"))
    }
}

/// A segment decoded once, or `None` if it then contains a slash.
fn decode_segment(segment: &str) -> Option<String> {
    let decoded = percent_decode_str(segment).decode_utf8().ok()?;
    (!decoded.contains('/')).then(|| decoded.into_owned())
}

/// Compares component by component; a component that is not a number counts as 0.
fn lists_artifacts(version: &str) -> bool {
    let mut parts = version
        .trim_start_matches('v')
        .split('.')
        .map(|part| part.parse().unwrap_or(0));
    let version: [u32; 3] = std::array::from_fn(|_| parts.next().unwrap_or(0));
    version >= ARTIFACT_LIST_SINCE
}
