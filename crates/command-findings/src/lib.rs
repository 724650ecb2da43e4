//! Finds problems in the text of build commands: secrets and risky practices.
//!
//! Accepts the forms of a step in build histories: `/bin/sh -c #(nop)  ENV A=b` of the classic
//! builder, `ENV A=b` and `RUN |1 A=b /bin/sh -c … # buildkit` of BuildKit. The time is linear in
//! the length of the command.

mod install;
mod rules;

use std::ops::Range;
use std::sync::LazyLock;

use regex::{Captures, Regex, RegexSet};

pub use rules::{RULES, RULES_VERSION};

/// Replacement for a secret.
pub const MASK: &str = "[redacted]";

/// A rule for build commands.
#[derive(Debug)]
pub struct Rule {
    /// Identifies the rule; never reused for another one.
    pub id: &'static str,
    /// Severity of its findings.
    pub severity: Severity,
    /// Short description of the finding.
    pub title: &'static str,
    /// Why it matters.
    pub why: &'static str,
    /// Each pattern is searched separately: in one regex of alternatives, a long match of one
    /// would make every search for another scan to the end of the command.
    patterns: &'static [&'static str],
    reading: Reading,
}

impl Rule {
    /// The regular expressions that start a finding.
    pub fn patterns(&self) -> &'static [&'static str] {
        self.patterns
    }
}

/// Severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// A build that is not reproducible.
    Info,
    /// A bad practice.
    Low,
    /// A security risk.
    Medium,
    /// A secret, which must be replaced.
    High,
}

impl Severity {
    /// The value stored in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Low => "low",
            Severity::Medium => "medium",
            Severity::High => "high",
        }
    }
}

/// How a match is evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// The match is the finding; its group is the secret.
    Pattern,
    /// A value follows the match; it is a secret unless it obviously is not.
    NamedValue,
    /// Package names follow the match.
    Install,
}

/// A match of a rule.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The rule.
    pub rule: &'static Rule,
    /// Position, in bytes.
    pub range: Range<usize>,
    /// Position of the secret, if the rule is about one.
    pub secret: Option<Range<usize>>,
}

/// All findings in a command, in order of position. A secret is reported once, by the first
/// rule that matches it.
pub fn find(command: &str) -> Vec<Finding> {
    let literal = literal_part(command);
    let mut findings = Vec::new();
    for index in PATTERNS.any.matches(command) {
        let (rule, pattern) = &PATTERNS.each[index];
        let mut at = 0;
        while let Some(groups) = pattern.captures_at(command, at) {
            let (finding, next) = read(rule, command, &groups, &literal);
            findings.extend(finding);
            at = next;
        }
    }
    one_for_each_secret(findings)
}

/// The command with each secret replaced by [`MASK`]; `None` if it contains none.
pub fn mask(command: &str) -> Option<String> {
    masked(command, &find(command))
}

/// The same, for the result of [`find`] for this command.
pub fn masked(command: &str, findings: &[Finding]) -> Option<String> {
    let mut masked = String::new();
    let mut end = 0;
    for secret in findings
        .iter()
        .filter_map(|finding| finding.secret.as_ref())
    {
        masked.push_str(&command[end..secret.start]);
        masked.push_str(MASK);
        end = secret.end;
    }
    if end == 0 {
        return None;
    }
    masked.push_str(&command[end..]);
    Some(masked)
}

struct Patterns {
    /// Finds in one pass which patterns need a search.
    any: RegexSet,
    each: Vec<(&'static Rule, Regex)>,
}

#[expect(
    clippy::expect_used,
    reason = "the patterns are constants, and a test compiles each"
)]
static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| {
    let patterns = RULES
        .iter()
        .flat_map(|rule| rule.patterns.iter().map(move |pattern| (rule, *pattern)));
    let any = regex::RegexSetBuilder::new(
        patterns
            .clone()
            .map(|(_, pattern)| ascii_boundaries(pattern)),
    )
    .dfa_size_limit(4 << 20)
    .build();
    let each = patterns.map(|(rule, pattern)| (rule, regex(pattern)));
    Patterns {
        any: any.expect("each pattern compiles"),
        each: each.collect(),
    }
});

