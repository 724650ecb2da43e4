//! The page as HTML. The template escapes everything that is not written here.

use chrono::{DateTime, Utc};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::super::human as format;
use super::data::{
    Base, Data, Day, Finding, Freshness, Layer, Options, Rule, Stale, Storage, Text, Top, Totals,
    UnknownBase, Use,
};

/// Parts of the page that are not escaped.
pub(super) struct Parts<'a> {
    pub(super) policy: &'a str,
    pub(super) style: &'a str,
    pub(super) charts: &'a str,
    pub(super) library: &'a str,
    pub(super) script: &'a str,
}

pub(super) fn render(data: &Data, options: &Options, parts: &Parts) -> Markup {
    let title = match (options.instance, &data.freshness.rows[..]) {
        (_, [only]) => only.instance.0.clone(),
        (Some(instance), _) => Text::from(instance.to_owned()).0,
        (None, rows) => format!("{} instances", rows.len()),
    };
    let namespace = options.namespace.map(|name| Text::from(name.to_owned()).0);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(parts.policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="generator" content=(concat!("swr-sync ", env!("CARGO_PKG_VERSION")));
                title { "Registry report: " (title) }
                style { (PreEscaped(parts.style)) }
            }
            body {
                (header(data, &title, namespace.as_deref()))
                main {
                    @if data.totals.artifacts == 0 {
                        p.card.empty {
                            "The database contains no artifacts. "
                            code { "swr-sync sync" } " mirrors a registry into it."
                        }
                    } @else {
                        (figures(&data.totals))
                        (storage(data, options))
                        div.columns {
                            (sharing(data, options))
                            (growth(data, options))
                        }
                        div.columns {
                            (usage(data, options))
                            (bases(data, options))
                        }
                        (findings(data, options))
                    }
                    (runs(data, options))
                }
                footer {
                    "Created by swr-sync " (env!("CARGO_PKG_VERSION")) " on " (time(options.made_at))
                    ". Sizes are of compressed layers; 1 KiB is 1,024 bytes."
                }
                script type="application/json" id="data" { (PreEscaped(parts.charts)) }
                script { (PreEscaped(parts.library)) }
                script { (PreEscaped(parts.script)) }
            }
        }
    }
}

fn header(data: &Data, title: &str, namespace: Option<&str>) -> Markup {
    let rows = &data.freshness.rows;
    let oldest = rows.iter().max_by_key(|row| row.age_seconds);
    let failures: i64 = rows.iter().map(|row| row.failures_since).sum();
    let unpublished = rows.iter().filter(|row| row.as_of.is_none()).count();
    html! {
        header {
            div {
                p.kicker { "Registry report" }
                h1 { bdi { (title) } }
                @if let Some(namespace) = namespace {
                    p { "Only the namespace " strong { bdi { (namespace) } } "; bases and findings count all images" }
                }
            }
            div.state {
                @if let Some(Freshness { as_of: Some(as_of), age_seconds: Some(age), .. }) = oldest {
                    p { "As of " strong { (time(*as_of)) } ", " (format::duration(*age)) " ago" }
                }
                @if unpublished > 0 {
                    p.badge.warning { (counted(unpublished as i64, "instance", "instances")) " never published" }
                }
                @if failures > 0 {
                    p.badge.warning { (counted(failures, "run", "runs")) " failed since" }
                } @else if unpublished == 0 && !rows.is_empty() {
                    p.badge.good { "No run failed since" }
                }
            }
        }
    }
}

fn figures(totals: &Totals) -> Markup {
    let Totals {
        namespaces,
        repositories,
        artifacts,
        logical_bytes,
        layers,
        layer_bytes,
        stale_artifacts,
        stale_bytes,
        used_bytes,
        untagged_artifacts,
        untagged_exclusive_bytes,
        images,
        images_with_base,
        unknown_bytes: _,
    } = totals;
    let figure = |label: &str, value: String, note: String| {
        html! {
            div.figure {
                dt { (label) }
                dd { strong { (value) } span { (note) } }
            }
        }
    };
    html! {
        dl.figures {
            (figure("Artifacts", format::count(*artifacts), format!(
                "in {}, {}",
                counted(*repositories, "repository", "repositories"),
                counted(*namespaces, "namespace", "namespaces")
            )))
            (figure("Stored layers", format::bytes(*layer_bytes), format!("{} distinct", format::count(*layers))))
            (figure("Without sharing", format::bytes(*logical_bytes), match layer_bytes {
                0 => "sum of the artifacts’ sizes".to_owned(),
                stored => format!("{:.1} times what is stored", *logical_bytes as f64 / *stored as f64),
            }))
            (figure("Unused for 90 days", format::percent(*stale_bytes, *used_bytes), format!(
                "of the bytes, {}", counted(*stale_artifacts, "artifact", "artifacts")
            )))
            (figure("Untagged", format::count(*untagged_artifacts), format!(
                "{} exclusive", format::bytes(*untagged_exclusive_bytes)
            )))
            (figure("Base known", format::percent(*images_with_base, *images), format!(
                "of {}", counted(*images, "image", "images")
            )))
        }
    }
}

