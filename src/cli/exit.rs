//! How a command ends without success.

pub use crate::exit::Exit;

/// Why a command ended without success: the exit code, the error, and what the user can do.
#[derive(Debug)]
pub struct Failure {
    /// The code the process exits with.
    pub exit: Exit,
    /// What failed, with its causes as `source`.
    pub error: Box<dyn std::error::Error + Send + Sync>,
    /// One sentence: the next step.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(exit: Exit, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
        Failure {
            exit,
            error: error.into(),
            hint: None,
        }
    }

    /// Adds the next step.
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// The error and its causes in one line, for logs.
    pub fn message(&self) -> String {
        let mut message = self.error.to_string();
        let mut cause = self.error.source();
        while let Some(source) = cause {
            let part = source.to_string();
            // Some libraries put their cause into their own words.
            if !message.ends_with(&part) {
                message.push_str(": ");
                message.push_str(&part);
            }
            cause = source.source();
        }
        message
    }
}

/// As the user reads it: the error, its causes, and the next step, a line each.
impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut said = self.error.to_string();
        writeln!(f, "error: {said}")?;
        let mut cause = self.error.source();
        while let Some(source) = cause {
            let part = source.to_string();
            // Some libraries put their cause into their own words.
            if !said.ends_with(&part) {
                writeln!(f, "  caused by: {part}")?;
            }
            said = part;
            cause = source.source();
        }
        if let Some(hint) = &self.hint {
            writeln!(f, "  hint: {hint}")?;
        }
        Ok(())
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
        assert_eq!(failure.to_string().matches(&words).count(), 1, "{failure}");
        assert_eq!(failure.message().matches(&words).count(), 1);
    }
}
