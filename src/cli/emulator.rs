//! `swr-sync emulator`: serves the emulated SWR API until it is stopped.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use secrecy::ExposeSecret;
use tokio::signal::unix::{SignalKind, signal};

use super::exit::{Exit, Failure};
use super::report::parse_time;
use super::telemetry::Telemetry;
use swr_emulator::{
    Authentication, Emulator, EmulatorSettings, FaultPlan, Quirks, Throttle, World, WorldSettings,
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Serve the emulated SWR API
    #[command(after_help = AFTER_HELP)]
    Emulator(Args),
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address to listen on; port 0 selects a free port
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "EMULATOR_LISTEN",
        default_value = "127.0.0.1:8085"
    )]
    listen: SocketAddr,
    /// Number of artifacts in the generated registry
    #[arg(
        long,
        value_name = "N",
        env = "EMULATOR_ARTIFACTS",
        default_value_t = 2000
    )]
    artifacts: usize,
    /// Number of instances in the project, each with its own registry
    #[arg(long, env = "EMULATOR_INSTANCES", value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    instances: u32,
    /// Seed of the generated registry; the same seed and time generate the same registry
    #[arg(long, value_name = "SEED", env = "EMULATOR_SEED", default_value_t = 1)]
    seed: u64,
    /// Time of the latest push in the generated registry, such as 2026-03-01T00:00:00Z; by default the
    /// start of the day in UTC
    ///
    /// All times and digests depend on it. With a fixed time, a restart on another day serves the same
    /// registry again.
    #[arg(long, value_name = "TIMESTAMP", env = "EMULATOR_NOW", value_parser = parse_time)]
    now: Option<DateTime<Utc>>,
    /// Delay of each response, in milliseconds
    #[arg(
        long,
        value_name = "MS",
        env = "EMULATOR_LATENCY_MS",
        default_value_t = 0
    )]
    latency_ms: u64,
    /// Maximum number of requests per second; more are answered with 429
    #[arg(long, value_name = "N", env = "EMULATOR_REQUESTS_PER_SECOND")]
    requests_per_second: Option<u32>,
    /// Inject faults into some requests; the number is the seed of a random mixture
    ///
    /// The faults include throttling, server errors, broken connections, damaged bodies, unusual markers
    /// and rows, missing responses, and changes during a listing. Rows and build histories also
    /// get unusual values. The same number injects the same faults into the same requests.
    #[arg(long, env = "EMULATOR_FAULTS", value_name = "SEED")]
    faults: Option<u64>,
    /// Accept requests without credentials, for trying the API by hand
    #[arg(long, env = "EMULATOR_NO_AUTH")]
    no_auth: bool,
}

const AFTER_HELP: &str = "\
Prints the settings that `sync` needs as shell commands, and serves until it is stopped. It checks
signatures and tokens like the real gateway. Its key is valid only here.

Examples:
  swr-sync emulator
  swr-sync emulator --artifacts 20000 --latency-ms 10 --requests-per-second 200
  swr-sync emulator --faults 7                  the same faults each time
  swr-sync emulator --now 2026-03-01T00:00:00Z  the same registry on each day";

pub(super) async fn run(command: Command, _: &Telemetry) -> Result<Exit, Failure> {
    let Command::Emulator(args) = command;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unexpected)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(unexpected)?;

    let settings = settings(&args);
    let started_at = settings.clock.now();
    let start_of_day = started_at.duration_trunc(TimeDelta::days(1));
    let now = args.now.or(start_of_day.ok()).unwrap_or(started_at);
    let mut quirks = Quirks::default();
    if args.faults.is_some() {
        (quirks.hostile, quirks.id_leaps) = (0.05, 0.01);
    }
    let world = |number: u32| {
        World::generate_with(&WorldSettings {
            seed: args.seed.wrapping_add(number.into()),
            artifacts: args.artifacts,
            now,
            quirks: quirks.clone(),
        })
    };
    let first = world(0);
    let mut size = format!(
        "{} artifacts in {} repositories",
        first.artifacts().len(),
        first.repositories().len()
    );
    let emulator = Emulator::start(settings, first).await.map_err(|source| {
        let address = args.listen;
        Failure::new(Exit::Unexpected, CannotListen { address, source })
            .hint("choose another address with --listen")
    })?;
    for number in 1..args.instances {
        emulator.add_instance(emulator.settings().further_instance(number), world(number));
    }
    if args.instances > 1 {
        size = format!("{} instances, the first with {size}", args.instances);
    }
    emulator.set_faults(args.faults.map(FaultPlan::random));
    introduce(&emulator, &size, args.instances).map_err(unexpected)?;

    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    emulator.stop().await;
    // A server normally ends by a signal.
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

/// Prints the client's settings as shell commands.
fn introduce(emulator: &Emulator, size: &str, instances: u32) -> std::io::Result<()> {
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
    let instance_id = match instances {
        1 => instance_id,
        _ => "all",
    };
    writeln!(out, "export SWR_INSTANCE_ID={instance_id}")?;
    writeln!(out, "export HUAWEICLOUD_SDK_AK={}", credentials.access_key)?;
    // The emulator's own key, which is valid only for the emulator.
    writeln!(
        out,
        "export HUAWEICLOUD_SDK_SK={}",
        credentials.secret_key.expose_secret()
    )
}

fn unexpected(error: std::io::Error) -> Failure {
    Failure::new(Exit::Unexpected, error)
}
