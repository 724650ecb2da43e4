//! Ids computed from content: equal content has the same id, so no lookup is needed before a write.

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::build_history::{BuildStep, Layer};
use crate::data_issue::DataIssue;

/// Hashes parts so that neither their order nor their boundaries can be confused.
struct Content(Sha256);

impl Content {
    fn of(kind: &str) -> Content {
        Content(Sha256::new()).bytes(kind.as_bytes())
    }

    fn bytes(mut self, bytes: &[u8]) -> Content {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    fn optional(self, bytes: Option<&[u8]>) -> Content {
        match bytes {
            Some(bytes) => self.bytes(b"+").bytes(bytes),
            None => self.bytes(b"-"),
        }
    }

    /// The first 16 of the 32 bytes: a collision among 10^12 ids has a chance of 10^-15.
    fn id(self) -> Uuid {
        let hash: [u8; 32] = self.0.finalize().into();
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        Uuid::from_bytes(id)
    }
}

pub(super) fn command_id(command: &str) -> Uuid {
    Content::of("command").bytes(command.as_bytes()).id()
}

pub(super) fn media_type_id(media_type: &str) -> Uuid {
    Content::of("media type").bytes(media_type.as_bytes()).id()
}

/// The id of a layer depends on its digest and on the size in the history. If two histories have
/// different sizes for the same digest, both are stored, in any order of arrival.
pub(super) fn layer_id(layer: &Layer) -> Uuid {
    let Layer {
        digest,
        media_type: _,
        size_bytes,
    } = layer;
    let size_bytes = size_bytes.map(i64::to_le_bytes);
    Content::of("layer")
        .bytes(digest.as_bytes())
        .optional(size_bytes.as_ref().map(|bytes| &bytes[..]))
        .id()
}

/// The id of a history up to and including `step`; `parent` is the id of the steps before it.
pub(super) fn build_step_id(
    parent: Option<Uuid>,
    step: &BuildStep,
    command_id: Option<Uuid>,
    layer_id: Option<Uuid>,
    media_type_id: Option<Uuid>,
) -> Uuid {
    let BuildStep {
        created_at,
        command: _,
        empty_layer,
        layer: _,
        extra,
    } = step;
    Content::of("build step")
        .optional(parent.as_ref().map(|id| &id.as_bytes()[..]))
        .optional(created_at.map(instant).as_ref().map(|bytes| &bytes[..]))
        .optional(command_id.as_ref().map(|id| &id.as_bytes()[..]))
        .optional(layer_id.as_ref().map(|id| &id.as_bytes()[..]))
        .optional(media_type_id.as_ref().map(|id| &id.as_bytes()[..]))
        .bytes(&[u8::from(*empty_layer)])
        .optional(
            extra
                .as_ref()
                // Fails only for maps whose keys are not strings.
                .and_then(|extra| serde_json::to_string(extra).ok())
                .as_deref()
                .map(str::as_bytes),
        )
        .id()
}

/// The id of a sequence of layers, like the ChainID of OCI.
///
/// A step without a layer does not change the sequence. If a step created a layer but the history has
/// no digest for it, the id of the step is used, so that different sequences never have the same id.
pub(super) fn chain_id(
    parent: Option<Uuid>,
    step: &BuildStep,
    build_step_id: Uuid,
) -> Option<Uuid> {
    let link = match &step.layer {
        // Without the size, which other histories may give or leave out.
        Some(layer) => layer.digest.as_bytes(),
        None if step.empty_layer => return parent,
        None => &build_step_id.as_bytes()[..],
    };
    let chain = Content::of("chain")
        .optional(parent.as_ref().map(|id| &id.as_bytes()[..]))
        .bytes(link);
    Some(chain.id())
}

pub(super) fn data_issue_id(issue: &DataIssue) -> Uuid {
    let DataIssue {
        table,
        row_key,
        field,
        action,
        original,
    } = issue;
    Content::of("data issue")
        .bytes(table.as_bytes())
        .bytes(row_key.as_bytes())
        .bytes(field.as_bytes())
        .bytes(action.as_str().as_bytes())
        .bytes(original.to_string().as_bytes())
        .id()
}

fn instant(time: DateTime<Utc>) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&time.timestamp().to_le_bytes());
    bytes[8..].copy_from_slice(&time.timestamp_subsec_nanos().to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(command: &str, layer: Option<&str>) -> BuildStep {
        BuildStep {
            created_at: "2026-01-01T00:00:00.000000001Z".parse().ok(),
            command: Some(command.to_owned()),
            empty_layer: layer.is_none(),
            layer: layer.map(|digest| Layer {
                digest: digest.to_owned(),
                media_type: None,
                size_bytes: None,
            }),
            extra: None,
        }
    }

    fn ids(steps: &[BuildStep]) -> (Vec<Uuid>, Vec<Option<Uuid>>) {
        let (mut parent, mut chain) = (None, None);
        let (mut step_ids, mut chain_ids) = (Vec::new(), Vec::new());
        for step in steps {
            let layer = step.layer.as_ref().map(layer_id);
            let id = build_step_id(
                parent,
                step,
                step.command.as_deref().map(command_id),
                layer,
                None,
            );
            chain = chain_id(chain, step, id);
            parent = Some(id);
            step_ids.push(id);
            chain_ids.push(chain);
        }
        (step_ids, chain_ids)
    }

    #[test]
    fn a_shared_beginning_has_shared_ids_and_the_rest_has_not() {
        let (one, _) = ids(&[
            step("a", Some("l1")),
            step("b", None),
            step("c", Some("l2")),
        ]);
        let (other, _) = ids(&[
            step("a", Some("l1")),
            step("B", None),
            step("c", Some("l2")),
        ]);
        assert_eq!(one[0], other[0]);
        assert_ne!(one[1], other[1]);
        assert_ne!(
            one[2], other[2],
            "a step is named with all that came before it"
        );
    }

    #[test]
    fn a_chain_names_layers_only() {
        let (_, one) = ids(&[
            step("a", None),
            step("b", Some("l1")),
            step("c", None),
            step("d", Some("l2")),
        ]);
        let (_, other) = ids(&[step("x", Some("l1")), step("y", Some("l2"))]);
        assert_eq!(one[0], None);
        assert_eq!(one[1], other[0]);
        assert_eq!(one[2], other[0]);
        assert_eq!(one[3], other[1]);
    }

    #[test]
    fn layers_without_a_name_are_equal_to_nothing_but_themselves() {
        let unnamed = |command: &str| BuildStep {
            empty_layer: false,
            ..step(command, None)
        };
        let (_, one) = ids(&[unnamed("a"), step("c", Some("l1"))]);
        let (_, other) = ids(&[unnamed("b"), step("c", Some("l1"))]);
        assert_ne!(one[1], other[1]);
        assert_eq!(one, ids(&[unnamed("a"), step("c", Some("l1"))]).1);
    }

    #[test]
    fn a_layer_without_its_size_is_the_same_link_of_a_chain() {
        let mut sized = step("b", Some("l1"));
        sized.layer.as_mut().unwrap().size_bytes = Some(10);
        assert_eq!(ids(&[sized]).1, ids(&[step("a", Some("l1"))]).1);
    }

    #[test]
    fn a_nanosecond_makes_another_step() {
        let late = BuildStep {
            created_at: "2026-01-01T00:00:00.000000002Z".parse().ok(),
            ..step("a", None)
        };
        assert_ne!(ids(&[step("a", None)]).0, ids(&[late]).0);
    }
}
