//! `http-text-response`: the same text on every path, such as the answer to an ACME challenge.

use bytes::Bytes;
use clap::Args;
use http::StatusCode;

use crate::ServerOptions;
use crate::server;

#[derive(Args)]
pub struct Options {
    /// The text.
    #[arg(long, env = "RESPONSE_BODY")]
    text: String,
    #[command(flatten)]
    server: ServerOptions,
}

pub async fn run(options: Options) -> anyhow::Result<()> {
    let text = Bytes::from(options.text);
    server::run(options.server, move |_| {
        let text = text.clone();
        async move { server::answer(StatusCode::OK, "text/plain; charset=utf-8", text) }
    })
    .await
}
