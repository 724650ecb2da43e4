//! The credentials of a source: its table `[source.credentials]`.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};

use super::super::credentials::{CredentialSettings, Link};
use super::super::exit::{Exit, Failure};
use super::super::variables::{read_secret, variable};

/// A key of `[source.credentials]`.
#[derive(Debug)]
pub(crate) struct CredentialKey {
    /// Name in the file; with `_file` or `_env` appended where [`has_places`](CredentialKey::has_places).
    pub name: &'static str,
    /// Whether its value must not be shown.
    pub is_secret: bool,
    /// Whether a file or a variable can hold the value.
    pub has_places: bool,
    /// The allowed values, if there is a fixed list.
    pub possible_values: &'static [&'static str],
    /// Help text.
    pub help: &'static str,
    set: fn(&mut CredentialSettings, SecretString),
}

/// All keys.
pub(crate) static CREDENTIAL_KEYS: [CredentialKey; 10] = [
    CredentialKey {
        is_secret: true,
        ..placed(
            "token",
            "A token, which is not renewed",
            |settings, value| {
                settings.token = Some(value);
            },
        )
    },
    placed("access_key", "Access key ID", |settings, value| {
        settings.access_key = Some(plain(&value));
    }),
    CredentialKey {
        is_secret: true,
        ..placed("secret_key", "Secret access key", |settings, value| {
            settings.secret_key = Some(value)
        })
    },
    CredentialKey {
        is_secret: true,
        ..placed(
            "security_token",
            "Security token of a temporary access key",
            |settings, value| settings.security_token = Some(value),
        )
    },
    placed(
        "iam_user",
        "IAM user; tokens are fetched and renewed",
        |settings, value| settings.iam_user = Some(plain(&value)),
    ),
    CredentialKey {
        is_secret: true,
        ..placed(
            "iam_password",
            "Password of the IAM user",
            |settings, value| settings.iam_password = Some(value),
        )
    },
    placed(
        "iam_account",
        "Account of the IAM user",
        |settings, value| settings.iam_account = Some(plain(&value)),
    ),
    simple(
        "profile",
        "Section of the SDKs' profile file",
        |settings, value| settings.profile = Some(plain(&value)),
    ),
    simple(
        "profile_file",
        "Profile file, if it is not the SDKs' default",
        |settings, value| settings.profile_file = Some(plain(&value).into()),
    ),
    CredentialKey {
        possible_values: &["environment", "profile", "pod-identity", "metadata"],
        ..simple(
            "use",
            "The only place to look for credentials; without it, all places are tried in order",
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

/// Values that are not secret are kept as secrets until here.
fn plain(value: &SecretString) -> String {
    value.expose_secret().to_owned()
}

/// Where a value is: the suffix of the key.
#[derive(Debug, Clone)]
pub(crate) enum Held {
    /// In the configuration file itself.
    Here(SecretString),
    /// In a file: `…_file`.
    InFile(PathBuf),
    /// In an environment variable: `…_env`.
    InVariable(String),
}

/// A line of `[source.credentials]`.
#[derive(Debug, Clone)]
pub(crate) struct Credential {
    pub key: &'static CredentialKey,
    pub held: Held,
    /// File and line number.
    pub place: String,
}

impl Credential {
    /// The key with its suffix.
    pub(crate) fn written(&self) -> String {
        let ending = match self.held {
            Held::Here(_) => "",
            Held::InFile(_) => "_file",
            Held::InVariable(_) => "_env",
        };
        format!("{}{ending}", self.key.name)
    }

    /// Reads the value.
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
                    .hint(format!("set {variable_name}, or use another variable"))
                })
            }
        }
    }
}

/// Reads the credentials of a source from the file.
pub(crate) fn credential_settings(
    credentials: &[Credential],
) -> Result<CredentialSettings, Failure> {
    let mut settings = CredentialSettings::default();
    for credential in credentials {
        (credential.key.set)(&mut settings, credential.value()?);
    }
    Ok(settings)
}
