//! docs/schema.md: the schemas as PostgreSQL's catalog describes them.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::source::Source;

/// A table or a view.
#[derive(Deserialize)]
struct Relation {
    schema: String,
    name: String,
    is_view: bool,
    is_unlogged: bool,
    comment: String,
    columns: Vec<Column>,
    keys: Vec<Key>,
    indexes: Vec<Index>,
}

#[derive(Deserialize)]
struct Column {
    name: String,
    r#type: String,
    is_nullable: bool,
    comment: String,
}

/// A primary, unique or foreign key.
#[derive(Deserialize)]
struct Key {
    is_primary: bool,
    definition: String,
    columns: Vec<String>,
    /// The table a foreign key points to.
    target: Option<String>,
}

#[derive(Deserialize)]
struct Index {
    name: String,
    definition: String,
}

#[derive(Deserialize)]
struct Function {
    schema: String,
    name: String,
    arguments: String,
    result: String,
    comment: String,
}

/// From a column of a table to the table it names a row of, instance_id being equal.
struct Join<'a> {
    table: &'a Relation,
    columns: Vec<&'a str>,
    target: &'a str,
    /// Whether the database enforces it.
    is_foreign_key: bool,
}

/// Joins by columns with another name than the other table's key.
const NAMED_OTHERWISE: [(&str, &str, &str); 2] = [
    ("artifact", "digest", "manifest"),
    ("tag_history", "digest", "manifest"),
];

/// A table whose key has another name than the table.
const RUN: (&str, &str) = ("sync_run", "run_id");

const HEAD: &str = "\
<!-- Generated from the comments of the schema; to update: cargo xtask docs -->

# Schema

