//! Pings a monitoring service when a job starts and ends, with the protocol of healthchecks.io:
//! <https://healthchecks.io/docs/http_api/>. `URL/start` starts a measured run, `URL/0` ends it
//! successfully, any other number ends it as a failure; `rid` connects the two.

use std::fmt;
use std::time::Duration;

use reqwest::{Certificate, Url};
use secrecy::ExposeSecret;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::super::exit::{Exit, Failure};
use super::super::http::{Http, NotTaken};
use super::super::job::JobReport;
use super::super::variables::secret;

const NAME: &str = "SWR_SYNC_PING_URL";
const TEXT: &str = "text/plain; charset=utf-8";
/// How long to wait for the first ping before sending the last one.
const PATIENCE: Duration = Duration::from_secs(1);

/// The URL to ping. It is a secret: everyone who knows it can send pings.
pub(super) struct Ping {
    url: Url,
    http: Http,
}

impl fmt::Debug for Ping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ping")
    }
}

/// The first ping, sent while the job runs.
pub(super) type Started = JoinHandle<()>;

impl Ping {
    pub(super) fn from_settings(certificates: Vec<Certificate>) -> Result<Option<Ping>, Failure> {
        let Some(text) = secret(NAME)? else {
            return Ok(None);
        };
        let url = text.expose_secret().parse::<Url>().ok();
        let is_web = |url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host();
        let Some(url) = url.filter(is_web) else {
            return Err(
                Failure::new(Exit::Usage, format!("{NAME} does not contain a URL")).hint(
                    "write it as https://hc-ping.com/… or copy it from the page of the check",
                ),
            );
        };
        let http = Http::new(certificates)?;
        Ok(Some(Ping { url, http }))
    }

    /// Reports that a job starts; does not wait.
    pub(super) fn start(&self, job_id: Uuid) -> Started {
        let (http, url) = (self.http.clone(), self.url("start", job_id));
        tokio::spawn(async move {
            if let Err(error) = http.post(&url, TEXT, None, String::new()).await {
                tracing::warn!("cannot report the start of the job through the ping: {error}");
            }
        })
    }

    /// Reports how the job ended.
    pub(super) async fn end(
        &self,
        started: Option<Started>,
        report: &JobReport,
        text: String,
    ) -> Result<(), NotTaken> {
        // Wait for the first ping, or the service could receive the start after the end.
        if let Some(mut started) = started
            && tokio::time::timeout(PATIENCE, &mut started).await.is_err()
        {
            started.abort();
        }
        let code = (report.exit() as u8).to_string();
        let url = self.url(&code, report.job_id);
        self.http.post(&url, TEXT, None, text).await
    }

    fn url(&self, action: &str, job_id: Uuid) -> Url {
        let mut url = self.url.clone();
        // Cannot fail: the URL has a host.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push(action);
        }
        url.query_pairs_mut()
            .append_pair("rid", &job_id.to_string());
        url
    }
}
