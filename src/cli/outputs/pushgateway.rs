//! Pushes metrics to a Prometheus Pushgateway, a group for each instance:
//! <https://github.com/prometheus/pushgateway#api>.

use std::fmt;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use futures_util::{StreamExt, stream};
use percent_encoding::percent_decode_str;
use reqwest::header::HeaderValue;
use reqwest::{Certificate, Url};
use secrecy::ExposeSecret;

use super::super::exit::{Exit, Failure};
use super::super::http::{Http, NotTaken};
use super::super::job::InstanceReport;
use super::super::variables::{given, secret};
use super::metrics::{self, Metrics};

const NAME: &str = "SWR_SYNC_PUSHGATEWAY_URL";
/// Number of concurrent requests.
const IN_FLIGHT: usize = 8;

/// Where to push.
pub(super) struct Pushgateway {
    /// Ends with the path of the job; has no user and password.
    base: Url,
    authorization: Option<HeaderValue>,
    http: Http,
}

impl fmt::Debug for Pushgateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pushgateway")
    }
}

impl Pushgateway {
    pub(super) fn from_settings(
        flag: Option<&String>,
        certificates: Vec<Certificate>,
    ) -> Result<Option<Pushgateway>, Failure> {
        let flag = flag.cloned();
        let (text, is_secret) = match given(&flag) {
            Some(text) => (text.to_owned(), false),
            None => match secret(NAME)? {
                Some(text) => (text.expose_secret().to_owned(), true),
                None => return Ok(None),
            },
        };
        // Without the text, which may contain a password.
        let wrong = |what: &str, hint: &str| Failure::new(Exit::Usage, what).hint(hint);
        let url = text.parse::<Url>().ok();
        let is_web = |url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host();
        let Some(mut base) = url.filter(is_web) else {
            return Err(wrong(
                "the address of the Pushgateway is not a URL",
                "write it as http://pushgateway:9091",
            ));
        };
        let (user, password) = (decoded(base.username()), base.password().map(decoded));
        if password.is_some() && !is_secret {
            return Err(wrong(
                "--pushgateway-url contains a password, which other users of this machine can read in the \
                 list of processes",
                "set SWR_SYNC_PUSHGATEWAY_URL, or SWR_SYNC_PUSHGATEWAY_URL_FILE to the path of a file \
                 that contains it",
            ));
        }
        let authorization = (!user.is_empty() || password.is_some())
            .then(|| basic(&user, &password.unwrap_or_default()))
            .flatten();
        // Neither can fail: the URL has a host.
        let _ = base.set_username("");
        let _ = base.set_password(None);
        let path = base.path().trim_end_matches('/').to_owned();
        if !path.contains("/metrics/job/") {
            base.set_path(&format!("{path}/metrics/job/swr_sync"));
        } else {
            base.set_path(&path);
        }
        let http = Http::new(certificates)?;
        Ok(Some(Pushgateway {
            base,
            authorization,
            http,
        }))
    }

    /// Pushes the metrics of each instance with POST, which keeps metrics that are not sent:
    /// the time of the last success.
    pub(super) async fn push(&self, reports: &[InstanceReport]) -> Result<(), NotTaken> {
        let groups = reports.iter().filter_map(|report| {
            let instance = report.target.as_ref()?.swr_instance_id.as_deref()?;
            let url = self.group(instance);
            let text = Metrics::of(std::slice::from_ref(report)).text();
            Some(async move {
                let authorization = self.authorization.as_ref();
                self.http
                    .post(&url, metrics::CONTENT_TYPE, authorization, text)
                    .await
            })
        });
        let mut pushed = std::pin::pin!(stream::iter(groups).buffer_unordered(IN_FLIGHT));
        let mut result = Ok(());
        while let Some(one) = pushed.next().await {
            result = result.and(one);
        }
        result
    }

    fn group(&self, instance: &str) -> Url {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        let group = if !instance.is_empty() && instance.bytes().all(is_plain) {
            format!("swr_instance_id/{instance}")
        } else {
            let encoded = BASE64_URL_SAFE_NO_PAD.encode(instance);
            format!("swr_instance_id@base64/{encoded}")
        };
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{group}", self.base.path()));
        url
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn basic(user: &str, password: &str) -> Option<HeaderValue> {
    let encoded = BASE64_STANDARD.encode(format!("{user}:{password}"));
    let mut value = HeaderValue::from_str(&format!("Basic {encoded}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}
