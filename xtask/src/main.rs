//! `cargo xtask tidy`: checks the invariants of ARCHITECTURE.md that can be read off the tree.
//!
//! Enters: the working tree. Leaves: one line per violation on standard error and exit code 1, or a summary.

mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    match std::env::args().nth(1).as_deref() {
        Some("tidy") => match tidy::check(&root) {
            Ok(violations) if violations.is_empty() => {
                println!("tidy: all invariants hold");
                ExitCode::SUCCESS
            }
            Ok(violations) => {
                for violation in &violations {
                    eprintln!("tidy: {violation}");
                }
                eprintln!("tidy: {} violation(s)", violations.len());
                ExitCode::FAILURE
            }
            Err(error) => {
                eprintln!("tidy: {error:#}");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!("usage: cargo xtask tidy");
            ExitCode::FAILURE
        }
    }
}
