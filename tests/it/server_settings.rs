//! Databases that others administer: defaults for other programs, encodings, schemas that an
//! administrator created, certificates, and servers that are not PostgreSQL.

use std::io::Read;
use std::sync::Arc;

use sqlx::PgConnection;
use swr_sync::database::Database;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;

use crate::support::database::TestDatabase;
use crate::support::mirror::{facts, wait_until, world_of};
use crate::support::program::{Program, emulator};
use crate::support::proxy::Proxy;
use crate::support::server::{PrivateServer, SUPERUSER};
use crate::support::wire::listen;
use crate::support::{assert_contains, cases};

/// Settings that change a result, end a session, or make it wait.
const HOSTILE: &[(&str, &str)] = &[
    ("search_path", "public, pg_catalog"),
    ("standard_conforming_strings", "off"),
    ("DateStyle", "SQL, DMY"),
    ("IntervalStyle", "iso_8601"),
    ("TimeZone", "Asia/Kathmandu"),
    ("client_encoding", "LATIN1"),
    ("bytea_output", "escape"),
    ("extra_float_digits", "-15"),
    ("array_nulls", "off"),
    ("transform_null_equals", "on"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_deferrable", "on"),
    ("gin_fuzzy_search_limit", "1"),
    ("restrict_nonsystem_relation_kind", "view"),
    ("lock_timeout", "1ms"),
    ("statement_timeout", "20s"),
    ("transaction_timeout", "20s"),
    ("idle_session_timeout", "10s"),
    ("idle_in_transaction_session_timeout", "1ms"),
    ("exit_on_error", "on"),
    ("client_min_messages", "debug5"),
    ("client_connection_check_interval", "0"),
    ("tcp_keepalives_idle", "7200"),
    ("row_security", "on"),
];

/// Makes the hostile settings that the server knows the defaults of a database.
async fn make_hostile(database: &TestDatabase) {
    let known = database.snapshot("select name from pg_settings").await;
    let name = database.snapshot("select current_database()").await;
    let user = database.snapshot("select current_user").await;
    // Defaults of a role override those of a database, so each gets half of them.
    let owners = [
        format!("alter database {name}"),
        format!("alter role {user} in database {name}"),
    ];
    let statements = HOSTILE
        .iter()
        .filter(|(setting, _)| known.lines().any(|known| known == *setting))
        .zip(owners.iter().cycle())
        .map(|((setting, value), owner)| match *setting {
            // A list, not a single name.
            "search_path" => format!("{owner} set {setting} = {value};"),
            _ => format!("{owner} set {setting} = '{value}';"),
        });
    let statements: String = statements.collect();
    database.snapshot(&statements).await;
}

async fn make_ordinary(database: &TestDatabase) {
    let name = database.snapshot("select current_database()").await;
    let user = database.snapshot("select current_user").await;
    let reset =
        format!("alter database {name} reset all; alter role {user} in database {name} reset all");
    database.snapshot(&reset).await;
}

/// The values of the hostile settings in a session of the program.
async fn settings_of(connection: &mut PgConnection) -> Vec<(String, String)> {
    let names: Vec<String> = HOSTILE.iter().map(|(name, _)| (*name).to_owned()).collect();
    let sql = "select name, setting from pg_catalog.pg_settings where name = any($1) order by name";
    sqlx::query_as(sql)
        .bind(names)
        .fetch_all(connection)
        .await
        .unwrap()
}

#[tokio::test]
async fn no_default_of_a_database_or_a_role_reaches_a_session() {
    let test_database = TestDatabase::create().await;
    let database = Database::from_url(test_database.url()).unwrap();
    let sessions = async || {
        let mut writer = database.connect_to_write().await.unwrap();
        let mut reader = database.connect_to_read().await.unwrap();
        (
            settings_of(&mut writer).await,
            settings_of(reader.connection()).await,
        )
    };
    let ordinary = sessions().await;
    make_hostile(&test_database).await;
    assert_eq!(sessions().await, ordinary);
    let (writer, reader) = ordinary;
    let search_path = |session: &[(String, String)]| {
        let setting = session.iter().find(|(name, _)| name == "search_path");
        setting.unwrap().1.clone()
    };
    assert_eq!(search_path(&writer), "pg_catalog");
    assert_eq!(search_path(&reader), "pg_catalog, swr_report, swr");
}

#[tokio::test]
async fn hostile_defaults_do_not_change_a_migration_a_sync_or_the_reports() {
    let emulator = emulator(world_of(30)).await;
    let [hostile, ordinary] = [
        TestDatabase::create_empty().await,
        TestDatabase::create_empty().await,
    ];
    make_hostile(&hostile).await;
    let mut outputs = [const { Vec::new() }; 2];
    for (database, outputs) in [&hostile, &ordinary].into_iter().zip(&mut outputs) {
        let run = async |arguments: &[&str]| {
            let program = Program::new(arguments)
                .registry(&emulator)
                .database(database);
            program.code(0).await.stdout
        };
        run(&["migrate"]).await;
        run(&["doctor"]).await;
        run(&["sync"]).await;
        run(&["verify"]).await;
        for report in ["storage_by_repository", "stale_artifact", "tag_move"] {
            outputs.push(run(&["report", report, "--format", "csv"]).await);
        }
        let sql = r"select 'a\b', 0.1::float8 + 0.2, '{NULL}'::text[], interval '1 day 2 hours', '\x00ff'::bytea,
                           '2026-03-01 12:00Z'::timestamptz, (select count(*) from artifact where tags @> '{}')";
        outputs.push(run(&["query", "--format", "csv", sql]).await);
    }
    let [of_hostile, of_ordinary] = outputs;
    assert_eq!(of_hostile, of_ordinary);
    emulator.with_world(|world| world.evolve(1));
    for database in [&hostile, &ordinary] {
        Program::sync(&emulator, database).code(0).await;
    }
    make_ordinary(&hostile).await;
    assert_eq!(facts(&hostile).await, facts(&ordinary).await);
}

#[tokio::test]
async fn a_database_in_another_encoding_is_refused_before_anything_is_written() {
    let emulator = emulator(world_of(30)).await;
    let server = PrivateServer::new().await;
    server
        .execute(
            "postgres",
            "create database mirror encoding 'LATIN1' locale 'C' template template0",
        )
        .await;
    let database = TestDatabase::at(server.url(SUPERUSER, "mirror"));
    let words = [
        "its encoding is LATIN1, but names and commands of images need UTF8",
        "hint: create another database, with `create database NAME encoding 'UTF8' locale 'C' template template0`",
    ];
    for command in ["migrate", "sync"] {
        Program::new(&[command])
            .registry(&emulator)
            .database(&database)
            .code(5)
            .await
            .says(&words);
    }
    let doctor = Program::new(&["doctor", "--format", "json"])
        .registry(&emulator)
        .database(&database)
        .code(5)
        .await;
    assert_contains(&doctor.stdout, r#""code":"encoding""#);
    let schemas = "select count(*) from pg_namespace where nspname in ('swr', 'swr_report')";
    assert_eq!(database.snapshot(schemas).await, "0");

    server
        .execute(
            "postgres",
            "create database another encoding 'UTF8' locale 'C' template template0",
        )
        .await;
    let database = TestDatabase::at(server.url(SUPERUSER, "another"));
    Program::sync(&emulator, &database).code(0).await;
}

#[tokio::test]
async fn a_role_that_cannot_create_schemas_migrates_in_those_created_for_it() {
    let emulator = emulator(world_of(30)).await;
    let server = PrivateServer::new().await;
    server
        .execute("postgres", "create role app login; create database mirror")
        .await;
    server
        .execute(
            "mirror",
            "create schema swr authorization app; create schema swr_report authorization app",
        )
        .await;
    let database = TestDatabase::at(server.url("app", "mirror"));
    let doctor = Program::new(&["doctor"])
        .registry(&emulator)
        .database(&database);
    let doctor = doctor.code(0).await;
    assert_contains(&doctor.stdout, "enough to migrate");
    Program::new(&["migrate"]).database(&database).code(0).await;
    Program::new(&["migrate", "--check"])
        .database(&database)
        .code(0)
        .await;
    Program::sync(&emulator, &database)
        .args(&["--no-migrate"])
        .code(0)
        .await;
}

#[tokio::test]
async fn a_result_that_the_server_cuts_while_its_consumer_is_slow_is_a_failure_of_the_database() {
    let database = TestDatabase::create_empty().await;
    // Over TCP the server's last message arrives.
    let proxy = Proxy::before_database(database.url()).await;
    for format in ["csv", "json"] {
        // The first rows do not fit into the buffer of a pipe.
        let sql = "select set_config('idle_in_transaction_session_timeout', '1ms', false), repeat('x', 1000), n
             from generate_series(1, 2500) n";
        let (mut pipe, stdout) = std::io::pipe().unwrap();
        let running = Program::new(&["query", "--format", format, sql])
            .database_url(&proxy.database_url(database.url()))
            .stdout(stdout)
            .start();
        let mut pipe = tokio::task::spawn_blocking(move || {
            pipe.read_exact(&mut [0]).unwrap();
            pipe
        })
        .await
        .unwrap();
        let sessions = "select count(*) from pg_stat_activity
                        where datname = current_database() and application_name like 'swr-sync %'";
        wait_until("the server has ended the session", async || {
            database.snapshot(sessions).await == "0"
        })
        .await;
        let reading = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            pipe.read_to_string(&mut text).unwrap();
            text
        });
        let finished = running.finish().await;
        let text = reading.await.unwrap();
        assert!(!text.contains("2500"));
        finished
            .code(5)
            .says(&["hint: the server ended the session because of its idle_in_transaction"]);
    }
}

