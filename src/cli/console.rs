//! What every command prints for people.

use std::io::{IsTerminal as _, Write as _};

use crate::visible::visible;

pub(super) const PROGRAM: &str = "swr-sync";

/// Whether a person reads what is printed for people.
pub(super) fn is_on_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// Prints for people, and ignores a closed stderr. A line stays one line, and all lines are written
/// at once, so that no other output is mixed in.
pub(super) fn print_lines(lines: impl IntoIterator<Item = impl AsRef<str>>) {
    let mut text = String::new();
    for line in lines {
        text.push_str(&visible(line.as_ref()));
        text.push('\n');
    }
    let _ = std::io::stderr().write_all(text.as_bytes());
}
