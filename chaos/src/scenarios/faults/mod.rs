//! Peers that are killed, stopped, cut off, refused, restarted or impersonated.

use std::time::Duration;

use dynamo_am::{CallError, Peer, Raw};

use crate::failure::{Failure, Result};
use crate::process::Role;
use crate::report::{Figures, Limit};
use crate::scenario::{Group, Scenario};

mod dial;
mod identity;
mod killed;
mod namespaces;
mod paused;
mod server;
mod silent;
mod silent_proxy;

/// The scenarios and roles of these files.
pub const GROUP: Group = Group {
    name: "faults",
    scenarios: &[
        Scenario {
            name: "kill_pending",
            proves: "kill -9 of a server ends 10 000 pending calls by PeerLost within 50 ms of the kernel's notice",
            run: killed::run,
        },
        Scenario {
            name: "silent_peer",
            proves: "calls pending at a stopped process, or behind a cut link, end by PeerLost within 3.5 s",
            run: silent::run,
        },
        Scenario {
            name: "paused_self",
            proves: "a process that was stopped for 4 s loses no healthy link and no call",
            run: paused::run,
        },
        Scenario {
            name: "failing_dial",
            proves: "a refused dial fails at once, one into a black hole within 2 s",
            run: dial::run,
        },
        Scenario {
            name: "restarted_peer",
            proves: "a peer restarted under its identity is found again; another in its place is an event, and NotSent",
            run: identity::run_restart,
        },
        Scenario {
            name: "stolen_identity",
            proves: "who claims the identity of a live peer is refused, and disturbs nobody",
            run: identity::run_theft,
        },
    ],
    roles: &[
        Role { name: "faults_server", play: server::play },
        Role { name: "faults_cut_caller", play: namespaces::play_caller },
        Role { name: "faults_paused", play: paused::play },
        Role { name: "faults_claimant", play: identity::play_claimant },
    ],
};

/// How calls ended, one after the other.
#[derive(Debug, Default)]
struct Ends {
    /// By `PeerLost`, the handler having run perhaps: what it was due.
    lost: u64,
    /// In any other way; the first is kept in words.
    other: u64,
    first_other: Option<String>,
}

impl Ends {
    fn take<T: std::fmt::Debug>(&mut self, end: &std::result::Result<T, CallError>) {
        if matches!(end, Err(CallError::PeerLost { maybe_executed: true, .. })) {
            self.lost += 1;
            return;
        }
        self.other += 1;
        self.first_other.get_or_insert_with(|| match end {
            Ok(answer) => format!("answered: {answer:?}"),
            Err(error) => error.to_string(),
        });
    }

    fn add(&mut self, more: Self) {
        self.lost += more.lost;
        self.other += more.other;
        self.first_other = self.first_other.take().or(more.first_other);
    }

    /// How many ended as they had to, and that no other did.
    #[allow(clippy::cast_precision_loss, reason = "counts of calls")]
    fn report(self, figures: &mut Figures, calls: u64) -> Result<()> {
        if let Some(other) = self.first_other {
            return Err(Failure::new(format!(
                "{} of {calls} calls did not end by PeerLost: {other}",
                self.other
            )));
        }
        figures.count("calls ended by PeerLost", self.lost, Limit::Exactly(calls as f64));
        Ok(())
    }
}

/// Begins a call that no handler ends.
async fn begin_forever(peer: &Peer) -> Result<dynamo_am::MessageStatus<dynamo_am::WithResponse<Raw>>> {
    let message = peer.client().active_message("forever").deadline(Duration::from_secs(120));
    Ok(message.expect_response::<Raw>().send(peer).await?)
}

/// Waits until `count` calls of `forever` run there.
async fn until_running(peer: &Peer, count: u64) -> Result<()> {
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    let all_run = async {
        while peer.call::<u64>("running", &()).await? < count {
            looks.tick().await;
        }
        Ok(())
    };
    tokio::time::timeout(super::PATIENCE, all_run)
        .await
        .map_err(|_| Failure::new(format!("{count} calls do not run at the server")))?
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
