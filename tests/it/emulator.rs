//! The emulated SWR API over a real socket: its checks, its paging, its oddities, and the changes of its
//! world.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use swr_emulator::{
    ArtifactSpec, Authentication, BuildTime, Clock, Credentials, Dialect, Digest, Emulator,
    EmulatorSettings, LastMarker, Load, ManifestKind, NextMarker, RequestKind, SlowTail, Throttle,
    World,
};
use swr_sync::registry::signature::{RequestToSign, SigningKey, sign};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::Instant;

use crate::support::cases;

fn now() -> DateTime<Utc> {
    "2025-12-01T03:04:05Z".parse().unwrap()
}

fn settings() -> EmulatorSettings {
    EmulatorSettings {
        clock: Clock::manual(now()),
        ..EmulatorSettings::default()
    }
}

fn open() -> EmulatorSettings {
    EmulatorSettings {
        authentication: Authentication::Off,
        ..settings()
    }
}

async fn start(settings: EmulatorSettings, world: World) -> Emulator {
    Emulator::start(settings, world).await.unwrap()
}

/// One repository `team/app/api` with this many images.
fn world_of(images: usize) -> World {
    let mut world = World::empty(now());
    let repository = world.add_repository("team", "app/api");
    for _ in 0..images {
        world.push(repository).unwrap();
    }
    world
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    /// Status and error code, which determine the client's reaction.
    fn error(&self) -> (u16, &str) {
        (
            self.status,
            self.body["error_code"].as_str().unwrap_or_default(),
        )
    }
}

/// A client of the emulator. Keeps its connections.
struct Client<'a> {
    emulator: &'a Emulator,
    http: reqwest::Client,
}

