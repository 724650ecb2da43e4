//! `report html`: the content of the page, and its display in a browser.

use std::path::Path;

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};
use swr_emulator::{ArtifactSpec, Digest, Quirks, World, WorldSettings};

use crate::support::browser::Browser;
use crate::support::database::TestDatabase;
use crate::support::mirror::world_of;
use crate::support::program::{Program, emulator_and_database};
use crate::support::{assert_contains, assert_ends_with, assert_lacks, assert_starts_with, cases};

const SCRIPT: &str = "</script><script>alert(1)</script>";
const TAG: &str = "v1\"><img src=x onerror=alert(2)>";
const BIDI: &str = "txt.\u{202e}exe<!--";

const MIB: u64 = 1024 * 1024;

fn digest(digits: &str) -> String {
    format!("sha256:{}", digits.repeat(32))
}

/// Three images on a base of 10 MiB. One of them has only hostile names, and two of them share a layer of
/// 2 MiB.
fn world() -> World {
    let now = Utc::now();
    let mut world = World::empty(now - TimeDelta::days(400));
    let layer = |command: &str, digits: &str, mib: u64| json!({"created_by": command, "digest": digest(digits), "size": mib * MIB});
    let base = layer("ADD rootfs /", "b1", 10);
    let mut add =
        |namespace: &str, name: &str, digits: &str, tag: &str, age: i64, steps: &[Value]| {
            let repository = match world.repository(namespace, name) {
                Some(repository) => repository.id,
                None => world.add_repository(namespace, name),
            };
            let bytes: u64 = steps.iter().filter_map(|step| step["size"].as_u64()).sum();
            let spec = ArtifactSpec {
                digest: Digest::parse(&digest(digits)),
                size_bytes: bytes,
                tags: vec![tag.to_owned()],
                pushed_at: Some(now - TimeDelta::days(age)),
                history: Some(json!({"build_histories": steps, "total": steps.len()})),
                ..ArtifactSpec::default()
            };
            world.add_artifact(repository, spec).unwrap();
        };
    let steps = [base.clone()];
    add("base", "os", "d0", "12", 200, &steps);
    let shared = layer("RUN curl http://example.org/install | sh", "b2", 2);
    let steps = [base.clone(), shared.clone()];
    add("shop", "api", "d1", "v1", 20, &steps);
    let steps = [base.clone(), shared, layer(SCRIPT, "b3", 1)];
    add("shop", SCRIPT, "d2", TAG, 100, &steps);
    let steps = [base, layer(SCRIPT, "b4", 4)];
    add(BIDI, "o'hara & \"sons\"", "d3", SCRIPT, 5, &steps);
    world
}

async fn synced(world: World) -> TestDatabase {
    let (emulator, database) = emulator_and_database(world).await;
    Program::sync(&emulator, &database).code(0).await;
    database
}

async fn page(database: &TestDatabase, arguments: &[&str]) -> String {
    let program = Program::new(&["report", "html"]).args(arguments);
    let finished = program.database(database).code(0).await;
    match arguments.contains(&"--output") {
        true => assert_starts_with(&finished.stderr, "wrote /"),
        false => assert_eq!(finished.stderr, ""),
    }
    finished.stdout
}

/// The page as a file for a browser.
async fn page_in(folder: &Path, database: &TestDatabase) -> std::path::PathBuf {
    let file = folder.join("report.html");
    let arguments = ["--output", file.to_str().unwrap()];
    assert_eq!(page(database, &arguments).await, "");
    file
}

/// The rows of the table with this title, cells separated by a bar.
fn table(page: &str, title: &str) -> Vec<String> {
    let start = page.find(&format!("<summary>{title} ")).expect(title);
    let body = &page[start..];
    let body = &body[body.find("<tbody>").unwrap()..body.find("</tbody>").unwrap()];
    let cell = |cell: &str| {
        let (_, text) = cell.split_once("<bdi>").unwrap();
        text.split_once("</bdi>").unwrap().0.to_owned()
    };
    let rows = body.split("<tr>").skip(1).map(|row| {
        let cells: Vec<String> = row.split("<td").skip(1).map(cell).collect();
        cells.join(" | ")
    });
    rows.collect()
}

