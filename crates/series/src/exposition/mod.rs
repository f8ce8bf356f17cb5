//! The text formats in which metrics travel: Prometheus text 0.0.4 and OpenMetrics text. [`encode`] writes, [`parse`] reads.

pub mod encode;
pub mod parse;

pub use encode::{escape_value, write_header, write_sample};
pub use parse::{Entry, MetricType, ParseError, Parser, parse};

/// Content type of what [`encode`] writes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
