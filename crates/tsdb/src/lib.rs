//! The embedded store: a head in memory, for as long as the retention says, and a log on a disk if that is asked for.
//!
//! Samples enter through [`weir_series::Append`] and leave through [`weir_series::Select`]. Each name/value pair is held
//! once, series are found by inverted postings, samples lie in compressed chunks of about 120. This crate knows no network,
//! no scraping and no query language.

mod chunk;
pub mod fuzz;
mod head;
mod histogram;
mod index;
mod log;
mod metadata;
mod options;
mod pages;
mod retention;
mod select;
mod series;
mod stats;
mod store;
mod varint;

pub use index::Counts;
pub use log::{Damage, OpenError, Recovery, Status};
pub use options::{Options, Storage};
pub use stats::Stats;
pub use store::Tsdb;
