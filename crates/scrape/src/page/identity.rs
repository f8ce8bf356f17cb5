//! From what a page says of a series to what it is called in the store: the target's labels, relabelling, limits.

use crate::{
    config::{Job, Limits},
    relabel::{self, LabelSet},
};
use std::borrow::Cow;
use weir_series::{Labels, exposition::MetricType, names};

/// Why a series fails its page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("{series} has {count} labels where label_limit allows {limit}")]
    Labels { series: String, count: usize, limit: u64 },
    #[error("{series} has a label name of {bytes} bytes where label_name_length_limit allows {limit}: {name}")]
    Name {
        series: String,
        name: String,
        bytes: usize,
        limit: u64,
    },
    #[error("label {name} of {series} has a value of {bytes} bytes where label_value_length_limit allows {limit}")]
    Value {
        series: String,
        name: String,
        bytes: usize,
        limit: u64,
    },
    #[error("metric_relabel_configs leave a series of {0} without a name")]
    Nameless(String),
}

/// What a page says of a series.
pub(super) struct Scraped<'a> {
    pub name: Cow<'a, str>,
    pub labels: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    pub metric_type: MetricType,
}

/// Gives `resolve` the labels of a series as it is stored: sorted by name, names unique, no value empty. None where relabelling
/// drops it.
pub(super) fn with<R>(
    scraped: Scraped<'_>,
    target: &Labels,
    job: &Job,
    resolve: impl FnOnce(&[(&str, &str)]) -> R,
) -> Result<Option<R>, IdentityError> {
    let Scraped {
        name,
        mut labels,
        metric_type,
    } = scraped;
    if job.canonical_bounds {
        canonical_bound(&name, metric_type, &mut labels);
    }
    check(&name, &labels, &job.limits)?;
    let collides = |name: &str| name == names::METRIC_NAME || !target.get(name).is_empty();
    if job.metric_relabel.is_empty() && !labels.iter().any(|(label, _)| collides(label)) {
        // The usual: no need to look at each label against all others.
        let own = target.iter().map(|l| (l.name.as_ref(), l.value.as_ref()));
        let scraped = labels.iter().map(|(name, value)| (name.as_ref(), value.as_ref()));
        let all = scraped.chain(own).chain([(names::METRIC_NAME, name.as_ref())]);
        return Ok(Some(resolve(&sorted(all.collect()))));
    }
    let mut set: LabelSet = [(names::METRIC_NAME, name.as_ref())].into_iter().collect();
    merge(&labels, target, job.honor_labels, &mut set);
    if !relabel::apply(&job.metric_relabel, &mut set) {
        return Ok(None);
    }
    if set.get(names::METRIC_NAME).is_empty() {
        return Err(IdentityError::Nameless(name.into_owned()));
    }
    Ok(Some(resolve(&sorted(set.iter().collect()))))
}

/// Of equal names the last one counts.
fn sorted<'a>(mut pairs: Vec<(&'a str, &'a str)>) -> Vec<(&'a str, &'a str)> {
    pairs.sort_by(|a, b| a.0.cmp(b.0));
    pairs.dedup_by(|later, first| {
        let same = later.0 == first.0;
        if same {
            first.1 = later.1;
        }
        same
    });
    pairs.retain(|(_, value)| !value.is_empty());
    pairs
}

/// Labels of the target win, and what they win over is kept under another name; or the other way about.
fn merge(labels: &[(Cow<'_, str>, Cow<'_, str>)], target: &Labels, honor_labels: bool, set: &mut LabelSet) {
    for own in target.iter() {
        set.set(&own.name, own.value.as_ref());
    }
    for (name, value) in labels {
        if honor_labels || target.get(name).is_empty() {
            // An empty value takes the label of the target away.
            set.set(name, value.as_ref());
            continue;
        }
        if value.is_empty() {
            continue;
        }
        let mut name = format!("{}{name}", names::EXPORTED_PREFIX);
        while !target.get(&name).is_empty() || labels.iter().any(|(other, _)| *other == name) {
            name = format!("{}{name}", names::EXPORTED_PREFIX);
        }
        set.set(&name, value.as_ref());
    }
}

fn check(name: &str, labels: &[(Cow<'_, str>, Cow<'_, str>)], limits: &Limits) -> Result<(), IdentityError> {
    let short = |text: &str| text.chars().take(60).collect::<String>();
    let series = || short(name);
    let count = labels.len() + 1;
    if count as u64 > limits.labels {
        return Err(IdentityError::Labels {
            series: series(),
            count,
            limit: limits.labels,
        });
    }
    let all = labels.iter().map(|(name, value)| (name.as_ref(), value.as_ref()));
    for (label, value) in all.chain([(names::METRIC_NAME, name)]) {
        if label.len() as u64 > limits.label_name_bytes {
            let limit = limits.label_name_bytes;
            return Err(IdentityError::Name {
                series: series(),
                name: short(label),
                bytes: label.len(),
                limit,
            });
        }
        if value.len() as u64 > limits.label_value_bytes {
            let limit = limits.label_value_bytes;
            return Err(IdentityError::Value {
                series: series(),
                name: short(label),
                bytes: value.len(),
                limit,
            });
        }
    }
    Ok(())
}

/// `le="1"` and `le="1.0"` are the same bound: it is written as OpenMetrics does.
fn canonical_bound(name: &str, metric_type: MetricType, labels: &mut [(Cow<'_, str>, Cow<'_, str>)]) {
    let label = match metric_type {
        MetricType::Histogram if name.ends_with("_bucket") => names::LE,
        MetricType::Summary => names::QUANTILE,
        _ => return,
    };
    if let Some((_, value)) = labels.iter_mut().find(|(name, _)| name == label)
        && let Ok(number) = value.parse::<f64>()
    {
        *value = bound_text(number).into();
    }
}

/// A bound as OpenMetrics writes it: `1.0`, `0.05`, `1e+06`, `+Inf`.
pub(super) fn bound_text(bound: f64) -> String {
    if bound.is_nan() {
        return "NaN".to_owned();
    }
    if bound.is_infinite() {
        return if bound > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{bound:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let significant = digits.bytes().filter(u8::is_ascii_digit).count();
    // Where a shortest text has an exponent, as everybody who prints floats in this format has it.
    if exponent < -4 || exponent >= 21.min(6.max(i32::try_from(significant).unwrap_or(i32::MAX))) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{bound}");
    if plain.contains('.') {
        plain
    } else {
        format!("{plain}.0")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        let table = [
            (0.0, "0.0"),
            (1.0, "1.0"),
            (0.05, "0.05"),
            (2.5, "2.5"),
            (100_000.0, "100000.0"),
            (1_000_000.0, "1e+06"),
            (1e-5, "1e-05"),
            (f64::INFINITY, "+Inf"),
        ];
        for (bound, text) in table {
            assert_eq!(bound_text(bound), text);
        }
    }
}
