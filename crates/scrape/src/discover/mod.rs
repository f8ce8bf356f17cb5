//! Where targets come from.
//!
//! Every source of a job publishes its whole list of label sets; [`run`] makes targets of all of them together and publishes
//! those. Whoever reads sees the newest.

mod file;
mod http;
pub mod kubernetes;
mod populate;

use crate::{
    Dropped, Target, Targets,
    config::{Discovery, Group, Job},
    relabel::LabelSet,
};
use std::{future::Future, pin::Pin, sync::Arc};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Where a source puts its list.
pub type Sender = watch::Sender<Arc<[Target]>>;
/// Where the scraper finds it.
pub type Receiver = watch::Receiver<Arc<[Target]>>;

/// Targets that never change. The sender must live as long as the list is wanted.
pub fn fixed(targets: Vec<Target>) -> (Sender, Receiver) {
    watch::channel(targets.into())
}

/// A channel for a source that has nothing to say yet.
pub fn channel() -> (Sender, Receiver) {
    fixed(Vec::new())
}

/// Gives the client of a cluster: by a kubeconfig, or by what the process runs in. Asked for only by jobs that need one.
pub type Clusters = Arc<dyn Fn(Option<std::path::PathBuf>) -> ClusterFuture + Send + Sync>;
/// See [`Clusters`].
pub type ClusterFuture = Pin<Box<dyn Future<Output = Result<kube::Client, String>> + Send>>;

/// The label sets that a source has found, each a target before relabelling.
pub(crate) type Found = Arc<Vec<LabelSet>>;

/// The label that holds a target's address until relabelling is done.
pub(crate) const ADDRESS: &str = "__address__";

/// Follows all sources of a job until `stop`.
pub(crate) async fn run(job: Arc<Job>, clusters: Clusters, out: Sender, targets: Targets, stop: CancellationToken) {
    let (changed, mut changes) = watch::channel(());
    let mut sources: Vec<watch::Receiver<Found>> = Vec::new();
    for source in &job.discovery {
        let (found, receiver) = watch::channel(Found::default());
        sources.push(receiver);
        let publish = Publish {
            found,
            changed: changed.clone(),
        };
        let stop = stop.clone();
        match source {
            Discovery::Static(groups) => publish.set(groups.iter().flat_map(label_sets).collect()),
            Discovery::File { files, refresh } => {
                tokio::spawn(file::run(files.clone(), *refresh, publish, stop));
            }
            Discovery::Http { url, refresh, http } => {
                tokio::spawn(http::run(url.clone(), *refresh, (**http).clone(), publish, stop));
            }
            Discovery::Kubernetes(config) => {
                tokio::spawn(kubernetes::sd::run(config.clone(), clusters.clone(), publish, stop));
            }
        }
    }
    loop {
        changes.borrow_and_update();
        let found: Vec<Found> = sources.iter().map(|source| source.borrow().clone()).collect();
        publish(&job, &found, &out, &targets);
        tokio::select! {
            () = stop.cancelled() => return,
            _ = changes.changed() => {}
        }
    }
}

fn publish(job: &Job, found: &[Found], out: &Sender, targets: &Targets) {
    let mut active = Vec::new();
    let mut dropped = Dropped::default();
    for labels in found.iter().flat_map(|found| found.iter()) {
        match populate::target(labels, job) {
            Ok(Some(target)) => active.push(target),
            Ok(None) => {
                dropped.count += 1;
                if (dropped.shown.len() as u64) < job.limits.dropped_targets {
                    dropped.shown.push(populate::discovered(labels, job).to_labels());
                }
            }
            Err(error) => tracing::warn!(job = job.name, %error, "a target cannot be scraped"),
        }
    }
    if active.len() as u64 > job.limits.targets {
        let (count, limit) = (active.len(), job.limits.targets);
        tracing::error!(
            job = job.name,
            count,
            limit,
            "more targets than target_limit allows: none is scraped"
        );
        active.clear();
    }
    active.sort_by_key(Target::identity);
    active.dedup_by(|a, b| a.identity() == b.identity());
    targets.set_dropped(&job.name, dropped);
    out.send_replace(active.into());
}

/// Where a source puts what it has found.
pub(crate) struct Publish {
    found: watch::Sender<Found>,
    changed: watch::Sender<()>,
}

impl Publish {
    pub fn set(&self, labels: Vec<LabelSet>) {
        let differs = **self.found.borrow() != labels;
        if differs {
            self.found.send_replace(Arc::new(labels));
            self.changed.send_replace(());
        }
    }
}

/// The label sets of a group.
pub(crate) fn label_sets(group: &Group) -> impl Iterator<Item = LabelSet> {
    group.targets.iter().map(|address| {
        let mut labels: LabelSet = group.labels.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        labels.set(ADDRESS, address.as_str());
        labels
    })
}