fn storage(data: &Data, options: &Options) -> Markup {
    let several = data.freshness.total > 1;
    let unknown_bytes = data.totals.unknown_bytes;
    html! {
        section.card {
            h2 { "Storage by namespace" }
            p.lead {
                "The area shows the stored bytes: each repository has its exclusive layers, and shared layers are grey."
                @if unknown_bytes > 0 {
                    " Not included: " (format::bytes(unknown_bytes))
                    " of charts, and of images without a stored build history."
                }
            }
            (chart("storage", "Treemap of stored bytes by namespace and repository", "tall"))
            (table(&data.namespaces, options.limit, "Namespaces", true, several, &[
                Column::text("Namespace", |row: &Storage| row.name.clone()),
                Column::count("Repositories", |row| row.repositories),
                Column::count("Artifacts", |row| Some(row.artifacts)),
                Column::bytes("Without sharing", |row| Some(row.logical_bytes)),
                Column::bytes("Layers", |row| Some(row.layer_bytes)),
                Column::bytes("Shared", |row| Some(row.shared_bytes)),
                Column::bytes("Exclusive", |row| Some(row.exclusive_bytes)),
                Column::day("Last push", |row| row.last_pushed_at),
                Column::day("Last pull", |row| row.last_pulled_at),
            ]))
            (table(&data.repositories, options.limit, "Repositories", false, several, &[
                Column::text("Namespace", |row: &Storage| row.namespace.clone()),
                Column::text("Repository", |row| row.name.clone()),
                Column::count("Artifacts", |row| Some(row.artifacts)),
                Column::bytes("Without sharing", |row| Some(row.logical_bytes)),
                Column::bytes("Layers", |row| Some(row.layer_bytes)),
                Column::bytes("Shared", |row| Some(row.shared_bytes)),
                Column::bytes("Exclusive", |row| Some(row.exclusive_bytes)),
                Column::day("Last push", |row| row.last_pushed_at),
                Column::day("Last pull", |row| row.last_pulled_at),
            ]))
        }
    }
}

fn sharing(data: &Data, options: &Options) -> Markup {
    let unknown_bytes = data.totals.unknown_bytes;
    html! {
        section.card {
            h2 { "Layer sharing" }
            p.lead {
                "The sum of the artifacts’ sizes, the distinct layers, and the layers that no other namespace has, which deleting the namespace would free at least."
                @if unknown_bytes > 0 {
                    " Artifacts with unknown layers (" (format::bytes(unknown_bytes)) ") are not included."
                }
            }
            (chart("sharing", "Bars of the bytes of each namespace: without sharing, after sharing, and exclusive", ""))
            (table(&data.layers, options.limit, "Most shared layers", false, data.freshness.total > 1, &[
                Column::digest("Layer", |row: &Layer| row.digest.clone()),
                Column::bytes("Size", |row| row.size_bytes),
                Column::count("Artifacts", |row| Some(row.artifacts)),
                Column::count("Repositories", |row| Some(row.repositories)),
                Column::bytes("Saved", |row| row.saved_bytes),
            ]))
        }
    }
}

fn growth(data: &Data, options: &Options) -> Markup {
    html! {
        section.card {
            h2 { "Growth" }
            p.lead {
                "Bytes pushed and removed per day, without sharing, and their running total. An artifact that was pushed again counts on the day of its last push."
            }
            @if data.growth.rows.len() > 1 {
                (chart("growth", "Bars of bytes pushed and removed per day, and a line of their running total", ""))
            } @else {
                p.empty { "The chart needs two days with a push or a removal." }
            }
            (table(&data.growth, options.limit, "Days", false, false, &[
                Column::new("Day", Kind::Time, |row: &Day| Cell::of(row.day.to_string())),
                Column::count("Pushes", |row| Some(row.pushes)),
                Column::bytes("Pushed", |row| Some(row.pushed_bytes)),
                Column::count("Removals", |row| Some(row.removals)),
                Column::bytes("Removed", |row| Some(row.removed_bytes)),
                Column::count("Artifacts", |row| Some(row.artifacts)),
                Column::bytes("Without sharing", |row| Some(row.logical_bytes)),
            ]))
        }
    }
}

