//! What leader and workers say to each other: ordinary messages between ordinary handlers.
//!
//! Names of handlers: `cohort/NAME/join` and `cohort/NAME/leave` at the leader, `cohort/NAME/LEADER/control` and
//! `cohort/NAME/LEADER/relay` at a worker, so that a node may lead and join several cohorts.

use bytes::Bytes;
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::InstanceId;
use crate::proto::membership::JoinRefusal;

pub(crate) fn join_name(cohort: &str) -> String {
    format!("cohort/{cohort}/join")
}

pub(crate) fn leave_name(cohort: &str) -> String {
    format!("cohort/{cohort}/leave")
}

pub(crate) fn control_name(cohort: &str, leader: InstanceId) -> String {
    format!("cohort/{cohort}/{leader}/control")
}

pub(crate) fn relay_name(cohort: &str, leader: InstanceId) -> String {
    format!("cohort/{cohort}/{leader}/relay")
}

/// Names of cohorts are part of handlers' names, which have room for so much.
pub(crate) const NAME_LEN_MAX: usize = 64;

/// The rule that a name breaks.
pub(crate) fn check_cohort_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.len() > NAME_LEN_MAX {
        return Err("it is longer than 64 octets");
    }
    if name.chars().any(|c| c == '/' || c.is_control()) {
        return Err("it has a `/` or a control character in it");
    }
    Ok(())
}

/// A worker asks to join.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Join {
    /// Drawn by the worker for each membership, so that one's end is not the next one's.
    pub(crate) membership: u64,
    pub(crate) rank: Option<usize>,
    pub(crate) is_spare: bool,
    /// Whether it hands on what is meant for others.
    pub(crate) relays: bool,
}

/// The leader's answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum JoinAnswer {
    Joined(Joined),
    Refused(RefusalWord),
}

/// What a member is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Joined {
    pub(crate) rank: Option<usize>,
    pub(crate) size: Option<usize>,
    /// Known to the members alone: what is relayed or ordered must show it.
    pub(crate) token: String,
    pub(crate) grace_ms: u64,
    /// Barriers that the cohort has passed.
    pub(crate) barriers: u64,
}

/// A worker goes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Leave {
    pub(crate) membership: u64,
    /// It has not said that it would.
    pub(crate) is_failure: bool,
}

/// An order to a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Control {
    pub(crate) token: String,
    pub(crate) order: Order,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Order {
    /// The membership is over.
    End(EndWord),
    /// A spare takes a rank.
    Assign { rank: usize, barriers: u64 },
    /// Answered when the worker has come to this barrier.
    Arrive { barrier: u64 },
    /// The barrier is open, or will never be.
    Release { barrier: u64, error: Option<String> },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum EndWord {
    ShutDown,
    Removed,
    Failed(String),
}

/// A [`JoinRefusal`] on its way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RefusalWord {
    kind: String,
    first: Option<usize>,
    second: Option<usize>,
    text: String,
}

impl From<&JoinRefusal> for RefusalWord {
    fn from(refusal: &JoinRefusal) -> Self {
        let (kind, first, second) = match refusal {
            JoinRefusal::RankTaken { rank, .. } => ("rank_taken", Some(*rank), None),
            JoinRefusal::RankOutOfRange { rank, end } => ("rank_out_of_range", Some(*rank), Some(*end)),
            JoinRefusal::Mixed { cohort_is_ranked } => ("mixed", Some(usize::from(*cohort_is_ranked)), None),
            JoinRefusal::Full { size } => ("full", Some(*size), None),
            JoinRefusal::Closed => ("closed", None, None),
            JoinRefusal::OtherRank { has, asked } => ("other_rank", *has, *asked),
            JoinRefusal::TooManySpares { limit } => ("too_many_spares", Some(*limit), None),
            JoinRefusal::NotANode => ("not_a_node", None, None),
            JoinRefusal::NotAdmitted { .. } => ("not_admitted", None, None),
        };
        let text = match refusal {
            JoinRefusal::RankTaken { by, .. } => by.to_string(),
            JoinRefusal::NotAdmitted { reason } => reason.clone(),
            other => other.to_string(),
        };
        Self { kind: kind.to_owned(), first, second, text }
    }
}

