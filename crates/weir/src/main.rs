//! `weir`: one binary, several roles. Parses the arguments and hands over to a role.
//!
//! Under the name `kubectl-traffic` it is the kubectl plugin, under `weir-cni` the CNI plugin.

mod admin;
mod allocator;
mod args;
mod roles;

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use args::Command;

fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&name)
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    if name == weir_agent::cni::PLUGIN {
        return weir_agent::cni_plugin();
    }
    // Containers are started in bulk: nothing is parsed or set up for them that they do not need.
    let arguments: Vec<String> = std::env::args_os()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    match arguments.get(1).map(String::as_str) {
        Some("container-init") => return weir_local::launch::container_init(&arguments[2..]),
        Some("container-exec") => return weir_local::launch::container_exec(&arguments[2..]),
        // One in each pod, and those that hold much.
        Some("proxy" | "envoy-supervisor" | "gateway" | "metrics" | "store") => allocator::frugal(),
        _ => {}
    }
    // Fails only when a provider is installed already, which then is the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let ended = if name == "kubectl-traffic" {
        run_client(weir_cli::KubectlTraffic::parse().command)
    } else {
        run(Command::parse())
    };
    ended.unwrap_or_else(|error| {
        eprintln!("weir: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Client(command) => return run_client(command),
        Command::Rules { action } => return roles::rules::run(&action),
        Command::Install(arguments) => {
            roles::install::print(&arguments)?;
            return Ok(ExitCode::SUCCESS);
        }
        _ => log_to_stderr(),
    }
    match command {
        Command::Up(arguments) => return roles::local::bring_up(arguments),
        Command::Visit(arguments) => return small_runtime()?.block_on(roles::agent::visit(arguments)),
        Command::Node(arguments) => return Ok(roles::local::node(&arguments)),
        // A proxy, its supervisor and the agent are small and many: one thread beside the workers.
        Command::Gateway(arguments) => small_runtime()?.block_on(roles::gateway::run(arguments))?,
        Command::Zipkin(arguments) => small_runtime()?.block_on(roles::zipkin::run(arguments))?,
        Command::Proxy(arguments) => small_runtime()?.block_on(roles::proxy::run(arguments))?,
        Command::EnvoySupervisor(arguments) => small_runtime()?.block_on(roles::proxy::supervise(arguments))?,
        Command::Agent(arguments) => small_runtime()?.block_on(roles::agent::run(arguments))?,
        Command::Control(arguments) => runtime()?.block_on(roles::control::run(arguments))?,
        Command::Metrics(arguments) => runtime()?.block_on(roles::metrics::run(*arguments))?,
        Command::Store(arguments) => runtime()?.block_on(roles::store::run(arguments))?,
        Command::Apiserver(arguments) => runtime()?.block_on(roles::local::serve_api(arguments))?,
        Command::Install(_) | Command::Rules { .. } | Command::Client(_) => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn run_client(command: weir_cli::Command) -> Result<ExitCode> {
    small_runtime()?.block_on(async {
        match weir_cli::run(command).await {
            Ok(code) => Ok(code),
            Err(error) => Err(anyhow::anyhow!("{error}")),
        }
    })
}

fn log_to_stderr() {
    let wanted = std::env::var("WEIR_LOG").ok().and_then(|text| text.parse().ok());
    let filter = wanted.unwrap_or_else(|| {
        let quieter = ["kube_client", "kube_runtime", "tower"].map(|target| (target, LevelFilter::WARN));
        Targets::new().with_default(LevelFilter::INFO).with_targets(quieter)
    });
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    tracing_subscriber::registry().with(filter).with(lines).init();
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
}

fn small_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
