//! Fuzzes [`handshake_listen`](dynamo_am_fuzz_targets::handshake_listen).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dynamo_am_fuzz_targets::handshake_listen(data));
