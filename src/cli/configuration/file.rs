//! Reads the configuration file. Reports all errors at once, with line and key but without values,
//! because a value may be a misplaced secret.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::super::exit::{Exit, Failure};
use super::super::names::nearest;
use super::super::settings::holds_password;
use super::credential_keys::{CREDENTIAL_KEYS, Credential, CredentialKey, Held};
use super::keys::{DATABASE_URL, DATABASE_URL_FILE, INSTANCES, Key, Kind, Place};
use crate::secret_file::{self, BYTE_ORDER_MARK};

/// The tables of the file.
pub(crate) const SOURCE: &str = "source";
pub(crate) const CREDENTIALS: &str = "credentials";
pub(crate) const NAME: &str = "name";
/// Names appear in logs, metrics and `--source`, so they must not need quoting.
pub(crate) const NAME_PATTERN: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$";

/// A configuration file without errors; references to the environment are not resolved yet.
#[derive(Debug)]
pub(crate) struct ConfigurationFile {
    pub path: PathBuf,
    /// Settings at the top of the file.
    pub settings: Vec<Setting>,
    /// The sources.
    pub sources: Vec<FileSource>,
}

/// A key with its value, in the form that the flag's parser accepts.
#[derive(Clone)]
pub(crate) struct Setting {
    pub key: String,
    /// The value as the flag's text; several for a list.
    pub values: Vec<String>,
    /// Where the key is.
    pub line: usize,
}

/// Omits the values, which may be secrets.
impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setting")
            .field("key", &self.key)
            .field("line", &self.line)
            .finish_non_exhaustive()
    }
}

/// One `[[source]]`.
#[derive(Debug)]
pub(crate) struct FileSource {
    /// Its name; required if there are several sources.
    pub name: Option<String>,
    /// Where it begins.
    pub line: usize,
    /// Its settings.
    pub settings: Vec<Setting>,
    /// Its credentials; empty if they come from the environment.
    pub credentials: Vec<Credential>,
}

impl FileSource {
    /// The values of a key of the source.
    pub(crate) fn get(&self, key: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.key == key)
    }
}

pub(crate) fn read(path: &Path, keys: &[Key]) -> Result<ConfigurationFile, Failure> {
    let cannot_read = |error: std::io::Error| {
        let text = format!(
            "cannot read the configuration file {}: {error}",
            path.display()
        );
        Failure::new(Exit::Usage, text).hint("check --config or SWR_SYNC_CONFIG")
    };
    let mode = secret_file::checked_mode(path).map_err(cannot_read)?;
    let text = std::fs::read_to_string(path).map_err(cannot_read)?;
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&text);
    let mut reading = Reading {
        path,
        text,
        keys,
        problems: Vec::new(),
        secret_lines: Vec::new(),
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        // The error itself quotes the line.
        reading.problem(error.span().unwrap_or_default(), error.message());
    }
    // Without a complete parse, the checks below would report false errors.
    let (settings, sources) = match errors.is_empty() {
        true => reading.top(table.get_ref()),
        false => Default::default(),
    };
    if let Some(mode) = mode {
        reading.check_mode(mode);
    }
    reading.end()?;
    Ok(ConfigurationFile {
        path: path.to_owned(),
        settings,
        sources,
    })
}

/// A file that is being read.
struct Reading<'a> {
    path: &'a Path,
    text: &'a str,
    keys: &'a [Key],
    problems: Vec<(usize, String)>,
    /// Places of secrets.
    secret_lines: Vec<usize>,
}

type Table<'t> = DeTable<'t>;
type Value<'t> = Spanned<DeValue<'t>>;

