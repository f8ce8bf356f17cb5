//! The two seams between scraping, storing and querying. Implementations lock inside; callers share them by `Arc`.

use crate::{Histogram, HistogramSample, Labels, Matcher, Sample};
use std::ops::ControlFlow;

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
    /// A kind of sample that this store does not keep.
    #[error("the store does not keep samples of this kind")]
    Unsupported,
    /// Older than what the store keeps.
    #[error("the sample is older than the retention")]
    TooOld,
    /// Further ahead of the clock than the store takes.
    #[error("the sample is too far ahead of the clock: check the clocks of both machines")]
    TooNew,
}

/// Where samples go.
pub trait Append: Send + Sync {
    /// The handle of a series, which is created if it is new.
    fn resolve(&self, labels: &Labels) -> Result<SeriesRef, AppendError>;

    /// As [`Append::resolve`], from names and values as they stand in a page: sorted by name, names unique, no value empty.
    /// A store that can look them up as they are saves its caller the making of [`Labels`].
    fn resolve_pairs(&self, pairs: &[(&str, &str)]) -> Result<SeriesRef, AppendError> {
        self.resolve(&Labels::new(pairs.iter().copied()))
    }

    /// Appends a batch. Refused samples are reported as (index in the batch, reason); the others are stored.
    fn append(&self, batch: &[(SeriesRef, Sample)], refused: &mut Vec<(usize, AppendError)>);

    /// As [`Append::append`], of native histograms.
    fn append_histograms(&self, batch: &[(SeriesRef, i64, Histogram)], refused: &mut Vec<(usize, AppendError)>);

    /// What a metric family is, for those who ask (`/api/v1/metadata`); kept by the family's name, the last one counts.
    fn describe(&self, family: &str, metadata: &Metadata);

    /// The oldest time that is still worth appending, in milliseconds since 1970, seen from `now_ms`.
    fn oldest_ms(&self, now_ms: i64) -> i64;
}

/// What is told about a metric family beside its samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// `counter`, `gauge`, `histogram`, `gaugehistogram`, `summary`, `info`, `stateset` or `unknown`.
    pub kind: String,
    /// Free text.
    pub help: String,
    /// Base unit, or empty.
    pub unit: String,
}

/// Samples of one series in the order of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SeriesData {
    /// Identity of the series.
    pub labels: Labels,
    /// Ascending in time, staleness markers included.
    pub samples: Vec<Sample>,
    /// Native histograms, ascending in time; a series usually has either these or `samples`.
    pub histograms: Vec<HistogramSample>,
}

/// The identity of a series as a store holds it: labels are looked up one by one, or copied when really needed.
pub trait Identity {
    /// The value of a label, "" when it is absent.
    fn get(&self, name: &str) -> &str;

    /// All labels, as a value of their own. Costs an allocation: not for each of many series if a few names do.
    fn labels(&self) -> Labels;
}

impl Identity for Labels {
    fn get(&self, name: &str) -> &str {
        Labels::get(self, name)
    }

    fn labels(&self) -> Labels {
        self.clone()
    }
}

/// One series during [`Select::visit`]; the slices live until the visitor returns.
#[derive(Clone, Copy)]
pub struct SeriesView<'a> {
    /// Who it is.
    pub identity: &'a dyn Identity,
    /// As in [`SeriesData`].
    pub samples: &'a [Sample],
    /// As in [`SeriesData`].
    pub histograms: &'a [HistogramSample],
}

/// What a visitor is; it ends the visit with [`ControlFlow::Break`].
pub type Visitor<'a> = dyn FnMut(SeriesView<'_>) -> ControlFlow<()> + 'a;

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
    /// Shows every series that satisfies all matchers and has samples in the time, one after another, in no particular
    /// order. Nothing is collected, so that an aggregation over many series needs the memory of one. The visitor must not
    /// call the store: it may be locked meanwhile.
    fn visit(
        &self,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
        visitor: &mut Visitor<'_>,
    ) -> Result<(), SelectError>;

    /// The series that satisfy all matchers and have samples in the time, sorted by labels, at most `max_samples`
    /// altogether (a histogram counts one for each of its buckets).
    fn select(
        &self,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
        max_samples: usize,
    ) -> Result<Vec<SeriesData>, SelectError> {
        let mut total = 0;
        let mut out = Vec::new();
        self.visit(matchers, start_ms, end_ms, &mut |series| {
            total += series.samples.len();
            total += series.histograms.iter().map(|h| h.value.weight()).sum::<usize>();
            if total > max_samples {
                return ControlFlow::Break(());
            }
            out.push(SeriesData {
                labels: series.identity.labels(),
                samples: series.samples.to_vec(),
                histograms: series.histograms.to_vec(),
            });
            ControlFlow::Continue(())
        })?;
        if total > max_samples {
            return Err(SelectError::TooManySamples { limit: max_samples });
        }
        out.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
        Ok(out)
    }

    /// What is known of metric families (of one, if named), sorted by name.
    fn metadata(&self, family: Option<&str>) -> Vec<(String, Metadata)>;

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
