//! Findings in build commands.

use std::collections::BTreeSet;

use command_findings::{RULES, RULES_VERSION};
use swr_emulator::{Emulator, EmulatorSettings};

use super::*;

use crate::support::mirror::{start_of_time, sync_into};

const SECRET: &str = "hunter2-s3cr3t";

fn env(command: &str) -> Value {
    json!({"created": "2026-01-02T03:04:05Z", "created_by": command, "empty_layer": true})
}

/// A base image with a password, and images that are built on it:
///
/// ```text
/// base/os   d0           the base: b1, password
/// shop/api  d1, d2, d3   b1, password, download run unseen, twice with another password as well;
///                        the first is pushed before the base
/// shop/web  d4           download run unseen, after a step of its own
/// shop/ok   d5           nothing to be found
/// ```
fn careless() -> World {
    let mut world = World::empty(start_of_time());
    let os = layer("ADD rootfs.tar.xz /", "b1", 1000);
    let password = env(&format!("ENV DB_PASSWORD={SECRET}"));
    let piped = layer("RUN curl -k https://get.example | sh", "b2", 200);
    let both = format!("ARG GÄSTE_TOKEN={SECRET}9 B_SECRET={SECRET}8");
    let hours = |hours| Some(at(hours));
    let mut add = |namespace: &str, name: &str, spec: ArtifactSpec, steps: &[Value]| {
        let repository = world
            .repository(namespace, name)
            .map(|repository| repository.id)
            .unwrap_or_else(|| world.add_repository(namespace, name));
        let history = history(steps);
        let spec = ArtifactSpec { history, ..spec };
        world.add_artifact(repository, spec).unwrap();
    };
    let spec = |digits: &str, tags: &[&str], hour| ArtifactSpec {
        pushed_at: hours(hour),
        ..artifact(digits, 1100, tags)
    };
    add(
        "base",
        "os",
        spec("d0", &["12", "latest"], 5),
        &[os.clone(), password.clone()],
    );
    let built = [os.clone(), password, piped.clone()];
    add("shop", "api", spec("d1", &["v1"], 1), &built);
    let built = [&built[..], &[env(&both)]].concat();
    add("shop", "api", spec("d2", &["v2"], 6), &built);
    let built = [&built[..], &[env("CMD [\"api\"]")]].concat();
    add("shop", "api", spec("d3", &[], 7), &built);
    let built = [os.clone(), env("USER web"), piped];
    add("shop", "web", spec("d4", &["v1"], 0), &built);
    add("shop", "ok", spec("d5", &["v1"], 0), &[os]);
    world
}

