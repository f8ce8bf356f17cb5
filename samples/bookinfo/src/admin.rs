//! `behaviour`: asks a service on this machine to misbehave, or shows what was asked of it.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, bail};
use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Args)]
pub struct Options {
    /// Port of the service.
    #[arg(long, default_value_t = 9080)]
    port: u16,
    /// Share of requests to fail, 0 to 1.
    #[arg(long)]
    fail: Option<String>,
    /// Status of a failed request.
    #[arg(long)]
    status: Option<String>,
    /// Added to the time of every answer, like 50ms.
    #[arg(long)]
    delay: Option<String>,
}

const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
const ANSWER_BYTES_MAX: u64 = 1 << 16;

pub async fn run(options: Options) -> anyhow::Result<()> {
    let orders = [
        ("fail", options.fail),
        ("status", options.status),
        ("delay", options.delay),
    ];
    let query: Vec<String> = orders
        .into_iter()
        .filter_map(|(key, value)| Some(format!("{key}={}", value?)))
        .collect();
    let method = if query.is_empty() { "GET" } else { "POST" };
    let request = format!(
        "{method} /admin/behaviour?{} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        query.join("&")
    );
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, options.port));
    let answer = tokio::time::timeout(TIMEOUT, exchange(address, &request))
        .await
        .context("no answer in time")?
        .with_context(|| format!("asking the service on {address}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    say!("{body}");
    if !head.starts_with("HTTP/1.1 200") {
        bail!("refused: {}", head.lines().next().unwrap_or_default());
    }
    Ok(())
}

async fn exchange(address: SocketAddr, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).await?;
    Ok(answer)
}
