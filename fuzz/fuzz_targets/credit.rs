//! Fuzzes [`credit`](dynamo_am_fuzz_targets::credit).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dynamo_am_fuzz_targets::credit(data));
