//! Fuzzes [`properties`](dynamo_am_fuzz_targets::properties).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dynamo_am_fuzz_targets::properties(data));
