//! See `weir_proxy::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weir_proxy::fuzz::run("h1_request", bytes));
