//! Answers of both sides in one form, and whether they agree.

use serde_json::Value as Json;
use std::collections::BTreeMap;
use weir_promql::{Value, format};
use weir_series::{Histogram, Labels, SeriesData};

/// Relative difference that two numbers may have.
const RELATIVE: f64 = 1e-9;
/// What is left where a sum should cancel to nothing.
const NOTHING: f64 = 1e-12;

#[derive(Clone, Debug)]
pub enum Point {
    Float(f64),
    Histogram {
        count: f64,
        sum: f64,
        /// Which bounds belong to it, lower, upper, count.
        buckets: Vec<(u64, f64, f64, f64)>,
    },
}

/// Series -> time -> point, and the values of an instant vector in its order.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    series: BTreeMap<String, BTreeMap<i64, Point>>,
    order: Vec<f64>,
}

impl Answer {
    /// Where this, ours, first differs from theirs; the order counts if `ordered`.
    pub fn difference(&self, theirs: &Answer, ordered: bool) -> Option<String> {
        for (labels, points) in &self.series {
            let Some(others) = theirs.series.get(labels) else {
                return Some(format!("only we have {labels} {points:?}"));
            };
            for (time, ours) in points {
                match others.get(time) {
                    Some(theirs) if same(ours, theirs) => {}
                    other => return Some(format!("{labels} at {time}:\n  ours   {ours:?}\n  theirs {other:?}")),
                }
            }
            if let Some((time, theirs)) = others.iter().find(|(time, _)| !points.contains_key(time)) {
                return Some(format!("only they have {labels} at {time}: {theirs:?}"));
            }
        }
        if let Some((labels, points)) = theirs.series.iter().find(|(l, _)| !self.series.contains_key(*l)) {
            return Some(format!("only they have {labels} {points:?}"));
        }
        let same_order = self.order.iter().zip(&theirs.order).all(|(a, b)| near(*a, *b));
        (ordered && !same_order).then(|| format!("order\n  ours   {:?}\n  theirs {:?}", self.order, theirs.order))
    }

    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    pub fn ours(value: Value) -> Answer {
        let mut out = Answer::default();
        match value {
            Value::Scalar(s) => {
                out.series
                    .insert("scalar".into(), BTreeMap::from([(s.ts_ms, Point::Float(s.value))]));
            }
            Value::String { value, .. } => {
                out.series.insert(value, BTreeMap::new());
            }
            Value::Vector { ts_ms, samples } => {
                for s in samples {
                    out.order.push(s.value);
                    let point = s.histogram.as_deref().map_or(Point::Float(s.value), histogram);
                    let twice = out
                        .series
                        .insert(s.labels.to_string(), BTreeMap::from([(ts_ms, point)]));
                    assert!(twice.is_none(), "{} twice", s.labels);
                }
            }
            Value::Matrix(series) => {
                for s in series {
                    let points = points(&s);
                    let twice = out.series.insert(s.labels.to_string(), points);
                    assert!(twice.is_none(), "{} twice", s.labels);
                }
            }
        }
        out
    }

    pub fn theirs(answer: &Json) -> Answer {
        let (data, mut out) = (&answer["data"], Answer::default());
        match data["resultType"].as_str() {
            Some("scalar") => {
                let (time, value) = float(&data["result"]);
                out.series.insert("scalar".into(), BTreeMap::from([(time, value)]));
                return out;
            }
            Some("string") => {
                let text = data["result"][1].as_str().unwrap_or_default();
                out.series.insert(text.to_owned(), BTreeMap::new());
                return out;
            }
            _ => {}
        }
        for series in data["result"].as_array().into_iter().flatten() {
            let labels = series["metric"].as_object().into_iter().flatten();
            let labels = Labels::new(labels.map(|(n, v)| (n.as_str(), v.as_str().unwrap_or(""))));
            let list = |one: &str, many: &str| -> Vec<Json> {
                let several = series[many].as_array().cloned().unwrap_or_default();
                series.get(one).cloned().into_iter().chain(several).collect()
            };
            let mut points: BTreeMap<i64, Point> = list("value", "values").iter().map(float).collect();
            points.extend(list("histogram", "histograms").iter().map(|p| (time(p), native(&p[1]))));
            match points.values().next() {
                Some(Point::Float(value)) => out.order.push(*value),
                _ => out.order.push(f64::NAN),
            }
            out.series.insert(labels.to_string(), points);
        }
        out
    }
}

fn points(s: &SeriesData) -> BTreeMap<i64, Point> {
    let floats = s.samples.iter().map(|s| (s.ts_ms, Point::Float(s.value)));
    let histograms = s.histograms.iter().map(|h| (h.ts_ms, histogram(&h.value)));
    floats.chain(histograms).collect()
}

fn histogram(h: &Histogram) -> Point {
    let buckets = format::histogram_buckets(h).into_iter();
    Point::Histogram {
        count: h.count,
        sum: h.sum,
        buckets: buckets
            .map(|(edge, l, u, c)| (u64::from(edge.code()), l, u, c))
            .collect(),
    }
}

fn time(point: &Json) -> i64 {
    (point[0].as_f64().unwrap_or(0.0) * 1000.0).round() as i64
}

fn float(point: &Json) -> (i64, Point) {
    (time(point), Point::Float(number(&point[1])))
}

fn native(h: &Json) -> Point {
    let bucket = |b: &Json| (b[0].as_u64().unwrap_or(99), number(&b[1]), number(&b[2]), number(&b[3]));
    Point::Histogram {
        count: number(&h["count"]),
        sum: number(&h["sum"]),
        buckets: h["buckets"].as_array().into_iter().flatten().map(bucket).collect(),
    }
}

fn number(text: &Json) -> f64 {
    match text.as_str().unwrap_or("?") {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        text => text.parse().unwrap_or_else(|_| panic!("{text:?} is no number")),
    }
}

fn near(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= RELATIVE * a.abs().max(b.abs()) + NOTHING
}

fn same(a: &Point, b: &Point) -> bool {
    match (a, b) {
        (Point::Float(a), Point::Float(b)) => near(*a, *b),
        (
            Point::Histogram { count, sum, buckets },
            Point::Histogram {
                count: c,
                sum: s,
                buckets: b,
            },
        ) => {
            // A difference may leave a bucket that is empty but for noise on one side only.
            let full = |buckets: &[(u64, f64, f64, f64)]| -> Vec<(u64, f64, f64, f64)> {
                buckets.iter().copied().filter(|b| b.3.abs() > NOTHING).collect()
            };
            let (x, y) = (full(buckets), full(b));
            near(*count, *c)
                && near(*sum, *s)
                && x.len() == y.len()
                && x.iter()
                    .zip(&y)
                    .all(|(x, y)| x.0 == y.0 && near(x.1, y.1) && near(x.2, y.2) && near(x.3, y.3))
        }
        _ => false,
    }
}
