//! From the labels that discovery gives to a target: defaults of the job, its rules, and what is left of `__` labels.

use super::ADDRESS;
use crate::{
    Target,
    config::{Job, units},
    relabel::{self, LabelSet},
};
use weir_series::names;

const SCHEME: &str = "__scheme__";
const PATH: &str = "__metrics_path__";
const INTERVAL: &str = "__scrape_interval__";
const TIMEOUT: &str = "__scrape_timeout__";
const PARAM: &str = "__param_";
/// Labels that begin so are gone after relabelling.
const INTERNAL: &str = "__";

/// What rules see of a target.
pub(super) fn discovered(labels: &LabelSet, job: &Job) -> LabelSet {
    let mut labels = labels.clone();
    let defaults = [
        (names::JOB, job.name.clone()),
        (INTERVAL, units::duration_text(job.interval)),
        (TIMEOUT, units::duration_text(job.timeout)),
        (PATH, job.metrics_path.clone()),
        (SCHEME, job.scheme.clone()),
    ];
    let params = job
        .params
        .iter()
        .filter_map(|(name, values)| Some((format!("{PARAM}{name}"), values.first()?.clone())));
    let defaults = defaults.into_iter().map(|(name, value)| (name.to_owned(), value));
    for (name, value) in defaults.chain(params) {
        if !labels.contains(&name) {
            labels.set(&name, value);
        }
    }
    labels
}

/// The target of a label set; None where relabelling drops it.
pub(super) fn target(found: &LabelSet, job: &Job) -> Result<Option<Target>, String> {
    let before = discovered(found, job);
    let mut labels = before.clone();
    if !relabel::apply(&job.relabel, &mut labels) {
        return Ok(None);
    }
    let address = labels.get(ADDRESS).to_owned();
    if address.is_empty() {
        return Err("it has no address: __address__ is empty after relabel_configs".to_owned());
    }
    if address.contains('/') {
        return Err(format!("{address:?} is no address like 10.0.0.1:9100"));
    }
    let time = |name: &str| {
        let text = labels.get(name);
        let time = units::duration(text).filter(|d| !d.is_zero());
        time.ok_or_else(|| format!("{name} is {text:?} where a duration such as 15s is needed"))
    };
    let (interval, timeout) = (time(INTERVAL)?, time(TIMEOUT)?);
    if timeout > interval {
        return Err(format!("{TIMEOUT} of {address} is longer than {INTERVAL}"));
    }
    let scheme = labels.get(SCHEME);
    if scheme != "http" && scheme != "https" {
        return Err(format!(
            "{SCHEME} of {address} is {scheme:?} where http or https is needed"
        ));
    }
    let url = format!("{scheme}://{address}{}", path(&labels, job));
    if !labels.contains(names::INSTANCE) {
        labels.set(names::INSTANCE, address.as_str());
    }
    labels.retain(|name| !name.starts_with(INTERNAL));
    Ok(Some(Target {
        address,
        url,
        labels: labels.to_labels(),
        discovered: before.to_labels(),
        interval: Some(interval).filter(|i| *i != job.interval),
        timeout: Some(timeout).filter(|t| *t != job.timeout),
    }))
}

/// Path and query: of a parameter with several values the first one may be changed by rules.
fn path(labels: &LabelSet, job: &Job) -> String {
    let path = labels.get(PATH);
    let mut url = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let mut pairs: Vec<(String, String)> = Vec::new();
    for (name, values) in &job.params {
        pairs.extend(values.iter().skip(1).map(|value| (name.clone(), value.clone())));
    }
    let first = labels
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix(PARAM)?.to_owned(), value.to_owned())));
    let mut all: Vec<(String, String)> = first.collect();
    all.extend(pairs);
    // Stable: the first value of a name stays the first.
    all.sort_by(|a, b| a.0.cmp(&b.0));
    for (at, (name, value)) in all.iter().enumerate() {
        url.push(if at == 0 && !url.contains('?') { '?' } else { '&' });
        url.push_str(&format!("{}={}", encoded(name), encoded(value)));
    }
    url
}

fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests;
