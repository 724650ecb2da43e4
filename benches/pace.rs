//! How much of a limit that it does not know the client uses, and how often it is refused.
//!
//! `cargo bench --bench pace` runs a client without caps against an emulated gateway for each
//! limit and latency, all at the same time over real sockets: 60 s, then the limit changes, then
//! 60 s more. The message of a 429 does not quote the limit; `-- quoted` makes it do so,
//! `-- retry-after` adds a `Retry-After` of a second, and a number is the length of each of the
//! four phases in seconds, 30 by default.
//!
//! The shares are requests let through, of those permitted in that time. A rested bucket holds
//! the requests of one second, so the first phase can reach more than 100 %.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use futures_util::{StreamExt, future, stream};
use swr_sync::build_history::RepositoryPath;
use swr_sync::clock::Clock;
use swr_sync::emulator::{ArtifactSpec, Emulator, EmulatorSettings, Throttle, World};
use swr_sync::registry::signature::SigningKey;
use swr_sync::registry::{Credentials, ProjectSettings, Registry, TransportSettings};
use tokio::time::Instant;

/// Limits before and after the change.
const LIMITS: [(u32, u32); 4] = [(20, 100), (100, 25), (100, 400), (400, 100)];
const LATENCIES_MS: [u64; 3] = [5, 50, 500];

#[derive(Clone, Copy)]
struct Flavour {
    quotes_limit: bool,
    retry_after: Option<Duration>,
    phase: Duration,
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let seconds = arguments.iter().find_map(|argument| argument.parse().ok());
    let flavour = Flavour {
        quotes_limit: has("quoted"),
        retry_after: has("retry-after").then_some(Duration::from_secs(1)),
        phase: Duration::from_secs(seconds.unwrap_or(30)),
    };
    let cases = LIMITS
        .iter()
        .flat_map(|limits| LATENCIES_MS.map(|latency_ms| case(*limits, latency_ms, flavour)));
    let rows = future::join_all(cases).await;

    let seconds = flavour.phase.as_secs();
    println!(
        "limit quoted: {}, Retry-After: {}, phases of {seconds} s",
        flavour.quotes_limit,
        flavour
            .retry_after
            .map_or("none".to_owned(), |delay| format!("{} s", delay.as_secs()))
    );
    println!("| limit /s | latency | first | then | limit becomes | next | then | throttled |");
    println!("|---|---|---|---|---|---|---|---|");
    for row in rows {
        println!("{row}");
    }
}

/// One client and one gateway; gives a row of the table.
async fn case(limits: (u32, u32), latency_ms: u64, flavour: Flavour) -> String {
    let clock = Clock::system();
    let mut world = World::empty(clock.now());
    world.add_namespace("team");
    let repository = world.add_repository("team", "app");
    world
        .add_artifact(repository, ArtifactSpec::default())
        .unwrap();
    let digest = world.artifacts().next().unwrap().digest().to_string();
    let throttle = |requests_per_second| {
        Some(Throttle {
            requests_per_second,
            burst: requests_per_second,
            retry_after: flavour.retry_after,
            quotes_limit: flavour.quotes_limit,
        })
    };
    let settings = EmulatorSettings {
        latency: Duration::from_millis(latency_ms),
        throttle: throttle(limits.0),
        ..EmulatorSettings::default()
    };
    let emulator = Emulator::start(settings, world).await.unwrap();
    let registry = Registry::new(client(&emulator), &emulator.settings().instance_id).unwrap();
    let path = RepositoryPath {
        namespace: "team".to_owned(),
        name: "app".to_owned(),
    };

    let asking = stream::repeat(()).for_each_concurrent(registry.max_in_flight(), |()| async {
        registry.build_history(&path, &digest).await.unwrap();
    });
    let measuring = async {
        let mut shares = Vec::new();
        for limit in [limits.0, limits.1] {
            emulator.set_throttle(throttle(limit));
            for _ in 0..2 {
                let (begin, before) = (Instant::now(), emulator.requests().with_status(200));
                tokio::time::sleep(flavour.phase).await;
                let let_through = emulator.requests().with_status(200) - before;
                let permitted = f64::from(limit) * begin.elapsed().as_secs_f64();
                shares.push(100.0 * let_through as f64 / permitted);
            }
        }
        shares
    };
    let shares = tokio::select! {
        shares = measuring => shares,
        () = asking => unreachable!("there is always something to ask"),
    };
    let requests = emulator.requests();
    let throttled = 100.0 * requests.with_status(429) as f64 / requests.total() as f64;
    emulator.stop().await;
    format!(
        "| {} | {latency_ms} ms | {:.1} % | {:.1} % | {} | {:.1} % | {:.1} % | {throttled:.2} % |",
        limits.0, shares[0], shares[1], limits.1, shares[2], shares[3]
    )
}

fn client(emulator: &Emulator) -> ProjectSettings {
    let settings = emulator.settings();
    ProjectSettings {
        endpoint: emulator.endpoint().parse().unwrap(),
        project_id: settings.project_id.clone(),
        credentials: Credentials::Key(SigningKey {
            access_key: settings.credentials.access_key.clone(),
            secret_key: settings.credentials.secret_key.clone(),
            security_token: None,
        }),
        transport: TransportSettings {
            max_requests_per_second: None,
            max_in_flight: 1024,
            ..TransportSettings::default()
        },
        redact_commands: false,
        clock: Clock::system(),
    }
}
