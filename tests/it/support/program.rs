//! The program as a separate process, as users run it.
//!
//! It gets only the given variables, not those of the test. In every test, its output is searched for the
//! given secrets.

use std::ffi::OsStr;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use swr_emulator::{Credentials, Emulator, EmulatorSettings, World};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::database::TestDatabase;

/// Long, because the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(120);

/// In every database URL of the program. The test server accepts any password, so its only purpose is to
/// be found in output that must not contain it.
const DATABASE_PASSWORD: &str = "database-password-not-to-be-shown";

/// Settings whose secrets cannot be part of another text.
pub(crate) fn emulator_settings() -> EmulatorSettings {
    EmulatorSettings {
        credentials: Credentials {
            secret_key: "secret-key-not-to-be-shown".into(),
            password: "iam-password-not-to-be-shown".into(),
            fixed_token: Some("token-not-to-be-shown".into()),
            ..Credentials::default()
        },
        ..EmulatorSettings::default()
    }
}

/// An emulator that serves this world.
pub(crate) async fn emulator(world: World) -> Emulator {
    Emulator::start(emulator_settings(), world).await.unwrap()
}

/// The same, and a database.
pub(crate) async fn emulator_and_database(world: World) -> (Emulator, TestDatabase) {
    (emulator(world).await, TestDatabase::create().await)
}

/// The same after one run. The requests of that run are not counted.
pub(crate) async fn synced(world: World) -> (Emulator, TestDatabase) {
    let (emulator, database) = emulator_and_database(world).await;
    Program::sync(&emulator, &database).code(0).await;
    emulator.reset_requests();
    (emulator, database)
}

/// A command line, and the environment it runs in.
pub(crate) struct Program {
    command: Command,
    secrets: Vec<String>,
}

impl Program {
    pub(crate) fn new(arguments: &[&str]) -> Program {
        Program::of(Command::new(env!("CARGO_BIN_EXE_swr-sync")), arguments)
    }

    /// Run by a shell script that gets the program as `$0` and the arguments as `$@`.
    pub(crate) fn shell(script: &str, arguments: &[&str]) -> Program {
        let mut command = Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_swr-sync")]);
        Program::of(command, arguments)
    }

