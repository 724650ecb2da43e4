//! Security: secrets in output and tables, TLS, proxies, files, and roles.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use reqwest::Url;
use secrecy::ExposeSecret;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use swr_emulator::{ArtifactSpec, Emulator, World};
use swr_sync::database::Database;
use swr_sync::registry::{Credentials as ClientCredentials, PasswordLogin, Registry};
use swr_sync::report::{FilterValues, REPORTS};
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::support::database::TestDatabase;
use crate::support::mirror::{client_settings, start_of_time, world_of};
use crate::support::program::{Program, emulator, emulator_and_database, emulator_settings};
use crate::support::receiver::Receiver;
use crate::support::wire::{Received, asking_database, listen, next_request};
use crate::support::{assert_contains, assert_lacks, cases};

/// The maximum log level for each library, by modules, which override any other directive.
const LOUDEST: &str = "trace,hyper=trace,hyper_util::client=trace,hyper_util::client::legacy::connect=trace,\
                       reqwest::connect=trace,rustls::client=trace,sqlx::query=trace,sqlx::postgres=trace,\
                       sqlx_postgres::connection=trace,sqlx_postgres::options::parse=trace,h2=trace,mio=trace";

/// The digests of the world's images.
fn digests(emulator: &Emulator) -> Vec<String> {
    emulator.with_world(|world| {
        let digests = world.artifacts().map(|artifact| artifact.digest());
        digests.map(|digest| digest.to_string()).collect()
    })
}

fn data(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/data/tls", name]
        .iter()
        .collect()
}

/// All rows of all tables of the schema, as text.
async fn everything_stored(database: &TestDatabase) -> String {
    let tables = database
        .snapshot("select table_name from information_schema.tables where table_schema = 'swr' order by 1")
        .await;
    let mut text = String::new();
    for table in tables.lines() {
        let rows = format!("select t::text from swr.{table} t");
        text.push_str(&database.snapshot(&rows).await);
        text.push('\n');
    }
    text
}

// --- TLS and proxies

/// Serves TLS in front of an emulator, with the certificate of the tests' authority.
async fn tls_in_front_of(emulator: &Emulator) -> u16 {
    let certificate = CertificateDer::from_pem_file(data("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(data("server-key.pem")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let behind = address(emulator);
    let address = listen(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            // A client that does not trust us hangs up here.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                return;
            };
            let mut behind = TcpStream::connect(behind).await.unwrap();
            let _ = copy_bidirectional(&mut stream, &mut behind).await;
        }
    });
    address.await.port()
}

fn address(emulator: &Emulator) -> SocketAddr {
    emulator.endpoint().replace("http://", "").parse().unwrap()
}

