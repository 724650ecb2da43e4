//! How a command ends without success.

use std::sync::Arc;

pub use crate::exit::Exit;

/// Why a command ended without success: the exit code, the error, and what the user can do.
#[derive(Debug, Clone)]
pub struct Failure {
    pub exit: Exit,
    pub error: Arc<dyn std::error::Error + Send + Sync>,
    /// Parts of the error, one line each.
    pub details: Vec<String>,
    /// One sentence: the next step.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without details and hint.
    pub fn new(exit: Exit, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
        Failure {
            exit,
            error: Arc::from(error.into()),
            details: Vec::new(),
            hint: None,
        }
    }

    /// Adds the parts of the error.
    pub fn details(mut self, details: impl IntoIterator<Item = String>) -> Failure {
        self.details.extend(details);
        self
    }

    /// Adds the next step.
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// The error and its causes in one line, for logs.
    pub fn message(&self) -> String {
        let mut message = self.error.to_string();
        for cause in self.causes() {
            message.push_str(": ");
            message.push_str(&cause);
        }
        if !self.details.is_empty() {
            message.push_str(": ");
            message.push_str(&self.details.join("; "));
        }
        message
    }

    /// As the user reads it: the error, its details, its causes, and the next step.
    pub fn lines(&self) -> Vec<String> {
        let colon = if self.details.is_empty() { "" } else { ":" };
        let mut lines = vec![format!("error: {}{colon}", self.error)];
        lines.extend(self.details.iter().map(|detail| format!("  {detail}")));
        let causes = self.causes();
        lines.extend(causes.iter().map(|cause| format!("  caused by: {cause}")));
        lines.extend(self.hint.iter().map(|hint| format!("  hint: {hint}")));
        lines
    }

    /// The causes, without those that the previous message already quotes, as in some libraries.
    fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let mut said = self.error.to_string();
        let mut cause = self.error.source();
        while let Some(source) = cause {
            let part = source.to_string();
            if !said.ends_with(&part) {
                causes.push(part.clone());
            }
            said = part;
            cause = source.source();
        }
        causes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_was_said_is_not_said_again() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let words = refused.to_string();
        let failure = Failure::new(Exit::Database, sqlx::Error::Io(refused));
        assert_eq!(failure.lines().concat().matches(&words).count(), 1);
        assert_eq!(failure.message().matches(&words).count(), 1);
    }
}
