//! The sources of credentials: each link of the chain with the real process and real sockets; and keys
//! that expire during a run.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;
use serde_json::{Value, json};
use swr_emulator::{
    Clock as EmulatorClock, Credentials as Known, Emulator, EmulatorSettings, KeySpelling,
    MetadataSettings, MetadataTokens, RequestKind,
};
use swr_sync::clock::Clock;
use swr_sync::registry::signature::SigningKey;
use swr_sync::registry::{Credentials, ProjectSettings, Registry, TemporaryKeySource};
use swr_sync::stop;
use swr_sync::sync::Progress;
use tempfile::TempDir;

use super::support::database::TestDatabase;
use super::support::mirror::{
    client_settings, facts, run_as, start_of_time, sync_settings, world_of,
};
use super::support::program::{Finished, Program, emulator, emulator_settings};
use super::support::wire::{ask_for_histories, list};
use super::support::{assert_contains, assert_ends_with, assert_lacks, assert_starts_with, cases};

const POD_TOKEN: &str = "emulator-pod-token-of-no-value";
/// A part of every secret that the emulated services issue.
const ISSUED: &str = "of-no-value";

/// A registry, and a folder with files that contain credentials.
struct Scene {
    emulator: Emulator,
    folder: TempDir,
}

impl Scene {
    async fn new() -> Scene {
        Scene::with(emulator_settings()).await
    }

