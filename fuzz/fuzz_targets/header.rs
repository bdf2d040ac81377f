//! Fuzzes [`header`](dynamo_am_fuzz_targets::header).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dynamo_am_fuzz_targets::header(data));
