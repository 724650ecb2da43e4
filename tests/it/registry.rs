//! The registry client over real sockets: retries, tokens, timeouts, encodings.

use std::time::Duration;

use serde_json::json;
use swr_emulator::{
    ArtifactSpec, Clock as EmulatorClock, Emulator, EmulatorSettings, RequestKind, Throttle, World,
};
use swr_sync::build_history::{HistoryOutcome, RepositoryPath};
use swr_sync::clock::Clock;
use swr_sync::registry::{
    Credentials, Project, ProjectSettings, Registry, RegistryError, TemporaryKeySource,
    TransportSettings,
};

use super::support::assert_contains;
use super::support::mirror::{client_settings, start_of_time, user_settings, wait_until};
use super::support::wire::{ask_for_histories, list};

/// A registry of 250 artifacts in `team/app/api`.
async fn emulate() -> Emulator {
    emulate_with(|_| {}).await
}

async fn emulate_with(change: impl FnOnce(&mut EmulatorSettings)) -> Emulator {
    let mut world = World::empty(start_of_time());
    let repository = world.add_repository("team", "app/api");
    for _ in 0..250 {
        let spec = ArtifactSpec::default();
        world.add_artifact(repository, spec).unwrap();
    }
    let mut settings = EmulatorSettings::default();
    change(&mut settings);
    Emulator::start(settings, world).await.unwrap()
}

fn client(settings: ProjectSettings) -> Registry {
    Registry::new(settings, &EmulatorSettings::default().instance_id).unwrap()
}

fn all_are_refused(answers: &[Result<HistoryOutcome, RegistryError>]) -> bool {
    answers.iter().all(|answer| match answer {
        Ok(_) => false,
        Err(error) => error.status().is_some_and(|status| status.status == 401),
    })
}

#[tokio::test]
async fn passing_troubles_are_retried_and_counted() {
    let emulator = emulate().await;
    for status in [429, 503] {
        emulator.fail_next(RequestKind::Artifacts, status, "");
    }
    let registry = client(client_settings(&emulator));
    assert_eq!(list(&registry).await.unwrap(), 250);
    let counts = registry.meter().counts();
    assert_eq!(counts.total(), 5);
    assert_eq!(counts.retries, 2);
    assert_eq!(counts.throttled(), 1);
}

#[tokio::test]
async fn a_refused_request_is_not_repeated() {
    for status in [400, 401, 403, 404] {
        let emulator = emulate().await;
        let body =
            json!({ "errors": [{ "errorCode": "SVCSTG.SWR.1", "errorMessage": "refused" }] })
                .to_string();
        emulator.fail_next(RequestKind::Artifacts, status, body);
        let error = list(&client(client_settings(&emulator))).await.unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("HTTP {status} SVCSTG.SWR.1: refused (request id ")),
            "{error}"
        );
        assert_eq!(error.attempts, 1);
        assert_eq!(emulator.requests().total(), 1);
    }
}

#[tokio::test]
async fn throttled_requests_use_up_no_attempts_but_the_patience() {
    let emulator = emulate().await;
    let mut settings = client_settings(&emulator);
    settings.transport.retry.max_attempts = 1;
    let fail = || {
        for _ in 0..20 {
            emulator.fail_next(RequestKind::Artifacts, 429, "");
        }
    };
    fail();
    let registry = client(settings.clone());
    assert_eq!(list(&registry).await.unwrap(), 250);
    assert_eq!(registry.meter().counts().throttled(), 20);
    assert_eq!(registry.pace().pauses, 20);

    fail();
    settings.transport.retry.throttled_patience = Duration::ZERO;
    let error = list(&client(settings)).await.unwrap_err();
    assert_eq!(error.status().unwrap().status, 429);
    assert_eq!(error.attempts, 1);
}

#[tokio::test]
async fn a_quoted_limit_is_taken_over() {
    let emulator = emulate().await;
    let registry = client(client_settings(&emulator));
    assert_eq!(registry.pace().pauses, 0);
    let message = "The throttling threshold has been reached: policy user over ratelimit,limit:50,time:1 second";
    let body = json!({ "error_code": "APIGW.0308", "error_msg": message }).to_string();
    emulator.fail_next(RequestKind::Artifacts, 429, body);
    list(&registry).await.unwrap();
    let pace = registry.pace();
    assert_eq!((pace.pauses, pace.in_flight), (1, 0));
    assert_eq!(pace.quoted_limit, Some(50.0));
    assert!(pace.requests_per_second <= 48.5, "{pace:?}");
}

