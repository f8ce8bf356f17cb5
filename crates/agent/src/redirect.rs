//! Redirection of a pod's TCP connections to the proxy beside it: table `inet weir` in the pod's network namespace.
//!
//! Enters: a network namespace and the traffic to leave alone. Leaves: the rules, applied in one transaction and checked
//! afterwards, or undone. It knows nothing of proxies; it never touches any other table.
//!
//! Only the first packet of a new connection (SYN) is redirected, so a connection from before stays untouched; an inbound
//! one only if something listens at its port, so that the kernel refuses the others as it does without a proxy. Undoing
//! takes two steps, because a connection that was redirected lives as long as the chains exist and connections are
//! tracked: [`release`] takes the rules out, so that new connections go their own way; [`remove`], once the proxy has
//! gone, takes the rest.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::plan::Skip;
use crate::sys;

mod tracked;

/// Where the proxy takes redirected outbound connections.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where the proxy takes redirected inbound connections.
pub const INBOUND_PORT: u16 = 15006;
/// Mark of the proxy's own sockets, whose connections are not redirected again.
pub const MARK: u32 = 1337;

/// Longest run of `nft`.
const NFT_TIMEOUT: Duration = Duration::from_secs(10);
/// Where `nft` is looked for, since service managers leave the `sbin` directories out of PATH.
const NFT_PATHS: [&str; 4] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft"];

/// Why redirection could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No network namespace there.
    #[error("cannot open network namespace {0}: {1}")]
    Namespace(PathBuf, std::io::Error),
    /// The program cannot be started.
    #[error("cannot run nft (package nftables): {0}")]
    Start(std::io::Error),
    /// It took too long.
    #[error("nft did not end within {} s", NFT_TIMEOUT.as_secs())]
    Timeout,
    /// It said no.
    #[error("nft: {0}")]
    Refused(String),
    /// The rules in the kernel are not those that were applied.
    #[error("redirection rules differ from what was applied: {0}")]
    Differs(String),
}

/// Which inbound connections are redirected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inbound {
    /// Those to ports where something listens. What nobody listens to is refused by the kernel as without a proxy: a
    /// probe that only connects tells the truth, and a client's proxy tries another endpoint at once.
    Listening,
    /// All: for kernels without nftables' `socket` expression (`CONFIG_NFT_SOCKET`, Linux 4.18).
    All,
}

/// Redirects new connections and checks that the kernel has the rules. Doing it again replaces the rules and leaves
/// connections alone.
pub async fn apply(netns: &Path, skip: &Skip) -> Result<(), Error> {
    match nft(netns, &["-f", "-"], &script(skip, Inbound::Listening)).await {
        Err(Error::Refused(reason)) => {
            nft(netns, &["-f", "-"], &script(skip, Inbound::All)).await?;
            tracing::warn!(netns = %netns.display(), reason,
                "the kernel cannot tell ports that nobody listens to: connections to them are accepted by the proxy");
        }
        done => drop(done?),
    }
    verify(netns, skip).await
}

/// Whether the kernel has exactly the rules that [`apply`] makes.
pub async fn verify(netns: &Path, skip: &Skip) -> Result<(), Error> {
    let listing = nft(netns, &["-j", "list", "table", "inet", "weir"], "").await?;
    let listing: Value = serde_json::from_str(&listing).map_err(|e| Error::Differs(format!("unreadable: {e}")))?;
    let (found, expected) = (shape(&listing), expected(skip, Inbound::Listening));
    if found == expected || found == self::expected(skip, Inbound::All) {
        return Ok(());
    }
    Err(Error::Differs(format!(
        "found [{}], expected [{}]",
        found.join("; "),
        expected.join("; ")
    )))
}

/// First step of undoing: new connections are no longer redirected; redirected ones go on.
pub async fn release(netns: &Path) -> Result<(), Error> {
    // The kernel tracks connections in a namespace only while some rule needs it, and translates only tracked ones: with
    // the last redirect rule gone and nothing in its place, redirected connections would be cut off. A rule that looks
    // at the state keeps the tracking, whatever it decides.
    let script = format!(
        "{CHAINS}flush chain inet weir output\nflush chain inet weir prerouting\n\
         add rule inet weir output ct state new return\nadd rule inet weir prerouting ct state new return\n"
    );
    nft(netns, &["-f", "-"], &script).await.map(drop)
}

