//! Finds the credentials: first the settings, then a chain of links, where the first link with
//! credentials is used.
//!
//! An incomplete link, such as a key without its secret, is an error: the next link might belong to
//! another user.

use std::path::{Path, PathBuf};

use configparser::ini::Ini;
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::exit::{Exit, Failure};
use super::http::warn_of_clear_text;
use super::variables::{Variables, secret_in};
use crate::clock::Clock;
use crate::registry::signature::SigningKey;
use crate::registry::{
    Credentials, KeyFailure, PasswordLogin, RegistryError, RequestFailure, SHORTEST_SECRET,
    TemporaryKeySource,
};
use crate::secret_file;

/// The credentials in the settings of one source. They override the environment; if there are
/// none, the chain is used.
#[derive(Debug, Clone, Default)]
pub(super) struct CredentialSettings {
    /// A token, which is not renewed.
    pub token: Option<SecretString>,
    pub access_key: Option<String>,
    pub secret_key: Option<SecretString>,
    /// Security token of a temporary key.
    pub security_token: Option<SecretString>,
    pub iam_user: Option<String>,
    pub iam_password: Option<SecretString>,
    pub iam_account: Option<String>,
    pub profile: Option<String>,
    /// The profile file, if it is not the SDK's default.
    pub profile_file: Option<PathBuf>,
    /// The only link of the chain to use.
    pub link: Option<Link>,
}

/// A link of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Link {
    /// Environment variables.
    Environment,
    /// The SDK's profile file.
    Profile,
    /// The pod identity agent of CCE.
    PodIdentity,
    /// The metadata service of ECS.
    Metadata,
}

/// Credentials as found in the settings; nothing has been requested yet.
#[derive(Debug)]
pub(super) struct Located {
    given: Given,
    /// Kind and origin, without a value.
    source: String,
    /// The project that the profile has with the key.
    pub project_id: Option<String>,
}

#[derive(Debug)]
enum Given {
    Token(SecretString),
    Key(SigningKey),
    User {
        user: String,
        password: SecretString,
        account: String,
    },
    PodIdentity {
        url: Url,
        authorization_file: PathBuf,
    },
    Metadata {
        endpoint: Url,
        /// The links before it and why they have no credentials; `None` if it was selected explicitly.
        passed_over: Option<PassedOver>,
    },
}

/// Links of the chain, and why they have no credentials.
#[derive(Debug, Default)]
struct PassedOver(Vec<String>);

/// The variables of an access key.
struct KeyNames {
    access_key: &'static str,
    secret_key: &'static str,
    security_token: Option<&'static str>,
}

/// Those of the SDKs.
const SDK: KeyNames = KeyNames {
    access_key: "HUAWEICLOUD_SDK_AK",
    secret_key: "HUAWEICLOUD_SDK_SK",
    security_token: Some("HUAWEICLOUD_SDK_SECURITY_TOKEN"),
};
/// Those of the Terraform provider.
const TERRAFORM: KeyNames = KeyNames {
    access_key: "HW_ACCESS_KEY",
    secret_key: "HW_SECRET_KEY",
    security_token: Some("HW_SECURITY_TOKEN"),
};
/// Those of the samples in the API documentation.
const SAMPLES: KeyNames = KeyNames {
    access_key: "CLOUD_SDK_AK",
    secret_key: "CLOUD_SDK_SK",
    security_token: None,
};

/// The variables of an IAM user.
struct UserNames {
    user: &'static str,
    password: &'static str,
    account: &'static str,
    /// Whether the account alone means that a user was configured.
    is_account_of_user: bool,
}

const IAM_USER: UserNames = UserNames {
    user: "SWR_IAM_USER",
    password: "SWR_IAM_PASSWORD",
    account: "SWR_IAM_ACCOUNT",
    is_account_of_user: true,
};
const TERRAFORM_USER: UserNames = UserNames {
    user: "HW_USER_NAME",
    password: "HW_USER_PASSWORD",
    account: "HW_DOMAIN_NAME",
    // The Terraform provider also accepts the account together with an access key.
    is_account_of_user: false,
};

enum Names {
    Key(KeyNames),
    User(UserNames),
}

