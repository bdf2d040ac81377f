//! The end of a cohort: all workers let go, and who did not answer.

use std::sync::Arc;
use std::time::Duration;

use super::LeaderWorkerCohort;
use super::core::{Core, Phase};
use super::error::ranks_text;
use super::events::CohortEvent;
use super::words::{Control, EndWord, Order, control_name};
use crate::clock;
use crate::id::InstanceId;
use crate::proto::membership::MemberInfo;

/// How the workers of a cohort went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Those who have left, or whose links have ended.
    pub gone: Vec<MemberInfo>,
    /// Those who know that their membership is over, and still keep it.
    pub lingering: Vec<MemberInfo>,
    /// Those who did not answer.
    pub unanswered: Vec<MemberInfo>,
}

/// Not all workers answered that they know of the end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the cohort has ended, and {} did not answer", unanswered_text(report))]
pub struct ShutdownIncomplete {
    /// How each went.
    pub report: ShutdownReport,
}

fn unanswered_text(report: &ShutdownReport) -> String {
    let ranks: Vec<_> = report.unanswered.iter().filter_map(|member| member.rank).collect();
    let spares = report.unanswered.iter().filter(|member| member.rank.is_none()).count();
    match (ranks.is_empty(), spares) {
        (false, 0) => format!("ranks {}", ranks_text(&ranks)),
        (false, spares) => format!("ranks {} and {spares} spares", ranks_text(&ranks)),
        (true, spares) => format!("{spares} spares"),
    }
}

impl LeaderWorkerCohort {
    /// Lets all workers go: no new calls, nobody joins, each worker's membership ends. Ends when the last worker is
    /// gone, which is when it has dropped its membership or its link has ended, or at the timeout. Calls that run go
    /// on as long as their workers do.
    ///
    /// # Errors
    ///
    /// When a worker did not answer; the cohort has ended all the same.
    pub async fn shutdown(&self, timeout: Duration) -> Result<ShutdownReport, ShutdownIncomplete> {
        let core = &self.core;
        let until = clock::now() + timeout;
        let all = core.update(|book| {
            book.membership.close();
            book.phase = Phase::Ending;
            book.membership.members()
        });
        // Those who are away may never have heard of it.
        all.iter().filter(|member| !member.is_present).for_each(|member| {
            core.update(|book| book.membership.handle_abandoned(member.worker));
        });
        let answered = end_all_within(core, EndWord::ShutDown, timeout).await;
        // A worker that the leader named knows of nothing.
        let named: Vec<_> = core.read(|book| {
            book.workers.iter().filter(|(_, worker)| worker.is_named).map(|(worker, _)| *worker).collect()
        });
        core.update(|book| {
            named.iter().for_each(|worker| {
                book.membership.handle_leave(*worker);
            });
        });
        let mut changes = core.changes();
        while core.read(|book| all.iter().any(|member| book.membership.is_member(member.worker))) {
            if !matches!(tokio::time::timeout_at(until.into(), changes.changed()).await, Ok(Ok(()))) {
                break;
            }
        }
        let report = report(core, all, &answered);
        end(core);
        if report.unanswered.is_empty() { Ok(report) } else { Err(ShutdownIncomplete { report }) }
    }
}

fn report(core: &Core, all: Vec<MemberInfo>, answered: &[InstanceId]) -> ShutdownReport {
    let mut report = ShutdownReport::default();
    for member in all {
        let is_here = core.read(|book| book.membership.is_member(member.worker));
        let knows = answered.contains(&member.worker);
        let list = match (is_here, knows) {
            // One that was away did not answer, and may be anywhere.
            (false, _) if member.is_present => &mut report.gone,
            (true, true) => &mut report.lingering,
            _ => &mut report.unanswered,
        };
        list.push(member);
    }
    report
}

/// Tells all members that it is over; who has answered.
pub(crate) async fn end_all_within(core: &Arc<Core>, word: EndWord, timeout: Duration) -> Vec<InstanceId> {
    let workers: Vec<_> =
        core.read(|book| book.workers.iter().map(|(id, worker)| (*id, worker.clone())).collect());
    let told = workers.into_iter().map(|(id, worker)| {
        let order = Order::End(word.clone());
        async move { core.order(&worker, order, timeout).await.then_some(id) }
    });
    futures_util::future::join_all(told).await.into_iter().flatten().collect()
}

/// The same for a cohort that has failed.
pub(crate) async fn end_all(core: Arc<Core>, word: EndWord) {
    let timeout = core.settings.limits.order_timeout;
    end_all_within(&core, word, timeout).await;
}

/// Nothing of the cohort is left but its handles.
fn end(core: &Core) {
    core.unregister();
    core.stop.cancel();
    core.end_phase();
    core.emit(CohortEvent::Ended);
    core.events.lock().take();
}

/// The last handle is gone: tells the workers as far as that needs no waiting.
pub(crate) fn dropped(core: &Core) {
    if core.stop.is_cancelled() {
        return;
    }
    let workers: Vec<_> = core.read(|book| book.workers.values().cloned().collect());
    let name = control_name(&core.settings.name, core.client.instance_id());
    let order = Order::End(EndWord::ShutDown);
    let control = Control { token: core.token.clone(), order };
    for worker in workers.iter().filter(|worker| !worker.is_named) {
        let _ = core.client.active_message(&name).payload(&control).try_send(&worker.peer);
    }
    end(core);
}
