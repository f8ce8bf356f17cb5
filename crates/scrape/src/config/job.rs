//! One entry of `scrape_configs`.

use super::{ConfigError, Defaults, Discovery, Fields, HttpConfig};
use crate::relabel::Rule;
use std::{path::Path, time::Duration};

/// Samples of a page of which rules may drop some, where `sample_limit` is not larger.
const SAMPLES_BEFORE_RULES: u64 = 2_000_000;

/// What a page may have; a page beyond a limit fails as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the page, after decompression.
    pub body_bytes: u64,
    /// Samples that are left after `metric_relabel_configs`.
    pub samples: u64,
    /// Labels of a series, its name among them.
    pub labels: u64,
    /// Bytes of a label's name.
    pub label_name_bytes: u64,
    /// Bytes of a label's value.
    pub label_value_bytes: u64,
    /// Targets of the job after relabelling; more, and all of them fail.
    pub targets: u64,
    /// Dropped targets that are remembered to be shown.
    pub dropped_targets: u64,
    /// Buckets of a native histogram.
    pub buckets: u64,
}

impl Default for Limits {
    /// Far beyond what honest targets show, and far below what hurts a machine. 0 in the configuration takes a limit away.
    fn default() -> Self {
        Limits {
            body_bytes: 256 << 20,
            samples: SAMPLES_BEFORE_RULES,
            labels: 512,
            label_name_bytes: 4096,
            label_value_bytes: 65_536,
            targets: u64::MAX,
            dropped_targets: 1000,
            buckets: 4096,
        }
    }
}

impl Limits {
    pub(super) fn read(fields: &mut Fields, defaults: &Limits) -> Result<Limits, ConfigError> {
        let or = |given: Option<u64>, default| match given {
            None => default,
            Some(0) => u64::MAX,
            Some(limit) => limit,
        };
        Ok(Limits {
            body_bytes: or(fields.bytes("body_size_limit")?, defaults.body_bytes),
            samples: or(fields.count("sample_limit")?, defaults.samples),
            labels: or(fields.count("label_limit")?, defaults.labels),
            label_name_bytes: or(fields.count("label_name_length_limit")?, defaults.label_name_bytes),
            label_value_bytes: or(fields.count("label_value_length_limit")?, defaults.label_value_bytes),
            targets: or(fields.count("target_limit")?, defaults.targets),
            dropped_targets: or(fields.count("keep_dropped_targets")?, defaults.dropped_targets),
            buckets: or(fields.count("native_histogram_bucket_limit")?, defaults.buckets),
        })
    }
}

/// A format in which a page may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Protocol buffers, the only one with native histograms.
    Proto,
    /// OpenMetrics text 1.0.0.
    OpenMetrics1,
    /// OpenMetrics text 0.0.1.
    OpenMetrics0,
    /// Prometheus text 1.0.0: UTF-8 names in quotes.
    Text1,
    /// Prometheus text 0.0.4.
    Text,
}

const PROTOCOLS: [(&str, Protocol); 5] = [
    ("PrometheusProto", Protocol::Proto),
    ("OpenMetricsText1.0.0", Protocol::OpenMetrics1),
    ("OpenMetricsText0.0.1", Protocol::OpenMetrics0),
    ("PrometheusText1.0.0", Protocol::Text1),
    ("PrometheusText0.0.4", Protocol::Text),
];

impl Protocol {
    fn read(word: &str) -> Result<Protocol, String> {
        let found = PROTOCOLS.iter().find(|(name, _)| *name == word);
        let known: Vec<_> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
        found
            .map(|(_, protocol)| *protocol)
            .ok_or_else(|| format!("{word:?} is no protocol; there are {}", known.join(", ")))
    }

