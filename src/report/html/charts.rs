//! The data of the charts, as the JSON block that the page's script reads.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::Serialize;

use super::data::{Data, Storage, Text};

/// Maximum number of bars in a chart; the table shows the rest.
const BARS: usize = 12;

#[derive(Debug, Serialize)]
pub(super) struct Charts {
    storage: Vec<Node>,
    sharing: Vec<Sharing>,
    growth: Vec<Day>,
    usage: Vec<Usage>,
    bases: Vec<Base>,
    findings: Vec<Finding>,
}

/// A rectangle of the treemap.
#[derive(Debug, Serialize)]
struct Node {
    name: String,
    value: i64,
    /// Layers of several namespaces or repositories.
    shared: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    children: Vec<Node>,
}

#[derive(Debug, Serialize)]
struct Sharing {
    name: String,
    logical: i64,
    layers: i64,
    exclusive: i64,
}

#[derive(Debug, Serialize)]
struct Day {
    day: String,
    pushed: i64,
    removed: i64,
    total: i64,
}

/// Bytes by time since the last use.
#[derive(Debug, Serialize)]
struct Usage {
    name: String,
    bytes: [i64; 4],
}

#[derive(Debug, Serialize)]
struct Base {
    name: String,
    images: i64,
    known: bool,
}

/// The findings of a rule.
#[derive(Debug, Serialize)]
struct Finding {
    name: String,
    severity: String,
    commands: i64,
}

impl Charts {
    pub(super) fn new(data: &Data) -> Charts {
        let several = data.freshness.total > 1;
        let name = |instance: &Text, name: &Option<Text>| {
            let name = name.as_ref().map_or("(unknown)", |name| &name.0);
            match several {
                true => format!("{}: {name}", instance.0),
                false => name.to_owned(),
            }
        };
        let mut by_size: Vec<&Storage> = data.namespaces.rows.iter().collect();
        by_size.sort_by_key(|row| Reverse(row.logical_bytes));
        let sharing = by_size.into_iter().take(BARS).map(|row| Sharing {
            name: name(&row.instance, &row.name),
            logical: row.logical_bytes,
            layers: row.layer_bytes,
            exclusive: row.exclusive_bytes,
        });
        let growth = data.growth.rows.iter().rev().map(|row| Day {
            day: row.day.to_string(),
            pushed: row.pushed_bytes,
            removed: row.removed_bytes,
            total: row.logical_bytes,
        });
        let usage = data
            .use_by_namespace
            .rows
            .iter()
            .filter(|row| row.bytes > 0);
        let usage = usage.take(BARS).map(|row| Usage {
            name: name(&row.instance, &row.namespace),
            bytes: [
                row.month_bytes,
                row.quarter_bytes,
                row.year_bytes,
                row.older_bytes,
            ],
        });
        let known = data.bases.rows.iter().map(|row| Base {
            name: name(&row.instance, &Some(Text(row.label()))),
            images: row.images,
            known: true,
        });
        let unknown = data.unknown_bases.rows.iter().map(|row| Base {
            name: name(&row.instance, &Some(Text(row.label()))),
            images: row.images,
            known: false,
        });
        let mut bases: Vec<Base> = known.chain(unknown).collect();
        bases.sort_by_key(|base| Reverse(base.images));
        bases.truncate(BARS);
        let findings = data.rules.rows.iter().take(BARS).map(|rule| Finding {
            name: rule.title.0.clone(),
            severity: rule.severity.0.clone(),
            commands: rule.commands,
        });
        Charts {
            storage: storage(data, &name),
            sharing: sharing.collect(),
            growth: growth.collect(),
            usage: usage.collect(),
            bases,
            findings: findings.collect(),
        }
    }

    /// As JSON that cannot close the element that contains it.
    pub(super) fn to_json(&self) -> Result<String, serde_json::Error> {
        Ok(serde_json::to_string(self)?.replace('<', "\\u003c"))
    }
}

/// Namespaces and their repositories with their exclusive bytes, and the remaining bytes as
/// shared, so that the areas add up to the stored bytes.
fn storage(data: &Data, name: &dyn Fn(&Text, &Option<Text>) -> String) -> Vec<Node> {
    let mut repositories: BTreeMap<(&Text, &Option<Text>), Vec<Node>> = BTreeMap::new();
    for row in &data.repositories.rows {
        if row.exclusive_bytes > 0 {
            let key = (&row.instance, &row.namespace);
            repositories.entry(key).or_default().push(Node {
                name: row
                    .name
                    .as_ref()
                    .map_or("(unknown)", |name| &name.0)
                    .to_owned(),
                value: row.exclusive_bytes,
                shared: false,
                children: Vec::new(),
            });
        }
    }
    let is_complete = data.repositories.rows.len() as u64 == data.repositories.total;
    let mut nodes = Vec::new();
    for row in &data.namespaces.rows {
        if row.exclusive_bytes == 0 {
            continue;
        }
        let key = (&row.instance, &row.name);
        let mut children = repositories.remove(&key).unwrap_or_default();
        let shown = total(&children);
        if row.exclusive_bytes > shown {
            children.push(Node {
                name: match is_complete {
                    true => "shared by its repositories".to_owned(),
                    false => "shared, and smaller repositories".to_owned(),
                },
                value: row.exclusive_bytes - shown,
                shared: true,
                children: Vec::new(),
            });
        }
        nodes.push(Node {
            name: name(&row.instance, &row.name),
            value: row.exclusive_bytes,
            shared: false,
            children,
        });
    }
    let shown = total(&nodes);
    if data.totals.layer_bytes > shown {
        let is_complete = data.namespaces.rows.len() as u64 == data.namespaces.total;
        nodes.push(Node {
            name: match is_complete {
                true => "shared by namespaces".to_owned(),
                false => "shared, and smaller namespaces".to_owned(),
            },
            value: data.totals.layer_bytes - shown,
            shared: true,
            children: Vec::new(),
        });
    }
    nodes
}

/// Ends at the largest number, like the sums of the reports.
fn total(nodes: &[Node]) -> i64 {
    let values = nodes.iter().map(|node| node.value);
    values.fold(0, i64::saturating_add)
}
