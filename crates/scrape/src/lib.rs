//! Scraping: discovered targets go in, samples come out into a store.
//!
//! [`discover`] says which targets there are; [`run`] keeps one loop a target, each on its own beat, so that a slow or
//! hostile target delays nobody; [`Targets`] shows how each is doing. This crate knows no store but
//! [`weir_series::Append`], and neither Weir's labels nor its metric names beyond those of scraping itself.

pub mod discover;
mod fetch;
#[cfg(test)]
mod memory;
mod page;
mod pool;
mod target;

pub use fetch::FetchError;
pub use pool::{ScrapeConfig, run};
pub use target::{Health, Target, TargetStatus, Targets};