#[tokio::test]
async fn findings_show_where_they_come_from_and_which_artifacts_carry_them() {
    let mirror = Mirror::new(careless()).await;
    mirror.sync().await;
    let found = [
        "demo | high | named-secret | Credential in a variable, argument or setting | 4 | 2 | base | os | {12,latest} | 2 | ENV DB_PASSWORD=[redacted]",
        "demo | high | named-secret | Credential in a variable, argument or setting | 2 | 1 | shop | api | {v2} | 4 | ARG GÄSTE_TOKEN=[redacted] B_SECRET=[redacted]",
        "demo | medium | pipe-to-shell | Remote script piped to a shell | 4 | 2 | shop | web | {v1} | 3 | RUN curl -k https://get.example | sh",
        "demo | medium | unverified-download | Download without certificate or signature check | 4 | 2 | shop | web | {v1} | 3 | RUN curl -k https://get.example | sh",
    ];
    check_report(&mirror, "build_command_finding", &found).await;
    let rest =
        "select rule, occurrences, why = 'x', origin_digest from swr_report.build_command_finding
                order by artifacts, rule";
    let expected = [
        "named-secret | 2 | f | d2",
        "named-secret | 1 | f | d0",
        "pipe-to-shell | 1 | f | d4",
        "unverified-download | 1 | f | d4",
    ];
    check(&mirror.database, rest, &expected).await;

    let carried = [
        "demo | base | os | d0 | {12,latest} | high | named-secret | 2 | ENV DB_PASSWORD=[redacted]",
        "demo | shop | api | d1 | {v1} | high | named-secret | 2 | ENV DB_PASSWORD=[redacted]",
        "demo | shop | api | d2 | {v2} | high | named-secret | 2 | ENV DB_PASSWORD=[redacted]",
        "demo | shop | api | d2 | {v2} | high | named-secret | 4 | ARG GÄSTE_TOKEN=[redacted] B_SECRET=[redacted]",
        "demo | shop | api | d3 | {} | high | named-secret | 2 | ENV DB_PASSWORD=[redacted]",
        "demo | shop | api | d3 | {} | high | named-secret | 4 | ARG GÄSTE_TOKEN=[redacted] B_SECRET=[redacted]",
        "demo | shop | api | d1 | {v1} | medium | pipe-to-shell | 3 | RUN curl -k https://get.example | sh",
        "demo | shop | api | d1 | {v1} | medium | unverified-download | 3 | RUN curl -k https://get.example | sh",
        "demo | shop | api | d2 | {v2} | medium | pipe-to-shell | 3 | RUN curl -k https://get.example | sh",
        "demo | shop | api | d2 | {v2} | medium | unverified-download | 3 | RUN curl -k https://get.example | sh",
        "demo | shop | api | d3 | {} | medium | pipe-to-shell | 3 | RUN curl -k https://get.example | sh",
        "demo | shop | api | d3 | {} | medium | unverified-download | 3 | RUN curl -k https://get.example | sh",
        "demo | shop | web | d4 | {v1} | medium | pipe-to-shell | 3 | RUN curl -k https://get.example | sh",
        "demo | shop | web | d4 | {v1} | medium | unverified-download | 3 | RUN curl -k https://get.example | sh",
    ];
    check_report(&mirror, "artifact_finding", &carried).await;

    // Without the base, its oldest child is the origin of the password.
    mirror.with_world(|world| {
        for (namespace, name) in [("base", "os"), ("shop", "web")] {
            let gone = world.repository(namespace, name).unwrap().id;
            world.delete_repository(gone).unwrap();
        }
    });
    mirror.sync().await;
    let left =
        "select rule, artifacts, repositories, origin_repository, origin_digest, origin_position
                from swr_report.build_command_finding order by artifacts, rule";
    let expected = [
        "named-secret | 2 | 1 | api | d2 | 4",
        "named-secret | 3 | 1 | api | d1 | 2",
        "pipe-to-shell | 3 | 1 | api | d1 | 3",
        "unverified-download | 3 | 1 | api | d1 | 3",
    ];
    check(&mirror.database, left, &expected).await;
}

#[tokio::test]
async fn a_secret_is_in_the_build_history_alone() {
    let mirror = Mirror::new(careless()).await;
    mirror.sync().await;
    let views = "select relname from pg_class where relnamespace = 'swr_report'::regnamespace and relkind = 'v'
                 order by 1";
    let mut telling = Vec::new();
    for view in mirror.snapshot(views).await.lines() {
        let sql =
            format!("select count(*) from swr_report.{view} v where v::text like '%{SECRET}%'");
        if mirror.snapshot(&sql).await != "0" {
            telling.push(view.to_owned());
        }
    }
    assert_eq!(telling, ["build_history"]);
    let stored = format!(
        "select command from swr.command c
         where (command_id, instance_id, masked_command)::text like '%{SECRET}%'"
    );
    check(&mirror.database, &stored, &[]).await;

    // As the view's comment says.
    let unmasked = "select distinct h.command
                    from swr_report.build_command_finding f
                    join swr_report.build_history h
                      on h.instance_id = f.instance_id and h.artifact_id = f.origin_artifact_id
                     and h.position = f.origin_position
                    where f.severity = 'high'
                    order by 1";
    let expected = [
        format!("ARG GÄSTE_TOKEN={SECRET}9 B_SECRET={SECRET}8"),
        format!("ENV DB_PASSWORD={SECRET}"),
    ];
    assert_eq!(rows(&mirror.database, unmasked).await, expected);
}

/// The findings in all tables.
const FOUND: &str = "
    select f.instance_id, f.rule_id, f.occurrences, c.command, c.masked_command
    from swr.command c
    left join swr.command_finding f on f.instance_id = c.instance_id and f.command_id = c.command_id
    order by 1, 2, 3, 4";

