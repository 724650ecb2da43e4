//! Answers of any size and shape: what the registry client reads, what it requests again, and where it
//! stops.

use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};
use swr_sync::build_history::{HistoryOutcome, Refusal, RepositoryPath};
use swr_sync::clock::Clock;
use swr_sync::registry::{
    Credentials, FetchedHistory, Project, ProjectSettings, Registry, RegistryError, RequestFailure,
    RetryPolicy, TransportSettings,
};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::support::wire::{all_pages, listen, next_request};
use super::support::{assert_contains, assert_ends_with, cases};

/// A request: the path after the project, and the query.
#[derive(Debug, Clone)]
struct Asked {
    path: String,
    query: HashMap<String, u64>,
    /// Number of earlier requests.
    number: usize,
}

impl Asked {
    fn get(&self, name: &str) -> u64 {
        self.query.get(name).copied().unwrap_or_default()
    }
}

/// The answer as sent over the connection.
#[derive(Debug, Clone)]
struct Reply {
    status: u16,
    headers: &'static str,
    body: Vec<u8>,
    /// The content-length header. If it exceeds `body`, the rest is never sent.
    length: usize,
    /// Whether the connection is closed after it.
    ends: bool,
}

impl Reply {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        let body = body.into();
        Reply {
            status,
            headers: "",
            length: body.len(),
            body,
            ends: false,
        }
    }

    fn ok(body: impl Into<Vec<u8>>) -> Reply {
        Reply::new(200, body)
    }

    fn json(document: &Value) -> Reply {
        Reply::ok(document.to_string())
    }

    fn gzip(body: &[u8]) -> Reply {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(body).unwrap();
        Reply {
            headers: "content-encoding: gzip\r\n",
            ..Reply::ok(encoder.finish().unwrap())
        }
    }

    /// Sends half of it, and closes the connection.
    fn cut_short(self) -> Reply {
        let half = self.body[..self.body.len() / 2].to_vec();
        Reply {
            body: half,
            ends: true,
            ..self
        }
    }

    /// Sends all of it, but the content-length announces more.
    fn unfinished(self) -> Reply {
        Reply {
            length: 10 * self.length,
            ..self
        }
    }
}

type Answer = dyn Fn(&Asked) -> Reply + Send + Sync;

