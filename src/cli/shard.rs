//! A part of the instances, for jobs that share them.

use std::str::FromStr;

use sha2::{Digest, Sha256};

use super::exit::{Exit, Failure};
use super::variables::variable;

/// Set by Kubernetes in the pods of an Indexed Job, from 0.
const JOB_INDEX: &str = "JOB_COMPLETION_INDEX";

/// The part as the user writes it: `2/3` or `auto/3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ShardSetting {
    /// From 1; `None` for the index of the pod.
    number: Option<u64>,
    count: u64,
}

/// One of several parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shard {
    /// From 0.
    index: u64,
    count: u64,
}

impl FromStr for ShardSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<ShardSetting, String> {
        const FORM: &str = "expected I/N with I from 1 to N, such as 2/3, or auto/N";
        let (number, count) = text.split_once('/').ok_or(FORM)?;
        let count: u64 = count.trim().parse().map_err(|_| FORM)?;
        if !(1..=10_000).contains(&count) {
            return Err("the number of shards must be from 1 to 10000".to_owned());
        }
        let number = match number.trim() {
            "auto" => None,
            "0" => {
                return Err(format!(
                    "shards are numbered from 1: the first is 1/{count}"
                ));
            }
            number => match number.parse() {
                Ok(number) if number <= count => Some(number),
                Ok(number) => {
                    return Err(format!("there is no shard {number} of {count}"));
                }
                Err(_) => return Err(FORM.to_owned()),
            },
        };
        Ok(ShardSetting { number, count })
    }
}

impl ShardSetting {
    /// Determines the part.
    pub(super) fn resolve(self) -> Result<Shard, Failure> {
        let ShardSetting { number, count } = self;
        let usage = |text: String, hint: String| Failure::new(Exit::Usage, text).hint(hint);
        let index = match number {
            Some(number) => number.saturating_sub(1),
            None => {
                let text = variable(JOB_INDEX).ok_or_else(|| {
                    usage(
                        format!("--shard auto/{count} needs {JOB_INDEX}, which is not set"),
                        "Kubernetes sets it in Jobs with completionMode: Indexed; elsewhere, set the shard, as in 1/3"
                            .to_owned(),
                    )
                })?;
                text.parse().map_err(|_| {
                    usage(
                        format!("{JOB_INDEX} is not a number"),
                        "Kubernetes sets it to a number from 0".to_owned(),
                    )
                })?
            }
        };
        if index >= count {
            return Err(usage(
                format!(
                    "{JOB_INDEX} is {index}, and auto/{count} has the indexes 0 to {}",
                    count - 1
                ),
                format!(
                    "set completions and parallelism of the Job to {count}, or the shard to auto/N with N of them"
                ),
            ));
        }
        Ok(Shard { index, count })
    }
}

impl Shard {
    /// Whether an instance belongs to this part.
    ///
    /// This depends on the id of the instance only, not on its index in the list: if an instance
    /// was just created or deleted, two pods may see different lists, and both could
    /// skip an instance whose index differs.
    pub(super) fn has(self, swr_instance_id: &str) -> bool {
        let hash = Sha256::digest(swr_instance_id.as_bytes());
        let (first, _) = hash.split_at(size_of::<u64>());
        let number = first
            .iter()
            .fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
        number % self.count == self.index
    }
}

/// As the user writes it.
impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index + 1, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shards_are_a_partition_whatever_their_number() {
        let ids: Vec<String> = (0..500).map(|n| format!("instance-{n}")).collect();
        for count in 1..=17 {
            let shards: Vec<Shard> = (0..count).map(|index| Shard { index, count }).collect();
            for id in &ids {
                let having = shards.iter().filter(|shard| shard.has(id));
                assert_eq!(having.count(), 1, "{id} in {count} shards");
            }
            for shard in shards {
                assert!(ids.iter().any(|id| shard.has(id)), "{shard} has none");
            }
        }
    }

    #[test]
    fn an_instance_stays_in_its_shard_from_one_version_to_the_next() {
        let shard = |id: &str| {
            (1..=5).find(|n| {
                Shard {
                    index: n - 1,
                    count: 5,
                }
                .has(id)
            })
        };
        let ids = ["11111111-2222-3333-4444-555555555555", "a", "b", "c"];
        assert_eq!(ids.map(shard), [Some(2), Some(1), Some(2), Some(1)]);
    }

    #[test]
    fn mistakes_are_told_apart() {
        let error = |text: &str| text.parse::<ShardSetting>().unwrap_err();
        assert!(error("0/3").contains("the first is 1/3"));
        assert!(error("4/3").contains("no shard 4 of 3"));
        assert!(error("1/0").contains("from 1 to 10000"));
        for text in ["", "3", "/", "a/3", "1/b", "-1/3", "1/3/5"] {
            assert!(error(text).contains("I/N"), "{text}");
        }
        assert!("auto/3".parse::<ShardSetting>().is_ok());
    }
}
