//! The credentials of a source, as its table `[source.credentials]` gives them.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};

use super::super::credentials::{CredentialSettings, Link, read_secret, variable};
use super::super::exit::{Exit, Failure};

/// A key of `[source.credentials]`.
#[derive(Debug)]
pub(crate) struct CredentialKey {
    /// In the file; with `_file` or `_env` behind it, where [`has_places`](CredentialKey::has_places).
    pub name: &'static str,
    /// Whether its value is not to be shown.
    pub is_secret: bool,
    /// Whether a file or a variable can hold the value.
    pub has_places: bool,
    /// The values there are, if they can be counted.
    pub possible_values: &'static [&'static str],
    /// What it is.
    pub help: &'static str,
    set: fn(&mut CredentialSettings, SecretString),
}

/// All of them.
pub(crate) static CREDENTIAL_KEYS: [CredentialKey; 10] = [
    CredentialKey {
        is_secret: true,
        ..placed("token", "A token; it is not renewed", |settings, value| {
            settings.token = Some(value);
        })
    },
    placed("access_key", "An access key id", |settings, value| {
        settings.access_key = Some(plain(&value));
    }),
    CredentialKey {
        is_secret: true,
        ..placed(
            "secret_key",
            "The secret of the access key",
            |settings, value| settings.secret_key = Some(value),
        )
    },
    CredentialKey {
        is_secret: true,
        ..placed(
            "security_token",
            "Comes with an access key that is a temporary one",
            |settings, value| settings.security_token = Some(value),
        )
    },
    placed(
        "iam_user",
        "An IAM user, for whom tokens are fetched and renewed",
        |settings, value| settings.iam_user = Some(plain(&value)),
    ),
    CredentialKey {
        is_secret: true,
        ..placed(
            "iam_password",
            "The password of the IAM user",
            |settings, value| settings.iam_password = Some(value),
        )
    },
    placed(
        "iam_account",
        "The account that the IAM user belongs to",
        |settings, value| settings.iam_account = Some(plain(&value)),
    ),
    simple(
        "profile",
        "A section of the SDKs' profile file",
        |settings, value| settings.profile = Some(plain(&value)),
    ),
    simple(
        "profile_file",
        "The profile file, where it is not the SDKs' own",
        |settings, value| settings.profile_file = Some(plain(&value).into()),
    ),
    CredentialKey {
        possible_values: &["environment", "profile", "pod-identity", "metadata"],
        ..simple(
            "use",
            "The one place where credentials are looked for; without it, one after the other",
            |settings, value| {
                settings.link = match value.expose_secret() {
                    "environment" => Some(Link::Environment),
                    "profile" => Some(Link::Profile),
                    "pod-identity" => Some(Link::PodIdentity),
                    "metadata" => Some(Link::Metadata),
                    _ => None,
                }
            },
        )
    },
];

const fn placed(
    name: &'static str,
    help: &'static str,
    set: fn(&mut CredentialSettings, SecretString),
) -> CredentialKey {
    CredentialKey {
        has_places: true,
        ..simple(name, help, set)
    }
}

const fn simple(
    name: &'static str,
    help: &'static str,
    set: fn(&mut CredentialSettings, SecretString),
) -> CredentialKey {
    CredentialKey {
        name,
        is_secret: false,
        has_places: false,
        possible_values: &[],
        help,
        set,
    }
}

/// What is no secret is kept as one until here.
fn plain(value: &SecretString) -> String {
    value.expose_secret().to_owned()
}

/// Where a value is, by the ending of the key.
#[derive(Debug, Clone)]
pub(crate) enum Held {
    /// In the configuration file itself.
    Here(SecretString),
    /// In a file of its own: `…_file`.
    InFile(PathBuf),
    /// In a variable of the environment: `…_env`.
    InVariable(String),
}

/// A line of `[source.credentials]`.
#[derive(Debug, Clone)]
pub(crate) struct Credential {
    /// What it says.
    pub key: &'static CredentialKey,
    /// Where the value is.
    pub held: Held,
    /// Where the line is: file and number.
    pub place: String,
}

impl Credential {
    /// The key as it is written.
    pub(crate) fn written(&self) -> String {
        let ending = match self.held {
            Held::Here(_) => "",
            Held::InFile(_) => "_file",
            Held::InVariable(_) => "_env",
        };
        format!("{}{ending}", self.key.name)
    }

    /// Fetches the value.
    fn value(&self) -> Result<SecretString, Failure> {
        let (name, place) = (self.written(), &self.place);
        match &self.held {
            Held::Here(value) => Ok(value.clone()),
            Held::InFile(path) => read_secret(path, &format!("of {name} ({place})")),
            Held::InVariable(variable_name) => {
                variable(variable_name).map(Into::into).ok_or_else(|| {
                    Failure::new(
                        Exit::Usage,
                        format!("{place}: {name} names {variable_name}, which is not set"),
                    )
                    .hint(format!("set {variable_name}, or name another variable"))
                })
            }
        }
    }
}

/// Fetches what the file says of a source's credentials.
pub(crate) fn credential_settings(
    credentials: &[Credential],
) -> Result<CredentialSettings, Failure> {
    let mut settings = CredentialSettings::default();
    for credential in credentials {
        (credential.key.set)(&mut settings, credential.value()?);
    }
    Ok(settings)
}
