//! Authentication: tokens as issued by IAM, and signed requests.

use std::collections::HashMap;

use chrono::{DateTime, Duration, NaiveDateTime, Utc};
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;

use super::answer::{Answer, Refusal};
use super::image::Digest;
use super::metadata::Machine;
use super::requests::Arrived;
use super::settings::{Authentication, EmulatorSettings};
use super::signature::Authorization;

/// Maximum difference of `X-Sdk-Date` from the gateway's clock (devg-apisign).
const SIGNATURE_VALID_MINUTES: i64 = 15;
/// More consecutive failed checks than this lock the key (devg-apisign, api-sign-0001).
const FAILED_CHECKS_ALLOWED: u32 = 5;
const LOCK_MINUTES: i64 = 5;

/// Tokens and the state of the keys.
#[derive(Debug, Default)]
pub(super) struct Gatekeeper {
    issued: u64,
    expiry_by_token: HashMap<String, DateTime<Utc>>,
    failures: HashMap<String, KeyFailures>,
    /// How many requests each issued token or temporary key was accepted for.
    uses: HashMap<String, u64>,
    /// The keys that expire.
    pub(super) machine: Machine,
    /// Accepted instead of the one in the settings.
    pub(super) secret_key: Option<SecretString>,
    /// Number of failed signature checks, for tests.
    pub(super) failed_checks: u64,
}

/// Failures that count towards locking the key.
#[derive(Debug, Default)]
struct KeyFailures {
    in_a_row: u32,
    locked_until: Option<DateTime<Utc>>,
}

impl Gatekeeper {
    /// Authenticates a request by token or signature. A token takes precedence.
    pub(super) fn check(
        &mut self,
        settings: &EmulatorSettings,
        request: &Arrived<'_>,
    ) -> Result<(), Refusal> {
        if settings.authentication == Authentication::Off {
            return Ok(());
        }
        let now = settings.clock.now();
        if let Some(token) = request.header("x-auth-token") {
            return self.check_token(settings, token, now);
        }
        let Some(authorization) = request.header("authorization") else {
            return Err(Refusal::unauthenticated("x-auth-token not found"));
        };
        let result = self.check_signature(settings, request, authorization, now);
        if let Err(reason) = result {
            self.failed_checks += 1;
            return Err(Refusal::unauthenticated(&reason));
        }
        Ok(())
    }

    /// Expires all tokens.
    pub(super) fn expire_tokens(&mut self) {
        for expires_at in self.expiry_by_token.values_mut() {
            *expires_at = DateTime::UNIX_EPOCH;
        }
    }

    /// Whether an issued token or temporary key has reached its maximum number of uses.
    fn is_used_up(&self, settings: &EmulatorSettings, name: &str) -> bool {
        let uses = self.uses.get(name).copied().unwrap_or_default();
        settings.uses_per_secret.is_some_and(|limit| uses >= limit)
    }

    fn check_token(
        &mut self,
        settings: &EmulatorSettings,
        token: &str,
        now: DateTime<Utc>,
    ) -> Result<(), Refusal> {
        let fixed = settings.credentials.fixed_token.as_ref();
        if fixed.is_some_and(|fixed| fixed.expose_secret() == token) {
            return Ok(());
        }
        match self.expiry_by_token.get(token).copied() {
            Some(expires_at) if now < expires_at && !self.is_used_up(settings, token) => {
                *self.uses.entry(token.to_owned()).or_default() += 1;
                Ok(())
            }
            Some(_) => Err(Refusal::unauthenticated("token expires")),
            None => Err(Refusal::unauthenticated("decrypt token fail")),
        }
    }

    fn check_signature(
        &mut self,
        settings: &EmulatorSettings,
        request: &Arrived<'_>,
        authorization: &str,
        now: DateTime<Utc>,
    ) -> Result<(), String> {
        let credentials = &settings.credentials;
        let Some(authorization) = Authorization::parse(authorization) else {
            return Err("calc ak sk signature fail:authorization header is malformed".into());
        };
        let access_key = authorization.access_key;
        let temporary = self.machine.key(access_key);
        let (secret_key, security_token, expires_at) = match temporary {
            Some(key) => (
                &key.secret_key,
                Some(&key.security_token),
                Some(key.expires_at),
            ),
            None if access_key == credentials.access_key => {
                let secret_key = self.secret_key.as_ref().unwrap_or(&credentials.secret_key);
                (secret_key, credentials.security_token.as_ref(), None)
            }
            None => {
                return Err(format!(
                    "Get secretKey failed,ak:{access_key},err:ak not exist"
                ));
            }
        };
        let is_used_up = expires_at.is_some() && self.is_used_up(settings, access_key);
        let failures = self.failures.entry(access_key.to_owned()).or_default();
        if failures.locked_until.is_some_and(|until| now < until) {
            return Err("AK access failed to reach the limit,forbidden".into());
        }
        failures.locked_until = None;
        let result = check_date(request, now)
            .and_then(|()| check_security_token(request, security_token))
            .and_then(|()| match expires_at {
                Some(expires_at) if expires_at <= now || is_used_up => {
                    Err("security token expired")
                }
                _ => Ok(()),
            })
            .and_then(|()| {
                if authorization.matches(request, secret_key) {
                    Ok(())
                } else {
                    Err("verify aksk signature fail")
                }
            });
        match result {
            Ok(()) => {
                failures.in_a_row = 0;
                *self.uses.entry(access_key.to_owned()).or_default() += 1;
                Ok(())
            }
            Err(reason) => {
                failures.in_a_row += 1;
                if failures.in_a_row > FAILED_CHECKS_ALLOWED {
                    failures.in_a_row = 0;
                    failures.locked_until = Some(now + Duration::minutes(LOCK_MINUTES));
                }
                Err(reason.into())
            }
        }
    }

