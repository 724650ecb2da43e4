//! The machine's own services, which issue temporary keys: the metadata service of an ECS and the
//! pod identity agent of CCE.
//!
//! They have the same address as the API; in the cloud the first is at 169.254.169.254,
//! and the second at `HC_CONTAINER_CREDENTIALS_FULL_URI`. The gateway checks their keys
//! like any other, and also their security token and expiry.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use hyper::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::answer::Answer;
use super::requests::Arrived;
use super::settings::{KeySpelling, MetadataSettings, MetadataTokens};

/// Maximum lifetime of a metadata token, in seconds.
const LONGEST_TOKEN_SECONDS: i64 = 21_600;

/// A request to one of the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MetadataRoute {
    /// `PUT /meta-data/latest/api/token`.
    Token,
    /// `GET /openstack/latest/securitykey`.
    SecurityKey,
    /// `POST /v1/credentials`.
    PodIdentity,
}

/// An issued key.
#[derive(Debug, Clone)]
pub(super) struct TemporaryKey {
    access_key: String,
    pub(super) secret_key: SecretString,
    pub(super) security_token: SecretString,
    pub(super) expires_at: DateTime<Utc>,
}

/// Issued tokens and keys.
#[derive(Debug, Default)]
pub(super) struct Machine {
    issued: u64,
    expiry_by_token: HashMap<String, DateTime<Utc>>,
    keys: HashMap<String, TemporaryKey>,
    latest: Option<TemporaryKey>,
}

impl Machine {
    pub(super) fn key(&self, access_key: &str) -> Option<&TemporaryKey> {
        self.keys.get(access_key)
    }

    /// Expires all keys.
    pub(super) fn expire_keys(&mut self) {
        for key in self.keys.values_mut() {
            key.expires_at = DateTime::UNIX_EPOCH;
        }
    }

    pub(super) fn answer(
        &mut self,
        route: MetadataRoute,
        settings: &MetadataSettings,
        request: &Arrived<'_>,
        now: DateTime<Utc>,
    ) -> Answer {
        match route {
            MetadataRoute::Token => self.issue_token(settings, request, now),
            MetadataRoute::SecurityKey => self.security_key(settings, request, now),
            MetadataRoute::PodIdentity => self.pod_identity(settings, request, now),
        }
    }

    fn issue_token(
        &mut self,
        settings: &MetadataSettings,
        request: &Arrived<'_>,
        now: DateTime<Utc>,
    ) -> Answer {
        if let MetadataTokens::Unsupported(status) = settings.tokens {
            return Answer::text(status, "not supported".into());
        }
        let seconds = request.header("x-metadata-token-ttl-seconds");
        let seconds = seconds.and_then(|seconds| seconds.parse::<i64>().ok());
        let Some(seconds @ 1..=LONGEST_TOKEN_SECONDS) = seconds else {
            return Answer::text(
                400,
                "X-Metadata-Token-Ttl-Seconds is missing or wrong".into(),
            );
        };
        self.issued += 1;
        let token = format!("emulator-metadata-token-of-no-value-{}", self.issued);
        let expires_at = now + TimeDelta::seconds(seconds);
        self.expiry_by_token.insert(token.clone(), expires_at);
        Answer::text(200, token)
    }

    fn security_key(
        &mut self,
        settings: &MetadataSettings,
        request: &Arrived<'_>,
        now: DateTime<Utc>,
    ) -> Answer {
        let is_known = match request.header("x-metadata-token") {
            Some(token) => self
                .expiry_by_token
                .get(token)
                .is_some_and(|expires_at| now < *expires_at),
            None => settings.tokens != MetadataTokens::Required,
        };
        if !is_known {
            return Answer::text(401, "the metadata token is missing or has expired".into());
        }
        if !settings.has_agency {
            let text = "Please configure Cloud Service Agency first, see the user guide";
            return Answer::text(401, text.into());
        }
        let key = self.issue_key(settings, now);
        key_document(&key, KeySpelling::Short)
    }

    fn pod_identity(
        &mut self,
        settings: &MetadataSettings,
        request: &Arrived<'_>,
        now: DateTime<Utc>,
    ) -> Answer {
        let is_ours =
            request.header("authorization") == Some(settings.pod_authorization.expose_secret());
        if !is_ours {
            let refusal = json!({"error_code": "CCE.01401001", "error_msg": "the token of the service account is not valid"});
            return Answer::json(StatusCode::UNAUTHORIZED, &refusal);
        }
        if serde_json::from_slice(request.body).ok() != Some(json!({})) {
            return Answer::text(400, "the body must be {}".into());
        }
        let key = self.issue_key(settings, now);
        key_document(&key, settings.spelling)
    }

    fn issue_key(&mut self, settings: &MetadataSettings, now: DateTime<Utc>) -> TemporaryKey {
        let kept = self.latest.as_ref().filter(|_| settings.keeps_key);
        if let Some(key) = kept.filter(|key| now < key.expires_at) {
            return key.clone();
        }
        self.issued += 1;
        let number = self.issued;
        let lifetime = TimeDelta::from_std(settings.key_lifetime).unwrap_or(TimeDelta::MAX);
        let key = TemporaryKey {
            access_key: format!("TEMPORARYKEY{number:08}"),
            secret_key: format!("emulator-temporary-key-of-no-value-{number}").into(),
            security_token: format!("emulator-security-token-of-no-value-{number}").into(),
            expires_at: now + lifetime,
        };
        self.keys.insert(key.access_key.clone(), key.clone());
        self.latest = Some(key.clone());
        key
    }
}

fn key_document(key: &TemporaryKey, spelling: KeySpelling) -> Answer {
    let TemporaryKey {
        access_key,
        secret_key,
        security_token,
        expires_at,
    } = key;
    let (secret, token) = (secret_key.expose_secret(), security_token.expose_secret());
    let ends = expires_at.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    let document = match spelling {
        KeySpelling::Short => json!({"credential": {
            "access": access_key, "secret": secret, "securitytoken": token, "expires_at": ends,
        }}),
        KeySpelling::Camel => json!({"subject": {"namespace": "default"}, "credentials": {
            "accessKeyId": access_key, "secretAccessKey": secret, "securityToken": token, "expiration": ends,
        }}),
        KeySpelling::Snake => json!({"credentials": {
            "access_key_id": access_key, "secret_access_key": secret, "security_token": token, "expiration": ends,
        }}),
    };
    Answer::json(StatusCode::OK, &document)
}
