//! `weir gateway`: a pod that is the ingress gateway. Writes its own bootstrap, then runs the proxy in this process.

use std::time::Duration;

use anyhow::{Context, Result};
use weir_agent::ControlNames;
use weir_agent::gateway::{Files, GatewayConfig};
use weir_api::labels;

use super::proxy::STOP_MARGIN;
use super::{client, until_signal_then};
use crate::args::{self, Engine};

pub async fn run(arguments: args::Gateway) -> Result<()> {
    let client = client(&arguments.kubernetes).await?;
    let files = Files::new(
        GatewayConfig {
            node_id: arguments.node_id,
            engine: match arguments.engine {
                Engine::Weir => labels::Engine::Weir,
                Engine::Envoy => labels::Engine::Envoy,
            },
            dir: arguments.dir,
            token: arguments.token,
            target: arguments.xds,
            control: ControlNames {
                namespace: arguments.namespace,
                ..ControlNames::default()
            },
        },
        client,
    );
    let drain = Duration::from_secs(arguments.drain_seconds);
    until_signal_then(drain + STOP_MARGIN, |shutdown| async move {
        if !files.prepare(&shutdown).await.context("gateway")? {
            return Ok(());
        }
        let (bootstrap, state_dir) = (files.bootstrap(), files.state());
        let metrics_address = Some(arguments.metrics_address);
        let proxy = async {
            match arguments.engine {
                Engine::Weir => {
                    let config = weir_proxy::Config {
                        bootstrap,
                        metrics_address,
                        state_dir: Some(state_dir),
                        drain,
                        workers: workers(arguments.workers),
                        record: true,
                        access_log: None,
                    };
                    weir_proxy::run(config, shutdown).await.context("proxy")
                }
                Engine::Envoy => {
                    let config = weir_agent::envoy::EnvoyConfig {
                        bootstrap,
                        metrics_address,
                        state_dir,
                        drain,
                        envoy: arguments.envoy.into_os_string(),
                    };
                    weir_agent::envoy::run(config, shutdown)
                        .await
                        .context("Envoy supervisor")
                }
            }
        };
        tokio::select! {
            ended = proxy => ended,
            () = files.follow() => unreachable!("it never ends"),
        }
    })
    .await
}

/// As many as asked for; one a processor where nothing is said: a gateway has no application beside it to leave them to.
fn workers(asked: Option<usize>) -> usize {
    asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}
