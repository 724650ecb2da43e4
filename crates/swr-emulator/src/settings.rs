//! Address and behaviour of the emulated registry.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::SecretString;

/// Settings of an [`Emulator`](super::Emulator). The defaults are the documented
/// demo credentials, no delay, and no throttle.
#[derive(Debug, Clone)]
pub struct EmulatorSettings {
    /// Port 0 selects a free one.
    pub listen: SocketAddr,
    /// The project in every path.
    pub project_id: String,
    /// The project's name in IAM, which is the region's.
    pub region: String,
    /// The first instance; [`Emulator::add_instance`](super::Emulator::add_instance) adds others.
    pub instance_id: String,
    /// The instance's name.
    pub instance_name: String,
    /// Below 25.6.0 the route of the artifact list does not exist.
    pub instance_version: String,
    /// Accepted credentials.
    pub credentials: Credentials,
    /// Whether credentials are required.
    pub authentication: Authentication,
    /// Lifetime of tokens; 24 hours in the cloud.
    pub token_lifetime: Duration,
    /// Maximum number of requests for an issued token or temporary key; `None` for no limit.
    pub uses_per_secret: Option<u64>,
    /// The clock for tokens and signature dates.
    pub clock: Clock,
    /// Delay of each response.
    pub latency: Duration,
    /// Rate limit.
    pub throttle: Option<Throttle>,
    /// How latency and limit vary.
    pub load: Load,
    /// Variants that the documentation leaves open.
    pub dialect: Dialect,
    /// Behaviour of the machine's own services.
    pub metadata: MetadataSettings,
}

impl Default for EmulatorSettings {
    fn default() -> EmulatorSettings {
        EmulatorSettings {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            project_id: "0a1b2c3d4e5f60718293a4b5c6d7e8f9".into(),
            region: "cn-north-4".into(),
            instance_id: "11111111-2222-3333-4444-555555555555".into(),
            instance_name: "demo".into(),
            instance_version: "25.6.0".into(),
            credentials: Credentials::default(),
            authentication: Authentication::Required,
            token_lifetime: Duration::from_secs(24 * 60 * 60),
            uses_per_secret: None,
            clock: Clock::system(),
            latency: Duration::ZERO,
            throttle: None,
            load: Load::default(),
            dialect: Dialect::default(),
            metadata: MetadataSettings::default(),
        }
    }
}

/// An instance of the project, as in ListInstance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Below 25.6.0 the route of the artifact list does not exist.
    pub version: String,
    /// `Running`, or another status of the API such as `Creating`.
    pub status: String,
}

impl EmulatorSettings {
    /// The first instance.
    pub(super) fn instance(&self) -> Instance {
        Instance {
            id: self.instance_id.clone(),
            name: self.instance_name.clone(),
            version: self.instance_version.clone(),
            status: "Running".into(),
        }
    }

    /// A further instance. Its id and name are derived from those of the first.
    pub fn further_instance(&self, number: u32) -> Instance {
        let (start, _) = self
            .instance_id
            .rsplit_once('-')
            .unwrap_or((&self.instance_id, ""));
        Instance {
            id: format!("{start}-{number:012}"),
            name: format!("{}-{number}", self.instance_name),
            ..self.instance()
        }
    }
}

/// The only user and key of the emulator.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The access key id (AK).
    pub access_key: String,
    /// The secret key (SK).
    pub secret_key: SecretString,
    /// If set, the key is a temporary one, and requests must carry this token.
    pub security_token: Option<SecretString>,
    /// The IAM user's name.
    pub user: String,
    /// The IAM user's password.
    pub password: SecretString,
    /// The account (`domain` in IAM) of the user.
    pub account: String,
    /// A token that is accepted without having been issued, and never expires.
    pub fixed_token: Option<SecretString>,
}

/// The demo credentials: key `EMULATORACCESSKEY000` with
/// `emulator-secret-key-of-no-value-at-all-0`, and user `emulator` of account
/// `emulator-account` with password `emulator-password`.
impl Default for Credentials {
    fn default() -> Credentials {
        Credentials {
            access_key: "EMULATORACCESSKEY000".into(),
            secret_key: "emulator-secret-key-of-no-value-at-all-0".into(),
            security_token: None,
            user: "emulator".into(),
            password: "emulator-password".into(),
            account: "emulator-account".into(),
            fixed_token: None,
        }
    }
}

/// Whether requests must be authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Authentication {
    /// As in the cloud.
    #[default]
    Required,
    /// Everyone can read; for trying the API by hand.
    Off,
}

/// A limit as the gateway applies it: a bucket that holds `burst` requests and
/// refills at a constant rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Throttle {
    /// The sustained rate.
    pub requests_per_second: u32,
    /// Number of requests that a full bucket allows at once.
    pub burst: u32,
    /// Sent as `Retry-After`, in whole seconds; not documented.
    pub retry_after: Option<Duration>,
    /// Whether the message of a 429 quotes the rate.
    pub quotes_limit: bool,
}

