//! Names and digests that a user can select.

use super::{Session, StoreError};

/// Maximum number of names that are compared with an unknown name to suggest one.
const MOST_NAMES: i64 = 10_000;
/// An instance of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceName {
    pub swr_instance_id: String,
    pub name: Option<String>,
}

impl InstanceName {
    /// Whether the id or name is that of this instance.
    pub fn is(&self, id_or_name: &str) -> bool {
        self.swr_instance_id == id_or_name || self.name.as_deref() == Some(id_or_name)
    }
}

pub async fn instance_names(session: &mut Session<'_>) -> Result<Vec<InstanceName>, StoreError> {
    let query = sqlx::query_as!(
        InstanceName,
        "select swr_instance_id, name from swr.instance order by instance_id"
    );
    session.fetch_all("list the instances", query).await
}

/// Namespaces with this name that exist or existed, of all instances or of one; if no name is given, all.
pub async fn namespace_names(
    session: &mut Session<'_>,
    instance: Option<&str>,
    name: Option<&str>,
) -> Result<Vec<String>, StoreError> {
    let query = sqlx::query!(
        r#"select distinct k.namespace as "namespace!"
           from swr.instance i
           join swr.known_repositories() k on k.instance_id = i.instance_id
           where ($1::text is null or $1 in (i.swr_instance_id, i.name))
             and ($2::text is null or k.namespace = $2)
           order by 1
           limit $3"#,
        instance,
        name,
        MOST_NAMES
    );
    let rows = session.fetch_all("list the namespaces", query).await?;
    Ok(rows.into_iter().map(|row| row.namespace).collect())
}

/// An existing or removed repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryName {
    pub namespace: String,
    /// The name without the namespace.
    pub name: String,
}

/// Repositories with this name or path; without a name, all of the namespace.
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

/// The digest that begins with these digits. If there is none, or more than one, the statement fails with
/// a message and a hint for the user.
pub async fn known_digest(
    session: &mut Session<'_>,
    beginning: &str,
) -> Result<String, StoreError> {
    let query = sqlx::query!(r#"select swr.known_digest($1) as "digest!""#, beginning)
        .map(|row| row.digest);
    session.fetch_one("find a digest", query).await
}