/// Second step of undoing: nothing is left, nor remembered of the connections that were redirected. Fine if there was
/// nothing.
pub async fn remove(netns: &Path) -> Result<(), Error> {
    nft(netns, &["-f", "-"], "add table inet weir\ndelete table inet weir\n").await?;
    match tracked::forget(netns, &[OUTBOUND_PORT, INBOUND_PORT]).await {
        Ok(entries) => tracing::debug!(entries, netns = %netns.display(), "redirected connections forgotten"),
        // Old entries go by themselves, and until then hurt in rare cases only.
        Err(error) => {
            tracing::warn!(netns = %netns.display(), %error, "the kernel still remembers connections that were redirected");
        }
    }
    Ok(())
}

/// Adding what exists changes nothing, so these lines make every script repeatable.
const CHAINS: &str = "add table inet weir
add chain inet weir output { type nat hook output priority -100; policy accept; }
add chain inet weir prerouting { type nat hook prerouting priority -100; policy accept; }
";
/// Ports of the proxy itself.
const OWN_PORTS: [u16; 3] = [weir_api::labels::PROXY_METRICS_PORT, OUTBOUND_PORT, INBOUND_PORT];

/// A condition that holds if some socket of the namespace would take the packet, whatever the flag's value. (The key
/// `wildcard` would not do: it does not hold for sockets in TIME_WAIT.)
const LISTENED: &str = "socket transparent { 0, 1 } ";

/// The transaction that [`apply`] runs.
fn script(skip: &Skip, inbound: Inbound) -> String {
    let mut text = format!("{CHAINS}flush chain inet weir output\nflush chain inet weir prerouting\n");
    let own = OWN_PORTS.map(|p| p.to_string()).join(", ");
    let mut rule = |chain: &str, rule: &str| {
        let _ = writeln!(text, "add rule inet weir {chain} {rule}");
    };
    rule("output", &format!("meta mark {MARK} return"));
    rule("output", "oif lo return");
    rule("output", &format!("tcp dport {{ {own} }} return"));
    for ports in &skip.ports {
        rule("output", &format!("tcp dport {ports} return"));
    }
    for cidr in &skip.cidrs {
        let family = match cidr.address {
            IpAddr::V4(_) => "ip",
            IpAddr::V6(_) => "ip6",
        };
        rule("output", &format!("{family} daddr {cidr} return"));
    }
    rule(
        "output",
        &format!("tcp flags & (fin|syn|rst|ack) == syn redirect to :{OUTBOUND_PORT}"),
    );
    rule("prerouting", &format!("meta mark {MARK} return"));
    rule("prerouting", "iif lo return");
    rule("prerouting", &format!("tcp dport {{ {own} }} return"));
    let listened = match inbound {
        Inbound::Listening => LISTENED,
        Inbound::All => "",
    };
    rule(
        "prerouting",
        &format!("tcp flags & (fin|syn|rst|ack) == syn {listened}redirect to :{INBOUND_PORT}"),
    );
    text
}

/// The rules in the words of [`shape`].
fn expected(skip: &Skip, inbound: Inbound) -> Vec<String> {
    let own = OWN_PORTS.map(|p| p.to_string()).join(",");
    let mut lines: Vec<String> = vec![
        "chain output nat output".into(),
        "chain prerouting nat prerouting".into(),
    ];
    let mut output = vec![
        format!("mark={MARK} return"),
        "oif=lo return".into(),
        format!("dport={own} return"),
    ];
    output.extend(skip.ports.iter().map(|p| format!("dport={p} return")));
    output.extend(
        skip.cidrs
            .iter()
            .map(|c| format!("daddr={} return", network(c.address, c.prefix))),
    );
    output.push(format!("flags=syn redirect {OUTBOUND_PORT}"));
    let listened = match inbound {
        Inbound::Listening => "transparent=0,1 ",
        Inbound::All => "",
    };
    let prerouting = vec![
        format!("mark={MARK} return"),
        "iif=lo return".into(),
        format!("dport={own} return"),
        format!("flags=syn {listened}redirect {INBOUND_PORT}"),
    ];
    lines.extend(output.into_iter().map(|l| format!("output {l}")));
    lines.extend(prerouting.into_iter().map(|l| format!("prerouting {l}")));
    lines
}