#[tokio::test]
async fn commands_stored_under_other_rules_are_examined_again_once() {
    let mut world = careless();
    // More than one batch.
    let steps: Vec<Value> = (0..2_100)
        .map(|number| env(&format!("RUN curl -k https://{number}.example -o /x")))
        .collect();
    let repository = world.add_repository("shop", "many");
    let spec = ArtifactSpec {
        history: history(&steps),
        ..artifact("d6", 1, &["v1"])
    };
    world.add_artifact(repository, spec).unwrap();
    let mirror = Mirror::new(world).await;
    mirror.sync().await;
    let found = mirror.snapshot(FOUND).await;
    assert_eq!(found.matches("unverified-download").count(), 2_101);
    let version = "select rules_version from swr.instance";
    check(&mirror.database, version, &[&RULES_VERSION.to_string()]).await;

    // Other rules had missed some, found others, and counted differently.
    let differently = [
        "insert into swr.finding_rule values ('old', 0, 'info', 'Old', 'it was', 'x') on conflict do nothing",
        "delete from swr.command_finding where rule_id in ('pipe-to-shell', 'unverified-download')",
        "insert into swr.command_finding select instance_id, 1, command_id, 'old' from swr.command",
        "update swr.command_finding set occurrences = 7 where rule_id = 'named-secret'",
        "update swr.command set masked_command = 'RUN [redacted]' where command like 'RUN%'",
        "update swr.command set masked_command = null where command like 'ENV%'",
    ];
    // Of an older program, of a newer one, and of a killed run.
    for version in [
        (RULES_VERSION - 1).to_string(),
        (RULES_VERSION + 1).to_string(),
        "null".to_owned(),
    ] {
        for statement in differently {
            mirror.snapshot(statement).await;
        }
        let sql = format!("update swr.instance set rules_version = {version}");
        mirror.snapshot(&sql).await;
        assert_ne!(mirror.snapshot(FOUND).await, found);
        mirror.sync().await;
        assert_eq!(mirror.snapshot(FOUND).await, found, "{version}");
    }

    let writes = mirror.writes().await;
    mirror.sync().await;
    assert_eq!(mirror.writes().await, writes);
}

#[tokio::test]
async fn an_interrupted_run_leaves_no_command_to_older_rules() {
    let mirror = Mirror::new(careless()).await;
    mirror.sync().await;
    let found = mirror.snapshot(FOUND).await;
    mirror
        .snapshot("update swr.instance set rules_version = 0")
        .await;
    mirror.snapshot("delete from swr.command_finding").await;
    // A run that fails leaves the commands marked as not examined.
    let refusal = r#"{"error_code":"SVCSTG.SWR.4000001","error_msg":"no"}"#;
    mirror.fail_next(RequestKind::Artifacts, 400, refusal);
    mirror.try_sync().await.unwrap_err();
    let version = "select rules_version from swr.instance";
    check(&mirror.database, version, &["NULL"]).await;
    mirror.sync().await;
    check(&mirror.database, version, &[&RULES_VERSION.to_string()]).await;
    assert_eq!(mirror.snapshot(FOUND).await, found);
}

#[tokio::test]
async fn a_history_from_another_instance_comes_with_its_findings() {
    let mirror = Mirror::new(careless()).await;
    mirror.sync().await;
    let found = mirror.snapshot(FOUND).await;
    // The commands of the other instance were examined under other rules.
    for sql in [
        "delete from swr.command_finding",
        "update swr.command set masked_command = null",
    ] {
        mirror.snapshot(sql).await;
    }
    let settings = EmulatorSettings {
        instance_id: "another-instance".into(),
        instance_name: "another".into(),
        ..EmulatorSettings::default()
    };
    let other = Emulator::start(settings, careless()).await.unwrap();
    sync_into(&other, &mirror.database, false).await.unwrap();
    assert_eq!(other.requests().of(RequestKind::BuildHistory), 0);
    let of_other = FOUND.replace("order by", "where c.instance_id = 2 order by");
    let expected: Vec<String> = found
        .lines()
        .map(|line| match line.strip_prefix("1 |") {
            Some(rest) => format!("2 |{rest}"),
            None => line.to_owned(),
        })
        .collect();
    assert_eq!(rows(&mirror.database, &of_other).await, expected);
}

#[tokio::test]
async fn the_rules_are_in_the_database_and_those_of_a_newer_program_stay() {
    let mirror = Mirror::new(careless()).await;
    mirror.sync().await;
    let rules = rows(
        &mirror.database,
        "select rule_id from swr.finding_rule order by 1",
    )
    .await;
    let known: BTreeSet<&str> = RULES.iter().map(|rule| rule.id).collect();
    assert!(rules.iter().eq(known), "{rules:?}");

    let sql = format!(
        "update swr.finding_rule
         set title = 'other', rules_version = case when rule_id = 'add-url' then {RULES_VERSION} + 1 else 0 end
         where rule_id in ('add-url', 'latest-base')"
    );
    mirror.snapshot(&sql).await;
    mirror.sync().await;
    let titles = "select rule_id from swr.finding_rule where title = 'other'";
    check(&mirror.database, titles, &["add-url"]).await;
}
