//! Measures which share of a gateway's limit the client uses, and how many of its requests are refused.
//!
//! `cargo bench --bench pace` runs a client against an emulated gateway for each case, over real
//! sockets, several cases at a time:
//!
//! - `modes`: gateways whose latency or limit varies, and a client with the default caps. Measured
//!   for a minute, after ten seconds.
//! - `limits`: gateways with a fixed limit, and a client without a cap. 60 s, then the limit
//!   changes, then 60 s more. The message of a 429 does not quote the limit, except with `-- quoted`;
//!   `-- retry-after` adds a `Retry-After` of a second.
//!
//! `-- modes` and `-- limits` run only one of the tables. A full token bucket holds the requests of one
//! second, so a share can exceed 100 %.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use futures_util::{StreamExt, stream};
use swr_emulator::{
    ArtifactSpec, Emulator, EmulatorSettings, Load, SlowTail, Stalls, Swing, Throttle, World,
};
use swr_sync::build_history::RepositoryPath;
use swr_sync::clock::Clock;
use swr_sync::registry::signature::SigningKey;
use swr_sync::registry::{Credentials, ProjectSettings, Registry, TransportSettings};
use tokio::time::Instant;

const START: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);
const PHASE: Duration = Duration::from_secs(30);
const SIMULTANEOUS: usize = 2;

/// Limits before and after the change.
const LIMITS: [(u32, u32); 4] = [(20, 100), (100, 25), (100, 400), (400, 100)];
const LATENCIES_MS: [u64; 3] = [5, 50, 500];

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    if !has("limits") {
        println!("| mode | possible /s | used | refused | most in flight |");
        println!("|---|---:|---:|---:|---:|");
        print_rows(modes().map(Mode::measure)).await;
    }
    if has("modes") {
        return;
    }
    let flavour = Throttle {
        quotes_limit: has("quoted"),
        retry_after: has("retry-after").then_some(Duration::from_secs(1)),
        ..throttle(0)
    };
    println!("\n| limit /s | latency | first | then | limit becomes | next | then | refused |");
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|");
    let cases = LIMITS
        .iter()
        .flat_map(|limits| LATENCIES_MS.map(|latency_ms| limit(*limits, latency_ms, flavour)));
    print_rows(cases).await;
}

/// Number of concurrent cases: few, so that each client has enough CPU time.
async fn print_rows(cases: impl Iterator<Item = impl Future<Output = String> + Send + 'static>) {
    let mut rows = stream::iter(cases.map(tokio::spawn)).buffered(SIMULTANEOUS);
    while let Some(row) = rows.next().await {
        println!("{}", row.unwrap());
    }
}

struct Mode {
    name: &'static str,
    possible_per_second: f64,
    load: Load,
    throttle: Option<Throttle>,
}

fn modes() -> impl Iterator<Item = Mode> {
    let cap = TransportSettings::default()
        .max_requests_per_second
        .unwrap();
    let mode = |name, load| Mode {
        name,
        possible_per_second: cap,
        load,
        throttle: None,
    };
    let load = Load::default();
    let slow_tail = Some(SlowTail {
        share: 0.1,
        latency: Duration::from_secs(3),
    });
    let stalls = Some(Stalls {
        every: Duration::from_secs(15),
        lasting: Duration::from_secs(3),
    });
    let limit_swing = Some(Swing {
        share: 0.6,
        period: MINUTE,
    });
    [
        mode("40 ms", load),
        mode(
            "jitter, median 40 ms",
            Load {
                jitter: 1.0,
                ..load
            },
        ),
        mode("one answer in ten takes 3 s", Load { slow_tail, ..load }),
        Mode {
            possible_per_second: cap * 12.0 / 15.0,
            ..mode("no answers for 3 s of 15", Load { stalls, ..load })
        },
        Mode {
            possible_per_second: 100.0,
            ..mode(
                "a serial worker, 100/s",
                Load {
                    serial_worker: Some(100),
                    ..load
                },
            )
        },
        Mode {
            possible_per_second: 100.0,
            throttle: Some(throttle(100)),
            ..mode(
                "a limit between 40 and 160/s",
                Load {
                    limit_swing,
                    ..load
                },
            )
        },
    ]
    .into_iter()
}

