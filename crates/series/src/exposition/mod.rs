//! The formats in which metrics travel. [`encode`] writes the text format 0.0.4; [`text`] reads it and OpenMetrics text,
//! [`proto`] reads protocol buffers, and [`Format`] says which of them a page is.

pub mod encode;
mod format;
pub(crate) mod fuzz;
pub mod parse;
pub mod proto;
pub mod series;
pub mod text;

pub use encode::{escape_value, is_plain_name, quoted_label, quoted_metric, write_header, write_sample};
pub use format::Format;
pub use parse::{Entry, MetricType, Parser, parse};

/// Content type of what [`encode`] writes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The same where names stand in quotes.
pub const CONTENT_TYPE_UTF8: &str = "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8";

/// A page that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ParseError {
    /// Number of the line, from 1; of protocol buffers, of the family.
    pub line: usize,
    /// What would be right.
    pub message: String,
}
