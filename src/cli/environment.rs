//! The variables of the environment that no flag names: secrets, which must not stand on a command
//! line, and what other programs agree on.
//!
//! One table, of which `sync --help`, the manual pages and docs/configuration.md are made. A
//! variable that belongs to a flag is not here, but at the flag (`env = "…"`). A new one needs a
//! row in [`VARIABLES`]; a test finds every name in the sources of `src/cli` that has none.

use std::fmt::Write;

/// What a variable is for; in the order in which documents list them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VariableGroup {
    /// Who asks the registry. The rows are in the order of precedence.
    Credentials,
    /// How the registry is reached.
    Registry,
    /// Which database, and how it is reached.
    Database,
    /// Where the embedded database lives.
    EmbeddedDatabase,
    /// Whom to tell how a job ended.
    Reporting,
    /// What the machine is called.
    Machine,
}

impl VariableGroup {
    /// All groups, in the order in which documents list them.
    pub const ALL: [VariableGroup; 6] = [
        VariableGroup::Credentials,
        VariableGroup::Registry,
        VariableGroup::Database,
        VariableGroup::EmbeddedDatabase,
        VariableGroup::Reporting,
        VariableGroup::Machine,
    ];

    /// The heading in documents.
    pub const fn heading(self) -> &'static str {
        match self {
            VariableGroup::Credentials => "Credentials",
            VariableGroup::Registry => "Registry",
            VariableGroup::Database => "Database",
            VariableGroup::EmbeddedDatabase => "Embedded database",
            VariableGroup::Reporting => "Reporting",
            VariableGroup::Machine => "Machine",
        }
    }

    /// The flag, by its long name, that a command has if these variables matter to it.
    pub const fn flag(self) -> &'static str {
        match self {
            VariableGroup::Credentials | VariableGroup::Registry => "region",
            VariableGroup::Database => "database-url",
            VariableGroup::EmbeddedDatabase => "data-dir",
            VariableGroup::Reporting => "summary-file",
            VariableGroup::Machine => "region",
        }
    }
}

/// A variable of the environment that no flag names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnvironmentVariable {
    /// Its name.
    pub name: &'static str,
    /// What it says, in one line.
    pub meaning: &'static str,
    /// Whether its value must not be shown to anybody.
    pub is_secret: bool,
    /// Whether `…_FILE` can name a file that holds the value instead.
    pub has_file_variant: bool,
    /// What it is for.
    pub group: VariableGroup,
}

