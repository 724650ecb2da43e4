//! Tests of the rules with labelled commands: real histories, seeded cases, and false friends.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use command_findings::{MASK, RULES, Severity, find, mask};
use serde::Deserialize;

/// A command and the expected findings.
#[derive(Deserialize)]
struct Case {
    command: String,
    /// Rule ids, one for each finding.
    rules: Vec<String>,
    /// The complete secret values.
    secrets: Vec<String>,
}

fn read(name: &str) -> String {
    let path = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

fn cases() -> Vec<Case> {
    serde_json::from_str(&read("cases.json")).unwrap()
}

/// The distinct commands of the real histories. They contain no real secrets.
fn real_commands() -> BTreeSet<String> {
    let images: Vec<serde_json::Value> =
        serde_json::from_str(&read("real-histories.json")).unwrap();
    let steps = images
        .iter()
        .flat_map(|image| image["history"].as_array().unwrap());
    let commands = steps.filter_map(|step| step["created_by"].as_str());
    commands.map(str::to_owned).collect()
}

fn ids(command: &str) -> Vec<&'static str> {
    let mut ids: Vec<_> = find(command)
        .iter()
        .map(|finding| finding.rule.id)
        .collect();
    ids.sort_unstable();
    ids
}

/// Every seeded case is found by its rule and by no other, so the required measure is the
/// best one: recall 1 and no false positive. A case that a rule cannot get right
/// would be listed with its actual result, and counted here.
#[test]
fn the_corpus_is_found_whole_and_nothing_else() {
    let (mut missed, mut false_positives) = (vec![], vec![]);
    for Case { command, rules, .. } in cases() {
        let given = ids(&command);
        let mut rest = given.clone();
        for rule in rules {
            match rest.iter().position(|id| *id == rule) {
                Some(index) => {
                    rest.swap_remove(index);
                }
                None => missed.push(format!("{rule} in {command}, found {given:?}")),
            }
        }
        false_positives.extend(rest.iter().map(|rule| format!("{rule} in {command}")));
    }
    for command in real_commands() {
        let given = ids(&command);
        false_positives.extend(given.iter().map(|rule| format!("{rule} in {command}")));
    }
    assert_eq!((missed, false_positives), (vec![], vec![]));
}

#[test]
fn each_rule_is_proved_by_a_case() {
    let cases = cases();
    let mut proved: BTreeMap<&str, usize> = BTreeMap::new();
    for case in &cases {
        for rule in &case.rules {
            *proved.entry(rule).or_default() += 1;
        }
    }
    let ids: BTreeSet<&str> = RULES.iter().map(|rule| rule.id).collect();
    assert_eq!(ids.len(), RULES.len());
    assert_eq!(proved.keys().copied().collect::<BTreeSet<_>>(), ids);
}

#[test]
fn a_masked_command_has_nothing_of_the_secret_and_all_of_the_rest() {
    for Case {
        command, secrets, ..
    } in cases()
    {
        let masked = mask(&command);
        if secrets.is_empty() {
            assert_eq!(masked, None, "{command}");
            continue;
        }
        let masked = masked.unwrap_or_else(|| panic!("nothing masked in {command}"));
        let mut expected = command.clone();
        for secret in &secrets {
            expected = expected.replacen(secret, MASK, 1);
        }
        assert_eq!(masked, expected);
        assert_eq!(mask(&masked), None, "{masked}");
    }
}

#[test]
fn a_secret_rule_always_says_where_the_secret_is() {
    for Case { command, .. } in cases() {
        for finding in find(&command) {
            let is_secret = finding.rule.severity == Severity::High;
            assert_eq!(finding.secret.is_some(), is_secret, "{command}");
            assert!(command.get(finding.range.clone()).is_some());
        }
    }
}

/// Commands that force a pattern into long searches again and again. Each takes milliseconds if the
/// time is linear, and minutes if it is quadratic.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "how long the machine takes is what is tested"
)]
fn a_huge_command_takes_linear_time() {
    let huge = |part: &str| part.repeat((1 << 18) / part.len());
    let begin = std::time::Instant::now();
    for command in [
        "a".repeat(1 << 20),
        "password=.*".repeat(1 << 17),
        huge("password="),
        huge("password=$x "),
        huge("password=aaaaa "),
        huge("ENV a_token=x y "),
        format!("ENV {}", huge("A_TOKEN=$x ")),
        format!("ENV {}", huge("A_TOKEN=s3cr3t ")),
        format!("|9 {}", huge("A_TOKEN=x ")),
        huge("password=\""),
        huge("password='"),
        huge("curl "),
        huge("curl -u "),
        huge("curl -u a:bbbb "),
        huge("curl | "),
        huge("curl x | sh "),
        huge("sshpass -p abcdef curl "),
        huge("pip install "),
        huge("pip install a "),
        huge("chmod -R "),
        huge("https://a"),
        huge("https://a:"),
        huge("https://a:b@"),
        huge("-----BEGIN PRIVATE KEY-----"),
        huge("authorization: bearer "),
        huge("docker login "),
        huge("echo -n "),
        huge("iex iwr "),
        huge("iwr | "),
        huge("\u{1f511}token=\u{1f511}\u{1f511}\u{1f511}\u{1f511}\u{1f511} "),
    ] {
        find(&command);
        mask(&command);
    }
    let limit = Duration::from_secs(120);
    assert!(begin.elapsed() < limit, "{:?}", begin.elapsed());
}