/// The listing of `nft -j` in one short line a chain and rule; what a line cannot say shows as `?`, so that anything
/// foreign makes a difference.
fn shape(listing: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for item in listing["nftables"].as_array().into_iter().flatten() {
        if let Some(chain) = item.get("chain") {
            lines.push(format!(
                "chain {} {} {}",
                text(&chain["name"]),
                text(&chain["type"]),
                text(&chain["hook"])
            ));
        } else if let Some(rule) = item.get("rule") {
            let parts: Vec<_> = rule["expr"].as_array().into_iter().flatten().map(part).collect();
            lines.push(format!("{} {}", text(&rule["chain"]), parts.join(" ")));
        }
    }
    // Chains first, then rules in the order of the chains, whatever the order of the listing.
    lines.sort_by_key(|l| (!l.starts_with("chain "), l.contains("prerouting")));
    lines
}

/// One match or verdict of a rule.
fn part(expression: &Value) -> String {
    if expression.get("return").is_some() {
        return "return".to_owned();
    }
    if let Some(redirect) = expression.get("redirect") {
        return format!("redirect {}", text(&redirect["port"]));
    }
    let Some(matched) = expression.get("match") else {
        return "?".to_owned();
    };
    let left = &matched["left"];
    let name = left["meta"]["key"]
        .as_str()
        .or_else(|| left["socket"]["key"].as_str())
        .or_else(|| left["payload"]["field"].as_str());
    let name = name
        .or_else(|| left["&"][0]["payload"]["field"].as_str())
        .unwrap_or("?");
    format!("{name}={}", text(&matched["right"]))
}

/// A value of a match, as [`expected`] writes it.
fn text(value: &Value) -> String {
    if let Some(range) = value["range"].as_array() {
        return range.iter().map(text).collect::<Vec<_>>().join("-");
    }
    if let Some(set) = value["set"].as_array() {
        return set.iter().map(text).collect::<Vec<_>>().join(",");
    }
    if value["prefix"].is_object() {
        return format!("{}/{}", text(&value["prefix"]["addr"]), text(&value["prefix"]["len"]));
    }
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => "?".to_owned(),
    }
}

/// An address range as nft lists it: host bits cleared, no prefix on single addresses.
fn network(address: IpAddr, prefix: u8) -> String {
    let (network, bits) = match address {
        IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            (IpAddr::V4((u32::from(a) & mask).into()), 32)
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            (IpAddr::V6((u128::from(a) & mask).into()), 128)
        }
    };
    if prefix == bits {
        network.to_string()
    } else {
        format!("{network}/{prefix}")
    }
}

/// Runs `nft` in the network namespace, with a script on its standard input.
async fn nft(netns: &Path, arguments: &[&str], script: &str) -> Result<String, Error> {
    let namespace = std::fs::File::open(netns).map_err(|e| Error::Namespace(netns.to_owned(), e))?;
    let program = NFT_PATHS
        .iter()
        .find(|p| Path::new(p).exists())
        .copied()
        .unwrap_or("nft");
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    sys::enter_netns(&mut command, namespace);
    let mut child = command.spawn().map_err(Error::Start)?;
    let run = async {
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(script.as_bytes()).await.map_err(Error::Start)?;
        }
        child.wait_with_output().await.map_err(Error::Start)
    };
    let output = tokio::time::timeout(NFT_TIMEOUT, run)
        .await
        .map_err(|_| Error::Timeout)??;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Refused(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}

#[cfg(test)]
mod tests;
