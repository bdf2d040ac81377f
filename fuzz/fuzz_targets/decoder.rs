//! Fuzzes [`decoder`](dynamo_am_fuzz_targets::decoder).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dynamo_am_fuzz_targets::decoder(data));