fn usage(data: &Data, options: &Options) -> Markup {
    let several = data.freshness.total > 1;
    html! {
        section.card {
            h2 { "Use" }
            p.lead { "Bytes of each namespace by time since the last push or pull of its artifacts." }
            (chart("usage", "Bars of each namespace’s bytes by time since the last use", ""))
            (table(&data.use_by_namespace, options.limit, "Unused for 90 days by namespace", false, several, &[
                Column::text("Namespace", |row: &Use| row.namespace.clone()),
                Column::count("Artifacts", |row| Some(row.artifacts)),
                Column::count("Unused", |row| Some(row.stale_artifacts)),
                Column::bytes("All bytes", |row| Some(row.bytes)),
                Column::bytes("Unused bytes", |row| Some(row.stale_bytes)),
                Column::new("Share", Kind::Number, |row: &Use| Cell {
                    text: format::percent(row.stale_bytes, row.bytes),
                    key: (row.stale_bytes as f64 / row.bytes.max(1) as f64).to_string(),
                    title: None,
                }),
            ]))
            (table(&data.stale, options.limit, "Unused for 90 days, by exclusive size", false, several, &[
                Column::text("Namespace", |row: &Stale| row.namespace.clone()),
                Column::text("Repository", |row| row.repository.clone()),
                Column::tags("Tags", |row| &row.tags),
                Column::digest("Digest", |row| row.digest.clone()),
                Column::bytes("Size", |row| row.total_bytes),
                Column::bytes("Exclusive", |row| row.exclusive_bytes),
                Column::day("Pushed", |row| row.pushed_at),
                Column::day("Pulled", |row| row.pulled_at),
            ]))
        }
    }
}

fn bases(data: &Data, options: &Options) -> Markup {
    let several = data.freshness.total > 1;
    let is_empty = data.bases.rows.is_empty() && data.unknown_bases.rows.is_empty();
    html! {
        section.card {
            h2 { "Base images" }
            p.lead {
                "The number of images that are built directly on each artifact, and on layers that images of several repositories share but that are no artifact of the registry."
            }
            @if is_empty {
                p.empty { "No image begins with the layers of another image." }
            } @else {
                (chart("bases", "Bars of the number of images by base", ""))
            }
            (table(&data.bases, options.limit, "Bases in the registry", false, several, &[
                Column::text("Base", |row: &Base| Some(Text(row.label()))),
                Column::digest("Digest", |row| row.digest.clone()),
                Column::bytes("Layers", |row| row.layer_bytes),
                Column::count("Images", |row| Some(row.images)),
                Column::count("Repositories", |row| Some(row.repositories)),
                Column::day("Pushed", |row| row.pushed_at),
            ]))
            (table(&data.unknown_bases, options.limit, "Bases not in the registry", false, several, &[
                Column::text("Example image", |row: &UnknownBase| row.example()),
                Column::digest("Its digest", |row| row.example_digest.clone()),
                Column::count("Layers", |row| Some(row.layers)),
                Column::bytes("Bytes", |row| row.layer_bytes),
                Column::count("Images", |row| Some(row.images)),
                Column::count("Repositories", |row| Some(row.repositories)),
            ]))
        }
    }
}

fn findings(data: &Data, options: &Options) -> Markup {
    let Data {
        rules, findings, ..
    } = data;
    html! {
        section.card {
            h2 { "Findings in build commands" }
            p.lead {
                "Distinct commands with secrets or security risks. Secrets are masked here, but not in the images."
            }
            @if rules.rows.is_empty() {
                p.empty { "The rules found nothing." }
            } @else {
                (chart("findings", "Bars of the number of commands by rule and severity", "short"))
            }
            (table(rules, options.limit, "Rules", true, false, &[
                Column::severity(|row: &Rule| &row.severity),
                Column::text("Found", |row| Some(row.title.clone())),
                Column::text("Why it matters", |row| Some(row.why.clone())),
                Column::count("Commands", |row| Some(row.commands)),
                Column::count("Occurrences", |row| Some(row.occurrences)),
            ]))
            (table(findings, options.limit, "Commands", false, data.freshness.total > 1, &[
                Column::severity(|row: &Finding| &row.severity),
                Column::text("Found", |row| Some(row.title.clone())),
                Column::new("Command", Kind::Command, |row: &Finding| {
                    row.command.as_ref().map_or_else(Cell::none, |command| Cell::of(command.0.clone()))
                }),
                Column::count("Artifacts", |row| Some(row.artifacts)),
                Column::count("Repositories", |row| Some(row.repositories)),
                Column::text("Comes from", |row| Some(Text(row.origin()))),
                Column::count("Step", |row| Some(row.origin_position)),
            ]))
        }
    }
}

