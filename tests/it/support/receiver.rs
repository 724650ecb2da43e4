//! Receives and stores what a job sends to servers other than the registry.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::wire::{Received, listen, next_request};

#[derive(Debug, Default)]
struct State {
    received: Vec<Received>,
    statuses: VecDeque<u16>,
}

/// Listens on a free port.
pub(crate) struct Receiver {
    address: String,
    state: Arc<Mutex<State>>,
}

impl Receiver {
    pub(crate) async fn start() -> Receiver {
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = Arc::clone(&state);
        let address = listen(move |stream| serve(stream, Arc::clone(&shared))).await;
        Receiver {
            address: address.to_string(),
            state,
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

    /// The requests so far.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.state.lock().unwrap().received.clone()
    }

    /// The requests since the last call.
    pub(crate) fn take(&self) -> Vec<Received> {
        std::mem::take(&mut self.state.lock().unwrap().received)
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    while let Some(request) = next_request(&mut stream).await {
        // Quoted in the answer, because real receivers may do so.
        let quoted = format!("{} {:?}", request.target(), request.header("authorization"));
        let status = {
            let mut state = state.lock().unwrap();
            state.received.push(request);
            state.statuses.pop_front().unwrap_or(200)
        };
        let length = quoted.len();
        let answer =
            format!("HTTP/1.1 {status} Status\r\ncontent-length: {length}\r\n\r\n{quoted}");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