impl<'a> Client<'a> {
    fn new(emulator: &'a Emulator) -> Client<'a> {
        Client {
            emulator,
            http: http_client(),
        }
    }

    /// Sends a request for the part of the path after the instance's id.
    async fn get(&self, below: &str) -> Answer {
        self.get_with(below, &[]).await
    }

    async fn get_with(&self, below: &str, headers: &[(&str, &str)]) -> Answer {
        let EmulatorSettings {
            project_id,
            instance_id,
            ..
        } = self.emulator.settings();
        let endpoint = self.emulator.endpoint();
        let url = format!("{endpoint}/v2/{project_id}/instances/{instance_id}{below}");
        let mut request = self.http.get(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(request).await
    }

    /// Signs with the emulator's key, or with another secret.
    async fn get_signed(&self, below: &str, secret_key: &str, at: DateTime<Utc>) -> Answer {
        let EmulatorSettings {
            project_id,
            instance_id,
            credentials,
            ..
        } = self.emulator.settings();
        let (path, query) = below.split_once('?').unwrap_or((below, ""));
        let query: Vec<(&str, &str)> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .collect();
        let host = self.emulator.endpoint().replace("http://", "");
        let signed = sign(
            &RequestToSign {
                method: "GET",
                path: &format!("/v2/{project_id}/instances/{instance_id}{path}"),
                query: &query,
                headers: &[("host", &host), ("x-project-id", project_id)],
                body: b"",
            },
            &SigningKey {
                access_key: credentials.access_key.clone(),
                secret_key: secret_key.into(),
                security_token: credentials.security_token.clone(),
            },
            at,
        );
        let mut headers: Vec<(&str, &str)> = signed.iter().collect();
        headers.push(("x-project-id", project_id));
        self.get_with(below, &headers).await
    }

    /// Every row of the artifact list, page by page.
    async fn artifacts(&self) -> Vec<Value> {
        let mut rows = Vec::new();
        let mut marker = json!(1);
        loop {
            let page = self
                .get(&format!("/artifacts?marker={marker}&limit=100"))
                .await;
            assert_eq!(page.status, 200);
            rows.extend(page.body["artifacts"].as_array().unwrap().iter().cloned());
            match page.body.get("next_marker") {
                Some(next) => marker = next.clone(),
                None => return rows,
            }
        }
    }

    async fn history(&self, namespace: &str, name: &str, digest: &str) -> Answer {
        let name = name.replace('/', "%252F");
        self.get(&format!(
            "/namespaces/{namespace}/repositories/{name}/artifacts/{digest}/additions/build_history"
        ))
        .await
    }

    /// The whole registry as it appears to a client: rows, and histories by digest.
    async fn everything(&self) -> (Vec<Value>, BTreeMap<String, (u16, Value)>) {
        let rows = self.artifacts().await;
        let mut histories = BTreeMap::new();
        for row in &rows {
            let id = row["id"].as_i64().unwrap();
            let (namespace, name) = self.emulator.with_world(|world| names(world, id));
            let digest = row["digest"].as_str().unwrap();
            let answer = self.history(&namespace, &name, digest).await;
            histories.insert(digest.to_owned(), (answer.status, answer.body));
        }
        (rows, histories)
    }
}

fn http_client() -> reqwest::Client {
    // Refused if another test was first, which has the same effect.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    Answer {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: serde_json::from_slice(&response.bytes().await.unwrap()).unwrap(),
    }
}

fn names(world: &World, artifact_id: i64) -> (String, String) {
    let repository_id = world.artifact(artifact_id).unwrap().repository_id;
    let repository = world
        .repositories()
        .find(|known| known.id == repository_id)
        .unwrap();
    let namespace = world
        .namespaces()
        .find(|known| known.id == repository.namespace_id)
        .unwrap();
    (namespace.name.clone(), repository.name.clone())
}

fn ids(rows: &[Value]) -> Vec<i64> {
    rows.iter().map(|row| row["id"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn paging_gives_each_artifact_once_and_ends_without_a_next_marker() {
    for images in [0, 1, 99, 100, 101, 200] {
        let emulator = start(open(), world_of(images)).await;
        let listed = ids(&Client::new(&emulator).artifacts().await);
        let expected: Vec<i64> =
            emulator.with_world(|world| world.artifacts().map(|artifact| artifact.id).collect());
        assert_eq!(listed, expected);
        let pages = u64::try_from(images.div_ceil(100).max(1)).unwrap();
        assert_eq!(emulator.requests().of(RequestKind::Artifacts), pages);
    }
}

#[tokio::test]
async fn marker_and_limit_are_only_accepted_as_the_documentation_has_them() {
    let emulator = start(open(), world_of(12)).await;
    let client = Client::new(&emulator);
    let page = client.get("/artifacts").await;
    assert_eq!(page.body["artifacts"].as_array().unwrap().len(), 10);
    for query in [
        "marker=1",
        "limit=10",
        "marker=1&limit=101",
        "marker=1&limit=0",
        "marker=x&limit=10",
    ] {
        let refused = client.get(&format!("/artifacts?{query}")).await;
        assert_eq!(refused.error(), (400, "SVCSTG.SWR.4000014"), "{query}");
    }
}

#[tokio::test]
async fn the_next_marker_may_be_text_and_the_last_one_null() {
    let settings = EmulatorSettings {
        dialect: Dialect {
            build_time: BuildTime::CreatedAt,
            next_marker: NextMarker::Text,
            last_marker: LastMarker::Null,
            ..Dialect::default()
        },
        ..open()
    };
    let emulator = start(settings, world_of(2)).await;
    let client = Client::new(&emulator);
    let page = client.get("/artifacts?marker=1&limit=1").await;
    let next = page.body["next_marker"].as_str().unwrap();
    let last = client
        .get(&format!("/artifacts?marker={next}&limit=1"))
        .await;
    assert_eq!(last.body["next_marker"], Value::Null);
    assert!(last.body.get("next_marker").is_some());

    let digest = last.body["artifacts"][0]["digest"].as_str().unwrap();
    let history = client.history("team", "app/api", digest).await;
    let step = &history.body["build_histories"][0];
    assert!(step["created_at"].is_string());
    assert!(step.get("created").is_none());
}

#[tokio::test]
async fn catalog_pages_begin_at_a_multiple_of_their_limit() {
    let mut world = World::empty(now());
    for number in 0..5 {
        world.set_now(now() + chrono::Duration::hours(number));
        world.add_repository(&format!("team-{number}"), "app");
    }
    let emulator = start(open(), world).await;
    let client = Client::new(&emulator);
    for list in ["namespaces", "repositories"] {
        let mut found = Vec::new();
        for offset in [0, 2, 4, 6] {
            let page = client
                .get(&format!("/{list}?order_type=asc&offset={offset}&limit=2"))
                .await;
            assert_eq!(page.body["total"], 5);
            found.extend(
                page.body[list]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|row| row["created_at"].to_string()),
            );
        }
        assert_eq!(found.len(), 5);
        assert!(found.is_sorted(), "{found:?}");
        for query in [
            "offset=1&limit=2",
            "offset=2",
            "limit=2",
            "offset=0&limit=101",
            "offset=-2&limit=2",
        ] {
            let refused = client.get(&format!("/{list}?{query}")).await;
            assert_eq!(
                refused.error(),
                (400, "SVCSTG.SWR.4000014"),
                "{list}?{query}"
            );
        }
    }
    let newest = client.get("/repositories").await;
    assert_eq!(newest.body["repositories"][0]["namespace_name"], "team-4");
}

#[tokio::test]
async fn a_slash_in_a_repository_name_must_arrive_encoded_twice() {
    let emulator = start(open(), world_of(1)).await;
    let client = Client::new(&emulator);
    let digest = emulator.with_world(|world| world.artifacts().next().unwrap().digest());
    for (name, digest, expected) in cases! {
        "app%252Fapi", digest.to_string() => (200, "");
        "app%252fapi", digest.to_string().replace(':', "%3A") => (200, "");
        "app%2Fapi", digest.to_string() => (404, "APIGW.0101");
        "app/api", digest.to_string() => (404, "APIGW.0101");
        "app$api", digest.to_string() => (404, "SVCSTG.SWR.4040010");
        "app%25252Fapi", digest.to_string() => (404, "SVCSTG.SWR.4040010");
        "app%252Fapi", "latest".to_owned() => (400, "SVCSTG.SWR.4000013");
    } {
        let path = format!(
            "/namespaces/team/repositories/{name}/artifacts/{digest}/additions/build_history"
        );
        assert_eq!(client.get(&path).await.error(), expected, "{path}");
    }
    let requests = emulator.requests();
    assert_eq!(requests.of(RequestKind::Unknown), 2);
    assert_eq!(requests.answered(RequestKind::BuildHistory, 200), 2);
    assert_eq!(requests.with_status(404), 4);
    emulator.reset_requests();
    assert_eq!(emulator.requests().total(), 0);
}

#[tokio::test]
async fn wrong_signatures_are_401_and_six_in_a_row_lock_the_key_for_five_minutes() {
    let settings = EmulatorSettings {
        credentials: Credentials {
            security_token: Some("temporary".into()),
            ..Credentials::default()
        },
        ..settings()
    };
    let clock = settings.clock.clone();
    let emulator = start(settings, world_of(1)).await;
    let client = Client::new(&emulator);
    let secret = "emulator-secret-key-of-no-value-at-all-0";
    let list = "/artifacts?marker=1&limit=100";
    assert_eq!(client.get_signed(list, secret, now()).await.status, 200);
    let late = now() + chrono::Duration::minutes(16);
    let expired = client.get_signed(list, secret, late).await;
    assert_eq!(expired.error(), (401, "APIGW.0301"));
    assert_eq!(client.get(list).await.error(), (401, "APIGW.0301"));

    for _ in 0..5 {
        let refused = client.get_signed(list, "wrong", now()).await;
        assert_eq!(refused.error(), (401, "APIGW.0301"));
        assert_eq!(
            refused.body["request_id"],
            refused.headers["x-request-id"].to_str().unwrap()
        );
    }
    let locked = client.get_signed(list, secret, now()).await;
    assert!(
        locked.body["error_msg"]
            .as_str()
            .unwrap()
            .contains("reach the limit")
    );
    assert_eq!(emulator.requests().failed_signatures, 7);

    clock.advance(Duration::from_secs(5 * 60));
    assert_eq!(
        client.get_signed(list, secret, clock.now()).await.status,
        200
    );
}

#[tokio::test]
async fn a_token_is_issued_for_the_right_password_and_expires() {
    let settings = settings();
    let clock = settings.clock.clone();
    let emulator = start(settings, world_of(1)).await;
    let client = Client::new(&emulator);
    let ask = async |password: &str| {
        let body = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {
                "name": "emulator", "password": password, "domain": {"name": "emulator-account"},
            }}},
            "scope": {"project": {"name": "cn-north-4"}},
        }});
        let url = format!("{}/v3/auth/tokens?nocatalog=true", emulator.endpoint());
        answer(client.http.post(url).body(body.to_string())).await
    };
    let refused = ask("wrong").await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.body["error"]["title"], "Unauthorized");

    let issued = ask("emulator-password").await;
    assert_eq!(issued.status, 201);
    assert_eq!(
        issued.body["token"]["expires_at"],
        "2025-12-02T03:04:05.000000Z"
    );
    let token = issued.headers["x-subject-token"].to_str().unwrap();
    let with_token = [("x-auth-token", token)];
    assert_eq!(client.get_with("/artifacts", &with_token).await.status, 200);
    clock.advance(Duration::from_secs(24 * 60 * 60));
    let expired = client.get_with("/artifacts", &with_token).await;
    assert_eq!(expired.error(), (401, "APIGW.0301"));
}

