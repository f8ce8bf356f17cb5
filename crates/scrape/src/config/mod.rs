//! `prometheus.yml`: the text of a file goes in, a checked [`Config`] comes out, or the field that is wrong.
//!
//! Knows what can be written, not what is done with it.

mod client;
mod discovery;
mod environment;
mod fields;
mod job;
mod remote;
mod secrets;
pub mod units;

pub use client::{Authorization, HttpConfig};
pub(crate) use discovery::read_group;
pub use discovery::{Discovery, Group, KubernetesSd, Role, Selector};
pub(crate) use fields::Fields;
pub use job::{Job, Limits, Protocol};
pub use remote::{Alertmanager, Queue, RemoteWrite};

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use weir_yaml::Node;

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The file, where it is known.
    pub file: Option<PathBuf>,
    /// The line, from 1, where it is known.
    pub line: Option<usize>,
    /// The field, such as `scrape_configs[0].relabel_configs[2].action`; empty for the file as a whole.
    pub field: String,
    /// What is wrong with it and what would be right.
    pub message: String,
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, "{}:{line}: ", file.display())?,
            (Some(file), None) => write!(f, "{}: ", file.display())?,
            (None, Some(line)) => write!(f, "line {line}: ")?,
            (None, None) => {}
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

impl ConfigError {
    /// `line` 0: it is not known.
    pub(crate) fn new(field: &str, line: usize, message: impl Into<String>) -> Self {
        ConfigError {
            file: None,
            line: (line > 0).then_some(line),
            field: field.to_owned(),
            message: message.into(),
        }
    }
}

/// `global`.
#[derive(Clone, Debug, PartialEq)]
pub struct Global {
    /// Time between two scrapes of a target, where the job says nothing.
    pub scrape_interval: Duration,
    /// Time that a scrape may take, where the job says nothing.
    pub scrape_timeout: Duration,
    /// Time between two evaluations of a group of rules, where the group says nothing.
    pub evaluation_interval: Duration,
    /// Added to what leaves for other systems: remote write, alerts, federation.
    pub external_labels: BTreeMap<String, String>,
}

/// A configuration file, read and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `global`.
    pub global: Global,
    /// `scrape_configs`, with those of `scrape_config_files`.
    pub jobs: Vec<Arc<Job>>,
    /// `rule_files`: paths and patterns, relative ones against the folder of the file.
    pub rule_files: Vec<PathBuf>,
    /// `alerting`: who hears of alerts.
    pub alertmanagers: Vec<Alertmanager>,
    /// `remote_write`: where samples go besides the store.
    pub remote_write: Vec<RemoteWrite>,
    /// `storage.tsdb.retention.time`, where it is given.
    pub retention: Option<Duration>,
    /// `storage.tsdb.retention.size`, in bytes, where it is given.
    pub retention_bytes: Option<u64>,
    /// What the file says, as YAML, without the secrets in it.
    pub text: String,
}

const SCRAPE_INTERVAL: Duration = Duration::from_secs(60);
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// Where it cannot be read, is no YAML, or says something that is wrong or not supported.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let in_file = |error: ConfigError| ConfigError {
            file: error.file.or_else(|| Some(path.to_owned())),
            ..error
        };
        let text = read(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, folder).map_err(in_file)
    }

    /// Reads a text; relative paths in it are against `folder`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, folder: &Path) -> Result<Config, ConfigError> {
        let node = yaml(text)?;
        let mut shown = node.clone();
        secrets::hide(&mut shown);
        let shown = serde_saphyr::to_string(&shown)
            .map_err(|error| ConfigError::new("", 0, format!("cannot be shown as YAML: {error}")))?;
        let mut fields = Fields::new("", node)?;
        let (global, defaults) = read_global(fields.mapping("global")?)?;
        let mut jobs = Vec::new();
        for (path, value) in fields.list("scrape_configs")? {
            jobs.push(Job::read(Fields::new(path, value)?, &defaults, folder)?);
        }
        for pattern in fields.texts("scrape_config_files")? {
            for file in matching_files(&folder.join(&pattern)) {
                jobs.extend(read_jobs_file(&file, &defaults)?);
            }
        }
        for (at, job) in jobs.iter().enumerate() {
            if jobs[..at].iter().any(|other| other.name == job.name) {
                let message = format!("{:?} is the name of two jobs: names must differ", job.name);
                return Err(fields.error("scrape_configs", message));
            }
        }
        let rule_files = fields.texts("rule_files")?.iter().map(|f| folder.join(f)).collect();
        let alertmanagers = remote::read_alerting(&mut fields, folder)?;
        let remote_write = remote::read_remote_write(&mut fields, folder)?;
        let (retention, retention_bytes) = read_storage(&mut fields)?;
        fields.unsupported("remote_read", "a store answers from what it holds itself")?;
        fields.unsupported("tracing", "the store sends no traces of its own")?;
        fields.unsupported("otlp", "the store takes no OTLP: send by remote write")?;
        fields.unsupported("runtime", "the store has no garbage collector to set")?;
        fields.finish()?;
        Ok(Config {
            global,
            jobs: jobs.into_iter().map(Arc::new).collect(),
            rule_files,
            alertmanagers,
            remote_write,
            retention,
            retention_bytes,
            text: shown,
        })
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| ConfigError {
        file: Some(path.to_owned()),
        line: None,
        field: String::new(),
        message: format!("cannot be read: {error}"),
    })
}