#[tokio::test]
async fn a_silent_gateway_is_given_up_on() {
    let emulator = emulate().await;
    for _ in 0..3 {
        emulator.hang_next(RequestKind::Artifacts);
    }
    let mut settings = client_settings(&emulator);
    settings.transport.request_timeout = Duration::from_millis(50);
    let error = list(&client(settings)).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("no answer: the request timed out (after 3 attempts"),
        "{error}"
    );
}

#[tokio::test]
async fn retry_after_is_waited_for() {
    let emulator = emulate().await;
    // One request is accepted, the next is refused with a delay of a second, after which the bucket has refilled.
    let retry_after = Some(Duration::from_secs(1));
    emulator.set_throttle(Some(Throttle {
        requests_per_second: 1,
        burst: 1,
        retry_after,
        quotes_limit: true,
    }));
    let mut settings = client_settings(&emulator);
    settings.transport.retry.max_delay = Duration::from_secs(5);
    settings.transport.retry.max_attempts = 20;
    let registry = client(settings);
    assert_eq!(list(&registry).await.unwrap(), 250);
    let counts = registry.meter().counts();
    // With backoff alone, of at most 5 ms, there would have been hundreds of requests.
    assert!(counts.throttled() <= 8, "{counts:?}");
}

#[tokio::test]
async fn no_more_requests_are_on_their_way_than_allowed() {
    let emulator = emulate_with(|settings| {
        // With the pace alone, at least four would be in flight.
        settings.latency = Duration::from_millis(200);
    })
    .await;
    let mut settings = client_settings(&emulator);
    settings.transport.max_in_flight = 3;
    let registry = client(settings);
    let digests: Vec<String> = emulator.with_world(|world| {
        world
            .artifacts()
            .take(30)
            .map(|artifact| artifact.digest().to_string())
            .collect()
    });
    let path = RepositoryPath {
        namespace: "team".into(),
        name: "app/api".into(),
    };
    futures_util::future::join_all(
        digests
            .iter()
            .map(|digest| registry.build_history(&path, digest)),
    )
    .await;
    assert_eq!(emulator.requests().of(RequestKind::BuildHistory), 30);
    assert_eq!(emulator.requests().peak_in_flight, 3);
}

#[tokio::test]
async fn a_token_is_fetched_once_and_renewed_before_it_expires() {
    let clock = EmulatorClock::manual(start_of_time());
    let emulator = emulate_with(|settings| {
        settings.clock = clock.clone();
        settings.token_lifetime = Duration::from_secs(1000);
    })
    .await;
    let mut settings = user_settings(&emulator, "emulator-password");
    let time = clock.clone();
    settings.clock = Clock::from_fn(move || time.now());
    let registry = client(settings);
    list(&registry).await.unwrap();
    assert_eq!(emulator.requests().of(RequestKind::Token), 1);
    // Within the last tenth of the lifetime.
    clock.advance(Duration::from_secs(950));
    list(&registry).await.unwrap();
    assert_eq!(emulator.requests().of(RequestKind::Token), 2);
    assert_eq!(emulator.requests().with_status(401), 0);
}

#[tokio::test]
async fn a_token_that_has_worked_is_renewed_each_time_it_is_refused() {
    let emulator = emulate().await;
    let mut settings = user_settings(&emulator, "emulator-password");
    // The refusals do not count as attempts.
    settings.transport.retry.max_attempts = 1;
    let registry = client(settings);
    list(&registry).await.unwrap();
    for renewals in 1..=3 {
        emulator.fail_next(RequestKind::Artifacts, 401, token_expired());
        assert_eq!(list(&registry).await.unwrap(), 250);
        assert_eq!(emulator.requests().of(RequestKind::Token), 1 + renewals);
    }
}

