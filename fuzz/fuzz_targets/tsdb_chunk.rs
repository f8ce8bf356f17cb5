//! See `weir_tsdb::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weir_tsdb::fuzz::run("tsdb_chunk", bytes));