    async fn with(settings: EmulatorSettings) -> Scene {
        Scene {
            emulator: Emulator::start(settings, world_of(1)).await.unwrap(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// `doctor` with all settings except credentials. There is no database, which does not matter for these
    /// tests.
    fn doctor(&self) -> Program {
        self.registry(Program::new(&["doctor", "--format", "json"]))
            .env("SWR_SYNC_DATA_DIR", self.folder.path().join("no-database"))
    }

    fn registry(&self, program: Program) -> Program {
        program
            .registry(&self.emulator)
            .without_key()
            .hides(ISSUED)
            .hides("not-to-be-shown")
    }

    fn known(&self) -> &Known {
        &self.emulator.settings().credentials
    }

    fn secret_key(&self) -> &str {
        self.known().secret_key.expose_secret()
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        set_mode(&path, 0o600);
        path
    }

    fn set_mode(&self, name: &str, mode: u32) {
        set_mode(&self.folder.path().join(name), mode);
    }

    fn profile(&self, section: &str) -> String {
        let Known { access_key, .. } = self.known();
        let project_id = &self.emulator.settings().project_id;
        format!(
            "# of the SDK\n[{section}]\nak = {access_key}\nSK: {}\nproject_id={project_id}\n",
            self.secret_key()
        )
    }

    fn with_sdk(&self, program: Program) -> Program {
        program
            .env("HUAWEICLOUD_SDK_AK", &self.known().access_key)
            .env("HUAWEICLOUD_SDK_SK", self.secret_key())
    }

    fn with_user(&self, program: Program) -> Program {
        let Known {
            user,
            password,
            account,
            ..
        } = self.known();
        program
            .env("SWR_IAM_ENDPOINT", self.emulator.endpoint())
            .env("SWR_IAM_USER", user)
            .env("SWR_IAM_PASSWORD", password.expose_secret())
            .env("SWR_IAM_ACCOUNT", account)
    }

    fn with_terraform(&self, program: Program) -> Program {
        program
            .env("HW_ACCESS_KEY", &self.known().access_key)
            .env("HW_SECRET_KEY", self.secret_key())
    }

    fn with_terraform_user(&self, program: Program) -> Program {
        let Known {
            user,
            password,
            account,
            ..
        } = self.known();
        program
            .env("HW_AUTH_URL", format!("{}/v3", self.emulator.endpoint()))
            .env("HW_USER_NAME", user)
            .env("HW_USER_PASSWORD", password.expose_secret())
            .env("HW_DOMAIN_NAME", account)
    }

    fn with_samples(&self, program: Program) -> Program {
        program
            .env("CLOUD_SDK_AK", &self.known().access_key)
            .env("CLOUD_SDK_SK", self.secret_key())
    }

    fn with_home(&self, program: Program) -> Program {
        self.file("home/.huaweicloud/credentials", &self.profile("basic"));
        program.env("HOME", self.folder.path().join("home"))
    }

    fn with_pod_identity(&self, program: Program) -> Program {
        let url = format!("{}/v1/credentials", self.emulator.endpoint());
        program.env("HC_CONTAINER_CREDENTIALS_FULL_URI", url).env(
            "HC_CONTAINER_AUTHORIZATION_TOKEN_FILE",
            self.file("pod-token", POD_TOKEN),
        )
    }

    fn with_metadata(&self, program: Program) -> Program {
        program.env("SWR_METADATA_ENDPOINT", self.emulator.endpoint())
    }
}

/// Adds the variables and files of a link to the environment of a program.
type AddLink = fn(&Scene, Program) -> Program;

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// The result of a probe of `doctor`: code and text.
fn probe(finished: &Finished, name: &str) -> (String, String) {
    let rows: Vec<Value> = serde_json::from_str(&finished.stdout).unwrap();
    let row = rows.iter().find(|row| row["probe"] == name).unwrap();
    let text = |field: &str| row[field].as_str().unwrap().to_owned();
    (text("code"), text("found"))
}

/// The credentials that `doctor` found. All probes succeed with them.
async fn found(program: Program) -> String {
    let finished = program.code(0).await;
    assert_eq!(probe(&finished, "permission.build_history").0, "ok");
    probe(&finished, "configuration.credentials").1
}

/// The error of a run that cannot start. Checks that no request was sent.
async fn refused(scene: &Scene, program: Program, words: &[&str]) {
    let finished = program.code(2).await;
    for word in words {
        assert!(
            finished.stdout.contains(word),
            "no `{word}`: {}",
            finished.stdout
        );
    }
    let requests = scene.emulator.requests();
    assert_eq!(requests.total(), 0, "{requests}");
}

// --- each link, and their order

#[tokio::test]
async fn each_link_gives_credentials_that_the_registry_accepts() {
    let scene = Scene::new().await;
    let home = scene.folder.path().join("home/.huaweicloud/credentials");
    let other = scene.file("profiles", &scene.profile("Other Team"));
    let key_file = scene.file("key", scene.secret_key());
    let cases = [
        (
            scene
                .doctor()
                .env("SWR_AUTH_TOKEN", "token-not-to-be-shown"),
            "a token in SWR_AUTH_TOKEN".to_owned(),
        ),
        (
            scene.with_sdk(scene.doctor()),
            "an access key in HUAWEICLOUD_SDK_AK and HUAWEICLOUD_SDK_SK".to_owned(),
        ),
        (
            scene.with_user(scene.doctor()),
            "an IAM user in SWR_IAM_USER, SWR_IAM_ACCOUNT and SWR_IAM_PASSWORD".to_owned(),
        ),
        (
            scene.with_terraform(scene.doctor()),
            "an access key in HW_ACCESS_KEY and HW_SECRET_KEY".to_owned(),
        ),
        (
            scene
                .with_terraform(scene.doctor())
                .without("HW_SECRET_KEY")
                .env("HW_SECRET_KEY_FILE", key_file),
            "an access key in HW_ACCESS_KEY and HW_SECRET_KEY_FILE".to_owned(),
        ),
        (
            scene.with_terraform_user(scene.doctor()),
            "an IAM user in HW_USER_NAME, HW_DOMAIN_NAME and HW_USER_PASSWORD".to_owned(),
        ),
        (
            scene.with_samples(scene.doctor()),
            "an access key in CLOUD_SDK_AK and CLOUD_SDK_SK".to_owned(),
        ),
        (
            // With the project of the profile.
            scene.with_home(scene.doctor()).without("SWR_PROJECT_ID"),
            format!(
                "an access key in [basic] of the profile file {}",
                home.display()
            ),
        ),
        (
            scene
                .doctor()
                .env("HUAWEICLOUD_SDK_CREDENTIALS_FILE", &other)
                .env("SWR_PROFILE", "Other Team"),
            format!(
                "an access key in [Other Team] of the profile file {}",
                other.display()
            ),
        ),
        (
            scene.with_pod_identity(scene.doctor()),
            "temporary keys of pod identity, by HC_CONTAINER_CREDENTIALS_FULL_URI".to_owned(),
        ),
    ];
    for (program, words) in cases {
        assert_eq!(found(program).await, words);
    }
    let metadata = found(scene.with_metadata(scene.doctor())).await;
    let words = format!(
        "temporary keys of the metadata service at {}; the first expires at ",
        scene.emulator.endpoint()
    );
    assert_starts_with(&metadata, &words);
    assert_eq!(scene.emulator.requests().with_status(401), 0);
}

#[tokio::test]
async fn a_whole_sync_runs_on_keys_of_the_machine() {
    let scene = Scene::new().await;
    let database = TestDatabase::create().await;
    let sync = || scene.registry(Program::sync(&scene.emulator, &database));
    for program in [scene.with_metadata(sync()), scene.with_pod_identity(sync())] {
        program.code(0).await.says(&["published in "]);
    }
    // A run requests the keys once.
    let requests = scene.emulator.requests();
    assert_eq!(requests.of(RequestKind::MetadataToken), 1);
    assert_eq!(requests.of(RequestKind::SecurityKey), 1);
    assert_eq!(requests.of(RequestKind::PodIdentity), 1);
    assert_eq!(requests.failed_signatures, 0);
}

#[tokio::test]
async fn the_first_link_that_is_given_counts() {
    let scene = Scene::new().await;
    // From the last link to the first, each added to those that come after it.
    let links: [(AddLink, &str); 9] = [
        (Scene::with_metadata, "the metadata service"),
        (Scene::with_pod_identity, "pod identity"),
        (Scene::with_home, "[basic]"),
        (Scene::with_samples, "CLOUD_SDK_AK"),
        (Scene::with_terraform_user, "HW_USER_NAME"),
        (Scene::with_terraform, "HW_ACCESS_KEY"),
        (Scene::with_user, "SWR_IAM_USER"),
        (Scene::with_sdk, "HUAWEICLOUD_SDK_AK"),
        (
            |_, program| program.env("SWR_AUTH_TOKEN", "token-not-to-be-shown"),
            "SWR_AUTH_TOKEN",
        ),
    ];
    for (count, (_, words)) in (1..).zip(links) {
        let program = links[..count]
            .iter()
            .fold(scene.doctor(), |program, (add, _)| add(&scene, program));
        let found = found(program).await;
        assert_contains(&found, words);
    }
    // The metadata service was used only if there was no other link: once to show the link, and once to
    // use it.
    assert_eq!(scene.emulator.requests().of(RequestKind::SecurityKey), 2);
}

#[tokio::test]
async fn a_security_token_belongs_to_the_key_of_its_own_family() {
    let scene = Scene::with(EmulatorSettings {
        credentials: Known {
            security_token: Some("security-token-not-to-be-shown".into()),
            ..emulator_settings().credentials
        },
        ..emulator_settings()
    })
    .await;
    let token = "security-token-not-to-be-shown";
    let sdk = scene.with_sdk(scene.doctor());
    let words = found(sdk.env("HUAWEICLOUD_SDK_SECURITY_TOKEN", token)).await;
    assert_ends_with(&words, ", temporary, with HUAWEICLOUD_SDK_SECURITY_TOKEN");
    let terraform = scene.with_terraform(scene.doctor());
    let words = found(terraform.env("HW_SECURITY_TOKEN", token)).await;
    assert_ends_with(&words, ", temporary, with HW_SECURITY_TOKEN");
    let profile = format!("{}security_token = {token}\n", scene.profile("basic"));
    let file = scene.file("profile", &profile);
    found(scene.doctor().env("HUAWEICLOUD_SDK_CREDENTIALS_FILE", file)).await;

    scene.emulator.reset_requests();
    // The SDKs' token does not make Terraform's key a temporary one: it is half a key.
    let mixed = scene.with_terraform(scene.doctor());
    let mixed = mixed.env("HUAWEICLOUD_SDK_SECURITY_TOKEN", token);
    let words = "no access key to the security token in HUAWEICLOUD_SDK_SECURITY_TOKEN given";
    refused(&scene, mixed, &[words]).await;
}

#[tokio::test]
async fn region_and_project_fall_back_to_the_names_of_terraform() {
    let scene = Scene::new().await;
    let terraform = || {
        scene
            .doctor()
            .without("SWR_ENDPOINT")
            .without("SWR_PROJECT_ID")
            // Nothing is sent to a region while the configuration is incomplete.
            .without("SWR_INSTANCE_ID")
            .env("HW_REGION_NAME", "cn-east-3")
            .env("HW_PROJECT_ID", "terraform-project")
    };
    let finished = terraform().code(2).await;
    let (_, endpoint) = probe(&finished, "configuration.endpoint");
    assert_eq!(endpoint, "https://swr-api.cn-east-3.myhuaweicloud.com/");
    let (_, project) = probe(&finished, "configuration.project");
    assert_eq!(project, "terraform-project");

    let own = terraform()
        .env("SWR_REGION", "cn-north-4")
        .env("HUAWEICLOUD_SDK_PROJECT_ID", "sdk-project");
    let finished = own.code(2).await;
    let (_, endpoint) = probe(&finished, "configuration.endpoint");
    assert_eq!(endpoint, "https://swr-api.cn-north-4.myhuaweicloud.com/");
    assert_eq!(probe(&finished, "configuration.project").1, "sdk-project");
}

// --- half a link, and files

#[tokio::test]
async fn half_a_link_is_an_error_and_not_passed_over() {
    let scene = Scene::new().await;
    // The links after it would have credentials.
    let doctor = || scene.with_metadata(scene.with_pod_identity(scene.doctor()));
    let file = |text: &str| scene.file("half", text);
    let profile = |text: &str| doctor().env("HUAWEICLOUD_SDK_CREDENTIALS_FILE", file(text));
    for (program, words) in cases! {
        doctor().env("HW_ACCESS_KEY", "AK") => ["no secret key given", "set HW_SECRET_KEY;"];
        doctor().env("HW_SECRET_KEY", "x-not-to-be-shown") => ["no access key given", "set HW_ACCESS_KEY;"];
        doctor().env("CLOUD_SDK_AK", "AK") => ["no secret key given", "set CLOUD_SDK_SK;"];
        doctor().env("HW_USER_NAME", "user") => ["no password of the IAM user given", "set HW_USER_PASSWORD;"];
        scene.with_terraform_user(doctor()).without("HW_DOMAIN_NAME") => ["no account of the IAM user given", "set HW_DOMAIN_NAME;"];
        doctor().env("SWR_IAM_ACCOUNT", "account") => ["no name of the IAM user given", "set SWR_IAM_USER;"];
        doctor().without("HC_CONTAINER_AUTHORIZATION_TOKEN_FILE") => ["no token file of pod identity given", "set HC_CONTAINER_AUTHORIZATION_TOKEN_FILE;"];
        doctor().without("HC_CONTAINER_CREDENTIALS_FULL_URI") => ["no address of pod identity given", "set HC_CONTAINER_CREDENTIALS_FULL_URI;"];
        doctor().env("HC_CONTAINER_CREDENTIALS_FULL_URI", "http://user:x-not-to-be-shown@host/") => ["HC_CONTAINER_CREDENTIALS_FULL_URI is not a plain HTTP URL", "hint"];
        profile("[basic]\nsk = x-not-to-be-shown\n") => ["[basic]: no access key given", "set both ak and sk in [basic]"];
    } {
        refused(&scene, program, &words).await;
    }
    refused(
        &scene,
        profile("[basic]\nak = AK\n= x-not-to-be-shown\n"),
        &[
            "cannot use the profile file ",
            "line 3",
            "Key cannot be empty",
        ],
    )
    .await;
    // Terraform accepts it together with a key, too.
    found(
        scene
            .with_terraform(doctor())
            .env("HW_DOMAIN_NAME", "account"),
    )
    .await;
}

#[tokio::test]
async fn a_profile_that_is_named_must_give_a_key_and_the_usual_one_need_not() {
    let scene = Scene::new().await;
    let named = |file: &Path| {
        let doctor = scene.with_metadata(scene.doctor());
        doctor.env("HUAWEICLOUD_SDK_CREDENTIALS_FILE", file)
    };
    let missing = scene.folder.path().join("missing");
    let global = scene.file("global", "[global]\nak = AK\nsk = x-not-to-be-shown\n");
    let federated = scene.file("federated", "[basic]\nidp_id = idp\n");
    for (program, words) in cases! {
        named(&missing) => "missing: No such file";
        named(&global) => "global: no section [basic]";
        named(&federated) => "federated: [basic] has no ak and sk";
        scene.with_metadata(scene.with_home(scene.doctor())).env("SWR_PROFILE", "nobody") => "no section [nobody]";
    } {
        refused(&scene, program, &["no credentials: profile file ", words]).await;
    }
    for text in ["[global]\nak = AK\n", "[basic]\nidp_id = idp\n", ""] {
        let program = scene.with_metadata(scene.with_home(scene.doctor()));
        scene.file("home/.huaweicloud/credentials", text);
        let found = found(program).await;
        assert_contains(&found, "the metadata service");
    }
}

#[tokio::test]
async fn a_profile_that_everyone_may_write_is_refused_and_one_that_everyone_may_read_warned_of() {
    let scene = Scene::new().await;
    for (mode, code, word) in cases! {
        0o600, 0 => "";
        0o640, 0 => "";
        0o644, 0 => "every user of this machine can read the secret in ";
    } {
        let program = scene.with_home(scene.doctor());
        scene.set_mode("home/.huaweicloud/credentials", mode);
        let finished = program.code(code).await.says(&[word]);
        assert_eq!(
            word.is_empty(),
            !finished.stderr.contains("WARN"),
            "{mode:o}"
        );
    }
    scene.emulator.reset_requests();
    for mode in [0o666, 0o602] {
        let program = scene.with_metadata(scene.with_home(scene.doctor()));
        scene.set_mode("home/.huaweicloud/credentials", mode);
        let words = format!("every user can write to it (mode {mode:04o})");
        refused(&scene, program, &["cannot use the profile file ", &words]).await;
    }
    // The same holds for the token of a pod, which is read when a key is needed.
    let program = scene.with_pod_identity(scene.doctor());
    scene.set_mode("pod-token", 0o602);
    let finished = program.code(4).await;
    let (code, found) = probe(&finished, "permission.instance");
    assert_eq!(code, "no_key");
    assert_contains(&found, "every user can write to it (mode 0602)");
    assert_eq!(scene.emulator.requests().of(RequestKind::PodIdentity), 0);
}

// --- the machine's services

#[tokio::test]
async fn where_nothing_is_found_each_link_says_why() {
    let scene = Scene::new().await;
    let database = TestDatabase::create().await;
    let program = scene.registry(Program::sync(&scene.emulator, &database));
    let finished = program.env("HOME", "/no/such/home").code(2).await;
    let error = finished.error();
    let lines = [
        "error: no credentials found; these sources were tried:",
        "  1. SWR_AUTH_TOKEN: not set",
        "  2. HUAWEICLOUD_SDK_AK, HUAWEICLOUD_SDK_SK: not set",
        "  3. SWR_IAM_USER, SWR_IAM_PASSWORD, SWR_IAM_ACCOUNT: not set",
        "  4. HW_ACCESS_KEY, HW_SECRET_KEY: not set",
        "  5. HW_USER_NAME, HW_USER_PASSWORD, HW_DOMAIN_NAME: not set",
        "  6. CLOUD_SDK_AK, CLOUD_SDK_SK: not set",
        "  7. profile file /no/such/home/.huaweicloud/credentials: No such file or directory (os error 2)",
        "  8. pod identity: HC_CONTAINER_CREDENTIALS_FULL_URI is not set",
        "  9. metadata service: PUT http://127.0.0.1:9/meta-data/latest/api/token: no answer: ",
        "  hint: set HUAWEICLOUD_SDK_AK and HUAWEICLOUD_SDK_SK",
    ];
    assert_eq!(error.lines().count(), lines.len(), "{error}");
    for (line, expected) in error.lines().zip(lines) {
        assert!(line.starts_with(expected), "{line}\n{error}");
    }
    assert_eq!(scene.emulator.requests().total(), 0);
}

#[tokio::test]
async fn a_metadata_service_without_tokens_is_asked_without() {
    for status in [404, 405, 503] {
        let scene = Scene::with(EmulatorSettings {
            metadata: MetadataSettings {
                tokens: MetadataTokens::Unsupported(status),
                ..MetadataSettings::default()
            },
            ..emulator_settings()
        })
        .await;
        found(scene.with_metadata(scene.doctor())).await;
        let requests = scene.emulator.requests();
        assert_eq!(requests.answered(RequestKind::MetadataToken, status), 2);
        assert_eq!(requests.answered(RequestKind::SecurityKey, 200), 2);
    }
}

#[tokio::test]
async fn a_server_without_an_agency_is_told_of_at_once() {
    let scene = Scene::with(EmulatorSettings {
        metadata: MetadataSettings {
            has_agency: false,
            ..MetadataSettings::default()
        },
        ..emulator_settings()
    })
    .await;
    let database = TestDatabase::create().await;
    let program = scene.registry(Program::sync(&scene.emulator, &database));
    let finished = scene.with_metadata(program).code(2).await;
    finished.says(&[
        "metadata service: GET http://",
        "/openstack/latest/securitykey: no agency is attached to this ECS (HTTP 401: Please configure",
        "on an ECS attach an agency",
    ]);
    let requests = scene.emulator.requests();
    assert_eq!(requests.of(RequestKind::MetadataToken), 1);
    assert_eq!(requests.of(RequestKind::SecurityKey), 1);
}

#[tokio::test]
async fn a_metadata_token_that_is_refused_is_replaced_once() {
    let scene = Scene::new().await;
    let once = "the metadata token has expired";
    scene
        .emulator
        .fail_next(RequestKind::SecurityKey, 401, once);
    let emulator = &scene.emulator;
    let (registry, _) = client(emulator, metadata(emulator));
    list(&registry).await.unwrap();
    assert_eq!(emulator.requests().of(RequestKind::MetadataToken), 2);
    assert_eq!(emulator.requests().of(RequestKind::SecurityKey), 2);

    emulator.reset_requests();
    for _ in 0..2 {
        emulator.fail_next(RequestKind::SecurityKey, 401, once);
    }
    let error = list(&client(emulator, metadata(emulator)).0)
        .await
        .unwrap_err();
    let words =
        "/openstack/latest/securitykey: no temporary key from the metadata service at http://";
    assert_contains(&error, words);
    assert_ends_with(&error, "HTTP 401: the metadata token has expired");
    assert_eq!(emulator.requests().total(), 4);
}

#[tokio::test]
async fn trouble_of_the_metadata_service_is_waited_out_and_then_told() {
    let scene = Scene::new().await;
    scene.emulator.fail_next(RequestKind::SecurityKey, 500, "");
    let doctor = || scene.with_metadata(scene.doctor());
    found(doctor()).await;
    scene.emulator.reset_requests();
    for _ in 0..3 {
        scene
            .emulator
            .fail_next(RequestKind::SecurityKey, 429, "busy");
    }
    let database = TestDatabase::create().await;
    let program = scene.registry(Program::sync(&scene.emulator, &database));
    // The service exists, so this is not a configuration error.
    let finished = scene.with_metadata(program).code(7).await;
    finished.says(&["/openstack/latest/securitykey: HTTP 429: busy"]);
    assert_eq!(scene.emulator.requests().of(RequestKind::SecurityKey), 3);
}

#[tokio::test]
async fn every_spelling_of_a_pods_key_is_read() {
    let scene = Scene::new().await;
    for spelling in [KeySpelling::Short, KeySpelling::Camel, KeySpelling::Snake] {
        scene.emulator.set_metadata(MetadataSettings {
            spelling,
            ..MetadataSettings::default()
        });
        found(scene.with_pod_identity(scene.doctor())).await;
    }
    assert_eq!(
        scene
            .emulator
            .requests()
            .answered(RequestKind::PodIdentity, 200),
        3
    );
}

#[tokio::test]
async fn a_pod_that_is_refused_is_told_where_and_its_token_is_not_shown() {
    let scene = Scene::new().await;
    let database = TestDatabase::create().await;
    let sync =
        || scene.with_pod_identity(scene.registry(Program::sync(&scene.emulator, &database)));
    let quoting = json!({"error_code": "CCE.1", "error_msg": format!("no such pod: {POD_TOKEN}")});
    scene
        .emulator
        .fail_next(RequestKind::PodIdentity, 403, quoting.to_string());
    sync().code(4).await.says(&[
        "POST http://",
        "/v1/credentials: no temporary key from pod identity at http://",
        "HTTP 403 CCE.1: no such pod: [redacted]",
        "hint: check that the service account has a pod identity association",
    ]);
    scene.emulator.fail_next(
        RequestKind::PodIdentity,
        200,
        r#"{"credentials":{"secretAccessKey":"x-of-no-value"}}"#,
    );
    sync()
        .code(4)
        .await
        .says(&["its credential has no `access`"]);
    let requests = scene.emulator.requests();
    assert_eq!(requests.total(), 2, "{requests}");
    let missing = scene.folder.path().join("missing");
    let program = sync().env("HC_CONTAINER_AUTHORIZATION_TOKEN_FILE", missing);
    program
        .code(4)
        .await
        .says(&["cannot read the file ", "missing of the pod's token"]);
}

// --- keys that expire

/// A registry and its client with a clock that the test moves.
async fn timed(metadata: MetadataSettings) -> (Emulator, EmulatorClock) {
    let clock = EmulatorClock::manual(start_of_time());
    let settings = EmulatorSettings {
        clock: clock.clone(),
        metadata,
        ..emulator_settings()
    };
    let emulator = Emulator::start(settings, world_of(250)).await.unwrap();
    (emulator, clock)
}

fn metadata(emulator: &Emulator) -> TemporaryKeySource {
    TemporaryKeySource::metadata(emulator.endpoint().parse().unwrap()).unwrap()
}

fn client(emulator: &Emulator, source: TemporaryKeySource) -> (Registry, ProjectSettings) {
    let clock = emulator.settings().clock.clone();
    let settings = ProjectSettings {
        credentials: Credentials::Temporary(source),
        clock: Clock::from_fn(move || clock.now()),
        ..client_settings(emulator)
    };
    (registry_of(settings.clone()), settings)
}

/// The only instance of the emulated project.
fn registry_of(settings: ProjectSettings) -> Registry {
    Registry::new(settings, &EmulatorSettings::default().instance_id).unwrap()
}

fn lifetime(minutes: u64) -> MetadataSettings {
    MetadataSettings {
        key_lifetime: Duration::from_secs(60 * minutes),
        ..MetadataSettings::default()
    }
}

#[tokio::test]
async fn a_key_is_renewed_ahead_of_its_end_and_not_before() {
    for (minutes, fresh_until) in [(24 * 60, 24 * 60 - 40), (30, 15)] {
        let (emulator, clock) = timed(lifetime(minutes)).await;
        let (registry, _) = client(&emulator, metadata(&emulator));
        list(&registry).await.unwrap();
        clock.advance(Duration::from_secs(60 * fresh_until - 1));
        list(&registry).await.unwrap();
        assert_eq!(emulator.requests().of(RequestKind::SecurityKey), 1);
        clock.advance(Duration::from_secs(1));
        for answer in ask_for_histories(&registry, &emulator, 50).await {
            answer.unwrap();
        }
        assert_eq!(
            emulator.requests().of(RequestKind::SecurityKey),
            2,
            "one for all"
        );
        assert_eq!(emulator.requests().failed_signatures, 0);
    }
}

#[tokio::test]
async fn a_run_outlives_its_keys() {
    let (emulator, clock) = timed(lifetime(10)).await;
    let database = TestDatabase::create().await;
    let (_, mut settings) = client(&emulator, metadata(&emulator));
    // Each reading of the clock advances it by a second, so that the run takes hours.
    let time = clock.clone();
    settings.clock = Clock::from_fn(move || {
        time.advance(Duration::from_secs(1));
        time.now()
    });
    let (_stopper, stop) = stop::channel();
    let run = sync_settings(&settings);
    let progress = Arc::<Progress>::default();
    run_as(settings, run, &database, &progress, &stop)
        .await
        .unwrap();
    let requests = emulator.requests();
    let keys = requests.of(RequestKind::SecurityKey);
    assert!(keys >= 3, "{requests}");
    assert_eq!(requests.failed_signatures, 0);
    assert_eq!(requests.of(RequestKind::BuildHistory), 250);

    let undisturbed = TestDatabase::create().await;
    let settings = client_settings(&emulator);
    let clock = emulator.settings().clock.clone();
    let settings = ProjectSettings {
        clock: Clock::from_fn(move || clock.now()),
        ..settings
    };
    let run = sync_settings(&settings);
    run_as(settings, run, &undisturbed, &Arc::default(), &stop)
        .await
        .unwrap();
    assert_eq!(facts(&database).await, facts(&undisturbed).await);
}

#[tokio::test]
async fn a_key_that_ends_early_is_replaced_by_one_request_each_time() {
    let (emulator, _) = timed(lifetime(60)).await;
    let (registry, _) = client(&emulator, metadata(&emulator));
    list(&registry).await.unwrap();
    for _ in 0..3 {
        emulator.reset_requests();
        emulator.expire_keys();
        for answer in ask_for_histories(&registry, &emulator, 100).await {
            answer.unwrap();
        }
        let requests = emulator.requests();
        assert_eq!(requests.of(RequestKind::SecurityKey), 1);
        // Of a hundred requests, at most those in flight at that time.
        assert!((1..=8).contains(&requests.failed_signatures), "{requests}");
    }
}

#[tokio::test]
async fn a_key_that_is_refused_at_its_first_use_is_not_replaced() {
    let (emulator, _) = timed(lifetime(60)).await;
    let (registry, _) = client(&emulator, metadata(&emulator));
    let body = r#"{"error_code":"APIGW.0301","error_msg":"no such key"}"#;
    emulator.fail_next(RequestKind::BuildHistory, 401, body);
    let answers = ask_for_histories(&registry, &emulator, 100).await;
    assert!(answers.iter().all(|answer| match answer {
        Err(error) => error.status().is_some_and(|status| status.status == 401),
        Ok(_) => false,
    }));
    let requests = emulator.requests();
    assert_eq!(requests.of(RequestKind::SecurityKey), 1);
    assert_eq!(requests.of(RequestKind::BuildHistory), 1);
}

#[tokio::test]
async fn the_same_key_is_not_signed_with_again_after_it_was_refused() {
    let (emulator, _) = timed(MetadataSettings {
        keeps_key: true,
        ..lifetime(60)
    })
    .await;
    let (registry, _) = client(&emulator, metadata(&emulator));
    list(&registry).await.unwrap();
    emulator.reset_requests();
    let body = r#"{"error_code":"APIGW.0301","error_msg":"key revoked"}"#;
    emulator.fail_next(RequestKind::Artifacts, 401, body);
    let error = list(&registry).await.unwrap_err();
    assert_contains(&error, "HTTP 401 APIGW.0301: key revoked");
    let requests = emulator.requests();
    assert_eq!(requests.of(RequestKind::SecurityKey), 1);
    assert_eq!(requests.of(RequestKind::Artifacts), 1);
}

#[tokio::test]
async fn a_service_that_keeps_its_key_is_not_asked_at_each_request() {
    let (emulator, clock) = timed(MetadataSettings {
        keeps_key: true,
        ..lifetime(60)
    })
    .await;
    let (registry, _) = client(&emulator, metadata(&emulator));
    for _ in 0..60 {
        list(&registry).await.unwrap();
        clock.advance(Duration::from_secs(60));
    }
    let asked = emulator.requests().of(RequestKind::SecurityKey);
    // Halves of an hour, down to the minimum interval.
    assert!((5..=15).contains(&asked), "{asked}");
    assert_eq!(emulator.requests().failed_signatures, 0);
}

#[tokio::test]
async fn a_key_is_used_to_its_end_if_it_cannot_be_renewed() {
    let (emulator, clock) = timed(lifetime(60)).await;
    let (registry, _) = client(&emulator, metadata(&emulator));
    list(&registry).await.unwrap();
    emulator.set_metadata(MetadataSettings {
        has_agency: false,
        ..lifetime(60)
    });
    clock.advance(Duration::from_secs(31 * 60));
    list(&registry).await.unwrap();
    list(&registry).await.unwrap();
    assert_eq!(
        emulator.requests().of(RequestKind::SecurityKey),
        2,
        "not at each request"
    );

    clock.advance(Duration::from_secs(30 * 60));
    for answer in ask_for_histories(&registry, &emulator, 50).await {
        let error = answer.unwrap_err();
        let words = "no temporary key from the metadata service at http://";
        assert_contains(&error, words);
        assert!(error.is_key_denied());
    }
    let requests = emulator.requests();
    assert_eq!(requests.of(RequestKind::SecurityKey), 3, "one for all");
    assert_eq!(requests.failed_signatures, 0);
}

#[tokio::test]
async fn a_service_that_was_found_to_have_no_tokens_is_left_alone_with_them_for_a_day() {
    let (emulator, clock) = timed(MetadataSettings {
        tokens: MetadataTokens::Unsupported(404),
        ..lifetime(10 * 60)
    })
    .await;
    let (registry, _) = client(&emulator, metadata(&emulator));
    for _ in 0..3 {
        list(&registry).await.unwrap();
        clock.advance(Duration::from_secs(10 * 60 * 60));
    }
    assert_eq!(emulator.requests().of(RequestKind::SecurityKey), 3);
    assert_eq!(emulator.requests().of(RequestKind::MetadataToken), 1);
    // It has started to require tokens: it refuses requests without one.
    emulator.set_metadata(lifetime(10 * 60));
    list(&registry).await.unwrap();
    assert_eq!(emulator.requests().of(RequestKind::MetadataToken), 2);
}

#[tokio::test]
async fn a_key_that_lives_for_seconds_is_replaced_when_it_has_ended() {
    let (emulator, clock) = timed(MetadataSettings {
        key_lifetime: Duration::from_secs(4),
        ..MetadataSettings::default()
    })
    .await;
    let (registry, _) = client(&emulator, metadata(&emulator));
    list(&registry).await.unwrap();
    clock.advance(Duration::from_secs(5));
    let again = tokio::time::timeout(Duration::from_secs(60), list(&registry)).await;
    again.expect("it goes round in circles").unwrap();
    assert_eq!(emulator.requests().of(RequestKind::SecurityKey), 2);
    assert_eq!(emulator.requests().failed_signatures, 0);
}

#[tokio::test]
async fn a_key_that_comes_too_late_is_not_signed_with() {
    let (emulator, _) = timed(lifetime(0)).await;
    let (registry, _) = client(&emulator, metadata(&emulator));
    let error = list(&registry).await.unwrap_err();
    assert_contains(&error, "the key it gave has expired at 2026-03-01 12:00");
    assert_eq!(emulator.requests().of(RequestKind::Artifacts), 0);
}

#[tokio::test]
async fn the_emulator_checks_the_keys_it_has_handed_out() {
    let (emulator, clock) = timed(MetadataSettings {
        tokens: MetadataTokens::Optional,
        ..lifetime(60)
    })
    .await;
    let url = format!("{}/openstack/latest/securitykey", emulator.endpoint());
    let text = reqwest::get(url).await.unwrap().text().await.unwrap();
    let answer: Value = serde_json::from_str(&text).unwrap();
    let part = |name: &str| answer["credential"][name].as_str().unwrap().to_owned();
    let key = SigningKey {
        access_key: part("access"),
        secret_key: part("secret").into(),
        security_token: Some(part("securitytoken").into()),
    };
    let (_, settings) = client(&emulator, metadata(&emulator));
    let list_with = async |key: &SigningKey| {
        let settings = ProjectSettings {
            credentials: Credentials::Key(key.clone()),
            ..settings.clone()
        };
        let refused = list(&registry_of(settings)).await.err();
        refused.map(|error| error.status().unwrap().message.clone())
    };
    assert_eq!(list_with(&key).await, None);
    let prefix = "Incorrect IAM authentication information: ";
    for security_token in [None, Some("another".into())] {
        let key = SigningKey {
            security_token,
            ..key.clone()
        };
        let words = "verify aksk signature fail,security token is missing or wrong";
        assert_eq!(list_with(&key).await, Some(format!("{prefix}{words}")));
    }
    clock.advance(Duration::from_secs(60 * 60));
    let words = format!("{prefix}security token expired");
    assert_eq!(list_with(&key).await, Some(words));
}

#[tokio::test]
async fn copies_of_a_source_share_its_key_and_show_no_secret() {
    let emulator = emulator(world_of(1)).await;
    let source = metadata(&emulator);
    source.prepare(&Clock::system()).await.unwrap();
    let (registry, settings) = client(&emulator, source.clone());
    list(&registry).await.unwrap();
    list(&registry_of(settings.clone())).await.unwrap();
    assert_eq!(emulator.requests().of(RequestKind::SecurityKey), 1);
    let text = format!("{source:?} {source} {settings:?} {registry:?}");
    assert_lacks(&text, ISSUED);
}