/// A proxy: opens a tunnel for CONNECT, and forwards other requests to the emulator.
struct Proxy {
    address: SocketAddr,
    /// The head of each connection's first request.
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn in_front_of(emulator: &Emulator) -> Proxy {
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let (shared, behind) = (Arc::clone(&heads), address(emulator));
        let address = listen(move |mut stream| {
            let heads = Arc::clone(&shared);
            async move {
                // `None` if the connection was opened in advance and not used.
                let Some(Received { head, body }) = next_request(&mut stream).await else {
                    return;
                };
                heads.lock().unwrap().push(head.clone());
                let target = head.strip_prefix("CONNECT ");
                let target = target.and_then(|rest| rest.split_once(' '));
                let mut behind = match target {
                    Some((target, _)) => TcpStream::connect(target).await.unwrap(),
                    None => TcpStream::connect(behind).await.unwrap(),
                };
                let first = match target {
                    Some(_) => stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await,
                    None => behind.write_all(&[head.as_bytes(), &body].concat()).await,
                };
                first.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut behind).await;
            }
        })
        .await;
        Proxy { address, heads }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused_and_one_of_the_ca_file_accepted() {
    let (emulator, database) = emulator_and_database(world_of(2)).await;
    let endpoint = format!("https://localhost:{}", tls_in_front_of(&emulator).await);
    let sync = || Program::sync(&emulator, &database).env("SWR_ENDPOINT", &endpoint);

    let refused = sync().code(7).await;
    let refused = refused.says(&[
        "the server's certificate is not trusted: ",
        "hint: if this is a private endpoint or a TLS-inspecting proxy, set SWR_CA_FILE to the certificate",
    ]);
    assert_eq!(emulator.requests().total(), 0);
    // It was not retried.
    assert_lacks(refused.error(), "attempts");

    let accepted = sync().env("SWR_CA_FILE", data("ca.pem")).code(0).await;
    accepted.says(&["published in "]);
    let ca_file = data("ca.pem");
    let by_flag = sync().args(&["--ca-file", ca_file.to_str().unwrap()]);
    by_flag.code(0).await;

    // The trusted authority, but another name.
    let other_name = endpoint.replace("localhost", "127.0.0.1");
    let refused = sync()
        .env("SWR_ENDPOINT", other_name)
        .env("SWR_CA_FILE", &ca_file)
        .code(7)
        .await;
    refused.says(&[
        "the server's certificate is not trusted: ",
        "not valid for name",
    ]);
}

#[tokio::test]
async fn a_ca_file_that_is_none_is_a_usage_error() {
    let emulator = emulator(world_of(2)).await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    for (path, word) in [
        (file("empty.pem", ""), "it contains no certificate"),
        (
            file("broken.pem", "-----BEGIN CERTIFICATE-----\n!\n"),
            "it is not PEM",
        ),
        (folder.path().join("missing.pem"), "No such file"),
    ] {
        Program::new(&["sync"])
            .registry(&emulator)
            .env("SWR_CA_FILE", &path)
            .code(2)
            .await
            .says(&[&format!(
                "cannot use the CA file {}: {word}",
                path.display()
            )]);
    }
}

#[tokio::test]
async fn a_byte_order_mark_at_the_start_of_a_file_is_ignored() {
    let (emulator, database) = emulator_and_database(world_of(2)).await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("\u{feff}{text}")).unwrap();
        path
    };
    let settings = emulator.settings();
    let keys = format!(
        "[basic]\nak = {}\nsk = {}\n",
        settings.credentials.access_key,
        settings.credentials.secret_key.expose_secret()
    );
    let authority = std::fs::read_to_string(data("ca.pem")).unwrap();
    let endpoint = format!("https://localhost:{}", tls_in_front_of(&emulator).await);
    let configuration = format!("endpoint = \"{endpoint}\"\n");
    Program::sync(&emulator, &database)
        .without_key()
        .without("SWR_ENDPOINT")
        .without("DATABASE_URL")
        .env("SWR_SYNC_CONFIG", file("swr-sync.toml", &configuration))
        .env("DATABASE_URL_FILE", file("url", database.url()))
        .env(
            "HUAWEICLOUD_SDK_CREDENTIALS_FILE",
            file("credentials", &keys),
        )
        .env("SWR_CA_FILE", file("ca.pem", &authority))
        .code(0)
        .await;
    Program::new(&["query", "\u{feff}select 1"])
        .database(&database)
        .code(0)
        .await;
}

#[tokio::test]
async fn an_invalid_proxy_is_not_bypassed() {
    let (emulator, database) = emulator_and_database(world_of(2)).await;
    let bad = "http://user:hidden-1@proxy.example:port";
    for (variables, named) in cases! {
        &[("HTTP_PROXY", bad)][..] => "HTTP_PROXY";
        &[("HTTPS_PROXY", bad)] => "HTTPS_PROXY";
        &[("all_proxy", "socks5://user:hidden-1@proxy.example")] => "all_proxy";
        &[("HTTPS_PROXY", ""), ("https_proxy", "http://proxy.example")] => "https_proxy";
        &[("ALL_PROXY", "http://proxy.example"), ("REQUEST_METHOD", "GET")] => "ALL_PROXY";
    } {
        for command in ["sync", "doctor", "verify"] {
            let program = Program::new(&[command])
                .registry(&emulator)
                .database(&database)
                .hides("hidden-1");
            let program = variables
                .iter()
                .fold(program, |program, (name, value)| program.env(name, value));
            let finished = program.code(2).await;
            let words = format!("cannot use the proxy in {named}");
            let output = finished.stdout + &finished.stderr;
            assert_contains(&output, &words);
        }
    }
    assert_eq!(emulator.requests().total(), 0);
    // An empty variable counts as unset.
    Program::sync(&emulator, &database)
        .env("HTTPS_PROXY", "")
        .code(0)
        .await;
}