    fn of(mut command: Command, arguments: &[&str]) -> Program {
        command
            .args(arguments)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // To find PostgreSQL's programs, as the tests do.
        for name in ["PATH", "SWR_SYNC_POSTGRES_BIN_DIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        // The machine that runs the tests may have a metadata service. Nothing listens on this port.
        command.env("SWR_METADATA_ENDPOINT", "http://127.0.0.1:9");
        Program {
            command,
            secrets: Vec::new(),
        }
    }

    /// `sync` of the emulated registry with its access key, without a rate limit and with short delays.
    pub(crate) fn sync(emulator: &Emulator, database: &TestDatabase) -> Program {
        Program::new(&["sync"])
            .registry(emulator)
            .database(database)
    }

    pub(crate) fn in_folder(mut self, folder: &std::path::Path) -> Program {
        self.command.current_dir(folder);
        self
    }

    pub(crate) fn args(mut self, arguments: &[&str]) -> Program {
        self.command.args(arguments);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Program {
        self.command.env(name, value);
        self
    }

    /// Sets a variable whose value must not be in any output.
    pub(crate) fn secret(mut self, name: &str, value: &str) -> Program {
        self.secrets.push(value.to_owned());
        self.env(name, value)
    }

    /// Adds a text that must not be in any output.
    pub(crate) fn hides(mut self, secret: &str) -> Program {
        self.secrets.push(secret.to_owned());
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Program {
        self.command.env_remove(name);
        self
    }

    pub(crate) fn stdout(mut self, stdout: impl Into<Stdio>) -> Program {
        self.command.stdout(stdout);
        self
    }

    pub(crate) fn registry(self, emulator: &Emulator) -> Program {
        let settings = emulator.settings();
        let Credentials {
            access_key,
            secret_key,
            ..
        } = &settings.credentials;
        self.env("SWR_ENDPOINT", emulator.endpoint())
            .env("SWR_PROJECT_ID", &settings.project_id)
            .env("SWR_INSTANCE_ID", &settings.instance_id)
            .env("HUAWEICLOUD_SDK_AK", access_key)
            .secret("HUAWEICLOUD_SDK_SK", secret_key.expose_secret())
            .env("SWR_MAX_REQUESTS_PER_SECOND", "0")
            .env("SWR_RETRY_DELAY", "1ms")
    }

    /// The IAM user instead of the access key.
    pub(crate) fn iam_user(self, emulator: &Emulator, password: &SecretString) -> Program {
        let Credentials { user, account, .. } = &emulator.settings().credentials;
        self.without_key()
            .env("SWR_IAM_ENDPOINT", emulator.endpoint())
            .env("SWR_IAM_USER", user)
            .env("SWR_IAM_ACCOUNT", account)
            .secret("SWR_IAM_PASSWORD", password.expose_secret())
    }

    /// A token instead of the access key.
    pub(crate) fn token(self, token: &str) -> Program {
        self.without_key().secret("SWR_AUTH_TOKEN", token)
    }

    pub(crate) fn without_key(self) -> Program {
        self.without("HUAWEICLOUD_SDK_AK")
            .without("HUAWEICLOUD_SDK_SK")
    }

    pub(crate) fn database(self, database: &TestDatabase) -> Program {
        let mut url: Url = database.url().parse().unwrap();
        if url.password().is_none() {
            url.set_password(Some(DATABASE_PASSWORD)).unwrap();
        }
        self.database_url(url.as_str())
    }

    /// Connects to the database with a role without privileges.
    pub(crate) async fn stranger(self, database: &TestDatabase) -> Program {
        let mut url: Url = database.url().parse().unwrap();
        // Roles belong to the whole server, so every test has the same role. A server in a container
        // requires the password that is in its URL.
        let password = url.password().unwrap_or_default();
        let role = format!(
            "do $$ begin
                if not exists (select from pg_roles where rolname = 'swr_stranger') then
                    create role swr_stranger login password '{password}';
                end if;
                exception when duplicate_object or unique_violation then null;
            end $$"
        );
        database.execute(&role).await;
        url.set_username("swr_stranger").unwrap();
        self.database_url(url.as_str())
    }

    /// Sets a database URL whose password must not be in any output.
    pub(crate) fn database_url(mut self, url: &str) -> Program {
        let parsed = url.parse::<Url>().ok();
        let password = parsed.as_ref().and_then(Url::password);
        self.secrets.extend(password.map(str::to_owned));
        self.env("DATABASE_URL", url)
    }

    pub(crate) fn start(mut self) -> Running {
        let mut child = self.command.spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        Running {
            stdout: child.stdout.take().map(Captured::new),
            stderr: Captured::new(stderr),
            child,
            secrets: self.secrets,
        }
    }

    pub(crate) async fn run(self) -> Finished {
        self.start().finish().await
    }

    /// Runs it, and fails the test unless it exits with this code.
    pub(crate) async fn code(self, expected: i32) -> Finished {
        self.run().await.code(expected)
    }

    /// Runs a command that fails, at the log level with the most output, which is the most likely to contain a
    /// secret. The error must contain all these words.
    pub(crate) async fn fails(self, code: i32, words: &[&str]) -> Finished {
        let finished = self.args(&["--log", "trace"]).code(code).await;
        assert_eq!(finished.stdout, "");
        finished.error_says(words);
        finished
    }
}

/// The process. Killed when dropped.
pub(crate) struct Running {
    child: Child,
    stdout: Option<Captured>,
    stderr: Captured,
    secrets: Vec<String>,
}

impl Running {
    pub(crate) fn process_id(&self) -> u32 {
        self.child.id().expect("it was not waited for yet")
    }

    /// The peak of its memory so far.
    pub(crate) fn peak_memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process_id()));
        let status = status.unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.unwrap().trim().trim_end_matches(" kB");
        peak.parse().unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process_id() as i32), signal).unwrap();
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub(crate) fn stderr_so_far(&self) -> String {
        self.stderr.so_far()
    }

    pub(crate) async fn finish(mut self) -> Finished {
        let Ok(status) = timeout(PATIENCE, self.child.wait()).await else {
            panic!("no end after {PATIENCE:?}: {}", self.stderr.so_far());
        };
        let stdout = match self.stdout {
            Some(stdout) => stdout.all().await,
            None => String::new(),
        };
        let stderr = self.stderr.all().await;
        for secret in &self.secrets {
            for (name, text) in [("stdout", &stdout), ("stderr", &stderr)] {
                // Without the text, which would print the secret again.
                assert!(!text.contains(secret), "`{secret}` is on {name}");
            }
        }
        Finished {
            status: status.unwrap(),
            stdout,
            stderr,
        }
    }
}

/// The exit status and the output.
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// Fails the test unless the process exited with this code.
    pub(crate) fn code(self, expected: i32) -> Finished {
        let Finished { status, stderr, .. } = &self;
        assert_eq!(status.code(), Some(expected), "{status}: {stderr}");
        self
    }

    /// Fails the test unless stderr contains all of this.
    pub(crate) fn says(self, words: &[&str]) -> Finished {
        for word in words {
            let stderr = &self.stderr;
            assert!(stderr.contains(word), "no `{word}` in: {stderr}");
        }
        self
    }

    /// Fails the test unless the error contains all of this.
    pub(crate) fn error_says(&self, words: &[&str]) {
        for word in words {
            let stderr = &self.stderr;
            assert!(self.error().contains(word), "no `{word}` in: {stderr}");
        }
    }

    /// The error, its causes and the hint: stderr without the log lines.
    pub(crate) fn error(&self) -> &str {
        let start = match self.stderr.starts_with("error: ") {
            true => Some(0),
            false => self.stderr.find("\nerror: ").map(|newline| newline + 1),
        };
        start.map_or("", |start| &self.stderr[start..])
    }
}

/// Reads a pipe to its end, so that the writer never waits.
struct Captured {
    bytes: Arc<Mutex<Vec<u8>>>,
    reading: JoinHandle<()>,
}

impl Captured {
    fn new(mut pipe: impl AsyncRead + Unpin + Send + 'static) -> Captured {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&bytes);
        let reading = tokio::spawn(async move {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
                into.lock().unwrap().extend_from_slice(&buffer[..length]);
            }
        });
        Captured { bytes, reading }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    async fn all(mut self) -> String {
        let end = timeout(PATIENCE, &mut self.reading).await;
        assert!(end.is_ok(), "somebody still writes: {}", self.so_far());
        self.so_far()
    }
}