#[tokio::test]
async fn routes_that_do_not_exist_and_instances_that_do_not_are_different_404s() {
    let old = EmulatorSettings {
        instance_version: "v25.5.12".into(),
        ..open()
    };
    let emulator = start(old, world_of(1)).await;
    let client = Client::new(&emulator);
    assert_eq!(client.get("/artifacts").await.error(), (404, "APIGW.0101"));
    assert_eq!(client.get("").await.body["version"], "v25.5.12");
    let project = &emulator.settings().project_id;
    let url = format!("{}/v2/{project}/instances", emulator.endpoint());
    let instances = answer(client.http.get(&url)).await;
    assert_eq!(instances.body["instances"][0]["status"], "Running");
    let unknown = answer(client.http.get(format!("{url}/another/namespaces"))).await;
    assert_eq!(unknown.error(), (404, "SVCSTG.SWR.4040010"));
}

#[tokio::test]
async fn a_throttled_request_is_429_with_the_gateways_message() {
    let throttle = Throttle {
        requests_per_second: 1,
        burst: 2,
        retry_after: Some(Duration::from_secs(3)),
        quotes_limit: true,
    };
    let settings = EmulatorSettings {
        throttle: Some(throttle),
        ..open()
    };
    let emulator = start(settings, world_of(1)).await;
    let client = Client::new(&emulator);
    let answers = [
        client.get("/artifacts").await,
        client.get("/artifacts").await,
        client.get("/artifacts").await,
    ];
    assert_eq!(answers[1].status, 200);
    assert_eq!(answers[2].error(), (429, "APIGW.0308"));
    assert_eq!(answers[2].headers["retry-after"], "3");
    assert!(
        answers[2].body["error_msg"]
            .as_str()
            .unwrap()
            .ends_with("limit:1,time:1 second")
    );
    emulator.set_throttle(None);
    assert_eq!(client.get("/artifacts").await.status, 200);
}

