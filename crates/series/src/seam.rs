//! The two seams between scraping, storing and querying. Implementations lock inside; callers share them by `Arc`.

use crate::{Labels, Matcher, Sample};

/// A store's handle of one series; it may go stale when the store drops the series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesRef(pub u64);

/// Why a sample or a series was refused. The store counts each; the caller decides whether it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The store holds as many series as it may; existing ones go on.
    #[error("the limit of {limit} series is reached: raise it, or scrape fewer series")]
    SeriesLimit {
        /// The limit, in series.
        limit: usize,
    },
    /// The handle's series was dropped: resolve its labels again.
    #[error("the series is gone: resolve its labels again")]
    Unknown,
    /// Older than the newest sample of its series.
    #[error("the sample is older than the newest one of its series")]
    OutOfOrder,
    /// Another value at the time of the newest sample.
    #[error("the series has another value at this time already")]
    Duplicate,
    /// Older than what the store keeps.
    #[error("the sample is older than the retention")]
    TooOld,
}

/// Where samples go.
pub trait Append: Send + Sync {
    /// The handle of a series, which is created if it is new.
    fn resolve(&self, labels: &Labels) -> Result<SeriesRef, AppendError>;

    /// Appends a batch. Refused samples are reported as (index in the batch, reason); the others are stored.
    fn append(&self, batch: &[(SeriesRef, Sample)], refused: &mut Vec<(usize, AppendError)>);

    /// The oldest time that is still worth appending, in milliseconds since 1970, seen from `now_ms`.
    fn oldest_ms(&self, now_ms: i64) -> i64;
}

/// Samples of one series in the order of time.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesData {
    /// Identity of the series.
    pub labels: Labels,
    /// Ascending in time, staleness markers included.
    pub samples: Vec<Sample>,
}

/// Why nothing could be selected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// More samples than the caller allows.
    #[error("the selection holds more than {limit} samples: ask for fewer series or a shorter time")]
    TooManySamples {
        /// The caller's limit.
        limit: usize,
    },
    /// The store could not answer.
    #[error("the store cannot answer: {0}")]
    Store(String),
}

/// Where samples come from. All times are milliseconds since 1970, both ends included.
pub trait Select: Send + Sync {
    /// The series that satisfy all matchers and have samples in the time, at most `max_samples` altogether.
    fn select(
        &self,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
        max_samples: usize,
    ) -> Result<Vec<SeriesData>, SelectError>;

    /// The identities of what [`Select::select`] would give.
    fn series(&self, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Result<Vec<Labels>, SelectError>;

    /// Sorted names of all labels of the series that satisfy the matchers (no matchers: of all).
    fn label_names(&self, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Result<Vec<String>, SelectError>;

    /// Sorted values of a label.
    fn label_values(
        &self,
        name: &str,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
    ) -> Result<Vec<String>, SelectError>;
}