#[expect(
    clippy::expect_used,
    reason = "the patterns are constants, and a test compiles each"
)]
fn regex(pattern: &str) -> Regex {
    Regex::new(&ascii_boundaries(pattern)).expect("a constant that compiles")
}

/// Names and tokens are ASCII. With Unicode word boundaries, the fast regex engines stop at
/// the first non-ASCII character: each search would then cost as much as the whole command.
fn ascii_boundaries(pattern: &str) -> String {
    pattern.replace(r"\b", r"(?-u:\b)")
}

/// Evaluates a match, and returns where to continue.
fn read(
    rule: &'static Rule,
    command: &str,
    groups: &Captures<'_>,
    literal: &Range<usize>,
) -> (Option<Finding>, usize) {
    // Group 0 is the match, and no pattern matches the empty string.
    let range = groups.get(0).map_or(0..0, |whole| whole.range());
    let group = groups.iter().skip(1).flatten().next();
    match rule.reading {
        Reading::Pattern => {
            let next = range.end;
            if group.is_some_and(|group| is_no_secret(group.as_str())) {
                return (None, next);
            }
            let secret = group.map(|group| group.range());
            let finding = Finding {
                rule,
                range,
                secret,
            };
            (Some(finding), next)
        }
        Reading::NamedValue => {
            let suffix = group.map_or("", |group| group.as_str());
            let name = &command[range.clone()];
            // The user part of a URL, whose password has another rule.
            let is_user = name.ends_with(':') && command[..=range.start].ends_with("//");
            if is_user {
                return (None, range.end);
            }
            match named_secret(command, name, suffix, range.end, literal) {
                Some(secret) => {
                    let next = secret.end;
                    let finding = Finding {
                        rule,
                        range: range.start..next,
                        secret: Some(secret),
                    };
                    (Some(finding), next)
                }
                None => (None, range.end),
            }
        }
        Reading::Install => {
            let rest = &command[range.end..];
            let end = range.end + rest.find([';', '&', '|', '\n']).unwrap_or(rest.len());
            let program = &command[range.clone()];
            let finding =
                install::is_unpinned(program, &command[range.end..end]).then_some(Finding {
                    rule,
                    range: range.start..end,
                    secret: None,
                });
            (finding, end)
        }
    }
}

/// Merges findings whose secrets overlap under the first of their rules, and sorts all.
fn one_for_each_secret(mut findings: Vec<Finding>) -> Vec<Finding> {
    let place = |finding: &Finding| finding.secret.as_ref().unwrap_or(&finding.range).start;
    // Stable: with equal positions, the earlier rule stays first.
    findings.sort_by_key(place);
    let mut joined: Vec<Finding> = Vec::with_capacity(findings.len());
    let mut last_secret = None;
    for finding in findings {
        let Some(secret) = &finding.secret else {
            joined.push(finding);
            continue;
        };
        let overlapping = last_secret
            .and_then(|index: usize| joined.get_mut(index))
            .filter(|last| {
                last.secret
                    .as_ref()
                    .is_some_and(|last| secret.start < last.end)
            });
        match overlapping {
            Some(last) => {
                if position(finding.rule) < position(last.rule) {
                    last.rule = finding.rule;
                }
                last.range = last.range.start.min(finding.range.start)
                    ..last.range.end.max(finding.range.end);
                if let Some(joined) = &mut last.secret {
                    joined.end = joined.end.max(secret.end);
                }
            }
            None => {
                last_secret = Some(joined.len());
                joined.push(finding);
            }
        }
    }
    joined
}

fn position(rule: &Rule) -> usize {
    RULES
        .iter()
        .position(|other| other.id == rule.id)
        .unwrap_or(RULES.len())
}

