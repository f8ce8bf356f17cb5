//! What `remote_write` and `alerting` say, as the sender and the rules take it.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use tokio_util::sync::CancellationToken;
use weir_promql::remote::http::{Credentials, Secret, Settings};
use weir_promql::remote::write::{self, Sender};
use weir_promql::rules::{self, Alertmanager};
use weir_scrape::config::{Authorization, Config, HttpConfig, RemoteWrite};
use weir_scrape::relabel::{self, LabelSet};
use weir_series::Labels;
use weir_series::remote_write::Version;

/// One sender an entry of `remote_write`.
pub fn senders(config: &Config) -> Result<Vec<Sender>> {
    let external = external_labels(config);
    let make = |remote: &RemoteWrite| Ok(Sender::new(sender(remote, external.clone()))?);
    config.remote_write.iter().map(make).collect()
}

/// Sends until `shutdown`.
pub async fn run(senders: Vec<Sender>, shutdown: CancellationToken) {
    let mut all = tokio::task::JoinSet::new();
    for sender in senders {
        let shutdown = shutdown.clone();
        all.spawn(async move { sender.run(shutdown).await });
    }
    all.join_all().await;
}

/// Settings of all groups of rules.
pub fn rules(config: &Config, address: SocketAddr) -> rules::Config {
    let make = |one: &weir_scrape::config::Alertmanager| Alertmanager {
        url: one.url.clone(),
        http: settings(&one.http),
        timeout: one.timeout,
    };
    rules::Config {
        interval: config.global.evaluation_interval,
        external_labels: external_labels(config),
        external_url: format!("http://{address}"),
        alertmanagers: config.alertmanagers.iter().map(make).collect(),
        ..rules::Config::default()
    }
}

fn external_labels(config: &Config) -> Labels {
    Labels::new(
        config
            .global
            .external_labels
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str())),
    )
}

fn sender(remote: &RemoteWrite, external_labels: Labels) -> write::Config {
    let usual = write::Config::new(remote.url.clone());
    let queue = &remote.queue;
    let rules = remote.relabel.clone();
    let relabel: write::Relabel = Arc::new(move |labels| {
        let mut set: LabelSet = labels.iter().map(|l| (l.name.as_ref(), l.value.as_ref())).collect();
        relabel::apply(&rules, &mut set).then(|| set.to_labels())
    });
    write::Config {
        name: remote.name.clone(),
        version: if remote.version_2 { Version::V2 } else { Version::V1 },
        http: settings(&remote.http),
        timeout: remote.timeout,
        external_labels,
        relabel: Some(relabel).filter(|_| !remote.relabel.is_empty()),
        shards: usual
            .shards
            .max(queue.min_shards.unwrap_or(1))
            .min(queue.max_shards.unwrap_or(usize::MAX)),
        capacity: queue.capacity.unwrap_or(usual.capacity),
        max_samples_per_send: queue.max_samples_per_send.unwrap_or(usual.max_samples_per_send),
        batch_deadline: queue.batch_deadline.unwrap_or(usual.batch_deadline),
        min_backoff: queue.min_backoff.unwrap_or(usual.min_backoff),
        max_backoff: queue.max_backoff.unwrap_or(usual.max_backoff),
        metadata_interval: remote.metadata_interval,
        metadata_per_send: remote.metadata_per_send.unwrap_or(usual.metadata_per_send),
        ..usual
    }
}

fn settings(http: &HttpConfig) -> Settings {
    let credentials = match &http.authorization {
        None => Credentials::None,
        Some(Authorization::Inline { kind, credentials }) => Credentials::Token {
            kind: kind.clone(),
            secret: Secret::Text(credentials.clone()),
        },
        Some(Authorization::File { kind, path }) => Credentials::Token {
            kind: kind.clone(),
            secret: Secret::File(path.clone()),
        },
        Some(Authorization::Basic { user, password }) => Credentials::Basic {
            user: user.clone(),
            password: Secret::Text(password.clone()),
        },
        Some(Authorization::BasicFile { user, path }) => Credentials::Basic {
            user: user.clone(),
            password: Secret::File(path.clone()),
        },
    };
    Settings {
        credentials,
        headers: http.headers.clone(),
        follow_redirects: http.follow_redirects,
        tls: http.tls.clone(),
    }
}