#[tokio::test]
async fn a_token_that_is_refused_at_its_first_use_ends_all_requests() {
    let emulator = emulate().await;
    let settings = user_settings(&emulator, "emulator-password");
    let registry = client(settings);
    emulator.fail_next(RequestKind::BuildHistory, 401, token_expired());
    let answers = ask_for_histories(&registry, &emulator, 50).await;
    assert!(all_are_refused(&answers));
    assert_eq!(emulator.requests().of(RequestKind::BuildHistory), 1);
    assert_eq!(emulator.requests().of(RequestKind::Token), 1);
    let error = list(&registry).await.unwrap_err();
    assert_contains(&error, "HTTP 401 APIGW.0301: token expired");
    assert_eq!(emulator.requests().total(), 2);
}

#[tokio::test]
async fn a_renewed_token_that_is_refused_at_its_first_use_ends_all_requests() {
    let emulator = emulate().await;
    let settings = user_settings(&emulator, "emulator-password");
    let registry = client(settings);
    list(&registry).await.unwrap();
    emulator.reset_requests();
    for _ in 0..2 {
        emulator.fail_next(RequestKind::Artifacts, 401, token_expired());
    }
    let error = list(&registry).await.unwrap_err();
    assert_eq!(error.status().unwrap().status, 401);
    assert_eq!(emulator.requests().of(RequestKind::Artifacts), 2);
    assert_eq!(emulator.requests().of(RequestKind::Token), 1);
}