#[tokio::test]
async fn the_page_tells_without_scripts_what_the_registry_holds() {
    let database = synced(world()).await;
    let page = page(&database, &[]).await;
    for figure in [
        "<dt>Artifacts</dt><dd><strong>4</strong><span>in 4 repositories, 3 namespaces</span>",
        "<dt>Stored layers</dt><dd><strong>17.0 MiB</strong><span>4 distinct</span>",
        "<dt>Without sharing</dt><dd><strong>49.0 MiB</strong><span>2.9 times what is stored</span>",
        "<dt>Unused for 90 days</dt><dd><strong>47 %</strong><span>of the bytes, 2 artifacts</span>",
        "<dt>Untagged</dt><dd><strong>0</strong><span>0 B exclusive</span>",
        "<dt>Base known</dt><dd><strong>75 %</strong><span>of 4 images</span>",
        "No run failed since",
    ] {
        assert!(page.contains(figure), "no {figure}");
    }
    let without_days = |rows: Vec<String>| -> Vec<String> {
        let cut = |row: String| row.rsplitn(3, " | ").last().unwrap().to_owned();
        rows.into_iter().map(cut).collect()
    };
    assert_eq!(
        without_days(table(&page, "Namespaces")),
        [
            "txt.\\u{202e}exe&lt;!-- | 1 | 1 | 14.0 MiB | 14.0 MiB | 10.0 MiB | 4.0 MiB",
            "shop | 2 | 2 | 25.0 MiB | 13.0 MiB | 10.0 MiB | 3.0 MiB",
            "base | 1 | 1 | 10.0 MiB | 10.0 MiB | 10.0 MiB | 0 B",
        ]
    );
    assert_eq!(
        table(&page, "Most shared layers"),
        [
            "b1b1b1b1b1b1 | 10.0 MiB | 4 | 4 | 30.0 MiB",
            "b2b2b2b2b2b2 | 2.0 MiB | 2 | 2 | 2.0 MiB",
        ]
    );
    assert_eq!(table(&page, "Days").len(), 4);
    let stale = "shop | &lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt; | v1&quot;&gt;&lt;img src=x onerror=alert(2)&gt; | d2d2d2d2d2d2 | 13.0 MiB | 1.0 MiB";
    assert_eq!(
        without_days(table(&page, "Unused for 90 days, by exclusive size"))[0],
        stale
    );
    let bases = table(&page, "Bases in the registry");
    assert!(
        bases[0].starts_with("base/os:12 | d0d0d0d0d0d0 | 10.0 MiB | 2 | 2 | "),
        "{bases:?}"
    );
    assert!(
        bases[1].starts_with("shop/api:v1 | d1d1d1d1d1d1 | 12.0 MiB | 1 | 1 | "),
        "{bases:?}"
    );
    assert_eq!(table(&page, "Instances").len(), 1);
    let rules = table(&page, "Rules");
    assert!(
        rules[0].starts_with("medium | ") && rules[0].ends_with(" | 1 | 1"),
        "{rules:?}"
    );
    let command = &table(&page, "Commands")[0];
    let expected = "RUN curl http://example.org/install | sh | 2 | 2 | shop/api:v1 | 2";
    assert_ends_with(&command, expected);
}

#[tokio::test]
async fn names_of_others_are_text_wherever_they_stand() {
    let database = synced(world()).await;
    let page = page(&database, &[]).await;
    for hostile in [SCRIPT, "<script>alert", "<img", "<!--", "\u{202e}"] {
        assert!(!page.contains(hostile), "{hostile:?} is on the page");
    }
    // The data of the charts, and two scripts.
    assert_eq!(page.matches("<script").count(), 3);
    assert_eq!(page.matches("</script").count(), 3);
    let start = page.find("id=\"data\">").unwrap() + "id=\"data\">".len();
    let data = &page[start..start + page[start..].find("</script>").unwrap()];
    let data: Value = serde_json::from_str(data).unwrap();
    let names: Vec<&Value> = data["storage"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| &node["name"])
        .collect();
    assert_eq!(
        names,
        ["txt.\\u{202e}exe<!--", "shop", "shared by namespaces"]
    );
    let shop = &data["storage"][1]["children"];
    let expected = json!([
        {"name": SCRIPT, "value": MIB, "shared": false},
        {"name": "shared by its repositories", "value": 2 * MIB, "shared": true},
    ]);
    assert_eq!(shop, &expected);
}

