//! A proxy between the program and a server that delays or withholds data, or cuts connections.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Url;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::wire::refusal;

/// What the proxy does with the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// Forwards the data after this delay.
    Passing(Duration),
    /// Withholds the data.
    Silent,
}

#[derive(Debug, Clone)]
enum Upstream {
    Tcp(String),
    Unix(PathBuf),
}

/// Listens on a free port until it is dropped.
pub(crate) struct Proxy {
    address: String,
    flow: watch::Sender<Flow>,
    cuts: watch::Sender<u64>,
    accepted: Arc<AtomicUsize>,
    refusals: Arc<Mutex<Vec<Vec<u8>>>>,
    serving: JoinHandle<()>,
}

impl Proxy {
    /// A proxy in front of the server of a database URL.
    pub(crate) async fn before_database(url: &str) -> Proxy {
        let url: Url = url.parse().unwrap();
        let port = url.port().unwrap_or(5432);
        let socket_dir = url.query_pairs().find(|(name, _)| name == "host");
        Proxy::before(match socket_dir {
            Some((_, folder)) => {
                Upstream::Unix(PathBuf::from(&*folder).join(format!(".s.PGSQL.{port}")))
            }
            None => Upstream::Tcp(format!("{}:{port}", url.host_str().unwrap())),
        })
        .await
    }

    /// A proxy in front of an HTTP endpoint.
    pub(crate) async fn before_endpoint(endpoint: &str) -> Proxy {
        let url: Url = endpoint.parse().unwrap();
        let address = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
        Proxy::before(Upstream::Tcp(address)).await
    }

    async fn before(upstream: Upstream) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let flow = watch::Sender::new(Flow::Passing(Duration::ZERO));
        let cuts = watch::Sender::new(0);
        let accepted = Arc::default();
        let refusals = Arc::default();
        let serving = tokio::spawn(serve(
            listener,
            upstream,
            flow.clone(),
            cuts.clone(),
            Arc::clone(&accepted),
            Arc::clone(&refusals),
        ));
        Proxy {
            address,
            flow,
            cuts,
            accepted,
            refusals,
            serving,
        }
    }

    /// The database URL with the address of the proxy.
    pub(crate) fn database_url(&self, url: &str) -> String {
        let url: Url = url.parse().unwrap();
        let user = match url.username() {
            "" => "postgres",
            user => user,
        };
        let password = url.password().unwrap_or("password-not-to-be-shown");
        format!(
            "postgresql://{user}:{password}@{}{}",
            self.address,
            url.path()
        )
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Delays each piece of data by this time.
    pub(crate) fn delay(&self, delay: Duration) {
        self.flow.send_replace(Flow::Passing(delay));
    }

    /// Withholds the data of both sides without closing connections.
    pub(crate) fn fall_silent(&self) {
        self.flow.send_replace(Flow::Silent);
    }

    /// Forwards data again.
    pub(crate) fn pass(&self) {
        self.delay(Duration::ZERO);
    }

    /// Closes all current connections. New ones are accepted.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|count| *count += 1);
    }

    /// Number of connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Refuses the next PostgreSQL connection with this SQLSTATE and message. Calls queue up.
    pub(crate) fn refuse_next(&self, code: &str, message: &str) {
        let refusal = refusal(code, message);
        self.refusals.lock().unwrap().push(refusal);
    }

    /// Queued refusals that no connection has received.
    pub(crate) fn refusals_left(&self) -> usize {
        self.refusals.lock().unwrap().len()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(
    listener: TcpListener,
    upstream: Upstream,
    flow: watch::Sender<Flow>,
    cuts: watch::Sender<u64>,
    accepted: Arc<AtomicUsize>,
    refusals: Arc<Mutex<Vec<Vec<u8>>>>,
) {
    // Subtasks that are aborted together with this task.
    let mut tasks = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        accepted.fetch_add(1, Ordering::Relaxed);
        let refusal = refusals.lock().unwrap().pop();
        let (upstream, flow) = (upstream.clone(), flow.subscribe());
        let mut cuts = cuts.subscribe();
        tasks.spawn(async move {
            tokio::select! {
                () = join(client, upstream, flow, refusal) => {}
                _ = cuts.changed() => {}
            }
        });
    }
}

async fn join(
    mut client: TcpStream,
    upstream: Upstream,
    flow: watch::Receiver<Flow>,
    refusal: Option<Vec<u8>>,
) {
    let _ = client.set_nodelay(true);
    if let Some(refusal) = refusal {
        refuse(&mut client, &refusal).await;
        return;
    }
    let (from_client, to_client) = client.into_split();
    // A broken connection ends both directions. Tests cause this on purpose.
    match upstream {
        Upstream::Tcp(address) => {
            let Ok(server) = TcpStream::connect(address).await else {
                return;
            };
            let _ = server.set_nodelay(true);
            let (from_server, to_server) = server.into_split();
            tokio::select! {
                () = copy(from_client, to_server, flow.clone()) => {}
                () = copy(from_server, to_client, flow) => {}
            }
        }
        Upstream::Unix(path) => {
            let Ok(server) = UnixStream::connect(path).await else {
                return;
            };
            let (from_server, to_server) = server.into_split();
            tokio::select! {
                () = copy(from_client, to_server, flow.clone()) => {}
                () = copy(from_server, to_client, flow) => {}
            }
        }
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut flow: watch::Receiver<Flow>,
) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let Ok(flow) = flow
            .wait_for(|flow| *flow != Flow::Silent)
            .await
            .map(|flow| *flow)
        else {
            return;
        };
        if let Flow::Passing(delay) = flow
            && !delay.is_zero()
        {
            tokio::time::sleep(delay).await;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// Declines TLS, if requested, and then refuses the connection.
async fn refuse(client: &mut TcpStream, refusal: &[u8]) {
    const TLS_REQUEST: u32 = 80_877_103;
    loop {
        let mut head = [0; 8];
        if client.read_exact(&mut head).await.is_err() {
            return;
        }
        let length = u32::from_be_bytes(head[..4].try_into().unwrap());
        let mut rest = vec![0; length as usize - 8];
        if client.read_exact(&mut rest).await.is_err() {
            return;
        }
        if head[4..] == TLS_REQUEST.to_be_bytes() {
            let _ = client.write_all(b"N").await;
            continue;
        }
        let _ = client.write_all(refusal).await;
        let _ = client.shutdown().await;
        return;
    }
}
