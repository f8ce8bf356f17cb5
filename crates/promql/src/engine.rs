//! The entrance: a query as text and its times go in, a [`Value`] or a readable [`Error`] comes out.

use crate::eval::{Annotations, Asked, Evaluator, Grid, Output, Point};
use crate::parse::{self, Expr, Times};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;
use weir_series::{Histogram, Labels, Matcher, Sample, Select, SeriesData};

/// Limits and settings of all queries of one engine.
#[derive(Clone, Debug)]
pub struct Options {
    /// How old the newest sample of a series may be to count as its present value.
    pub lookback: Duration,
    /// Samples that one query may hold at a time; each takes 16 bytes.
    pub max_samples: usize,
    /// Time that one query may take.
    pub timeout: Duration,
    /// Steps of a range query.
    pub max_steps: usize,
    /// Step of a subquery that gives none.
    pub default_step: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            lookback: Duration::from_secs(5 * 60),
            max_samples: 5_000_000,
            timeout: Duration::from_secs(30),
            max_steps: 11_000,
            default_step: Duration::from_secs(60),
        }
    }
}

/// Why a query has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not PromQL, or times that make no sense: the caller must change the query.
    #[error("{0}")]
    BadQuery(String),
    /// The data do not allow the answer (many-to-many matching, too many samples, ...).
    #[error("{0}")]
    Execution(String),
    /// Too slow.
    #[error("the query took longer than {} s: ask for fewer series or a shorter time", .0.as_secs_f64())]
    Timeout(Duration),
}

/// One element of an instant vector.
#[derive(Clone, Debug, PartialEq)]
pub struct InstantSample {
    /// Identity.
    pub labels: Labels,
    /// The value at the time of the evaluation; NaN where it is a histogram.
    pub value: f64,
    /// The native histogram, where it is one.
    pub histogram: Option<Arc<Histogram>>,
}

/// The answer of a query.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number.
    Scalar(Sample),
    /// A string.
    String {
        /// Time of the evaluation.
        ts_ms: i64,
        /// The string.
        value: String,
    },
    /// One value a series, all at `ts_ms`.
    Vector {
        /// Time of the evaluation.
        ts_ms: i64,
        /// In the order of the evaluation: sorted where the query sorts.
        samples: Vec<InstantSample>,
    },
    /// Many values a series, sorted by labels.
    Matrix(Vec<SeriesData>),
}

impl Value {
    /// The elements of an instant vector; empty for anything else.
    pub fn into_vector(self) -> Vec<InstantSample> {
        match self {
            Value::Vector { samples, .. } => samples,
            _ => Vec::new(),
        }
    }
}

/// Evaluates queries over one store. Calls block for as long as the evaluation takes.
#[derive(Clone)]
pub struct Engine {
    store: Arc<dyn Select>,
    options: Options,
    cancelled: CancellationToken,
}

/// The stack of an evaluation: [`parse::MAX_NODES`] levels, with room in an unoptimized build. Only touched pages count.
const STACK_BYTES: usize = 32 << 20;

impl Engine {
    /// An engine over a store.
    pub fn new(store: Arc<dyn Select>, options: Options) -> Self {
        Engine {
            store,
            options,
            cancelled: CancellationToken::new(),
        }
    }

    /// The same engine, whose queries end with an error soon after the token is cancelled.
    pub fn until(&self, cancelled: CancellationToken) -> Self {
        Engine {
            cancelled,
            ..self.clone()
        }
    }

    /// The same engine over another store or with other settings.
    pub fn with(&self, store: Arc<dyn Select>, options: Options) -> Self {
        Engine {
            store,
            options,
            ..self.clone()
        }
    }

    /// The store behind it.
    pub fn store(&self) -> &Arc<dyn Select> {
        &self.store
    }

    /// Its limits and settings.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// For what goes on step by step beside evaluations: an error where nobody waits for it any more, or it takes too long.
    pub(crate) fn check(&self, started: Instant) -> Result<(), Error> {
        if self.cancelled.is_cancelled() {
            return Err(Error::Execution("the query was cancelled".into()));
        }
        match started.elapsed() > self.options.timeout {
            true => Err(Error::Timeout(self.options.timeout)),
            false => Ok(()),
        }
    }

    /// The value at one time.
    pub fn instant(&self, query: &str, ts_ms: i64) -> Result<Value, Error> {
        self.instant_annotated(query, ts_ms).map(|(value, _)| value)
    }

    /// The value at one time, and what to know about it.
    pub fn instant_annotated(&self, query: &str, ts_ms: i64) -> Result<(Value, Annotations), Error> {
        let grid = Grid {
            start_ms: ts_ms,
            step_ms: 1,
            steps: 1,
        };
        let asked = Asked {
            start_ms: ts_ms,
            end_ms: ts_ms,
            step_ms: 0,
        };
        self.evaluate(query, asked, |evaluator, expr| {
            if let Some(matrix) = evaluator.top_level_matrix(expr, &grid)? {
                return Ok(Value::Matrix(matrix));
            }
            Ok(match evaluator.eval(expr, &grid)? {
                Output::Scalar(values) => Value::Scalar(Sample {
                    ts_ms,
                    value: values.first().copied().unwrap_or(f64::NAN),
                }),
                Output::String(value) => Value::String { ts_ms, value },
                Output::Vector(columns) => {
                    let sample = |column: crate::eval::Column| {
                        let (value, histogram) = match column.cells.point(0)? {
                            Point::Float(value) => (value, None),
                            Point::Histogram(h) => (f64::NAN, Some(h)),
                        };
                        Some(InstantSample {
                            labels: column.labels,
                            value,
                            histogram,
                        })
                    };
                    let samples = columns.into_iter().filter_map(sample).collect();
                    Value::Vector { ts_ms, samples }
                }
            })
        })
    }

