//! Where targets come from. Every source publishes its whole, sorted list; whoever reads sees the newest.

pub mod kubernetes;

use crate::Target;
use std::sync::Arc;
use tokio::sync::watch;

/// Targets that never change. The sender must live as long as the list is wanted.
pub fn fixed(targets: Vec<Target>) -> (watch::Sender<Arc<[Target]>>, watch::Receiver<Arc<[Target]>>) {
    watch::channel(targets.into())
}

/// A channel for a source that has nothing to say yet.
pub fn channel() -> (watch::Sender<Arc<[Target]>>, watch::Receiver<Arc<[Target]>>) {
    fixed(Vec::new())
}
