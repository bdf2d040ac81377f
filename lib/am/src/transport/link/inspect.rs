//! What a link holds at the moment, for tests: [`LinkTables`].

use super::Link;
use crate::proto::credit::Totals;

/// Everything that must be empty or zero on a link on which nothing goes on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LinkTables {
    /// The link's number at this node.
    pub number: u64,
    /// Calls of ours whose place in the table is taken.
    pub pending_calls: usize,
    /// Octets queued and not yet taken by the socket.
    pub waiting_len: usize,
    /// Payloads over 1 MiB that are under way.
    pub large: usize,
    /// Senders that wait for credit.
    pub waiting_senders: usize,
    /// Tasks that wait for room in the send buffer.
    pub waiting_for_room: usize,
    /// Somebody is writing, or the rest of a write was left to the flusher.
    pub is_writing: bool,
    /// Requests of the peer that run here and owe an answer.
    pub answering: i32,
    /// What the peer has sent and is not finished here, by account.
    pub unfinished_here: [Totals; 2],
    /// What we have sent and the peer has not told us that it is finished, by account.
    pub unfinished_there: [Totals; 2],
    /// Calls of system handlers that are unfinished, here and there.
    pub system_calls: [u32; 2],
    /// One end has said Bye.
    pub is_retired: bool,
    /// It is read only after another link of the same peer.
    pub waits_for_turn: bool,
}

impl Link {
    /// What the link holds at the moment.
    pub fn tables(&self) -> LinkTables {
        let waits_for_turn = self.waits_for_turn();
        let shared = self.shared.lock();
        let mut unfinished_here = shared.received;
        for (received, credit) in unfinished_here.iter_mut().zip(&shared.receive_credit) {
            *received = received.since(credit.finished());
        }
        LinkTables {
            number: self.number(),
            pending_calls: shared.pending.len(),
            waiting_len: shared.waiting_len(),
            large: shared.large.len(),
            waiting_senders: shared.senders.iter().map(std::collections::VecDeque::len).sum(),
            waiting_for_room: shared.room.len(),
            is_writing: shared.writing,
            answering: shared.answering,
            unfinished_here,
            unfinished_there: [0, 1].map(|account: usize| shared.send_credit[account].unfinished()),
            system_calls: [shared.system_unfinished, shared.system_sent],
            is_retired: shared.retired,
            waits_for_turn,
        }
    }
}