impl Reading<'_> {
    fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().get(..at).unwrap_or_default();
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    fn problem(&mut self, at: Range<usize>, text: impl Into<String>) {
        self.problems.push((self.line(at.start), text.into()));
    }

    fn top(&mut self, table: &Table<'_>) -> (Vec<Setting>, Vec<FileSource>) {
        let mut settings = Vec::new();
        let mut sources = Vec::new();
        for (name, value) in table {
            let (at, name) = (name.span(), name.get_ref().as_ref());
            if name == SOURCE {
                sources = self.sources(value);
                continue;
            }
            match self.keys.iter().find(|key| key.name == name) {
                Some(key) if key.place == Place::Source => {
                    self.problem(at, format!("`{name}` belongs in a [[source]]"));
                }
                Some(key) => settings.extend(self.setting(key, at, value)),
                None => {
                    let top = self.keys.iter().filter(|key| key.place != Place::Source);
                    let known = top.map(|key| key.name.as_str()).chain([SOURCE]);
                    let text = unknown(name, "", known);
                    self.problem(at, text);
                }
            }
        }
        self.check_sources(&settings, &sources);
        let has = |key: &str| settings.iter().find(|setting| setting.key == key);
        if let (Some(_), Some(second)) = (has(DATABASE_URL), has(DATABASE_URL_FILE)) {
            let text = format!("both `{DATABASE_URL}` and `{DATABASE_URL_FILE}` are set");
            self.problems.push((second.line, text));
        }
        (settings, sources)
    }

    fn sources(&mut self, value: &Value<'_>) -> Vec<FileSource> {
        let DeValue::Array(tables) = value.get_ref() else {
            self.problem(value.span(), "a source begins with [[source]]");
            return Vec::new();
        };
        let mut sources = Vec::new();
        for table in tables {
            match table.get_ref() {
                DeValue::Table(source) => sources.push(self.source(table.span(), source)),
                _ => self.problem(table.span(), "a source begins with [[source]]"),
            }
        }
        sources
    }

    fn source(&mut self, at: Range<usize>, table: &Table<'_>) -> FileSource {
        let mut source = FileSource {
            name: None,
            line: self.line(at.start),
            settings: Vec::new(),
            credentials: Vec::new(),
        };
        for (name, value) in table {
            let (at, name) = (name.span(), name.get_ref().as_ref());
            match name {
                NAME => source.name = self.source_name(value),
                CREDENTIALS => source.credentials = self.credentials(value),
                _ => match self.keys.iter().find(|key| key.name == name) {
                    Some(key) if key.place == Place::Top => {
                        let text = format!(
                            "`{name}` applies to all sources: it belongs at the top of the file, \
                             before the first [[source]]"
                        );
                        self.problem(at, text);
                    }
                    Some(key) => source.settings.extend(self.setting(key, at, value)),
                    None => {
                        let own = self.keys.iter().filter(|key| key.place != Place::Top);
                        let known = own.map(|key| key.name.as_str()).chain([NAME, CREDENTIALS]);
                        let text = unknown(name, " of a source", known);
                        self.problem(at, text);
                    }
                },
            }
        }
        source
    }

    fn source_name(&mut self, value: &Value<'_>) -> Option<String> {
        let is_plain = |name: &str| {
            name.len() <= 63
                && name.starts_with(|first: char| first.is_ascii_alphanumeric())
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        match value.get_ref().as_str() {
            Some(name) if is_plain(name) => Some(name.to_owned()),
            _ => {
                let text = "`name` must be a string of 1 to 63 letters, digits, `.`, `_` and `-`, the first \
                            a letter or digit";
                self.problem(value.span(), text);
                None
            }
        }
    }

    /// Checks that need all sources. A single source may leave the choice of the registry to flags and
    /// variables.
    fn check_sources(&mut self, top: &[Setting], sources: &[FileSource]) {
        let mut lines_by_name = BTreeMap::new();
        let mut lines_by_instance = BTreeMap::new();
        for source in sources {
            let has = |key: &str| {
                source.get(key).is_some() || top.iter().any(|setting| setting.key == key)
            };
            let needed: [&[&str]; 3] = [&["region", "endpoint"], &["project_id"], &[INSTANCES]];
            for keys in needed {
                if sources.len() > 1 && !keys.iter().any(|key| has(key)) {
                    let text =
                        format!("with several sources, each needs `{}`", keys.join("` or `"));
                    self.problems.push((source.line, text));
                }
            }
            match &source.name {
                None if sources.len() > 1 => {
                    let text = "with several sources, each needs a `name`";
                    self.problems.push((source.line, text.to_owned()));
                }
                None => {}
                Some(name) => {
                    if let Some(line) = lines_by_name.insert(name, source.line) {
                        let text = format!("the source in line {line} has the same name `{name}`");
                        self.problems.push((source.line, text));
                    }
                }
            }
            let Some(instances) = source.get(INSTANCES) else {
                continue;
            };
            for id in instances.values.iter().filter(|id| *id != "all") {
                if let Some(line) = lines_by_instance.insert(id, instances.line) {
                    let text = format!("line {line} has the same instance `{id}`");
                    self.problems.push((instances.line, text));
                }
            }
        }
    }

    fn credentials(&mut self, value: &Value<'_>) -> Vec<Credential> {
        let DeValue::Table(table) = value.get_ref() else {
            self.problem(
                value.span(),
                "credentials must be a table, [source.credentials]",
            );
            return Vec::new();
        };
        let mut credentials: Vec<Credential> = Vec::new();
        for (name, value) in table {
            let (at, name) = (name.span(), name.get_ref().as_ref());
            let Some((key, hold)) = credential_key(name) else {
                let text = unknown(name, " of credentials", known_credential_keys());
                self.problem(at, text);
                continue;
            };
            let Some(text) = value
                .get_ref()
                .as_str()
                .filter(|text| !text.trim().is_empty())
            else {
                self.problem(at, format!("`{name}` must be a string that is not empty"));
                continue;
            };
            if !key.possible_values.is_empty() && !key.possible_values.contains(&text) {
                let values = key.possible_values.join(", ");
                self.problem(at, format!("`{name}`: must be one of {values}"));
                continue;
            }
            let mut others = credentials.iter();
            if let Some(other) = others.find(|other| other.key.name == key.name) {
                let text = format!("both `{}` and `{name}` are set", other.written());
                self.problem(at, text);
                continue;
            }
            let line = self.line(at.start);
            let held = hold(text.trim());
            if key.is_secret && matches!(held, Held::Here(_)) {
                self.secret_lines.push(line);
            }
            let place = format!("{}:{line}", self.path.display());
            credentials.push(Credential { key, held, place });
        }
        credentials
    }

    /// A value of the right type that the flag's parser accepts.
    fn setting(&mut self, key: &Key, at: Range<usize>, value: &Value<'_>) -> Option<Setting> {
        let name = &key.name;
        let Some(values) = values(key.kind, value.get_ref()) else {
            let text = format!("`{name}` must be {}", expected(key.kind));
            self.problem(at, text);
            return None;
        };
        for value in &values {
            if let Err(reason) = key.check(value) {
                self.problem(at, format!("`{name}`: {reason}"));
                return None;
            }
        }
        if key.name == INSTANCES {
            let has_all = values.iter().any(|id| id == "all");
            // The flag's parser would split it into several values.
            let is_id = |id: &String| !id.is_empty() && !id.contains(',');
            let are_ids = !values.is_empty() && values.iter().all(is_id);
            if !are_ids || (has_all && values.len() > 1) {
                let text = format!("`{name}` must be a list of ids, or \"all\"");
                self.problem(at, text);
                return None;
            }
        }
        let has_password = values.iter().any(|value| holds_password(value));
        if key.name == DATABASE_URL && has_password {
            let text = format!(
                "`{DATABASE_URL}` contains a password: set `{DATABASE_URL_FILE}` to a file that contains the URL, or set \
                 DATABASE_URL"
            );
            self.problem(at, text);
            return None;
        }
        let line = self.line(at.start);
        if key.is_secret || has_password {
            self.secret_lines.push(line);
        }
        Some(Setting {
            key: name.clone(),
            values,
            line,
        })
    }

    /// Other users must not be able to change the endpoint that receives the keys, or to read a
    /// secret. A group may read: orchestrators give files to the user of a container this way.
    fn check_mode(&mut self, mode: u32) {
        let first_secret = self.secret_lines.iter().min();
        if let Some(line) = first_secret
            && mode & 0o004 != 0
        {
            let text = format!(
                "there is a secret in this line, and every user can read the file (mode {mode:04o}): `chmod 0600` \
                 restricts it to its owner (in Kubernetes, defaultMode: 0440); or use a key that ends with _file or \
                 _env to refer to the secret"
            );
            self.problems.push((*line, text));
        }
    }

    fn end(mut self) -> Result<(), Failure> {
        self.problems.sort();
        let path = self.path.display();
        let lines: Vec<String> = self
            .problems
            .iter()
            .map(|(line, text)| format!("{path}:{line}: {text}"))
            .collect();
        let failure = match &lines[..] {
            [] => return Ok(()),
            [only] => Failure::new(Exit::Usage, only.clone()),
            several => {
                let text = format!("the configuration file has {} errors", several.len());
                Failure::new(Exit::Usage, text).details(lines)
            }
        };
        Err(failure.hint("`swr-sync config schema` prints the allowed keys and values"))
    }
}

