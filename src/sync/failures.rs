//! Decides which histories to request while requests for others keep failing.
//!
//! A failure that does not depend on the artifact (a missing permission, a service that is down) would
//! repeat for thousands of artifacts. Two rules limit the number of requests:
//!
//! - After equal failures in a row from several repositories, this run requests no more histories.
//! - A refusal (403) may apply only to its repository. After several refusals in a row, this run requests
//!   no more histories of this repository. It requests at least one history of each other repository.
//!
//! Nothing is stored for histories that were not requested, so the next run requests them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::build_history::{
    FailureCause, GaveUp, HistoryFailureGroup, HistoryFailures, HistoryOutcome, Refusal,
    RepositoryPath,
};

/// This many equal failures in a row, with no other answer in between, have a common cause.
const IN_A_ROW: u32 = 20;
/// The same for refusals within one repository.
const REFUSALS_IN_A_ROW: u32 = 5;
/// If a streak is from fewer repositories, only these may be affected.
const REPOSITORIES: usize = 3;
/// Maximum number of groups with separate messages.
const GROUPS: usize = 50;

/// The failures so far that determine which histories are requested next.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// The latest answers of all repositories, if they are failures.
    latest: Option<Streak>,
    /// The repositories of that streak, up to [`REPOSITORIES`].
    latest_repositories: Vec<RepositoryPath>,
    /// The streak of each repository whose latest answers are failures.
    repositories: HashMap<RepositoryPath, Streak>,
    stopped_by: Option<FailureCause>,
    given_up_by: Option<FailureCause>,
    has_answers: bool,
    groups: HashMap<(FailureCause, String), (u64, Option<RepositoryPath>)>,
}

/// Equal failures with no other answer in between.
#[derive(Debug)]
struct Streak {
    cause: FailureCause,
    length: u32,
    /// The streak reached its limit; it stays final for this run.
    is_final: bool,
}

impl Streak {
    fn new(cause: FailureCause) -> Streak {
        Streak {
            cause,
            length: 1,
            is_final: false,
        }
    }

    fn extend(&mut self, cause: &FailureCause) {
        if self.cause == *cause {
            self.length += 1;
        } else {
            self.cause = cause.clone();
            self.length = 1;
        }
    }
}

impl Failures {
    /// Whether histories of this repository may be requested.
    pub(super) fn may_ask(&self, repository: &RepositoryPath) -> bool {
        if self.has_stopped() {
            return false;
        }
        !self
            .repositories
            .get(repository)
            .is_some_and(|streak| self.is_over(streak))
    }

    /// Whether this run requests no more histories.
    pub(super) fn has_stopped(&self) -> bool {
        self.stopped_by.is_some()
    }

    /// Records an outcome. If it is the one after which no more histories are requested, returns the reason.
    pub(super) fn note(
        &mut self,
        repository: &RepositoryPath,
        outcome: &HistoryOutcome,
    ) -> Option<GaveUp> {
        let Some((cause, _)) = failure(outcome) else {
            self.has_answers = true;
            self.latest = None;
            self.latest_repositories.clear();
            let is_open = |streak: &Streak| !streak.is_final;
            if self.repositories.get(repository).is_some_and(is_open) {
                self.repositories.remove(repository);
            }
            return None;
        };
        self.extend_latest(&cause, repository);
        let patience = self.patience(&cause);
        let streak = match self.repositories.entry(repository.clone()) {
            Entry::Occupied(entry) => {
                let streak = entry.into_mut();
                streak.extend(&cause);
                streak
            }
            Entry::Vacant(entry) => entry.insert(Streak::new(cause.clone())),
        };
        if streak.length >= patience && !streak.is_final {
            streak.is_final = true;
            let is_first = self.given_up_by.is_none();
            self.given_up_by.get_or_insert_with(|| cause.clone());
            if is_first {
                return self.gave_up();
            }
        }
        let is_systematic = !cause.may_be_of_one_repository()
            && self.latest_length(&cause) >= IN_A_ROW
            && self.latest_repositories.len() >= REPOSITORIES;
        if is_systematic && self.stopped_by.is_none() {
            self.stopped_by = Some(cause);
            return self.gave_up();
        }
        None
    }

