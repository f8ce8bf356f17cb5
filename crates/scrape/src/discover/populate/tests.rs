//! Labels before and after relabelling, and the target they make.

use super::*;
use crate::config::Config;
use std::path::Path;

fn job(yaml: &str) -> Job {
    let config = Config::parse(
        &format!("scrape_configs:\n- {}", yaml.replace('\n', "\n  ")),
        Path::new(""),
    );
    let config = config.unwrap_or_else(|e| panic!("{e}"));
    (*config.jobs[0]).clone()
}

fn found(pairs: &[(&str, &str)]) -> LabelSet {
    pairs.iter().copied().collect()
}

#[test]
fn defaults_of_the_job() {
    let job = job("job_name: a\nparams: {match: [x y, '&'], z: ['1']}");
    let target =
        target(&found(&[(ADDRESS, "h:1"), ("__meta_x", "y"), ("team", "t")]), &job).unwrap_or_else(|e| panic!("{e}"));
    let target = target.unwrap_or_else(|| panic!("dropped"));
    assert_eq!(target.url, "http://h:1/metrics?match=x+y&match=%26&z=1");
    assert_eq!(target.labels.to_string(), r#"{instance="h:1",job="a",team="t"}"#);
    assert_eq!(target.discovered.get("__meta_x"), "y");
    assert_eq!(target.discovered.get("__scrape_interval__"), "1m");
    assert_eq!((target.interval, target.timeout), (None, None));
}

#[test]
fn rules_change_where_and_how_a_target_is_scraped() {
    let job = job(
        "job_name: blackbox\nscrape_interval: 30s\nrelabel_configs:\n- {source_labels: [__address__], target_label: __param_target}\n\
         - {source_labels: [__param_target], target_label: instance}\n- {target_label: __address__, replacement: 'prober:9115'}\n\
         - {target_label: __metrics_path__, replacement: /probe}\n- {target_label: __scheme__, replacement: https}\n\
         - {target_label: __scrape_interval__, replacement: 5s}\n- {target_label: __scrape_timeout__, replacement: 2s}\n\
         - {source_labels: [drop], regex: 'yes', action: drop}",
    );
    let one = target(&found(&[(ADDRESS, "example.com")]), &job).unwrap_or_else(|e| panic!("{e}"));
    let one = one.unwrap_or_else(|| panic!("dropped"));
    assert_eq!(one.url, "https://prober:9115/probe?target=example.com");
    assert_eq!(one.labels.to_string(), r#"{instance="example.com",job="blackbox"}"#);
    assert_eq!(one.interval.map(|i| i.as_secs()), Some(5));
    assert_eq!(one.timeout.map(|t| t.as_secs()), Some(2));
    assert_eq!(target(&found(&[(ADDRESS, "h"), ("drop", "yes")]), &job), Ok(None));
}

#[test]
fn what_cannot_be_scraped_is_said() {
    let job =
        job("job_name: a\nrelabel_configs:\n- {source_labels: [to], regex: (.+), target_label: __scrape_timeout__}");
    let error = |pairs: &[(&str, &str)]| target(&found(pairs), &job).err().unwrap_or_default();
    assert_eq!(
        error(&[("x", "y")]),
        "it has no address: __address__ is empty after relabel_configs"
    );
    assert_eq!(
        error(&[(ADDRESS, "http://h")]),
        "\"http://h\" is no address like 10.0.0.1:9100"
    );
    assert_eq!(
        error(&[(ADDRESS, "h"), ("to", "5")]),
        "__scrape_timeout__ is \"5\" where a duration such as 15s is needed"
    );
    assert_eq!(
        error(&[(ADDRESS, "h"), ("to", "5m")]),
        "__scrape_timeout__ of h is longer than __scrape_interval__"
    );
}