impl From<RefusalWord> for JoinRefusal {
    fn from(word: RefusalWord) -> Self {
        match (word.kind.as_str(), word.first, word.second) {
            ("rank_taken", Some(rank), _) => {
                Self::RankTaken { rank, by: word.text.parse().unwrap_or(InstanceId::UNKNOWN) }
            }
            ("rank_out_of_range", Some(rank), Some(end)) => Self::RankOutOfRange { rank, end },
            ("mixed", Some(is_ranked), _) => Self::Mixed { cohort_is_ranked: is_ranked != 0 },
            ("full", Some(size), _) => Self::Full { size },
            ("closed", ..) => Self::Closed,
            ("other_rank", has, asked) => Self::OtherRank { has, asked },
            ("too_many_spares", Some(limit), _) => Self::TooManySpares { limit },
            ("not_a_node", ..) => Self::NotANode,
            // Also what a newer leader says that this version does not know.
            _ => Self::NotAdmitted { reason: word.text },
        }
    }
}

/// Octets as MessagePack has them, rather than as an array of numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Octets(pub(crate) Bytes);

impl Serialize for Octets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OctetsVisitor;
        impl Visitor<'_> for OctetsVisitor {
            type Value = Octets;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("octets")
            }

            fn visit_bytes<E: serde::de::Error>(self, octets: &[u8]) -> Result<Octets, E> {
                Ok(Octets(Bytes::copy_from_slice(octets)))
            }

            fn visit_byte_buf<E: serde::de::Error>(self, octets: Vec<u8>) -> Result<Octets, E> {
                Ok(Octets(Bytes::from(octets)))
            }

            fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Octets, E> {
                Err(E::custom("text where octets belong"))
            }
        }
        deserializer.deserialize_bytes(OctetsVisitor).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_arrives_as_it_was() {
        let by = InstanceId::from_bytes([7; 16]).unwrap();
        for refusal in [
            JoinRefusal::RankTaken { rank: 3, by },
            JoinRefusal::RankOutOfRange { rank: 9, end: 4 },
            JoinRefusal::Mixed { cohort_is_ranked: true },
            JoinRefusal::Mixed { cohort_is_ranked: false },
            JoinRefusal::Full { size: 4 },
            JoinRefusal::Closed,
            JoinRefusal::OtherRank { has: Some(0), asked: None },
            JoinRefusal::OtherRank { has: None, asked: Some(2) },
            JoinRefusal::TooManySpares { limit: 2 },
            JoinRefusal::NotAdmitted { reason: "a stranger".to_owned() },
            JoinRefusal::NotANode,
        ] {
            let octets = rmp_serde::to_vec_named(&RefusalWord::from(&refusal)).unwrap();
            let word: RefusalWord = rmp_serde::from_slice(&octets).unwrap();
            assert_eq!(JoinRefusal::from(word), refusal);
        }
    }

    #[test]
    fn names_of_cohorts_fit_in_names_of_handlers() {
        let longest = "x".repeat(NAME_LEN_MAX);
        assert_eq!(check_cohort_name(&longest), Ok(()));
        assert!(control_name(&longest, InstanceId::UNKNOWN).len() <= 255);
        for wrong in ["", "a/b", "a\n", &"x".repeat(65)] {
            assert!(check_cohort_name(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn octets_travel_as_octets() {
        let octets = Octets(Bytes::from_static(b"\x00\xFF"));
        let encoded = rmp_serde::to_vec_named(&octets).unwrap();
        assert_eq!(encoded, [0xC4, 2, 0x00, 0xFF]);
        assert_eq!(rmp_serde::from_slice::<Octets>(&encoded).unwrap(), octets);
    }
}