    /// Handles `POST /v3/auth/tokens` (api-iam, iam_30_0001).
    pub(super) fn issue_token(
        &mut self,
        settings: &EmulatorSettings,
        body: &[u8],
    ) -> Result<Answer, Refusal> {
        let Ok(TokenRequest { auth }) = serde_json::from_slice(body) else {
            return Err(Refusal::Iam {
                status: StatusCode::BAD_REQUEST,
                message: "The request body is invalid.",
            });
        };
        let user = auth.identity.password.user;
        let credentials = &settings.credentials;
        if user.name != credentials.user
            || user.domain.name != credentials.account
            || user.password != credentials.password.expose_secret()
        {
            return Err(Refusal::Iam {
                status: StatusCode::UNAUTHORIZED,
                message: "The username or password is wrong.",
            });
        }
        let project = auth.scope.project;
        let is_ours = project.id.as_ref() == Some(&settings.project_id)
            || project.name.as_ref() == Some(&settings.region);
        if !is_ours {
            return Err(Refusal::Iam {
                status: StatusCode::UNAUTHORIZED,
                message: "The project does not exist or is not the user's.",
            });
        }

        let now = settings.clock.now();
        let lifetime = Duration::from_std(settings.token_lifetime).unwrap_or(Duration::MAX);
        let expires_at = now + lifetime;
        self.issued += 1;
        // Real tokens are a signed message in base 64, with this beginning.
        let token = format!(
            "MIIE{}",
            Digest::of(&[&self.issued.to_le_bytes(), b"token"])
        );
        let token = token.replace(':', "");
        let header = HeaderValue::from_str(&token).unwrap_or(HeaderValue::from_static(""));
        self.expiry_by_token.insert(token, expires_at);
        let micros = |at: DateTime<Utc>| at.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
        let body = json!({"token": {
            "expires_at": micros(expires_at),
            "issued_at": micros(now),
            "methods": ["password"],
            "project": {
                "id": settings.project_id,
                "name": settings.region,
                "domain": {"id": "0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d", "name": credentials.account},
            },
            "roles": [],
            "user": {"name": credentials.user, "domain": {"name": credentials.account}},
        }});
        Ok(Answer {
            headers: vec![(HeaderName::from_static("x-subject-token"), header)],
            ..Answer::json(StatusCode::CREATED, &body)
        })
    }
}

fn check_date(request: &Arrived<'_>, now: DateTime<Utc>) -> Result<(), &'static str> {
    let date = request.header("x-sdk-date").unwrap_or_default();
    let Ok(date) = NaiveDateTime::parse_from_str(date, "%Y%m%dT%H%M%SZ") else {
        return Err("calc ak sk signature fail:X-Sdk-Date is missing or malformed");
    };
    if (now - date.and_utc()).abs() > Duration::minutes(SIGNATURE_VALID_MINUTES) {
        return Err("calc ak sk signature fail:signature expired");
    }
    Ok(())
}

fn check_security_token(
    request: &Arrived<'_>,
    expected: Option<&SecretString>,
) -> Result<(), &'static str> {
    let given = request.header("x-security-token");
    if given == expected.map(|token| token.expose_secret()) {
        Ok(())
    } else {
        Err("verify aksk signature fail,security token is missing or wrong")
    }
}

#[derive(Deserialize)]
struct TokenRequest {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    identity: Identity,
    scope: Scope,
}

#[derive(Deserialize)]
struct Identity {
    password: Password,
}

#[derive(Deserialize)]
struct Password {
    user: User,
}

#[derive(Deserialize)]
struct User {
    name: String,
    password: String,
    domain: Account,
}

#[derive(Deserialize)]
struct Account {
    name: String,
}

#[derive(Deserialize)]
struct Scope {
    project: Project,
}

#[derive(Deserialize)]
struct Project {
    id: Option<String>,
    name: Option<String>,
}