// --- Servers that cannot be used

/// Checks the failure of a program that connects to this server.
async fn check_connection(url: &str, words: &[&str]) {
    for command in ["migrate", "status"] {
        let program = Program::new(&[command]).database_url(url);
        program.code(5).await.says(words);
    }
}

#[tokio::test]
async fn open_gauss_is_recognised_and_refused() {
    let address = listen(|mut stream| async move {
        // SSLRequest is 8 bytes.
        let mut request = [0; 8];
        stream.read_exact(&mut request).await.unwrap();
        stream.write_all(b"N").await.unwrap();
        let length = stream.read_i32().await.unwrap();
        let mut startup = vec![0; length as usize - 4];
        stream.read_exact(&mut startup).await.unwrap();
        // Its SHA-256 login uses the message number of PostgreSQL's SASL: method, random code, token,
        // iterations.
        let mut body = [10_i32.to_be_bytes(), 2_i32.to_be_bytes()].concat();
        body.extend([b'a'; 64]);
        body.extend(b"deadbeef");
        body.extend(10_000_i32.to_be_bytes());
        stream.write_all(b"R").await.unwrap();
        stream.write_i32(body.len() as i32 + 4).await.unwrap();
        stream.write_all(&body).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let url = format!("postgresql://user@{address}/mirror");
    let words =
        ["hint: this server is openGauss or GaussDB, which is not PostgreSQL and is not supported"];
    check_connection(&url, &words).await;
}

/// Serves a certificate that rustls itself would refuse to serve.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// A database server that supports only the TLS handshake, with this certificate.
async fn tls_server(certificate: &str) -> u16 {
    let data = |name: &str| format!("{}/tests/data/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let provider = Arc::new(ring::default_provider());
    let key = PrivateKeyDer::from_pem_file(data("server-key.pem")).unwrap();
    let key = provider.key_provider.load_private_key(key).unwrap();
    let certificate = CertificateDer::from_pem_file(data(certificate)).unwrap();
    let certified = Arc::new(CertifiedKey::new(vec![certificate], key));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Always(certified)));
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let address = listen(move |mut stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut request = [0; 8];
            stream.read_exact(&mut request).await.unwrap();
            stream.write_all(b"S").await.unwrap();
            // A client that does not accept the certificate disconnects here.
            let _ = acceptor.accept(stream).await;
        }
    });
    address.await.port()
}