/// The part of a step in which values are unquoted and may contain blanks: the text
/// after `ENV`, `ARG` or `LABEL`, and the build arguments before the shell of a `RUN |2 …`.
fn literal_part(command: &str) -> Range<usize> {
    static START: LazyLock<Regex> = LazyLock::new(|| {
        regex(
            r"^(?:(?:/\S+ -c|cmd /S /C) #\(nop\)\s+)?(?:(?:ENV|ARG|LABEL)\s+|(?:RUN\s+)?(\|)[0-9]+\s)",
        )
    });
    static SHELL: LazyLock<Regex> =
        LazyLock::new(|| regex(r"\s(?:/\S+|cmd|powershell|pwsh)(?:\s+\w+)?\s+[\-/]"));
    let Some(start) = START.captures(command) else {
        return 0..0;
    };
    let at = start.get(0).map_or(0, |whole| whole.end());
    let end = match start.get(1) {
        Some(_) => SHELL.find_at(command, at - 1).map(|shell| shell.start()),
        None => None,
    };
    let end = end.unwrap_or(command.trim_end_matches(" # buildkit").trim_end().len());
    at..end.max(at)
}

/// The secret after a name like `password`, if the value is one. Reads a bounded part of rejected
/// values, so that the whole command is read about once.
fn named_secret(
    command: &str,
    name: &str,
    suffix: &str,
    at: usize,
    literal: &Range<usize>,
) -> Option<Range<usize>> {
    if names_no_secret(suffix) {
        return None;
    }
    let rest = &command[at..];
    if is_reference(rest.trim_start_matches(['"', '\''])) {
        return None;
    }
    let quote = rest
        .chars()
        .next()
        .filter(|first| matches!(first, '"' | '\''));
    let value = match quote {
        Some(quote) => {
            let start = at + 1;
            start..start + quoted_length(&command[start..], quote)
        }
        None if literal.contains(&at) => at..next_pair(command, at, literal.end),
        None => at..at + rest.find(ends_word).unwrap_or(rest.len()),
    };
    let text = &command[value.clone()];
    if is_no_secret(text) {
        return None;
    }
    // Prose also contains colons and equal signs: `password: see the manual`.
    let separator = name.trim_end_matches(['"', '\'']);
    let is_assignment = separator.ends_with('=') && !separator.ends_with([' ', '\t']);
    let is_sure = (is_assignment || quote.is_some()) && !is_vague(name);
    (is_sure || looks_random(text)).then_some(value)
}

/// The value of `AUTH=` is often the kind of authentication instead of a secret.
fn is_vague(name: &str) -> bool {
    let word = name.trim_end_matches(|last: char| !last.is_ascii_alphanumeric());
    word.get(word.len().saturating_sub(4)..)
        .is_some_and(|end| end.eq_ignore_ascii_case("auth"))
}

fn ends_word(character: char) -> bool {
    character.is_whitespace() || ";&|<>()\"'`".contains(character)
}

/// The text up to the closing quote, or all of it.
fn quoted_length(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (index, character) in text.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' if quote == '"' => is_escaped = true,
            character if character == quote => return index,
            _ => {}
        }
    }
    text.len()
}

