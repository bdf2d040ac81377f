//! One row of the report: the traffic, what carries it, and all that changes its figure.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::RoleError;
use crate::spec::check;

/// Largest payload that a measurement may use, in bytes: what a message may hold by default.
pub(crate) const PAYLOAD_LEN_MAX: usize = 64 << 20;
/// Most calls that may be outstanding: one task each, so memory bounds it.
const OUTSTANDING_MAX: usize = 65_536;
/// Most workers of a cohort: all are nodes of one process, and a tree links them with each other.
const COHORT_WORKERS_MAX: usize = 256;
/// Most links of one measurement: with one address, as many as it has ports.
const LINKS_MAX: usize = 16_384;

/// What carries the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP over the loopback interface.
    Tcp,
    /// Unix sockets.
    Ipc,
    /// Memory: server and client share one process and its runtime.
    Inproc,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Ipc => "ipc",
            Self::Inproc => "inproc",
        })
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

/// Who holds the calls that are outstanding; it alone changes the rate three times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Callers {
    /// As many tasks as calls, each woken by its reply.
    Tasks,
    /// One task with a `FuturesUnordered`.
    One,
}

/// How the receiver's handler is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dispatch {
    /// Where the message is read.
    Inline,
    /// In a task of its own, one message after the other.
    Ordered,
    /// In tasks, many at once.
    Spawned,
}

/// Where the flood runs that calls are measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flood {
    /// On the link of the calls.
    Same,
    /// On another link, of another client in the same process, to the same server.
    Other,
}

/// How a leader's call to all reaches its workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Route {
    /// From the leader to each.
    Flat,
    /// Down a tree of workers.
    Tree,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "workload", rename_all = "lowercase")]
pub enum Workload {
    /// Echo calls one at a time.
    Rtt {
        /// Where the caller stands.
        place: Place,
        /// Whether both ends poll their sockets rather than sleep.
        busy_poll: bool,
    },
    /// Echo calls over one connection.
    Concurrent {
        /// Calls in flight at once, 1 to 65536.
        outstanding: usize,
        /// Who holds them.
        callers: Callers,
    },
    /// Fire and forget, until the receiver has handled all.
    Oneway {
        /// How it handles them.
        handler: Dispatch,
    },
    /// Big payloads, each acknowledged.
    Bulk {
        /// Payloads in flight at once, 1 to 65536.
        outstanding: usize,
    },
    /// Echo calls from as many tasks as are outstanding, spread evenly over many links.
    Links {
        /// Links, 1 to 16384.
        links: usize,
        /// Calls in flight at once on all links together, at least one for each.
        outstanding: usize,
    },
    /// Links that are set up, used once, and then left alone: what each costs in memory.
    Idle {
        /// Links, 1 to 16384.
        links: usize,
    },
    /// Echo calls one at a time beside a one-way flood as fast as it goes.
    Loaded {
        /// Where the flood runs.
        flood: Flood,
    },
    /// A leader's calls to all its workers, one `par_map` at a time.
    Cohort {
        /// Workers, 1 to 256, all of them nodes of one process.
        ranks: usize,
        /// How the calls reach them.
        route: Route,
    },
}

/// One row of the report, for each system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Case {
    /// The traffic.
    #[serde(flatten)]
    pub workload: Workload,
    /// What carries it.
    pub transport: Transport,
    /// Bytes of payload in each message, at most 64 MiB.
    pub payload_bytes: usize,
}

impl Case {
    /// Payloads of 64 bytes over tcp, of 1 MiB for bulk, and none for a cohort.
    pub const fn new(workload: Workload) -> Self {
        let payload_bytes = match workload {
            Workload::Bulk { .. } => 1 << 20,
            Workload::Cohort { .. } => 0,
            _ => 64,
        };
        Self { workload, transport: Transport::Tcp, payload_bytes }
    }

    /// Echo calls one at a time from `place`.
    pub const fn rtt(place: Place) -> Self {
        Self::new(Workload::Rtt { place, busy_poll: false })
    }

    /// Echo calls from `outstanding` tasks.
    pub const fn concurrent(outstanding: usize) -> Self {
        Self::new(Workload::Concurrent { outstanding, callers: Callers::Tasks })
    }

    /// One-way messages to a handler of that kind.
    pub const fn oneway(handler: Dispatch) -> Self {
        Self::new(Workload::Oneway { handler })
    }

    /// Payloads of 1 MiB, 8 outstanding.
    pub const fn bulk() -> Self {
        Self::new(Workload::Bulk { outstanding: 8 })
    }

    /// How many connections it needs.
    pub const fn links(&self) -> usize {
        match self.workload {
            Workload::Links { links, .. } | Workload::Idle { links } => links,
            Workload::Loaded { flood: Flood::Other } => 2,
            Workload::Cohort { ranks, .. } => ranks,
            _ => 1,
        }
    }

    /// How many handlers run for one message, as the rows count messages: a cohort's is a call to all.
    pub const fn handlers_per_message(&self) -> usize {
        match self.workload {
            Workload::Cohort { ranks, .. } => ranks,
            _ => 1,
        }
    }

    /// Whether both ends poll their sockets rather than sleep.
    pub const fn busy_poll(&self) -> bool {
        matches!(self.workload, Workload::Rtt { busy_poll: true, .. })
    }

    /// Where the client's phases run.
    pub const fn place(&self) -> Place {
        match self.workload {
            Workload::Rtt { place, .. } => place,
            _ => Place::Task,
        }
    }