fn runs(data: &Data, options: &Options) -> Markup {
    html! {
        section.card {
            h2 { "Freshness" }
            p.lead { "Changes before the start of the listing are included; later ones may be missing." }
            (table(&data.freshness, options.limit, "Instances", true, false, &[
                Column::text("Instance", |row: &Freshness| Some(row.instance.clone())),
                Column::minute("As of", |row| row.as_of),
                Column::minute("Published", |row| row.last_published_at),
                Column::count("Failures since", |row| Some(row.failures_since)),
                Column::count("Histories waiting", |row| Some(row.histories_waiting)),
                Column::text("Last error", |row| row.last_error.clone()),
            ]))
        }
    }
}

impl Base {
    pub(super) fn label(&self) -> String {
        let place = place(&self.namespace, &self.repository);
        reference(&place, &self.tags, &self.digest)
    }
}

impl Finding {
    fn origin(&self) -> String {
        let place = place(&self.origin_namespace, &self.origin_repository);
        reference(&place, &self.origin_tags, &self.origin_digest)
    }
}

impl UnknownBase {
    pub(super) fn label(&self) -> String {
        match self.example() {
            Some(example) => format!("base of {}", example.0),
            None => format!("base of {}", short(&self.example_digest.0)),
        }
    }

    fn example(&self) -> Option<Text> {
        self.example_repository.as_ref()?;
        Some(Text(place(
            &self.example_namespace,
            &self.example_repository,
        )))
    }
}

fn place(namespace: &Option<Text>, repository: &Option<Text>) -> String {
    let names = [namespace, repository];
    let names: Vec<&str> = names
        .into_iter()
        .flatten()
        .map(|name| name.0.as_str())
        .collect();
    names.join("/")
}

/// `namespace/repository:tag`, or the digest if there is no tag.
fn reference(place: &str, tags: &[Text], digest: &Text) -> String {
    match tags.first() {
        Some(tag) => format!("{place}:{}", tag.0),
        None => format!("{place}@{}", short(&digest.0)),
    }
}

/// Shortened like in container tools.
fn short(digest: &str) -> String {
    let digest = digest.strip_prefix("sha256:").unwrap_or(digest);
    digest.chars().take(12).collect()
}

fn counted(count: i64, one: &str, several: &str) -> String {
    let noun = if count == 1 { one } else { several };
    format!("{} {noun}", format::count(count))
}

fn time(at: DateTime<Utc>) -> Markup {
    html! { time datetime=(at.to_rfc3339()) { (format::minute(at)) } }
}

/// The place of a chart; empty without JavaScript.
fn chart(name: &str, label: &str, class: &str) -> Markup {
    html! { div class={ "chart " (class) } data-chart=(name) role="img" aria-label=(label) {} }
}

/// How a column is aligned and sorted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Time,
    Code,
    Command,
}

struct Column<T> {
    title: &'static str,
    kind: Kind,
    cell: Box<dyn Fn(&T) -> Cell>,
}

struct Cell {
    text: String,
    /// Sort key.
    key: String,
    /// Full text of a shortened value.
    title: Option<String>,
}

impl Cell {
    fn of(text: String) -> Cell {
        Cell {
            key: text.clone(),
            text,
            title: None,
        }
    }

    /// No value; last in both sort orders.
    fn none() -> Cell {
        Cell::of(String::new())
    }
}