const TOKEN: &str = "SWR_AUTH_TOKEN";
const PROFILE: &str = "SWR_PROFILE";
const PROFILE_FILE: &str = "HUAWEICLOUD_SDK_CREDENTIALS_FILE";
const POD_IDENTITY_URL: &str = "HC_CONTAINER_CREDENTIALS_FULL_URI";
const POD_IDENTITY_FILE: &str = "HC_CONTAINER_AUTHORIZATION_TOKEN_FILE";
/// For tests, and for a proxy in front of the service.
const METADATA_ENDPOINT: &str = "SWR_METADATA_ENDPOINT";
const DEFAULT_METADATA_ENDPOINT: &str = "http://169.254.169.254";
/// The section of the profile file for services with projects, such as SWR.
const BASIC: &str = "basic";

/// Finds the credentials in the settings, the environment or the profile file, without sending a
/// request.
pub(super) fn locate(
    settings: &CredentialSettings,
    variables: Variables<'_>,
) -> Result<Located, Failure> {
    if let Some(located) = from_settings(settings)? {
        return Ok(located);
    }
    let profile_is_named = settings.profile.is_some() || settings.profile_file.is_some();
    let mut passed_over = PassedOver::default();
    match settings.link {
        Some(Link::Environment) => from_environment(variables, &mut passed_over)?
            .ok_or_else(|| nothing(&passed_over, Exit::Usage)),
        Some(Link::Profile) => from_profile(settings, variables, true)?.map_err(no_credentials),
        None if profile_is_named => {
            from_profile(settings, variables, true)?.map_err(no_credentials)
        }
        Some(Link::PodIdentity) => from_pod_identity(variables)?.map_err(no_credentials),
        Some(Link::Metadata) => metadata(variables, None),
        None => along_the_chain(settings, variables, passed_over),
    }
}

fn along_the_chain(
    settings: &CredentialSettings,
    variables: Variables<'_>,
    mut passed_over: PassedOver,
) -> Result<Located, Failure> {
    if let Some(located) = from_environment(variables, &mut passed_over)? {
        return Ok(located);
    }
    match from_profile(settings, variables, false)? {
        Ok(located) => return Ok(located),
        Err(reason) => passed_over.0.push(reason),
    }
    // Before the metadata service, which every pod of the node can reach: the two variables mean that
    // this pod has its own identity.
    match from_pod_identity(variables)? {
        Ok(located) => return Ok(located),
        Err(reason) => passed_over.0.push(reason),
    }
    metadata(variables, Some(passed_over))
}

fn from_settings(settings: &CredentialSettings) -> Result<Option<Located>, Failure> {
    let CredentialSettings {
        token,
        access_key,
        secret_key,
        security_token,
        iam_user,
        iam_password,
        iam_account,
        profile: _,
        profile_file: _,
        link: _,
    } = settings;
    const CONFIGURED: &str = "the configuration file";
    if let Some(token) = token {
        let source = format!("a token in {CONFIGURED}");
        return Ok(Some(Located::new(Given::Token(token.clone()), source)));
    }
    let key = KeyParts {
        access_key: access_key.clone(),
        secret_key: secret_key.clone(),
        security_token: security_token.clone(),
    };
    let names = ["access_key", "secret_key", "security_token"];
    if let Some(key) = key.whole(names)? {
        let source = format!("an access key in {CONFIGURED}");
        return Ok(Some(Located::new(Given::Key(key), source)));
    }
    let user = UserParts {
        user: iam_user.clone(),
        password: iam_password.clone(),
        account: iam_account.clone(),
    };
    let names = ["iam_user", "iam_password", "iam_account"];
    let given = user.whole(names)?;
    Ok(given.map(|given| Located::new(given, format!("an IAM user in {CONFIGURED}"))))
}