    /// The values from `start_ms` to `end_ms`, both included where the step meets them.
    pub fn range(&self, query: &str, start_ms: i64, end_ms: i64, step_ms: i64) -> Result<Vec<SeriesData>, Error> {
        self.range_annotated(query, start_ms, end_ms, step_ms)
            .map(|(series, _)| series)
    }

    /// As [`Engine::range`], and what to know about the answer.
    pub fn range_annotated(
        &self,
        query: &str,
        start_ms: i64,
        end_ms: i64,
        step_ms: i64,
    ) -> Result<(Vec<SeriesData>, Annotations), Error> {
        let grid = self.grid(start_ms, end_ms, step_ms)?;
        let asked = Asked {
            start_ms,
            end_ms,
            step_ms,
        };
        self.evaluate(query, asked, |evaluator, expr| {
            let mut series: Vec<SeriesData> = match evaluator.eval(expr, &grid)? {
                Output::Scalar(values) => {
                    let samples = grid.times().zip(values);
                    vec![SeriesData {
                        samples: samples.map(|(ts_ms, value)| Sample { ts_ms, value }).collect(),
                        ..SeriesData::default()
                    }]
                }
                Output::String(_) => {
                    return Err(Error::BadQuery(
                        "a range query needs a scalar or an instant vector, not a string".into(),
                    ));
                }
                Output::Vector(columns) => columns.into_iter().map(|c| c.into_series(&grid)).collect(),
            };
            series.retain(|s| !s.samples.is_empty() || !s.histograms.is_empty());
            series.sort_by(|a, b| a.labels.cmp(&b.labels));
            Ok(series)
        })
    }

    fn grid(&self, start_ms: i64, end_ms: i64, step_ms: i64) -> Result<Grid, Error> {
        if step_ms <= 0 {
            return Err(Error::BadQuery("the step must be greater than zero".into()));
        }
        if end_ms < start_ms {
            return Err(Error::BadQuery("the end must not be before the start".into()));
        }
        let steps = (end_ms.saturating_sub(start_ms) / step_ms) as usize + 1;
        if steps > self.options.max_steps {
            let max = self.options.max_steps;
            return Err(Error::BadQuery(format!(
                "{steps} steps are more than {max}: take a longer step or a shorter time"
            )));
        }
        Ok(Grid {
            start_ms,
            step_ms,
            steps,
        })
    }

    /// Parses and evaluates.
    fn evaluate<T: Send>(
        &self,
        query: &str,
        asked: Asked,
        f: impl FnOnce(&mut Evaluator<'_>, &Expr) -> Result<T, Error> + Send,
    ) -> Result<(T, Annotations), Error> {
        on_a_deep_stack(move || {
            let times = Times {
                step_ms: asked.step_ms,
                range_ms: asked.end_ms.saturating_sub(asked.start_ms),
            };
            let expr = parse::parse(query, Some(times)).map_err(Error::BadQuery)?;
            let mut evaluator = Evaluator::new(self.store.as_ref(), &self.options, &self.cancelled, asked);
            let value = f(&mut evaluator, &expr)?;
            Ok((value, evaluator.annotations))
        })
    }
}

/// Runs on a thread with a stack that the deepest allowed query cannot exhaust.
fn on_a_deep_stack<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("promql".into())
            .stack_size(STACK_BYTES);
        let started = thread.spawn_scoped(scope, work);
        let started = started.map_err(|e| Error::Execution(format!("no thread for the query: {e}")))?;
        started.join().unwrap_or_else(|_| {
            Err(Error::Execution(
                "the evaluation failed: this is a defect of Weir".into(),
            ))
        })
    })
}

/// A series selector (`name{label="value"}`) as matchers, for the series and label endpoints.
pub(crate) fn selector(text: &str) -> Result<Vec<Matcher>, Error> {
    with_parsed(text, |expr| match expr {
        Expr::VectorSelector(s) if s.offset.is_none() && s.at.is_none() && s.extension.is_none() => {
            Ok(s.all_matchers())
        }
        _ => Err(Error::BadQuery(format!(
            "{text:?} is not a series selector like up{{job=\"x\"}}"
        ))),
    })?
}

/// What `read` makes of an expression of a size that may be evaluated.
pub(crate) fn with_parsed<T: Send>(query: &str, read: impl FnOnce(&Expr) -> T + Send) -> Result<T, Error> {
    on_a_deep_stack(move || {
        let expr = parse::parse(query, None).map_err(Error::BadQuery)?;
        Ok(read(&expr))
    })
}