    pub(super) fn read_list(fields: &mut Fields) -> Result<Option<Vec<Protocol>>, ConfigError> {
        let words = fields.texts("scrape_protocols")?;
        let wrong = |message: String| fields.error("scrape_protocols", message);
        let list: Vec<Protocol> = words
            .iter()
            .map(|w| Protocol::read(w))
            .collect::<Result<_, _>>()
            .map_err(wrong)?;
        Ok(Some(list).filter(|list| !list.is_empty()))
    }
}

/// How a group of targets is found, scraped and named.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Its name, and the label `job` of its targets.
    pub name: String,
    /// Time between two scrapes of a target.
    pub interval: Duration,
    /// Time that a scrape may take; at most the interval.
    pub timeout: Duration,
    /// Path of the page.
    pub metrics_path: String,
    /// `http` or `https`.
    pub scheme: String,
    /// Parameters of the query.
    pub params: Vec<(String, Vec<String>)>,
    /// Labels of the page win over those of the target.
    pub honor_labels: bool,
    /// Timestamps of the page count.
    pub honor_timestamps: bool,
    /// Series with timestamps of their own get staleness markers too.
    pub track_timestamps_staleness: bool,
    /// Formats to ask for, the best first.
    pub protocols: Vec<Protocol>,
    /// The format of pages that do not say which they have.
    pub fallback: Protocol,
    /// Take native histograms.
    pub native_histograms: bool,
    /// Take the classic buckets of histograms that are native too.
    pub classic_histograms: bool,
    /// Ask for gzip.
    pub compression: bool,
    /// What a page may have.
    pub limits: Limits,
    /// Rules for targets.
    pub relabel: Vec<Rule>,
    /// Rules for series.
    pub metric_relabel: Vec<Rule>,
    /// How the page is fetched.
    pub http: HttpConfig,
    /// Where targets come from.
    pub discovery: Vec<Discovery>,
    /// Report limits and sizes of scrapes as series too.
    pub extra_metrics: bool,
    /// Differences of counters are exact: one that appears begins with a 0 at the time of the scrape before, and a target that
    /// goes is scraped once more.
    pub exact: bool,
    /// Bounds of buckets and quantiles are stored as OpenMetrics writes them (`1.0`), however the page does.
    pub canonical_bounds: bool,
}

impl Job {
    /// A job with defaults: what does not come from a file.
    pub fn named(name: &str) -> Job {
        Job {
            name: name.to_owned(),
            interval: super::SCRAPE_INTERVAL,
            timeout: super::SCRAPE_TIMEOUT,
            metrics_path: "/metrics".to_owned(),
            scheme: "http".to_owned(),
            params: Vec::new(),
            honor_labels: false,
            honor_timestamps: true,
            track_timestamps_staleness: false,
            protocols: default_protocols(false),
            fallback: Protocol::Text,
            native_histograms: false,
            classic_histograms: false,
            compression: true,
            limits: Limits::default(),
            relabel: Vec::new(),
            metric_relabel: Vec::new(),
            http: HttpConfig::default(),
            discovery: Vec::new(),
            extra_metrics: false,
            exact: false,
            canonical_bounds: false,
        }
    }

    /// Samples that a page may have before rules drop some of them. All of them are in memory for a moment.
    pub(crate) fn samples_max(&self) -> u64 {
        match self.metric_relabel.is_empty() {
            true => self.limits.samples,
            false => self.limits.samples.max(SAMPLES_BEFORE_RULES),
        }
    }

