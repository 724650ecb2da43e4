//! Checks that the names and digests of filters exist: an empty answer to a wrong name reads like
//! "there is none".

use super::exit::{Exit, Failure};
use super::result::database_failure;
use crate::report::FilterValues;
use crate::store::{self, InstanceName, RepositoryName, Session, StoreError};

/// Checks that each name and digest exists. A digest may be given by its first digits, and a repository
/// as NAMESPACE/NAME; afterwards both are whole.
pub(super) async fn resolve(
    values: &mut FilterValues,
    session: &mut Session<'_>,
) -> Result<(), Failure> {
    if let Some(given) = &values.instance {
        let instances = store::instance_names(session)
            .await
            .map_err(database_failure)?;
        find_instance(given, &instances)?;
    }
    let instance = values.instance.as_deref();
    if let Some(given) = &values.namespace {
        let mut names = async |name| {
            let names = store::namespace_names(session, instance, name).await;
            names.map_err(database_failure)
        };
        if names(Some(given)).await?.is_empty() {
            let all = names(None).await?;
            return Err(unknown("namespace", given, all.iter().map(String::as_str)));
        }
    }
    if let Some(given) = values.repository.take() {
        let namespace = values.namespace.as_deref();
        let (namespace, name) = repository(session, instance, namespace, given).await?;
        values.namespace = namespace.or(values.namespace.take());
        values.repository = Some(name);
    }
    for digest in &mut values.digests {
        *digest = whole_digest(session, digest).await?;
    }
    values.is_resolved = true;
    Ok(())
}

/// The only instance with this id or name.
pub(super) fn find_instance<'a>(
    given: &str,
    instances: &'a [InstanceName],
) -> Result<&'a InstanceName, Failure> {
    let found: Vec<&InstanceName> = instances
        .iter()
        .filter(|instance| instance.is(given))
        .collect();
    match found[..] {
        [instance] => Ok(instance),
        [] => {
            let names = instances
                .iter()
                .flat_map(|instance| [Some(&instance.swr_instance_id), instance.name.as_ref()]);
            let names = names.flatten().map(String::as_str);
            Err(unknown("instance", given, names))
        }
        _ => {
            let ids = found
                .iter()
                .map(|instance| instance.swr_instance_id.as_str());
            let ids: Vec<&str> = ids.collect();
            let text = format!("{} instances are named `{given}`", ids.len());
            let hint = format!(
                "the name is not unique; use the id of one: {}",
                ids.join(", ")
            );
            Err(Failure::new(Exit::Usage, text).hint(hint))
        }
    }
}

/// The namespace, if the path has it, and the name.
async fn repository(
    session: &mut Session<'_>,
    instance: Option<&str>,
    namespace: Option<&str>,
    given: String,
) -> Result<(Option<String>, String), Failure> {
    let known = store::repository_names(session, instance, namespace, Some(&given)).await;
    let known = known.map_err(database_failure)?;
    // A name can contain a slash, too.
    if known.iter().any(|repository| repository.name == given) {
        return Ok((None, given));
    }
    if let Some(RepositoryName { namespace, name }) = known.into_iter().next() {
        return Ok((Some(namespace), name));
    }
    let all = store::repository_names(session, instance, namespace, None).await;
    let all = all.map_err(database_failure)?;
    let names = all.iter().flat_map(|repository| {
        let path = format!("{}/{}", repository.namespace, repository.name);
        let path = given.contains('/').then_some(path);
        [Some(repository.name.clone()), path]
    });
    let names: Vec<String> = names.flatten().collect();
    let names = names.iter().map(String::as_str);
    Err(unknown("repository", &given, names))
}

/// The digest of which these are the first digits. The database explains what is wrong with them.
async fn whole_digest(session: &mut Session<'_>, given: &str) -> Result<String, Failure> {
    let found = store::known_digest(session, given).await;
    found.map_err(|error| match &error {
        StoreError::Statement { source, .. } => match source.raised() {
            Some((message, hint)) => Failure::new(Exit::Usage, message).hint(hint),
            None => database_failure(error),
        },
        _ => database_failure(error),
    })
}

/// A name that does not exist, with the nearest one.
pub(super) fn unknown<'a>(
    kind: &str,
    given: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Failure {
    let failure = Failure::new(Exit::Usage, format!("there is no {kind} `{given}`"));
    let mut known: Vec<&str> = known.into_iter().collect();
    if let Some(nearest) = nearest(given, known.iter().copied()) {
        return failure.hint(format!("did you mean `{nearest}`?"));
    }
    /// More names make a line that nobody reads.
    const MOST_LISTED: usize = 10;
    known.sort_unstable();
    known.dedup();
    let more = if known.len() > MOST_LISTED {
        ", …"
    } else {
        ""
    };
    known.truncate(MOST_LISTED);
    match known.is_empty() {
        true => failure.hint("the database is empty: run `swr-sync sync` first"),
        false => failure.hint(format!("there are: {}{more}", known.join(", "))),
    }
}

/// The known name that is closest to an unknown one.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// The same measure as clap's suggestions.
    const ALIKE: f64 = 0.7;
    let alike = known
        .into_iter()
        .map(|known| (strsim::jaro_winkler(name, known), known));
    let nearest = alike.max_by(|(one, _), (other, _)| one.total_cmp(other));
    nearest
        .filter(|(likeness, _)| *likeness > ALIKE)
        .map(|(_, known)| known)
}
