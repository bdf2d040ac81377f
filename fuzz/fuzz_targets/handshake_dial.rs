//! Fuzzes [`handshake_dial`](dynamo_am_fuzz_targets::handshake_dial).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dynamo_am_fuzz_targets::handshake_dial(data));
