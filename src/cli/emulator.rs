//! `swr-sync emulator`: serves the emulated SWR API until it is stopped.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use chrono::TimeDelta;
use secrecy::ExposeSecret;
use tokio::signal::unix::{SignalKind, signal};

use super::exit::{Exit, Failure};
use crate::emulator::{Authentication, Emulator, EmulatorSettings, Throttle, World};

/// Arguments of `emulator`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen; port 0 takes any free one
    #[arg(long, env = "EMULATOR_LISTEN", default_value = "127.0.0.1:8085")]
    listen: SocketAddr,
    /// How many artifacts the generated registry has
    #[arg(long, env = "EMULATOR_ARTIFACTS", default_value_t = 2000)]
    artifacts: usize,
    /// What the registry is generated from; the same seed gives the same registry
    #[arg(long, env = "EMULATOR_SEED", default_value_t = 1)]
    seed: u64,
    /// How long each answer waits, in milliseconds
    #[arg(long, env = "EMULATOR_LATENCY_MS", default_value_t = 0)]
    latency_ms: u64,
    /// Answer 429 beyond this rate
    #[arg(long, env = "EMULATOR_REQUESTS_PER_SECOND")]
    requests_per_second: Option<u32>,
    /// Ask nobody for credentials, for trying the API by hand
    #[arg(long, env = "EMULATOR_NO_AUTH")]
    no_auth: bool,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unexpected)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(unexpected)?;

    let settings = settings(&args);
    // An hour's room for the changes to come.
    let now = settings.clock.now() - TimeDelta::hours(1);
    let world = World::generate(args.seed, args.artifacts, now);
    let size = format!(
        "{} artifacts in {} repositories",
        world.artifacts().len(),
        world.repositories().len()
    );
    let emulator = Emulator::start(settings, world).await.map_err(|source| {
        let address = args.listen;
        Failure::new(Exit::Unexpected, CannotListen { address, source })
            .hint("choose another address with --listen")
    })?;
    introduce(&emulator, &size).map_err(unexpected)?;

    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    emulator.stop().await;
    // Being stopped is how a server is meant to end.
    Ok(Exit::Success)
}

#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
struct CannotListen {
    address: SocketAddr,
    source: std::io::Error,
}

fn settings(args: &Args) -> EmulatorSettings {
    let throttle = args.requests_per_second.map(|rate| Throttle {
        requests_per_second: rate,
        burst: rate,
        retry_after: None,
        quotes_limit: true,
    });
    EmulatorSettings {
        listen: args.listen,
        latency: Duration::from_millis(args.latency_ms),
        throttle,
        authentication: if args.no_auth {
            Authentication::Off
        } else {
            Authentication::Required
        },
        ..EmulatorSettings::default()
    }
}

/// Prints what a client needs, ready to be pasted into a shell.
fn introduce(emulator: &Emulator, size: &str) -> std::io::Result<()> {
    let EmulatorSettings {
        project_id,
        instance_id,
        credentials,
        ..
    } = emulator.settings();
    let endpoint = emulator.endpoint();
    let mut out = std::io::stdout().lock();
    writeln!(out, "# The emulated SWR API, {size}: {endpoint}")?;
    writeln!(out, "export SWR_ENDPOINT={endpoint}")?;
    writeln!(out, "export SWR_PROJECT_ID={project_id}")?;
    writeln!(out, "export SWR_INSTANCE_ID={instance_id}")?;
    writeln!(out, "export HUAWEICLOUD_SDK_AK={}", credentials.access_key)?;
    // The emulator's own key, which opens nothing else.
    writeln!(
        out,
        "export HUAWEICLOUD_SDK_SK={}",
        credentials.secret_key.expose_secret()
    )
}

fn unexpected(error: std::io::Error) -> Failure {
    Failure::new(Exit::Unexpected, error)
}