#[tokio::test]
async fn an_error_about_a_certificate_names_the_fix() {
    let authority = format!(
        "{}/tests/data/tls/self-signed.pem",
        env!("CARGO_MANIFEST_DIR")
    );
    for (certificate, options, words) in cases! {
        "version-1.pem", "" => ["the server's certificate has X.509 version 1, like those that Citus", "sslmode=disable"];
        "server.pem", "?sslmode=verify-full" => ["the server's certificate is not signed by a trusted authority", "sslrootcert=FILE"];
        "self-signed.pem", &format!("?sslmode=verify-ca&sslrootcert={authority}") => ["the server's certificate is self-signed", "sslmode=require"];
    } {
        let port = tls_server(certificate).await;
        let url = format!("postgresql://user@localhost:{port}/mirror{options}");
        check_connection(&url, &words).await;
    }
}

#[tokio::test]
async fn an_ipv6_address_works() {
    // Containers often have no IPv6.
    let Ok(listener) = TcpListener::bind("[::1]:0").await else {
        return;
    };
    let port = listener.local_addr().unwrap().port();
    let accepting = tokio::spawn(async move { listener.accept().await.unwrap() });
    let url = format!("postgresql://user@[::1]:{port}/mirror?sslmode=disable");
    let running = Program::new(&["migrate"]).database_url(&url).start();
    drop(accepting.await.unwrap());
    let place = format!("cannot connect to the database mirror at [::1]:{port}");
    running.finish().await.code(5).says(&[&place]);
}

