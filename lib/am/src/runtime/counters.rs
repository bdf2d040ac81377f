//! A node's metrics: counters obtained once, touched once a turn, fed from lengths that are known already.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use metrics::{Counter, counter};

/// What a node counts. Names are stable; a recorder of the `metrics` crate makes them visible.
pub(crate) struct Counters {
    pub(crate) messages_received: Counter,
    pub(crate) bytes_received: Counter,
    pub(crate) messages_sent: Counter,
    pub(crate) bytes_sent: Counter,
    pub(crate) refused: Counter,
    pub(crate) one_way_dropped: Counter,
    pub(crate) late_replies: Counter,
    pub(crate) protocol_errors: Counter,
    pub(crate) expired: Counter,
    pub(crate) links_without_memory: Counter,
    pub(crate) identities_refused: Counter,
    pub(crate) redials_failed: Counter,
    pub(crate) handshakes_evicted: Counter,
    pub(crate) handshakes_refused: Counter,
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counters")
    }
}

impl Counters {
    pub(crate) fn new() -> Self {
        Self {
            messages_received: counter!("dynamo_am_messages_received_total"),
            bytes_received: counter!("dynamo_am_payload_bytes_received_total"),
            messages_sent: counter!("dynamo_am_messages_sent_total"),
            bytes_sent: counter!("dynamo_am_bytes_sent_total"),
            refused: counter!("dynamo_am_messages_refused_total"),
            one_way_dropped: counter!("dynamo_am_one_way_dropped_total"),
            late_replies: counter!("dynamo_am_late_replies_total"),
            protocol_errors: counter!("dynamo_am_protocol_errors_total"),
            expired: counter!("dynamo_am_messages_expired_total"),
            links_without_memory: counter!("dynamo_am_links_without_memory_total"),
            identities_refused: counter!("dynamo_am_identities_refused_total"),
            redials_failed: counter!("dynamo_am_redials_failed_total"),
            handshakes_evicted: counter!("dynamo_am_handshakes_evicted_total"),
            handshakes_refused: counter!("dynamo_am_handshakes_refused_total"),
        }
    }
}

/// What a handler counts.
pub(crate) struct HandlerCounters {
    pub(crate) handled: Counter,
    pub(crate) failed: Counter,
}

impl fmt::Debug for HandlerCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandlerCounters")
    }
}

impl HandlerCounters {
    pub(crate) fn new(handler: &str) -> Self {
        let name = handler.to_owned();
        Self {
            handled: counter!("dynamo_am_handled_total", "handler" => name.clone()),
            failed: counter!("dynamo_am_handler_failures_total", "handler" => name),
        }
    }
}

/// Says something once: what a peer does wrong is logged once per link, however often it does it.
#[derive(Debug, Default)]
pub(crate) struct Once(AtomicBool);

impl Once {
    pub(crate) fn first(&self) -> bool {
        !self.0.swap(true, Ordering::Relaxed)
    }
}