fn unknown<'a>(name: &str, of: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(name, known) {
        Some(nearest) => format!("unknown key{of} `{name}`; did you mean `{nearest}`?"),
        None => format!("unknown key{of} `{name}`"),
    }
}

fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::Boolean => "true or false",
        Kind::Integer => "a whole number, without quotes",
        Kind::Number => "a number, without quotes",
        Kind::Text => "a string, in quotes",
        Kind::Texts => "a list of strings",
    }
}

/// The value as the flag's text, if it has the right type.
fn values(kind: Kind, value: &DeValue<'_>) -> Option<Vec<String>> {
    let one = match (kind, value) {
        (Kind::Boolean, DeValue::Boolean(value)) => value.to_string(),
        (Kind::Integer | Kind::Number, DeValue::Integer(value)) => {
            i64::from_str_radix(value.as_str(), value.radix())
                .ok()?
                .to_string()
        }
        (Kind::Number, DeValue::Float(value)) => value.as_str().to_owned(),
        (Kind::Text | Kind::Texts, DeValue::String(value)) => value.trim().to_owned(),
        (Kind::Texts, DeValue::Array(values)) => {
            let values = values.iter().map(|value| value.get_ref().as_str());
            return values.map(|value| value.map(str::to_owned)).collect();
        }
        _ => return None,
    };
    Some(vec![one])
}

type Hold = fn(&str) -> Held;

fn credential_key(name: &str) -> Option<(&'static CredentialKey, Hold)> {
    let find = |name: &str| CREDENTIAL_KEYS.iter().find(|key| key.name == name);
    if let Some(key) = find(name) {
        return Some((key, |text| Held::Here(SecretString::from(text))));
    }
    let endings: [(&str, Hold); 2] = [
        ("_file", |text| Held::InFile(text.into())),
        ("_env", |text| Held::InVariable(text.to_owned())),
    ];
    endings.into_iter().find_map(|(ending, hold)| {
        let key = find(name.strip_suffix(ending)?)?;
        key.has_places.then_some((key, hold))
    })
}

fn known_credential_keys() -> impl Iterator<Item = &'static str> {
    CREDENTIAL_KEYS.iter().map(|key| key.name)
}
