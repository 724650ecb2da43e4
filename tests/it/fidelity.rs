//! Nothing is altered silently: every received value is in the tables, or in `data_issue`.

mod generated;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use serde_json::json;
use swr_sync::clock::Clock;
use swr_sync::database::Database;
use swr_sync::registry::{Credentials, ProjectSettings, Registry, RetryPolicy, TransportSettings};
use swr_sync::run::RunReport;
use swr_sync::stop;
use swr_sync::sync::{Ending, HEARTBEAT, PATIENCE, Safeguards, SyncError, SyncSettings, sync};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::support::database::TestDatabase;
use super::support::wire::{listen, next_request};
use super::support::{assert_contains, assert_lacks, cases};

/// The answers of a registry, byte for byte.
#[derive(Debug, Clone)]
struct Answers {
    instance: Vec<u8>,
    namespaces: Vec<u8>,
    repositories: Vec<u8>,
    /// The pages of the artifact list; the marker of the n-th is n.
    artifacts: Vec<Vec<u8>>,
    /// By digest.
    histories: HashMap<String, Vec<u8>>,
}

impl Default for Answers {
    fn default() -> Answers {
        let namespace = json!({"namespace_id": 1, "name": "team"});
        let repository =
            json!({"id": 2, "name": "api", "namespace_name": "team", "namespace_id": 1});
        Answers {
            instance: br#"{"name":"demo","version":"25.6.0"}"#.to_vec(),
            namespaces: json!({"namespaces": [namespace], "total": 1})
                .to_string()
                .into(),
            repositories: json!({"repositories": [repository], "total": 1})
                .to_string()
                .into(),
            artifacts: vec![br#"{"artifacts":[]}"#.to_vec()],
            histories: HashMap::new(),
        }
    }
}

impl Answers {
    /// One page with these rows.
    fn with_rows(rows: &[&str]) -> Answers {
        Answers {
            artifacts: vec![format!(r#"{{"artifacts":[{}]}}"#, rows.join(",")).into()],
            ..Answers::default()
        }
    }

    /// One ordinary artifact with this build history.
    fn with_history(history: &[u8]) -> Answers {
        Answers {
            histories: HashMap::from([("d0".to_owned(), history.to_vec())]),
            ..Answers::with_rows(&[&row(5, "")])
        }
    }

    fn answer(&self, target: &str) -> &[u8] {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let segments: Vec<&str> = path.split('/').skip(5).collect();
        match &segments[..] {
            [] => &self.instance,
            ["namespaces"] => &self.namespaces,
            ["repositories"] => &self.repositories,
            ["artifacts"] => {
                let marker = query
                    .split('&')
                    .find_map(|pair| pair.strip_prefix("marker="));
                &self.artifacts[marker.unwrap().parse::<usize>().unwrap() - 1]
            }
            [.., digest, "additions", "build_history"] => {
                let digest = percent_decode_str(digest).decode_utf8().unwrap();
                let history = self.histories.get(&*digest);
                history.map_or(br#"{"build_histories":null}"#, Vec::as_slice)
            }
            _ => panic!("{target}"),
        }
    }
}

/// An ordinary row of an artifact with the fields in `more`, which begins with a comma.
fn row(id: i64, more: &str) -> String {
    format!(r#"{{"id":{id},"digest":"d0","repository_id":2{more}}}"#)
}

/// A registry that serves these answers without authentication, and a database.
struct Mirror {
    answers: Arc<Mutex<Answers>>,
    endpoint: String,
    database: TestDatabase,
}

impl Mirror {
    async fn new(answers: Answers) -> Mirror {
        let answers = Arc::new(Mutex::new(answers));
        let state = Arc::clone(&answers);
        let address = listen(move |stream| serve(stream, Arc::clone(&state))).await;
        let endpoint = format!("http://{address}");
        Mirror {
            answers,
            endpoint,
            database: TestDatabase::create().await,
        }
    }

    fn set(&self, answers: Answers) {
        *self.answers.lock().unwrap() = answers;
    }

    async fn sync(&self) -> RunReport {
        self.try_sync("the-instance").await.unwrap()
    }

    async fn try_sync(&self, instance_id: &str) -> Result<RunReport, SyncError> {
        let clock = Clock::system();
        let project = ProjectSettings {
            endpoint: self.endpoint.parse().unwrap(),
            project_id: "project".to_owned(),
            credentials: Credentials::Token(SecretString::from("token")),
            transport: TransportSettings {
                retry: RetryPolicy {
                    max_attempts: 1,
                    ..RetryPolicy::default()
                },
                max_in_flight: 8,
                max_requests_per_second: None,
                ..TransportSettings::default()
            },
            redact_commands: false,
            clock: clock.clone(),
        };
        let registry = Registry::new(project, instance_id).unwrap();
        let settings = SyncSettings {
            swr_instance_id: instance_id.to_owned(),
            project_id: "project".to_owned(),
            endpoint: self.endpoint.clone(),
            region: None,
            ending: Ending::Publish,
            // Each case is a separate instance, and all have the same name.
            safeguards: Safeguards {
                accept_new_instance: true,
                ..Safeguards::default()
            },
            lock_timeout: Some(Duration::ZERO),
            patience: PATIENCE,
            heartbeat: HEARTBEAT,
            host: "test-host".to_owned(),
            clock,
        };
        let database = Database::from_url(self.database.url()).unwrap();
        let (_stopper, stop) = stop::channel();
        sync(&registry, &database, &settings, &Arc::default(), &stop).await
    }

    async fn check(&self, sql: &str, expected: &[&str]) {
        let snapshot = self.database.snapshot(sql).await;
        let rows: Vec<&str> = snapshot.lines().collect();
        assert_eq!(rows, expected, "{sql}");
    }

    /// The recorded alterations.
    async fn check_issues(&self, expected: &[&str]) {
        let issues = "select table_name, row_key, field, action, original from swr.data_issue order by 1, 2, 3, 4";
        self.check(issues, expected).await;
    }
}

async fn serve(mut stream: TcpStream, answers: Arc<Mutex<Answers>>) {
    while let Some(request) = next_request(&mut stream).await {
        let body = answers.lock().unwrap().answer(request.target()).to_vec();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let answer = [head.as_bytes(), &body].concat();
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

const ARTIFACT: &str = "select artifact_id, size_bytes, extra from swr.artifact order by 1";

#[tokio::test(flavor = "multi_thread")]
async fn broken_unicode_is_replaced_where_it_stands_and_nowhere_else() {
    let rows = [
        row(1, r#","type":"a\ud800b","media_type":"\ud83d\ude00""#),
        row(
            2,
            r#","nested":{"k\u0000":["\udc00\ud83d\ude00"]},"\ud800":1"#,
        ),
        row(3, r#","type":"a\u0000\ud800b""#),
    ];
    let mut page = format!(r#"{{"artifacts":[{},"#, rows.join(",")).into_bytes();
    page.extend_from_slice(b"\n");
    page.extend_from_slice(br#"{"id":4,"digest":"d0","repository_id":2,"type":"a"#);
    page.extend_from_slice(b"\xff\xe2\x82");
    page.extend_from_slice("é\u{fffd}\"}]}".as_bytes());
    let answers = Answers {
        artifacts: vec![[b"\xef\xbb\xbf", page.as_slice()].concat()],
        ..Answers::default()
    };
    let mirror = Mirror::new(answers).await;
    mirror.sync().await;
    mirror
        .check(
            "select artifact_id, type, media_type, extra from swr.artifact order by 1",
            &[
                "1 | a\u{fffd}b | 😀 | NULL",
                "2 | NULL | NULL | {\"\u{fffd}\": 1, \"nested\": {\"k\u{fffd}\": [\"\u{fffd}😀\"]}}",
                "3 | a\u{fffd}\u{fffd}b | NULL | NULL",
                "4 | a\u{fffd}\u{fffd}é\u{fffd} | NULL | NULL",
            ],
        )
        .await;
    mirror
        .check_issues(&[
            r#"artifact | 1 | type | replaced invalid Unicode by U+FFFD | "\"a\\ud800b\"""#,
            r#"artifact | 2 | nested | replaced NUL by U+FFFD | "{\"k\\u0000\":[\"\\udc00\\ud83d\\ude00\"]}""#,
            r#"artifact | 2 | nested | replaced invalid Unicode by U+FFFD | "{\"k\\u0000\":[\"\\udc00\\ud83d\\ude00\"]}""#,
            "artifact | 2 | \u{fffd} | replaced invalid Unicode by U+FFFD | \"\\\"\\\\ud800\\\"\"",
            r#"artifact | 3 | type | replaced NUL by U+FFFD | "\"a\\u0000\\ud800b\"""#,
            r#"artifact | 3 | type | replaced invalid Unicode by U+FFFD | "\"a\\u0000\\ud800b\"""#,
            "artifact | 4 | type | replaced invalid Unicode by U+FFFD | \"\\\"a\\\\xff\\\\xe2\\\\x82é\u{fffd}\\\"\"",
        ])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_keep_every_digit() {
    let mirror = Mirror::new(Answers::with_rows(&[
        &row(
            1,
            r#","n":[12345678901234567890123,0.1000000000000000055,1e400,-0.0,1.10]"#,
        ),
        &row(2, r#","n":1e20000"#),
        &row(3, r#","size":1e3,"namespace_id":"5""#),
        &row(4, r#","size":1500.0e-1"#),
        &row(5, r#","size":-9223372036854775808"#),
        &row(6, r#","size":9223372036854775808"#),
        &row(7, r#","size":1e999999999999999999999"#),
        &row(8, r#","size":0.5,"namespace_id":"05""#),
        &row(9007199254740993, r#","size":0e-999999999999999999999"#),
        &row(9223372036854775807, r#","size":1e-400"#),
        &row(-1, ""),
    ]))
    .await;
    mirror.sync().await;
    let digits = format!("1{}", "0".repeat(400));
    let extra = format!(
        r#"{{"n": [12345678901234567890123, 0.1000000000000000055, {digits}, 0.0, 1.10]}}"#
    );
    mirror
        .check(
            "select artifact_id, size_bytes, namespace_id, extra from swr.artifact order by 1",
            &[
                "-1 | NULL | NULL | NULL",
                &format!("1 | NULL | NULL | {extra}"),
                r#"2 | NULL | NULL | {"n": "1e20000"}"#,
                "3 | 1000 | 5 | NULL",
                "4 | 150 | NULL | NULL",
                "5 | -9223372036854775808 | NULL | NULL",
                "6 | NULL | NULL | NULL",
                "7 | NULL | NULL | NULL",
                "8 | NULL | NULL | NULL",
                "9007199254740993 | 0 | NULL | NULL",
                "9223372036854775807 | NULL | NULL | NULL",
            ],
        )
        .await;
    mirror
        .check_issues(&[
            r#"artifact | 2 | n | beyond jsonb, stored as the text of its JSON | "1e20000""#,
            "artifact | 6 | size | out of range, stored as NULL | 9223372036854775808",
            r#"artifact | 7 | size | out of range, stored as NULL | "1e999999999999999999999""#,
            r#"artifact | 8 | namespace_id | wrong type, stored as NULL | "05""#,
            "artifact | 8 | size | wrong type, stored as NULL | 0.5",
            &format!(
                "artifact | 9223372036854775807 | size | wrong type, stored as NULL | 0.{}1",
                "0".repeat(399)
            ),
        ])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_a_date_is_kept_or_recorded() {
    let forms = [
        "2024-01-02T03:04:05Z",
        "2024-01-02T03:04:05.123456Z",
        "2024-01-02T03:04:05.1234567Z",
        "2024-01-02T03:04:05.123456000000Z",
        "2024-01-02T03:04:05.1234560000001+02:00",
        "2024-01-02t03:04:05z",
        "2024-01-02 03:04:05+11:00",
        "0001-01-01T00:00:00.000Z",
        "0001-01-01T00:00:00.000001Z",
        "0000-12-31T23:00:00Z",
        "9999-12-31T23:59:59.999999Z",
        "2016-12-31T23:59:60Z",
        "1969-12-31T23:59:59.9999999Z",
        "2024-01-02T03:04:05",
        "2024-02-30T00:00:00Z",
        "12345-01-01T00:00:00Z",
        "",
        "\u{0}",
    ];
    let rows: Vec<String> = (1..)
        .zip(forms)
        .map(|(id, form)| row(id, &format!(r#","push_time":{}"#, json!(form))))
        .collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let mirror = Mirror::new(Answers::with_rows(&rows)).await;
    mirror.sync().await;
    mirror
        .check(
            "select artifact_id, pushed_at from swr.artifact order by 1",
            &[
                "1 | 2024-01-02 03:04:05+00",
                "2 | 2024-01-02 03:04:05.123456+00",
                "3 | 2024-01-02 03:04:05.123456+00",
                "4 | 2024-01-02 03:04:05.123456+00",
                "5 | 2024-01-02 01:04:05.123456+00",
                "6 | 2024-01-02 03:04:05+00",
                "7 | 2024-01-01 16:04:05+00",
                "8 | NULL",
                "9 | 0001-01-01 00:00:00.000001+00",
                "10 | 0001-12-31 23:00:00+00 BC",
                "11 | 9999-12-31 23:59:59.999999+00",
                "12 | 2017-01-01 00:00:00+00",
                "13 | 1969-12-31 23:59:59.999999+00",
                "14 | NULL",
                "15 | NULL",
                "16 | NULL",
                "17 | NULL",
                "18 | NULL",
            ],
        )
        .await;
    mirror
        .check(
            "select row_key, action, original from swr.data_issue order by row_key::integer",
            &[
                r#"3 | more decimals than are kept, cut | "2024-01-02T03:04:05.1234567Z""#,
                r#"5 | more decimals than are kept, cut | "2024-01-02T03:04:05.1234560000001+02:00""#,
                r#"12 | leap second, stored as the second after it | "2016-12-31T23:59:60Z""#,
                r#"13 | more decimals than are kept, cut | "1969-12-31T23:59:59.9999999Z""#,
                r#"14 | wrong type, stored as NULL | "2024-01-02T03:04:05""#,
                r#"15 | wrong type, stored as NULL | "2024-02-30T00:00:00Z""#,
                r#"16 | wrong type, stored as NULL | "12345-01-01T00:00:00Z""#,
                r#"18 | wrong type, stored as NULL | "\"\\u0000\"""#,
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_stored_is_not_taken_for_removed() {
    let tagged = |id: i64, name: &str| row(id, &format!(r#","tags":[{{"name":"{name}"}}]"#));
    let good = [
        tagged(1, "a"),
        tagged(2, "b"),
        tagged(3, "c"),
        tagged(4, "d"),
    ];
    let good: Vec<&str> = good.iter().map(String::as_str).collect();
    let mirror = Mirror::new(Answers::with_rows(&good)).await;
    mirror.sync().await;
    let present = "select a.artifact_id, t.name, h.valid_to is null
                   from swr.artifact a
                   left join swr.tag t using (instance_id, artifact_id)
                   left join swr.tag_history h using (instance_id, artifact_id)
                   where removed_at is null order by 1";

    // An id beyond bigint was never stored. The other ids are 1 to 3, so only 4 is removed.
    mirror.set(Answers::with_rows(&[
        r#"{"id":"1","repository_id":2}"#,
        &row(2, r#","tags":{"name":"b"}"#),
        &row(3, r#","tags":[{"name":7}]"#),
        r#"{"id":18446744073709551616,"digest":"d0","repository_id":2}"#,
    ]));
    let report = mirror.sync().await;
    assert_eq!(report.counters.artifacts_removed, 1);
    mirror
        .check(present, &["1 | a | t", "2 | b | t", "3 | c | t"])
        .await;
    mirror
        .check_issues(&[
            r#"artifact | 1 |  | row without a key, not stored | {"id": "1", "repository_id": 2}"#,
            r#"artifact | 18446744073709551616 |  | row without a key, not stored | {"id": 18446744073709551616, "digest": "d0", "repository_id": 2}"#,
            r#"artifact | 2 | tags | wrong type, stored as NULL | {"name": "b"}"#,
            r#"tag | artifact 3 |  | row without a key, not stored | {"name": 7}"#,
        ])
        .await;

    // A row without a readable id could be any row.
    for nameless in [
        r#"{"digest":"d0","repository_id":2}"#,
        r#"{"id":[1]}"#,
        "null",
        "[]",
    ] {
        mirror.set(Answers::with_rows(&[nameless]));
        assert_eq!(
            mirror.sync().await.counters.artifacts_removed,
            0,
            "{nameless}"
        );
        mirror
            .check(present, &["1 | a | t", "2 | b | t", "3 | c | t"])
            .await;
    }

    mirror.set(Answers::with_rows(&[]));
    assert_eq!(mirror.sync().await.counters.artifacts_removed, 3);
    mirror.check(present, &[]).await;
    mirror
        .check(
            "select count(*) from swr.tag_history where valid_to is null",
            &["0"],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn catalog_rows_that_cannot_be_stored_are_not_taken_for_removed() {
    let mirror = Mirror::new(Answers::default()).await;
    mirror.sync().await;
    let removed = "select (select count(removed_at) from swr.namespace), (select count(removed_at) from swr.repository)";
    for (namespace, repository, expected) in cases! {
        r#"{"namespace_id":1}"#, r#"{"id":2,"name":null}"# => "0 | 0";
        r#"{"name":"team"}"#, "7" => "0 | 0";
        r#"{"namespace_id":9,"name":"other"}"#, r#"{"id":9,"name":"other","namespace_name":"other"}"# => "1 | 1";
    } {
        mirror.set(Answers {
            namespaces: format!(r#"{{"namespaces":[{namespace}],"total":1}}"#).into(),
            repositories: format!(r#"{{"repositories":[{repository}],"total":1}}"#).into(),
            ..Answers::default()
        });
        mirror.sync().await;
        mirror.check(removed, &[expected]).await;
    }
}

/// Counts are stored unchanged, so code that adds or subtracts them must not overflow.
#[tokio::test(flavor = "multi_thread")]
async fn no_count_of_the_catalog_stops_a_run() {
    let counting = |counts: [i64; 2], rows: &[&str]| {
        let [first, second] = counts;
        let repositories = json!({
            "repositories": [
                {"id": 2, "name": "api", "namespace_name": "team", "artifact_count": first},
                {"id": 3, "name": "web", "namespace_name": "team", "artifact_count": second},
            ],
            "total": 2,
        });
        Answers {
            repositories: repositories.to_string().into(),
            ..Answers::with_rows(rows)
        }
    };
    let listed = "select count(*) from swr.artifact where removed_at is null";
    let (both, one) = ([row(5, ""), row(6, "")], [row(5, "")]);
    let (both, one) = (both.each_ref().map(|r| &**r), one.each_ref().map(|r| &**r));
    for (before, after) in [(i64::MAX, i64::MIN), (i64::MIN, i64::MAX)] {
        let mirror = Mirror::new(counting([before; 2], &both)).await;
        mirror.sync().await;
        mirror.check(listed, &["2"]).await;
        mirror.set(counting([after; 2], &one));
        mirror.sync().await;
        mirror.check(listed, &["1"]).await;
    }
}

/// If the list has no namespace for an artifact, the namespace is that of its repository.
#[tokio::test(flavor = "multi_thread")]
async fn the_storage_of_a_repository_moves_with_it_to_another_namespace() {
    let history = json!({"build_histories": [{"created_by": "COPY", "digest": "b1", "size": 100}]});
    let of_namespace = |id: i64| {
        let namespaces = json!({
            "namespaces": [{"namespace_id": 1, "name": "one"}, {"namespace_id": 7, "name": "two"}],
            "total": 2,
        });
        let repository =
            json!({"id": 2, "name": "api", "namespace_name": "any", "namespace_id": id});
        let repositories = json!({"repositories": [repository], "total": 1});
        Answers {
            namespaces: namespaces.to_string().into(),
            repositories: repositories.to_string().into(),
            ..Answers::with_history(history.to_string().as_bytes())
        }
    };
    let mirror = Mirror::new(of_namespace(1)).await;
    mirror.sync().await;
    let storage = "select namespace, artifacts, layer_bytes, exclusive_bytes from swr_report.storage_by_namespace";
    mirror.check(storage, &["one | 1 | 100 | 100"]).await;
    mirror.set(of_namespace(7));
    mirror.sync().await;
    mirror.check(storage, &["two | 1 | 100 | 100"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_no_index_can_hold_are_left_out_and_recorded() {
    // So random that compression does not make them small enough.
    let long: String = (0_u32..3000)
        .map(|n| char::from(b'a' + (n.wrapping_mul(2_654_435_761) >> 24) as u8 % 26))
        .collect();
    let mirror = Mirror::new(Answers::with_rows(&[
        &format!(r#"{{"id":1,"digest":"{long}","repository_id":2}}"#),
        &row(
            2,
            &format!(
                r#","tags":[{{"name":"{long}"}},{{"name":"{}"}}]"#,
                &long[..1000]
            ),
        ),
        r#"{"id":3,"digest":"","repository_id":2}"#,
        r#"{"id":4,"digest":"SHA512:ABC","repository_id":2}"#,
    ]))
    .await;
    mirror.sync().await;
    mirror
        .check(
            "select artifact_id, digest, length(name) from swr.artifact left join swr.tag using (artifact_id) order by 1",
            &["2 | d0 | 1000", "4 | SHA512:ABC | NULL"],
        )
        .await;
    mirror
        .check(
            "select table_name, row_key, action, length(original::text) from swr.data_issue order by 1, 2",
            &[
                "artifact | 1 | row without a key, not stored | 3043",
                "artifact | 3 | row without a key, not stored | 43",
                "tag | artifact 2 | row without a key, not stored | 3012",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_deep_or_too_large_for_jsonb_is_kept_as_text() {
    let deep = format!("{}1{}", "[".repeat(50_000), "]".repeat(50_000));
    let allowed = format!("{}1{}", r#"{"a":"#.repeat(64), "}".repeat(64));
    let large = format!("[1{}]", ",1".repeat(9_000_000));
    let fits = format!("[1{}]", ",1".repeat(100_000));
    let longer = format!("[1{}]", ",1".repeat(150_000));
    let command = "x\\n".repeat(2_000_000);
    let mirror = Mirror::new(Answers {
        histories: HashMap::from([(
            "d0".to_owned(),
            format!(
                r#"{{"build_histories":[{{"created_by":"{command}","x":{longer}}}],"y":{longer}}}"#
            )
            .into(),
        )]),
        ..Answers::with_rows(&[
            &row(1, &format!(r#","deep":{deep}"#)),
            &row(2, &format!(r#","allowed":{allowed}"#)),
            &row(3, &format!(r#","large":{large},"small":true"#)),
            &row(4, &format!(r#","fits":{fits},"longer":{longer}"#)),
        ])
    })
    .await;
    mirror.sync().await;
    mirror
        .check(
            "select artifact_id, k.key, jsonb_typeof(k.value), length(k.value #>> '{}')
             from swr.artifact, jsonb_each(extra) k order by 1, 2",
            &[
                "1 | deep | string | 100001",
                "2 | allowed | object | 449",
                "3 | large | string | 18000003",
                "3 | small | boolean | 4",
                "4 | fits | array | 300003",
                "4 | longer | string | 300003",
            ],
        )
        .await;
    mirror
        .check(
            "select row_key, field, action, length(original #>> '{}') from swr.data_issue order by 1",
            &[
                "1 | deep | beyond jsonb, stored as the text of its JSON | 100001",
                "3 | large | beyond jsonb, stored as the text of its JSON | 18000003",
                "4 | longer | beyond jsonb, stored as the text of its JSON | 300003",
                "d0 | y | beyond jsonb, stored as the text of its JSON | 300003",
                "d0 1 | x | beyond jsonb, stored as the text of its JSON | 300003",
            ],
        )
        .await;
    mirror
        .check(
            "select length(s.extra ->> 'x'), length(m.extra ->> 'y') from swr.build_step s, swr.manifest m",
            &["300003 | 300003"],
        )
        .await;
    mirror
        .check("select length(command) from swr.command", &["4000000"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_field_or_tag_given_twice_the_last_counts_and_the_other_is_recorded() {
    let mirror = Mirror::new(Answers::with_rows(&[
        &row(1, r#","size":1,"size":2,"x":{"a":1,"a":2},"k\u0000":1,"k\ufffd":2"#),
        &row(2, r#","tags":[{"name":"t","id":1},{"name":"t","id":2},{"name":"u"},{"name":"u"}]"#),
        // Names that serde_json uses internally for numbers and raw text; here they are data.
        &row(3, r#","n":{"$serde_json::private::Number":"x"},"r":{"$serde_json::private::RawValue":"1"}"#),
    ]))
    .await;
    mirror.sync().await;
    mirror
        .check(
            ARTIFACT,
            &[
                "1 | 2 | {\"x\": {\"a\": 2}, \"k\u{fffd}\": 2}",
                "2 | NULL | NULL",
                r#"3 | NULL | {"n": {"$serde_json::private::Number": "x"}, "r": {"$serde_json::private::RawValue": "1"}}"#,
            ],
        )
        .await;
    mirror
        .check(
            "select name, tag_id from swr.tag order by 1",
            &["t | 2", "u | NULL"],
        )
        .await;
    mirror
        .check_issues(&[
            "artifact | 1 | k\u{fffd} | given more than once, the last one counts | 1",
            "artifact | 1 | k\u{fffd} | replaced NUL by U+FFFD | \"\\\"k\\\\u0000\\\"\"",
            "artifact | 1 | size | given more than once, the last one counts | 1",
            r#"artifact | 1 | x | given more than once, the last one counts | "{\"a\":1,\"a\":2}""#,
            r#"tag | artifact 2 | tags | given more than once, the last one counts | {"id": 1, "name": "t"}"#,
        ])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_build_steps_keep_their_place() {
    let history = br#"{"total":"7","build_histories":[
        {"created":"2024-01-02T03:04:05.123456789Z","created_at":"2020-01-01T00:00:00Z","empty_layer":"true"},
        {"created":"soon","created_at":"1970-01-01T00:00:00.0000000011Z","created_by":7},
        null,
        {"created":"0001-01-01T00:00:00Z","empty_layer":true,"digest":"l1","size":18446744073709551615},
        {"empty_layer":1,"digest":"","mediaType":"","size":0,"comment":"c"},
        {"digest":null,"mediaType":"m","size":5},
        "text"
    ]}"#;
    let mirror = Mirror::new(Answers::with_history(history)).await;
    mirror.sync().await;
    mirror
        .check(
            "select position, created_at, created_at_ns, command, empty_layer, layer_digest, layer_size_bytes,
                    layer_media_type, extra
             from swr_report.build_history order by 1",
            &[
                r#"1 | 2024-01-02 03:04:05.123456+00 | 789 | NULL | t | NULL | NULL | NULL | {"created_at": "2020-01-01T00:00:00Z"}"#,
                "2 | 1970-01-01 00:00:00+00 | 1 | NULL | f | NULL | NULL | NULL | NULL",
                "3 | NULL | NULL | NULL | f | NULL | NULL | NULL | NULL",
                "4 | 0001-01-01 00:00:00+00 | 0 | NULL | t | l1 | NULL | NULL | NULL",
                r#"5 | NULL | NULL | NULL | f | NULL | NULL | NULL | {"comment": "c"}"#,
                r#"6 | NULL | NULL | NULL | f | NULL | NULL | NULL | {"size": 5, "mediaType": "m"}"#,
                "7 | NULL | NULL | NULL | f | NULL | NULL | NULL | NULL",
            ],
        )
        .await;
    mirror
        .check_issues(&[
            r#"build_step | d0 2 | created | wrong type, stored as NULL | "soon""#,
            r#"build_step | d0 2 | created_at | more decimals than are kept, cut | "1970-01-01T00:00:00.0000000011Z""#,
            "build_step | d0 2 | created_by | wrong type, stored as NULL | 7",
            "build_step | d0 3 |  | wrong type, stored as NULL | null",
            "build_step | d0 4 | size | out of range, stored as NULL | 18446744073709551615",
            "build_step | d0 5 | empty_layer | not a boolean, stored as false | 1",
            r#"build_step | d0 7 |  | wrong type, stored as NULL | "text""#,
        ])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_registry_with_issues_writes_no_row_and_another_instance_gets_its_own() {
    let mirror = Mirror::new(Answers {
        instance: br#"{"name":"de\u0000mo","version":26}"#.to_vec(),
        artifacts: vec![format!(r#"{{"artifacts":[{}]}}"#, row(1, r#","size":"many""#)).into()],
        ..Answers::with_history(br#"{"total":"x","build_histories":[{"created_by":"\u0000"}]}"#)
    })
    .await;
    assert_eq!(mirror.sync().await.counters.data_issues, 5);
    let report = mirror.sync().await;
    assert_eq!(report.counters.data_issues, 0);
    assert_eq!(report.counters.rows_written, 0);

    let report = mirror.try_sync("the-other-instance").await.unwrap();
    assert_eq!(report.counters.histories_reused, 1);
    assert_eq!(report.counters.data_issues, 5);
    let issues = "select swr_instance_id, table_name, row_key, field, action, original
                  from swr.data_issue join swr.instance using (instance_id)
                  where swr_instance_id = '{}' order by 1, 2, 3, 4";
    let of = async |name: &str| mirror.database.snapshot(&issues.replace("{}", name)).await;
    let expected = r#"the-instance | artifact | 1 | size | wrong type, stored as NULL | "many"
the-instance | build_step | d0 1 | created_by | replaced NUL by U+FFFD | "\"\\u0000\""
the-instance | instance |  | name | replaced NUL by U+FFFD | "\"de\\u0000mo\""
the-instance | instance |  | version | wrong type, stored as NULL | 26
the-instance | manifest | d0 | total | wrong type, stored as NULL | "x""#;
    assert_eq!(of("the-instance").await, expected);
    let other = expected.replace("the-instance", "the-other-instance");
    assert_eq!(of("the-other-instance").await, other);
    mirror
        .check(
            "select distinct name, version from swr.instance",
            &["de\u{fffd}mo | NULL"],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_at_all_stops_the_run_and_is_not_quoted() {
    let mirror = Mirror::new(Answers::default()).await;
    for (page, reason) in cases! {
        &br#""s3cret""#[..] => "the answer is not a JSON object";
        b"[1]" => "the answer is not a JSON object";
        b"" => "the answer is not JSON: EOF while parsing a value at line 1 column 0";
        br#"{"artifacts":[{"s3cret":tru}]}"# => "the answer is not JSON: expected ident at line 1 column 28";
        br#"{"artifacts":["s3cret"# => "the answer is not JSON: EOF while parsing a string at line 1 column 21";
        b"{\"artifacts\":[\xff]}" => "the answer is not JSON: expected value at line 1 column 15";
        br#"{"artifacts":[]}{"s3cret":1}"# => "the answer is not JSON: trailing characters at line 1 column 17";
        br#"{"s3cret":1}"# => "the answer has no artifacts";
        br#"{"artifacts":{"s3cret":1}}"# => "artifacts is not a list";
        br#"{"artifacts":[],"artifacts":["s3cret"]}"# => "the answer gives artifacts twice";
        br#"{"artifacts":[],"next_marker":5,"next_marker":null}"# => "the answer gives next_marker twice";
        br#"{"artifacts":[],"next_marker":1e30}"# => "next_marker is not a number of 64 bits";
        br#"{"artifacts":[],"next_marker":{"s3cret":1}}"# => "next_marker is not a number of 64 bits";
    } {
        mirror.set(Answers {
            artifacts: vec![page.to_vec()],
            ..Answers::default()
        });
        let error = mirror
            .try_sync("the-instance")
            .await
            .unwrap_err()
            .to_string();
        assert_contains(&error, format!("unreadable answer: {reason}"));
        assert_lacks(&error, "s3cret");
    }
    mirror
        .check(
            "select count(*) from swr.sync_run where error like '%s3cret%'",
            &["0"],
        )
        .await;
}
