//! Scraping: discovered targets go in, samples come out into a store.
//!
//! [`config`] says what is to be scraped and how; [`run`] follows it: [`discover`] finds label sets, [`relabel`] makes targets of
//! them, and a pool a job ([`run_job`]) keeps one loop a target, each on its own beat, so that a slow or hostile target delays
//! nobody. [`Targets`] shows how each is doing. This crate knows no store but [`weir_series::Append`], and neither Weir's labels
//! nor its metric names beyond those of scraping itself.

pub mod config;
pub mod discover;
mod fetch;
mod jobs;
#[cfg(test)]
mod memory;
mod page;
mod pool;
pub mod relabel;
mod target;

pub use fetch::FetchError;
pub use jobs::run;
pub use pool::run_job;
pub use target::{Dropped, Health, Target, TargetStatus, Targets};
