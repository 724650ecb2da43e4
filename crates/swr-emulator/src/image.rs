//! Images of the emulated registry: digests, layers, build steps,
//! and the parts of a build history that images share.

use std::fmt;
use std::sync::{Arc, LazyLock};

use chrono::{DateTime, Timelike, Utc};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest, written `sha256:` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of a content in parts. Each part's length is also hashed,
    /// so that moving a boundary changes the digest.
    pub fn of(parts: &[&[u8]]) -> Digest {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        Digest(hash.finalize().into())
    }

    /// Reads `sha256:` and 64 lower-case hex digits.
    pub fn parse(text: &str) -> Option<Digest> {
        let digits = text.strip_prefix("sha256:")?.as_bytes();
        if digits.len() != 64 || digits.iter().any(u8::is_ascii_uppercase) {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let pair = std::str::from_utf8(pair).ok()?;
            *byte = u8::from_str_radix(pair, 16).ok()?;
        }
        Some(Digest(bytes))
    }

    /// A number in [0, 1) that depends only on the digest and the
    /// question. Decides which documents have which quirk.
    pub(super) fn roll(&self, question: u64) -> f64 {
        let mut head = [0; 8];
        head.copy_from_slice(&self.0[..8]);
        roll(u64::from_le_bytes(head), question)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// See [`Digest::roll`]; the mixing is that of SplitMix64.
pub(super) fn roll(subject: u64, question: u64) -> f64 {
    let mut mixed = subject
        .wrapping_add(question.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    // The upper 53 bits are as many as a double holds exactly.
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}

/// Two digits per byte at once: `{:02x}` uses the number formatter,
/// which is noticeably slower for a page of digests.
fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8; 32]) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        let pair = [byte >> 4, byte & 15].map(|digit| char::from(DIGITS[usize::from(digit)]));
        f.write_str(pair[0].encode_utf8(&mut [0; 4]))?;
        f.write_str(pair[1].encode_utf8(&mut [0; 4]))?;
    }
    Ok(())
}

/// The time of a build step in the format of its build tool: with 0 to 9
/// decimals, in UTC (`Z`) or with an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Created {
    /// The instant.
    pub at: DateTime<Utc>,
    pub(super) decimals: u8,
    pub(super) offset_minutes: i16,
}

impl Created {
    pub(super) fn nanoseconds(at: DateTime<Utc>, offset_minutes: i16) -> Created {
        Created {
            at,
            decimals: 9,
            offset_minutes,
        }
    }

    pub(super) fn parse(text: &str) -> Option<Created> {
        let parsed = DateTime::parse_from_rfc3339(text).ok()?;
        let decimals = text.split_once('.').map_or(0, |(_, rest)| {
            rest.bytes().take_while(u8::is_ascii_digit).count()
        });
        Some(Created {
            at: parsed.to_utc(),
            decimals: u8::try_from(decimals).ok()?,
            offset_minutes: i16::try_from(parsed.offset().local_minus_utc() / 60).ok()?,
        })
    }
}

impl fmt::Display for Created {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let offset = i64::from(self.offset_minutes);
        let local = self.at + chrono::Duration::minutes(offset);
        write!(f, "{}", local.format("%Y-%m-%dT%H:%M:%S"))?;
        if self.decimals > 0 {
            let nanoseconds = format!("{:09}", local.nanosecond());
            let shown = usize::from(self.decimals).min(nanoseconds.len());
            write!(f, ".{}", &nanoseconds[..shown])?;
        }
        if offset == 0 {
            return f.write_str("Z");
        }
        let sign = if offset < 0 { '-' } else { '+' };
        write!(f, "{sign}{:02}:{:02}", offset.abs() / 60, offset.abs() % 60)
    }
}

impl Serialize for Created {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A compressed layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Of the compressed bytes.
    pub digest: Digest,
    /// Compressed.
    pub size_bytes: u64,
    /// Such as `application/vnd.docker.image.rootfs.diff.tar.gzip`.
    pub media_type: &'static str,
}

pub(super) const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
pub(super) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// One entry of a build history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Missing in some imported images.
    pub created: Option<Created>,
    /// `created_by`; missing in some imported images.
    pub command: Option<Arc<str>>,
    /// `None` for a step that only changes metadata.
    pub layer: Option<Layer>,
}

/// Steps that always occur together and are shared by images: a
/// base image, the toolchain of a repository, one build's own steps.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) steps: Box<[Step]>,
    /// Hash of the steps, so that a manifest's digest follows from its
    /// segments without hashing shared steps again.
    pub(super) digest: Digest,
}

impl Segment {
    pub(super) fn new(steps: Vec<Step>) -> Arc<Segment> {
        let mut hash = Sha256::new();
        for step in &steps {
            hash.update(
                step.created
                    .map_or(0, |created| created.at.timestamp_micros())
                    .to_le_bytes(),
            );
            hash.update(step.command.as_deref().unwrap_or_default());
            hash.update(
                step.layer
                    .as_ref()
                    .map_or(&[][..], |layer| layer.digest.bytes()),
            );
        }
        Arc::new(Segment {
            steps: steps.into(),
            digest: Digest(hash.finalize().into()),
        })
    }

    pub(super) fn layer_bytes(&self) -> u64 {
        self.steps
            .iter()
            .filter_map(|step| step.layer.as_ref())
            .map(|layer| layer.size_bytes)
            .sum()
    }
}

/// The type of an artifact, with the three type fields of the
/// artifact list (swr_03_0306; values from Harbor, whose types they are).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ManifestKind {
    /// An image with Docker's media types.
    #[default]
    DockerImage,
    /// An image with OCI's media types.
    OciImage,
    /// A list of images for several platforms; has no build history.
    ImageIndex,
    /// BuildKit's attestation; the registry treats it as an image without history.
    Attestation,
    /// A Helm chart; has no build history.
    Chart,
}