What `\\d+` in psql shows of a migrated database. Query the views of
[swr_report](#views-of-swr_report) first; [sql.md](sql.md) shows them with answers. Below them are the
[tables of swr](#tables-of-swr).
";

const DIAGRAM: &str = "
## How the tables are joined

Lines are foreign keys. Dotted lines are joins without a foreign key, which the program keeps consistent.
Every table has `instance_id`, which is part of each join. The diagram shows the keys and the columns
of joins. It leaves out the tables of a listing in progress (`staged_…`).
";

/// The whole of docs/schema.md.
pub(crate) async fn schema_page(source: &Source) -> String {
    let relations: Vec<Relation> = rows(source, RELATIONS).await;
    let functions: Vec<Function> = rows(source, FUNCTIONS).await;
    let tables: Vec<&Relation> = of(&relations, "swr", false).collect();
    let joins = joins(&tables);

    let mut page = HEAD.to_owned();
    page.push_str(DIAGRAM);
    page.push_str(&diagram(&tables, &joins));
    page.push_str("\n## Views of swr_report\n");
    for view in of(&relations, "swr_report", true) {
        page.push_str(&relation_section(view, &joins));
    }
    page.push_str("\n## Functions of swr_report\n");
    for function in functions
        .iter()
        .filter(|function| function.schema == "swr_report")
    {
        page.push_str(&function_section(function));
    }
    page.push_str("\n## Tables of swr\n");
    for table in tables {
        page.push_str(&relation_section(table, &joins));
    }
    page.push_str("\n## Views and functions of swr\n");
    for view in of(&relations, "swr", true) {
        page.push_str(&relation_section(view, &joins));
    }
    for function in functions.iter().filter(|function| function.schema == "swr") {
        page.push_str(&function_section(function));
    }
    page
}

/// The views and functions of swr_report.
pub(crate) async fn reports(source: &Source) -> BTreeSet<String> {
    let names = "select relname::text as name from pg_class
                 where relnamespace = 'swr_report'::regnamespace and relkind in ('v', 'm')
                 union select proname from pg_proc where pronamespace = 'swr_report'::regnamespace";
    let names = source.snapshot(names).await;
    names.lines().map(str::to_owned).collect()
}

/// The comment of a view or function of swr_report.
pub(crate) async fn comment(source: &Source, name: &str) -> Option<String> {
    let comment = format!(
        "select obj_description(oid, 'pg_class') from pg_class
         where relnamespace = 'swr_report'::regnamespace and relname = '{name}'
         union all
         select obj_description(oid, 'pg_proc') from pg_proc
         where pronamespace = 'swr_report'::regnamespace and proname = '{name}'"
    );
    let comment = source.snapshot(&comment).await;
    (!comment.is_empty()).then_some(comment)
}

/// Text that Markdown shows as it is, in the cell of a table too.
pub(crate) fn markdown(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        if matches!(character, '\\' | '|' | '<' | '*' | '`' | '[') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

const RELATIONS: &str = "
    select json_build_object(
        'schema', n.nspname,
        'name', c.relname,
        'is_view', c.relkind in ('v', 'm'),
        'is_unlogged', c.relpersistence = 'u',
        'comment', coalesce(obj_description(c.oid, 'pg_class'), ''),
        'columns', (
            select json_agg(json_build_object(
                'name', a.attname,
                'type', replace(format_type(a.atttypid, a.atttypmod), 'timestamp with time zone', 'timestamptz'),
                'is_nullable', not a.attnotnull,
                'comment', coalesce(col_description(c.oid, a.attnum), '')
            ) order by a.attnum)
            from pg_attribute a
            where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        ),
        'keys', (
            select coalesce(json_agg(json_build_object(
                'is_primary', k.contype = 'p',
                'definition', pg_get_constraintdef(k.oid),
                'columns', (
                    select json_agg(a.attname order by x.position)
                    from unnest(k.conkey) with ordinality as x (number, position)
                    join pg_attribute a on a.attrelid = k.conrelid and a.attnum = x.number
                ),
                'target', (select relname from pg_class where oid = k.confrelid)
            ) order by k.contype = 'p' desc, k.conname), '[]')
            from pg_constraint k
            where k.conrelid = c.oid and k.contype in ('p', 'u', 'f')
        ),
        'indexes', (
            select coalesce(json_agg(json_build_object(
                'name', i.relname,
                'definition', pg_get_indexdef(i.oid)
            ) order by i.relname), '[]')
            from pg_index x
            join pg_class i on i.oid = x.indexrelid
            where x.indrelid = c.oid and not exists (select from pg_constraint k where k.conindid = i.oid and k.conrelid = c.oid)
        )
    )
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where n.nspname in ('swr', 'swr_report') and c.relkind in ('r', 'p', 'v', 'm') and c.relname <> '_sqlx_migrations'
    order by c.relname";

const FUNCTIONS: &str = "
    select json_build_object(
        'schema', n.nspname,
        'name', p.proname,
        'arguments', pg_get_function_arguments(p.oid),
        'result', pg_get_function_result(p.oid),
        'comment', coalesce(obj_description(p.oid, 'pg_proc'), '')
    )
    from pg_proc p
    join pg_namespace n on n.oid = p.pronamespace
    where n.nspname in ('swr', 'swr_report')
    order by p.proname, pg_get_function_arguments(p.oid) collate \"C\"";

/// The rows of a query of one JSON column.
async fn rows<T: DeserializeOwned>(source: &Source, sql: &str) -> Vec<T> {
    // Without a search path, definitions name schemas.
    let sql = format!(
        "set search_path = ''; select coalesce(json_agg(row), '[]') from ({sql}) as x (row)"
    );
    let text = source.snapshot(&sql).await;
    serde_json::from_str(&text).unwrap()
}

fn of<'a>(
    relations: &'a [Relation],
    schema: &'a str,
    is_view: bool,
) -> impl Iterator<Item = &'a Relation> {
    let matches =
        move |relation: &&Relation| relation.schema == schema && relation.is_view == is_view;
    relations.iter().filter(matches)
}

fn joins<'a>(tables: &[&'a Relation]) -> Vec<Join<'a>> {
    let mut joins = Vec::new();
    for table in tables {
        for key in &table.keys {
            if let Some(target) = &key.target {
                joins.push(Join {
                    table,
                    columns: key.columns.iter().map(String::as_str).collect(),
                    target,
                    is_foreign_key: true,
                });
            }
        }
        for column in &table.columns {
            let named = tables.iter().find(|other| is_key_of(&column.name, other));
            let (name, key) = (table.name.as_str(), column.name.as_str());
            let otherwise = NAMED_OTHERWISE
                .iter()
                .find(|join| (join.0, join.1) == (name, key));
            let target = named.map(|other| other.name.as_str());
            let Some(target) = target.or(otherwise.map(|join| join.2)) else {
                continue;
            };
            let is_known = joins.iter().any(|join: &Join<'_>| {
                join.table.name == table.name && join.columns.contains(&key)
            });
            if target != table.name && !is_known {
                joins.push(Join {
                    table,
                    columns: vec![key],
                    target,
                    is_foreign_key: false,
                });
            }
        }
    }
    for (table, column, target) in NAMED_OTHERWISE {
        let is_there = joins
            .iter()
            .any(|join| (join.table.name.as_str(), join.target) == (table, target));
        assert!(
            is_there,
            "swr.{table} has no column {column}, or there is no table {target}"
        );
    }
    joins
}

/// Whether the column, or a list of that name, holds the other table's key: its name and `_id`.
fn is_key_of(column: &str, other: &Relation) -> bool {
    let key = match other.name == RUN.0 {
        true => RUN.1.to_owned(),
        false => format!("{}_id", other.name),
    };
    let is_primary = |known: &Key| known.is_primary && known.columns == ["instance_id", &key];
    let column = column.strip_suffix('s').unwrap_or(column);
    let is_named = column == key || column.ends_with(&format!("_{key}"));
    is_named && other.keys.iter().any(is_primary)
}

