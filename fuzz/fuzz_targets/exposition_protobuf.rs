//! See `weir_series::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weir_series::fuzz::run("exposition_protobuf", bytes));
