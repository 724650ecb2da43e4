//! The registry that the documents show: 1,200 generated artifacts and some made by hand, synced on
//! five days; and a small second instance. Tests use it, too.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use swr_emulator::{Artifact, ArtifactSpec, Digest, Instance, ManifestKind, World};

/// A change of the seed changes every answer.
const SEED: u64 = 1;
const ARTIFACTS: usize = 1_200;

/// How often the registry changes and is synced again.
pub(crate) const ROUNDS: u32 = 4;

/// Between two runs.
const DAYS: i64 = 3;

fn first_run() -> DateTime<Utc> {
    "2026-10-01T06:00:00Z".parse().unwrap()
}

/// When the sync after this round of changes runs. Round 0 is the first sync.
pub(crate) fn sync_time(round: u32) -> DateTime<Utc> {
    first_run() + TimeDelta::days(DAYS * i64::from(round))
}

/// When the registry and the database are compared.
pub(crate) fn verification_time() -> DateTime<Utc> {
    first_run() + TimeDelta::days(13)
}

/// The registry at the first sync.
pub(crate) fn start() -> World {
    let mut world = World::generate(SEED, ARTIFACTS, first_run());
    add_node_images(&mut world);
    add_python_images(&mut world);
    world.set_now(first_run() - TimeDelta::days(1));
    push_api(&mut world);
    world
}

/// What happens in the registry before the sync of this round.
pub(crate) fn change(world: &mut World, round: u32) {
    world.set_now(sync_time(round) - TimeDelta::hours(14));
    world.evolve(round);
    let newest = push_api(world);
    match round {
        3 => lose_history(world, &newest),
        4 => push_unused_images(world),
        _ => {}
    }
}

/// Two builds of payments/api, whose `latest` follows them; the newer one.
fn push_api(world: &mut World) -> Artifact {
    let api = world.add_repository("payments", "api");
    world.push(api).unwrap();
    world.push(api).unwrap()
}

fn push_unused_images(world: &mut World) {
    for (namespace, name) in [("search", "benchmark"), ("payments", "load-test")] {
        let repository = world.add_repository(namespace, name);
        world.push(repository).unwrap();
        world.push(repository).unwrap();
    }
}

/// For swr_report.history_failure.
fn lose_history(world: &mut World, artifact: &Artifact) {
    let error = json!({"errors": [{"code": "UNKNOWN", "message": "internal server error"}]});
    world.override_build_history(&artifact.digest().to_string(), 500, error);
}

/// ```text
/// base/node            18 (twice: the newer one took the tags), 22
/// payments/checkout    on the older 18
/// identity/login       on the newer 18
/// search/suggest       on 22
/// ```
fn add_node_images(world: &mut World) {
    let node = |os: u8, version: &str, layer_number: u8| {
        vec![
            layer(
                &format!("/bin/sh -c #(nop) ADD file:{os:02x}{os:02x} in / "),
                os,
                49_000_000,
            ),
            setting(&format!("/bin/sh -c #(nop)  ENV NODE_VERSION={version}")),
            layer(
                "/bin/sh -c ARCH= && dpkgArch=\"$(dpkg --print-architecture)\" && curl -fsSLO --compressed \"https://nodejs.org/dist/v$NODE_VERSION/node-v$NODE_VERSION-linux-$ARCH.tar.xz\"",
                layer_number,
                54_000_000,
            ),
        ]
    };
    let old = node(0xa1, "18.18.2", 0xb1);
    let patched = node(0xa2, "18.20.8", 0xb2);
    let newest = node(0xa3, "22.11.0", 0xb3);
    push(world, "base", "node", 300, &["18.18.2"], &old);
    push(world, "base", "node", 90, &["18", "18.20.8"], &patched);
    push(
        world,
        "base",
        "node",
        40,
        &["22", "22.11.0", "latest"],
        &newest,
    );

    let app = |base: &[Value], number: u8, size_bytes: u64| {
        let mut steps = base.to_vec();
        steps.push(setting("WORKDIR /app"));
        steps.push(layer(
            "RUN /bin/sh -c npm ci --omit=dev # buildkit",
            number,
            size_bytes,
        ));
        steps.push(setting("CMD [\"node\" \"server.js\"]"));
        steps
    };
    let checkout = app(&old, 0xc1, 81_400_000);
    push(
        world,
        "payments",
        "checkout",
        60,
        &["v1.4.0", "stable"],
        &checkout,
    );
    let login = app(&patched, 0xc2, 63_100_000);
    push(
        world,
        "identity",
        "login",
        30,
        &["v2.0.1", "stable"],
        &login,
    );
    let mut suggest = app(&newest, 0xc3, 12_700_000);
    // What PostgreSQL cannot hold, for swr_report.data_issue.
    suggest.push(setting("LABEL build.note=nightly\u{0}"));
    push(world, "search", "suggest", 20, &["v0.9.0"], &suggest);
}

