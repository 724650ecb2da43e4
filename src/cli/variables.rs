//! Environment variables and the secrets that they or files hold. Only `cli` reads the environment.

use std::path::Path;

use secrecy::SecretString;

use super::exit::{Exit, Failure};
use crate::secret_file;

/// Looks up a variable; an empty one counts as unset, because compose files and manifests pass unset
/// variables on as empty ones.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A variable of the environment.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name)
        .ok()
        .map(|value| value.trim().to_owned())
        .filter(|value| !value.is_empty())
}

/// Whether a variable is set to nothing.
pub(super) fn is_set_but_empty(name: &str) -> bool {
    std::env::var_os(name).is_some() && variable(name).is_none()
}

/// A secret from the variable, or from the file in `…_FILE`.
pub(super) fn secret(name: &str) -> Result<Option<SecretString>, Failure> {
    secret_in(&variable, name)
}

pub(super) fn secret_in(
    variables: Variables<'_>,
    name: &str,
) -> Result<Option<SecretString>, Failure> {
    let file_name = format!("{name}_FILE");
    match (variables(name), variables(&file_name)) {
        (Some(_), Some(_)) => Err(Failure::new(
            Exit::Usage,
            format!("both {name} and {file_name} are set"),
        )
        .hint("unset one of them")),
        (Some(value), None) => Ok(Some(value.into())),
        (None, Some(path)) => read_secret(Path::new(&path), &format!("of {file_name}")).map(Some),
        (None, None) => Ok(None),
    }
}

/// Reads a secret from a file; `whose` is the setting with the path.
pub(super) fn read_secret(path: &Path, whose: &str) -> Result<SecretString, Failure> {
    let path_name = path.display();
    match secret_file::read(path) {
        Ok(text) if text.trim().is_empty() => Err(Failure::new(
            Exit::Usage,
            format!("the file {path_name} {whose} is empty"),
        )),
        Ok(text) => Ok(text.trim().to_owned().into()),
        Err(error) => Err(Failure::new(
            Exit::Usage,
            format!("cannot read the file {path_name} {whose}: {error}"),
        )),
    }
}

/// An empty value counts as unset, because compose files and manifests pass unset variables on as
/// empty ones.
pub(super) fn given(value: &Option<String>) -> Option<&str> {
    value
        .as_deref()
        .map(str::trim)
        .filter(|value| !value.is_empty())
}

/// The host name for run rows.
pub(super) fn host() -> String {
    variable("HOSTNAME")
        .or_else(|| {
            std::fs::read_to_string("/proc/sys/kernel/hostname")
                .ok()
                .map(|name| name.trim().to_owned())
        })
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}
