//! Metrics as Kubernetes APIs.
//!
//! ```text
//! aggregated (a generic aggregated API server)
//!    ├── smi          metrics.smi-spec.io   <── query (PromQL) <── Metrics (the store)
//!    │                                      <── inventory (which objects exist)
//!    ├── scrape_status  metrics.weir.dev    <── a closure over the scraper's state
//!    └── mesh_status  weir.dev              <── closures over the control plane's state
//! ```
//!
//! Requests enter over TLS and leave as Kubernetes objects. PromQL text is written in [`query`] only. This crate does
//! not know where samples come from, nor what the control plane is made of.

pub mod access;
pub mod aggregated;
pub mod inventory;
pub mod mesh_status;
pub mod query;
pub mod scrape_status;
pub mod smi;

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio_util::sync::CancellationToken;

/// Settings of the metric APIs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Listener, certificate and APIServices.
    pub aggregated: aggregated::Config,
    /// Window where a client asks for none.
    pub window: Duration,
}

/// Window where a client asks for none, unless configured otherwise.
pub const WINDOW_DEFAULT: Duration = Duration::from_secs(30);

/// Serves the metric APIs until `shutdown`. `targets` tells how scraping goes.
pub async fn run(
    config: Config,
    client: Client,
    store: Arc<dyn query::Metrics>,
    targets: scrape_status::Targets,
    shutdown: CancellationToken,
) -> Result<(), aggregated::Error> {
    let inventory = inventory::Inventory::default();
    let watching = tokio::spawn(inventory.clone().watch(client.clone()));
    let smi = smi::Smi::new(store, inventory.clone(), config.window);
    let groups = vec![smi::group(smi), scrape_status::group(targets)];
    let ready: aggregated::Ready = Arc::new(move || inventory.ready());
    let result = aggregated::run(config.aggregated, client, groups, ready, shutdown).await;
    watching.abort();
    result
}