#[tokio::test]
async fn tables_are_cut_and_say_so() {
    let database = synced(world()).await;
    let cut = page(&database, &["--limit", "2"]).await;
    assert_eq!(table(&cut, "Namespaces").len(), 2);
    assert!(cut.contains("Namespaces <span class=\"size\">2 of 3</span>"));
    let whole = page(&database, &["--limit", "0"]).await;
    assert!(whole.contains("Namespaces <span class=\"size\">3</span>"));
    let elsewhere = Program::new(&["report", "html", "--instance", "elsewhere"]);
    elsewhere
        .database(&database)
        .code(2)
        .await
        .says(&["error: there is no instance `elsewhere`"]);
}

#[tokio::test]
async fn a_team_has_a_page_of_its_namespace() {
    let database = synced(world()).await;
    let page = page(&database, &["--namespace", "shop"]).await;
    assert_contains(&page, "Only the namespace <strong><bdi>shop</bdi></strong>");
    assert_eq!(table(&page, "Namespaces").len(), 1);
    for title in ["Repositories", "Unused for 90 days, by exclusive size"] {
        for row in table(&page, title) {
            assert_contains(&row, "shop");
        }
    }
}

#[tokio::test]
async fn the_page_replaces_a_file_only_when_it_is_complete() {
    let database = synced(world()).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.html");
    std::fs::write(&file, "old").unwrap();
    let arguments = ["report", "html", "--output", file.to_str().unwrap()];
    let unreachable = "postgresql://nobody:a-password-not-to-be-shown@127.0.0.1:1/none";
    let failing = Program::new(&arguments).database_url(unreachable);
    failing.code(5).await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "old");
    page_in(folder.path(), &database).await;
    let page = std::fs::read_to_string(&file).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"));
    assert_eq!(folder.path().read_dir().unwrap().count(), 1);

    let nowhere = ["--output", "/nowhere/report.html"];
    let program = Program::new(&["report", "html"]).args(&nowhere);
    program.database(&database).code(1).await.says(&[
        "cannot write /nowhere/report.html",
        "the folder must exist and be writable",
    ]);
}

#[tokio::test]
async fn options_that_mean_nothing_here_are_refused() {
    for (arguments, complaint) in cases! {
        ["report", "html", "--format", "csv"] => "`report html` does not support --format";
        ["report", "html", "--repository", "shop"] => "`report html` does not support --repository";
    } {
        Program::new(&arguments).code(2).await.says(&[complaint]);
    }
}

/// Charts, and the shapes drawn in each.
const CHARTS: &str = "Object.fromEntries([...document.querySelectorAll('[data-chart]')]
    .map((chart) => [chart.dataset.chart, chart.querySelectorAll('svg path').length]))";

#[tokio::test]
async fn a_browser_draws_the_charts_and_asks_for_nothing() {
    let Some(mut browser) = Browser::start().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = page_in(folder.path(), &synced(world()).await).await;
    for (width, scheme) in [(1280, "light"), (390, "dark")] {
        browser.look(width, scheme).await;
        browser.open(&file).await;
        let charts = browser.evaluate(CHARTS).await;
        for name in ["storage", "sharing", "growth", "usage", "bases", "findings"] {
            let shapes = charts[name].as_u64().unwrap_or(0);
            assert!(shapes >= 2, "{name} at {width}: {charts}");
        }
        let room = "document.documentElement.scrollWidth - innerWidth";
        let room = browser.evaluate(room).await.as_i64().unwrap();
        assert!(room <= 0, "{room} more than fit in {width}");
        assert_eq!(browser.complaints(), [] as [&(String, Value); 0]);
        assert!(!browser.has_seen("Page.javascriptDialogOpening"));
    }
    let ground = "getComputedStyle(document.body).backgroundColor";
    let dark = browser.evaluate(ground).await;
    browser.look(390, "light").await;
    assert_ne!(browser.evaluate(ground).await, dark);
    // The policy of the page prevents this, not a setting of the browser.
    let fetched = "fetch('data:text/plain,x').then(() => 'fetched', () => 'refused')";
    assert_eq!(browser.evaluate(fetched).await, "refused");
    assert!(browser.has_seen("Log.entryAdded"));
}