#[tokio::test]
async fn an_error_in_a_database_url_names_the_part_that_is_wrong() {
    for (url, problem) in cases! {
        "mysql://u:hidden-1@host/db" => "it does not begin with postgresql://";
        "u:hidden-1@host/db" => "it does not begin with postgresql://";
        "postgresql://u:1/hidden-1@host/db" => "`/` in the user or password must be percent-encoded, as %2F";
        "postgresql://u:1?hidden-1@host/db" => "`?` in the user or password must be percent-encoded, as %3F";
        "postgresql://u:hidden-1#1@host/db" => "`#` in the user or password must be percent-encoded, as %23";
        "postgresql://u:hidden-1@a,b/db" => "it names several hosts; only one is supported";
        "postgresql://u:hidden-1@a:5432,b:5432/db" => "it names several hosts; only one is supported";
        "postgresql:///db?host=a,b" => "it names several hosts; only one is supported";
        "postgresql://u:hidden-1@/db" => "the host is missing";
        "postgresql://u:hidden-1@[::g]/db" => "the IPv6 address in brackets is not valid";
        "postgresql://u:hidden-1@[::1/db" => "the IPv6 address in brackets is not valid";
        "postgresql://u:hidden-1@host:port/db" => "the port is not a number from 1 to 65535";
        "postgresql://u:hidden-1@host:70000/db" => "the port is not a number from 1 to 65535";
        "postgresql://u@host/db?sslmode=hidden-1" => "the value of the parameter sslmode is not valid";
        "postgresql://u@host/db?hostaddr=hidden-1" => "the value of the parameter hostaddr is not valid";
    } {
        let program = Program::new(&["migrate"])
            .env("DATABASE_URL", url)
            .hides("hidden-1");
        let expected = format!("error: the database URL is not valid: {problem}\n");
        let hint = match problem.contains("several hosts") {
            true => "hint: use the host name of the primary",
            false => "hint: write it as postgresql://user:password@host:5432/name\n",
        };
        program.fails(2, &[&expected, hint]).await;
    }
    let several = Program::new(&["migrate"]).env("DATABASE_URL", "postgresql:///db");
    let several = several.env("PGHOST", "a,b").code(2).await;
    several.says(&["it names several hosts"]);
}

#[tokio::test]
async fn an_invalid_variable_of_libpq_is_an_error() {
    let database = |program: Program| program.database_url("postgresql://user@host/db");
    for (variable, value) in [("PGSSLMODE", "verify_full"), ("PGPORT", "postgres")] {
        let program = database(Program::new(&["migrate"])).env(variable, value);
        let words = format!("error: the value of {variable} is not valid");
        program.code(2).await.says(&[&words]);
    }
}
