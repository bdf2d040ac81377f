//! Fuzzes [`pending`](dynamo_am_fuzz_targets::pending).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dynamo_am_fuzz_targets::pending(data));