/// A token takes precedence over a key, and a key over a user: the more specific one was set on
/// purpose. The names of other tools come after ours and the SDKs'.
fn from_environment(
    variables: Variables<'_>,
    passed_over: &mut PassedOver,
) -> Result<Option<Located>, Failure> {
    if let Some(token) = secret_in(variables, TOKEN)? {
        let source = format!("a token in {}", place_of(variables, TOKEN));
        return Ok(Some(Located::new(Given::Token(token), source)));
    }
    passed_over.unset(&[TOKEN]);
    for names in [
        Names::Key(SDK),
        Names::User(IAM_USER),
        Names::Key(TERRAFORM),
        Names::User(TERRAFORM_USER),
        Names::Key(SAMPLES),
    ] {
        let located = match names {
            Names::Key(names) => key_from(variables, &names, passed_over)?,
            Names::User(names) => user_from(variables, &names, passed_over)?,
        };
        if located.is_some() {
            return Ok(located);
        }
    }
    Ok(None)
}

fn key_from(
    variables: Variables<'_>,
    names: &KeyNames,
    passed_over: &mut PassedOver,
) -> Result<Option<Located>, Failure> {
    let KeyNames {
        access_key,
        secret_key,
        security_token,
    } = *names;
    let parts = KeyParts {
        access_key: variables(access_key),
        secret_key: secret_in(variables, secret_key)?,
        security_token: match security_token {
            Some(name) => secret_in(variables, name)?,
            None => None,
        },
    };
    let token_name = security_token.unwrap_or_default();
    let Some(key) = parts.whole([access_key, secret_key, token_name])? else {
        passed_over.unset(&[access_key, secret_key]);
        return Ok(None);
    };
    let temporary = match &key.security_token {
        Some(_) => format!(", temporary, with {}", place_of(variables, token_name)),
        None => String::new(),
    };
    let source = format!(
        "an access key in {access_key} and {}{temporary}",
        place_of(variables, secret_key)
    );
    Ok(Some(Located::new(Given::Key(key), source)))
}

fn user_from(
    variables: Variables<'_>,
    names: &UserNames,
    passed_over: &mut PassedOver,
) -> Result<Option<Located>, Failure> {
    let UserNames {
        user,
        password,
        account,
        is_account_of_user,
    } = *names;
    let mut parts = UserParts {
        user: variables(user),
        password: secret_in(variables, password)?,
        account: variables(account),
    };
    if parts.user.is_none() && parts.password.is_none() && !is_account_of_user {
        parts.account = None;
    }
    let Some(given) = parts.whole([user, password, account])? else {
        passed_over.unset(&[user, password, account]);
        return Ok(None);
    };
    let source = format!(
        "an IAM user in {user}, {account} and {}",
        place_of(variables, password)
    );
    Ok(Some(Located::new(given, source)))
}

/// The SDK's profile file, or why it has no key. A profile that was selected explicitly must have one.
fn from_profile(
    settings: &CredentialSettings,
    variables: Variables<'_>,
    is_named: bool,
) -> Result<Result<Located, String>, Failure> {
    let named_file = settings
        .profile_file
        .clone()
        .or_else(|| variables(PROFILE_FILE).map(PathBuf::from));
    let named_section = settings.profile.clone().or_else(|| variables(PROFILE));
    let must_be_there = is_named || named_file.is_some() || named_section.is_some();
    let section = named_section.unwrap_or_else(|| BASIC.to_owned());
    let home = || variables("HOME").map(|home| Path::new(&home).join(".huaweicloud/credentials"));
    let Some(path) = named_file.or_else(home) else {
        let reason = format!("profile file: neither {PROFILE_FILE} nor HOME is set");
        return absent(reason, must_be_there);
    };
    // In containers, the home folder is often not readable.
    if let Err(error) = std::fs::metadata(&path) {
        let reason = format!("profile file {}: {error}", path.display());
        return absent(reason, must_be_there);
    }
    let failed = |what: String| {
        Failure::new(
            Exit::Usage,
            format!("cannot use the profile file {}: {what}", path.display()),
        )
        .hint("it must be an INI file with a section such as [basic] that contains ak, sk and optionally security_token and project_id")
    };
    let text = secret_file::read(&path).map_err(|error| failed(error.to_string()))?;
    let mut ini = Ini::new();
    // Secrets may contain characters that begin a comment elsewhere.
    ini.set_inline_comment_symbols(Some(&[]));
    // These messages contain line numbers, but not the lines.
    ini.read(text).map_err(failed)?;
    let value = |key: &str| ini.get(&section, key).filter(|value| !value.is_empty());
    if !ini.sections().contains(&section.to_lowercase()) {
        let reason = format!("profile file {}: no section [{section}]", path.display());
        return absent(reason, must_be_there);
    }
    let parts = KeyParts {
        access_key: value("ak"),
        secret_key: value("sk").map(Into::into),
        security_token: value("security_token").map(Into::into),
    };
    let names = ["ak", "sk", "security_token"];
    let key = parts.whole(names).map_err(|failure| {
        failed(format!("[{section}]: {}", failure.error))
            .hint(format!("set both ak and sk in [{section}], or neither"))
    })?;
    let Some(key) = key else {
        let reason = format!(
            "profile file {}: [{section}] has no ak and sk",
            path.display()
        );
        return absent(reason, must_be_there);
    };
    let source = format!(
        "an access key in [{section}] of the profile file {}",
        path.display()
    );
    Ok(Ok(Located {
        project_id: value("project_id"),
        ..Located::new(Given::Key(key), source)
    }))
}

