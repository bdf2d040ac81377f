//! What is measured: the systems, the workloads, and the [`RoleSpec`] that tells a process its part.

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// One line of the table: a system in one of its forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    DynamoAm,
    DynamoAmSpawned,
    DynamoAmIpc,
    Velo,
    VeloOrdered,
    VeloUds,
    VeloUdsOrdered,
    Tarpc,
    Tonic,
    Zenoh,
    ZenohPubsub,
    Zmq,
    Zeromq,
    Nats,
}

use System::{
    DynamoAm, DynamoAmIpc, DynamoAmSpawned, Nats, Tarpc, Tonic, Velo, VeloOrdered, VeloUds, VeloUdsOrdered,
    Zenoh, ZenohPubsub, Zeromq, Zmq,
};

impl System {
    /// In the order of the table.
    pub const ALL: [Self; 14] = [
        DynamoAm,
        DynamoAmSpawned,
        DynamoAmIpc,
        Velo,
        VeloOrdered,
        VeloUds,
        VeloUdsOrdered,
        Tarpc,
        Tonic,
        Zenoh,
        ZenohPubsub,
        Zmq,
        Zeromq,
        Nats,
    ];

    pub fn name(self) -> &'static str {
        match self {
            DynamoAm => "dynamo-am",
            DynamoAmSpawned => "dynamo-am-spawned",
            DynamoAmIpc => "dynamo-am-ipc",
            Velo => "velo",
            VeloOrdered => "velo-ordered",
            VeloUds => "velo-uds",
            VeloUdsOrdered => "velo-uds-ordered",
            Tarpc => "tarpc",
            Tonic => "tonic",
            Zenoh => "zenoh",
            ZenohPubsub => "zenoh-pubsub",
            Zmq => "zmq",
            Zeromq => "zeromq",
            Nats => "nats",
        }
    }

    /// The package that it is a form of: what `--only` also takes, and the name of its feature here.
    pub fn family(self) -> &'static str {
        match self {
            DynamoAm | DynamoAmSpawned | DynamoAmIpc => "dynamo-am",
            Velo | VeloOrdered | VeloUds | VeloUdsOrdered => "velo",
            Zenoh | ZenohPubsub => "zenoh",
            other => other.name(),
        }
    }

    /// The package whose version the table shows.
    pub fn package(self) -> &'static str {
        if self == Nats { "async-nats" } else { self.family() }
    }

    pub fn transport(self) -> &'static str {
        if matches!(self, DynamoAmIpc | VeloUds | VeloUdsOrdered) { "unix" } else { "tcp" }
    }

    /// Ours over the same transport: what the ratio is taken to.
    pub fn reference(self) -> Self {
        if self.transport() == "unix" { DynamoAmIpc } else { DynamoAm }
    }

    /// Why it cannot run in this program, where it cannot.
    pub fn missing(self) -> Option<String> {
        let is_built = match self.family() {
            "velo" => cfg!(feature = "velo"),
            "tarpc" => cfg!(feature = "tarpc"),
            "tonic" => cfg!(feature = "tonic"),
            "zenoh" => cfg!(feature = "zenoh"),
            "zmq" => cfg!(feature = "zmq"),
            "zeromq" => cfg!(feature = "zeromq"),
            "nats" => cfg!(feature = "nats"),
            _ => true,
        };
        if !is_built {
            return Some("it was left out of this build".into());
        }
        if self == Nats && crate::systems::nats_server().is_none() {
            return Some("nats-server is not installed (apt-get install nats-server)".into());
        }
        None
    }

    /// What `--only` asks for: names of lines or of packages. What ratios are taken to is always added.
    pub fn select(names: &[String]) -> Result<Vec<Self>> {
        let mut chosen = Vec::new();
        for name in names {
            let matching = Self::ALL.into_iter().filter(|s| s.name() == name || s.family() == name);
            let before = chosen.len();
            chosen.extend(matching);
            if chosen.len() == before {
                let known: Vec<_> = Self::ALL.iter().map(|s| s.name()).collect();
                bail!("no system is called {name}; there are {}", known.join(", "));
            }
        }
        let references: Vec<_> = chosen.iter().map(|s| s.reference()).collect();
        Ok(Self::ALL.into_iter().filter(|s| chosen.contains(s) || references.contains(s)).collect())
    }
}

