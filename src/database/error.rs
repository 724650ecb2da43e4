//! Errors of the driver, as messages for people.

use std::borrow::Cow;
use std::fmt;

use sqlx::postgres::{PgDatabaseError, PgErrorPosition};

/// An error of the driver, with its SQLSTATE and without a line number of PostgreSQL's source.
///
/// It has no `source`: the message is complete.
#[derive(Debug)]
pub struct SqlError(pub sqlx::Error);

impl SqlError {
    /// The SQLSTATE, if the server sent one.
    pub fn code(&self) -> Option<Cow<'_, str>> {
        self.0.as_database_error()?.code()
    }

    /// What the server suggests.
    pub fn hint(&self) -> Option<&str> {
        self.postgres()?.hint()
    }

    /// Message and hint, if a function of ours raised the error because of its argument.
    pub fn raised(&self) -> Option<(String, String)> {
        let error = self.postgres()?;
        let is_ours = matches!(error.code(), "22023" | "P0002" | "21000");
        let hint = error.hint().filter(|_| is_ours)?;
        Some((error.message().to_owned(), hint.to_owned()))
    }

    /// The number of the character in the query where the server found the error, from 1. Of an error
    /// about a value, which may be a secret, it is not given.
    pub fn position(&self) -> Option<usize> {
        match self.postgres()?.position()? {
            PgErrorPosition::Original(position) if !quotes_data(&self.code()?) => Some(position),
            _ => None,
        }
    }

    fn postgres(&self) -> Option<&PgDatabaseError> {
        self.0.as_database_error()?.try_downcast_ref()
    }
}

impl From<sqlx::Error> for SqlError {
    fn from(error: sqlx::Error) -> SqlError {
        SqlError(error)
    }
}

impl std::error::Error for SqlError {}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(error) = self.0.as_database_error() else {
            return write!(f, "{}", self.0);
        };
        f.write_str(error.message())?;
        let code = error.code().unwrap_or_default();
        let detail = self.postgres().and_then(PgDatabaseError::detail);
        if let Some(detail) = detail.filter(|_| !quotes_data(&code)) {
            write!(f, ": {detail}")?;
        }
        write!(f, " (SQLSTATE {code})")
    }
}

/// Whether the detail of such an error quotes values, which may be secrets: errors of data and
/// constraints, and errors raised by functions.
fn quotes_data(code: &str) -> bool {
    ["22", "23", "P0"]
        .iter()
        .any(|class| code.starts_with(class))
}