/// A reason to try the next link, or an error if this link was selected explicitly.
fn absent(reason: String, must_be_there: bool) -> Result<Result<Located, String>, Failure> {
    match must_be_there {
        true => Err(no_credentials(reason)),
        false => Ok(Err(reason)),
    }
}

fn from_pod_identity(variables: Variables<'_>) -> Result<Result<Located, String>, Failure> {
    let (url, file) = match (variables(POD_IDENTITY_URL), variables(POD_IDENTITY_FILE)) {
        (Some(url), Some(file)) => (url, file),
        (None, None) => {
            let reason = "is not set";
            return Ok(Err(format!("pod identity: {POD_IDENTITY_URL} {reason}")));
        }
        (Some(_), None) => return Err(half_given("token file of pod identity", POD_IDENTITY_FILE)),
        (None, Some(_)) => return Err(half_given("address of pod identity", POD_IDENTITY_URL)),
    };
    let given = Given::PodIdentity {
        url: service_url(&url, POD_IDENTITY_URL)?,
        authorization_file: file.into(),
    };
    let source = format!("temporary keys of pod identity, by {POD_IDENTITY_URL}");
    Ok(Ok(Located::new(given, source)))
}

fn metadata(variables: Variables<'_>, passed_over: Option<PassedOver>) -> Result<Located, Failure> {
    let endpoint = variables(METADATA_ENDPOINT);
    let endpoint = endpoint.as_deref().unwrap_or(DEFAULT_METADATA_ENDPOINT);
    let given = Given::Metadata {
        endpoint: service_url(endpoint, METADATA_ENDPOINT)?,
        passed_over,
    };
    let source = format!("temporary keys of the metadata service at {endpoint}");
    Ok(Located::new(given, source))
}

/// The address of a service of the machine. It is not quoted: it may contain a password.
fn service_url(text: &str, name: &str) -> Result<Url, Failure> {
    let url = text.parse::<Url>().ok().filter(|url| {
        let is_http = matches!(url.scheme(), "http" | "https") && url.has_host();
        is_http && url.username().is_empty() && url.password().is_none() && url.query().is_none()
    });
    url.ok_or_else(|| {
        let hint =
            format!("write {name} as {DEFAULT_METADATA_ENDPOINT}, with a path if it has one");
        Failure::new(Exit::Usage, format!("{name} is not a plain HTTP URL")).hint(hint)
    })
}

struct KeyParts {
    access_key: Option<String>,
    secret_key: Option<SecretString>,
    security_token: Option<SecretString>,
}

impl KeyParts {
    /// The key, or `None` if no part is set; `names` are the names of the parts.
    fn whole(self, names: [&str; 3]) -> Result<Option<SigningKey>, Failure> {
        match (self.access_key, self.secret_key, self.security_token) {
            (Some(access_key), Some(secret_key), security_token) => Ok(Some(SigningKey {
                access_key,
                secret_key,
                security_token,
            })),
            (Some(_), None, _) => Err(half_given("secret key", names[1])),
            (None, Some(_), _) => Err(half_given("access key", names[0])),
            (None, None, Some(_)) => Err(half_given(
                &format!("access key to the security token in {}", names[2]),
                names[0],
            )),
            (None, None, None) => Ok(None),
        }
    }
}