/// The end of an unquoted value: the next `NAME=`, or the end of the part.
fn next_pair(command: &str, at: usize, end: usize) -> usize {
    static PAIR: LazyLock<Regex> =
        LazyLock::new(|| regex(r#"\s["']?[A-Za-z_][A-Za-z0-9_.\-]*["']?="#));
    let part = &command[at..end];
    at + PAIR.find(part).map_or(part.len(), |pair| pair.start())
}

/// Suffixes of names whose value is not secret: `TOKEN_URL`, `PASSWORD_FILE`.
fn names_no_secret(suffix: &str) -> bool {
    const HARMLESS: &[&str] = &[
        "algorithm",
        "arn",
        "class",
        "command",
        "count",
        "dir",
        "directory",
        "driver",
        "enabled",
        "encoder",
        "endpoint",
        "engine",
        "env",
        "expiration",
        "expires",
        "expiry",
        "field",
        "file",
        "files",
        "folder",
        "format",
        "fingerprint",
        "group",
        "header",
        "helper",
        "host",
        "id",
        "interval",
        "issuer",
        "iterations",
        "length",
        "lifetime",
        "limit",
        "location",
        "manager",
        "mode",
        "mount",
        "name",
        "names",
        "namespace",
        "option",
        "options",
        "path",
        "paths",
        "permissions",
        "policy",
        "port",
        "prefix",
        "prompt",
        "provider",
        "proxy",
        "realm",
        "ref",
        "region",
        "required",
        "rotation",
        "scope",
        "service",
        "size",
        "source",
        "store",
        "timeout",
        "ttl",
        "type",
        "uri",
        "url",
        "user",
        "username",
        "validity",
        "version",
    ];
    let last = suffix.rsplit(['_', '-', '.']).next().unwrap_or_default();
    // The value of `ACCESS_KEY_ID` is not secret by itself.
    HARMLESS.iter().any(|word| last.eq_ignore_ascii_case(word))
}

/// Whether a value looks like a reference to another place.
fn is_reference(text: &str) -> bool {
    const PREFIXES: &[&str] = &[
        "`",
        "{{",
        "<",
        "[",
        "***",
        "...",
        ".*",
        "\\",
        "(",
        "@",
        "~/",
        "./",
        "../",
        "http://",
        "https://",
        "file:",
        "arn:",
        "vault:",
        "env:",
        "op://",
        "id=",
        "/run/",
        "/etc/",
        "/var/",
        "/tmp/",
        "/opt/",
        "/usr/",
        "/home/",
        "/root/",
        "/app/",
        "/mnt/",
        "/secrets/",
        "/secret/",
        "/srv/",
        "/data/",
        "/kaniko/",
        "/proc/",
        "/dev/",
    ];
    let mut characters = text.chars();
    match characters.next() {
        Some('$') => {
            return characters
                .next()
                .is_none_or(|next| next.is_ascii_alphabetic() || "_{(@*".contains(next));
        }
        // `%NAME%` and `%s`.
        Some('%') => return true,
        _ => {}
    }
    PREFIXES.iter().any(|prefix| text.starts_with(prefix))
}

/// Whether a value is a reference or a placeholder.
fn is_no_secret(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "",
        "dummy",
        "fake",
        "password",
        "passwd",
        "secret",
        "token",
        "none",
        "null",
        "nil",
        "undefined",
        "true",
        "false",
        "default",
        "disabled",
        "enabled",
        "optional",
        "required",
        "test",
        "todo",
        "unset",
        "empty",
        "auto",
        "always",
        "never",
        "prompt",
        "strict",
        "basic",
    ];
    const PARTS: &[&str] = &[
        "changeme",
        "change-me",
        "change_me",
        "changeit",
        "dummy",
        "example",
        "placeholder",
        "redacted",
        "replaceme",
        "replace_me",
        "replace-me",
        "your-",
        "your_",
        "yourpassword",
        "not-a-secret",
        "not_a_secret",
        "notasecret",
    ];
    /// Maximum length of a placeholder; also bounds the work.
    const LONGEST: usize = 64;
    const SHORTEST: usize = 4;
    if is_reference(text) {
        return true;
    }
    if text.len() > LONGEST {
        return false;
    }
    let text = text.to_ascii_lowercase();
    let first = text.chars().next();
    text.chars().count() < SHORTEST
        || text.chars().all(|character| Some(character) == first)
        || WORDS.contains(&text.as_str())
        || PARTS.iter().any(|part| text.contains(part))
}

fn looks_random(text: &str) -> bool {
    text.len() >= 8
        && text.contains(|character: char| character.is_ascii_digit())
        && text.contains(|character: char| character.is_ascii_alphabetic())
}
