//! The values of a script: numbers, gaps, staleness markers, native histograms.

use std::sync::Arc;
use weir_series::{Buckets, CUSTOM_BUCKETS_SCHEMA, Histogram, ResetHint, Span, stale_nan};

#[derive(Clone, Debug)]
pub enum Cell {
    Float(f64),
    Histogram(Arc<Histogram>),
}

impl Cell {
    pub fn is_near(&self, other: &Cell) -> bool {
        match (self, other) {
            (Cell::Float(a), Cell::Float(b)) => near(*a, *b),
            (Cell::Histogram(a), Cell::Histogram(b)) => near_histograms(a, b),
            _ => false,
        }
    }
}

pub fn near(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

fn near_histograms(a: &Histogram, b: &Histogram) -> bool {
    let (x, y) = (filled(a), filled(b));
    a.schema == b.schema
        && near(a.count, b.count)
        && near(a.sum, b.sum)
        && near(a.zero_threshold, b.zero_threshold)
        && near(a.zero_count, b.zero_count)
        && a.custom_values == b.custom_values
        && x.len() == y.len()
        && x.iter()
            .zip(&y)
            .all(|(x, y)| (x.0, x.1) == (y.0, y.1) && near(x.2, y.2))
}

/// Buckets that are not empty: sign, index, count.
fn filled(h: &Histogram) -> Vec<(bool, i32, f64)> {
    let mut out = Vec::new();
    for (negative, buckets) in [(false, &h.positive), (true, &h.negative)] {
        let (mut index, mut counts) = (0, buckets.counts.iter());
        for span in &buckets.spans {
            index += span.offset;
            for count in counts.by_ref().take(span.length as usize) {
                out.push((negative, index, *count));
                index += 1;
            }
        }
    }
    out.retain(|(_, _, count)| *count != 0.0);
    out
}

/// The cells that the words of a line stand for; None for a gap.
pub fn cells(mut text: &str) -> Vec<Option<Cell>> {
    let mut out = Vec::new();
    loop {
        text = text.trim_start();
        if text.is_empty() {
            return out;
        }
        if let Some(literal) = text.strip_prefix("{{") {
            let (body, rest) = literal
                .split_once("}}")
                .unwrap_or_else(|| panic!("{text:?}: no end of the histogram"));
            let end = rest.find(' ').unwrap_or(rest.len());
            let times = rest[..end].strip_prefix('x').map_or(0, count);
            let cell = Cell::Histogram(Arc::new(histogram(body)));
            out.extend(vec![Some(cell); times + 1]);
            text = &rest[end..];
        } else {
            let end = text.find(' ').unwrap_or(text.len());
            out.extend(floats(&text[..end]).into_iter().map(|v| v.map(Cell::Float)));
            text = &text[end..];
        }
    }
}

fn count(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no count"))
}

fn floats(word: &str) -> Vec<Option<f64>> {
    match word {
        "_" => return vec![None],
        "stale" => return vec![Some(stale_nan())],
        _ => {}
    }
    let Some((term, times)) = word.split_once('x') else {
        return vec![Some(number(word))];
    };
    let times = count(times);
    if term == "_" {
        return vec![None; times];
    }
    let sign = term.rfind(['+', '-']).filter(|at| *at > 0);
    let (start, step) = sign.map_or_else(|| (number(term), 0.0), |at| (number(&term[..at]), number(&term[at..])));
    (0..=times).map(|i| Some(start + step * i as f64)).collect()
}

pub fn number(text: &str) -> f64 {
    match text {
        "NaN" => f64::NAN,
        "+Inf" | "Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        text => text.parse().unwrap_or_else(|_| panic!("{text:?} is not a number")),
    }
}

fn histogram(body: &str) -> Histogram {
    let mut h = Histogram::default();
    let (mut offset, mut negative_offset) = (0, 0);
    let (mut positive, mut negative) = (Vec::new(), Vec::new());
    let mut rest = body.trim();
    while !rest.is_empty() {
        let (key, after) = rest.split_once(':').unwrap_or_else(|| panic!("{rest:?}: no `:`"));
        let close = if after.starts_with('[') {
            after.find(']').map(|at| at + 1)
        } else {
            after.find(' ')
        };
        let (value, after) = after.split_at(close.unwrap_or(after.len()));
        let list = || {
            value
                .trim_matches(['[', ']'])
                .split_whitespace()
                .map(number)
                .collect::<Vec<f64>>()
        };
        let whole = || {
            value
                .parse::<i32>()
                .unwrap_or_else(|_| panic!("{key}:{value} is no whole number"))
        };
        match key {
            "schema" => h.schema = i8::try_from(whole()).unwrap_or(CUSTOM_BUCKETS_SCHEMA),
            "sum" => h.sum = number(value),
            "count" => h.count = number(value),
            "z_bucket" => h.zero_count = number(value),
            "z_bucket_w" => h.zero_threshold = number(value),
            "offset" => offset = whole(),
            "n_offset" => negative_offset = whole(),
            "buckets" => positive = list(),
            "n_buckets" => negative = list(),
            "custom_values" => {
                h.schema = CUSTOM_BUCKETS_SCHEMA;
                h.custom_values = list().into();
            }
            "reset" => {
                h.reset = match value {
                    "gauge" => ResetHint::Gauge,
                    "reset" => ResetHint::Reset,
                    _ => ResetHint::NotReset,
                }
            }
            _ => panic!("{key:?} is no part of a histogram"),
        }
        rest = after.trim_start();
    }
    h.positive = run(offset, positive);
    h.negative = run(negative_offset, negative);
    h
}

fn run(offset: i32, counts: Vec<f64>) -> Buckets {
    let length = counts.len() as u32;
    let spans = vec![Span { offset, length }];
    Buckets {
        spans: if counts.is_empty() { Vec::new() } else { spans },
        counts,
    }
}