    /// Counts a digest whose history could not be fetched from any repository.
    pub(super) fn count(&mut self, outcome: &HistoryOutcome, repository: Option<&RepositoryPath>) {
        let Some((cause, refusal)) = failure(outcome) else {
            return;
        };
        let mut key = (cause, without_ids(&refusal.message));
        if self.groups.len() >= GROUPS && !self.groups.contains_key(&key) {
            key.1 = "various messages".to_owned();
        }
        self.groups
            .entry(key)
            .or_insert_with(|| (0, repository.cloned()))
            .0 += 1;
    }

    /// The failures for the summary of the run.
    pub(super) fn report(&self) -> HistoryFailures {
        let mut groups: Vec<HistoryFailureGroup> = self
            .groups
            .iter()
            .map(
                |((cause, message), (count, repository))| HistoryFailureGroup {
                    cause: cause.clone(),
                    message: message.clone(),
                    count: *count,
                    repository: repository.clone(),
                },
            )
            .collect();
        groups.sort_by(|one, other| {
            other
                .count
                .cmp(&one.count)
                .then_with(|| one.message.cmp(&other.message))
        });
        HistoryFailures {
            groups,
            gave_up: self.gave_up(),
        }
    }

    fn is_over(&self, streak: &Streak) -> bool {
        streak.is_final || streak.length >= self.patience(&streak.cause)
    }

    /// Maximum number of failures in a row for one repository. After refusals from many repositories, one
    /// request is sent to each further repository, because there is no other way to find out whether it
    /// refuses, too.
    fn patience(&self, cause: &FailureCause) -> u32 {
        if !cause.may_be_of_one_repository() {
            IN_A_ROW
        } else if self.latest_length(cause) >= IN_A_ROW {
            1
        } else {
            REFUSALS_IN_A_ROW
        }
    }

    fn latest_length(&self, cause: &FailureCause) -> u32 {
        self.latest
            .as_ref()
            .filter(|streak| streak.cause == *cause)
            .map_or(0, |streak| streak.length)
    }

    fn extend_latest(&mut self, cause: &FailureCause, repository: &RepositoryPath) {
        let latest = match &mut self.latest {
            Some(streak) => {
                streak.extend(cause);
                streak
            }
            latest => latest.insert(Streak::new(cause.clone())),
        };
        if latest.length == 1 {
            self.latest_repositories.clear();
        }
        let repositories = &mut self.latest_repositories;
        if repositories.len() < REPOSITORIES && !repositories.contains(repository) {
            repositories.push(repository.clone());
        }
    }

    fn gave_up(&self) -> Option<GaveUp> {
        if let Some(cause) = &self.stopped_by {
            return Some(GaveUp::Everywhere(cause.clone()));
        }
        let cause = self.given_up_by.clone()?;
        let given_up = self
            .repositories
            .values()
            .filter(|streak| self.is_over(streak));
        Some(GaveUp::Repositories {
            count: given_up.count() as u64,
            cause,
            is_everywhere: !self.has_answers,
        })
    }
}

/// The cause if the outcome is a failure. Unsupported and gone are not failures: they concern the artifact.
fn failure(outcome: &HistoryOutcome) -> Option<(FailureCause, &Refusal)> {
    let (word, refusal) = match outcome {
        HistoryOutcome::Stored(_)
        | HistoryOutcome::Empty(_)
        | HistoryOutcome::Unsupported(_)
        | HistoryOutcome::Gone(_) => return None,
        HistoryOutcome::Forbidden(refusal) => ("forbidden", refusal),
        HistoryOutcome::Failed(refusal) => ("failed", refusal),
    };
    let cause = FailureCause {
        outcome: word,
        status: refusal.status,
        code: refusal.code.clone(),
    };
    Some((cause, refusal))
}

