//! Where samples and alerts go besides the store: `remote_write` and `alerting`.

use super::{ConfigError, Fields, HttpConfig, discovery::read_group, job::scheme};
use crate::relabel::Rule;
use std::{path::Path, time::Duration};

/// One entry of `remote_write`.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteWrite {
    /// Where samples are sent.
    pub url: String,
    /// What it is called in figures; empty for its URL.
    pub name: String,
    /// Version 2 of the protocol.
    pub version_2: bool,
    /// Time that a request may take.
    pub timeout: Duration,
    /// How the server is reached.
    pub http: HttpConfig,
    /// Rules for series on their way out.
    pub relabel: Vec<Rule>,
    /// `queue_config`.
    pub queue: Queue,
    /// Between two times that metadata is sent; None where it is not.
    pub metadata_interval: Option<Duration>,
    /// Families in one request of metadata.
    pub metadata_per_send: Option<usize>,
}

/// `queue_config`; None where a field is not given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Queue {
    /// Queues that are worked off beside one another: at least so many.
    pub min_shards: Option<usize>,
    /// And at most so many.
    pub max_shards: Option<usize>,
    /// Samples that one of them holds.
    pub capacity: Option<usize>,
    /// Samples in one request.
    pub max_samples_per_send: Option<usize>,
    /// How long a sample waits for others.
    pub batch_deadline: Option<Duration>,
    /// The first wait before a request is sent again.
    pub min_backoff: Option<Duration>,
    /// The longest wait.
    pub max_backoff: Option<Duration>,
}

/// One Alertmanager.
#[derive(Clone, Debug, PartialEq)]
pub struct Alertmanager {
    /// Scheme, address and path prefix.
    pub url: String,
    /// Time that a request may take.
    pub timeout: Duration,
    /// How it is reached.
    pub http: HttpConfig,
}

const METADATA_INTERVAL: Duration = Duration::from_secs(60);

/// Reads `remote_write`.
pub(super) fn read_remote_write(fields: &mut Fields, folder: &Path) -> Result<Vec<RemoteWrite>, ConfigError> {
    let read = |(path, value)| read_one(Fields::new(path, value)?, folder);
    fields.list("remote_write")?.into_iter().map(read).collect()
}

/// A duration; one of zero stands for the usual one, as with `scrape_interval`.
fn some_time(fields: &mut Fields, field: &'static str) -> Result<Option<Duration>, ConfigError> {
    Ok(fields.duration(field)?.filter(|time| !time.is_zero()))
}

fn read_one(mut fields: Fields, folder: &Path) -> Result<RemoteWrite, ConfigError> {
    let url = fields.text("url")?.unwrap_or_default();
    if !url.starts_with("http://") && !url.starts_with("https://") {
        return Err(fields.error("url", format!("{url:?} must begin with http:// or https://")));
    }
    let version_2 = match fields.text("protobuf_message")?.as_deref() {
        None | Some("prometheus.WriteRequest") => false,
        Some("io.prometheus.write.v2.Request") => true,
        Some(other) => {
            let known = "there are prometheus.WriteRequest and io.prometheus.write.v2.Request";
            return Err(fields.error(
                "protobuf_message",
                format!("{other:?} is no message of the protocol; {known}"),
            ));
        }
    };
    let mut http = HttpConfig::read(&mut fields, folder)?;
    http.headers.extend(fields.pairs("headers")?);
    let queue = read_queue(&mut fields)?;
    let (metadata_interval, metadata_per_send) = read_metadata(&mut fields)?;
    let remote = RemoteWrite {
        name: fields.text("name")?.unwrap_or_default(),
        timeout: some_time(&mut fields, "remote_timeout")?.unwrap_or(Duration::from_secs(30)),
        relabel: Rule::read_all(fields.list("write_relabel_configs")?)?,
        version_2,
        http,
        queue,
        metadata_interval,
        metadata_per_send,
        url,
    };
    fields.always(
        "send_native_histograms",
        true,
        "they are sent; write_relabel_configs can drop them",
    )?;
    fields.always("send_exemplars", false, "there are no exemplars to send")?;
    fields.always(
        "round_robin_dns",
        false,
        "connections go to the first address that takes them",
    )?;
    for field in ["azuread", "google_iam"] {
        fields.unsupported(field, "use authorization with credentials_file")?;
    }
    fields.finish()?;
    Ok(remote)
}

