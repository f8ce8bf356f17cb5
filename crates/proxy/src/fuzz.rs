//! What must hold for any bytes, as functions that a fuzzer calls.
//!
//! Enters: bytes of anybody. Leaves: nothing, or a panic that tells which invariant is broken. `fuzz/` drives them with
//! libFuzzer; the tests replay its corpus. The invariants themselves stand beside what they are about.

use crate::config::fuzz as config;
use crate::http::h1::fuzz as h1;

/// One function to fuzz.
pub type Target = fn(&[u8]);

/// All of them; the name is that of the folder of its corpus.
pub const TARGETS: [(&str, Target); 8] = [
    ("h1_request", h1::request),
    ("h1_response", h1::response),
    ("h1_chunked", h1::chunked),
    ("xds_listener", config::listener),
    ("xds_cluster", config::cluster),
    ("xds_route_table", config::route_table),
    ("xds_assignment", config::assignment),
    ("bootstrap", config::bootstrap),
];

/// Runs one target.
///
/// # Panics
/// Where an invariant is broken, or there is no such target.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(n, _)| *n == name);
    let (_, target) = target.unwrap_or_else(|| panic!("no fuzz target {name:?}"));
    target(bytes);
}
