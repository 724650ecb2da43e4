//! Each fault of a request: its effect on the connection, and its effect on a run.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use swr_emulator::{Authentication, Emulator, EmulatorSettings, Fault, RequestKind, World};
use swr_sync::exit::Exit;
use swr_sync::run::RunReport;
use swr_sync::stop;
use swr_sync::sync::SyncError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::cases;
use super::support::database::TestDatabase;
use super::support::mirror::{
    Mirror, facts, run_as, start_of_time, sync_into, sync_settings, user_settings,
};

/// Two pages of artifacts.
fn world() -> World {
    World::generate(11, 150, start_of_time())
}

async fn open_emulator(world: World) -> Emulator {
    let settings = EmulatorSettings {
        authentication: Authentication::Off,
        ..EmulatorSettings::default()
    };
    Emulator::start(settings, world).await.unwrap()
}

/// Everything that was received until the connection was closed.
struct Received {
    bytes: Vec<u8>,
    end: io::Result<()>,
}

/// Sends a request for the part of the path after the instance's id, over a new connection.
async fn exchange(emulator: &Emulator, below: &str) -> Received {
    let EmulatorSettings {
        project_id,
        instance_id,
        ..
    } = emulator.settings();
    let address = emulator.endpoint().replace("http://", "");
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let request = format!(
        "GET /v2/{project_id}/instances/{instance_id}{below} HTTP/1.1\r\nhost: {address}\r\n\
         accept-encoding: gzip\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes).await.map(|_| ());
    Received { bytes, end }
}

impl Received {
    /// A description of the received answer.
    fn describe(&self) -> String {
        let end = match &self.end {
            Ok(()) => "",
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => "reset ",
            Err(error) => panic!("{error}"),
        };
        let Some((head, body)) = self.head_and_body() else {
            let place = if self.bytes.is_empty() {
                "before"
            } else {
                "within"
            };
            return format!("{end}{place} headers");
        };
        let mut words = vec![head[9..12].to_owned()];
        if let Some(seconds) = header(&head, "retry-after") {
            words.push(format!("after {seconds} s"));
        }
        if !end.is_empty() {
            words.push("reset within body".to_owned());
            return words.join(", ");
        }
        let body = match header(&head, "content-length") {
            Some(length) if body.len() < length.parse().unwrap() => {
                words.push("short".to_owned());
                return words.join(", ");
            }
            Some(_) => body.to_vec(),
            None => match unchunked(body) {
                Some(body) => {
                    words.push("chunked".to_owned());
                    body
                }
                None => {
                    words.push("unfinished chunks".to_owned());
                    return words.join(", ");
                }
            },
        };
        let body = match header(&head, "content-encoding") {
            Some("gzip") => {
                let mut plain = Vec::new();
                if GzDecoder::new(&body[..]).read_to_end(&mut plain).is_err() {
                    words.push("damaged gzip".to_owned());
                    return words.join(", ");
                }
                words.push("gzip".to_owned());
                plain
            }
            _ => body,
        };
        let called = header(&head, "content-type").unwrap_or_default();
        let is = match serde_json::from_slice::<Value>(&body) {
            _ if body.is_empty() => "nothing",
            Ok(document) if document.get("error_code").is_some() => "an error document",
            Ok(_) => "a page",
            Err(_) if body.starts_with(b"<html>") => "html",
            Err(_) => "half a page",
        };
        words.push(format!("{is} called {}", called.split(';').next().unwrap()));
        words.join(", ")
    }

    fn head_and_body(&self) -> Option<(String, &[u8])> {
        let end = self.bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = String::from_utf8(self.bytes[..end].to_vec()).unwrap();
        Some((head, &self.bytes[end + 4..]))
    }

    fn document(&self) -> Value {
        serde_json::from_slice(self.head_and_body().unwrap().1).unwrap()
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .find_map(|(known, value)| (known == name).then_some(value))
}

/// The content of a chunked body, if its last chunk was received.
fn unchunked(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        let line = body.windows(2).position(|two| two == b"\r\n")?;
        let length = std::str::from_utf8(&body[..line]).unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        let chunk = body.get(line + 2..line + 2 + length)?;
        if length == 0 {
            return Some(content);
        }
        content.extend_from_slice(chunk);
        body = &body[line + 2 + length + 2..];
    }
}

/// The expected description of a fault; `None` if a single answer does not show it.
fn on_the_wire(fault: &Fault) -> Option<String> {
    let text = match fault {
        Fault::Throttled { retry_after: None } => "429, an error document called application/json",
        Fault::Throttled { .. } => "429, after 1 s, an error document called application/json",
        Fault::ServerError { status, body } => {
            let body = match body {
                swr_emulator::ErrorBody::Json => "an error document called application/json",
                swr_emulator::ErrorBody::Html => "html called text/html",
                swr_emulator::ErrorBody::Empty => "nothing called application/json",
            };
            return Some(format!("{status}, {body}"));
        }
        Fault::ResetBeforeHeaders => "reset before headers",
        Fault::ResetWithinHeaders => "reset within headers",
        Fault::ResetWithinBody => "200, reset within body",
        Fault::ShortBody => "200, short",
        Fault::UnfinishedChunks => "200, unfinished chunks",
        Fault::Chunked => "200, chunked, a page called application/json",
        Fault::Gzip => "200, gzip, a page called application/json",
        Fault::DamagedGzip => "200, damaged gzip",
        Fault::WrongContentType => "200, a page called text/html",
        Fault::ErrorDocument => "200, an error document called application/json",
        Fault::WebPage => "200, html called text/html",
        Fault::EmptyBody => "200, nothing called application/json",
        Fault::HalfDocument => "200, half a page called application/json",
        Fault::Late(_)
        | Fault::RepeatedMarker
        | Fault::DecreasingMarker
        | Fault::EndlessMarkers
        | Fault::EmptyPage
        | Fault::ShortPage
        | Fault::DuplicateRows
        | Fault::MissingRows
        | Fault::ExpiredTokens
        | Fault::ArtifactDeleted
        | Fault::ArtifactPushed
        | Fault::RepositoryDeleted
        | Fault::RepositoryCreated
        | Fault::TagMoved => "200, a page called application/json",
        Fault::Hang | Fault::Answer { .. } => return None,
    };
    Some(text.to_owned())
}

#[tokio::test]
async fn each_fault_shows_on_the_wire_once() {
    let emulator = open_emulator(world()).await;
    for fault in Fault::every() {
        let Some(expected) = on_the_wire(&fault) else {
            continue;
        };
        emulator.disturb_next(RequestKind::Artifacts, fault.clone());
        let received = exchange(&emulator, "/artifacts?marker=1&limit=100").await;
        assert_eq!(received.describe(), expected, "{fault:?}");
        let received = exchange(&emulator, "/artifacts?marker=1&limit=100").await;
        assert_eq!(
            received.describe(),
            "200, a page called application/json",
            "after {fault:?}"
        );
    }
}

/// A page of the artifact list: its ids, and the next marker.
async fn page(emulator: &Emulator, marker: i64) -> (Vec<i64>, Option<i64>) {
    let below = format!("/artifacts?marker={marker}&limit=100");
    let page = exchange(emulator, &below).await.document();
    let rows = page["artifacts"].as_array().unwrap();
    let ids = rows.iter().map(|row| row["id"].as_i64().unwrap());
    (ids.collect(), page["next_marker"].as_i64())
}

#[tokio::test]
async fn pages_go_wrong_as_planned() {
    let emulator = open_emulator(world()).await;
    let (first, Some(marker)) = page(&emulator, 1).await else {
        panic!("one page only");
    };
    let (second, None) = page(&emulator, marker).await else {
        panic!("more than two pages");
    };
    let disturbed = async |fault| {
        emulator.disturb_next(RequestKind::Artifacts, fault);
        page(&emulator, marker).await
    };

    let (rows, next) = disturbed(Fault::RepeatedMarker).await;
    assert_eq!((rows, next), (second.clone(), Some(marker)));
    let (rows, next) = disturbed(Fault::DecreasingMarker).await;
    assert_eq!(rows, second);
    assert!(next.unwrap() < marker && !first.is_empty());
    let (rows, next) = disturbed(Fault::EmptyPage).await;
    assert!(rows.is_empty());
    assert_eq!(page(&emulator, next.unwrap()).await.0, second);
    let (rows, next) = disturbed(Fault::ShortPage).await;
    let rest = page(&emulator, next.unwrap()).await.0;
    assert_eq!([rows, rest].concat(), second);
    let (rows, _) = disturbed(Fault::DuplicateRows).await;
    assert_eq!(rows, [&first[97..], &second].concat());
    let (rows, _) = disturbed(Fault::MissingRows).await;
    assert_eq!(rows, second[1..]);
    let (rows, _) = disturbed(Fault::MissingRows).await;
    assert_eq!(rows, second, "no artifact is hit twice");

    let (rows, mut next) = disturbed(Fault::EndlessMarkers).await;
    for _ in 0..5 {
        let (again, after) = page(&emulator, next.unwrap()).await;
        assert_eq!(again, rows);
        assert!(after > next);
        next = after;
    }
}

#[tokio::test]
async fn the_registry_changes_in_the_middle_as_planned() {
    let emulator = open_emulator(world()).await;
    let size =
        || emulator.with_world(|world| (world.repositories().len(), world.artifacts().len()));
    let change = async |fault| {
        let before = size();
        emulator.disturb_next(RequestKind::Artifacts, fault);
        page(&emulator, 1).await;
        let after = size();
        (
            after.0 as i64 - before.0 as i64,
            after.1 as i64 - before.1 as i64,
        )
    };
    assert_eq!(change(Fault::ArtifactDeleted).await, (0, -1));
    assert!(change(Fault::ArtifactPushed).await.1 >= 1);
    assert_eq!(change(Fault::RepositoryCreated).await, (1, 1));
    let (repositories, artifacts) = change(Fault::RepositoryDeleted).await;
    assert!(repositories == -1 && artifacts <= 0);
    let tags = || {
        emulator.with_world(|world| {
            let artifacts = world.artifacts();
            artifacts
                .map(|artifact| artifact.tags.clone())
                .collect::<Vec<_>>()
        })
    };
    let before = tags();
    assert_eq!(change(Fault::TagMoved).await, (0, 0));
    assert_ne!(tags(), before);
}

/// The effect of a fault on a run.
#[derive(Debug, PartialEq, Eq)]
enum Effect {
    /// No effect, and no further requests.
    None,
    /// The request is sent again, with no other effect.
    Retried,
    /// Pages are read again, with no other effect.
    ReadAgain,
    /// The registry changes during the run. The run publishes, and the next run stores the changes.
    CaughtUp,
    /// The run ends with exit code 7, and changes nothing.
    Ended,
}

fn effect(fault: &Fault, kind: RequestKind) -> Effect {
    match fault {
        Fault::Throttled { .. }
        | Fault::ServerError { .. }
        | Fault::Hang
        | Fault::ResetBeforeHeaders
        | Fault::ResetWithinHeaders
        | Fault::ResetWithinBody
        | Fault::ShortBody
        | Fault::UnfinishedChunks
        | Fault::DamagedGzip
        | Fault::ExpiredTokens
        | Fault::ErrorDocument
        | Fault::WebPage
        | Fault::EmptyBody => Effect::Retried,
        // The token is in a header, so no body is needed.
        Fault::HalfDocument if kind == RequestKind::Token => Effect::None,
        Fault::HalfDocument => Effect::Retried,
        Fault::Late(_)
        | Fault::Chunked
        | Fault::Gzip
        | Fault::WrongContentType
        | Fault::DecreasingMarker
        | Fault::EmptyPage
        | Fault::ShortPage
        | Fault::DuplicateRows => Effect::None,
        Fault::MissingRows => Effect::ReadAgain,
        Fault::RepeatedMarker | Fault::EndlessMarkers => Effect::Ended,
        Fault::ArtifactDeleted
        | Fault::ArtifactPushed
        | Fault::RepositoryDeleted
        | Fault::RepositoryCreated
        | Fault::TagMoved => Effect::CaughtUp,
        Fault::Answer { .. } => unreachable!("not one of the list"),
    }
}

/// A run of an IAM user.
async fn sync_as_user(mirror: &Mirror, timeout: Duration) -> Result<RunReport, SyncError> {
    let mut client = user_settings(&mirror.emulator, "emulator-password");
    client.transport.request_timeout = timeout;
    let (_stopper, stop) = stop::channel();
    let settings = sync_settings(&client);
    run_as(client, settings, &mirror.database, &Arc::default(), &stop).await
}

/// Injects each fault that applies to this kind of request once, while the registry changes
/// from run to run. Compares the result with an undisturbed mirror of the same registry.
async fn check_effects_on(kind: RequestKind, artifacts: usize) {
    let mirror = Mirror::new(World::generate(11, artifacts, start_of_time())).await;
    let undisturbed = TestDatabase::create().await;
    for fault in Fault::every() {
        // A run begins with the namespaces. A token that is refused at its first use ends the run.
        let is_first_use = kind == RequestKind::Namespaces && fault == Fault::ExpiredTokens;
        if !fault.applies_to(kind) || is_first_use {
            continue;
        }
        mirror.with_world(|world| {
            let oldest = world.artifacts().next().unwrap().id;
            world.delete_artifact(oldest).unwrap();
            let repository = world.artifacts().last().unwrap().repository_id;
            world.push(repository).unwrap();
        });
        sync_into(&mirror.emulator, &undisturbed, false)
            .await
            .unwrap();
        let expected = effect(&fault, kind);
        let before = match expected {
            Effect::Ended => mirror.facts().await,
            _ => String::new(),
        };
        if kind == RequestKind::Artifacts {
            // Some faults have an effect only on a later page.
            mirror.disturb_next(kind, Fault::Chunked);
        }
        mirror.disturb_next(kind, fault.clone());

        let timeout = match fault {
            Fault::Hang => Duration::from_secs(1),
            _ => Duration::from_secs(60),
        };
        let result = sync_as_user(&mirror, timeout).await;

        let name = format!("{fault:?} of {kind}: {expected:?}");
        assert_eq!(mirror.queued_faults(), 0, "{name}");
        assert_eq!(
            falsely_removed(&mirror.emulator, &mirror.database).await,
            "",
            "{name}"
        );
        let report = match (result, &expected) {
            (Err(error), Effect::Ended) => {
                assert_eq!(error.exit(), Exit::SourceUnavailable, "{name}: {error}");
                assert_eq!(mirror.facts().await, before, "{name}");
                mirror.sync().await;
                continue;
            }
            (Ok(report), _) if expected != Effect::Ended => report,
            (Err(error), _) => panic!("{name}: {error}"),
            (Ok(_), _) => panic!("{name}: published"),
        };
        assert_eq!(report.counters.histories_failed, 0, "{name}");
        match expected {
            Effect::CaughtUp => {
                mirror.sync().await;
                continue;
            }
            // Several requests may be in flight with the expiring token.
            Effect::Retried => assert!(report.counters.requests.retries >= 1, "{name}"),
            _ => assert_eq!(report.counters.requests.retries, 0, "{name}"),
        }
        if mirror.facts().await != facts(&undisturbed).await {
            panic!("{name}: other facts than without");
        }
    }
    assert_eq!(mirror.facts().await, mirror.undisturbed_facts().await);
}

/// The artifacts, repositories and namespaces that are marked removed although they exist.
pub(super) async fn falsely_removed(emulator: &Emulator, database: &TestDatabase) -> String {
    let (artifacts, repositories, namespaces) = emulator.with_world(|world| {
        let ids = |ids: &mut dyn Iterator<Item = i64>| {
            ids.map(|id| id.to_string()).collect::<Vec<_>>().join(", ")
        };
        (
            ids(&mut world.artifacts().map(|known| known.id)),
            ids(&mut world.repositories().map(|known| known.id)),
            ids(&mut world.namespaces().map(|known| known.id)),
        )
    });
    let removed = format!(
        "select 'artifact', artifact_id from swr.artifact
         where removed_at is not null and artifact_id = any('{{{artifacts}}}')
         union all
         select 'repository', repository_id from swr.repository
         where removed_at is not null and repository_id = any('{{{repositories}}}')
         union all
         select 'namespace', namespace_id from swr.namespace
         where removed_at is not null and namespace_id = any('{{{namespaces}}}')
         order by 1, 2"
    );
    database.snapshot(&removed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_survives_each_fault_of_the_namespaces() {
    check_effects_on(RequestKind::Namespaces, 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_survives_each_fault_of_the_repositories() {
    check_effects_on(RequestKind::Repositories, 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_survives_each_fault_of_the_artifact_list() {
    check_effects_on(RequestKind::Artifacts, 130).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_survives_each_fault_of_the_build_histories() {
    check_effects_on(RequestKind::BuildHistory, 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_survives_each_fault_of_the_login() {
    check_effects_on(RequestKind::Token, 30).await;
}

/// One repository with two pages of images.
fn one_repository() -> World {
    let mut world = World::empty(start_of_time());
    let repository = world.add_repository("team", "app");
    for _ in 0..130 {
        world.push(repository).unwrap();
    }
    world
}

/// Answers the next request for repositories with [`one_repository`] and this count.
fn count_once(emulator: &Emulator, artifact_count: Value) {
    let page = emulator.with_world(|world| {
        let repository = world.repository("team", "app").unwrap();
        let updated_at = repository.updated_at.to_rfc3339();
        json!({
            "repositories": [{
                "id": repository.id, "name": "app", "namespace_name": "team",
                "namespace_id": repository.namespace_id, "artifact_count": artifact_count,
                "created_at": updated_at, "updated_at": updated_at,
            }],
            "total": 1,
        })
    });
    emulator.fail_next(RequestKind::Repositories, 200, page.to_string());
}

/// Changes of the registry between two runs.
type Happening = fn(&mut World);

const NOTHING: Happening = |_| {};
const DELETED: Happening = |world| {
    let first = world.artifacts().next().unwrap().id;
    world.delete_artifact(first).unwrap();
};
const DELETED_AND_PUSHED: Happening = |world| {
    let repository = world.artifacts().next().unwrap().repository_id;
    DELETED(world);
    world.push(repository).unwrap();
};

/// The columns are: the catalog's count in the first run, if it is wrong; the changes before the second
/// run, the catalog's count then, and the faults of its pages; the numbers of new, removed and listed
/// artifacts in the second run, and the number of requested pages.
#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_is_removed_only_if_no_page_can_have_missed_it() {
    use Fault::{ArtifactPushed, Chunked, MissingRows, RepositoryCreated};

    for (what, first_count, happens, counts, faults, expected) in cases! {
        "one slips between two pages", None, NOTHING, vec![], vec![Chunked, MissingRows] => [0, 0, 130, 4];
        // 130 rows in the first listing, which is the catalog's count.
        "another one is pushed meanwhile", None, NOTHING, vec![], vec![ArtifactPushed, MissingRows] => [1, 0, 131, 4];
        "the catalog confirms a removal", None, DELETED_AND_PUSHED, vec![], vec![] => [1, 1, 130, 2];
        "the catalog counts more than is listed", Some(json!(133)), DELETED, vec![json!(132)], vec![] => [0, 1, 129, 2];
        // The listing has the catalog's count of rows.
        "it counts fewer than are listed", Some(json!(129)), NOTHING, vec![json!(129)], vec![Chunked, MissingRows] => [0, 0, 130, 4];
        "it does not count: two listings must lack it", Some(Value::Null), DELETED, vec![Value::Null], vec![] => [0, 1, 129, 4];
        // The new repository is not in the catalog yet, so the catalog is read again. At that time it counts
        // one artifact less, and the second page has missed one.
        "its count was read during the listing", None, NOTHING, vec![json!(130), json!(129)], vec![RepositoryCreated, MissingRows] => [1, 0, 131, 4];
    } {
        let mirror = Mirror::new(one_repository()).await;
        for count in first_count.iter() {
            count_once(&mirror.emulator, count.clone());
        }
        mirror.sync().await;
        let before = mirror.facts().await;
        mirror.with_world(happens);
        for count in counts {
            count_once(&mirror.emulator, count);
        }
        for fault in faults {
            mirror.disturb_next(RequestKind::Artifacts, fault);
        }
        mirror.reset_requests();

        let counters = mirror.sync().await.counters;

        let pages = mirror.requests().of(RequestKind::Artifacts);
        let [new, removed] = [counters.artifacts_new, counters.artifacts_removed];
        assert_eq!(
            [new, removed, counters.artifacts_listed, pages],
            expected,
            "{what}"
        );
        if first_count.is_none() && expected[..2] == [0, 0] {
            assert_eq!(mirror.facts().await, before, "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_deleted_during_one_listing_does_not_hide_a_slip_in_the_next() {
    let mirror = Mirror::new(one_repository()).await;
    let disturb = |fault| mirror.disturb_next(RequestKind::Artifacts, fault);
    mirror.sync().await;
    disturb(Fault::ArtifactDeleted);
    let report = mirror.sync().await;
    assert_eq!(report.counters.artifacts_removed, 1);
    disturb(Fault::Chunked);
    disturb(Fault::MissingRows);

    let report = mirror.sync().await;

    assert_eq!(report.counters.artifacts_removed, 0);
    assert_eq!(report.counters.artifacts_listed, 129);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_slips_between_two_catalog_pages_is_not_removed() {
    // Without artifacts, because their rows would contain it.
    let mut world = World::empty(start_of_time());
    for number in 0..150 {
        world.set_now(start_of_time() + TimeDelta::minutes(number));
        world.add_repository("team", &format!("app-{number}"));
    }
    let mirror = Mirror::new(world).await;
    mirror.sync().await;
    mirror.reset_requests();
    let disturb = |fault| mirror.disturb_next(RequestKind::Repositories, fault);
    disturb(Fault::Chunked);
    disturb(Fault::RepositoryDeleted);

    mirror.sync().await;

    let gone = mirror.with_world(|world| {
        let numbers = 0..100;
        let mut names = numbers.map(|number| format!("app-{number}"));
        names.any(|name| world.repository("team", &name).is_none())
    });
    assert!(gone, "the deleted one was on the first page");
    assert_eq!(mirror.requests().of(RequestKind::Repositories), 4);
    let falsely_removed = falsely_removed(&mirror.emulator, &mirror.database).await;
    assert_eq!(falsely_removed, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_fails_is_not_asked_for_again_when_its_row_comes_twice() {
    let mirror = Mirror::new(one_repository()).await;
    let last_of_page = mirror.with_world(|world| {
        let artifact = world.artifacts().nth(99).unwrap();
        artifact.digest().to_string()
    });
    mirror.with_world(|world| {
        world.override_build_history(&last_of_page, 500, serde_json::json!({}));
    });
    let disturb = |fault| mirror.disturb_next(RequestKind::Artifacts, fault);
    // The second page arrives long after the histories of the first.
    disturb(Fault::Chunked);
    for _ in 0..40 {
        disturb(Fault::EmptyPage);
    }
    disturb(Fault::DuplicateRows);

    let report = mirror.sync().await;

    assert_eq!(report.counters.histories_failed, 1);
    assert_eq!(mirror.history_requests()[&last_of_page], 3);
}
