//! Every limit of a node, with its default and the reason for it: [`Limits`].

use std::time::Duration;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// What a node holds and waits for at most. Give a changed copy to the builder's `limits`.
///
/// ```
/// use dynamo_am::Limits;
/// let limits = Limits { payload_len_max: 8 << 20, ..Limits::default() };
/// assert_eq!(limits.send_buffer_len_max, 1 << 20);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct Limits {
    /// The longest payload that is taken, in octets. Default 64 MiB: weights and caches travel by other means.
    pub payload_len_max: u64,
    /// Unfinished messages that a peer may have with us. Default 8192: at 9 million/s that is 0.9 ms of work,
    /// more than a round trip on a local network.
    pub credit_messages: u64,
    /// Octets of unfinished messages that a peer may have with us. Default 16 MiB: a round trip of 1 ms at
    /// 100 Gbit/s.
    pub credit_bytes: u64,
    /// Unfinished calls of system handlers that a peer may have with us, besides its other credit. Default 64.
    pub system_calls_max: u32,
    /// Octets that a node holds for all its peers together: what it grants them, and what it has queued for or got
    /// from them besides. Default 256 MiB, at least 64 KiB: 16 peers at their most, or 8192 at their least.
    pub budget_len_max: u64,
    /// Calls that may wait for an answer on one link. Default 65536: eight times a peer's credit.
    pub pending_calls_max: usize,
    /// Payloads over 1 MiB that may be coming on one link at the same time, in each direction. Default 64: as many as
    /// the account for such payloads pays for at their shortest.
    pub partial_payloads_max: usize,
    /// A foreign peer's payload that is too long is skipped, and its sender told, up to this length; beyond, its link
    /// ends. Default 1 GiB: a second on a fast network.
    pub skipped_len_max: u64,
    /// PINGs of a peer within a second; beyond, its link ends. Default 1000: libzmq with an interval of 1 ms is honest.
    pub pings_per_second_max: u32,
    /// Commands within a second that mean nothing to us; beyond, the link ends. Default 100.
    pub unknown_commands_per_second_max: u32,
    /// Messages within a second that are empty or malformed; beyond, the link ends. Default 1000: nobody needs any.
    pub useless_messages_per_second_max: u32,
    /// Octets queued on a link above which answers wait. Default 1 MiB: 16 writes of a full chunk.
    pub send_buffer_len_max: usize,
    /// Messages that run at once in one handler that says nothing else by `limit`. Default 1024.
    pub handler_concurrency: usize,
    /// Messages that wait for one handler at its limit; above, those that want an answer are refused.
    /// Default 1024.
    pub handler_queue_len: usize,
    /// Octets that the kernel is asked to hold of a tcp connection, each way and at each end. Default 512 KiB: what is
    /// sent behind a large payload waits for that much, and a round trip of 1 ms is filled at 4 Gbit/s; raise it for
    /// bulk over long distances.
    pub socket_buffer_len: usize,
    /// Octets of payloads after which a batched handler gets what has come, whatever its count and age say. Default
    /// 4 MiB.
    pub batch_len_max: usize,
    /// Handlers of a node. Default 4096.
    pub handlers_max: usize,
    /// Links of a node. Default 16384.
    pub links_max: usize,
    /// Connections that are accepted and have not shaken hands; the oldest makes place for one more. Default 1024:
    /// at 8 KiB each, 8 MiB for whoever reaches the port.
    pub pending_handshakes_max: usize,
    /// The same for one address; more are closed. Addresses of this machine and unix sockets are not counted.
    /// Default 64.
    pub pending_handshakes_per_address_max: usize,
    /// Calls of `_wait_for_handler` that wait on this node. Default 1024.
    pub handler_waiters_max: usize,
    /// Link events kept for a reader that lags; it is told how many it missed beyond that. Default 1024.
    pub link_events_kept: usize,
    /// A call's deadline unless it sets one. Default 30 s.
    pub request_timeout: Duration,
    /// A call made within a call waits so long for credit, then it is refused: a ring of such calls would wait for
    /// itself. Default 100 ms.
    pub nested_wait_max: Duration,
    /// `connect` ends by then. Default 5 s.
    pub connect_timeout: Duration,
    /// Dialling one endpoint ends by then, if nothing answers there at all. Default 1.9 s: one SYN may be lost, and
    /// all is over within 2 s.
    pub dial_timeout: Duration,
    /// The longest pause before a lost peer is dialled again. Default 5 s.
    pub redial_wait_max: Duration,
    /// How long a peer that is linked already has to show that it lives, when another process claims its id.
    /// Default 1 s.
    pub identity_probe_timeout: Duration,
    /// A connection that has not shaken hands by then is closed. Default 5 s, absolute.
    pub handshake_timeout: Duration,
    /// `shutdown` waits so long for running handlers. Default 5 s.
    pub drain_timeout: Duration,
    /// A link silent for this long is sent a PING. Default 1 s.
    pub ping_after: Duration,
    /// A link to one of our own nodes that is silent for this long is dead. Default 3 s: three PINGs.
    pub silence_max: Duration,
    /// The same for foreign peers, which may not send heartbeats at all. Default 30 s after a PING of ours.
    pub foreign_silence_max: Duration,
    /// A peer that takes less than `slow_consumer_len` for so long, while more than that waits for it, is closed as
    /// a slow consumer. Default 30 s.
    pub slow_consumer_timeout: Duration,
    /// Octets that a peer must take within `slow_consumer_timeout`. Default 64 KiB.
    pub slow_consumer_len: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            payload_len_max: 64 * MIB,
            credit_messages: 8192,
            credit_bytes: 16 * MIB,
            system_calls_max: 64,
            budget_len_max: 256 * MIB,
            pending_calls_max: 65_536,
            partial_payloads_max: 64,
            skipped_len_max: 1 << 30,
            pings_per_second_max: 1000,
            unknown_commands_per_second_max: 100,
            useless_messages_per_second_max: 1000,
            send_buffer_len_max: 1 << 20,
            handler_concurrency: 1024,
            handler_queue_len: 1024,
            socket_buffer_len: 512 * 1024,
            batch_len_max: 4 << 20,
            handlers_max: 4096,
            links_max: 16_384,
            pending_handshakes_max: 1024,
            pending_handshakes_per_address_max: 64,
            handler_waiters_max: 1024,
            link_events_kept: 1024,
            request_timeout: Duration::from_secs(30),
            nested_wait_max: Duration::from_millis(100),
            connect_timeout: Duration::from_secs(5),
            dial_timeout: Duration::from_millis(1900),
            redial_wait_max: Duration::from_secs(5),
            identity_probe_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(5),
            ping_after: Duration::from_secs(1),
            silence_max: Duration::from_secs(3),
            foreign_silence_max: Duration::from_secs(30),
            slow_consumer_timeout: Duration::from_secs(30),
            slow_consumer_len: 64 * 1024,
        }
    }
}
