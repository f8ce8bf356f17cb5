//! The client side: everything that talks to another server with Prometheus's interfaces.
//!
//! ```text
//! Backend (trait) ◀── Engine, over a store of our own
//!                 ◀── Remote ──▶ route (which upstream?) ──▶ upstream: flight (equal questions once), breaker, limits ──▶ http
//!                        └▶ shards (several upstreams as one store, evaluated here)
//! write (samples to another server) ──▶ http
//! ```
//!
//! Who asks and what for is not known here.

mod answer;
mod backend;
mod breaker;
mod flight;
pub mod http;
mod route;
mod shards;
mod upstream;
pub mod write;

pub use backend::{Backend, BoxFuture};
pub use route::{Remote, Route};
pub use upstream::{Limits, Upstream};
