//! From a job to where its handler's kind says: at once, or after it has waited in [`stalled`](super::stalled).

use std::sync::Arc;

use super::batch::{BatchRule, spawn_blocking};
use super::deferred;
use super::gate::Entered;
use super::group::spawn_group;
use super::job::Job;
use super::lane::Lanes;
use crate::api::handler_call::{Failure, HandlerCall};
use crate::proto::credit::Charge;
use crate::proto::payload::Payload;
use crate::runtime::node::Node;
use crate::runtime::registry::Entry;
use crate::transport::link::{Answer, AnswerBody, Link};
use crate::wire::codes::{Codec, NackCode};

/// What became of a job.
pub(crate) enum Admitted {
    /// It may run now; [`start`] is owed.
    Run(Job),
    /// It runs, or waits where its turn will come.
    Taken,
    /// Its handler has as much to do as it may; [`refuse`] is owed.
    Refused(Job),
}

/// Hands a job over. Inline handlers are not among those: they run where they are found.
pub(crate) fn admit(node: &Arc<Node>, lanes: &Arc<Lanes>, job: Job) -> Admitted {
    let entry = job.route.entry.clone();
    // A receipt leaves before anything of the handler can, and only for what is accepted.
    let receipt = job.mode().wants_receipt().then(|| Receipt {
        link: job.route.place.link.clone(),
        id: job.facts().number,
        codec: job.facts().codec,
        envelope: job.envelope.clone(),
        entry: entry.clone(),
    });
    let accepted = move || receipt.iter().for_each(Receipt::push);
    let refused = match &entry.call {
        HandlerCall::Spawned { is_ordered: true, .. } => lanes.of(entry.id).push(lanes, node, job, accepted),
        HandlerCall::Batched { call, count_max, age_max } => {
            let rule = BatchRule { call, count_max: *count_max, age_max: *age_max };
            entry.batcher.push(node, job, &rule, accepted)
        }
        _ => match entry.gate.enter(job, accepted) {
            Entered::Run(job) => return Admitted::Run(job),
            Entered::Waits => {
                node.counters.limits.reached("handler_concurrency");
                None
            }
            Entered::Refused(job) => Some(job),
        },
    };
    refused.map_or(Admitted::Taken, Admitted::Refused)
}

/// Starts a job that has entered its gate; those of spawned handlers join `group`.
pub(crate) fn start(node: &Arc<Node>, mut job: Job, group: &mut Vec<Job>) {
    let entry = job.route.entry.clone();
    match &entry.call {
        HandlerCall::Blocking(_) => spawn_blocking(node, job),
        HandlerCall::Deferred(call) => {
            let (context, payload) = (job.context(), job.take_payload());
            deferred::run(node, job, || (call.clone(), context, payload));
        }
        _ => group.push(job),
    }
}

/// The same for a job that comes alone.
pub(crate) fn start_alone(node: &Arc<Node>, job: Job) {
    let mut group = Vec::new();
    start(node, job, &mut group);
    if !group.is_empty() {
        spawn_group(node, group);
    }
}

/// Answers a job that was not accepted.
pub(crate) fn refuse(node: &Node, job: Job, done: &mut Charge) {
    node.counters.refused.increment(1);
    node.counters.limits.reached("handler_queue_len");
    let text = format!("`{}` has as much to do as it may", job.route.entry.name);
    job.refuse(Failure { code: NackCode::Overloaded, text }, done);
}

struct Receipt {
    link: Arc<Link>,
    id: u64,
    codec: Codec,
    envelope: Box<[u8]>,
    entry: Arc<Entry>,
}

impl Receipt {
    fn push(&self) {
        push_receipt(&self.link, self.id, self.codec, &self.envelope, &self.entry);
    }
}

/// Says that a message is accepted for its handler, and what that is.
pub(crate) fn push_receipt(link: &Link, id: u64, codec: Codec, envelope: &[u8], entry: &Entry) {
    let codec = if codec == Codec::Raw { Codec::MessagePack } else { codec };
    let encoded =
        crate::api::codec::encode_owned(&entry.contract, codec).unwrap_or_else(|_| Payload::empty());
    let body = AnswerBody::Receipt { payload: &encoded, codec };
    let finishes = Charge::default();
    link.push_answer(&Answer { id, envelope, body, is_counted: false, finishes });
}