/// Removes digests and request ids, because otherwise each message would be a separate group.
fn without_ids(message: &str) -> String {
    const SHORTEST_ID: usize = 16;
    let is_of_id = |character: char| character.is_ascii_hexdigit() || character == '-';
    let mut text = String::with_capacity(message.len());
    let mut rest = message;
    while !rest.is_empty() {
        let length = rest.find(|c| !is_of_id(c)).unwrap_or(rest.len());
        let (id, after) = rest.split_at(length);
        text.push_str(if length >= SHORTEST_ID { "…" } else { id });
        let plain = after.find(is_of_id).unwrap_or(after.len());
        text.push_str(&after[..plain]);
        rest = &after[plain..];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build_history::BuildHistory;

    fn repository(number: u32) -> RepositoryPath {
        RepositoryPath {
            namespace: "team".to_owned(),
            name: format!("app-{number}"),
        }
    }

    fn refusal(status: u16, code: &str) -> Refusal {
        Refusal {
            status: Some(status),
            code: Some(code.to_owned()),
            message: "no".to_owned(),
        }
    }

    fn forbidden() -> HistoryOutcome {
        HistoryOutcome::Forbidden(refusal(403, "SVCSTG.SWR.4030170"))
    }

    fn broken() -> HistoryOutcome {
        HistoryOutcome::Failed(refusal(500, "SVCSTG.SWR.5000000"))
    }

    fn empty() -> HistoryOutcome {
        HistoryOutcome::Empty(BuildHistory {
            steps: Vec::new(),
            reported_total: None,
            extra: None,
            issues: Vec::new(),
        })
    }

    /// Requests this many histories of each repository in turn. Returns the number of requests.
    fn ask(
        failures: &mut Failures,
        repositories: std::ops::Range<u32>,
        each: u32,
        outcome: impl Fn(u32) -> HistoryOutcome,
    ) -> u32 {
        let mut asked = 0;
        for number in repositories {
            let repository = repository(number);
            for _ in 0..each {
                if failures.may_ask(&repository) {
                    failures.note(&repository, &outcome(number));
                    asked += 1;
                }
            }
        }
        asked
    }

    #[test]
    fn a_service_that_is_down_is_asked_twenty_times() {
        let mut failures = Failures::default();
        assert_eq!(ask(&mut failures, 0..100, 8, |_| broken()), 20);
        let GaveUp::Everywhere(cause) = failures.report().gave_up.unwrap() else {
            panic!("{failures:?}")
        };
        assert_eq!(cause.to_string(), "failed, HTTP 500 SVCSTG.SWR.5000000");
    }

    #[test]
    fn a_repository_that_is_broken_does_not_stop_the_others() {
        let mut failures = Failures::default();
        let outcome = |number| if number == 7 { broken() } else { empty() };
        assert_eq!(ask(&mut failures, 0..20, 100, outcome), 1900 + 20);
    }

    #[test]
    fn where_all_is_refused_each_repository_is_asked_at_least_once_and_few_more_often() {
        let mut failures = Failures::default();
        assert_eq!(
            ask(&mut failures, 0..100, 1_000, |_| forbidden()),
            4 * 5 + 96
        );
        assert!(matches!(
            failures.report().gave_up,
            Some(GaveUp::Repositories {
                count: 100,
                is_everywhere: true,
                ..
            })
        ));
    }

    #[test]
    fn a_key_for_few_repositories_gets_all_of_these() {
        let mut failures = Failures::default();
        let outcome = |number| {
            if number % 50 == 40 {
                empty()
            } else {
                forbidden()
            }
        };
        let asked = ask(&mut failures, 0..100, 100, outcome);
        let refused = asked - 200;
        assert!(refused < 98 * 5, "{refused}");
        let report = failures.report();
        assert!(matches!(
            report.gave_up,
            Some(GaveUp::Repositories {
                count: 98,
                is_everywhere: false,
                ..
            })
        ));
    }

    #[test]
    fn failures_with_other_answers_in_between_stop_nothing() {
        let mut failures = Failures::default();
        for round in 0..1_000 {
            let repository = repository(round % 10);
            assert!(failures.may_ask(&repository));
            let outcome = if round % 19 == 0 { empty() } else { broken() };
            failures.note(&repository, &outcome);
        }
        assert_eq!(failures.report().gave_up, None);
    }

    #[test]
    fn a_gateway_that_locks_the_user_out_is_no_matter_of_repositories() {
        let mut failures = Failures::default();
        let outcome = |_| HistoryOutcome::Forbidden(refusal(403, "APIGW.0302"));
        assert_eq!(ask(&mut failures, 0..100, 8, outcome), 20);
    }

    #[test]
    fn messages_that_differ_in_ids_are_one_group_and_the_groups_are_bounded() {
        let mut failures = Failures::default();
        for number in 0..1_000_u32 {
            let message = |text: String| {
                HistoryOutcome::Failed(Refusal {
                    message: text,
                    ..refusal(500, "x")
                })
            };
            failures.count(
                &message(format!("cannot read sha256:{number:064x} (é)")),
                None,
            );
            failures.count(&message(format!("error {number}")), None);
        }
        let groups = failures.report().groups;
        assert_eq!(groups.len(), GROUPS + 1);
        assert_eq!(groups[0].message, "cannot read sha256:… (é)");
        assert_eq!(groups[0].count, 1_000);
        assert_eq!(groups[1].message, "various messages");
    }
}
