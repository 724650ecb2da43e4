//! Traces, as a collector receives them.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use prost::Message;
use swr_emulator::{Emulator, RequestKind, World};

use crate::support::assert_lacks;
use crate::support::database::TestDatabase;
use crate::support::mirror::{start_of_time, wait_until};
use crate::support::program::{Program, emulator};
use crate::support::receiver::Receiver;

// The parts that the tests read of
// <https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/trace/v1/trace.proto>.

#[derive(Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<ResourceSpans>,
}

#[derive(Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<ScopeSpans>,
}

#[derive(Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<WireSpan>,
}

#[derive(Message)]
struct WireSpan {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, repeated, tag = "11")]
    events: Vec<Event>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Message)]
struct Event {
    #[prost(string, tag = "2")]
    name: String,
}

#[derive(Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Message)]
struct AnyValue {
    #[prost(string, optional, tag = "1")]
    text: Option<String>,
    #[prost(int64, optional, tag = "3")]
    integer: Option<i64>,
}

fn attributes(attributes: &[KeyValue]) -> BTreeMap<&str, String> {
    let text = |value: &AnyValue| match (&value.text, value.integer) {
        (Some(text), _) => text.clone(),
        (None, Some(integer)) => integer.to_string(),
        (None, None) => "of another type".to_owned(),
    };
    let pairs = attributes.iter();
    pairs
        .map(|pair| {
            (
                pair.key.as_str(),
                pair.value.as_ref().map_or_else(String::new, text),
            )
        })
        .collect()
}

/// A span, its parent by name.
#[derive(Debug)]
struct Span {
    name: String,
    parent: String,
    attributes: BTreeMap<String, String>,
    is_error: bool,
}

/// The received data: the attributes of the resource, and the spans of one trace in any order.
fn received(collector: &Receiver) -> (BTreeMap<String, String>, Vec<Span>) {
    let mut resource = BTreeMap::new();
    let mut spans = Vec::new();
    for request in collector.take() {
        assert_eq!(request.method(), "POST");
        assert_eq!(request.target(), "/v1/traces");
        assert_eq!(
            request.header("content-type"),
            Some("application/x-protobuf")
        );
        let export = Export::decode(&request.body[..]).unwrap();
        for of_resource in export.resources {
            let of = of_resource.resource.unwrap();
            resource.extend(owned(attributes(&of.attributes)));
            spans.extend(of_resource.scopes.into_iter().flat_map(|scope| scope.spans));
        }
    }
    assert!(!spans.is_empty());
    let trace = &spans[0].trace_id;
    assert!(spans.iter().all(|span| span.trace_id == *trace));
    let parent = |span: &WireSpan| {
        let parent = spans
            .iter()
            .find(|other| other.span_id == span.parent_span_id);
        parent.map_or_else(String::new, |parent| parent.name.clone())
    };
    let found = spans.iter().map(|span| {
        assert!(span.events.is_empty(), "{:?}", span.events);
        Span {
            name: span.name.clone(),
            parent: parent(span),
            attributes: owned(attributes(&span.attributes)),
            is_error: span.status.as_ref().is_some_and(|status| status.code == 2),
        }
    });
    (resource, found.collect())
}

fn owned(map: BTreeMap<&str, String>) -> BTreeMap<String, String> {
    let pairs = map.into_iter();
    pairs
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Names below those of their parents.
fn tree(spans: &[Span]) -> Vec<String> {
    let mut tree: Vec<String> = spans
        .iter()
        .map(|span| format!("{} < {}", span.name, span.parent))
        .collect();
    tree.sort();
    tree
}

fn find<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    spans.iter().find(|span| span.name == name).unwrap()
}

const TOKEN: &str = "collector-token-not-to-be-shown";

struct Job {
    emulator: Emulator,
    database: TestDatabase,
    collector: Receiver,
}

