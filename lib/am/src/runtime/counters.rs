//! A node's metrics: counters obtained once, touched once a turn, fed from lengths that are known already.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use metrics::{Counter, Gauge, counter, gauge};

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
    pub(crate) calls_expired: Counter,
    pub(crate) limits: LimitCounters,
    pub(crate) budget_used: Gauge,
    pub(crate) links: Gauge,
    pub(crate) identities_refused: Counter,
    pub(crate) redials_failed: Counter,
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
            calls_expired: counter!("dynamo_am_calls_expired_total"),
            limits: LimitCounters::new(),
            budget_used: gauge!("dynamo_am_budget_used_bytes"),
            links: gauge!("dynamo_am_links"),
            identities_refused: counter!("dynamo_am_identities_refused_total"),
            redials_failed: counter!("dynamo_am_redials_failed_total"),
        }
    }
}

/// The limits that are counted: the fields of [`Limits`](crate::limits::Limits).
const LIMIT_NAMES: [&str; 35] = [
    "payload_len_max",
    "credit_messages",
    "credit_bytes",
    "system_calls_max",
    "budget_len_max",
    "pending_calls_max",
    "partial_payloads_max",
    "skipped_len_max",
    "pings_per_second_max",
    "unknown_commands_per_second_max",
    "useless_messages_per_second_max",
    "send_buffer_len_max",
    "handler_concurrency",
    "handler_queue_len",
    "socket_buffer_len",
    "batch_len_max",
    "handlers_max",
    "links_max",
    "pending_handshakes_max",
    "pending_handshakes_per_address_max",
    "handler_waiters_max",
    "link_events_kept",
    "request_timeout",
    "nested_wait_max",
    "connect_timeout",
    "dial_timeout",
    "redial_wait_max",
    "identity_probe_timeout",
    "handshake_timeout",
    "drain_timeout",
    "ping_after",
    "silence_max",
    "foreign_silence_max",
    "slow_consumer_timeout",
    "slow_consumer_len",
];

/// How often each limit was reached: `dynamo_am_limit_reached_total`, by `limit`.
pub(crate) struct LimitCounters([Counter; LIMIT_NAMES.len()]);

impl LimitCounters {
    fn new() -> Self {
        Self(LIMIT_NAMES.map(|name| counter!("dynamo_am_limit_reached_total", "limit" => name)))
    }

    /// Counts that the limit of this name was reached. Not for hot paths.
    pub(crate) fn reached(&self, limit: &str) {
        let index = LIMIT_NAMES.iter().position(|name| *name == limit);
        debug_assert!(index.is_some(), "`{limit}` is no limit");
        let counter = index.and_then(|index| self.0.get(index));
        counter.into_iter().for_each(|counter| counter.increment(1));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;

    /// The fields of [`Limits`], in order.
    fn fields() -> Vec<String> {
        let shown = format!("{:#?}", Limits::default());
        let fields = shown.lines().filter_map(|line| line.strip_prefix("    ")?.split_once(':'));
        fields.map(|(name, _)| name.to_owned()).collect()
    }

    #[test]
    fn every_limit_is_counted_under_its_own_name() {
        assert_eq!(fields(), LIMIT_NAMES);
    }

    #[test]
    fn every_limit_has_a_line_in_the_documentation() {
        let document = include_str!("../../../../docs/limits.md");
        for field in fields() {
            assert!(document.contains(&format!("| `{field}` |")), "docs/limits.md says nothing of `{field}`");
        }
    }
}
