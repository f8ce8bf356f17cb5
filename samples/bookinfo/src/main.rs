//! The sample application: a book shop of four small HTTP services, a load generator that counts for itself, and
//! echo servers for tests. One binary; each sub-command is one workload.
//!
//! Enters: HTTP and TCP on the listen address. Leaves: HTTP to the services that a service builds on. It knows
//! nothing about Kubernetes or the mesh: it is what a user's own application would be.

use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Prints a line, and lives on when nobody reads it.
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($argument)*);
    }};
}

mod admin;
mod behaviour;
mod details;
mod duration;
mod echo;
mod headers;
mod histogram;
mod load;
mod productpage;
mod ratings;
mod reviews;
mod server;
mod shutdown;
mod tcp;
mod text;
mod upstream;

/// A sample book shop for trying out a service mesh.
#[derive(Parser)]
#[command(name = "bookinfo", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The shop's front page, built from `details` and `reviews`.
    Productpage(productpage::Options),
    /// Facts about a book.
    Details(ServerOptions),
    /// Reviews of a book; v2 and v3 show the stars that `ratings` knows.
    Reviews(reviews::Options),
    /// Stars given to a book.
    Ratings(ServerOptions),
    /// Sends requests and counts what it sent and saw.
    Client(load::Options),
    /// Answers with the request's headers and the name of the pod.
    HttpEcho(ServerOptions),
    /// Answers every path with the same text.
    HttpTextResponse(text::Options),
    /// Sends every byte back.
    TcpEcho(tcp::EchoOptions),
    /// Holds streams to a `tcp-echo` open and verifies every byte.
    TcpClient(tcp::ClientOptions),
    /// Shows or changes the failure rate and latency of a service on this machine, while it runs.
    Behaviour(admin::Options),
}

/// What every HTTP service of the shop can be told.
#[derive(Args, Clone)]
struct ServerOptions {
    /// Address to listen on.
    #[arg(long, env = "BOOKINFO_LISTEN", default_value = "0.0.0.0:9080")]
    listen: std::net::SocketAddr,
    /// Share of requests to fail, 0 to 1, spread evenly (0.05: every 20th).
    #[arg(long, env = "BOOKINFO_FAIL", default_value = "0")]
    fail: behaviour::Share,
    /// Status of a failed request.
    #[arg(long, env = "BOOKINFO_FAIL_STATUS", default_value_t = 500)]
    fail_status: u16,
    /// Added to the time of every answer.
    #[arg(long, env = "BOOKINFO_DELAY", default_value = "0s", value_parser = duration::parse)]
    delay: Duration,
    /// How long to keep serving, unready and with `connection: close`, after SIGTERM.
    #[arg(long, env = "BOOKINFO_LAME_DUCK", default_value = "3s", value_parser = duration::parse)]
    lame_duck: Duration,
    /// How long requests in flight may take after that.
    #[arg(long, env = "BOOKINFO_DRAIN", default_value = "10s", value_parser = duration::parse)]
    drain: Duration,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // One thread serves; name look-ups borrow a second one.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_keep_alive(Duration::from_secs(2))
        .build()?;
    let result = runtime.block_on(run(arguments.command));
    // A name look-up that hangs must not hold up the exit.
    runtime.shutdown_background();
    result
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Productpage(options) => productpage::run(options).await,
        Command::Details(options) => server::run(options, details::answer).await,
        Command::Reviews(options) => reviews::run(options).await,
        Command::Ratings(options) => server::run(options, ratings::answer).await,
        Command::Client(options) => load::run(options).await,
        Command::HttpEcho(options) => server::run(options, echo::answer).await,
        Command::HttpTextResponse(options) => text::run(options).await,
        Command::TcpEcho(options) => tcp::echo(options).await,
        Command::TcpClient(options) => tcp::client(options).await,
        Command::Behaviour(options) => admin::run(options).await,
    }
}
