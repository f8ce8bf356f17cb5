//! PromQL: text is parsed and evaluated here over [`weir_series::Select`], and served in the form of
//! Prometheus's HTTP API by [`http_api`].
//!
//! Semantics are those of Prometheus 3: range selectors and the look-back are open at their left end. This crate knows
//! no store, no Kubernetes and none of Weir's metric names.

mod engine;
mod eval;
pub mod format;
pub mod fuzz;
pub mod http_api;
mod parse;
pub mod remote;
pub mod rules;

pub use engine::{Engine, Error, InstantSample, Options, Value};
pub use eval::Annotations;