#[tokio::test]
async fn answers_take_as_long_as_the_load_says() {
    let latency = Duration::from_millis(50);
    let load = Load {
        slow_tail: Some(SlowTail {
            share: 1.0,
            latency,
        }),
        ..Load::default()
    };
    let emulator = start(EmulatorSettings { load, ..open() }, world_of(1)).await;
    let begin = Instant::now();
    assert_eq!(Client::new(&emulator).get("/artifacts").await.status, 200);
    assert!(begin.elapsed() >= latency);
}

#[tokio::test]
async fn a_test_can_fail_and_hang_the_next_request_of_a_kind() {
    let emulator = start(open(), world_of(1)).await;
    let client = Client::new(&emulator);
    emulator.fail_next(RequestKind::Artifacts, 503, "{}");
    emulator.hang_next(RequestKind::Artifacts);
    assert_eq!(client.get("/namespaces").await.status, 200);
    assert_eq!(client.get("/artifacts").await.status, 503);
    let hanging = client.get("/artifacts");
    assert!(
        tokio::time::timeout(Duration::from_millis(50), hanging)
            .await
            .is_err()
    );
    assert_eq!(client.get("/artifacts").await.status, 200);
    let requests = emulator.requests();
    assert_eq!(requests.of(RequestKind::Artifacts), 3);
    assert_eq!(requests.answered(RequestKind::Artifacts, 200), 1);
}

