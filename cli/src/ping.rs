//! `am ping`: round trips to a node, and what became of them.

use std::time::{Duration, Instant};

use dynamo_am::{CallError, Peer, Raw};
use serde_json::json;

use crate::args::PingArgs;
use crate::call::{connect, leave};
use crate::exit::Failure;

/// Pings and sums up.
pub(crate) async fn run(args: &PingArgs) -> Result<(), Failure> {
    if args.count == 0 {
        return Err(Failure::usage("nothing to do: ask for at least one round trip with -c"));
    }
    let (node, peer) = connect(&args.endpoint, args.insecure).await?;
    let probe = node.client().probe(args.endpoint.as_str()).await?;
    if !args.json {
        println!("{} is instance {}, protocol {}", args.endpoint, probe.instance, probe.version);
    }
    let mut times = Vec::new();
    let mut lost = 0;
    for number in 1..=args.count {
        if number > 1 {
            tokio::time::sleep(args.interval).await;
        }
        match once(&node.client(), &peer, args.timeout).await {
            Ok(took) => {
                times.push(took);
                if !args.json {
                    println!("reply {number}: {:.1} us", micros(took));
                }
            }
            Err(CallError::DeadlineExceeded { .. }) => {
                lost += 1;
                if !args.json {
                    println!("reply {number}: none within {:.1} s", args.timeout.as_secs_f64());
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    leave(&node).await;
    times.sort_unstable();
    let (p50, p99) = (quantile(&times, 50), quantile(&times, 99));
    if args.json {
        let replies: Vec<f64> = times.iter().map(|took| micros(*took)).collect();
        println!(
            "{}",
            json!({"instance": probe.instance.to_string(), "sent": args.count, "lost": lost,
                   "p50_us": p50, "p99_us": p99, "replies_us": replies})
        );
    } else {
        let text = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |us| format!("{us:.1} us"));
        println!("{} sent, {lost} lost, p50 {}, p99 {}", args.count, text(p50), text(p99));
    }
    if times.is_empty() { Err(Failure::connection("no reply came back")) } else { Ok(()) }
}

async fn once(client: &dynamo_am::Client, peer: &Peer, timeout: Duration) -> Result<Duration, CallError> {
    let began = Instant::now();
    let message = client.active_message("_health_check").deadline(timeout).expect_response::<Raw>();
    message.send(peer).await?.response().await?;
    Ok(began.elapsed())
}

fn micros(took: Duration) -> f64 {
    took.as_secs_f64() * 1e6
}

/// The smallest value that `percent` of all do not exceed.
fn quantile(sorted: &[Duration], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).map(|took| micros(*took))
}
