//! Environment variables without a flag: secrets, which must not appear on a command line, and
//! variables that other programs share.
//!
//! `sync --help`, the manual pages and docs/configuration.md are generated from this table. A
//! variable with a flag is declared at the flag instead (`env = "…"`). A new variable needs a
//! row in [`VARIABLES`]; a test finds every name in `src/cli` that has none.

use std::fmt::Write;

/// Groups of variables, in the order in which documents list them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VariableGroup {
    /// Credentials, in order of precedence.
    Credentials,
    /// Connection to the registry.
    Registry,
    /// Connection to the database.
    Database,
    /// Location of the embedded database.
    EmbeddedDatabase,
    /// Notifications about the end of a job.
    Reporting,
    /// Output on a terminal.
    Terminal,
    /// The machine.
    Machine,
}

impl VariableGroup {
    /// All groups, in the order in which documents list them.
    pub const ALL: [VariableGroup; 7] = [
        VariableGroup::Credentials,
        VariableGroup::Registry,
        VariableGroup::Database,
        VariableGroup::EmbeddedDatabase,
        VariableGroup::Reporting,
        VariableGroup::Terminal,
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
            VariableGroup::Terminal => "Terminal",
            VariableGroup::Machine => "Machine",
        }
    }

    /// The long flag whose commands use these variables.
    pub const fn flag(self) -> &'static str {
        match self {
            VariableGroup::Credentials | VariableGroup::Registry => "region",
            VariableGroup::Database => "database-url",
            VariableGroup::EmbeddedDatabase => "data-dir",
            VariableGroup::Reporting => "summary-file",
            VariableGroup::Terminal => "timezone",
            VariableGroup::Machine => "region",
        }
    }
}

/// An environment variable without a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnvironmentVariable {
    pub name: &'static str,
    /// One line of help.
    pub meaning: &'static str,
    /// Whether its value must not be shown.
    pub is_secret: bool,
    /// Whether `…_FILE` can contain the path of a file with the value instead.
    pub has_file_variant: bool,
    pub group: VariableGroup,
}

