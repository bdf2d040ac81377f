//! What to measure, how often and for how long.

use std::time::Duration;

use crate::case::Case;
use crate::error::BenchError;
use crate::plan::Plan;
use crate::spec::{Amount, Role, RoleSpec, System};

/// The settings of a whole run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchOptions {
    /// What is compared, in the order of the turns. Each may be named once.
    pub systems: Vec<System>,
    /// The rows. Default the short set over tcp.
    pub cases: Vec<Case>,
    /// Turns of each system for each case, at least 1; the median one is reported. Default 3.
    pub runs: u32,
    /// Runtime threads of each process, 1 to 256; where it polls busily it is always one. Default 2.
    pub workers: usize,
    /// Unmeasured traffic at the start of each run. Default 200 ms.
    pub warm_up: Amount,
    /// Measured traffic of each run. Default 800 ms.
    pub amount: Amount,
    /// Longest that any one phase may take; what exceeds it ends the benchmark. Default 60 s.
    pub limit: Duration,
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self {
            systems: vec![System::Raw, System::DynamoAm],
            cases: Plan::default().quick(),
            runs: 3,
            workers: 2,
            warm_up: Amount::Millis(200),
            amount: Amount::Millis(800),
            limit: Duration::from_secs(60),
        }
    }
}

impl BenchOptions {
    /// The limits of `am bench --quick`: its five cases are done within 40 s.
    ///
    /// Two systems, five cases and three turns are 30 runs of 1 s, which leaves 0.33 s each for
    /// starting and stopping two processes. A phase may take 5 s, so a failure shows within the 40 s too.
    pub fn quick() -> Self {
        Self { limit: Duration::from_secs(5), ..Self::default() }
    }

    /// Checks that the options leave something to measure and every value is in its range.
    ///
    /// # Errors
    /// [`BenchError::Options`] says which is wrong.
    pub fn validate(&self) -> Result<(), BenchError> {
        let wrong = |what: &str| Err(BenchError::Options(what.to_owned()));
        if self.systems.is_empty() || self.cases.is_empty() || self.runs == 0 {
            return wrong("nothing to measure: name at least one system, one workload and one run");
        }
        let twice = self
            .systems
            .iter()
            .enumerate()
            .any(|(i, system)| self.systems.iter().take(i).any(|s| s == system));
        if twice {
            return wrong("a system can be named only once");
        }
        if self.amount == Amount::Messages(0) || self.amount == Amount::Millis(0) {
            return wrong("nothing to measure: ask for at least one message or one millisecond");
        }
        for case in &self.cases {
            let spec = self.spec(Role::Server, System::Raw, *case);
            spec.validate().map_err(|error| BenchError::Options(format!("{case}: {error}")))?;
        }
        Ok(())
    }

    /// The specification of one process of one measurement.
    pub(crate) fn spec(&self, role: Role, system: System, case: Case) -> RoleSpec {
        let limit_ms = u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX);
        let Self { workers, warm_up, amount, .. } = *self;
        let workers = if case.busy_poll() { 1 } else { workers };
        RoleSpec { role, system, case, workers, warm_up, amount, limit_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_leaves_time_for_starting_processes_within_its_40_s() {
        let quick = BenchOptions::quick();
        quick.validate().unwrap();
        let (Amount::Millis(warm_up), Amount::Millis(amount)) = (quick.warm_up, quick.amount) else {
            panic!("only a time is the same on every machine");
        };
        let runs = (quick.systems.len() * quick.cases.len()) as u64 * u64::from(quick.runs);
        assert!(runs * (warm_up + amount + 300) <= 40_000);
    }

    #[test]
    fn options_that_measure_nothing_are_refused() {
        let good = BenchOptions::quick();
        for bad in [
            BenchOptions { systems: vec![], ..good.clone() },
            BenchOptions { systems: vec![System::Raw, System::Raw], ..good.clone() },
            BenchOptions { cases: vec![], ..good.clone() },
            BenchOptions { runs: 0, ..good.clone() },
            BenchOptions { workers: 0, ..good.clone() },
            BenchOptions { amount: Amount::Messages(0), ..good.clone() },
            BenchOptions { limit: Duration::ZERO, ..good },
        ] {
            assert!(matches!(bad.validate(), Err(BenchError::Options(_))), "{bad:?}");
        }
    }
}