    /// Checks every value against its range.
    ///
    /// # Errors
    /// [`RoleError::OutOfRange`] names the first that is outside.
    pub fn validate(&self) -> Result<(), RoleError> {
        check("payload_bytes", "at most 64 MiB", self.payload_bytes, 0..=PAYLOAD_LEN_MAX)?;
        check("links", "1 to 16384", self.links(), 1..=LINKS_MAX)?;
        match self.workload {
            Workload::Concurrent { outstanding, .. } | Workload::Bulk { outstanding } => {
                check("outstanding", "1 to 65536", outstanding, 1..=OUTSTANDING_MAX)
            }
            Workload::Links { links, outstanding } => check(
                "outstanding",
                "at least one a link, at most 65536",
                outstanding,
                links..=OUTSTANDING_MAX,
            ),
            Workload::Cohort { ranks, .. } => check("ranks", "1 to 256", ranks, 1..=COHORT_WORKERS_MAX),
            Workload::Rtt { busy_poll: true, .. } if self.transport == Transport::Inproc => {
                Err(RoleError::OutOfRange { what: "busy_poll", range: "off where no socket is", actual: 1 })
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.workload.name(), self.transport)?;
        match self.payload_bytes {
            n if n >= 1 << 20 && n % (1 << 20) == 0 => write!(f, "{} MiB", n >> 20)?,
            n if n >= 1 << 10 && n % (1 << 10) == 0 => write!(f, "{} KiB", n >> 10)?,
            n => write!(f, "{n} B")?,
        }
        match self.workload {
            Workload::Rtt { place, busy_poll } => {
                let place = if place == Place::Main { "main" } else { "task" };
                write!(f, " {place}{}", if busy_poll { ", busy" } else { "" })
            }
            Workload::Concurrent { outstanding, callers: Callers::One } => {
                write!(f, " x{outstanding}, one task")
            }
            Workload::Concurrent { outstanding, .. } | Workload::Bulk { outstanding } => {
                write!(f, " x{outstanding}")
            }
            Workload::Oneway { handler: Dispatch::Inline } => f.write_str(" inline"),
            Workload::Oneway { handler: Dispatch::Ordered } => f.write_str(" ordered"),
            Workload::Oneway { handler: Dispatch::Spawned } => f.write_str(" spawned"),
            Workload::Links { links, outstanding } => write!(f, " x{outstanding}, {links} links"),
            Workload::Idle { links } => write!(f, " {links} links"),
            Workload::Loaded { flood: Flood::Same } => f.write_str(" same link"),
            Workload::Loaded { flood: Flood::Other } => f.write_str(" other link"),
            Workload::Cohort { ranks, route: Route::Flat } => write!(f, " {ranks} ranks, flat"),
            Workload::Cohort { ranks, route: Route::Tree } => write!(f, " {ranks} ranks, tree"),
        }
    }
}

impl Workload {
    /// The word for it on the command line and in reports.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Rtt { .. } => "rtt",
            Self::Concurrent { .. } => "concurrent",
            Self::Oneway { .. } => "oneway",
            Self::Bulk { .. } => "bulk",
            Self::Links { .. } => "links",
            Self::Idle { .. } => "idle",
            Self::Loaded { .. } => "loaded",
            Self::Cohort { .. } => "cohort",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_names_what_changes_its_figure() {
        let busy = Workload::Rtt { place: Place::Task, busy_poll: true };
        let one = Workload::Concurrent { outstanding: 256, callers: Callers::One };
        for (case, name) in [
            (Case::rtt(Place::Main), "rtt tcp 64 B main"),
            (Case::new(busy), "rtt tcp 64 B task, busy"),
            (Case { transport: Transport::Ipc, ..Case::concurrent(64) }, "concurrent ipc 64 B x64"),
            (Case::new(one), "concurrent tcp 64 B x256, one task"),
            (
                Case { transport: Transport::Inproc, ..Case::oneway(Dispatch::Spawned) },
                "oneway inproc 64 B spawned",
            ),
            (Case::bulk(), "bulk tcp 1 MiB x8"),
            (Case::new(Workload::Links { links: 100, outstanding: 1000 }), "links tcp 64 B x1000, 100 links"),
            (Case::new(Workload::Idle { links: 5000 }), "idle tcp 64 B 5000 links"),
            (Case::new(Workload::Loaded { flood: Flood::Other }), "loaded tcp 64 B other link"),
            (Case::new(Workload::Cohort { ranks: 16, route: Route::Tree }), "cohort tcp 0 B 16 ranks, tree"),
        ] {
            assert_eq!(case.to_string(), name);
        }
    }

    #[test]
    fn values_outside_their_range_are_refused_by_name() {
        let busy = Workload::Rtt { place: Place::Task, busy_poll: true };
        for (case, name) in [
            (Case { payload_bytes: PAYLOAD_LEN_MAX + 1, ..Case::bulk() }, "payload_bytes"),
            (Case::concurrent(0), "outstanding"),
            (Case::new(Workload::Links { links: 0, outstanding: 1 }), "links"),
            (Case::new(Workload::Links { links: 10, outstanding: 9 }), "outstanding"),
            (Case::new(Workload::Idle { links: LINKS_MAX + 1 }), "links"),
            (Case::new(Workload::Cohort { ranks: COHORT_WORKERS_MAX + 1, route: Route::Flat }), "ranks"),
            (Case { transport: Transport::Inproc, ..Case::new(busy) }, "busy_poll"),
        ] {
            let error = case.validate().unwrap_err().to_string();
            assert!(error.contains(name), "{case}: {error}");
        }
    }
}
