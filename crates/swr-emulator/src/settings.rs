//! How the emulated registry is reached, and how it behaves.

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
    /// Port 0 takes any free one.
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
    /// Who may enter.
    pub credentials: Credentials,
    /// Whether credentials are asked for.
    pub authentication: Authentication,
    /// How long issued tokens are valid; 24 hours in the cloud.
    pub token_lifetime: Duration,
    /// How many requests an issued token or temporary key can be used for; `None` for no limit.
    pub uses_per_secret: Option<u64>,
    /// What tokens and signature dates are checked against.
    pub clock: Clock,
    /// How long an answer takes.
    pub latency: Duration,
    /// How many requests are let through.
    pub throttle: Option<Throttle>,
    /// How latency and limit vary.
    pub load: Load,
    /// Spellings which the documentation leaves open.
    pub dialect: Dialect,
    /// How the machine's own services behave.
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

/// An instance of the project, as ListInstance shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Below 25.6.0 the route of the artifact list does not exist.
    pub version: String,
    /// `Running`, or another word of the API such as `Creating`.
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

/// The one user and key the emulator knows.
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
    /// A token which is accepted without having been issued, and never expires.
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

/// Whether requests must prove who sends them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Authentication {
    /// As in the cloud.
    #[default]
    Required,
    /// Everybody may read; for trying the API by hand.
    Off,
}

/// A limit as the gateway applies it: a bucket that holds `burst` requests and
/// refills steadily.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Throttle {
    /// The sustained rate.
    pub requests_per_second: u32,
    /// How many requests a rested bucket lets through at once.
    pub burst: u32,
    /// Sent as `Retry-After`, in whole seconds; none is documented.
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
    /// A share of the answers takes long.
    pub slow_tail: Option<SlowTail>,
    /// From time to time, nothing is answered.
    pub stalls: Option<Stalls>,
    /// One worker answers all requests one after the other, at most this many per second.
    pub serial_worker: Option<u32>,
    /// The limit of the throttle rises and falls, because others use it, too.
    pub limit_swing: Option<Swing>,
}

/// Answers that take long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowTail {
    /// Their share, between 0 and 1.
    pub share: f64,
    /// How long they take.
    pub latency: Duration,
}

/// Times in which nothing is answered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stalls {
    /// From the end of one to the end of the next.
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

/// Spellings which the documentation leaves open, or gives in two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dialect {
    /// The name of a build step's time.
    pub build_time: BuildTime,
    /// The type of `next_marker`.
    pub next_marker: NextMarker,
    /// What stands for `next_marker` on the last page.
    pub last_marker: LastMarker,
    /// What the pages of namespaces and repositories claim as `total`.
    pub catalog_total: CatalogTotal,
}

/// What the pages of namespaces and repositories claim as `total`.
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

/// What stands for `next_marker` on the last page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LastMarker {
    /// Nothing, as documented.
    #[default]
    Absent,
    /// `null`.
    Null,
}

/// How the machine's services behave.
#[derive(Debug, Clone)]
pub struct MetadataSettings {
    /// Whether the metadata service has tokens.
    pub tokens: MetadataTokens,
    /// Whether an agency is attached to the ECS; without one it gets no key.
    pub has_agency: bool,
    /// How long a key is valid; 24 hours in the cloud.
    pub key_lifetime: Duration,
    /// Whether the same key is handed out until its end.
    pub keeps_key: bool,
    /// What a pod proves itself by.
    pub pod_authorization: SecretString,
    /// How the pod identity agent spells a key.
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

/// Whether the metadata service has tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataTokens {
    /// Without one, nothing is given.
    Required,
    /// With one or without.
    Optional,
    /// It answers with this status where a token is asked for: 404, 405 or 503.
    Unsupported(u16),
}

/// The names of a key's parts, as the SDKs accept them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySpelling {
    /// `access`, `secret`, `securitytoken`, `expires_at` in `credential`.
    Short,
    /// `accessKeyId`, `secretAccessKey`, `securityToken`, `expiration` in `credentials`.
    Camel,
    /// `access_key_id`, `secret_access_key`, `security_token`, `expiration` in `credentials`.
    Snake,
}

/// The emulator's time. Copies share it.
#[derive(Debug, Clone)]
pub struct Clock(Option<Arc<AtomicI64>>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Clock {
        Clock(None)
    }

    /// A clock that only moves when told to.
    pub fn manual(at: DateTime<Utc>) -> Clock {
        Clock(Some(Arc::new(AtomicI64::new(at.timestamp_micros()))))
    }

    /// The time, to the microsecond if set by hand.
    #[expect(
        clippy::disallowed_methods,
        reason = "a clock of the emulator's own, which shares none with the client it tests"
    )]
    pub fn now(&self) -> DateTime<Utc> {
        match &self.0 {
            None => Utc::now(),
            Some(micros) => {
                DateTime::from_timestamp_micros(micros.load(Ordering::Relaxed)).unwrap_or_default()
            }
        }
    }

    /// Moves a manual clock on; the machine's clock goes its own way.
    pub fn advance(&self, by: Duration) {
        if let Some(micros) = &self.0 {
            let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
            micros.fetch_add(by, Ordering::Relaxed);
        }
    }
}
