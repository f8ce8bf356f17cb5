//! `weir up`, and the processes that it starts: the node and the API server.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use weir_local::node::{Forward, read_manifests};
use weir_local::up::{UpConfig, up};
use weir_local::{apiserver, node};

use super::{install, until_signal};
use crate::args;

/// `weir up`. Must run before the process has started a thread.
pub fn bring_up(arguments: args::Up) -> Result<ExitCode> {
    let mut manifests = install::manifests(arguments.proxy, "weir", true, !arguments.no_mesh_rules)?;
    for path in &arguments.filenames {
        let named = read_manifests(path).with_context(|| format!("-f {}", path.display()))?;
        anyhow::ensure!(
            !named.is_empty(),
            "-f {}: no .yaml, .yml or .json file in this folder",
            path.display()
        );
        manifests.extend(named);
    }
    let of_gateway = [
        (arguments.ingress_address, 80, "--ingress-address"),
        (arguments.ingress_tls_address, 443, "--ingress-tls-address"),
    ];
    let forwards = of_gateway.into_iter().filter_map(|(listen, port, option)| {
        Some(Forward {
            address: listen.0?,
            namespace: "default".to_owned(),
            service: "traffic-ingress".to_owned(),
            port,
            option: option.to_owned(),
        })
    });
    let config = UpConfig {
        data_dir: arguments.data_dir,
        api_listen: arguments.api_address,
        metrics_listen: arguments.store_address,
        forwards: forwards.collect(),
        manifests,
        extra_path: program_dirs(),
        keep: arguments.keep,
    };
    Ok(up(config)?)
}

/// Where containers find `bookinfo` and, in a checkout, the programs that `make tools` installed.
fn program_dirs() -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    if let Some(dir) = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.to_path_buf()))
    {
        dirs.push(dir);
    }
    if let Ok(here) = std::env::current_dir() {
        dirs.push(here.join(".tools/bin"));
    }
    dirs.retain(|dir| dir.is_dir());
    dirs
}

/// `weir node`, started by `weir up`. Must run before the process has started a thread.
pub fn node(arguments: &args::Node) -> ExitCode {
    node::node_main(&arguments.data_dir)
}

/// `weir apiserver`, started by the node with the machine's listener.
pub async fn serve_api(arguments: args::Apiserver) -> Result<()> {
    let mut config = apiserver::Config::new(arguments.data_dir);
    config.host_listener = listenfd::ListenFd::from_env()
        .take_tcp_listener(0)
        .context("the listener that the node hands over")?;
    until_signal(|shutdown| async move { apiserver::run(config, shutdown).await.context("API server") }).await
}
