//! PostgreSQL in a container.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use testcontainers::bollard::query_parameters::{
    ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};
use testcontainers::bollard::{API_DEFAULT_VERSION, Docker};
use testcontainers::core::IntoContainerPort;
use testcontainers::core::client::{ClientError, docker_client_instance};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};
use tokio::time::timeout;

use super::{LEFTOVER_AGE, chain, random, unix_seconds, warn};
use crate::support::assert_starts_with;

/// Timeout to detect an engine that accepts connections and never answers.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Includes pulling the image.
const START_TIMEOUT: Duration = Duration::from_secs(120);

const DEFAULT_IMAGE: &str = "postgres:17-alpine";

/// The label that identifies containers of killed test runs.
const LABEL: &str = "io.github.swr-sync.test-database";

const PORT: u16 = 5432;

/// Removed by [`PostgresContainer::remove`], or by a later test run.
pub(super) struct PostgresContainer {
    container: ContainerAsync<GenericImage>,
    url: String,
}

impl PostgresContainer {
    pub(super) async fn start() -> Result<PostgresContainer, String> {
        let engine = engine().await?;
        remove_leftovers(&engine).await;

        let image = std::env::var("TEST_POSTGRES_IMAGE").unwrap_or_else(|_| DEFAULT_IMAGE.into());
        // The port of a registry has a colon too, but is followed by a slash.
        let (name, tag) = match image.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, tag),
            _ => (image.as_str(), "latest"),
        };
        let container_name = format!("swr-sync-test-{:016x}", random());
        let password = format!("{:016x}", random());
        let request = GenericImage::new(name, tag)
            .with_exposed_port(PORT.tcp())
            .with_container_name(&container_name)
            .with_label(LABEL, "")
            .with_env_var("POSTGRES_USER", "swr")
            .with_env_var("POSTGRES_PASSWORD", &password)
            .with_cmd([
                "postgres",
                "-c",
                "fsync=off",
                "-c",
                "synchronous_commit=off",
                "-c",
                "full_page_writes=off",
            ])
            .with_startup_timeout(START_TIMEOUT);

        let started = timeout(START_TIMEOUT, async {
            let container = request.start().await.map_err(|error| chain(&error))?;
            let host = container.get_host().await.map_err(|error| chain(&error))?;
            let port = container
                .get_host_port_ipv4(PORT)
                .await
                .map_err(|error| chain(&error))?;
            let url = format!("postgresql://swr:{password}@{host}:{port}/swr");
            wait_until_ready(&url).await?;
            Ok::<_, String>(PostgresContainer { container, url })
        });
        match started.await {
            Ok(Ok(container)) => Ok(container),
            Ok(Err(error)) => {
                remove(&engine, &container_name).await;
                Err(format!("{image} does not start: {error}"))
            }
            Err(_) => {
                remove(&engine, &container_name).await;
                Err(format!("{image} has not started within {START_TIMEOUT:?}"))
            }
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) async fn remove(self) {
        match timeout(PING_TIMEOUT * 4, self.container.rm()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn(&format!("removing the test container: {}", chain(&error))),
            Err(_) => warn("removing the test container: no answer"),
        }
    }
}

async fn engine() -> Result<Docker, String> {
    ping(docker_client_instance(), PING_TIMEOUT).await
}

async fn ping(
    engine: impl Future<Output = Result<Docker, ClientError>>,
    patience: Duration,
) -> Result<Docker, String> {
    let ping = async {
        let engine = engine.await.map_err(|error| chain(&error))?;
        engine.ping().await.map_err(|error| chain(&error))?;
        Ok::<_, String>(engine)
    };
    match timeout(patience, ping).await {
        Ok(Ok(engine)) => Ok(engine),
        Ok(Err(error)) => Err(format!("no container engine answers: {error}")),
        Err(_) => Err(format!("no container engine answers within {patience:?}")),
    }
}

/// The image starts PostgreSQL twice. The first server, which initializes the data directory,
/// does not listen on the network, so a connection over the network reaches the second.
async fn wait_until_ready(url: &str) -> Result<(), String> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        let connect = timeout(PING_TIMEOUT, PgConnection::connect(url));
        match connect.await {
            Ok(Ok(connection)) => {
                let _ = connection.close().await;
                return Ok(());
            }
            Ok(Err(error)) if Instant::now() > deadline => return Err(chain(&error)),
            Err(_) if Instant::now() > deadline => return Err("no answer".to_owned()),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Removes the containers of test runs that were killed.
async fn remove_leftovers(engine: &Docker) {
    let ours = HashMap::from([("label", vec![LABEL])]);
    let options = ListContainersOptionsBuilder::new()
        .all(true)
        .filters(&ours)
        .build();
    let listed = timeout(PING_TIMEOUT, engine.list_containers(Some(options))).await;
    let Ok(Ok(containers)) = listed else {
        return;
    };
    for container in containers {
        let created_at = container.created.and_then(|at| u64::try_from(at).ok());
        let is_old = created_at
            .is_some_and(|created_at| unix_seconds() > created_at + LEFTOVER_AGE.as_secs());
        if let Some(id) = container.id
            && is_old
        {
            remove(engine, &id).await;
        }
    }
}

/// Removes a container, by name or id, if it exists.
async fn remove(engine: &Docker, container: &str) {
    let options = RemoveContainerOptionsBuilder::new()
        .force(true)
        .v(true)
        .build();
    let _ = timeout(
        PING_TIMEOUT * 4,
        engine.remove_container(container, Some(options)),
    )
    .await;
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_reported_at_once() {
    let nowhere = Docker::connect_with_http("http://127.0.0.1:1", 120, API_DEFAULT_VERSION);
    let error = ping(async { Ok(nowhere.unwrap()) }, PING_TIMEOUT)
        .await
        .unwrap_err();
    assert_starts_with(&error, "no container engine answers: ");
}

#[tokio::test]
async fn an_engine_that_never_answers_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let _silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let socket = socket.to_str().unwrap();
    let silent = Docker::connect_with_unix(socket, 120, API_DEFAULT_VERSION);
    let patience = Duration::from_millis(100);
    let error = ping(async { Ok(silent.unwrap()) }, patience)
        .await
        .unwrap_err();
    assert_eq!(error, "no container engine answers within 100ms");
}
