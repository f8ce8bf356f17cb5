//! `weir zipkin`: spans -> memory -> Zipkin's API.

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use weir_traces::Limits;

use super::until_signal;
use crate::args;

const MIB: usize = 1 << 20;

pub async fn run(arguments: args::Zipkin) -> Result<()> {
    let address = arguments.address;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    let limits = Limits {
        spans: arguments.spans_max,
        bytes: arguments.memory_mib.saturating_mul(MIB),
    };
    tracing::info!(%address, spans = limits.spans, memory_mib = arguments.memory_mib, "taking spans");
    until_signal(|shutdown| async move {
        weir_traces::serve(listener, limits, shutdown).await;
        Ok(())
    })
    .await
}