/// Mermaid draws it on GitHub and in most editors.
fn diagram(tables: &[&Relation], joins: &[Join<'_>]) -> String {
    let mut text = "\n```mermaid\nerDiagram\n".to_owned();
    for table in tables.iter().filter(|table| !table.is_unlogged) {
        text.push_str(&format!("    {} {{\n", table.name));
        for column in &table.columns {
            let is_in = |key: &&Key| key.columns.contains(&column.name);
            let is_primary = table
                .keys
                .iter()
                .filter(|key| key.is_primary)
                .any(|key| is_in(&key));
            let is_joined = joins.iter().any(|join| {
                join.table.name == table.name && join.columns.contains(&column.name.as_str())
            });
            let mark = match (is_primary, is_joined) {
                (true, true) => "PK,FK",
                (true, false) => "PK",
                (false, true) => "FK",
                (false, false) => continue,
            };
            text.push_str(&format!(
                "        {} {} {mark}\n",
                column.r#type, column.name
            ));
        }
        text.push_str("    }\n");
    }
    for join in joins.iter().filter(|join| !join.table.is_unlogged) {
        let Join {
            table,
            columns,
            target,
            is_foreign_key,
        } = join;
        // A whole key names at most one row.
        let is_whole_key = table.keys.iter().any(|key| {
            let rest = key.columns.iter().filter(|column| *column != "instance_id");
            key.is_primary && rest.eq(columns.iter())
        });
        let from = if is_whole_key { "|o" } else { "}o" };
        let (line, to) = match is_foreign_key {
            true => ("--", "||"),
            false => ("..", "o|"),
        };
        text.push_str(&format!(
            "    {} {from}{line}{to} {target} : \"{}\"\n",
            table.name,
            columns
                .iter()
                .filter(|column| columns.len() == 1 || **column != "instance_id")
                .copied()
                .collect::<Vec<_>>()
                .join(", ")
        ));
    }
    text.push_str("```\n");
    text
}

fn relation_section(relation: &Relation, joins: &[Join<'_>]) -> String {
    let Relation {
        schema,
        name,
        is_view,
        is_unlogged: _,
        comment,
        columns,
        keys,
        indexes,
    } = relation;
    let mut text = format!("\n### {schema}.{name}\n\n{}\n\n", markdown(comment));
    // Of a view's columns the catalog does not know whether they can be NULL.
    text.push_str(match is_view {
        true => "| Column | Type | |\n|---|---|---|\n",
        false => "| Column | Type | | |\n|---|---|---|---|\n",
    });
    for column in columns {
        text.push_str(&format!("| `{}` | {} |", column.name, column.r#type));
        if !is_view {
            text.push_str(if column.is_nullable {
                " |"
            } else {
                " not null |"
            });
        }
        text.push_str(&format!(" {} |\n", markdown(&column.comment)));
    }
    let mut notes = Vec::new();
    notes.extend(
        keys.iter()
            .map(|key| format!("`{}`", lower(&key.definition))),
    );
    notes.extend(indexes.iter().map(|index| {
        let unique = if index.definition.starts_with("CREATE UNIQUE") {
            "unique "
        } else {
            ""
        };
        let using = index
            .definition
            .split_once(" USING ")
            .map_or("", |(_, using)| using);
        let using = using.strip_prefix("btree ").unwrap_or(using);
        format!("{unique}index `{}` on `{}`", index.name, lower(using))
    }));
    let own = joins
        .iter()
        .filter(|join| join.table.name == *name && !is_view && !join.is_foreign_key);
    notes.extend(own.map(|join| {
        let target = join.target;
        format!(
            "`{}` names a row of [swr.{target}](#swr{target})",
            join.columns.join(", ")
        )
    }));
    if !notes.is_empty() {
        text.push('\n');
    }
    for note in notes {
        text.push_str(&format!("- {note}\n"));
    }
    text
}

fn function_section(function: &Function) -> String {
    let Function {
        schema,
        name,
        arguments,
        result,
        comment,
    } = function;
    let plain = |text: &str| {
        lower(text)
            .replace("timestamp with time zone", "timestamptz")
            .replace("::text[]", "")
            .replace("::text", "")
            .replace("::bigint[]", "")
    };
    let result = plain(result);
    let result = match result.strip_prefix("table(") {
        Some(columns) => format!(
            "returns table (\n    {}\n)",
            columns.trim_end_matches(')').replace(", ", ",\n    ")
        ),
        None => format!("returns {result}"),
    };
    format!(
        "\n### {schema}.{name}\n\n{}\n\n```sql\n{schema}.{name}({})\n{result}\n```\n",
        markdown(comment),
        plain(arguments)
    )
}

/// PostgreSQL prints key words in capitals; of ours, no name has any.
fn lower(definition: &str) -> String {
    definition.to_lowercase()
}
