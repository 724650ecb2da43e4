//! Debian's Chromium without a window, controlled by the DevTools protocol.
//!
//! The messages are sent through pipes, each ended by a NUL, so there is no port to wait for.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// Long, because the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(120);

const FLAGS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
];

/// A browser with one page. Killed when dropped.
pub(crate) struct Browser {
    _process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    session: Value,
    sent: u64,
    /// Events that were received while waiting for answers: name and parameters.
    events: Vec<(String, Value)>,
    _profile: TempDir,
}

impl Browser {
    /// `None` if Chromium is not installed, which is allowed only on a developer's machine.
    pub(crate) async fn start() -> Option<Browser> {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let is_installed =
            std::env::split_paths(&folders).any(|folder| folder.join("chromium").exists());
        if !is_installed {
            let advice = "chromium is not installed: apt-get install chromium";
            assert!(std::env::var_os("CI").is_none(), "{advice}");
            // Directly to stderr, because the harness captures `eprintln`.
            let _ = writeln!(std::io::stderr(), "skipped, because {advice}");
            return None;
        }
        let profile = tempfile::tempdir().unwrap();
        // The browser reads commands from descriptor 3 and answers on 4.
        let mut process = Command::new("sh")
            .args(["-c", "exec chromium \"$@\" 3<&0 4>&1 >&2", "sh"])
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut browser = Browser {
            input: process.stdin.take().unwrap(),
            output: BufReader::new(process.stdout.take().unwrap()),
            _process: process,
            session: Value::Null,
            sent: 0,
            events: Vec::new(),
            _profile: profile,
        };
        let blank = json!({"url": "about:blank"});
        let target = browser.call("Target.createTarget", blank).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach).await;
        browser.session = attached["sessionId"].clone();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        Some(browser)
    }

    /// Sets the width of the window, and the preferred colour scheme: `light` or `dark`.
    pub(crate) async fn look(&mut self, width: u32, scheme: &str) {
        let metrics =
            json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", metrics)
            .await;
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", features).await;
    }

    /// Whether pages may run scripts.
    pub(crate) async fn allow_scripts(&mut self, is_allowed: bool) {
        let value = json!({"value": !is_allowed});
        self.call("Emulation.setScriptExecutionDisabled", value)
            .await;
    }

    /// Opens a file and waits until all of it is loaded and its scripts have run.
    pub(crate) async fn open(&mut self, file: &Path) {
        self.events.clear();
        let url = format!("file://{}", file.display());
        let answer = self.call("Page.navigate", json!({"url": url})).await;
        assert_eq!(answer["errorText"], Value::Null, "{url}");
        while !self.has_seen("Page.loadEventFired") {
            let message = self.next().await;
            self.note(message);
        }
    }

    /// The value of a JavaScript expression.
    pub(crate) async fn evaluate(&mut self, expression: &str) -> Value {
        let arguments =
            json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", arguments).await;
        assert_eq!(answer["exceptionDetails"], Value::Null, "{expression}");
        answer["result"]["value"].clone()
    }

    /// Problems since the page was opened: errors and warnings of the page and the browser, and requests for
    /// other resources than the page itself.
    pub(crate) fn complaints(&self) -> Vec<&(String, Value)> {
        let is_complaint = |(name, parameters): &&(String, Value)| match name.as_str() {
            "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded" => true,
            "Network.requestWillBeSent" => parameters["type"] != "Document",
            _ => false,
        };
        self.events.iter().filter(is_complaint).collect()
    }

    pub(crate) fn has_seen(&self, event: &str) -> bool {
        self.events.iter().any(|(name, _)| name == event)
    }

    async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.sent += 1;
        let mut message = json!({"id": self.sent, "method": method, "params": parameters});
        if self.session != Value::Null {
            message["sessionId"] = self.session.clone();
        }
        let bytes = format!("{message}\0");
        self.input.write_all(bytes.as_bytes()).await.unwrap();
        loop {
            let message = self.next().await;
            if message["id"] == self.sent {
                assert_eq!(message["error"], Value::Null, "{method}");
                return message["result"].clone();
            }
            self.note(message);
        }
    }

    fn note(&mut self, message: Value) {
        if let Some(name) = message["method"].as_str() {
            self.events
                .push((name.to_owned(), message["params"].clone()));
        }
    }

    async fn next(&mut self) -> Value {
        let mut message = Vec::new();
        let read = self.output.read_until(0, &mut message);
        let length = timeout(PATIENCE, read).await.expect("no word of Chromium");
        assert_ne!(length.unwrap(), 0, "Chromium ended");
        message.pop();
        serde_json::from_slice(&message).unwrap()
    }
}