struct UserParts {
    user: Option<String>,
    password: Option<SecretString>,
    account: Option<String>,
}

impl UserParts {
    fn whole(self, names: [&str; 3]) -> Result<Option<Given>, Failure> {
        match (self.user, self.password, self.account) {
            (Some(user), Some(password), Some(account)) => Ok(Some(Given::User {
                user,
                password,
                account,
            })),
            (None, None, None) => Ok(None),
            (None, _, _) => Err(half_given("name of the IAM user", names[0])),
            (_, None, _) => Err(half_given("password of the IAM user", names[1])),
            (_, _, None) => Err(half_given("account of the IAM user", names[2])),
        }
    }
}

impl Located {
    /// An error if a secret is so short that it cannot be a real one. It could not be removed from messages
    /// either, because ordinary words contain it.
    pub(super) fn check_secrets(&self) -> Result<(), Failure> {
        let secret = match &self.given {
            Given::Token(token) => token.expose_secret(),
            Given::Key(key) => key.secret_key.expose_secret(),
            Given::User { password, .. } => password.expose_secret(),
            Given::PodIdentity { .. } | Given::Metadata { .. } => return Ok(()),
        };
        if secret.chars().count() >= SHORTEST_SECRET {
            return Ok(());
        }
        let text = format!(
            "the secret of {} has fewer than {SHORTEST_SECRET} characters",
            self.source
        );
        Err(Failure::new(Exit::Usage, text).hint("check whether it is complete"))
    }

    fn new(given: Given, source: String) -> Located {
        Located {
            given,
            source,
            project_id: None,
        }
    }

    /// Kind and origin of the credentials, without a value and without a request.
    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// Creates the client's credentials and returns their description, without a value. Only the metadata
    /// service is requested immediately, because it may not exist.
    pub(super) async fn resolve(
        self,
        project_id: &str,
        iam_endpoint: impl FnOnce() -> Result<Url, Failure>,
        clock: &Clock,
    ) -> Result<(Credentials, String), Failure> {
        let Located { given, source, .. } = self;
        let credentials = match given {
            Given::Token(token) => Credentials::Token(token),
            Given::Key(key) => Credentials::Key(key),
            Given::User {
                user,
                password,
                account,
            } => Credentials::Password(PasswordLogin {
                iam_endpoint: iam_endpoint()?,
                user,
                password,
                account,
                project_id: project_id.to_owned(),
            }),
            Given::PodIdentity {
                url,
                authorization_file,
            } => {
                warn_of_clear_text(&url);
                let keys = TemporaryKeySource::pod_identity(url, authorization_file);
                Credentials::Temporary(keys.map_err(unexpected)?)
            }
            Given::Metadata {
                endpoint,
                passed_over,
            } => {
                warn_of_clear_text(&endpoint);
                let keys = TemporaryKeySource::metadata(endpoint).map_err(unexpected)?;
                let ends_at = match (keys.prepare(clock).await, passed_over) {
                    (Ok(ends_at), _) => ends_at.format("%Y-%m-%d %H:%M UTC"),
                    (Err(error), Some(passed_over)) => {
                        return Err(nobody_there(passed_over, &error));
                    }
                    (Err(error), None) => return Err(no_key(error)),
                };
                let source = format!("temporary keys of {keys}; the first expires at {ends_at}");
                return Ok((Credentials::Temporary(keys), source));
            }
        };
        Ok((credentials, source))
    }
}

fn unexpected(error: reqwest::Error) -> Failure {
    Failure::new(Exit::Unexpected, error)
}