fn token_expired() -> String {
    let document =
        json!({ "error_code": "APIGW.0301", "error_msg": "token expired", "request_id": "r" });
    document.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_keys_that_are_accepted_for_40_requests_each_last_for_a_whole_listing() {
    for has_password in [true, false] {
        let emulator = emulate_with(|settings| {
            settings.uses_per_secret = Some(40);
            settings.latency = Duration::from_millis(5);
        })
        .await;
        let mut settings = client_settings(&emulator);
        settings.transport.max_in_flight = 256;
        settings.credentials = match has_password {
            true => user_settings(&emulator, "emulator-password").credentials,
            false => {
                let endpoint = emulator.endpoint().parse().unwrap();
                Credentials::Temporary(TemporaryKeySource::metadata(endpoint).unwrap())
            }
        };
        let registry = client(settings);
        assert_eq!(list(&registry).await.unwrap(), 250);
        let answers = ask_for_histories(&registry, &emulator, 500).await;
        let refused = answers.iter().find_map(|answer| answer.as_ref().err());
        assert!(refused.is_none(), "{refused:?}");
        let failed = |outcome: &HistoryOutcome| !matches!(outcome, HistoryOutcome::Empty(_));
        assert!(!answers.iter().flatten().any(failed));
        let requests = emulator.requests();
        let issued = requests.of(RequestKind::Token) + requests.of(RequestKind::SecurityKey);
        // 503 requests, 40 for each secret.
        assert_eq!(issued, 13, "{requests}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_tried_once_however_many_requests_wait_for_a_token() {
    let emulator = emulate().await;
    let settings = user_settings(&emulator, "wrong-password");
    let registry = client(settings);
    let answers = ask_for_histories(&registry, &emulator, 50).await;
    assert!(all_are_refused(&answers));
    assert_eq!(emulator.requests().total(), 1);
}

#[tokio::test]
async fn a_token_that_all_requests_find_revoked_is_renewed_by_one_of_them() {
    let clock = EmulatorClock::manual(start_of_time());
    let emulator = emulate_with(|settings| settings.clock = clock.clone()).await;
    let mut settings = user_settings(&emulator, "emulator-password");
    // The client's clock does not advance, so a token's age is no reason to renew it.
    settings.clock = Clock::from_fn(start_of_time);
    let registry = client(settings);
    list(&registry).await.unwrap();
    for renewals in 1..=3 {
        clock.advance(emulator.settings().token_lifetime);
        let answers = ask_for_histories(&registry, &emulator, 50).await;
        assert!(answers.iter().all(Result::is_ok));
        assert_eq!(emulator.requests().of(RequestKind::Token), 1 + renewals);
    }
}

#[tokio::test]
async fn an_answer_of_iam_without_a_token_is_retried() {
    let emulator = emulate().await;
    let settings = user_settings(&emulator, "emulator-password");
    for _ in 0..2 {
        emulator.fail_next(RequestKind::Token, 201, "{}");
    }
    assert_eq!(list(&client(settings.clone())).await.unwrap(), 250);
    assert_eq!(emulator.requests().of(RequestKind::Token), 3);

    for _ in 0..3 {
        emulator.fail_next(RequestKind::Token, 201, "{}");
    }
    let error = list(&client(settings)).await.unwrap_err();
    let words = "unreadable answer: the answer has no X-Subject-Token header (after 3 attempts in ";
    assert_contains(&error, words);
}

#[tokio::test]
async fn a_clock_that_is_days_ahead_does_not_make_every_token_look_old() {
    let emulator =
        emulate_with(|settings| settings.clock = EmulatorClock::manual(start_of_time())).await;
    let mut settings = user_settings(&emulator, "emulator-password");
    settings.clock = Clock::from_fn(|| start_of_time() + chrono::TimeDelta::days(2));
    list(&client(settings)).await.unwrap();
    assert_eq!(emulator.requests().of(RequestKind::Token), 1);
}

#[tokio::test]
async fn a_wrong_key_is_tried_once_however_many_requests_there_are() {
    let emulator = emulate().await;
    emulator.set_secret_key("another");
    let registry = client(client_settings(&emulator));
    let answers = ask_for_histories(&registry, &emulator, 50).await;
    assert!(all_are_refused(&answers));
    assert_eq!(emulator.requests().total(), 1);
    assert_eq!(emulator.requests().failed_signatures, 1);
}

#[tokio::test]
async fn a_key_that_turns_bad_with_many_on_their_way_fails_four_checks_at_most() {
    let emulator = emulate_with(|settings| settings.latency = Duration::from_millis(300)).await;
    let mut settings = client_settings(&emulator);
    settings.transport = TransportSettings::default();
    let registry = client(settings);
    let (answers, ()) = tokio::join!(ask_for_histories(&registry, &emulator, 500), async {
        wait_until("many are on their way", async || {
            emulator.requests().peak_in_flight >= 20
        })
        .await;
        emulator.set_secret_key("another");
    });
    let refused = answers.iter().filter(|answer| answer.is_err()).count() as u64;
    let failed = emulator.requests().failed_signatures;
    assert!((1..=4).contains(&failed), "{failed} failed checks");
    assert!(failed < refused, "the others never left");
    // The valid key is set too late for this run.
    emulator.set_secret_key("emulator-secret-key-of-no-value-at-all-0");
    let total = emulator.requests().total();
    assert!(all_are_refused(
        &ask_for_histories(&registry, &emulator, 5).await
    ));
    assert_eq!(emulator.requests().total(), total);
}

#[tokio::test]
async fn a_clock_that_is_set_in_mid_run_costs_one_failed_check() {
    let jump = std::sync::Arc::new(std::sync::atomic::AtomicI64::new(0));
    let emulator = emulate().await;
    let mut settings = client_settings(&emulator);
    let minutes = std::sync::Arc::clone(&jump);
    settings.clock = Clock::from_fn(move || {
        let minutes = minutes.load(std::sync::atomic::Ordering::Relaxed);
        Clock::system().now() + chrono::TimeDelta::minutes(minutes)
    });
    let registry = client(settings);
    list(&registry).await.unwrap();
    jump.store(60, std::sync::atomic::Ordering::Relaxed);
    let answers = ask_for_histories(&registry, &emulator, 50).await;
    assert!(all_are_refused(&answers));
    assert_eq!(emulator.requests().failed_signatures, 1);
}

#[tokio::test]
async fn clones_of_a_registry_count_their_requests_together_and_instances_separately() {
    let emulator = emulate().await;
    let project = Project::new(client_settings(&emulator)).unwrap();
    let registry = project.registry(&emulator.settings().instance_id);
    let listing = tokio::spawn({
        let registry = registry.clone();
        async move { list(&registry).await }
    });
    assert_eq!(listing.await.unwrap().unwrap(), 250);
    assert_eq!(registry.meter().counts().total(), 3);
    assert_eq!(project.registry("another").meter().counts().total(), 0);
}
