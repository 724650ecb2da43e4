//! Changes of a registry between two runs.

use chrono::Duration;
use rand::RngExt;
use rand::seq::IndexedRandom;
use serde::Serialize;

use super::recipe::{Chance, chance};
use super::world::World;

/// Numbers of changes in a round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// New artifacts, without promoted ones.
    pub pushed: usize,
    /// Digests that appeared in another repository.
    pub promoted: usize,
    /// Tags that were moved back to an older artifact.
    pub tags_moved: usize,
    /// Artifacts whose pull time changed.
    pub pulled: usize,
    /// Deleted artifacts, including those of deleted repositories.
    pub artifacts_deleted: usize,
    /// Repositories deleted.
    pub repositories_deleted: usize,
    /// Repositories created, each with artifacts.
    pub repositories_created: usize,
    /// Namespaces created, each with a repository.
    pub namespaces_created: usize,
}

/// Changes of several instances.
impl std::ops::AddAssign for Changes {
    fn add_assign(&mut self, other: Changes) {
        let Changes {
            pushed,
            promoted,
            tags_moved,
            pulled,
            artifacts_deleted,
            repositories_deleted,
            repositories_created,
            namespaces_created,
        } = other;
        self.pushed += pushed;
        self.promoted += promoted;
        self.tags_moved += tags_moved;
        self.pulled += pulled;
        self.artifacts_deleted += artifacts_deleted;
        self.repositories_deleted += repositories_deleted;
        self.repositories_created += repositories_created;
        self.namespaces_created += namespaces_created;
    }
}

/// A single change during a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    ArtifactDeleted,
    ArtifactPushed,
    RepositoryDeleted,
    RepositoryCreated,
    TagMoved,
}

/// Prefix of an event's time in the names of its random sequences.
const EVENT_CHANCE: u64 = 1 << 43;
/// Prefix of a round's number in the names of its random sequences.
const ROUND_CHANCE: u64 = 1 << 41;
/// Maximum number of artifacts to try until one has a tag that can move.
const MOST_TRIED: usize = 50;
/// A registry with at most this many repositories loses none.
const FEWEST_REPOSITORIES: usize = 4;

impl World {
    /// Applies the changes of one interval between runs: about 2 % new artifacts, 1 %
    /// deleted, some promoted, some tags rolled back, a tenth pulled, a repository
    /// deleted, and a new team. Equal worlds change equally in equal rounds.
    pub fn evolve(&mut self, round: u32) -> Changes {
        let mut chance = chance(self.seed, ROUND_CHANCE + u64::from(round));
        let artifacts = self.artifacts.len();
        let mut changes = Changes::default();

        for id in self.some_artifacts(&mut chance, artifacts / 100) {
            changes.artifacts_deleted += usize::from(self.delete_artifact(id).is_some());
        }
        if self.repositories.len() > FEWEST_REPOSITORIES {
            for id in self.some_repositories(&mut chance, 1) {
                changes.artifacts_deleted += self.delete_repository(id).unwrap_or(0);
                changes.repositories_deleted += 1;
            }
        }
        for id in self.some_artifacts(&mut chance, artifacts / 200) {
            changes.tags_moved += usize::from(self.roll_back(id));
        }
        for id in self.some_artifacts(&mut chance, artifacts / 200) {
            for target in self.some_repositories(&mut chance, 1) {
                let before = self.artifacts.len();
                self.promote(id, target);
                changes.promoted += self.artifacts.len() - before;
            }
        }

        let before = self.artifacts.len();
        for id in self.some_repositories(&mut chance, artifacts / 60) {
            self.push(id);
        }
        let (namespaces, repositories) = (self.namespaces.len(), self.repositories.len());
        let created = self.add_repository(&format!("team-{round}"), "starter/app");
        for _ in 0..3 {
            self.push(created);
        }
        changes.namespaces_created = self.namespaces.len() - namespaces;
        changes.repositories_created = self.repositories.len() - repositories;
        changes.pushed = self.artifacts.len() - before;

        for id in self.some_artifacts(&mut chance, artifacts / 10) {
            let minutes_ago = Duration::minutes(chance.random_range(0..60));
            let pushed_at = self.artifact(id).map(|artifact| artifact.pushed_at);
            let at = self.now - minutes_ago;
            self.pull(id, pushed_at.map_or(at, |pushed_at| at.max(pushed_at)));
            changes.pulled += 1;
        }
        changes
    }

    /// Applies this change to a random object. Equal worlds change equally.
    pub(super) fn happen(&mut self, event: Event) {
        let time = self.now.timestamp_micros().unsigned_abs();
        let mut chance = chance(self.seed, EVENT_CHANCE ^ time);
        match event {
            Event::ArtifactDeleted => {
                for id in self.some_artifacts(&mut chance, 1) {
                    self.delete_artifact(id);
                }
            }
            Event::ArtifactPushed => {
                for id in self.some_repositories(&mut chance, 1) {
                    self.push(id);
                }
            }
            Event::RepositoryDeleted if self.repositories.len() > FEWEST_REPOSITORIES => {
                for id in self.some_repositories(&mut chance, 1) {
                    self.delete_repository(id);
                }
            }
            Event::RepositoryDeleted => {}
            Event::RepositoryCreated => {
                let id = self.add_repository("sudden", &format!("app-{time}"));
                self.push(id);
            }
            Event::TagMoved => {
                // Most artifacts have no tag, or no older one in their repository.
                let ids = self.some_artifacts(&mut chance, MOST_TRIED);
                ids.into_iter().any(|id| self.roll_back(id));
            }
        }
    }

    /// Up to `count` different ones, at least one if there are any.
    fn some_artifacts(&self, chance: &mut Chance, count: usize) -> Vec<i64> {
        let ids: Vec<i64> = self.artifacts.keys().copied().collect();
        ids.sample(chance, count.max(1)).copied().collect()
    }

    /// Up to `count` different ones, at least one if there are any.
    fn some_repositories(&self, chance: &mut Chance, count: usize) -> Vec<i64> {
        let ids: Vec<i64> = self.repositories.keys().copied().collect();
        ids.sample(chance, count.max(1)).copied().collect()
    }

    /// Moves the first tag of an artifact to the one pushed before it in the same repository.
    fn roll_back(&mut self, artifact_id: i64) -> bool {
        let Some(artifact) = self.artifacts.get(&artifact_id) else {
            return false;
        };
        let repository_id = artifact.repository_id;
        let older = self
            .artifacts_of(repository_id)
            .into_iter()
            .rfind(|other| other.id < artifact_id)
            .map(|other| other.id);
        let tag = artifact.tags.first().map(|tag| tag.name.clone());
        match (tag, older) {
            (Some(tag), Some(older)) => self.move_tag(repository_id, &tag, older),
            _ => false,
        }
    }
}