#[tokio::test]
async fn rows_and_histories_made_by_hand_are_served_word_for_word() {
    let mut world = World::empty(now());
    let repository = world.add_repository("team", "app");
    let document =
        json!({"build_histories": [{"created_by": "odd", "extra": {"b": 1, "a": 2}}], "total": 7});
    let spec = ArtifactSpec {
        history: Some(document.clone()),
        tags: vec!["v1".into()],
        ..ArtifactSpec::default()
    };
    let first = world.add_artifact(repository, spec).unwrap();
    let second = world
        .add_artifact(
            repository,
            ArtifactSpec {
                kind: ManifestKind::ImageIndex,
                ..ArtifactSpec::default()
            },
        )
        .unwrap();
    let row = json!({"id": second, "digest": "sha256:odd", "size": "12"});
    world.override_row(second, row.clone());
    let canned = Digest::of(&[b"canned"]).to_string();
    world.override_build_history(&canned, 500, json!({"oh": "no"}));

    let emulator = start(open(), world).await;
    let client = Client::new(&emulator);
    let rows = client.artifacts().await;
    assert_eq!(rows[0]["tags"][0]["name"], "v1");
    assert_eq!(rows[1], row);
    let digests = emulator.with_world(|world| {
        [first, second].map(|id| world.artifact(id).unwrap().digest().to_string())
    });
    let answers = [
        client.history("team", "app", &digests[0]).await,
        client.history("team", "app", &digests[1]).await,
        client.history("team", "app", &canned).await,
    ];
    assert_eq!((answers[0].status, &answers[0].body), (200, &document));
    assert_eq!(answers[1].error(), (400, "SVCSTG.SWR.4000014"));
    assert_eq!(answers[2].status, 500);
    assert_eq!(&answers[2].body, &json!({"oh": "no"}));
}

