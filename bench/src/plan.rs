//! From what was asked for to the rows that are measured.

use crate::case::{Callers, Case, Dispatch, Flood, Place, Route, Transport, Workload};
use crate::files;

/// What a workload is called where one is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkloadName {
    /// Echo calls one at a time.
    Rtt,
    /// Echo calls, 64 and 256 outstanding.
    Concurrent,
    /// One-way messages.
    Oneway,
    /// Large payloads.
    Bulk,
    /// One load over many links.
    Links,
    /// What an idle link costs.
    Idle,
    /// Calls beside a flood.
    Loaded,
    /// A leader's calls to all its workers.
    Cohort,
}

impl WorkloadName {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 8] = [
        Self::Rtt,
        Self::Concurrent,
        Self::Oneway,
        Self::Bulk,
        Self::Links,
        Self::Idle,
        Self::Loaded,
        Self::Cohort,
    ];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rtt => "rtt",
            Self::Concurrent => "concurrent",
            Self::Oneway => "oneway",
            Self::Bulk => "bulk",
            Self::Links => "links",
            Self::Idle => "idle",
            Self::Loaded => "loaded",
            Self::Cohort => "cohort",
        }
    }

    fn workloads(self, busy_poll: bool) -> Vec<Workload> {
        match self {
            Self::Rtt => {
                let ways: &[bool] = if busy_poll { &[false, true] } else { &[false] };
                let rtt =
                    |busy_poll| [Place::Task, Place::Main].map(|place| Workload::Rtt { place, busy_poll });
                ways.iter().flat_map(|busy_poll| rtt(*busy_poll)).collect()
            }
            Self::Concurrent => [Callers::Tasks, Callers::One]
                .into_iter()
                .flat_map(|callers| {
                    [64, 256].map(|outstanding| Workload::Concurrent { outstanding, callers })
                })
                .collect(),
            Self::Oneway => [Dispatch::Inline, Dispatch::Ordered, Dispatch::Spawned]
                .map(|handler| Workload::Oneway { handler })
                .into(),
            Self::Bulk => vec![Workload::Bulk { outstanding: 8 }],
            Self::Links => [1, 100, 1000].map(|links| Workload::Links { links, outstanding: 1000 }).into(),
            Self::Idle => vec![Workload::Idle { links: 5000 }],
            Self::Loaded => [Flood::Other, Flood::Same].map(|flood| Workload::Loaded { flood }).into(),
            Self::Cohort => [1, 4, 16, 64]
                .into_iter()
                .flat_map(|ranks| [Route::Flat, Route::Tree].map(|route| Workload::Cohort { ranks, route }))
                .collect(),
        }
    }
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Which workloads, in this order.
    pub workloads: Vec<WorkloadName>,
    /// What carries them.
    pub transport: Transport,
    /// Bytes of payload in each message, where it is not the workload's own: 64, 1 MiB for bulk, none for cohort.
    pub payload_bytes: Option<usize>,
    /// Whether `rtt` is measured with busy polling too.
    pub busy_poll: bool,
}

impl Default for Plan {
    fn default() -> Self {
        let workloads = WorkloadName::ALL.to_vec();
        Self { workloads, transport: Transport::Tcp, payload_bytes: None, busy_poll: false }
    }
}

impl Plan {
    /// All rows of the workloads, with the links that this machine allows, and what must be said about them.
    pub fn cases(&self) -> (Vec<Case>, Vec<String>) {
        let mut notes = Vec::new();
        let workloads = self.workloads.iter().flat_map(|name| name.workloads(self.busy_poll));
        let cases = workloads.map(|workload| self.case(within(workload, self.sockets_max(), &mut notes)));
        (cases.collect(), notes)
    }

    /// The rows of the short set: rtt, 64 outstanding, one-way inline, and bulk.
    pub fn quick(&self) -> Vec<Case> {
        [
            Case::rtt(Place::Task),
            Case::rtt(Place::Main),
            Case::concurrent(64),
            Case::oneway(Dispatch::Inline),
            Case::bulk(),
        ]
        .map(|case| self.case(case.workload))
        .into()
    }

    fn case(&self, workload: Workload) -> Case {
        let own = Case::new(workload);
        let payload_bytes = self.payload_bytes.unwrap_or(own.payload_bytes);
        Case { transport: self.transport, payload_bytes, ..own }
    }

    /// Memory needs no files.
    fn sockets_max(&self) -> usize {
        if self.transport == Transport::Inproc { usize::MAX } else { files::sockets_max() }
    }
}

/// The workload with no more links than `sockets_max`.
fn within(workload: Workload, sockets_max: usize, notes: &mut Vec<String>) -> Workload {
    // Hundreds can be spread over few nodes.
    let allowed = if sockets_max >= 100 { sockets_max / 100 * 100 } else { sockets_max.max(1) };
    let mut at_most = |links: usize| {
        if links > sockets_max {
            notes.push(format!(
                "{} over {allowed} links instead of {links}: the limit on open files (ulimit -Hn) allows no more",
                workload.name()
            ));
        }
        if links > sockets_max { allowed } else { links }
    };
    match workload {
        Workload::Links { links, outstanding } => Workload::Links { links: at_most(links), outstanding },
        Workload::Idle { links } => Workload::Idle { links: at_most(links) },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_has_rows_of_its_name_that_can_be_measured() {
        for name in WorkloadName::ALL {
            let plan = Plan { workloads: vec![name], busy_poll: true, ..Plan::default() };
            let (cases, _) = plan.cases();
            assert!(!cases.is_empty());
            for case in cases {
                case.validate().unwrap();
                assert_eq!(case.workload.name(), name.as_str());
            }
        }
    }

    #[test]
    fn what_is_asked_for_holds_for_every_row() {
        let plan = Plan { transport: Transport::Ipc, payload_bytes: Some(5), ..Plan::default() };
        let asked = |case: &Case| case.transport == Transport::Ipc && case.payload_bytes == 5;
        assert!(plan.cases().0.iter().all(asked) && plan.quick().iter().all(asked));
    }

    #[test]
    fn fewer_links_than_asked_for_are_said() {
        let mut notes = Vec::new();
        let idle = within(Workload::Idle { links: 5000 }, 1_090, &mut notes);
        assert_eq!(idle, Workload::Idle { links: 1_000 });
        assert!(
            matches!(notes.as_slice(), [note] if note.contains("1000 links instead of 5000")),
            "{notes:?}"
        );
        assert_eq!(within(idle, 1_000, &mut notes), idle);
        assert_eq!(notes.len(), 1);
    }
}