#[tokio::test]
async fn requests_go_through_the_proxy_of_the_environment() {
    let (emulator, database) = emulator_and_database(world_of(2)).await;
    let port = tls_in_front_of(&emulator).await;
    for (variable, endpoint, first_line) in cases! {
        "HTTP_PROXY", emulator.endpoint() => format!("GET {}/v2/", emulator.endpoint());
        "HTTPS_PROXY", format!("https://localhost:{port}") => format!("CONNECT localhost:{port} ");
        "ALL_PROXY", format!("https://localhost:{port}") => format!("CONNECT localhost:{port} ");
    } {
        let proxy = Proxy::in_front_of(&emulator).await;
        let url = format!(
            "http://proxy-user:proxy-password-not-to-be-shown@{}",
            proxy.address
        );
        let sync = || {
            Program::sync(&emulator, &database)
                .env("SWR_ENDPOINT", &endpoint)
                .env("SWR_CA_FILE", data("ca.pem"))
                .env(variable, &url)
                .hides("proxy-password-not-to-be-shown")
                .args(&["--log", LOUDEST])
        };
        sync().code(0).await;
        let heads = proxy.heads();
        assert!(!heads.is_empty(), "{variable}");
        for head in heads {
            assert!(head.starts_with(&first_line), "{variable}: {head}");
            let authorization = "proxy-authorization: Basic ";
            assert!(
                head.to_ascii_lowercase()
                    .contains(&authorization.to_ascii_lowercase()),
                "{head}"
            );
        }

        // With an exception for the endpoint, the proxy receives nothing.
        let before = proxy.heads().len();
        sync().env("NO_PROXY", "localhost,127.0.0.1").code(0).await;
        assert_eq!(proxy.heads().len(), before, "{variable}");
    }
}

#[tokio::test]
async fn plain_http_to_another_machine_is_warned_of() {
    let (emulator, database) = emulator_and_database(world_of(2)).await;
    let warning = "uses plain HTTP: others in the network can read the requests";
    let loopback = Program::sync(&emulator, &database).code(0).await;
    assert_lacks(&loopback.stderr, warning);
    // The name cannot be resolved; the warning is printed before the attempt.
    let elsewhere = Program::sync(&emulator, &database)
        .env("SWR_ENDPOINT", "http://swr.invalid")
        .args(&["--max-attempts", "1"])
        .code(7)
        .await;
    elsewhere.says(&["the endpoint http://swr.invalid/", warning]);
}

// --- secrets in output

