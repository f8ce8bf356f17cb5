//! Follows a configuration: one pool and its discovery a job, started, left alone or ended when the configuration changes.

use crate::{
    Targets,
    config::{Config, Job},
    discover::{self, Clusters},
    pool,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use weir_series::Append;

struct Running {
    job: Arc<Job>,
    stop: CancellationToken,
    /// Whether its series end with it.
    marks: Arc<AtomicBool>,
    pool: JoinHandle<()>,
}

impl Running {
    async fn end(self, marks: bool) {
        self.marks.store(marks, Relaxed);
        self.stop.cancel();
        if let Err(error) = self.pool.await {
            tracing::error!(job = self.job.name, %error, "the pool of a job failed");
        }
    }
}

/// Scrapes what the newest configuration says, until `shutdown`. A job that a new configuration leaves as it was goes on
/// undisturbed; one that is gone ends its series.
pub async fn run(
    mut config: watch::Receiver<Arc<Config>>,
    clusters: Clusters,
    store: Arc<dyn Append>,
    targets: Targets,
    shutdown: CancellationToken,
) {
    let mut running: BTreeMap<String, Running> = BTreeMap::new();
    loop {
        let wanted = config.borrow_and_update().clone();
        let is_same = |old: &Running| wanted.jobs.contains(&old.job);
        let (kept, over): (BTreeMap<_, _>, BTreeMap<_, _>) = running.into_iter().partition(|(_, old)| is_same(old));
        running = kept;
        for (name, old) in over {
            // Where another version follows, its scrapes continue the series.
            let follows = wanted.jobs.iter().any(|job| job.name == name);
            old.end(!follows).await;
            targets.remove_pool(&name);
        }
        for job in &wanted.jobs {
            if !running.contains_key(&job.name) {
                let started = start(job.clone(), clusters.clone(), store.clone(), targets.clone());
                running.insert(job.name.clone(), started);
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            changed = config.changed() => if changed.is_err() {
                shutdown.cancelled().await;
                break;
            }
        }
    }
    for running in running.values() {
        running.stop.cancel();
    }
    for running in running.into_values() {
        running.end(false).await;
    }
}

fn start(job: Arc<Job>, clusters: Clusters, store: Arc<dyn Append>, targets: Targets) -> Running {
    let stop = CancellationToken::new();
    let marks = Arc::new(AtomicBool::new(false));
    let (found, discovered) = discover::channel();
    tokio::spawn(discover::run(
        job.clone(),
        clusters,
        found,
        targets.clone(),
        stop.clone(),
    ));
    let may_mark = {
        let marks = marks.clone();
        Arc::new(move || marks.load(Relaxed))
    };
    let pool = pool::run(job.clone(), discovered, store, targets, stop.clone(), may_mark);
    Running {
        job,
        stop,
        marks,
        pool: tokio::spawn(pool),
    }
}
