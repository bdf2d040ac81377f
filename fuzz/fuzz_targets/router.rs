//! Fuzzes [`router`](dynamo_am_fuzz_targets::router).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dynamo_am_fuzz_targets::router(data));