/// The next step if a temporary key cannot be fetched.
pub(super) fn key_hint(failure: &KeyFailure) -> &'static str {
    match failure {
        KeyFailure::NoAgency(_) => {
            "attach an agency with read access to SWR to the ECS (console: the server's page, Agency), or set \
             HUAWEICLOUD_SDK_AK and HUAWEICLOUD_SDK_SK"
        }
        KeyFailure::NoAnswer { .. } => {
            "outside ECS and CCE, set HUAWEICLOUD_SDK_AK and HUAWEICLOUD_SDK_SK; on an ECS or CCE node, check \
                         whether a firewall or network policy blocks the service"
        }
        KeyFailure::Status(failure) if matches!(failure.status, 401 | 403) => {
            "check that the service account has a pod identity association, or that the server has an agency"
        }
        KeyFailure::Status(_) | KeyFailure::Malformed(_) => {
            "the service has a problem, or another service uses its address; to use an access key instead, set \
                         HUAWEICLOUD_SDK_AK and HUAWEICLOUD_SDK_SK"
        }
        KeyFailure::Expired { .. } => {
            "set this machine's clock and enable NTP (`timedatectl set-ntp true`)"
        }
        KeyFailure::Authorization { .. } => {
            "HC_CONTAINER_AUTHORIZATION_TOKEN_FILE is the path of the file, which CCE mounts into the pod: check the volume"
        }
    }
}

fn no_key(error: RegistryError) -> Failure {
    let RequestFailure::NoKey(no_key) = &error.failure else {
        return Failure::new(Exit::Denied, error);
    };
    let exit = match no_key.failure.is_transient() {
        true => Exit::SourceUnavailable,
        false => Exit::Denied,
    };
    let hint = key_hint(&no_key.failure);
    Failure::new(exit, error).hint(hint)
}

/// The end of the chain. If a service exists but fails, that is not a configuration error.
fn nobody_there(mut passed_over: PassedOver, error: &RegistryError) -> Failure {
    let (exit, reason) = match &error.failure {
        RequestFailure::NoKey(no_key) => match &no_key.failure {
            failure @ KeyFailure::Status(_) if failure.is_transient() => {
                (Exit::SourceUnavailable, failure.to_string())
            }
            failure => (Exit::Usage, failure.to_string()),
        },
        other => (Exit::Usage, other.to_string()),
    };
    let request = &error.request;
    passed_over
        .0
        .push(format!("metadata service: {request}: {reason}"));
    nothing(&passed_over, exit)
}

fn nothing(passed_over: &PassedOver, exit: Exit) -> Failure {
    let links = (1..).zip(&passed_over.0);
    Failure::new(exit, "no credentials found; these sources were tried")
        .details(links.map(|(number, link)| format!("{number}. {link}")))
        .hint(
            "set HUAWEICLOUD_SDK_AK and HUAWEICLOUD_SDK_SK (an access key), or SWR_AUTH_TOKEN, or \
             SWR_IAM_USER, SWR_IAM_PASSWORD and SWR_IAM_ACCOUNT, each secret also as a file by …_FILE; on an ECS \
             attach an agency",
        )
}

fn no_credentials(reason: String) -> Failure {
    Failure::new(Exit::Usage, format!("no credentials: {reason}"))
        .hint("`swr-sync sync --help` lists all sources of credentials")
}

/// An incomplete link. The next link might belong to another user.
fn half_given(what: &str, name: &str) -> Failure {
    Failure::new(Exit::Usage, format!("no {what} given")).hint(format!(
        "set {name}; `swr-sync sync --help` lists all settings"
    ))
}

/// The variable that the secret was read from.
fn place_of(variables: Variables<'_>, name: &str) -> String {
    match variables(name) {
        Some(_) => name.to_owned(),
        None => format!("{name}_FILE"),
    }
}

