//! The names and digests that a user can choose.

use super::{Session, StoreError};

/// Number of names that are compared with one that does not exist.
const MOST_NAMES: i64 = 10_000;
/// An instance of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceName {
    /// Its id in SWR.
    pub swr_instance_id: String,
    pub name: Option<String>,
}

impl InstanceName {
    /// Whether a user's choice means this instance.
    pub fn is(&self, id_or_name: &str) -> bool {
        self.swr_instance_id == id_or_name || self.name.as_deref() == Some(id_or_name)
    }
}

/// All instances.
pub async fn instance_names(session: &mut Session<'_>) -> Result<Vec<InstanceName>, StoreError> {
    let query = sqlx::query_as!(
        InstanceName,
        "select swr_instance_id, name from swr.instance order by instance_id"
    );
    session.fetch_all("list the instances", query).await
}

/// Namespaces that exist or existed, of all instances or of one.
pub async fn namespace_names(
    session: &mut Session<'_>,
    instance: Option<&str>,
) -> Result<Vec<String>, StoreError> {
    let query = sqlx::query!(
        r#"select distinct k.namespace as "namespace!"
           from swr.instance i
           join swr.known_repositories() k on k.instance_id = i.instance_id
           where $1::text is null or $1 in (i.swr_instance_id, i.name)
           order by 1
           limit $2"#,
        instance,
        MOST_NAMES
    );
    let rows = session.fetch_all("list the namespaces", query).await?;
    Ok(rows.into_iter().map(|row| row.namespace).collect())
}

/// A repository that exists or existed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryName {
    pub namespace: String,
    /// The name without the namespace.
    pub name: String,
}

/// Repositories with this name, or with this path; if none is given, all of the namespace.
pub async fn repository_names(
    session: &mut Session<'_>,
    instance: Option<&str>,
    namespace: Option<&str>,
    name_or_path: Option<&str>,
) -> Result<Vec<RepositoryName>, StoreError> {
    let query = sqlx::query_as!(
        RepositoryName,
        r#"select distinct k.namespace as "namespace!", k.repository as "name!"
           from swr.instance i
           join swr.known_repositories() k on k.instance_id = i.instance_id
           where ($1::text is null or $1 in (i.swr_instance_id, i.name))
             and ($2::text is null or k.namespace = $2)
             and ($3::text is null or $3 in (k.repository, k.namespace || '/' || k.repository))
             and k.repository is not null
           order by 1, 2
           limit $4"#,
        instance,
        namespace,
        name_or_path,
        MOST_NAMES
    );
    session.fetch_all("list the repositories", query).await
}

/// Digests that begin like this: of artifacts that exist or existed, or that a tag pointed to. At most
/// five.
pub async fn digests(
    session: &mut Session<'_>,
    beginning: &str,
) -> Result<Vec<String>, StoreError> {
    let query = sqlx::query!(
        r#"select digest as "digest!" from swr.known_digests($1)"#,
        beginning
    );
    let rows = session.fetch_all("find a digest", query).await?;
    Ok(rows.into_iter().map(|row| row.digest).collect())
}
