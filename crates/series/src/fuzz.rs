//! What must hold for any bytes, as functions that a fuzzer calls.
//!
//! Enters: bytes of anybody. Leaves: nothing, or a panic that tells which invariant is broken. `fuzz/` drives them with
//! libFuzzer; the tests replay its corpus. The invariants themselves stand beside what they are about.

use crate::exposition::fuzz as exposition;
use crate::remote_write::fuzz as remote_write;

/// One function to fuzz.
pub type Target = fn(&[u8]);

/// All of them; the name is that of the folder of its corpus.
pub const TARGETS: [(&str, Target); 4] = [
    ("remote_write", remote_write::body),
    ("exposition_text", exposition::text),
    ("exposition_openmetrics", exposition::open_metrics),
    ("exposition_protobuf", exposition::protobuf),
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

#[cfg(test)]
mod tests;
