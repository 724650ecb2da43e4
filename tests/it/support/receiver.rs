//! Receives what a job sends to others than the registry, and keeps it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) content_type: String,
    pub(crate) authorization: Option<String>,
    pub(crate) body: Vec<u8>,
}

impl Received {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

#[derive(Debug, Default)]
struct State {
    received: Vec<Received>,
    statuses: VecDeque<u16>,
}

/// Listens on a port of its own until it is dropped.
pub(crate) struct Receiver {
    address: String,
    state: Arc<Mutex<State>>,
    serving: JoinHandle<()>,
}

impl Receiver {
    pub(crate) async fn start() -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = Arc::clone(&state);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                let service = service_fn(move |request| answer(Arc::clone(&state), request));
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Receiver {
            address,
            state,
            serving,
        }
    }

    /// Host and port.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Answers the next requests with these; all others with 200.
    pub(crate) fn answer_next(&self, statuses: &[u16]) {
        self.state.lock().unwrap().statuses.extend(statuses);
    }

    /// What arrived so far.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.state.lock().unwrap().received.clone()
    }

    /// What arrived since the last time.
    pub(crate) fn take(&self) -> Vec<Received> {
        std::mem::take(&mut self.state.lock().unwrap().received)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
) -> Result<Response<String>, Infallible> {
    let header = |name: &str| {
        let value = request.headers().get(name)?;
        Some(value.to_str().unwrap().to_owned())
    };
    let mut received = Received {
        method: request.method().to_string(),
        target: request.uri().to_string(),
        content_type: header("content-type").unwrap_or_default(),
        authorization: header("authorization"),
        body: Vec::new(),
    };
    // Quoted in the answer, since receivers may do so.
    let quoted = format!("{} {:?}", received.target, received.authorization);
    // A client that went away in between has sent nothing.
    if let Ok(body) = request.into_body().collect().await {
        received.body = body.to_bytes().to_vec();
        state.lock().unwrap().received.push(received);
    }
    let status = state.lock().unwrap().statuses.pop_front().unwrap_or(200);
    let mut response = Response::new(quoted);
    *response.status_mut() = status.try_into().unwrap();
    Ok(response)
}