/// Multi-platform images: tagged indexes, with untagged images for two platforms.
///
/// ```text
/// base/python          3.12, 3.13
/// payments/reports     on 3.12 for one platform; its last step with a user sets root
/// search/ranker        on 3.13 for one platform
/// ```
fn add_python_images(world: &mut World) {
    let platform = |number: u8, version: &str| {
        vec![
            layer("ADD rootfs.tar.xz / # buildkit", number, 28_000_000),
            setting(&format!("ENV PYTHON_VERSION={version}")),
            layer(
                "RUN /bin/sh -c make install # buildkit",
                number + 1,
                17_500_000,
            ),
        ]
    };
    let old = [platform(0xd1, "3.12.4"), platform(0xd3, "3.12.4")];
    let newest = [platform(0xd5, "3.13.1"), platform(0xd7, "3.13.1")];
    for (days_ago, tags, platforms) in [
        (200, ["3.12", "3.12.4"], &old),
        (50, ["3.13", "3.13.1"], &newest),
    ] {
        for steps in platforms {
            push(world, "base", "python", days_ago, &[], steps);
        }
        let repository = world.add_repository("base", "python");
        let spec = ArtifactSpec {
            kind: ManifestKind::ImageIndex,
            size_bytes: 2 * 45_508_000 + 900,
            pushed_at: Some(first_run() - TimeDelta::days(days_ago)),
            pulled_at: Some(first_run() - TimeDelta::days(3)),
            tags: tags.map(str::to_owned).to_vec(),
            ..ArtifactSpec::default()
        };
        world.add_artifact(repository, spec).unwrap();
    }
    let app = |base: &[Value], number: u8, users: &[&str]| {
        let mut steps = base.to_vec();
        steps.push(setting("WORKDIR /app"));
        steps.push(layer("COPY . . # buildkit", number, 3_900_000));
        steps.extend(users.iter().map(|user| setting(&format!("USER {user}"))));
        steps
    };
    let reports = app(&old[0], 0xe1, &["app", "root"]);
    push(
        world,
        "payments",
        "reports",
        30,
        &["v0.4.0", "stable"],
        &reports,
    );
    let ranker = app(&newest[0], 0xe2, &["10001"]);
    push(
        world,
        "search",
        "ranker",
        25,
        &["v3.1.0", "stable"],
        &ranker,
    );
}

/// A second instance, in the same database: ids of its artifacts are also ids of the first.
pub(crate) fn second() -> (Instance, World) {
    let mut world = World::empty(first_run() - TimeDelta::days(400));
    let base = [layer("ADD rootfs.tar.xz / # buildkit", 0xf1, 9_000_000)];
    for (number, days_ago) in (0..12).zip((10..).step_by(25)) {
        let tags: &[&str] = if number == 0 { &["stable"] } else { &[] };
        let build = layer("COPY gateway /bin/ # buildkit", number, 4_200_000);
        push(
            &mut world,
            "edge",
            "gateway",
            days_ago,
            tags,
            &[base[0].clone(), build],
        );
    }
    let instance = Instance {
        id: "aaaaaaaa-2222-3333-4444-555555555555".to_owned(),
        name: "edge".to_owned(),
        version: "25.6.0".to_owned(),
        status: "Running".to_owned(),
    };
    (instance, world)
}

/// When the second instance is synced.
pub(crate) fn second_sync_time() -> DateTime<Utc> {
    first_run() + TimeDelta::days(12)
}

fn push(
    world: &mut World,
    namespace: &str,
    name: &str,
    days_ago: i64,
    tags: &[&str],
    steps: &[Value],
) {
    let repository = world.add_repository(namespace, name);
    let layers = steps.iter().filter_map(|step| step["size"].as_u64());
    let spec = ArtifactSpec {
        size_bytes: layers.sum::<u64>() + 8_000,
        pushed_at: Some(first_run() - TimeDelta::days(days_ago)),
        pulled_at: Some(first_run() - TimeDelta::days(days_ago / 2)),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        history: Some(json!({"build_histories": steps, "total": steps.len()})),
        ..ArtifactSpec::default()
    };
    world.add_artifact(repository, spec).unwrap();
}

fn layer(command: &str, number: u8, size_bytes: u64) -> Value {
    json!({
        "created": "2026-05-06T07:08:09Z",
        "created_by": command,
        "digest": Digest::of(&[b"docs".as_slice(), &[number]]).to_string(),
        "size": size_bytes,
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
    })
}

fn setting(command: &str) -> Value {
    json!({"created": "2026-05-06T07:08:09Z", "created_by": command, "empty_layer": true})
}
