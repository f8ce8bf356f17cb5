//! The client's side: arguments -> requests to the Kubernetes API -> tables.
//!
//! `weir top`, `weir check` and the rest, and the same under the name `kubectl traffic`. It reads the Kubernetes metric
//! APIs exactly as a user's own tool would, and `weir query` passes on PromQL that a user writes; it knows neither the metric
//! store nor the control plane's insides.

mod check;
mod config;
mod connect;
mod edges;
mod error;
mod explain;
mod figures;
mod proxies;
mod query;
mod resource;
pub mod table;
mod top;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use connect::Connection;
pub use error::Error;

/// What a client can do.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Show success rate, requests a second and latency of pods, deployments or namespaces.
    #[command(visible_alias = "stat")]
    Top(top::Top),
    /// Show who talks to whom, and how well.
    Edges(edges::Edges),
    /// Show the proxies and whether they have their newest configuration.
    Proxies(proxies::Proxies),
    /// Show what a proxy is sent, resource by resource.
    Config(config::Config),
    /// Tell what happens to a request that a pod makes: listener, route, split, cluster, endpoints, or why it is blocked.
    Explain(explain::Explain),
    /// Ask the metric store in PromQL: a table, JSON, CSV or a chart.
    Query(query::Query),
    /// Check the installation, the proxies and the labels; the exit code is 1 when something is wrong.
    Check(check::Check),
}

/// Measure the traffic between Kubernetes workloads.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "kubectl-traffic",
    bin_name = "kubectl traffic",
    version,
    arg_required_else_help = true
)]
pub struct KubectlTraffic {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Runs a command to its end. Output goes to the standard output; the caller prints the error.
pub async fn run(command: Command) -> Result<ExitCode, Error> {
    match command {
        Command::Top(top) => top.run().await,
        Command::Edges(edges) => edges.run().await,
        Command::Proxies(proxies) => proxies.run().await,
        Command::Config(config) => config.run().await,
        Command::Explain(explain) => explain.run().await,
        Command::Query(query) => query.run().await,
        Command::Check(check) => check.run().await,
    }
}
