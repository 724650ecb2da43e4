//! What happens to a registry between two runs.

use chrono::Duration;
use rand::RngExt;
use rand::seq::IndexedRandom;
use serde::Serialize;

use super::recipe::chance;
use super::world::World;

/// What a round of changes did, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// New artifacts, promoted ones not counted.
    pub pushed: usize,
    /// Digests that appeared in another repository.
    pub promoted: usize,
    /// Tags that were moved back to an older artifact.
    pub tags_moved: usize,
    /// Artifacts whose pull time changed.
    pub pulled: usize,
    /// Artifacts deleted, those of deleted repositories included.
    pub artifacts_deleted: usize,
    /// Repositories deleted.
    pub repositories_deleted: usize,
    /// Repositories created, each with artifacts.
    pub repositories_created: usize,
    /// Namespaces created, each with a repository.
    pub namespaces_created: usize,
}

/// What precedes the number of a round in the names of its sequences of chance.
const ROUND_CHANCE: u64 = 1 << 41;

impl World {
    /// A day in the life of the registry: about 2 % new artifacts, 1 % deleted,
    /// some promoted, some tags rolled back, a tenth pulled, a repository gone,
    /// and a team that starts. Equal worlds change equally in equal rounds.
    pub fn evolve(&mut self, round: u32) -> Changes {
        let mut chance = chance(self.seed, ROUND_CHANCE + u64::from(round));
        let before = self.artifacts.len();
        let evening = self.now + Duration::days(1);
        let mut changes = Changes::default();

        for id in self.chosen(&mut chance, before / 100, Ids::Artifacts) {
            changes.artifacts_deleted += usize::from(self.delete_artifact(id).is_some());
        }
        if self.repositories.len() > 4 {
            for id in self.chosen(&mut chance, 1, Ids::Repositories) {
                changes.artifacts_deleted += self.delete_repository(id).unwrap_or(0);
                changes.repositories_deleted += 1;
            }
        }
        for id in self.chosen(&mut chance, before / 200, Ids::Artifacts) {
            changes.tags_moved += usize::from(self.roll_back(id));
        }
        for id in self.chosen(&mut chance, before / 200, Ids::Artifacts) {
            for target in self.chosen(&mut chance, 1, Ids::Repositories) {
                let known = self.artifacts.len();
                self.promote(id, target);
                changes.promoted += self.artifacts.len() - known;
            }
        }

        let known = self.artifacts.len();
        for id in self.chosen(&mut chance, before / 60, Ids::Repositories) {
            self.push(id);
        }
        let namespace = format!("team-{round}");
        changes.namespaces_created += usize::from(
            self.namespaces
                .values()
                .all(|known| known.name != namespace),
        );
        let repositories = self.repositories.len();
        let created = self.add_repository(&namespace, "starter/app");
        changes.repositories_created += self.repositories.len() - repositories;
        for _ in 0..3 {
            self.push(created);
        }
        changes.pushed += self.artifacts.len() - known;

        for id in self.chosen(&mut chance, before / 10, Ids::Artifacts) {
            let minutes = chance.random_range(1..24 * 60);
            self.pull(id, evening - Duration::minutes(minutes));
            changes.pulled += 1;
        }
        self.now = self.now.max(evening);
        changes
    }

    /// Up to `count` ids, at least one if there are any; each at most once.
    fn chosen(&self, chance: &mut super::recipe::Chance, count: usize, of: Ids) -> Vec<i64> {
        let ids: Vec<i64> = match of {
            Ids::Artifacts => self.artifacts.keys().copied().collect(),
            Ids::Repositories => self.repositories.keys().copied().collect(),
        };
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

#[derive(Clone, Copy)]
enum Ids {
    Artifacts,
    Repositories,
}
