//! The spans of a job, for an OpenTelemetry collector: OTLP over HTTP, configured with the variables of
//! <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>.
//!
//! Only our own spans are exported, with the fields they are created with: no log lines, and no
//! fetched data.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::trace::TracerProvider;
use opentelemetry::{Key, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};

use super::http::Http;
use super::variables::{host, variable};
use crate::spans;

const SERVICE_NAME: &str = "swr-sync";

#[derive(Debug, Clone)]
pub(super) struct Traces {
    provider: SdkTracerProvider,
    last_failure: Arc<Mutex<Option<String>>>,
}

impl Traces {
    /// `None` unless the environment configures a collector. The second value is an error in its
    /// settings, because logging has not started yet.
    pub(super) fn from_environment(runtime: &Handle) -> (Option<Traces>, Option<String>) {
        let is_named = [
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
        ]
        .iter()
        .any(|name| variable(name).is_some());
        let is_off = variable("OTEL_SDK_DISABLED").is_some_and(|value| value == "true")
            || variable("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
        if !is_named || is_off {
            return (None, None);
        }
        match Traces::new(runtime) {
            Ok(traces) => (Some(traces), None),
            // Without the cause, which may quote an address with a password.
            Err(_) => (
                None,
                Some(
                    "traces are disabled: the values of OTEL_EXPORTER_OTLP_… are not valid"
                        .to_owned(),
                ),
            ),
        }
    }

    fn new(runtime: &Handle) -> Result<Traces, Box<dyn Error + Send + Sync>> {
        let last_failure = Arc::default();
        let client = Client {
            http: Http::new(Vec::new()).map_err(|failure| failure.error)?,
            runtime: runtime.clone(),
            last_failure: Arc::clone(&last_failure),
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .build()?;
        let provider = SdkTracerProvider::builder()
            .with_resource(resource())
            .with_batch_exporter(exporter)
            .build();
        Ok(Traces {
            provider,
            last_failure,
        })
    }

    /// The layer that exports the spans.
    pub(super) fn layer(&self) -> impl Layer<Registry> + use<>
    where
        Registry: for<'a> LookupSpan<'a>,
    {
        let is_ours =
            filter_fn(|metadata| metadata.is_span() && metadata.target() == spans::TARGET)
                .with_max_level_hint(LevelFilter::INFO);
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer(SERVICE_NAME))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(is_ours)
    }

    /// Sends the remaining spans; may block. Also returns a failure from earlier in the
    /// job.
    pub(super) fn flush(&self, limit: Duration) -> std::io::Result<()> {
        let flushed = self.provider.shutdown_with_timeout(limit);
        let failure = self.last_failure();
        match (failure, flushed) {
            (Some(failure), _) => Err(std::io::Error::other(failure)),
            (None, Err(error)) => Err(std::io::Error::other(error)),
            (None, Ok(())) => Ok(()),
        }
    }

    fn last_failure(&self) -> Option<String> {
        let failure = self.last_failure.lock();
        failure.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The resource attributes of the spans.
fn resource() -> Resource {
    let named = Resource::builder().build();
    let is_named = named
        .get(&Key::from_static_str("service.name"))
        .is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let resource = Resource::builder().with_attributes([
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("host.name", host()),
    ]);
    match is_named {
        true => resource.build(),
        false => resource.with_service_name(SERVICE_NAME).build(),
    }
}

/// Our own client, because the exporter works on a thread without a runtime.
#[derive(Debug)]
struct Client {
    http: Http,
    runtime: Handle,
    last_failure: Arc<Mutex<Option<String>>>,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let http = self.http.clone();
        let request = reqwest::Request::try_from(request)?;
        let sending = self
            .runtime
            .spawn(async move { http.exchange(request).await });
        let result = sending.await?;
        let failure = match &result {
            Ok(status) if status.is_success() => None,
            Ok(status) => Some(format!("the response is HTTP {}", status.as_u16())),
            Err(error) => Some(error.to_string()),
        };
        if failure.is_some() {
            *self
                .last_failure
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = failure;
        }
        let status = result.map_err(|error| error.to_string())?;
        Ok(Response::builder().status(status).body(Bytes::new())?)
    }
}
