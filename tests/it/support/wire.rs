//! Requests as a server reads them, and pages as a client reads them.

use std::net::TcpListener;

use futures_util::future::join_all;
use swr_emulator::Emulator;
use swr_sync::build_history::{HistoryOutcome, RepositoryPath};
use swr_sync::registry::{CatalogPages, Registry, RegistryError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The target of the next request on a connection; `None` if it ends. The request must be a GET, and
/// the client must not send another one before its answer.
pub(crate) async fn next_target(stream: &mut TcpStream) -> Option<String> {
    let mut input = Vec::new();
    while !input.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut input).await.ok()? == 0 {
            return None;
        }
    }
    let head = String::from_utf8(input).unwrap();
    Some(head.split(' ').nth(1).unwrap().to_owned())
}

/// All rows of all readings, page by page.
pub(crate) async fn all_pages<T: Send + 'static>(
    mut pages: CatalogPages<T>,
) -> Result<Vec<Vec<T>>, RegistryError> {
    let mut all = Vec::new();
    while let Some(page) = pages.next().await? {
        all.push(page.rows);
    }
    Ok(all)
}

/// One request by hand; the whole answer.
pub(crate) async fn http(emulator: &Emulator, request: &str, headers: &str, body: &str) -> String {
    let address = emulator.endpoint().replace("http://", "");
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let request = format!(
        "{request} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// A port at which nobody answers.
pub(crate) fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Lists all artifacts and counts them.
pub(crate) async fn list(registry: &Registry) -> Result<usize, RegistryError> {
    let mut pages = registry.artifact_pages();
    let mut count = 0;
    while let Some(page) = pages.next().await? {
        count += page.rows.len();
    }
    Ok(count)
}

/// Asks for as many build histories of an image of `team/app/api` at the same time.
pub(crate) async fn ask_for_histories(
    registry: &Registry,
    emulator: &Emulator,
    count: usize,
) -> Vec<Result<HistoryOutcome, RegistryError>> {
    let digest =
        emulator.with_world(|world| world.artifacts().next().unwrap().digest().to_string());
    let path = RepositoryPath {
        namespace: "team".into(),
        name: "app/api".into(),
    };
    join_all((0..count).map(|_| async {
        let fetched = registry.build_history(&path, &digest).await?;
        Ok(fetched.outcome)
    }))
    .await
}
