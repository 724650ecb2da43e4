//! How requests authenticate with the gateway.

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::expiring::{Issued, Secret};
use super::signature::SigningKey;
use super::temporary_key::TemporaryKeySource;

/// How requests are authenticated. Secrets are masked in `Debug`.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// A token supplied by the user, sent as `X-Auth-Token`; it cannot be renewed.
    Token(SecretString),
    /// An access key that signs each request.
    Key(SigningKey),
    /// An IAM user, for whom tokens are fetched and renewed.
    Password(PasswordLogin),
    /// Keys that expire and are renewed, from the machine or the pod.
    Temporary(TemporaryKeySource),
}

impl Credentials {
    /// Whether each request is signed. If so, the clock must be correct.
    pub fn sign_requests(&self) -> bool {
        match self {
            Credentials::Key(_) | Credentials::Temporary(_) => true,
            Credentials::Token(_) | Credentials::Password(_) => false,
        }
    }
}

/// An IAM user (api-iam iam_30_0001).
#[derive(Debug, Clone)]
pub struct PasswordLogin {
    /// Scheme and host of IAM.
    pub iam_endpoint: Url,
    pub user: String,
    pub password: SecretString,
    /// The account (domain) the user belongs to.
    pub account: String,
    /// The project the token is for: SWR is a project-level service.
    pub project_id: String,
}

impl PasswordLogin {
    /// The URL of the request for a token. Its query leaves the service catalog out of the answer.
    pub(super) fn url(&self) -> Url {
        let mut url = self.iam_endpoint.clone();
        url.set_path("/v3/auth/tokens");
        url.set_query(Some("nocatalog=true"));
        url
    }

    pub(super) fn body(&self) -> Value {
        let PasswordLogin {
            iam_endpoint: _,
            user,
            password,
            account,
            project_id,
        } = self;
        json!({
            "auth": {
                "identity": {
                    "methods": ["password"],
                    "password": {
                        "user": {
                            "name": user,
                            "password": password.expose_secret(),
                            "domain": { "name": account },
                        },
                    },
                },
                "scope": { "project": { "id": project_id } },
            },
        })
    }
}

impl Secret for SecretString {
    fn is_same(&self, other: &SecretString) -> bool {
        self.expose_secret() == other.expose_secret()
    }
}

/// Tokens are valid for 24 h. This value is used if the answer has no expiry.
const ASSUMED_LIFETIME: TimeDelta = TimeDelta::hours(12);

/// A token from IAM. It is renewed in the last tenth of its lifetime, but not more than half an
/// hour early.
///
/// The lifetime starts now, even if our clock is wrong: `skew` is how far the issuer's clock is ahead
/// of ours.
pub(super) fn issued_token(
    secret: SecretString,
    body: &[u8],
    now: DateTime<Utc>,
    skew: TimeDelta,
) -> Issued<SecretString> {
    let expires_at = serde_json::from_slice::<Value>(body)
        .ok()
        .and_then(|document| {
            DateTime::parse_from_rfc3339(document["token"]["expires_at"].as_str()?).ok()
        })
        .map(|time| time.to_utc() - skew)
        // Use a token even if it seems to have expired: it was issued just now.
        .filter(|expires_at| *expires_at > now)
        .unwrap_or(now + ASSUMED_LIFETIME);
    let margin = ((expires_at - now) / 10).min(TimeDelta::minutes(30));
    Issued {
        secret,
        expires_at,
        renew_at: expires_at - margin,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_shows_in_debug_output() {
        let login = PasswordLogin {
            iam_endpoint: "https://iam.example".parse().unwrap(),
            user: "user".to_owned(),
            password: "hunter2-secret".into(),
            account: "account".to_owned(),
            project_id: "p".to_owned(),
        };
        let all = format!(
            "{:?}{:?}{:?}",
            Credentials::Token("t-secret".into()),
            Credentials::Key(SigningKey {
                access_key: "AK".to_owned(),
                secret_key: "sk-secret".into(),
                security_token: Some("st-secret".into()),
            }),
            Credentials::Password(login),
        );
        assert!(all.contains("AK") && !all.contains("secret\""), "{all}");
        assert_eq!(all.matches("-secret").count(), 0, "{all}");
    }

    #[test]
    fn a_token_is_renewed_before_it_expires() {
        let now = "2026-01-01T00:00:00Z".parse::<DateTime<Utc>>().unwrap();
        let renew_at = |expires: &str| {
            let body = format!(r#"{{"token":{{"expires_at":"{expires}"}}}}"#);
            issued_token("t".into(), body.as_bytes(), now, TimeDelta::zero()).renew_at - now
        };
        assert_eq!(
            renew_at("2026-01-02T00:00:00.000000Z"),
            TimeDelta::minutes(24 * 60 - 30)
        );
        assert_eq!(
            renew_at("2026-01-01T00:01:40.000000Z"),
            TimeDelta::seconds(90)
        );
        assert!(renew_at("nonsense") > TimeDelta::hours(11));
        // Our clock is two days ahead; the token is fresh nevertheless.
        let body = br#"{"token":{"expires_at":"2025-12-31T00:00:00.000000Z"}}"#;
        let token = issued_token("t".into(), body, now, TimeDelta::days(-2));
        assert_eq!(token.renew_at - now, TimeDelta::minutes(24 * 60 - 30));
    }
}
