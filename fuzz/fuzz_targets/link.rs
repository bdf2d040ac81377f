//! Fuzzes [`link`](dynamo_am_fuzz_targets::link).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dynamo_am_fuzz_targets::link(data));