pub(crate) fn yaml(text: &str) -> Result<Node, ConfigError> {
    weir_yaml::read(text).map_err(|error| ConfigError::new("", error.line, error.message))
}

/// What jobs take from `global`.
#[derive(Clone, Debug)]
pub(crate) struct Defaults {
    pub interval: Duration,
    pub timeout: Duration,
    pub limits: Limits,
    pub protocols: Option<Vec<Protocol>>,
    pub native_histograms: bool,
    pub extra_metrics: bool,
    pub classic_histograms: bool,
}

fn read_global(fields: Option<Fields>) -> Result<(Global, Defaults), ConfigError> {
    let mut fields = match fields {
        Some(fields) => fields,
        None => Fields::new("global", Node::plain(0, ""))?,
    };
    let interval = fields.duration("scrape_interval")?.filter(|d| !d.is_zero());
    let interval = interval.unwrap_or(SCRAPE_INTERVAL);
    let timeout = fields.duration("scrape_timeout")?.filter(|d| !d.is_zero());
    if timeout.is_some_and(|timeout| timeout > interval) {
        return Err(fields.error("scrape_timeout", "must not be longer than scrape_interval"));
    }
    let evaluation = fields.duration("evaluation_interval")?.filter(|d| !d.is_zero());
    let mut external_labels = fields.pairs("external_labels")?;
    // A label without a value is no label.
    external_labels.retain(|_, value| !value.is_empty());
    let global = Global {
        scrape_interval: interval,
        scrape_timeout: timeout.unwrap_or(SCRAPE_TIMEOUT.min(interval)),
        evaluation_interval: evaluation.unwrap_or(SCRAPE_INTERVAL),
        external_labels,
    };
    let defaults = Defaults {
        interval,
        timeout: global.scrape_timeout,
        limits: Limits::read(&mut fields, &Limits::default())?,
        protocols: Protocol::read_list(&mut fields)?,
        native_histograms: fields.flag("scrape_native_histograms")?.unwrap_or(false),
        extra_metrics: fields.flag("extra_scrape_metrics")?.unwrap_or(false),
        classic_histograms: fields.flag("always_scrape_classic_histograms")?.unwrap_or(false),
    };
    job::refuse_naming(&mut fields)?;
    fields.take("query_log_file").map_or(Ok(()), |_| {
        Err(fields.error("query_log_file", "is not supported; the store keeps no log of queries"))
    })?;
    fields.unsupported("scrape_failure_log_file", "failures stand in /api/v1/targets")?;
    if fields
        .duration("rule_query_offset")?
        .is_some_and(|offset| !offset.is_zero())
    {
        return Err(fields.error(
            "rule_query_offset",
            "is not supported; there is query_offset in each group of rules",
        ));
    }
    fields.finish()?;
    Ok((global, defaults))
}

/// How long and how much is kept.
fn read_storage(fields: &mut Fields) -> Result<(Option<Duration>, Option<u64>), ConfigError> {
    let Some(mut storage) = fields.mapping("storage")? else {
        return Ok((None, None));
    };
    let mut kept = (None, None);
    if let Some(mut tsdb) = storage.mapping("tsdb")? {
        if let Some(mut retention) = tsdb.mapping("retention")? {
            kept = (retention.duration("time")?, retention.bytes("size")?);
            retention.finish()?;
        }
        tsdb.unsupported("out_of_order_time_window", "samples must come in the order of time")?;
        tsdb.finish()?;
    }
    if let Some(mut exemplars) = storage.mapping("exemplars")? {
        if exemplars.count("max_exemplars")?.is_some_and(|kept| kept > 0) {
            return Err(exemplars.error("max_exemplars", "is not supported; no exemplars are kept: write 0"));
        }
        exemplars.finish()?;
    }
    storage.finish()?;
    Ok(kept)
}

fn read_jobs_file(path: &Path, defaults: &Defaults) -> Result<Vec<Job>, ConfigError> {
    let in_file = |error: ConfigError| ConfigError {
        file: Some(path.to_owned()),
        ..error
    };
    let read = || {
        let mut fields = Fields::new("", yaml(&read(path)?)?)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let jobs = fields.list("scrape_configs")?.into_iter();
        let jobs = jobs.map(|(path, node)| Job::read(Fields::new(path, node)?, defaults, folder));
        let jobs = jobs.collect::<Result<Vec<_>, _>>()?;
        fields.finish()?;
        Ok(jobs)
    };
    read().map_err(in_file)
}

/// The files that a path names; `*` in its last part stands for anything.
pub fn matching_files(pattern: &Path) -> Vec<PathBuf> {
    let name = pattern.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if !name.contains('*') {
        return vec![pattern.to_owned()];
    }
    let folder = pattern.parent().unwrap_or(Path::new("."));
    let parts: Vec<&str> = name.split('*').collect();
    let fits = |name: &str| {
        let mut rest = name;
        let last = parts.len() - 1;
        parts.iter().enumerate().all(|(at, part)| match at {
            0 => rest.strip_prefix(part).map(|r| rest = r).is_some(),
            _ if at == last => rest.ends_with(part),
            _ => rest
                .find(part)
                .map(|found| rest = &rest[found + part.len()..])
                .is_some(),
        })
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .filter(|entry| fits(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests;