/// How the latency and the limit vary, as they do behind a real gateway. By default, they are
/// constant.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Load {
    /// Answer times are lognormal: the latency is the median, and this is sigma. With 1, one answer
    /// in a hundred takes ten times as long.
    pub jitter: f64,
    /// Some responses take long.
    pub slow_tail: Option<SlowTail>,
    /// Periods without responses.
    pub stalls: Option<Stalls>,
    /// One worker handles all requests one after the other, at most this many per second.
    pub serial_worker: Option<u32>,
    /// The limit rises and falls, because other clients use it too.
    pub limit_swing: Option<Swing>,
}

/// Responses that take long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowTail {
    /// Their share, between 0 and 1.
    pub share: f64,
    /// How long they take.
    pub latency: Duration,
}

/// Periods without responses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stalls {
    /// From the end of one period to the end of the next.
    pub every: Duration,
    /// How long each takes.
    pub lasting: Duration,
}

/// A sine wave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Swing {
    /// Its amplitude, as a share of the mean.
    pub share: f64,
    /// From one maximum to the next.
    pub period: Duration,
}

/// Variants that the documentation leaves open, or describes in two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dialect {
    /// The name of a build step's time.
    pub build_time: BuildTime,
    /// The type of `next_marker`.
    pub next_marker: NextMarker,
    /// The value of `next_marker` on the last page.
    pub last_marker: LastMarker,
    /// The `total` of the pages of namespaces and repositories.
    pub catalog_total: CatalogTotal,
}

/// The `total` of the pages of namespaces and repositories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CatalogTotal {
    /// The number of entries, as documented.
    #[default]
    Exact,
    /// The field is missing.
    Absent,
    /// Always 0.
    Zero,
    /// Half of the entries.
    TooSmall,
    /// One more than there are.
    TooLarge,
}

impl CatalogTotal {
    pub(super) fn of(self, entries: usize) -> Option<usize> {
        match self {
            CatalogTotal::Exact => Some(entries),
            CatalogTotal::Absent => None,
            CatalogTotal::Zero => Some(0),
            CatalogTotal::TooSmall => Some(entries / 2),
            CatalogTotal::TooLarge => Some(entries + 1),
        }
    }
}

/// The name of a build step's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BuildTime {
    /// `created`, which the Terraform provider reads from the live service.
    #[default]
    Created,
    /// `created_at`, as in the table of swr_03_0305.
    CreatedAt,
}

/// The type of `next_marker`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NextMarker {
    /// A number, as documented (swr_03_0306).
    #[default]
    Number,
    /// A numeric string, as in the sister API swr_03_0206.
    Text,
}

/// The value of `next_marker` on the last page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LastMarker {
    /// Nothing, as documented.
    #[default]
    Absent,
    /// `null`.
    Null,
}

/// Behaviour of the machine's services.
#[derive(Debug, Clone)]
pub struct MetadataSettings {
    /// Whether the metadata service uses tokens.
    pub tokens: MetadataTokens,
    /// Whether an agency is attached to the ECS; without one it gets no key.
    pub has_agency: bool,
    /// Lifetime of a key; 24 hours in the cloud.
    pub key_lifetime: Duration,
    /// Whether the same key is returned until it expires.
    pub keeps_key: bool,
    /// The token of a pod.
    pub pod_authorization: SecretString,
    /// The field names of the pod identity agent.
    pub spelling: KeySpelling,
}

impl Default for MetadataSettings {
    fn default() -> MetadataSettings {
        MetadataSettings {
            tokens: MetadataTokens::Required,
            has_agency: true,
            key_lifetime: Duration::from_secs(24 * 60 * 60),
            keeps_key: false,
            pod_authorization: "emulator-pod-token-of-no-value".into(),
            spelling: KeySpelling::Camel,
        }
    }
}

/// Whether the metadata service uses tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataTokens {
    /// Requests without a token are rejected.
    Required,
    /// Tokens are optional.
    Optional,
    /// Token requests get this status: 404, 405 or 503.
    Unsupported(u16),
}

/// The field names of a key, as the SDKs accept them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySpelling {
    /// `access`, `secret`, `securitytoken`, `expires_at` in `credential`.
    Short,
    /// `accessKeyId`, `secretAccessKey`, `securityToken`, `expiration` in `credentials`.
    Camel,
    /// `access_key_id`, `secret_access_key`, `security_token`, `expiration` in `credentials`.
    Snake,
}

/// The emulator's clock. Copies share it.
#[derive(Debug, Clone)]
pub struct Clock(Option<Arc<AtomicI64>>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Clock {
        Clock(None)
    }

    /// A clock that only moves when set.
    pub fn manual(at: DateTime<Utc>) -> Clock {
        Clock(Some(Arc::new(AtomicI64::new(at.timestamp_micros()))))
    }

    /// The time, to the microsecond if set manually.
    #[expect(
        clippy::disallowed_methods,
        reason = "a separate clock, not shared with the client under test"
    )]
    pub fn now(&self) -> DateTime<Utc> {
        match &self.0 {
            None => Utc::now(),
            Some(micros) => {
                DateTime::from_timestamp_micros(micros.load(Ordering::Relaxed)).unwrap_or_default()
            }
        }
    }

    /// Advances a manual clock; has no effect on the machine's clock.
    pub fn advance(&self, by: Duration) {
        if let Some(micros) = &self.0 {
            let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
            micros.fetch_add(by, Ordering::Relaxed);
        }
    }
}
