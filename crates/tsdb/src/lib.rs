//! The embedded store: a head in memory, for as long as the retention says.
//!
//! Samples enter through [`weir_series::Append`] and leave through [`weir_series::Select`]. Label strings are interned,
//! series are found by inverted postings, samples lie in compressed chunks of about 120. This crate knows no network, no
//! scraping and no query language.

mod chunk;
mod head;
mod index;
mod series;

pub use chunk::{Chunk, ChunkIter};
pub use head::{Options, Stats, Tsdb};