/// What must occur, and how to detect it.
type Sight = (&'static str, fn(&Value) -> bool);
type HistorySight = (&'static str, fn(u16, &Value) -> bool);

#[tokio::test]
async fn a_generated_registry_shows_every_oddity_of_the_api() {
    let emulator = start(open(), World::generate(1, 2000, now())).await;
    let (rows, histories) = Client::new(&emulator).everything().await;
    assert_eq!(rows.len(), 2000);

    let of_rows: [Sight; 10] = cases! {
        "no repository_name" => |row| row.get("repository_name").is_none();
        "a null repository_name" => |row| row.get("repository_name") == Some(&Value::Null);
        "no tags" => |row| row.get("tags").is_none();
        "null tags" => |row| row.get("tags") == Some(&Value::Null);
        "empty tags" => |row| row.get("tags") == Some(&json!([]));
        "several tags" => |row| row["tags"].as_array().is_some_and(|tags| tags.len() > 1);
        "a zero pull time" => |row| row["pull_time"] == "0001-01-01T00:00:00.000Z";
        "a negative repository id" => |row| row["repository_id"].as_i64() < Some(0);
        "a chart" => |row| row["type"] == "CHART";
        "an index" => |row| row["media_type"] == row["manifest_media_type"];
    };
    for (what, shows) in of_rows {
        assert!(rows.iter().any(shows), "no row shows {what}");
    }
    assert!(
        histories.len() < rows.len(),
        "no digest is in two repositories"
    );
    let of_histories: [HistorySight; 5] = cases! {
        "400" => |status, _| status == 400;
        "404" => |status, body| status == 404 && body["error_code"] == "SVCSTG.SWR.4040010";
        "a null list" => |_, body| body.get("build_histories") == Some(&Value::Null);
        "an empty list" => |_, body| body["build_histories"] == json!([]);
        "another total" => |_, body| body["build_histories"].as_array().is_some_and(|list| body["total"] != list.len());
    };
    for (what, shows) in of_histories {
        let mut histories = histories.values();
        let is_shown = histories.any(|(status, body)| shows(*status, body));
        assert!(is_shown, "no history shows {what}");
    }
    let steps: Vec<&Value> = histories
        .values()
        .filter_map(|(_, body)| body["build_histories"].as_array())
        .flatten()
        .collect();
    let of_steps: [Sight; 11] = cases! {
        "a media type" => |step| step["mediaType"].is_string();
        "no command" => |step| step.get("created_by").is_none();
        "empty_layer spelled out" => |step| step["empty_layer"] == false;
        "empty_layer left out" => |step| step.get("empty_layer").is_none();
        "an empty layer without size" => |step| step["empty_layer"] == true && step.get("size").is_none();
        "an empty layer with size 0" => |step| step["empty_layer"] == true && step["size"] == 0 && step["digest"] == "";
        "an empty layer with null size" => |step| step["empty_layer"] == true && step.get("size") == Some(&Value::Null);
        "the zero time" => |step| step["created"] == "0001-01-01T00:00:00Z";
        "1970" => |step| step["created"] == "1970-01-01T00:00:00Z";
        "nanoseconds" => |step| step["created"].as_str().map(str::len) == Some("2025-12-01T03:04:05.123456789Z".len());
        "an offset" => |step| step["created"].as_str().is_some_and(|created| created.contains('+'));
    };
    for (what, shows) in of_steps {
        assert!(steps.iter().any(|step| shows(step)), "no step shows {what}");
    }
    for step in &steps {
        assert!(
            step["created"]
                .as_str()
                .is_some_and(|text| DateTime::parse_from_rfc3339(text).is_ok()),
            "{step}"
        );
    }
}

#[tokio::test]
async fn equal_seeds_give_equal_worlds_and_other_seeds_others() {
    let mut seen = Vec::new();
    for seed in [7, 7, 8] {
        let emulator = start(open(), World::generate(seed, 150, now())).await;
        let before = Client::new(&emulator).everything().await;
        emulator.with_world(|world| world.evolve(1));
        seen.push((before, Client::new(&emulator).everything().await));
    }
    assert!(seen[0] == seen[1]);
    assert!(seen[0] != seen[2]);
}

#[tokio::test]
async fn a_round_of_changes_does_what_it_says() {
    let emulator = start(open(), World::generate(1, 1000, now())).await;
    let client = Client::new(&emulator);
    let before = client.artifacts().await;
    let repositories = emulator.with_world(|world| world.repositories().len());
    let url = format!("{}/_emulator/changes", emulator.endpoint());
    let changes = answer(client.http.post(url)).await.body;
    let after = client.artifacts().await;

    let count = |what: &str| usize::try_from(changes[what].as_u64().unwrap()).unwrap();
    let (old, new): (BTreeSet<i64>, BTreeSet<i64>) = (
        ids(&before).into_iter().collect(),
        ids(&after).into_iter().collect(),
    );
    assert_eq!(old.difference(&new).count(), count("artifacts_deleted"));
    assert_eq!(
        new.difference(&old).count(),
        count("pushed") + count("promoted")
    );
    assert_eq!(count("repositories_deleted"), 1);
    assert_eq!(count("repositories_created"), 1);
    assert_eq!(
        emulator.with_world(|world| world.repositories().len()),
        repositories
    );
    for what in [
        "pushed",
        "promoted",
        "tags_moved",
        "pulled",
        "artifacts_deleted",
        "namespaces_created",
    ] {
        assert!(count(what) > 0, "{what}");
    }
    // `latest` is still unique in its repository.
    let mut holders = BTreeSet::new();
    for row in &after {
        for tag in row["tags"].as_array().into_iter().flatten() {
            assert!(holders.insert((row["repository_id"].as_i64(), tag["name"].to_string())));
        }
    }
}

#[tokio::test]
async fn single_changes_show_up_in_the_list() {
    let emulator = start(open(), world_of(2)).await;
    let client = Client::new(&emulator);
    let rows = client.artifacts().await;
    let (first, second) = (
        rows[0]["id"].as_i64().unwrap(),
        rows[1]["id"].as_i64().unwrap(),
    );
    let repository = rows[0]["repository_id"].as_i64().unwrap();
    let promoted = emulator.with_world(|world| {
        let releases = world.add_repository("team", "releases");
        let promoted = world.promote(second, releases).unwrap();
        assert!(world.move_tag(repository, "stable", first));
        assert!(world.move_tag(repository, "stable", second));
        assert!(world.pull(second, now()));
        assert!(world.delete_artifact(first).is_some());
        assert!(!world.move_tag(repository, "stable", first));
        promoted
    });
    let rows = client.artifacts().await;
    assert_eq!(ids(&rows), [second, promoted.id]);
    assert_eq!(rows[0]["digest"], rows[1]["digest"]);
    assert_eq!(rows[0]["pull_time"], "2025-12-01T03:04:05.000Z");
    let tags = rows[0]["tags"].as_array().unwrap();
    assert!(tags.iter().any(|tag| tag["name"] == "stable"));
    emulator.with_world(|world| world.delete_repository(repository).unwrap());
    assert_eq!(ids(&client.artifacts().await), [promoted.id]);
}

#[tokio::test]
async fn the_command_prints_what_a_client_needs_and_ends_well_on_sigterm() {
    let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_swr-sync"))
        .args([
            "emulator",
            "--listen",
            "127.0.0.1:0",
            "--artifacts",
            "10",
            "--instances",
            "3",
            "--no-auth",
        ])
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    let mut variables = BTreeMap::new();
    while variables.len() < 5 {
        let line = lines.next_line().await.unwrap().unwrap();
        if let Some((name, value)) = line
            .strip_prefix("export ")
            .and_then(|rest| rest.split_once('='))
        {
            variables.insert(name.to_owned(), value.to_owned());
        }
    }
    let [endpoint, project] = ["SWR_ENDPOINT", "SWR_PROJECT_ID"].map(|name| &variables[name]);
    assert_eq!(variables["SWR_INSTANCE_ID"], "all");
    let url = format!("{endpoint}/v2/{project}/instances");
    let instances = answer(http_client().get(&url)).await;
    let instances = instances.body["instances"].as_array().unwrap().clone();
    assert_eq!(instances.len(), 3);
    let id = instances[2]["id"].as_str().unwrap();
    let list = answer(http_client().get(format!("{url}/{id}/artifacts"))).await;
    assert_eq!(list.body["artifacts"].as_array().unwrap().len(), 10);
    let counts = answer(http_client().get(format!("{endpoint}/_emulator/requests"))).await;
    assert_eq!(
        counts.body["answered"],
        json!({"artifacts": {"200": 1}, "instance": {"200": 1}})
    );

    let id = program.id().unwrap().to_string();
    let sent = std::process::Command::new("kill")
        .args(["-TERM", &id])
        .status();
    assert!(sent.unwrap().success());
    assert_eq!(program.wait().await.unwrap().code(), Some(0));
}

/// The artifact list of an emulator that is started with these arguments, and stopped again.
async fn artifacts_served(arguments: &[&str]) -> Value {
    let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_swr-sync"))
        .args([
            "emulator",
            "--listen",
            "127.0.0.1:0",
            "--artifacts",
            "10",
            "--no-auth",
        ])
        .args(arguments)
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    let mut variables = BTreeMap::new();
    while variables.len() < 5 {
        let line = lines.next_line().await.unwrap().unwrap();
        let line = line.strip_prefix("export ");
        if let Some((name, value)) = line.and_then(|rest| rest.split_once('=')) {
            variables.insert(name.to_owned(), value.to_owned());
        }
    }
    let [endpoint, project, instance] =
        ["SWR_ENDPOINT", "SWR_PROJECT_ID", "SWR_INSTANCE_ID"].map(|name| &variables[name]);
    let url = format!("{endpoint}/v2/{project}/instances/{instance}/artifacts");
    let list = answer(http_client().get(&url)).await.body["artifacts"].clone();
    program.kill().await.unwrap();
    assert_eq!(list.as_array().unwrap().len(), 10);
    list
}

#[tokio::test]
async fn the_same_seed_and_time_serve_the_same_registry_after_a_restart() {
    let fixed = ["--now", "2026-03-01T00:00:00Z"];
    let list = artifacts_served(&fixed).await;
    assert_eq!(artifacts_served(&fixed).await, list);
    assert_ne!(artifacts_served(&["--now", "2026-03-02"]).await, list);
    // Without a time, that of the day, which may end between the two.
    let day = || chrono::Utc::now().date_naive();
    let mut equal = false;
    for _ in 0..2 {
        let before = day();
        let (first, second) = (artifacts_served(&[]).await, artifacts_served(&[]).await);
        if day() == before {
            equal = first == second;
            break;
        }
    }
    assert!(equal);
}