/// All of them.
pub const VARIABLES: &[EnvironmentVariable] = &[
    secret(
        VariableGroup::Credentials,
        "SWR_AUTH_TOKEN",
        "a token; it is not renewed",
    ),
    plain(
        VariableGroup::Credentials,
        "HUAWEICLOUD_SDK_AK",
        "an access key",
    ),
    secret(
        VariableGroup::Credentials,
        "HUAWEICLOUD_SDK_SK",
        "the secret key of the access key",
    ),
    secret(
        VariableGroup::Credentials,
        "HUAWEICLOUD_SDK_SECURITY_TOKEN",
        "comes with an access key that is a temporary one",
    ),
    plain(
        VariableGroup::Credentials,
        "SWR_IAM_USER",
        "an IAM user, for whom tokens are fetched and renewed",
    ),
    secret(
        VariableGroup::Credentials,
        "SWR_IAM_PASSWORD",
        "the password of the IAM user",
    ),
    plain(
        VariableGroup::Credentials,
        "SWR_IAM_ACCOUNT",
        "the account that the IAM user belongs to",
    ),
    plain(
        VariableGroup::Credentials,
        "HW_ACCESS_KEY",
        "an access key, by the name of the Terraform provider",
    ),
    secret(
        VariableGroup::Credentials,
        "HW_SECRET_KEY",
        "its secret key",
    ),
    secret(
        VariableGroup::Credentials,
        "HW_SECURITY_TOKEN",
        "comes with it if it is a temporary one",
    ),
    plain(
        VariableGroup::Credentials,
        "HW_USER_NAME",
        "an IAM user, by the name of the Terraform provider",
    ),
    secret(
        VariableGroup::Credentials,
        "HW_USER_PASSWORD",
        "the password of that user",
    ),
    plain(
        VariableGroup::Credentials,
        "HW_DOMAIN_NAME",
        "the account of that user",
    ),
    plain(
        VariableGroup::Credentials,
        "CLOUD_SDK_AK",
        "an access key, by the name in the samples of the API's pages",
    ),
    secret(VariableGroup::Credentials, "CLOUD_SDK_SK", "its secret key"),
    plain(
        VariableGroup::Credentials,
        "HUAWEICLOUD_SDK_CREDENTIALS_FILE",
        "profile file of the SDKs, where it is not ~/.huaweicloud/credentials",
    ),
    plain(
        VariableGroup::Credentials,
        "SWR_PROFILE",
        "section of the profile file, where it is not [basic]",
    ),
    plain(
        VariableGroup::Credentials,
        "HC_CONTAINER_CREDENTIALS_FULL_URI",
        "address of the pod identity of CCE, whose keys are renewed",
    ),
    plain(
        VariableGroup::Credentials,
        "HC_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        "file with the token for pod identity",
    ),
    plain(
        VariableGroup::Credentials,
        "SWR_METADATA_ENDPOINT",
        "metadata service of an ECS with an agency, whose keys are renewed; asked if nothing else is set",
    ),
    plain(
        VariableGroup::Registry,
        "HUAWEICLOUD_SDK_PROJECT_ID",
        "project of the instance, where SWR_PROJECT_ID does not name it",
    ),
    plain(
        VariableGroup::Registry,
        "HW_PROJECT_ID",
        "the same, by the name of the Terraform provider",
    ),
    plain(
        VariableGroup::Registry,
        "HW_REGION_NAME",
        "region of the instance, where SWR_REGION does not name it",
    ),
    plain(
        VariableGroup::Registry,
        "HW_AUTH_URL",
        "endpoint of IAM, where SWR_IAM_ENDPOINT does not name it",
    ),
    EnvironmentVariable {
        is_secret: true,
        ..plain(
            VariableGroup::Registry,
            "HTTPS_PROXY",
            "proxy for HTTPS; may contain a password",
        )
    },
    EnvironmentVariable {
        is_secret: true,
        ..plain(
            VariableGroup::Registry,
            "HTTP_PROXY",
            "proxy for plain HTTP; may contain a password",
        )
    },
    EnvironmentVariable {
        is_secret: true,
        ..plain(
            VariableGroup::Registry,
            "ALL_PROXY",
            "proxy for both, if the other two are unset; may contain a password",
        )
    },
    plain(
        VariableGroup::Registry,
        "REQUEST_METHOD",
        "set by web servers for CGI scripts; an error if a proxy is set, because a request could set the proxy",
    ),
    plain(
        VariableGroup::Registry,
        "NO_PROXY",
        "hosts that are reached without the proxy",
    ),
    secret(
        VariableGroup::Database,
        "DATABASE_URL",
        "PostgreSQL to use, as postgresql://user:password@host:5432/name; --database-url wins",
    ),
    EnvironmentVariable {
        is_secret: true,
        ..plain(
            VariableGroup::Database,
            "PGPASSWORD",
            "password, where the database URL holds none",
        )
    },
    plain(
        VariableGroup::Database,
        "PGSSLMODE",
        "sslmode, if the database URL has none",
    ),
    plain(
        VariableGroup::Database,
        "PGPORT",
        "port, if the database URL has none",
    ),
    plain(
        VariableGroup::Database,
        "PGPASSFILE",
        "password file of psql, where it is not ~/.pgpass",
    ),
    plain(
        VariableGroup::EmbeddedDatabase,
        "XDG_DATA_HOME",
        "folder in which the embedded database has its own, of users other than root",
    ),
    plain(
        VariableGroup::EmbeddedDatabase,
        "HOME",
        "its .local/share stands in for XDG_DATA_HOME",
    ),
    plain(
        VariableGroup::EmbeddedDatabase,
        "PATH",
        "where PostgreSQL's programs are looked for besides their usual folders",
    ),
    secret(
        VariableGroup::Reporting,
        "SWR_SYNC_PING_URL",
        "told when a job begins and how it ends, by the protocol of healthchecks.io",
    ),
    secret(
        VariableGroup::Reporting,
        "SWR_SYNC_PUSHGATEWAY_URL",
        "Pushgateway, as http://user:password@host:9091; --pushgateway-url wins",
    ),
    plain(
        VariableGroup::Reporting,
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "collector of traces, in builds with the feature otlp; all of OTEL_EXPORTER_OTLP_… count",
    ),
    plain(
        VariableGroup::Reporting,
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "the same, with its path",
    ),
    plain(
        VariableGroup::Reporting,
        "OTEL_TRACES_EXPORTER",
        "none, for no traces",
    ),
    plain(
        VariableGroup::Reporting,
        "OTEL_SDK_DISABLED",
        "true, for no traces either",
    ),
    plain(
        VariableGroup::Machine,
        "HOSTNAME",
        "name of the machine, for the rows of runs",
    ),
    plain(
        VariableGroup::Machine,
        "JOB_COMPLETION_INDEX",
        "number of the pod in an Indexed Job of Kubernetes, from 0, for --shard auto/N",
    ),
];

const fn plain(
    group: VariableGroup,
    name: &'static str,
    meaning: &'static str,
) -> EnvironmentVariable {
    EnvironmentVariable {
        name,
        meaning,
        is_secret: false,
        has_file_variant: false,
        group,
    }
}

/// One that `secret(…)` of the settings reads.
const fn secret(
    group: VariableGroup,
    name: &'static str,
    meaning: &'static str,
) -> EnvironmentVariable {
    EnvironmentVariable {
        is_secret: true,
        has_file_variant: true,
        ..plain(group, name, meaning)
    }
}

/// The rows of a group.
pub fn variables(group: VariableGroup) -> impl Iterator<Item = &'static EnvironmentVariable> {
    VARIABLES
        .iter()
        .filter(move |variable| variable.group == group)
}

/// What stands above the credentials in help.
pub(super) const CREDENTIALS_HEADING: &str =
    "Credentials; the first that is set counts, and one that is half set is an error";

/// What the help of `sync` says of the secrets, which have no flags.
pub(super) fn secrets_help() -> String {
    let reporting: Vec<_> = variables(VariableGroup::Reporting)
        .filter(|variable| variable.is_secret)
        .collect();
    let credentials: Vec<_> = variables(VariableGroup::Credentials).collect();
    format!(
        "{CREDENTIALS_HEADING}:\n{}\nReporting, from the environment:\n{}\n\
         Each secret, and DATABASE_URL, can also stand in a file that NAME_FILE names.",
        rows(&credentials),
        rows(&reporting)
    )
}

fn rows(variables: &[&EnvironmentVariable]) -> String {
    let names = variables.iter().map(|variable| variable.name.len());
    let width = names.max().unwrap_or(0);
    let mut rows = String::new();
    for EnvironmentVariable { name, meaning, .. } in variables {
        // Writing to a string does not fail.
        let _ = writeln!(rows, "  {name:width$}  {meaning}");
    }
    rows
}