impl ManifestKind {
    /// `type`, `media_type`, `manifest_media_type`.
    pub fn types(self) -> (&'static str, &'static str, &'static str) {
        const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
        const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
        const INDEX: &str = "application/vnd.oci.image.index.v1+json";
        match self {
            ManifestKind::DockerImage => (
                "IMAGE",
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.distribution.manifest.v2+json",
            ),
            ManifestKind::OciImage | ManifestKind::Attestation => {
                ("IMAGE", OCI_CONFIG, OCI_MANIFEST)
            }
            ManifestKind::ImageIndex => ("IMAGE", INDEX, INDEX),
            ManifestKind::Chart => (
                "CHART",
                "application/vnd.cncf.helm.config.v1+json",
                OCI_MANIFEST,
            ),
        }
    }
}

/// The content of a digest. Promoted artifacts share it.
#[derive(Debug, PartialEq)]
pub struct Manifest {
    /// Of the manifest.
    pub digest: Digest,
    /// Determines the type fields of the list.
    pub kind: ManifestKind,
    /// Manifest, config and layers.
    pub size_bytes: u64,
    pub(super) history: History,
}

/// The response for a manifest's build history.
#[derive(Debug, PartialEq)]
pub(super) enum History {
    Steps(Box<[Arc<Segment>]>),
    /// This response, word for word.
    Document(Value),
    /// 400: not an image.
    Unsupported,
}

impl Manifest {
    pub(super) fn image(kind: ManifestKind, segments: Vec<Arc<Segment>>) -> Arc<Manifest> {
        let parts: Vec<&[u8]> = segments.iter().map(|part| part.digest.bytes()).collect();
        let layer_bytes: u64 = segments.iter().map(|part| part.layer_bytes()).sum();
        let steps: usize = segments.iter().map(|part| part.steps.len()).sum();
        Arc::new(Manifest {
            digest: Digest::of(&parts),
            kind,
            // Config and manifest take a few hundred bytes for each step.
            size_bytes: layer_bytes + 1500 + 400 * steps as u64,
            history: History::Steps(segments.into()),
        })
    }

    /// The build steps, oldest first; none if the response is not a list of steps.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        let segments = match &self.history {
            History::Steps(segments) => &segments[..],
            History::Document(_) | History::Unsupported => &[],
        };
        segments.iter().flat_map(|segment| &segment.steps)
    }
}

/// A real image's build history, as published in the test data of public projects.
#[derive(Debug)]
pub(super) struct RealImage {
    /// A repository name derived from the image's.
    pub(super) name: String,
    pub(super) steps: Vec<Step>,
}

/// The real build histories with entries, in the order of the file.
pub(super) static REAL_IMAGES: LazyLock<Vec<RealImage>> = LazyLock::new(|| {
    #[expect(
        clippy::expect_used,
        reason = "the file is part of the program and tested"
    )]
    let documents: Vec<RealDocument> =
        serde_json::from_str(include_str!("histories.json")).expect("histories.json is readable");
    let mut images: Vec<RealImage> = Vec::new();
    for document in documents {
        if document.history.is_empty() {
            continue;
        }
        let name = document.repository_name();
        let namesakes = images
            .iter()
            .filter(|image| {
                image
                    .name
                    .trim_end_matches(|c: char| c == '-' || c.is_ascii_digit())
                    == name
            })
            .count();
        images.push(RealImage {
            name: if namesakes == 0 {
                name
            } else {
                format!("{name}-{}", namesakes + 1)
            },
            steps: document.into_steps(),
        });
    }
    images
});

#[derive(Deserialize)]
struct RealDocument {
    source_repo: &'static str,
    image: Option<&'static str>,
    history: Vec<RealEntry>,
    layers: Vec<RealLayer>,
}

#[derive(Deserialize)]
struct RealEntry {
    created: Option<String>,
    created_by: Option<String>,
    #[serde(default)]
    empty_layer: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RealLayer {
    digest: String,
    media_type: Option<&'static str>,
    size: Option<u64>,
    #[serde(rename = "uncompressed_size")]
    uncompressed_size: Option<u64>,
}

impl RealDocument {
    /// `alpine` for `testdata/fixtures/images/alpine-310.tar.gz` and for `alpine:3.12`.
    fn repository_name(&self) -> String {
        let image = self.image.unwrap_or(self.source_repo);
        let image = image.split('@').next().unwrap_or(image);
        let image = image.rsplit('/').next().unwrap_or(image);
        let image = image.trim_end_matches(".tar.gz");
        let image = image.split(':').next().unwrap_or(image);
        image
            .trim_end_matches(|c: char| c == '-' || c.is_ascii_digit())
            .to_owned()
    }

    /// The n-th entry with a layer has the n-th layer of the manifest.
    fn into_steps(self) -> Vec<Step> {
        let mut layers = self.layers.into_iter();
        self.history
            .into_iter()
            .map(|entry| Step {
                created: entry.created.as_deref().and_then(Created::parse),
                command: entry.created_by.map(Into::into),
                layer: if entry.empty_layer {
                    None
                } else {
                    layers.next().and_then(RealLayer::into_layer)
                },
            })
            .collect()
    }
}

impl RealLayer {
    fn into_layer(self) -> Option<Layer> {
        // Layers compress to about two fifths; some sources only have the uncompressed size.
        let compressed = self.uncompressed_size.map(|size| size * 2 / 5);
        Some(Layer {
            digest: Digest::parse(&self.digest)?,
            size_bytes: self.size.or(compressed)?,
            media_type: self.media_type.unwrap_or(DOCKER_LAYER),
        })
    }
}
