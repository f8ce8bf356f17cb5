//! A proxy alone, without the other roles: `cargo run --release -p weir-proxy --example proxy -- -c bootstrap.json`.
//!
//! Enters: the flags of `weir proxy` that matter here. Leaves: the same proxy, in a program that is built in a fraction of the time.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = weir_proxy::Config {
        bootstrap: "bootstrap.json".into(),
        metrics_address: None,
        state_dir: None,
        drain: Duration::from_secs(1),
        workers: 1,
        record: true,
        access_log: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let mut value = || words.next().ok_or(format!("{flag} needs a value"));
        match flag.as_str() {
            "-c" => config.bootstrap = value()?.into(),
            "--metrics-address" => config.metrics_address = Some(value()?.parse()?),
            "--state-dir" => config.state_dir = Some(value()?.into()),
            "--workers" => config.workers = value()?.parse()?,
            "--no-metrics" => config.record = false,
            other => return Err(format!("{other} is not known").into()),
        }
    }
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(weir_proxy::run(config, CancellationToken::new()))?;
    Ok(())
}