/// A gateway that answers with a function, and records the requests.
struct Gateway {
    endpoint: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Gateway {
    async fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Gateway {
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let answer: Arc<Answer> = Arc::new(answer);
        let remembered = Arc::clone(&asked);
        let serve = move |stream| serve(stream, Arc::clone(&answer), Arc::clone(&remembered));
        let endpoint = format!("http://{}", listen(serve).await);
        Gateway { endpoint, asked }
    }

    fn project_with(&self, change: impl FnOnce(&mut TransportSettings)) -> Project {
        let mut transport = TransportSettings {
            request_timeout: Duration::from_secs(30),
            retry: RetryPolicy {
                max_attempts: 3,
                base_delay: Duration::from_millis(1),
                max_delay: Duration::from_millis(5),
                ..RetryPolicy::default()
            },
            max_requests_per_second: None,
            ..TransportSettings::default()
        };
        change(&mut transport);
        let settings = ProjectSettings {
            endpoint: self.endpoint.parse().unwrap(),
            project_id: "project".to_owned(),
            credentials: Credentials::Token("token".into()),
            transport,
            redact_commands: false,
            clock: Clock::system(),
        };
        Project::new(settings).unwrap()
    }

    fn registry(&self) -> Registry {
        self.project_with(|_| {}).registry("the-instance")
    }

    /// These parameters of each request, in the order of the requests.
    fn asked_for<const N: usize>(&self, names: [&str; N]) -> Vec<[u64; N]> {
        let asked = self.asked.lock().unwrap();
        asked
            .iter()
            .map(|asked| names.map(|name| asked.get(name)))
            .collect()
    }

    fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

async fn serve(mut stream: TcpStream, answer: Arc<Answer>, asked: Arc<Mutex<Vec<Asked>>>) {
    while let Some(request) = next_request(&mut stream).await {
        let target = request.target();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let numbers = pairs.filter_map(|(name, value)| Some((name.into(), value.parse().ok()?)));
        let asking = {
            let mut asked = asked.lock().unwrap();
            let asking = Asked {
                path: path.split('/').skip(4).collect::<Vec<_>>().join("/"),
                query: numbers.collect(),
                number: asked.len(),
            };
            asked.push(asking.clone());
            asking
        };
        let Reply {
            status,
            headers,
            body,
            length,
            ends,
        } = answer(&asking);
        let head = format!("HTTP/1.1 {status} Status\r\n{headers}content-length: {length}\r\n\r\n");
        // The client may have read enough.
        if stream.write_all(head.as_bytes()).await.is_err()
            || stream.write_all(&body).await.is_err()
            || ends
        {
            return;
        }
    }
}

fn repository(id: u64) -> Value {
    json!({"id": id, "name": format!("r{id}"), "namespace_name": "team", "namespace_id": 1})
}

/// The page of these repositories that a request is for, with this `total`.
fn repositories(ids: &[u64], asked: &Asked, total: Option<u64>) -> Reply {
    let (offset, limit) = (asked.get("offset") as usize, asked.get("limit") as usize);
    let rows = ids.iter().skip(offset).take(limit);
    let mut page = json!({"repositories": rows.map(|id| repository(*id)).collect::<Vec<_>>()});
    if let Some(total) = total {
        page["total"] = total.into();
    }
    Reply::json(&page)
}

fn ids(count: u64) -> Vec<u64> {
    (1..=count).collect()
}

// --- catalog

#[tokio::test]
async fn a_total_that_is_missing_or_too_small_does_not_end_the_catalog() {
    for (count, total, requests) in [
        (250, None, 4),
        (250, Some(0), 4),
        (250, Some(130), 4),
        (250, Some(250), 3),
        // Because of the total, no empty page is requested.
        (200, Some(200), 2),
    ] {
        let gateway = Gateway::start(move |asked| repositories(&ids(count), asked, total)).await;
        let pages = all_pages(gateway.registry().repository_pages())
            .await
            .unwrap();
        let distinct: BTreeSet<i64> = pages
            .iter()
            .flatten()
            .map(|row| row.repository_id)
            .collect();
        assert_eq!(distinct.len() as u64, count, "{total:?}");
        assert_eq!(gateway.count(), requests, "{total:?}");
    }
}

#[tokio::test]
async fn a_catalog_that_shifts_is_read_again_and_the_pages_of_both_readings_are_returned() {
    // One repository is missing until the second reading.
    let gateway = Gateway::start(|asked| {
        let mut ids = ids(150);
        if asked.number < 3 {
            ids.remove(120);
        }
        repositories(&ids, asked, Some(150))
    })
    .await;
    let pages = all_pages(gateway.registry().repository_pages())
        .await
        .unwrap();
    let sizes: Vec<usize> = pages.iter().map(Vec::len).collect();
    assert_eq!(sizes, [100, 49, 0, 100, 50]);
    let offsets = gateway.asked_for(["offset"]).concat();
    assert_eq!(offsets, [0, 100, 200, 0, 100]);
}

#[tokio::test]
async fn a_catalog_that_stays_incomplete_is_read_three_times() {
    let gateway = Gateway::start(|asked| repositories(&ids(149), asked, Some(150))).await;
    let error = all_pages(gateway.registry().repository_pages())
        .await
        .unwrap_err();
    let words = "the catalog gives 149 of 150 repositories and does not settle";
    assert_ends_with(&error, words);
    assert_eq!(gateway.count(), 9);
}

#[tokio::test]
async fn a_catalog_that_repeats_one_page_ends() {
    let gateway = Gateway::start(|asked| {
        let first_page = Asked {
            query: HashMap::from([("limit".to_owned(), 100)]),
            ..asked.clone()
        };
        repositories(&ids(200), &first_page, Some(200))
    })
    .await;
    let error = all_pages(gateway.registry().repository_pages())
        .await
        .unwrap_err();
    assert!(
        matches!(error.failure, RequestFailure::EndlessListing { pages: 100 }),
        "{error}"
    );
    assert_contains(&error, "never end");
    assert_eq!(gateway.count(), 101);
}

#[tokio::test]
async fn instances_are_listed_once_even_if_their_pages_repeat() {
    let gateway = Gateway::start(|asked| {
        let rows = if asked.get("offset") > 0 { 0 } else { 2 };
        let rows = (0..rows).map(|id| json!({"id": format!("i{id}")}));
        // The third is listed from the second reading on.
        let last = (asked.number >= 2 && asked.get("offset") == 0).then(|| json!({"id": "i2"}));
        Reply::json(&json!({"instances": rows.chain(last).collect::<Vec<_>>(), "total": 3}))
    })
    .await;
    let instances = gateway.project_with(|_| {}).instances().await.unwrap();
    let ids: Vec<&str> = instances.iter().map(|row| &*row.swr_instance_id).collect();
    assert_eq!(ids, ["i0", "i1", "i2"]);
}

// --- pages that are too large

/// The rows of a page, some of which are padded.
fn heavy_page(rows: impl Iterator<Item = (u64, Value)>, heavy: fn(u64) -> usize) -> Vec<Value> {
    rows.map(|(id, mut row)| {
        row["padding"] = "x".repeat(heavy(id)).into();
        row
    })
    .collect()
}

#[tokio::test]
async fn an_artifact_page_that_is_too_large_is_requested_in_smaller_parts() {
    let gateway = Gateway::start(|asked| {
        let (marker, limit) = (asked.get("marker"), asked.get("limit"));
        let end = (marker + limit).min(601);
        let row = |id| {
            (
                id,
                json!({"id": id, "digest": format!("d{id}"), "repository_id": 1}),
            )
        };
        let is_heavy = |id| {
            if (201..=210).contains(&id) {
                1 << 20
            } else {
                10
            }
        };
        let mut page = json!({"artifacts": heavy_page((marker..end).map(row), is_heavy)});
        if end < 601 {
            page["next_marker"] = end.into();
        }
        Reply::json(&page)
    })
    .await;
    let mut pages = gateway.registry().artifact_pages();
    let mut ids = Vec::new();
    while let Some(page) = pages.next().await.unwrap() {
        ids.extend(page.rows.iter().map(|row| row.artifact_id));
    }
    assert_eq!(ids, (1..=600).collect::<Vec<i64>>());
    let asked = gateway.asked_for(["marker", "limit"]);
    let expected = [
        [1, 100],
        [101, 100],
        // 10 MiB in ten rows.
        [201, 100],
        [201, 50],
        [201, 25],
        [201, 5],
        [206, 25],
        [231, 50],
        [281, 100],
        [381, 100],
        [481, 100],
        [581, 100],
    ];
    assert_eq!(asked, expected);
}

#[tokio::test]
async fn a_catalog_page_that_is_too_large_is_requested_at_offsets_that_are_multiples_of_the_limit()
{
    let gateway = Gateway::start(|asked| {
        let (offset, limit) = (asked.get("offset"), asked.get("limit"));
        assert_eq!(offset % limit, 0, "{asked:?}");
        let end = (offset + limit).min(400);
        let is_heavy = |id| {
            if (101..=110).contains(&id) {
                1 << 20
            } else {
                10
            }
        };
        let rows = (offset + 1..=end).map(|id| (id, repository(id)));
        Reply::json(&json!({"repositories": heavy_page(rows, is_heavy), "total": 400}))
    })
    .await;
    let pages = all_pages(gateway.registry().repository_pages())
        .await
        .unwrap();
    let ids: Vec<i64> = pages
        .iter()
        .flatten()
        .map(|row| row.repository_id)
        .collect();
    assert_eq!(ids, (1..=400).collect::<Vec<i64>>());
    let asked = gateway.asked_for(["offset", "limit"]);
    let last = asked.last().unwrap();
    assert_eq!(last, &[300, 100], "{asked:?}");
}

#[tokio::test]
async fn an_artifact_that_is_too_large_on_its_own_ends_the_listing_with_its_size_and_marker() {
    let gateway = Gateway::start(|_| {
        let mut page = br#"{"artifacts":[{"id":1,"digest":"d1","repository_id":1,"x":""#.to_vec();
        page.resize(33 << 20, b'x');
        page.extend_from_slice(br#""}],"next_marker":2}"#);
        Reply::ok(page)
    })
    .await;
    let error = gateway
        .registry()
        .artifact_pages()
        .next()
        .await
        .unwrap_err();
    let text = error.to_string();
    assert_contains(&text, "artifacts?limit=1&marker=1: ");
    assert_contains(&text, "the page has 34603028 bytes; the limit is 33554432");
    let limits = gateway.asked_for(["limit"]).concat();
    assert_eq!(limits, [100, 50, 25, 5, 1]);
}

#[tokio::test]
async fn a_page_with_more_values_than_may_be_kept_is_requested_in_smaller_parts() {
    let gateway = Gateway::start(|asked| {
        let (marker, limit) = (asked.get("marker"), asked.get("limit"));
        let end = (marker + limit).min(101);
        // 10,000 numbers each, in 20 kB.
        let row = |id: u64| {
            json!({"id": id, "digest": format!("d{id}"), "repository_id": 1, "x": vec![0; 10_000]})
        };
        let mut page = json!({"artifacts": (marker..end).map(row).collect::<Vec<_>>()});
        if end < 101 {
            page["next_marker"] = end.into();
        }
        Reply::json(&page)
    })
    .await;
    let mut pages = gateway.registry().artifact_pages();
    let mut rows = Vec::new();
    while let Some(page) = pages.next().await.unwrap() {
        assert_eq!(page.issues, []);
        rows.extend(page.rows);
    }
    assert_eq!(rows.len(), 100);
    let is_whole = |value: &Value| value.as_array().is_some_and(|list| list.len() == 10_000);
    assert!(
        rows.iter()
            .all(|row| is_whole(&row.extra.as_ref().unwrap()["x"]))
    );
    let limits = gateway.asked_for(["limit"]).concat();
    assert_eq!(limits[..4], [100, 50, 25, 5]);
}

// --- markers

#[tokio::test]
async fn the_next_marker_is_found_under_each_of_its_names() {
    let names: [fn(u64) -> Value; 5] = [
        |marker| json!({"next_marker": marker}),
        |marker| json!({"next_marker": marker.to_string()}),
        |marker| json!({"nextMarker": marker}),
        |marker| json!({"page_info": {"next_marker": marker.to_string()}}),
        |marker| json!({"next_marker": null, "page_info": {"nextMarker": marker}}),
    ];
    for (named, last) in names.into_iter().zip(
        [json!({}), json!({"next_marker": null})]
            .into_iter()
            .cycle(),
    ) {
        let gateway = Gateway::start(move |asked| {
            let marker = asked.get("marker");
            let mut page = if marker < 201 {
                named(marker + 100)
            } else {
                last.clone()
            };
            let rows = marker..marker + 100;
            let row = |id| json!({"id": id, "digest": format!("d{id}"), "repository_id": 1});
            page["artifacts"] = rows.map(row).collect::<Vec<_>>().into();
            Reply::json(&page)
        })
        .await;
        let mut pages = gateway.registry().artifact_pages();
        let mut rows = 0;
        while let Some(page) = pages.next().await.unwrap() {
            rows += page.rows.len();
        }
        assert_eq!(rows, 300, "{}", named(1));
    }
}

// --- build histories

async fn history(registry: &Registry) -> FetchedHistory {
    let path = RepositoryPath {
        namespace: "team".into(),
        name: "app".into(),
    };
    registry.build_history(&path, "sha256:0").await.unwrap()
}

async fn unsupported(reply: Reply) -> String {
    let gateway = Gateway::start(move |_| reply.clone()).await;
    let fetched = history(&gateway.registry()).await;
    assert_eq!(gateway.count(), 1, "it is not requested again");
    match fetched.outcome {
        HistoryOutcome::Unsupported(Refusal {
            status: Some(200),
            code: None,
            message,
        }) => message,
        outcome => panic!("{outcome:?}"),
    }
}

fn entries(count: usize, entry: &str) -> Vec<u8> {
    format!(
        r#"{{"build_histories":[{}]}}"#,
        vec![entry; count].join(",")
    )
    .into()
}

#[tokio::test]
async fn a_build_history_of_more_than_8_mib_is_unsupported_with_its_size() {
    let large = format!(r#"{{"build_histories":[],"x":"{}"}}"#, "x".repeat(8 << 20));
    let message = unsupported(Reply::ok(large.clone())).await;
    let known = format!(
        "the build history has {} bytes; the limit is 8388608",
        large.len()
    );
    assert_eq!(message, known);
    let message = unsupported(Reply::gzip(large.as_bytes())).await;
    assert_eq!(message, "the build history has more than 8388608 bytes");
}

#[tokio::test]
async fn a_build_history_of_more_than_10000_entries_is_unsupported_with_their_number() {
    for count in [10_001, 2_000_000] {
        let message = unsupported(Reply::gzip(&entries(count, "{}"))).await;
        let expected = format!("the build history has {count} entries; the limit is 10000");
        assert_eq!(message, expected);
    }
    let gateway = Gateway::start(|_| Reply::ok(entries(10_000, "{}"))).await;
    match history(&gateway.registry()).await.outcome {
        HistoryOutcome::Stored(history) => assert_eq!(history.steps.len(), 10_000),
        outcome => panic!("{outcome:?}"),
    }
}

#[tokio::test]
async fn a_build_history_with_more_values_than_may_be_kept_is_unsupported() {
    for entry in [
        // Members, elements, and issues for names that occur twice.
        format!("{{{}}}", vec![r#""a":1"#; 200].join(",")),
        format!(r#"{{"x":[{}]}}"#, vec!["[]"; 200].join(",")),
        format!(
            r#"{{"a":{{{}}}}}"#,
            (0..200)
                .map(|n| format!(r#""{n}":1"#))
                .collect::<Vec<_>>()
                .join(",")
        ),
    ] {
        let message = unsupported(Reply::gzip(&entries(5_000, &entry))).await;
        assert_eq!(message, "the build history has more than 150000 values");
    }
}

#[tokio::test]
async fn only_the_beginning_of_an_error_is_read() {
    // The rest is never sent.
    let error = format!("<html>broken{}</html>", " ".repeat(100 << 10));
    let gateway = Gateway::start(move |_| Reply::new(500, error.clone()).unfinished()).await;
    let registry = gateway
        .project_with(|transport| transport.retry.max_attempts = 1)
        .registry("the-instance");
    match history(&registry).await.outcome {
        HistoryOutcome::Failed(refusal) => {
            assert_eq!(refusal.status, Some(500));
            assert_eq!(refusal.message, "broken");
        }
        outcome => panic!("{outcome:?}"),
    }
}

#[tokio::test]
async fn a_history_waits_until_those_before_it_are_stored_if_they_take_32_mib() {
    // Small bodies, of which each takes over a megabyte when it is decoded.
    check_held_until_stored(entries(10_000, "{}"), |weight_bytes| {
        (32 << 20) / weight_bytes.next_multiple_of(1 << 10)
    })
    .await;
}

#[tokio::test]
async fn a_history_beyond_256_kib_waits_until_the_one_before_it_is_stored() {
    let command = format!(r#"{{"created_by":"{}"}}"#, "x".repeat(1 << 20));
    check_held_until_stored(entries(1, &command), |_| 1).await;
}

/// Of 40 histories with this body, the number that arrives while none is stored is `expected` of the
/// memory for one. The others arrive when memory becomes free.
async fn check_held_until_stored(body: Vec<u8>, expected: impl Fn(usize) -> usize) {
    let gateway = Gateway::start(move |_| Reply::ok(body.clone())).await;
    let registry = gateway
        .project_with(|transport| {
            // Waiting for memory does not count as a failed attempt, or as part of one.
            transport.retry.max_attempts = 1;
            transport.request_timeout = Duration::from_secs(5);
        })
        .registry("the-instance");
    let mut asking: FuturesUnordered<_> = (0..40).map(|_| history(&registry)).collect();
    let first = asking.next().await.unwrap();
    let expected = expected(first.reservation.weight_bytes());
    let mut held = vec![first];
    while held.len() < expected {
        held.push(asking.next().await.unwrap());
    }
    // Longer than the timeout of a request.
    let one_more = tokio::time::timeout(Duration::from_secs(6), asking.next()).await;
    assert!(one_more.is_err(), "more than {expected} arrived");
    held.clear();
    let mut rest = 0;
    // Each is stored as it arrives.
    while let Some(fetched) = asking.next().await {
        assert!(matches!(fetched.outcome, HistoryOutcome::Stored(_)));
        rest += 1;
    }
    assert_eq!(expected + rest, 40);
}

#[tokio::test]
async fn a_history_holds_the_memory_that_it_takes_when_it_is_decoded() {
    // Each of them in 30 KiB or less.
    for (entry, at_least) in [
        ("{}", 1_500_000),
        // Kept as an issue, with the original.
        ("0", 2_500_000),
        (r#"{"x":[]}"#, 3_000_000),
    ] {
        let count = (10_000).min((30 << 10) / (entry.len() + 1));
        let body = entries(count, entry);
        let gateway = Gateway::start(move |_| Reply::ok(body.clone())).await;
        let fetched = history(&gateway.registry()).await;
        let weight = fetched.reservation.weight_bytes();
        let at_least = at_least / 10_000 * count;
        assert!(weight >= at_least, "{count} of {entry}: {weight}");
    }
    let large = format!(r#"{{"build_histories":[],"x":"{}"}}"#, "x".repeat(1 << 20));
    let gateway = Gateway::start(move |_| Reply::ok(large.clone())).await;
    let fetched = history(&gateway.registry()).await;
    assert!(matches!(fetched.outcome, HistoryOutcome::Empty(_)));
    assert!(fetched.reservation.weight_bytes() > 1 << 20);
}

#[tokio::test]
async fn only_a_400_in_the_words_of_the_service_is_final() {
    for (body, is_final) in cases! {
        r#"{"error_code":"SVCSTG.SWR.4000013","error_msg":"no image"}"# => true;
        r#"{"errors":[{"errorCode":"A","errorMessage":"no image"}]}"# => true;
        r#"{"error_code":"APIGW.0106","error_msg":"no such parameter"}"# => false;
        "<html><body>Bad Request</body></html>" => false;
        "{}" => false;
        "" => false;
    } {
        let gateway = Gateway::start(move |_| Reply::new(400, body)).await;
        match history(&gateway.registry()).await.outcome {
            HistoryOutcome::Unsupported(_) => assert!(is_final, "{body}"),
            HistoryOutcome::Failed(_) => assert!(!is_final, "{body}"),
            outcome => panic!("{outcome:?}"),
        }
    }
}

#[tokio::test]
async fn a_history_that_the_service_refuses_counts_as_let_through_by_the_gateway() {
    const REQUESTS: usize = 200;
    let gateway = Gateway::start(|asked| {
        let refusal = r#"{"error_code":"SVCSTG.SWR.1","error_msg":"no image"}"#;
        match asked.number {
            REQUESTS => Reply::new(429, "{}"),
            number => Reply::new([400, 404, 500][number % 3], refusal),
        }
    })
    .await;
    let registry = gateway
        .project_with(|transport| {
            transport.max_requests_per_second = Some(50.0);
            transport.retry.max_attempts = 1;
        })
        .registry("the-instance");
    let asking = (0..=REQUESTS).map(|_| history(&registry));
    futures_util::future::join_all(asking).await;
    let rate = registry.pace().requests_per_second;
    // 85 % of the answered requests; without these answers, half of the previous rate.
    assert!((35.0..=46.0).contains(&rate), "{rate}");
}

// --- broken answers

/// Broken answers with a success status.
fn broken() -> Vec<Reply> {
    vec![
        Reply::ok(""),
        Reply::ok("<html>Please log in</html>"),
        Reply::ok(r#"{"artifacts":[],"#),
        Reply::ok(r#"{"error_code":"SVCSTG.SWR.5000001","error_msg":"busy"}"#),
        Reply::ok(r#"{"errors":[{"errorCode":"A","errorMessage":"busy"}]}"#),
        right_answer("the-instance/artifacts").cut_short(),
    ]
}

fn right_answer(path: &str) -> Reply {
    let page = |name: &str| Reply::json(&json!({name: [], "total": 0}));
    match path {
        "the-instance" => Reply::json(&json!({"id": "the-instance", "name": "demo"})),
        "" => page("instances"),
        "the-instance/namespaces" => page("namespaces"),
        "the-instance/repositories" => page("repositories"),
        "the-instance/artifacts" => page("artifacts"),
        _ => Reply::ok(entries(1, "{}")),
    }
}

/// Makes each call once, and returns the number of attempts and the error.
async fn each_call(broken: &Reply, times: usize) -> Vec<(String, usize, Option<RegistryError>)> {
    let mut results = Vec::new();
    for call in [
        "instance",
        "instances",
        "namespaces",
        "repositories",
        "artifacts",
        "history",
    ] {
        let broken = broken.clone();
        let gateway = Gateway::start(move |asked| {
            let below = asked.path.clone();
            if asked.number < times {
                broken.clone()
            } else {
                right_answer(&below)
            }
        })
        .await;
        let registry = gateway.registry();
        let error = match call {
            "instance" => registry.instance().await.err(),
            "instances" => gateway.project_with(|_| {}).instances().await.err(),
            "namespaces" => all_pages(registry.namespace_pages()).await.err(),
            "repositories" => all_pages(registry.repository_pages()).await.err(),
            "artifacts" => registry.artifact_pages().next().await.err(),
            _ => match history(&registry).await.outcome {
                HistoryOutcome::Stored(_) => None,
                HistoryOutcome::Failed(refusal) => Some(RegistryError {
                    request: refusal.message,
                    attempts: gateway.count() as u32,
                    elapsed: Duration::ZERO,
                    failure: RequestFailure::Unwanted,
                }),
                outcome => panic!("{outcome:?}"),
            },
        };
        results.push((call.to_owned(), gateway.count(), error));
    }
    results
}

#[tokio::test]
async fn a_broken_answer_to_any_call_is_requested_again() {
    for broken in broken() {
        for (call, requests, error) in each_call(&broken, 2).await {
            assert!(error.is_none(), "{call}, {broken:?}: {error:?}");
            assert_eq!(requests, 3, "{call}, {broken:?}");
        }
    }
}

#[tokio::test]
async fn answers_that_stay_broken_fail_after_the_last_attempt() {
    for broken in broken() {
        for (call, requests, error) in each_call(&broken, 100).await {
            let error = error.unwrap();
            assert_eq!((requests, error.attempts), (3, 3), "{call}, {broken:?}");
        }
    }
}