impl Mode {
    /// Gives a row of the table.
    async fn measure(self) -> String {
        let settings = EmulatorSettings {
            latency: Duration::from_millis(40),
            load: self.load,
            throttle: self.throttle,
            ..EmulatorSettings::default()
        };
        let gateway = Gateway::start(settings).await;
        let measuring = async {
            tokio::time::sleep(START).await;
            gateway.emulator.reset_requests();
            gateway.let_through_per_second(MINUTE).await
        };
        let used = gateway
            .while_asking(TransportSettings::default(), measuring)
            .await;
        format!(
            "| {} | {:.0} | {:.1} % | {:.2} % | {} |",
            self.name,
            self.possible_per_second,
            100.0 * used / self.possible_per_second,
            gateway.refused_percent(),
            gateway.emulator.requests().peak_in_flight
        )
    }
}

/// Gives a row of the table.
async fn limit(limits: (u32, u32), latency_ms: u64, flavour: Throttle) -> String {
    let throttled_to = |limit| {
        Some(Throttle {
            retry_after: flavour.retry_after,
            quotes_limit: flavour.quotes_limit,
            ..throttle(limit)
        })
    };
    let settings = EmulatorSettings {
        latency: Duration::from_millis(latency_ms),
        throttle: throttled_to(limits.0),
        ..EmulatorSettings::default()
    };
    let gateway = Gateway::start(settings).await;
    let measuring = async {
        let mut shares = Vec::new();
        for limit in [limits.0, limits.1] {
            gateway.emulator.set_throttle(throttled_to(limit));
            for _ in 0..2 {
                let used = gateway.let_through_per_second(PHASE).await;
                shares.push(100.0 * used / f64::from(limit));
            }
        }
        shares
    };
    let client = TransportSettings {
        max_requests_per_second: None,
        max_in_flight: 1024,
        ..TransportSettings::default()
    };
    let shares = gateway.while_asking(client, measuring).await;
    format!(
        "| {} | {latency_ms} ms | {:.1} % | {:.1} % | {} | {:.1} % | {:.1} % | {:.2} % |",
        limits.0,
        shares[0],
        shares[1],
        limits.1,
        shares[2],
        shares[3],
        gateway.refused_percent()
    )
}

/// A bucket for the requests of one second.
fn throttle(requests_per_second: u32) -> Throttle {
    Throttle {
        requests_per_second,
        burst: requests_per_second,
        retry_after: None,
        quotes_limit: false,
    }
}

/// A gateway to a registry with one artifact.
struct Gateway {
    emulator: Emulator,
    digest: String,
}

impl Gateway {
    async fn start(settings: EmulatorSettings) -> Gateway {
        let mut world = World::empty(Clock::system().now());
        world.add_namespace("team");
        let repository = world.add_repository("team", "app");
        world
            .add_artifact(repository, ArtifactSpec::default())
            .unwrap();
        let digest = world.artifacts().next().unwrap().digest().to_string();
        let emulator = Emulator::start(settings, world).await.unwrap();
        Gateway { emulator, digest }
    }

    /// Requests the build history, as often as the client allows, until `measuring` ends.
    async fn while_asking<T>(
        &self,
        transport: TransportSettings,
        measuring: impl Future<Output = T>,
    ) -> T {
        let settings = self.emulator.settings();
        let project = ProjectSettings {
            endpoint: self.emulator.endpoint().parse().unwrap(),
            project_id: settings.project_id.clone(),
            credentials: Credentials::Key(SigningKey {
                access_key: settings.credentials.access_key.clone(),
                secret_key: settings.credentials.secret_key.clone(),
                security_token: None,
            }),
            transport,
            redact_commands: false,
            clock: Clock::system(),
        };
        let registry = Registry::new(project, &settings.instance_id).unwrap();
        let path = RepositoryPath {
            namespace: "team".to_owned(),
            name: "app".to_owned(),
        };
        let asking = stream::repeat(()).for_each_concurrent(registry.max_in_flight(), |()| async {
            registry.build_history(&path, &self.digest).await.unwrap();
        });
        tokio::select! {
            result = measuring => result,
            () = asking => unreachable!("there is always something to ask"),
        }
    }

    async fn let_through_per_second(&self, time: Duration) -> f64 {
        let (begin, before) = (Instant::now(), self.emulator.requests().with_status(200));
        tokio::time::sleep(time).await;
        let let_through = self.emulator.requests().with_status(200) - before;
        let_through as f64 / begin.elapsed().as_secs_f64()
    }

    fn refused_percent(&self) -> f64 {
        let requests = self.emulator.requests();
        100.0 * requests.with_status(429) as f64 / requests.total() as f64
    }
}
