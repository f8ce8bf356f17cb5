//! The local cluster alone, without Weir in it: `up [--data-dir DIR] [FILE_OR_DIR]...`.
//!
//! For work on this crate: it offers the sub-commands that `weir` offers, and nothing else.

use std::path::PathBuf;
use std::process::ExitCode;

use weir_local::node::read_manifests;
use weir_local::up::UpConfig;
use weir_local::{apiserver, launch, up};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest = args.get(1..).unwrap_or_default();
    if args.first().is_none_or(|first| !first.starts_with("container-")) {
        let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .init();
    }
    match args.first().map(String::as_str) {
        Some("container-init") => launch::container_init(rest),
        Some("container-exec") => launch::container_exec(rest),
        Some("node") => launch::node_main(rest.get(1).expect("--data-dir DIR").as_ref()),
        Some("apiserver") => serve_api(rest),
        _ => bring_up(&args),
    }
}

fn bring_up(args: &[String]) -> ExitCode {
    let mut config = UpConfig {
        data_dir: PathBuf::from(".weir"),
        api_listen: ([127, 0, 0, 1], 7443).into(),
        metrics_listen: ([127, 0, 0, 1], 9090).into(),
        forwards: Vec::new(),
        manifests: Vec::new(),
        extra_path: Vec::new(),
        keep: false,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().cloned().unwrap_or_default();
        match arg.as_str() {
            "--data-dir" => config.data_dir = value().into(),
            "--api" => config.api_listen = value().parse().expect("--api ADDRESS:PORT"),
            "--metrics" => config.metrics_listen = value().parse().expect("--metrics ADDRESS:PORT"),
            "--keep" => config.keep = true,
            path => config
                .manifests
                .extend(read_manifests(path.as_ref()).expect("the manifests")),
        }
    }
    up::up(config).unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}

fn serve_api(args: &[String]) -> ExitCode {
    let value = |flag: &str| {
        args.iter()
            .position(|arg| arg == flag)
            .and_then(|at| args.get(at + 1))
            .cloned()
    };
    let mut config = apiserver::Config::new(value("--data-dir").expect("--data-dir"));
    config.host_listener = listenfd::ListenFd::from_env()
        .take_tcp_listener(0)
        .expect("the host's listener");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let shutdown = tokio_util::sync::CancellationToken::new();
    let outcome = runtime.block_on(async {
        let stop = shutdown.clone();
        tokio::spawn(async move {
            let kind = tokio::signal::unix::SignalKind::terminate();
            tokio::signal::unix::signal(kind).expect("signals").recv().await;
            stop.cancel();
        });
        apiserver::run(config, shutdown).await
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("apiserver: {error}");
            ExitCode::FAILURE
        }
    }
}
