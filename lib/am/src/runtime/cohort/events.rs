//! What happens in a cohort, as a stream: [`CohortEvents`].

use tokio::sync::broadcast;

use crate::id::InstanceId;
use crate::proto::membership::{JoinRefusal, MembershipEvent};

/// Something that happened in a cohort.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CohortEvent {
    /// A change of the members.
    Membership(MembershipEvent),
    /// Somebody may not join.
    Refused {
        /// Who.
        worker: InstanceId,
        /// Why not, as it was told.
        refusal: JoinRefusal,
    },
    /// The cohort has failed as a whole.
    Failed {
        /// Which loss it was.
        reason: String,
    },
    /// The cohort was shut down or dropped. The last event.
    Ended,
    /// This reader was too slow and missed so many events; `members()` says how things stand.
    Missed(u64),
}

/// Events of a cohort since it was made; see `LeaderWorkerCohort::events`.
#[derive(Debug)]
pub struct CohortEvents(pub(crate) broadcast::Receiver<CohortEvent>);

impl CohortEvents {
    /// The next event; `None` after the cohort's end.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<CohortEvent> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(CohortEvent::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}
