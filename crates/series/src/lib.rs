//! The waist of the metric side: what a sample, a series and a label are, what metrics are called, how they are
//! written as text and read back, and the two seams ([`Append`], [`Select`]) between scraping, storing and querying.
//!
//! Everything that measures (proxy, the supervisor of Envoy) enters through [`canonical`]; everything that reads
//! leaves through [`Select`]. This crate knows no network, no disk and no Kubernetes.

pub mod canonical;
pub mod duration;
pub mod exposition;
pub mod fuzz;
mod histogram;
mod labels;
mod matcher;
pub mod memory;
pub mod names;
pub mod remote_write;
mod sample;
mod seam;
mod wire;

pub use histogram::{Buckets, CUSTOM_BUCKETS_SCHEMA, Histogram, HistogramSample, ResetHint, Span};
pub use labels::{Label, Labels, LabelsBuilder};
pub use matcher::{MatchOp, Matcher, MatcherError};
pub use sample::{STALE_NAN_BITS, Sample, is_stale, stale_nan};
pub use seam::{
    Append, AppendError, Identity, Metadata, Select, SelectError, SeriesData, SeriesRef, SeriesView, Visitor,
};
