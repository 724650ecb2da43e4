//! Small servers and their requests, and pages as a client reads them.

use std::net::SocketAddr;

use futures_util::future::join_all;
use swr_emulator::Emulator;
use swr_sync::build_history::{HistoryOutcome, RepositoryPath};
use swr_sync::registry::{CatalogPages, Registry, RegistryError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Listens on a free port, and serves each connection with this function until the test ends.
pub(crate) async fn listen<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// A received request.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    /// Request line and headers, with the empty line.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Received {
    pub(crate) fn method(&self) -> &str {
        self.head.split(' ').next().unwrap()
    }

    /// Path and query.
    pub(crate) fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
        let header = headers.find(|(known, _)| known.eq_ignore_ascii_case(name));
        header.map(|(_, value)| value)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

/// The next request on a connection; `None` if it ends. The client must not send another one before its
/// answer.
pub(crate) async fn next_request(stream: &mut TcpStream) -> Option<Received> {
    let mut input = Vec::new();
    let length = loop {
        if stream.read_buf(&mut input).await.ok()? == 0 {
            return None;
        }
        if let Some(end) = input.windows(4).position(|end| end == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let body = input.split_off(length);
    let head = String::from_utf8(input).unwrap();
    let mut received = Received { head, body };
    let length = received
        .header("content-length")
        .map_or(0, |length| length.parse().unwrap());
    while received.body.len() < length {
        if stream.read_buf(&mut received.body).await.ok()? == 0 {
            return None;
        }
    }
    Some(received)
}

/// A server with just enough of PostgreSQL's protocol to request a password and to refuse it, because the
/// test servers accept any. Returns its address, and a channel with the received password.
pub(crate) async fn asking_database() -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let (told, passwords) = mpsc::unbounded_channel();
    let address = listen(move |mut stream| {
        let told = told.clone();
        async move {
            let startup = stream.read_u32().await.unwrap() - 4;
            let mut parameters = vec![0; startup as usize];
            stream.read_exact(&mut parameters).await.unwrap();
            // AuthenticationCleartextPassword.
            stream.write_all(b"R\0\0\0\x08\0\0\0\x03").await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), b'p');
            let mut given = vec![0; stream.read_u32().await.unwrap() as usize - 4];
            stream.read_exact(&mut given).await.unwrap();
            given.pop();
            told.send(String::from_utf8(given).unwrap()).unwrap();
            let refusal = refusal("28P01", "password authentication failed for user \"user\"");
            stream.write_all(&refusal).await.unwrap();
        }
    })
    .await;
    (address, passwords)
}

/// What PostgreSQL sends when it refuses a connection, with this SQLSTATE.
pub(crate) fn refusal(code: &str, message: &str) -> Vec<u8> {
    let fields = format!("SFATAL\0VFATAL\0C{code}\0M{message}\0\0");
    let mut answer = vec![b'E'];
    answer.extend((fields.len() as u32 + 4).to_be_bytes());
    answer.extend(fields.as_bytes());
    answer
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

/// Sends one raw request, and returns the whole answer.
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

/// A port without a listener.
pub(crate) fn closed_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
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

/// Requests this many build histories of an image of `team/app/api` concurrently.
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
