//! The store of a role: opened, kept within its limits, closed.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;
use weir_tsdb::{Options, Storage, Tsdb};

/// How often the store drops what is older than its retention.
const MAINTENANCE: Duration = Duration::from_secs(30);
/// How long the end may wait for what is not on the disk yet.
const CLOSE: Duration = Duration::from_secs(10);

/// A store in memory or, with a path, on a disk.
pub fn open(options: Options, path: Option<&Path>) -> Result<Tsdb> {
    let Some(path) = path else {
        return Ok(Tsdb::new(options));
    };
    let store = Tsdb::open(options, Storage::new(path)).with_context(|| format!("storage {}", path.display()))?;
    for damage in store.status().iter().flat_map(|status| &status.recovery.damages) {
        tracing::warn!(?damage, "a part of the storage cannot be read and is left out");
    }
    Ok(store)
}

/// Keeps a store within its limits until `shutdown`, then writes what is not on the disk yet.
pub async fn maintain(store: Arc<Tsdb>, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(MAINTENANCE);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => break,
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        // It goes through all series: others on this thread are not to wait for that.
        let store = store.clone();
        if tokio::task::spawn_blocking(move || store.maintain(now_ms))
            .await
            .is_err()
        {
            tracing::error!("the maintenance of the store ended unexpectedly");
        }
    }
    let closed = tokio::task::spawn_blocking(move || store.close(CLOSE)).await;
    if !closed.unwrap_or(false) {
        tracing::warn!("not all samples are on the disk");
    }
}
