//! What one measurement is: the words of the report, and the [`RoleSpec`] that travels as JSON on the
//! command line of the two processes.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::RoleError;

/// Largest payload that a measurement may use, in bytes: what a message may hold by default.
pub(crate) const PAYLOAD_LEN_MAX: usize = 64 << 20;
/// Most calls that may be outstanding: one task each, so memory bounds it.
pub(crate) const OUTSTANDING_MAX: usize = 65_536;
/// Most runtime threads of one process.
pub(crate) const WORKERS_MAX: usize = 256;

/// What is measured.
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

/// The traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// Echo calls one at a time.
    Rtt,
    /// Echo calls from as many tasks as are outstanding, over one connection.
    Concurrent,
    /// Fire and forget, until the receiver has handled all.
    Oneway,
    /// Big payloads, each acknowledged, a fixed number outstanding.
    Bulk,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Rtt => "rtt",
            Self::Concurrent => "concurrent",
            Self::Oneway => "oneway",
            Self::Bulk => "bulk",
        })
    }
}

/// What carries the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP over the loopback interface.
    Tcp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad("tcp")
    }
}

/// Where the caller stands: a reply that wakes `main` crosses from a runtime thread to another thread,
/// one that wakes a spawned task need not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// In a spawned task, on a runtime thread.
    Task,
    /// In the future given to `block_on` by the main thread.
    Main,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Task => "task",
            Self::Main => "main",
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

/// One row of the report, for each system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Case {
    /// The traffic.
    pub workload: Workload,
    /// What carries it.
    pub transport: Transport,
    /// Where the caller stands.
    pub place: Place,
    /// Bytes of payload in each message, at most 64 MiB.
    pub payload_bytes: usize,
    /// Calls in flight at once, at least 1; 0 for one-way, where none is awaited.
    pub outstanding: usize,
}

impl Case {
    /// Echo calls of 64 bytes, one at a time, from `place`.
    pub fn rtt(place: Place) -> Self {
        Self { workload: Workload::Rtt, transport: Transport::Tcp, place, payload_bytes: 64, outstanding: 1 }
    }

    /// Echo calls of 64 bytes from `outstanding` tasks.
    pub fn concurrent(outstanding: usize) -> Self {
        Self { workload: Workload::Concurrent, outstanding, ..Self::rtt(Place::Task) }
    }

    /// One-way messages of 64 bytes to an inline handler.
    pub fn oneway() -> Self {
        Self { workload: Workload::Oneway, outstanding: 0, ..Self::rtt(Place::Task) }
    }

    /// Payloads of 1 MiB, 8 outstanding.
    pub fn bulk() -> Self {
        Self { workload: Workload::Bulk, payload_bytes: 1 << 20, outstanding: 8, ..Self::rtt(Place::Task) }
    }

    /// Checks every value against its range.
    ///
    /// # Errors
    /// [`RoleError::OutOfRange`] names the first that is outside.
    pub fn validate(&self) -> Result<(), RoleError> {
        check("payload_bytes", "at most 64 MiB", self.payload_bytes, 0..=PAYLOAD_LEN_MAX)?;
        match self.workload {
            Workload::Oneway => check("outstanding", "0 for one-way", self.outstanding, 0..=0),
            Workload::Rtt => check("outstanding", "1 for rtt", self.outstanding, 1..=1),
            Workload::Concurrent | Workload::Bulk => {
                check("outstanding", "1 to 65536", self.outstanding, 1..=OUTSTANDING_MAX)
            }
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workload, transport, place, payload_bytes, outstanding } = self;
        write!(f, "{workload} {transport} ")?;
        match payload_bytes {
            n if *n >= 1 << 20 && n % (1 << 20) == 0 => write!(f, "{} MiB", n >> 20)?,
            n if *n >= 1 << 10 && n % (1 << 10) == 0 => write!(f, "{} KiB", n >> 10)?,
            n => write!(f, "{n} B")?,
        }
        match workload {
            Workload::Rtt => write!(f, " {place}"),
            Workload::Oneway => Ok(()),
            Workload::Concurrent | Workload::Bulk => write!(f, " x{outstanding}"),
        }
    }
}

/// Which of the two processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "lowercase")]
pub enum Role {
    /// Listens, handles and counts.
    Server,
    /// Connects to `address`, sends and measures.
    Client {
        /// What the server printed after `listening`.
        address: String,
    },
}

/// Everything that one of the two processes needs to know.
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

fn check(
    what: &'static str,
    range: &'static str,
    actual: usize,
    allowed: std::ops::RangeInclusive<usize>,
) -> Result<(), RoleError> {
    if allowed.contains(&actual) {
        return Ok(());
    }
    Err(RoleError::OutOfRange { what, range, actual: actual as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_survives_its_journey_as_json() {
        for role in [Role::Server, Role::Client { address: "127.0.0.1:7".into() }] {
            let spec = RoleSpec {
                role,
                system: System::DynamoAm,
                case: Case::bulk(),
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

    #[test]
    fn shares_add_up_to_the_whole() {
        let shares = (0..64).map(|i| match Amount::Messages(1_000).share(i, 64) {
            Amount::Messages(n) => n,
            Amount::Millis(_) => unreachable!("a count stays a count"),
        });
        assert_eq!(shares.sum::<u64>(), 1_000);
    }

    #[test]
    fn a_case_names_what_changes_its_figure() {
        assert_eq!(Case::rtt(Place::Main).to_string(), "rtt tcp 64 B main");
        assert_eq!(Case::concurrent(64).to_string(), "concurrent tcp 64 B x64");
        assert_eq!(Case::oneway().to_string(), "oneway tcp 64 B");
        assert_eq!(Case::bulk().to_string(), "bulk tcp 1 MiB x8");
    }

    #[test]
    fn values_outside_their_range_are_refused_by_name() {
        let huge = Case { payload_bytes: PAYLOAD_LEN_MAX + 1, ..Case::bulk() };
        assert!(huge.validate().unwrap_err().to_string().contains("payload_bytes"));
        assert!(Case::concurrent(0).validate().is_err());
        assert!(Case { outstanding: 2, ..Case::oneway() }.validate().is_err());
    }
}