pub const VARIABLES: &[EnvironmentVariable] = &[
    secret(
        VariableGroup::Credentials,
        "SWR_AUTH_TOKEN",
        "a token, which is not renewed",
    ),
    plain(
        VariableGroup::Credentials,
        "HUAWEICLOUD_SDK_AK",
        "access key ID",
    ),
    secret(
        VariableGroup::Credentials,
        "HUAWEICLOUD_SDK_SK",
        "secret access key",
    ),
    secret(
        VariableGroup::Credentials,
        "HUAWEICLOUD_SDK_SECURITY_TOKEN",
        "security token of a temporary access key",
    ),
    plain(
        VariableGroup::Credentials,
        "SWR_IAM_USER",
        "IAM user; tokens are fetched and renewed",
    ),
    secret(
        VariableGroup::Credentials,
        "SWR_IAM_PASSWORD",
        "password of the IAM user",
    ),
    plain(
        VariableGroup::Credentials,
        "SWR_IAM_ACCOUNT",
        "account of the IAM user",
    ),
    plain(
        VariableGroup::Credentials,
        "HW_ACCESS_KEY",
        "access key ID, as the Terraform provider names it",
    ),
    secret(
        VariableGroup::Credentials,
        "HW_SECRET_KEY",
        "its secret access key",
    ),
    secret(
        VariableGroup::Credentials,
        "HW_SECURITY_TOKEN",
        "its security token, if it is temporary",
    ),
    plain(
        VariableGroup::Credentials,
        "HW_USER_NAME",
        "IAM user, as the Terraform provider names it",
    ),
    secret(
        VariableGroup::Credentials,
        "HW_USER_PASSWORD",
        "password of that user",
    ),
    plain(
        VariableGroup::Credentials,
        "HW_DOMAIN_NAME",
        "account of that user",
    ),
    plain(
        VariableGroup::Credentials,
        "CLOUD_SDK_AK",
        "access key ID, as the API's code samples name it",
    ),
    secret(
        VariableGroup::Credentials,
        "CLOUD_SDK_SK",
        "its secret access key",
    ),
    plain(
        VariableGroup::Credentials,
        "HUAWEICLOUD_SDK_CREDENTIALS_FILE",
        "profile file of the SDKs, if it is not ~/.huaweicloud/credentials",
    ),
    plain(
        VariableGroup::Credentials,
        "SWR_PROFILE",
        "section of the profile file, if it is not [basic]",
    ),
    plain(
        VariableGroup::Credentials,
        "HC_CONTAINER_CREDENTIALS_FULL_URI",
        "address of CCE pod identity; its keys are renewed",
    ),
    plain(
        VariableGroup::Credentials,
        "HC_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        "file with the token for pod identity",
    ),
    plain(
        VariableGroup::Credentials,
        "SWR_METADATA_ENDPOINT",
        "metadata service of an ECS with an agency; its keys are renewed; used if nothing else is set",
    ),
    plain(
        VariableGroup::Registry,
        "HUAWEICLOUD_SDK_PROJECT_ID",
        "project of the instance, if SWR_PROJECT_ID is not set",
    ),
    plain(
        VariableGroup::Registry,
        "HW_PROJECT_ID",
        "the same, as the Terraform provider names it",
    ),
    plain(
        VariableGroup::Registry,
        "HW_REGION_NAME",
        "region of the instance, if SWR_REGION is not set",
    ),
    plain(
        VariableGroup::Registry,
        "HW_AUTH_URL",
        "endpoint of IAM, if SWR_IAM_ENDPOINT is not set",
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
        "hosts to connect to without the proxy",
    ),
    secret(
        VariableGroup::Database,
        "DATABASE_URL",
        "PostgreSQL to use, as postgresql://user:password@host:5432/name; --database-url overrides it",
    ),
    EnvironmentVariable {
        is_secret: true,
        ..plain(
            VariableGroup::Database,
            "PGPASSWORD",
            "password, if the database URL has none",
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
        "password file of psql, if it is not ~/.pgpass",
    ),
    plain(
        VariableGroup::EmbeddedDatabase,
        "XDG_DATA_HOME",
        "parent folder of the embedded database, for users other than root",
    ),
    plain(
        VariableGroup::EmbeddedDatabase,
        "HOME",
        "$HOME/.local/share replaces an unset XDG_DATA_HOME",
    ),
    plain(
        VariableGroup::EmbeddedDatabase,
        "PATH",
        "folders to search for the PostgreSQL binaries, in addition to the usual ones",
    ),
    secret(
        VariableGroup::Reporting,
        "SWR_SYNC_PING_URL",
        "URL to ping when a job starts and ends, with the protocol of healthchecks.io",
    ),
    secret(
        VariableGroup::Reporting,
        "SWR_SYNC_PUSHGATEWAY_URL",
        "Pushgateway, as http://user:password@host:9091; --pushgateway-url overrides it",
    ),
    plain(
        VariableGroup::Reporting,
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OpenTelemetry collector for traces, in builds with the feature otlp; all OTEL_EXPORTER_OTLP_… variables are supported",
    ),
    plain(
        VariableGroup::Reporting,
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "the same, including the path",
    ),
    plain(
        VariableGroup::Reporting,
        "OTEL_TRACES_EXPORTER",
        "none disables traces",
    ),
    plain(
        VariableGroup::Reporting,
        "OTEL_SDK_DISABLED",
        "true also disables traces",
    ),
    plain(
        VariableGroup::Terminal,
        "TZ",
        "time zone of the times in tables, if --timezone is not set",
    ),
    plain(
        VariableGroup::Terminal,
        "PAGER",
        "pager for long tables; empty for none",
    ),
    plain(
        VariableGroup::Terminal,
        "LESS",
        "options of less; FRX if unset",
    ),
    plain(
        VariableGroup::Terminal,
        "LC_ALL",
        "locale: if it names another encoding than UTF-8, tables are drawn in ASCII",
    ),
    plain(
        VariableGroup::Terminal,
        "LC_CTYPE",
        "the same, if LC_ALL is not set",
    ),
    plain(
        VariableGroup::Terminal,
        "LANG",
        "the same, if neither is set",
    ),
    plain(VariableGroup::Terminal, "NO_COLOR", "if set, no colours"),
    plain(
        VariableGroup::Machine,
        "HOSTNAME",
        "host name to store with each run",
    ),
    plain(
        VariableGroup::Machine,
        "JOB_COMPLETION_INDEX",
        "index of the pod in a Kubernetes Indexed Job, from 0, for --shard auto/N",
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

/// A variable that `secret(…)` of the settings reads.
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

pub fn variables(group: VariableGroup) -> impl Iterator<Item = &'static EnvironmentVariable> {
    VARIABLES
        .iter()
        .filter(move |variable| variable.group == group)
}

/// Heading of the credentials in help.
pub(super) const CREDENTIALS_HEADING: &str =
    "Credentials (the first complete one is used, an incomplete one is an error)";

/// The part of `sync --help` about secrets, which have no flags.
pub(super) fn secrets_help() -> String {
    let reporting: Vec<_> = variables(VariableGroup::Reporting)
        .filter(|variable| variable.is_secret)
        .collect();
    let credentials: Vec<_> = variables(VariableGroup::Credentials).collect();
    format!(
        "{CREDENTIALS_HEADING}:\n{}\nReporting, from the environment:\n{}\n\
         Each secret, and DATABASE_URL, can also be in a file whose path is in NAME_FILE.",
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