impl PassedOver {
    fn unset(&mut self, names: &[&str]) {
        self.0.push(format!("{}: not set", names.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    /// An environment in which every link of the chain has credentials.
    fn everything(name: &str) -> Option<String> {
        let value = match name {
            "HUAWEICLOUD_SDK_AK" => "AK of the environment",
            "HUAWEICLOUD_SDK_SK" => "sk",
            POD_IDENTITY_URL => "http://169.254.1.1/v1/credentials",
            POD_IDENTITY_FILE => "/pod-token",
            _ => return None,
        };
        Some(value.to_owned())
    }

    fn nothing_set(_: &str) -> Option<String> {
        None
    }

    fn linked(link: Link) -> CredentialSettings {
        CredentialSettings {
            link: Some(link),
            ..CredentialSettings::default()
        }
    }

    #[test]
    fn what_the_settings_give_wins_over_the_environment() {
        let token = CredentialSettings {
            token: Some("t".into()),
            // A token is more specific than a key.
            access_key: Some("AK".to_owned()),
            secret_key: Some("sk".into()),
            ..CredentialSettings::default()
        };
        let located = locate(&token, &everything).unwrap();
        assert_eq!(located.source, "a token in the configuration file");
        let key = CredentialSettings {
            token: None,
            ..token
        };
        let located = locate(&key, &everything).unwrap();
        let Given::Key(found) = &located.given else {
            panic!("{located:?}")
        };
        assert_eq!(found.access_key, "AK");
        assert_eq!(found.secret_key.expose_secret(), "sk");
        let user = CredentialSettings {
            iam_user: Some("u".to_owned()),
            iam_password: Some("p".into()),
            iam_account: Some("a".to_owned()),
            ..CredentialSettings::default()
        };
        let located = locate(&user, &everything).unwrap();
        assert_eq!(located.source, "an IAM user in the configuration file");
    }

    #[test]
    fn half_a_link_of_the_settings_is_an_error() {
        let key = CredentialSettings {
            access_key: Some("AK".to_owned()),
            ..CredentialSettings::default()
        };
        let failure = locate(&key, &everything).unwrap_err();
        assert_eq!(failure.message(), "no secret key given");
        assert!(failure.hint.unwrap().starts_with("set secret_key;"));
        let user = CredentialSettings {
            iam_user: Some("u".to_owned()),
            iam_password: Some("p".into()),
            ..CredentialSettings::default()
        };
        let failure = locate(&user, &everything).unwrap_err();
        assert_eq!(failure.message(), "no account of the IAM user given");
    }

    #[test]
    fn a_named_link_is_the_only_one() {
        let located = locate(&linked(Link::Environment), &everything).unwrap();
        assert!(matches!(located.given, Given::Key(_)), "{located:?}");
        let located = locate(&linked(Link::PodIdentity), &everything).unwrap();
        assert!(
            matches!(located.given, Given::PodIdentity { .. }),
            "{located:?}"
        );
        let located = locate(&linked(Link::Metadata), &everything).unwrap();
        let Given::Metadata {
            endpoint,
            passed_over: None,
        } = located.given
        else {
            panic!("it was selected explicitly, so no link was skipped")
        };
        assert_eq!(endpoint.as_str(), "http://169.254.169.254/");

        for (link, words) in [
            (
                Link::Environment,
                "no credentials found; these sources were tried: 1. SWR_AUTH_TOKEN: not set",
            ),
            (
                Link::PodIdentity,
                "no credentials: pod identity: HC_CONTAINER_CREDENTIALS_FULL_URI is not set",
            ),
            (Link::Profile, "no credentials: profile file: neither "),
        ] {
            let failure = locate(&linked(link), &nothing_set).unwrap_err();
            assert!(
                failure.message().starts_with(words),
                "{}",
                failure.message()
            );
        }
    }

    #[test]
    fn a_profile_of_the_settings_must_give_a_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("profiles");
        std::fs::write(
            &file,
            "[basic]\nak = A\nsk = a\n[Team]\nak = B\nsk = b;#=%\n",
        )
        .unwrap();
        let settings = |profile: &str| CredentialSettings {
            profile: Some(profile.to_owned()),
            profile_file: Some(file.clone()),
            ..CredentialSettings::default()
        };
        let located = locate(&settings("Team"), &everything).unwrap();
        let Given::Key(found) = &located.given else {
            panic!("{located:?}")
        };
        assert_eq!(found.access_key, "B");
        assert_eq!(found.secret_key.expose_secret(), "b;#=%");
        let failure = locate(&settings("other"), &everything).unwrap_err();
        assert!(
            failure.message().ends_with("no section [other]"),
            "{}",
            failure.message()
        );
    }

    #[test]
    fn links_have_the_names_of_the_configuration_file() {
        for (name, link) in [
            ("environment", Link::Environment),
            ("profile", Link::Profile),
            ("pod-identity", Link::PodIdentity),
            ("metadata", Link::Metadata),
        ] {
            let read: Link = serde_json::from_value(name.into()).unwrap();
            assert_eq!(read, link);
        }
    }
}
