//! Where crates meet that never import each other: what one stage writes, the next one takes.
//!
//! [`configuration`]: Kubernetes objects -> mesh -> lower -> snapshot -> the proxy's configuration.
//! [`metrics`]: recorder -> scrape -> store -> PromQL -> figures. No process is started and no cluster is needed.

mod configuration;
mod metrics;