/// A gateway that refuses everything and quotes the request, in a different format each time. It may issue
/// this token, so that requests contain a token to quote.
async fn quoting_gateway(token: Option<&'static str>) -> SocketAddr {
    let count = Arc::new(AtomicUsize::new(0));
    listen(move |mut stream| {
        let count = 1 + count.fetch_add(1, Ordering::Relaxed);
        async move {
            let Some(request) = next_request(&mut stream).await else {
                return;
            };
            let quoted = format!("{}{}", request.head, request.text());
            let issued = token.filter(|_| quoted.starts_with("POST"));
            let (status, header, body) = if let Some(token) = issued {
                let header = format!("x-subject-token: {token}\r\n");
                (201, header, "{}".to_owned())
            } else {
                // The canonical request of a signature has one line for each header.
                let canonical = quoted.replace("\r\n", "|");
                let body = match count % 3 {
                    0 => json!({"error_code": "APIGW.0301", "error_msg": format!("refused: {canonical}")})
                        .to_string(),
                    1 => json!({"error": {"code": 403, "message": quoted}}).to_string(),
                    _ => format!("<html><body>Forbidden: <pre>{}</pre></body></html>", values(&quoted)),
                };
                (403, String::new(), body)
            };
            let answer = format!(
                "HTTP/1.1 {status} x\r\nconnection: close\r\n{header}content-length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await
}

/// A request without the names of its headers, except the proxy's header, which only the proxy receives.
fn values(request: &str) -> String {
    let value = |line: &str| match line.split_once(": ") {
        Some((name, value)) if !name.eq_ignore_ascii_case("proxy-authorization") => {
            value.to_owned()
        }
        _ => line.to_owned(),
    };
    let values: Vec<String> = request.lines().map(value).collect();
    values.join(" ")
}

#[tokio::test]
async fn a_failing_run_shows_no_secret_however_much_is_logged() {
    const ISSUED: &str = "token-issued-by-iam-not-to-be-shown";
    let (emulator, database) = emulator_and_database(world_of(2)).await;
    // A parameter that sqlx does not know, and warns of with its value.
    let mut database_url: Url = database.url().parse().unwrap();
    database_url
        .query_pairs_mut()
        .append_pair("sslpassword", "database-password-not-to-be-shown");
    let outputs = tempfile::tempdir().unwrap();
    let file = |name: &str| outputs.path().join(name);
    std::fs::write(file("termination-log"), "").unwrap();
    let receiver = Receiver::start().await;
    let push_url = format!(
        "http://pusher:push-password-not-to-be-shown@{}",
        receiver.address()
    );
    let ping_url = format!("http://{}/ping-path-not-to-be-shown", receiver.address());
    let secrets = [
        "ping-path-not-to-be-shown",
        "push-password-not-to-be-shown",
        // The encoding for the Pushgateway: pusher:push-password-not-to-be-shown.
        "cHVzaGVyOnB1c2gtcGFzc3dvcmQtbm90LXRvLWJlLXNob3du",
        ISSUED,
        "database-password-not-to-be-shown",
        "secret-key-not-to-be-shown",
        "security-token-not-to-be-shown",
        "iam-password-not-to-be-shown",
        "given-token-not-to-be-shown",
        // A part of everything that the emulated metadata service issues.
        "of-no-value",
        "proxy-password-not-to-be-shown",
        // The encoding for the proxy: proxy-user:proxy-password-not-to-be-shown.
        "cHJveHktdXNlcjpwcm94eS1wYXNzd29yZC1ub3QtdG8tYmUtc2hvd24",
    ];
    for format in ["text", "json"] {
        for credentials in ["key", "user", "refused user", "token", "machine"] {
            for proxied in [false, true, true] {
                let gateway = quoting_gateway((credentials == "user").then_some(ISSUED)).await;
                let endpoint = format!("http://{gateway}");
                let mut program = Program::sync(&emulator, &database)
                    .database_url(database_url.as_str())
                    .env("SWR_ENDPOINT", &endpoint)
                    .env("SWR_SYNC_SUMMARY_FILE", file("summary.jsonl"))
                    .env("SWR_SYNC_METRICS_FILE", file("swr_sync.prom"))
                    .env("SWR_SYNC_TERMINATION_MESSAGE_FILE", file("termination-log"))
                    .env("SWR_SYNC_PUSHGATEWAY_URL", &push_url)
                    .env("SWR_SYNC_PING_URL", &ping_url)
                    .env(
                        "OTEL_EXPORTER_OTLP_ENDPOINT",
                        format!("http://{}", receiver.address()),
                    )
                    .args(&["--log", LOUDEST, "--log-format", format]);
                // Every third output is refused, and quoted in the answer.
                receiver.answer_next(&[200, 200, 404]);
                program = match credentials {
                    "key" => program
                        .secret("HUAWEICLOUD_SDK_SK", "secret-key-not-to-be-shown")
                        .secret(
                            "HUAWEICLOUD_SDK_SECURITY_TOKEN",
                            "security-token-not-to-be-shown",
                        ),
                    "user" | "refused user" => program
                        .iam_user(&emulator, &"iam-password-not-to-be-shown".into())
                        .env("SWR_IAM_ENDPOINT", &endpoint),
                    // The keys come from the emulator, and never through a proxy.
                    "machine" => program
                        .without_key()
                        .env("SWR_METADATA_ENDPOINT", emulator.endpoint()),
                    _ => program.token("given-token-not-to-be-shown"),
                };
                if proxied {
                    let proxy =
                        format!("http://proxy-user:proxy-password-not-to-be-shown@{gateway}");
                    program = program.env("HTTP_PROXY", proxy);
                }
                for secret in secrets {
                    program = program.hides(secret);
                }
                let finished = program.code(4).await;
                finished.says(&["HTTP 403"]);
            }
        }
    }
    let errors = database.snapshot("select error from swr.sync_run").await;
    assert_eq!(errors.lines().count(), 30, "{errors}");
    assert_contains(&errors, "[redacted]");
    let mut told = everything_stored(&database).await;
    for name in ["summary.jsonl", "swr_sync.prom", "termination-log"] {
        let text = std::fs::read_to_string(file(name)).unwrap();
        assert!(text.contains('4'), "{name}: {text}");
        told.push_str(&text);
    }
    let failed = told.matches("\"exit_code\":4").count();
    assert_eq!(failed, errors.lines().count());
    // A third of the jobs have no proxy: at least start and end of the ping, and a push.
    let received = receiver.received();
    assert!(received.len() >= 8 * 3, "{}", received.len());
    for request in received {
        told.push_str(&String::from_utf8_lossy(&request.body));
    }
    for secret in secrets {
        assert!(!told.contains(secret), "{secret} was stored or told");
    }
}

const COMMAND_SECRET: &str = "build-secret-not-to-be-shown";

/// Adds a secret to each field of the first image's history.
fn seed_secrets(emulator: &Emulator) {
    let digest = digests(emulator).remove(0);
    let history = json!({
        "total": 5,
        "note": format!("built with --password={COMMAND_SECRET}"),
        "build_histories": [
            {"created": "2026-01-01T00:00:00Z", "created_by": format!("RUN |1 API_TOKEN={COMMAND_SECRET} /bin/sh -c make # buildkit"),
             "empty_layer": true, "comment": format!("export TOKEN={COMMAND_SECRET}")},
            {"created_by": format!("ENV DB_PASSWORD={COMMAND_SECRET}\u{0}"), "empty_layer": true},
            {"created_by": ["ENV", format!("DB_PASSWORD={COMMAND_SECRET}")], "empty_layer": true},
            {"created_by": "ENV LANG=C.UTF-8", "empty_layer": true, "build": {"args": [{"token": COMMAND_SECRET}]}},
            format!("ENV DB_PASSWORD={COMMAND_SECRET}"),
        ],
    });
    emulator.with_world(|world| world.override_build_history(&digest, 200, history));
}

#[tokio::test]
async fn a_secret_in_a_build_command_is_not_logged() {
    let emulator = emulator(world_of(2)).await;
    seed_secrets(&emulator);
    let database = TestDatabase::create().await;
    for format in ["text", "json"] {
        let program = Program::sync(&emulator, &database)
            .args(&["--log", LOUDEST, "--log-format", format])
            .hides(COMMAND_SECRET);
        program.code(0).await;
    }
    // It could have been logged, and is stored unchanged.
    assert!(everything_stored(&database).await.contains(COMMAND_SECRET));
}

#[tokio::test]
async fn redacted_commands_reach_no_table() {
    let emulator = emulator(world_of(2)).await;
    seed_secrets(&emulator);
    let database = TestDatabase::create().await;
    let program = Program::sync(&emulator, &database).args(&["--redact-commands"]);
    program.code(0).await;

    let stored = everything_stored(&database).await;
    assert!(!stored.contains(COMMAND_SECRET));
    let commands = database
        .snapshot("select command from swr.command where command like '%[redacted]%' order by 1")
        .await;
    assert_eq!(
        commands,
        "ENV DB_PASSWORD=[redacted]\nRUN |1 API_TOKEN=[redacted] /bin/sh -c make # buildkit"
    );
    let issues = database
        .snapshot(
            "select table_name, substring(row_key from ' [0-9]+$'), field, action, original
             from swr.data_issue where action = 'redacted' order by 1, 2, 3",
        )
        .await;
    assert_eq!(
        issues,
        "build_step |  1 | comment | redacted | null\n\
         build_step |  1 | created_by | redacted | null\n\
         build_step |  2 | created_by | redacted | null\n\
         build_step |  4 | build | redacted | null\n\
         manifest | NULL | note | redacted | null"
    );
    // Values without a secret are unchanged.
    let unchanged = "select count(*) from swr.command where command = 'ENV LANG=C.UTF-8'";
    assert_eq!(database.snapshot(unchanged).await, "1");
}

#[tokio::test]
async fn what_was_stored_with_secrets_is_fetched_again_after_the_documented_clean_up() {
    let emulator = emulator(world_of(2)).await;
    seed_secrets(&emulator);
    let database = TestDatabase::create().await;
    Program::sync(&emulator, &database).code(0).await;
    let redacting = || Program::sync(&emulator, &database).env("SWR_SYNC_REDACT_COMMANDS", "true");
    redacting().code(0).await;
    assert!(everything_stored(&database).await.contains(COMMAND_SECRET));

    let clean_up = documented("clean-up.sql");
    database.snapshot(&clean_up).await;
    redacting().code(0).await.says(&["2 fetched, 0 known"]);
    assert!(!everything_stored(&database).await.contains(COMMAND_SECRET));
}

#[tokio::test]
async fn what_is_gone_before_its_history_is_fetched_again_is_not_counted_after_the_clean_up() {
    let (emulator, database) = emulator_and_database(World::generate(5, 20, start_of_time())).await;
    Program::sync(&emulator, &database).code(0).await;
    let clean_up = documented("clean-up.sql");
    database.snapshot(&clean_up).await;
    emulator.with_world(|world| {
        let ids: Vec<i64> = world.artifacts().map(|artifact| artifact.id).collect();
        for id in &ids[..10] {
            world.delete_artifact(*id).unwrap();
        }
    });

    Program::sync(&emulator, &database).code(0).await;

    let shared = "select 'r', repository_id, layer_bytes, null::uuid from swr.repository_layering
                  union all select 'n', namespace_id, exclusive_bytes, null from swr.namespace_layering
                  union all select 'a', artifact_id, exclusive_bytes, shared_chain_id from swr.artifact_layering
                  order by 1, 2, 3, 4";
    let undisturbed = TestDatabase::create().await;
    Program::sync(&emulator, &undisturbed).code(0).await;
    assert_eq!(
        database.snapshot(shared).await,
        undisturbed.snapshot(shared).await
    );
}

/// The code block of docs/security.md that begins with this comment.
fn documented(name: &str) -> String {
    let path = format!("{}/docs/security.md", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let block = text
        .split("```")
        .find(|block| block.contains(&format!("-- {name}")));
    let block = block.unwrap_or_else(|| panic!("no {name} in docs/security.md"));
    block.trim_start_matches("sql").to_owned()
}

// --- secrets from outside

#[tokio::test]
async fn a_password_in_the_flag_is_refused_and_may_come_from_elsewhere() {
    let database = TestDatabase::create().await;
    let mut url: Url = database.url().parse().unwrap();
    // A server in a container requires the password, others have none.
    let password = url.password().unwrap_or_default().to_owned();
    url.set_password(None).unwrap();
    let plain = url.to_string();
    let mut with_password = url.clone();
    if with_password.username().is_empty() {
        with_password.set_username("somebody").unwrap();
    }
    with_password
        .set_password(Some("flag-password-not-to-be-shown"))
        .unwrap();
    let mut with_parameter = url.clone();
    with_parameter
        .query_pairs_mut()
        .append_pair("password", "flag-password-not-to-be-shown");
    for url in [with_password.as_str(), with_parameter.as_str()] {
        for command in [&["status"][..], &["migrate"], &["query", "select 1"]] {
            let finished = Program::new(command)
                .args(&["--database-url", url])
                .hides("flag-password-not-to-be-shown")
                .code(2)
                .await;
            finished.says(&[
                "--database-url contains a password, which other users of this machine can read",
                "hint: set DATABASE_URL, or DATABASE_URL_FILE",
            ]);
        }
    }
    // The flag overrides the variable.
    Program::new(&["query", "select 1"])
        .args(&["--database-url", &plain])
        .env("DATABASE_URL", "postgresql://nowhere.invalid/x")
        .env("PGPASSWORD", password)
        .code(0)
        .await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_secret_file_that_everyone_may_write_is_refused_and_one_that_everyone_may_read_warned_of()
{
    use std::os::unix::fs::PermissionsExt;
    let database = TestDatabase::create().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("database-url");
    std::fs::write(&file, format!("{}\n", database.url())).unwrap();
    let mut said = BTreeSet::new();
    for (mode, code, word) in cases! {
        0o600, 0 => "";
        0o640, 0 => "";
        0o644, 0 => "every user of this machine can read the secret in ";
        0o666, 2 => "every user can write to it (mode 0666)";
        0o602, 2 => "every user can write to it (mode 0602)";
    } {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let finished = Program::new(&["query", "select 1"])
            .env("DATABASE_URL_FILE", &file)
            .code(code)
            .await
            .says(&[word]);
        if word.is_empty() {
            assert_eq!(finished.stderr, "", "{mode:o}");
        }
        said.insert(finished.stderr);
    }
    assert_eq!(said.len(), 4);
}

// --- roles

/// Three roles only for this test, dropped by [`Roles::drop`]. Roles belong to the whole server.
struct Roles<'a> {
    database: &'a TestDatabase,
    migrate: String,
    sync: String,
    report: String,
}

impl Roles<'_> {
    /// Creates them with the script that the program prints.
    async fn create(database: &TestDatabase) -> Roles<'_> {
        let unique = std::process::id();
        let url: Url = database.url().parse().unwrap();
        let suffix = format!("{unique} {}", url.path().trim_start_matches('/'));
        let suffix = &suffix[..suffix.len().min(40)];
        // Names of roles are quoted, so any name is possible.
        let roles = Roles {
            database,
            migrate: format!("m'\"$$%I {suffix}"),
            sync: format!("s\\;-- {suffix}"),
            report: format!("Report {suffix}"),
        };
        roles.apply().await;
        for role in [&roles.migrate, &roles.sync, &roles.report] {
            let quoted = role.replace('"', "\"\"");
            let sql = format!("alter role \"{quoted}\" password 'role-password'");
            database.snapshot(&sql).await;
        }
        roles
    }

    async fn apply(&self) {
        let printed = Program::new(&["migrate", "--print-grants"])
            .args(&["--migrate-role", &self.migrate])
            .args(&["--sync-role", &self.sync, "--report-role", &self.report])
            .code(0)
            .await;
        self.database.snapshot(&printed.stdout).await;
    }

    /// The database's URL for one of them.
    fn url(&self, role: &str) -> String {
        let mut url: Url = self.database.url().parse().unwrap();
        url.set_username(role).unwrap();
        url.set_password(Some("role-password")).unwrap();
        url.to_string()
    }

    /// Runs a statement as one of them, and returns the server's error.
    async fn refused(&self, role: &str, sql: &str) -> Option<String> {
        let mut connection = PgConnection::connect(&self.url(role)).await.unwrap();
        let result = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(&mut connection)
            .await;
        let _ = connection.close().await;
        let error = result.err()?;
        Some(error.as_database_error().unwrap().message().to_owned())
    }

    async fn drop(self) {
        for role in [&self.migrate, &self.sync, &self.report] {
            let quoted = role.replace('"', "\"\"");
            let sql = format!("drop owned by \"{quoted}\" cascade; drop role \"{quoted}\"");
            self.database.snapshot(&sql).await;
        }
    }
}

/// A function and an operator that match better than those of the server, in a schema in which everyone may
/// create objects: the default up to PostgreSQL 14. They change a row if another role runs them.
const TRAPS: &str = "
    create function public.unnest(ids uuid[]) returns setof uuid language plpgsql as $$
    begin
        perform public.spring_the_trap();
        return query select pg_catalog.unnest(ids);
    end $$;
    create function public.is_more(a numeric, b bigint) returns boolean language plpgsql as $$
    begin
        perform public.spring_the_trap();
        return a operator(pg_catalog.>) b::numeric;
    end $$;
    create operator public.> (leftarg = numeric, rightarg = bigint, function = public.is_more);
    create function public.spring_the_trap() returns void language plpgsql as $$
    begin
        update swr.instance set region = 'written by ' || current_user;
    exception when others then
        raise exception using message = 'run by ' || current_user;
    end $$;";

#[tokio::test]
async fn nothing_that_a_reader_creates_in_schema_public_is_run_by_others() {
    let (emulator, database) = emulator_and_database(world_of(2)).await;
    database
        .snapshot("grant create on schema public to public")
        .await;
    let roles = Roles::create(&database).await;
    assert_eq!(roles.refused(&roles.report, TRAPS).await, None);

    for (role, arguments) in [
        (&roles.sync, ["sync", "--no-migrate"]),
        (&roles.migrate, ["verify", "--histories=all"]),
        (&roles.migrate, ["report", "storage_by_repository"]),
    ] {
        Program::new(&arguments)
            .registry(&emulator)
            .database_url(&roles.url(role))
            .code(0)
            .await;
    }
    // Like a psql user with the schema in the search path.
    for view in ["storage_by_repository", "stale_artifact()", "reclaimable()"] {
        let sql = format!("select * from swr_report.{view}");
        database.snapshot(&sql).await;
    }
    let written = "select count(*) from swr.instance where region like 'written by %'";
    assert_eq!(database.snapshot(written).await, "0");
    // The trap works.
    let sprung = roles.refused(&roles.report, "select public.unnest(array[]::uuid[])");
    assert!(
        sprung
            .await
            .is_some_and(|error| error.starts_with("run by "))
    );
    roles.drop().await;
}

#[tokio::test]
async fn roles_can_do_their_work_if_not_everyone_may_execute_functions() {
    let emulator = emulator(world_of(2)).await;
    let database = TestDatabase::create_empty().await;
    database
        .snapshot("alter default privileges revoke execute on functions from public")
        .await;
    Program::new(&["migrate"]).database(&database).code(0).await;
    let roles = Roles::create(&database).await;
    let doctor = async || {
        let doctor = Program::new(&["doctor"]).registry(&emulator);
        let doctor = doctor.database_url(&roles.url(&roles.sync)).run().await;
        doctor.stdout
    };
    assert!(doctor().await.contains("enough to sync"));
    let function = "function swr.total_bytes(numeric)";
    let sync = format!("\"{}\"", roles.sync.replace('"', "\"\""));
    let revoke = format!("revoke execute on {function} from {sync}");
    database.snapshot(&revoke).await;
    let lacks = "to sync the role lacks execute on function swr.total_bytes";
    assert!(doctor().await.contains(lacks));
    roles.apply().await;
    Program::sync(&emulator, &database)
        .database_url(&roles.url(&roles.sync))
        .args(&["--no-migrate"])
        .code(0)
        .await;
    for report in ["storage_by_repository", "stale_artifact", "layer_usage"] {
        Program::new(&["report", report])
            .database_url(&roles.url(&roles.report))
            .code(0)
            .await;
    }
    // A function of a later migration.
    let stricter = "alter default privileges revoke execute on functions from public";
    assert_eq!(roles.refused(&roles.migrate, stricter).await, None);
    let later = "create function swr_report.later() returns integer language sql return 1";
    assert_eq!(roles.refused(&roles.migrate, later).await, None);
    let call = "select swr_report.later()";
    assert_eq!(roles.refused(&roles.report, call).await, None);
    roles.drop().await;
}

#[tokio::test]
async fn each_role_can_do_its_work_and_no_more() {
    let mut world = world_of(2);
    let repository = world.repository("team", "app/api").unwrap().id;
    // So many rows that the tables are analyzed.
    let spec = ArtifactSpec {
        tags: (0..1_000).map(|number| format!("v{number}")).collect(),
        ..ArtifactSpec::default()
    };
    world.add_artifact(repository, spec).unwrap();
    let (emulator, database) = emulator_and_database(world).await;
    let roles = Roles::create(&database).await;

    let synced = Program::sync(&emulator, &database)
        .database_url(&roles.url(&roles.sync))
        .args(&["--no-migrate"])
        .code(0)
        .await;
    // It does not try statements without the privilege.
    assert_lacks(&synced.stderr, "WARN");

    let report_url = roles.url(&roles.report);
    let digest =
        emulator.with_world(|world| world.artifacts().next().unwrap().digest().to_string());
    for report in REPORTS {
        let digest: &[&str] = match report.query(&FilterValues::default(), 0) {
            Ok(_) => &[],
            Err(_) => &["--digest", &digest],
        };
        Program::new(&["report", report.name])
            .args(digest)
            .database_url(&report_url)
            .code(0)
            .await;
    }
    Program::new(&["status"])
        .database_url(&report_url)
        .code(0)
        .await;

    let denied = "permission denied for ";
    let owner = "must be owner of ";
    for (role, sql, expected) in cases! {
        &roles.sync, "create table swr.x ()" => Some(denied);
        &roles.sync, "create schema x" => Some(denied);
        &roles.sync, "drop table swr.tag_history" => Some(owner);
        &roles.sync, "drop schema swr_report cascade" => Some(owner);
        &roles.sync, "alter table swr.artifact add x integer" => Some(owner);
        &roles.sync, "truncate swr.artifact" => Some(denied);
        &roles.sync, "delete from swr._sqlx_migrations" => Some(denied);
        &roles.sync, "select * from swr_report.artifact" => Some(denied);
        &roles.report, "select * from swr.staged_artifact" => Some(denied);
        &roles.report, "select * from swr.command" => Some(denied);
        &roles.report, "delete from swr.sync_run" => Some(denied);
        &roles.report, "insert into swr.staged_tag select" => Some(denied);
        &roles.report, "create table swr_report.x ()" => Some(denied);
        &roles.report, "create or replace view swr_report.tag as select 1" => Some(denied);
        &roles.report, "select * from swr_report.build_history" => None;
    } {
        let refused = roles.refused(role, sql).await;
        match expected {
            Some(words) => assert!(
                refused
                    .as_deref()
                    .is_some_and(|refused| refused.starts_with(words)),
                "{sql}: {refused:?}"
            ),
            None => assert_eq!(refused, None, "{sql}"),
        }
    }

    // The other roles can use the objects of a later migration immediately.
    let migration = "create table swr.later (a integer);
                     create view swr_report.later as select a from swr.later";
    for (role, sql) in [
        (&roles.migrate, migration),
        (&roles.sync, "insert into swr.later values (1)"),
        (&roles.report, "select * from swr_report.later"),
    ] {
        assert_eq!(roles.refused(role, sql).await, None, "{sql}");
    }
    roles.apply().await;
    roles.drop().await;
}

/// The `Debug` output of types with secrets does not contain the secrets.
#[tokio::test]
async fn debug_output_has_no_secret() {
    let emulator = emulator(world_of(2)).await;
    let mut settings = client_settings(&emulator);
    let password = "database-password-not-to-be-shown";
    let url = format!("postgresql://user:{password}@localhost/x?sslkey=/key");
    let database = Database::from_url(&url).unwrap();
    let mut text = format!("{:?} {settings:?} {database:?}", emulator_settings());
    for credentials in [
        ClientCredentials::Token("given-token-not-to-be-shown".into()),
        ClientCredentials::Password(PasswordLogin {
            iam_endpoint: settings.endpoint.clone(),
            user: "user".to_owned(),
            password: "iam-password-not-to-be-shown".into(),
            account: "account".to_owned(),
            project_id: "p".to_owned(),
        }),
    ] {
        settings.credentials = credentials;
        text.push_str(&format!("{settings:?}"));
        text.push_str(&format!(
            "{:?}",
            Registry::new(settings.clone(), "i").unwrap()
        ));
    }
    assert_lacks(&text, "not-to-be-shown");
}

#[cfg(unix)]
#[tokio::test]
async fn a_url_without_password_gets_it_from_where_psql_does() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let password = "pgpass-password-not-to-be-shown";
    let file = folder.path().join("pgpass");
    std::fs::write(&file, format!("*:*:*:user:{password}\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    for (variable, value) in [
        ("PGPASSWORD", password),
        ("PGPASSFILE", file.to_str().unwrap()),
    ] {
        let (address, mut passwords) = asking_database().await;
        let url = format!("postgresql://user@{address}/mirror?sslmode=disable");
        let finished = Program::new(&["status", "--database-url", &url, "--log", LOUDEST])
            .env(variable, value)
            .hides(password)
            .run()
            .await;
        // It closes the connection after that.
        finished.code(5);
        assert_eq!(passwords.recv().await.unwrap(), password, "{variable}");
    }
}
