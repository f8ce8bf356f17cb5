//! Where targets come from. Every source publishes its whole, sorted list; whoever reads sees the newest.

pub mod kubernetes;

use crate::Target;
use std::sync::Arc;
use tokio::sync::watch;

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
