//! Each scenario in its short form, as a test of its own; one at a time, since they measure.

use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Scenarios measure times: beside others they would measure those.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn chaos(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_chaos")).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].map(|part| String::from_utf8_lossy(&part).into_owned());
    (output.status.success(), text.concat())
}

fn passes(name: &str) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let (passed, text) = chaos(&[name]);
    println!("{text}");
    assert!(passed, "{text}");
}

macro_rules! scenarios {
    ($($name:ident),+ $(,)?) => {
        $(
            #[test]
            fn $name() {
                passes(stringify!($name));
            }
        )+

        #[test]
        fn every_scenario_is_a_test() {
            let (_, list) = chaos(&["--list"]);
            let listed: Vec<_> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
            assert_eq!(listed, [$(stringify!($name)),+]);
        }
    };
}

// In the order of `chaos --list`.
scenarios! {
    kill_pending,
    silent_peer,
    paused_self,
    failing_dial,
    restarted_peer,
    stolen_identity,
    order_of_four_senders,
    panicking_handlers,
    mutual_floods,
    ring_of_eight,
    all_to_all_of_eight,
    rolling_restart,
    hostile_slow_loris,
    hostile_properties,
    hostile_announced_sizes,
    hostile_connect_and_drop,
    hostile_empty_frames,
    hostile_pings,
    hostile_unknown_commands,
    hostile_forged_credit,
    hostile_forged_replies,
    hostile_cancels,
    hostile_deaf_to_answers,
    hostile_deaf_to_nacks,
    hostile_deaf_to_receipts,
    hostile_deaf_to_late_answers,
    hostile_broken_chunks,
    hostile_unfinished_payloads,
    hostile_gone_senders,
    hostile_all_descriptors,
    hostile_dropped_calls,
    memory_deaf_receiver,
    memory_thousand_deaf_receivers,
    memory_hung_receiver,
    memory_thousand_hung_senders,
    memory_slow_among_fast,
    memory_unpolled_calls,
    memory_deaf_caller,
    memory_deaf_libzmq,
    memory_small_beside_large,
}