impl<T: 'static> Column<T> {
    fn new(title: &'static str, kind: Kind, cell: impl Fn(&T) -> Cell + 'static) -> Column<T> {
        Column {
            title,
            kind,
            cell: Box::new(cell),
        }
    }

    fn text(title: &'static str, value: fn(&T) -> Option<Text>) -> Column<T> {
        Column::new(title, Kind::Text, move |row| match value(row) {
            Some(Text(text)) => Cell::of(text),
            None => Cell::none(),
        })
    }

    fn number(
        title: &'static str,
        value: fn(&T) -> Option<i64>,
        format: fn(i64) -> String,
    ) -> Column<T> {
        Column::new(title, Kind::Number, move |row| match value(row) {
            Some(value) => Cell {
                text: format(value),
                key: value.to_string(),
                title: None,
            },
            None => Cell::none(),
        })
    }

    fn count(title: &'static str, value: fn(&T) -> Option<i64>) -> Column<T> {
        Column::number(title, value, format::count)
    }

    fn bytes(title: &'static str, value: fn(&T) -> Option<i64>) -> Column<T> {
        Column::number(title, value, format::bytes)
    }

    fn time(
        title: &'static str,
        value: fn(&T) -> Option<DateTime<Utc>>,
        format: fn(DateTime<Utc>) -> String,
    ) -> Column<T> {
        Column::new(title, Kind::Time, move |row| match value(row) {
            Some(at) => Cell {
                text: format(at),
                key: at.to_rfc3339(),
                title: None,
            },
            None => Cell::none(),
        })
    }

    fn day(title: &'static str, value: fn(&T) -> Option<DateTime<Utc>>) -> Column<T> {
        Column::time(title, value, format::day)
    }

    fn minute(title: &'static str, value: fn(&T) -> Option<DateTime<Utc>>) -> Column<T> {
        Column::time(title, value, format::minute)
    }

    fn digest(title: &'static str, value: fn(&T) -> Text) -> Column<T> {
        Column::new(title, Kind::Code, move |row| {
            let Text(digest) = value(row);
            Cell {
                text: short(&digest),
                key: digest.clone(),
                title: Some(digest),
            }
        })
    }

    /// Sorted by severity.
    fn severity(value: fn(&T) -> &Text) -> Column<T> {
        Column::new("Severity", Kind::Text, move |row| {
            let Text(severity) = value(row);
            let rank = match severity.as_str() {
                "high" => 1,
                "medium" => 2,
                "low" => 3,
                _ => 4,
            };
            Cell {
                text: severity.clone(),
                key: rank.to_string(),
                title: None,
            }
        })
    }

    /// The first tags, and the number of the others.
    fn tags(title: &'static str, value: fn(&T) -> &Vec<Text>) -> Column<T> {
        const SHOWN: usize = 3;
        Column::new(title, Kind::Text, move |row| {
            let tags = value(row);
            let shown: Vec<&str> = tags.iter().take(SHOWN).map(|tag| tag.0.as_str()).collect();
            let mut text = shown.join(", ");
            if tags.len() > SHOWN {
                text.push_str(&format!(" and {} more", tags.len() - SHOWN));
            }
            Cell::of(text)
        })
    }
}

/// A collapsible table, with the instance of each row if there are several.
fn table<T>(
    top: &Top<T>,
    limit: u64,
    title: &str,
    open: bool,
    several_instances: bool,
    columns: &[Column<T>],
) -> Markup
where
    T: OfInstance,
{
    let limit = if limit == 0 {
        usize::MAX
    } else {
        limit as usize
    };
    let rows = &top.rows[..top.rows.len().min(limit)];
    if rows.is_empty() {
        return html! {};
    }
    let class = |kind: Kind| match kind {
        Kind::Text => None,
        Kind::Number => Some("number"),
        Kind::Time => Some("time"),
        Kind::Code => Some("code"),
        Kind::Command => Some("command"),
    };
    html! {
        details open[open] {
            summary {
                (title) " "
                span.size {
                    @if rows.len() as u64 == top.total {
                        (format::count(top.total as i64))
                    } @else {
                        (format::count(rows.len() as i64)) " of " (format::count(top.total as i64))
                    }
                }
            }
            div.scroll role="region" aria-label=(title) tabindex="0" {
                table {
                    thead {
                        tr {
                            @if several_instances { th scope="col" { "Instance" } }
                            @for column in columns {
                                th scope="col" class=[class(column.kind)] { (column.title) }
                            }
                        }
                    }
                    tbody {
                        @for row in rows {
                            tr {
                                @if several_instances {
                                    @let instance = row.instance();
                                    td data-key=(instance) { bdi { (instance) } }
                                }
                                @for column in columns {
                                    @let Cell { text, key, title } = (column.cell)(row);
                                    td class=[class(column.kind)] data-key=(key) title=[title] { bdi { (text) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A row that belongs to one instance, or to all.
trait OfInstance {
    fn instance(&self) -> &str;
}

macro_rules! of_instance {
    ($($row:ty),*) => {
        $(impl OfInstance for $row {
            fn instance(&self) -> &str {
                &self.instance.0
            }
        })*
    };
}

of_instance!(
    Freshness,
    Storage,
    Layer,
    Use,
    Stale,
    Base,
    UnknownBase,
    Finding
);

/// Days and rules belong to all instances.
impl OfInstance for Day {
    fn instance(&self) -> &str {
        ""
    }
}

impl OfInstance for Rule {
    fn instance(&self) -> &str {
        ""
    }
}
