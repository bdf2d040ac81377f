//! `am ping`: is a node there, and how long does a call to it take?

use std::time::{Duration, Instant};

use dynamo_am::Probe;
use hdrhistogram::Histogram;
use serde_json::json;
use tokio::time::MissedTickBehavior;

use crate::args::PingArgs;
use crate::exit::{Exit, Failure};
use crate::output::{human, micros, print, printable};
use crate::remote::{Remote, caller};

/// The longest time that is told from longer ones: a timeout cannot exceed a week.
const NANOS_MAX: u64 = 604_800 * 1_000_000_000;

/// Pings until the count is reached or Ctrl-C is pressed, and sums up.
///
/// # Errors
///
/// When the node cannot be reached at first. Calls that fail later are counted.
pub(crate) async fn run(args: PingArgs) -> Result<Exit, Failure> {
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let begin = async {
        let node = caller(&args.target, args.timeout).await?;
        let probe = node.client().probe(&args.target.endpoint).await?;
        let remote = Remote::link(node, &args.target.endpoint).await?;
        Ok::<_, Failure>((probe, remote))
    };
    let (probe, remote) = tokio::select! {
        begun = begin => begun?,
        _ = &mut interrupted => return Err(Failure::interrupted()),
    };
    let as_json = args.target.json;
    print(greeting(&args, &probe))?;
    let mut summary = Summary::new()?;
    let was_interrupted = tokio::select! {
        ended = pings(&args, &remote, &mut summary) => { ended?; false }
        _ = &mut interrupted => true,
    };
    print(summary.text(&args.target.endpoint.to_string(), as_json))?;
    remote.close().await;
    Ok(if was_interrupted { Exit::Interrupted } else { summary.exit })
}

async fn pings(args: &PingArgs, remote: &Remote, summary: &mut Summary) -> Result<(), Failure> {
    let mut ticks = (!args.interval.is_zero()).then(|| tokio::time::interval(args.interval));
    if let Some(ticks) = &mut ticks {
        // After a slow answer the next call keeps its distance.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    while args.count.is_none_or(|count| summary.sent < count) {
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
        let started = Instant::now();
        let answer = remote.ask("_health_check", &()).await;
        let took = started.elapsed();
        summary.add(took, &answer);
        let failure = answer.err();
        print(line(summary.sent, took, failure.as_ref(), args.target.json))?;
        if failure.is_some() && args.interval.is_zero() {
            // A failure can come at once: without a pause, that would be a busy loop.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

fn greeting(args: &PingArgs, probe: &Probe) -> String {
    let endpoint = &args.target.endpoint;
    if args.target.json {
        let greeting = json!({
            "endpoint": endpoint.to_string(),
            "instance": probe.instance.to_string(),
            "endpoints": probe.endpoints,
            "version": probe.version,
            "connect_us": micros(probe.connect_time),
            "round_trip_us": micros(probe.round_trip),
        });
        return format!("{greeting}\n");
    }
    format!(
        "{endpoint} is {} with protocol version {}; connected in {}, heartbeat in {}\n",
        probe.instance,
        probe.version,
        human(probe.connect_time),
        human(probe.round_trip),
    )
}

fn line(number: u64, took: Duration, failure: Option<&Failure>, as_json: bool) -> String {
    let line = match (failure, as_json) {
        (None, true) => json!({"seq": number, "time_us": micros(took)}).to_string(),
        (None, false) => format!("reply {number}: {}", human(took)),
        (Some(failure), true) => json!({"seq": number, "error": failure.message()}).to_string(),
        (Some(failure), false) => format!("no reply {number}: {}", printable(failure.message())),
    };
    line + "\n"
}

/// What was sent, what came back, and how long it took: of a size that does not grow with the count.
struct Summary {
    sent: u64,
    times: Histogram<u64>,
    /// The shortest and the longest time, exact as the histogram is not.
    range: Option<(Duration, Duration)>,
    /// How the first call that failed did so.
    exit: Exit,
}

impl Summary {
    fn new() -> Result<Self, Failure> {
        // Three digits, from a nanosecond to a week.
        let times = Histogram::new_with_bounds(1, NANOS_MAX, 3)
            .map_err(|error| Failure::usage(format!("cannot count times: {error:?}")))?;
        Ok(Self { sent: 0, times, range: None, exit: Exit::Ok })
    }

    /// Counts a call that has ended: one that Ctrl-C breaks off is neither answered nor lost.
    fn add<T>(&mut self, took: Duration, answer: &Result<T, Failure>) {
        self.sent += 1;
        match answer {
            Ok(_) => {
                self.times.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(NANOS_MAX));
                let (min, max) = self.range.unwrap_or((took, took));
                self.range = Some((min.min(took), max.max(took)));
            }
            Err(failure) if self.exit == Exit::Ok => self.exit = failure.exit,
            Err(_) => {}
        }
    }

    fn text(&self, endpoint: &str, as_json: bool) -> String {
        let received = self.times.len();
        let lost = self.sent - received;
        let loss = if self.sent == 0 { 0.0 } else { 100.0 * lost as f64 / self.sent as f64 };
        let (min, max) = self.range.unwrap_or_default();
        let quantile = |q| Duration::from_nanos(self.times.value_at_quantile(q)).clamp(min, max);
        let (p50, p99) = (quantile(0.50), quantile(0.99));
        if as_json {
            let time = |time| (received > 0).then(|| micros(time));
            let summary = json!({
                "sent": self.sent,
                "received": received,
                "lost": lost,
                "min_us": time(min),
                "p50_us": time(p50),
                "p99_us": time(p99),
                "max_us": time(max),
            });
            return format!("{summary}\n");
        }
        let mut text = format!("{endpoint}: {} sent, {received} answered, {loss:.1}% lost\n", self.sent);
        if received > 0 {
            let [min, p50, p99, max] = [min, p50, p99, max].map(human);
            text.push_str(&format!("min {min}, p50 {p50}, p99 {p99}, max {max}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts_losses_and_ends_as_the_first_of_them() {
        let mut summary = Summary::new().unwrap();
        for millis in 1..=100 {
            summary.add(Duration::from_millis(millis), &Ok(()));
        }
        assert_eq!(summary.exit, Exit::Ok);
        for exit in [Exit::Deadline, Exit::NoConnection] {
            summary.add(Duration::ZERO, &Err::<(), _>(Failure::new(exit, "gone")));
        }
        assert_eq!(summary.exit, Exit::Deadline);
        let value: serde_json::Value = serde_json::from_str(&summary.text("x", true)).unwrap();
        assert_eq!(
            (&value["sent"], &value["received"], &value["lost"]),
            (&json!(102), &json!(100), &json!(2))
        );
        let near = |key: &str, expected: f64| {
            let found = value[key].as_f64().unwrap();
            assert!((found - expected).abs() <= expected / 500.0, "{key}: {found}");
        };
        near("p50_us", 50e3);
        near("p99_us", 99e3);
        assert_eq!((&value["min_us"], &value["max_us"]), (&json!(1e3), &json!(100e3)));
    }

    #[test]
    fn a_summary_of_nothing_has_no_times() {
        let summary = Summary::new().unwrap();
        assert_eq!(summary.text("x", false), "x: 0 sent, 0 answered, 0.0% lost\n");
        assert!(summary.text("x", true).contains("\"p50_us\":null"));
    }
}
