//! What one of the measured processes has to do: the [`RoleSpec`] that travels as JSON on its command line.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::case::Case;
use crate::error::RoleError;

/// Most runtime threads of one process.
pub(crate) const WORKERS_MAX: usize = 256;

/// Whose figures they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum System {
    /// The same bytes over plain tokio sockets, batched as one would by hand.
    #[serde(rename = "raw")]
    Raw,
    /// This project.
    #[serde(rename = "dynamo-am")]
    DynamoAm,
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Raw => "raw",
            Self::DynamoAm => "dynamo-am",
        })
    }
}

/// When a phase is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Amount {
    /// After this many messages.
    Messages(u64),
    /// When this many milliseconds have passed; what was begun is still finished.
    Millis(u64),
}

impl Amount {
    /// The share of worker `index` of `workers`, so that the shares add up to the whole.
    pub(crate) fn share(self, index: usize, workers: usize) -> Self {
        match self {
            Self::Messages(total) => {
                let (index, workers) = (index as u64, (workers as u64).max(1));
                Self::Messages(total / workers + u64::from(index < total % workers))
            }
            Self::Millis(_) => self,
        }
    }

    /// Whether a phase that has done `done` messages in `elapsed` is over.
    pub(crate) fn is_over(self, done: u64, elapsed: Duration) -> bool {
        match self {
            Self::Messages(total) => done >= total,
            Self::Millis(millis) => elapsed >= Duration::from_millis(millis),
        }
    }
}

/// Which of the processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "lowercase")]
pub enum Role {
    /// Listens, handles and counts.
    Server,
    /// Connects, sends and measures.
    Client {
        /// What the server printed after `listening`; links are spread over all of them.
        addresses: Vec<String>,
    },
    /// Both in one process, for a transport that does not leave it.
    Both,
}

/// Everything that one of the processes needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleSpec {
    /// Which of the two.
    #[serde(flatten)]
    pub role: Role,
    /// What is measured.
    pub system: System,
    /// The row.
    #[serde(flatten)]
    pub case: Case,
    /// Runtime threads, 1 to 256.
    pub workers: usize,
    /// Unmeasured traffic before the clocks start.
    pub warm_up: Amount,
    /// Measured traffic.
    pub amount: Amount,
    /// How long each phase may take, in milliseconds; at least 1.
    pub limit_ms: u64,
}

impl RoleSpec {
    /// Checks every value against its range.
    ///
    /// # Errors
    /// [`RoleError::OutOfRange`] names the first that is outside.
    pub fn validate(&self) -> Result<(), RoleError> {
        self.case.validate()?;
        check("workers", "1 to 256", self.workers, 1..=WORKERS_MAX)?;
        if self.limit_ms == 0 {
            return Err(RoleError::OutOfRange { what: "limit_ms", range: "at least 1", actual: 0 });
        }
        Ok(())
    }
}

pub(crate) fn check(
    what: &'static str,
    range: &'static str,
    actual: usize,
    allowed: RangeInclusive<usize>,
) -> Result<(), RoleError> {
    if allowed.contains(&actual) {
        return Ok(());
    }
    Err(RoleError::OutOfRange { what, range, actual: actual as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Place, Workload};

    #[test]
    fn a_spec_survives_its_journey_as_json() {
        for role in [Role::Server, Role::Both, Role::Client { addresses: vec!["127.0.0.1:7".into()] }] {
            for case in [Case::bulk(), Case::rtt(Place::Main), Case::new(Workload::Idle { links: 7 })] {
                let spec = RoleSpec {
                    role: role.clone(),
                    system: System::DynamoAm,
                    case,
                    workers: 2,
                    warm_up: Amount::Messages(3),
                    amount: Amount::Millis(900),
                    limit_ms: 5_000,
                };
                let json = serde_json::to_string(&spec).unwrap();
                assert!(json.starts_with(r#"{"role":""#), "{json}");
                assert_eq!(serde_json::from_str::<RoleSpec>(&json).unwrap(), spec);
            }
        }
    }

    #[test]
    fn shares_add_up_to_the_whole() {
        let shares = (0..64).map(|i| match Amount::Messages(1_000).share(i, 64) {
            Amount::Messages(n) => n,
            Amount::Millis(_) => unreachable!("a count stays a count"),
        });
        assert_eq!(shares.sum::<u64>(), 1_000);
    }
}