impl Job {
    async fn new() -> Job {
        let mut world = World::empty(start_of_time());
        let repository = world.add_repository("team", "app/api");
        world.push(repository).unwrap();
        Job {
            emulator: emulator(world).await,
            database: TestDatabase::create().await,
            collector: Receiver::start().await,
        }
    }

    fn sync(&self) -> Program {
        Program::sync(&self.emulator, &self.database)
            .env(
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                format!("http://{}", self.collector.address()),
            )
            .env(
                "OTEL_EXPORTER_OTLP_HEADERS",
                format!("authorization=Bearer%20{TOKEN}"),
            )
            .hides(TOKEN)
            .args(&["--log", "trace"])
    }
}

#[tokio::test]
async fn a_collector_gets_the_spans_of_job_run_and_phases() {
    let job = Job::new().await;
    job.sync()
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
        .code(0)
        .await;
    let headers = job.collector.received();
    assert_eq!(
        headers[0].header("authorization"),
        Some("Bearer collector-token-not-to-be-shown")
    );
    let (resource, spans) = received(&job.collector);
    for (name, value) in [
        ("service.name", "swr-sync"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("deployment.environment", "test"),
    ] {
        assert_eq!(resource[name], value);
    }
    assert_eq!(
        tree(&spans),
        [
            "begin < run",
            "catalog < run",
            "histories < run",
            "job < ",
            "listing < run",
            "publish < run",
            "run < job",
        ]
    );
    let run = find(&spans, "run");
    let settings = job.emulator.settings();
    for (name, value) in [
        ("instance", settings.instance_id.as_str()),
        ("project_id", &settings.project_id),
        ("run_id", "1"),
        ("outcome", "published"),
        ("exit_code", "0"),
    ] {
        assert_eq!(run.attributes[name], value, "{name}");
    }
    assert!(!run.is_error && !find(&spans, "job").is_error);

    // A run that fails, with a service name from the user.
    job.emulator.fail_next(RequestKind::Artifacts, 400, "");
    let ids = format!("{},unknown", settings.instance_id);
    let sync = job.sync().env("OTEL_SERVICE_NAME", "mirror");
    sync.env("SWR_INSTANCE_ID", ids).code(2).await;
    let (resource, spans) = received(&job.collector);
    assert_eq!(resource["service.name"], "mirror");
    let runs: Vec<&Span> = spans.iter().filter(|span| span.name == "run").collect();
    assert_eq!(runs.len(), 2);
    for run in runs {
        assert_eq!(run.parent, "job");
        assert!(run.is_error);
        assert!(run.attributes["error"].contains("HTTP 40"), "{run:?}");
    }
    let end = find(&spans, "job");
    assert!(
        end.is_error && end.attributes["exit_code"] == "2",
        "{end:?}"
    );
}

#[tokio::test]
async fn a_job_that_is_stopped_sends_its_spans_and_nobody_has_to_listen() {
    let job = Job::new().await;
    job.emulator.hang_next(RequestKind::Artifacts);
    let run = job.sync().start();
    wait_until("the page is requested", async || {
        job.emulator.requests().of(RequestKind::Artifacts) == 1
    })
    .await;
    run.signal(Signal::SIGTERM);
    run.finish().await.code(143);
    let (_, spans) = received(&job.collector);
    assert_eq!(find(&spans, "run").attributes["outcome"], "stopped");
    assert_eq!(find(&spans, "job").attributes["exit_code"], "143");

    // If the collector refuses the data, there is a warning; without a collector there is none.
    job.collector.answer_next(&[401; 8]);
    let words =
        ["cannot report the result through the collector of traces: the response is HTTP 401"];
    job.sync().code(0).await.says(&words);
    let off = job.sync().env("OTEL_SDK_DISABLED", "true").code(0).await;
    assert_lacks(&off.stderr, "traces");
    let unusable = job
        .sync()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("::{TOKEN}"));
    unusable.code(0).await.says(&["traces are disabled: "]);
}
