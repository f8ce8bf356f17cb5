//! See `weir_promql::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weir_promql::fuzz::run("promql", bytes));