fn read_queue(fields: &mut Fields) -> Result<Queue, ConfigError> {
    let Some(mut queue) = fields.mapping("queue_config")? else {
        return Ok(Queue::default());
    };
    let mut count = |field| -> Result<Option<usize>, ConfigError> {
        Ok(queue
            .count(field)?
            .filter(|n| *n > 0)
            .map(|n| usize::try_from(n).unwrap_or(usize::MAX)))
    };
    let (min_shards, max_shards) = (count("min_shards")?, count("max_shards")?);
    let capacity = count("capacity")?;
    let max_samples_per_send = count("max_samples_per_send")?;
    if min_shards.zip(max_shards).is_some_and(|(min, max)| min > max) {
        return Err(queue.error("min_shards", "must not be larger than max_shards"));
    }
    let read = Queue {
        min_shards,
        max_shards,
        capacity,
        max_samples_per_send,
        batch_deadline: some_time(&mut queue, "batch_send_deadline")?,
        min_backoff: some_time(&mut queue, "min_backoff")?,
        max_backoff: some_time(&mut queue, "max_backoff")?,
    };
    if read
        .min_backoff
        .zip(read.max_backoff)
        .is_some_and(|(min, max)| min > max)
    {
        return Err(queue.error("min_backoff", "must not be longer than max_backoff"));
    }
    queue.always("retry_on_http_429", true, "what is refused so is sent again later")?;
    queue.unsupported("sample_age_limit", "a full queue drops its oldest samples")?;
    queue.finish()?;
    Ok(read)
}

/// How often metadata is sent, if at all, and how much of it at once.
fn read_metadata(fields: &mut Fields) -> Result<(Option<Duration>, Option<usize>), ConfigError> {
    let Some(mut metadata) = fields.mapping("metadata_config")? else {
        return Ok((Some(METADATA_INTERVAL), None));
    };
    let send = metadata.flag("send")?.unwrap_or(true);
    let interval = some_time(&mut metadata, "send_interval")?.unwrap_or(METADATA_INTERVAL);
    let at_once = metadata.count("max_samples_per_send")?.filter(|n| *n > 0);
    metadata.finish()?;
    let at_once = at_once.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    Ok((Some(interval).filter(|_| send), at_once))
}

/// Reads `alerting`.
pub(super) fn read_alerting(fields: &mut Fields, folder: &Path) -> Result<Vec<Alertmanager>, ConfigError> {
    let Some(mut alerting) = fields.mapping("alerting")? else {
        return Ok(Vec::new());
    };
    alerting.unsupported("alert_relabel_configs", "write the labels in the rules")?;
    let mut all = Vec::new();
    for (path, value) in alerting.list("alertmanagers")? {
        let mut one = Fields::new(path, value)?;
        let scheme = scheme(&mut one)?;
        let prefix = one.text("path_prefix")?.unwrap_or_default();
        let prefix = prefix.trim_matches('/');
        let timeout = some_time(&mut one, "timeout")?.unwrap_or(Duration::from_secs(10));
        if let Some(version) = one.text("api_version")?.filter(|version| version != "v2") {
            return Err(one.error("api_version", format!("{version:?} is not supported; there is v2")));
        }
        let http = HttpConfig::read(&mut one, folder)?;
        for (path, value) in one.list("static_configs")? {
            for target in read_group(&path, value)?.targets {
                let url = format!("{scheme}://{target}/{prefix}").trim_end_matches('/').to_owned();
                let http = http.clone();
                all.push(Alertmanager { url, timeout, http });
            }
        }
        for field in ["relabel_configs", "alert_relabel_configs"] {
            one.unsupported(field, "name the Alertmanagers in static_configs")?;
        }
        for field in super::discovery::SOURCES {
            one.unsupported(
                field,
                "name the Alertmanagers in static_configs; a DNS name may stand for many",
            )?;
        }
        one.finish()?;
    }
    alerting.finish()?;
    Ok(all)
}