/// The traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// Echo calls one at a time.
    Rtt,
    /// Echo calls from as many tasks as are outstanding, each woken by its own reply.
    Concurrent,
    /// Echo calls, all held by one loop: for systems whose socket belongs to one thread.
    Window,
    /// Fire and forget, until the receiver has handled all.
    Oneway,
    /// Big payloads, each acknowledged.
    Bulk,
}

impl Workload {
    pub fn name(self) -> &'static str {
        match self {
            Self::Rtt => "rtt",
            Self::Concurrent => "concurrent",
            Self::Window => "window",
            Self::Oneway => "oneway",
            Self::Bulk => "bulk",
        }
    }
}

/// One part of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    pub workload: Workload,
    pub payload_bytes: usize,
    /// 0 where none is awaited.
    pub outstanding: usize,
}

impl Case {
    pub const ALL: [Self; 7] = [
        Self { workload: Workload::Rtt, payload_bytes: 64, outstanding: 1 },
        Self { workload: Workload::Concurrent, payload_bytes: 64, outstanding: 64 },
        Self { workload: Workload::Concurrent, payload_bytes: 64, outstanding: 256 },
        Self { workload: Workload::Window, payload_bytes: 64, outstanding: 64 },
        Self { workload: Workload::Window, payload_bytes: 64, outstanding: 256 },
        Self { workload: Workload::Oneway, payload_bytes: 64, outstanding: 0 },
        Self { workload: Workload::Bulk, payload_bytes: 1 << 20, outstanding: 8 },
    ];

    /// Whether the system has a form for it that is not already another line.
    pub fn suits(self, system: System) -> bool {
        match self.workload {
            Workload::Window => matches!(system, DynamoAm | Zmq | Zeromq),
            // Publishing is the one way that zenoh has to send one-way; `zenoh` shows it.
            Workload::Oneway | Workload::Bulk => system != ZenohPubsub,
            Workload::Rtt | Workload::Concurrent => true,
        }
    }

    pub fn title(self) -> String {
        let size =
            if self.payload_bytes == 1 << 20 { "1 MiB".into() } else { format!("{} B", self.payload_bytes) };
        match self.workload {
            Workload::Rtt => format!("rtt: echo of {size}, one at a time"),
            Workload::Concurrent => {
                format!("concurrent {0}: echo of {size}, from {0} tasks", self.outstanding)
            }
            Workload::Window => format!("window {0}: echo of {size}, {0} held by one loop", self.outstanding),
            Workload::Oneway => format!("oneway: {size}, until all are handled"),
            Workload::Bulk => format!("bulk: {size} acknowledged, {} outstanding", self.outstanding),
        }
    }
}

/// Which of the two processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "lowercase")]
pub enum Role {
    Server,
    Client {
        address: String,
        /// The processes whose costs are counted beside the client's own.
        servers: Vec<i32>,
    },
}

/// Everything that one process needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleSpec {
    #[serde(flatten)]
    pub role: Role,
    pub system: System,
    pub case: Case,
    /// Runtime threads.
    pub workers: usize,
    pub warm_up_ms: u64,
    pub measure_ms: u64,
    /// The process ends itself after this long.
    pub limit_s: u32,
    /// The count of handled messages, a page that both processes map.
    pub shared: PathBuf,
    /// For sockets and the like; removed by the conductor.
    pub directory: PathBuf,
}

/// What a server says when it can be reached.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listening {
    pub address: String,
    pub servers: Vec<i32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_takes_lines_and_packages_and_adds_what_ratios_are_taken_to() {
        let names = |asked: &[&str]| -> Vec<_> {
            let asked: Vec<_> = asked.iter().map(|s| (*s).to_owned()).collect();
            System::select(&asked).unwrap().into_iter().map(System::name).collect()
        };
        assert_eq!(names(&["velo-uds"]), ["dynamo-am-ipc", "velo-uds"]);
        assert_eq!(names(&["zenoh", "tonic"]), ["dynamo-am", "tonic", "zenoh", "zenoh-pubsub"]);
        assert!(System::select(&["grpc".to_owned()]).unwrap_err().to_string().contains("tonic"));
    }

    #[test]
    fn every_line_has_its_reference_in_every_case() {
        for case in Case::ALL {
            assert!(
                System::ALL.iter().all(|s| !case.suits(*s) || case.suits(s.reference())),
                "{}",
                case.title()
            );
        }
    }
}