    pub(super) fn read(mut fields: Fields, defaults: &Defaults, folder: &Path) -> Result<Job, ConfigError> {
        let Some(name) = fields.text("job_name")?.filter(|name| !name.is_empty()) else {
            return Err(fields.error("job_name", "every job needs a name"));
        };
        let mut job = Job::named(&name);
        job.canonical_bounds = true;
        let interval = fields.duration("scrape_interval")?.filter(|d| !d.is_zero());
        job.interval = interval.unwrap_or(defaults.interval);
        let timeout = fields.duration("scrape_timeout")?.filter(|d| !d.is_zero());
        if timeout.is_some_and(|timeout| timeout > job.interval) {
            return Err(fields.error("scrape_timeout", "must not be longer than scrape_interval"));
        }
        job.timeout = timeout.unwrap_or(defaults.timeout.min(job.interval));
        job.metrics_path = fields.text("metrics_path")?.unwrap_or(job.metrics_path);
        job.scheme = scheme(&mut fields)?;
        job.params = fields.text_lists("params")?;
        job.honor_labels = fields.flag("honor_labels")?.unwrap_or(false);
        job.honor_timestamps = fields.flag("honor_timestamps")?.unwrap_or(true);
        job.track_timestamps_staleness = fields.flag("track_timestamps_staleness")?.unwrap_or(false);
        job.native_histograms = fields
            .flag("scrape_native_histograms")?
            .unwrap_or(defaults.native_histograms);
        let classic = fields.flag("always_scrape_classic_histograms")?;
        let classic = classic.or(fields.flag("scrape_classic_histograms")?);
        job.classic_histograms = classic.unwrap_or(defaults.classic_histograms);
        let protocols = Protocol::read_list(&mut fields)?.or_else(|| defaults.protocols.clone());
        job.protocols = protocols.unwrap_or_else(|| default_protocols(job.native_histograms));
        let fallback = fields.text("fallback_scrape_protocol")?;
        let fallback = fallback.map(|word| Protocol::read(&word)).transpose();
        let fallback = fallback.map_err(|m| fields.error("fallback_scrape_protocol", m))?;
        job.fallback = fallback.unwrap_or(Protocol::Text);
        job.compression = fields.flag("enable_compression")?.unwrap_or(true);
        job.extra_metrics = fields.flag("extra_scrape_metrics")?.unwrap_or(defaults.extra_metrics);
        job.limits = Limits::read(&mut fields, &defaults.limits)?;
        job.relabel = Rule::read_all(fields.list("relabel_configs")?)?;
        job.metric_relabel = Rule::read_all(fields.list("metric_relabel_configs")?)?;
        job.http = HttpConfig::read(&mut fields, folder)?;
        job.discovery = Discovery::read_all(&mut fields, folder)?;
        refuse_naming(&mut fields)?;
        fields.unsupported(
            "convert_classic_histograms_to_nhcb",
            "classic histograms stay what they are",
        )?;
        fields.unsupported(
            "native_histogram_min_bucket_factor",
            "histograms are kept at the resolution they have",
        )?;
        fields.unsupported("scrape_failure_log_file", "failures stand in /api/v1/targets")?;
        fields.finish()?;
        Ok(job)
    }
}

pub(super) fn scheme(fields: &mut Fields) -> Result<String, ConfigError> {
    match fields.text("scheme")?.map(|s| s.to_lowercase()) {
        None => Ok("http".to_owned()),
        Some(scheme) if scheme == "http" || scheme == "https" => Ok(scheme),
        Some(other) => Err(fields.error("scheme", format!("{other:?} is neither http nor https"))),
    }
}

/// Names are UTF-8, as in Prometheus 3; the older rules would need escaping.
pub(super) fn refuse_naming(fields: &mut Fields) -> Result<(), ConfigError> {
    for (field, only) in [
        ("metric_name_validation_scheme", "utf8"),
        ("metric_name_escaping_scheme", "allow-utf-8"),
    ] {
        if let Some(word) = fields.text(field)?.filter(|word| word != only) {
            return Err(fields.error(field, format!("{word:?} is not supported; there is {only:?}")));
        }
    }
    Ok(())
}

fn default_protocols(native_histograms: bool) -> Vec<Protocol> {
    let text = [
        Protocol::OpenMetrics1,
        Protocol::OpenMetrics0,
        Protocol::Text1,
        Protocol::Text,
    ];
    match native_histograms {
        true => [&[Protocol::Proto][..], &text].concat(),
        false => text.to_vec(),
    }
}