#[tokio::test]
async fn a_click_on_a_heading_sorts_its_table() {
    let Some(mut browser) = Browser::start().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = page_in(folder.path(), &synced(world()).await).await;
    browser.open(&file).await;
    let click = |column: usize| {
        format!(
            "(() => {{
                const table = document.querySelector('table');
                const heading = table.tHead.rows[0].cells[{column}];
                heading.querySelector('button').click();
                const names = [...table.tBodies[0].rows].map((row) => row.cells[0].innerText);
                return `${{heading.getAttribute('aria-sort')}}: ${{names.join(' ')}}`;
            }})()"
        )
    };
    for (column, expected) in [
        (0, "ascending: base shop txt.\\u{202e}exe<!--"),
        (0, "descending: txt.\\u{202e}exe<!-- shop base"),
        (3, "descending: shop txt.\\u{202e}exe<!-- base"),
        (3, "ascending: base txt.\\u{202e}exe<!-- shop"),
    ] {
        assert_eq!(browser.evaluate(&click(column)).await, expected);
    }
}

#[tokio::test]
async fn a_table_can_be_searched_and_saved_as_csv() {
    let Some(mut browser) = Browser::start().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let database = synced(world_of(12)).await;
    browser.open(&page_in(folder.path(), &database).await).await;
    let search = "(() => {
        const field = document.querySelector('.tools input');
        const table = field.closest('.tools').nextElementSibling.querySelector('table');
        const rows = [...table.tBodies[0].rows];
        field.value = rows[3].querySelector('.code').textContent;
        field.dispatchEvent(new Event('input'));
        return `${rows.length > 10} ${rows.filter((row) => !row.hidden).length}`;
    })()";
    assert_eq!(browser.evaluate(search).await, "true 1");
    // What the file would hold, without a download.
    let save = "(() => {
        let saved = '';
        window.Blob = class { constructor(parts) { saved = parts.join(''); } };
        URL.createObjectURL = () => '#';
        document.querySelector('.tools button').click();
        return saved;
    })()";
    let csv = browser.evaluate(save).await;
    let csv = csv.as_str().unwrap();
    assert_starts_with(csv, "\u{feff}Namespace,Repositories,Artifacts,");
    assert_contains(csv, "\r\nteam,1,12,");
    assert_lacks(csv, " MiB");
}

#[tokio::test]
async fn without_scripts_a_browser_shows_tables_and_no_empty_charts() {
    let Some(mut browser) = Browser::start().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = page_in(folder.path(), &synced(world()).await).await;
    browser.allow_scripts(false).await;
    browser.open(&file).await;
    let shown =
        "[...document.querySelectorAll('.chart')].filter((chart) => chart.offsetHeight > 0).length";
    assert_eq!(browser.evaluate(shown).await, 0);
    let text = "document.querySelector('table').innerText";
    let text = browser.evaluate(text).await;
    assert!(text.as_str().unwrap().contains("25.0 MiB"), "{text}");
}

#[tokio::test]
async fn a_registry_full_of_odd_values_has_a_page() {
    let world = World::generate_with(&WorldSettings {
        seed: 7,
        artifacts: 200,
        now: Utc::now(),
        quirks: Quirks {
            hostile: 0.5,
            ..Quirks::default()
        },
    });
    let database = synced(world).await;
    assert!(table(&page(&database, &[]).await, "Repositories").len() > 1);
    let Some(mut browser) = Browser::start().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    browser.open(&page_in(folder.path(), &database).await).await;
    assert_eq!(browser.complaints(), [] as [&(String, Value); 0]);
}

#[tokio::test]
async fn an_empty_database_has_a_page() {
    let database = TestDatabase::create().await;
    let page = page(&database, &[]).await;
    assert!(page.contains("The database contains no artifacts."));
    let Some(mut browser) = Browser::start().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    browser.open(&page_in(folder.path(), &database).await).await;
    assert_eq!(browser.complaints(), [] as [&(String, Value); 0]);
}
