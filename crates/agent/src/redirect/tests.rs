use super::*;
use crate::testing::{Net, connect, echo, say, within};

#[test]
fn network_as_nft_lists_it() {
    let shown = |text: &str| {
        let cidr: crate::plan::Cidr = text.parse().unwrap();
        network(cidr.address, cidr.prefix)
    };
    assert_eq!(shown("10.1.2.3/16"), "10.1.0.0/16");
    assert_eq!(shown("10.1.2.3"), "10.1.2.3");
    assert_eq!(shown("0.0.0.0/0"), "0.0.0.0/0");
    assert_eq!(shown("fd12::1/8"), "fd00::/8");
    assert_eq!(shown("::/0"), "::/0");
}

#[test]
fn foreign_rules_show() {
    let listing = serde_json::json!({"nftables": [
        {"chain": {"name": "output", "type": "nat", "hook": "output"}},
        {"rule": {"chain": "output", "expr": [{"counter": {}}, {"drop": null}]}}]});
    assert_eq!(shape(&listing), ["chain output nat output", "output ? ?"]);
}

fn ruleset(net: &Net) -> String {
    let list = || {
        std::process::Command::new("/usr/sbin/nft")
            .args(["list", "ruleset"])
            .output()
            .unwrap()
    };
    String::from_utf8(within(net.pod(), list).stdout).unwrap()
}

fn skip(ports: &[&str], cidrs: &[&str]) -> Skip {
    let ports = ports.iter().map(|p| p.parse().unwrap()).collect();
    Skip {
        ports,
        cidrs: cidrs.iter().map(|c| c.parse().unwrap()).collect(),
    }
}

#[tokio::test]
async fn rules_are_verified_and_undone_completely() {
    let net = Net::new();
    let all = skip(
        &["22", "9000-9100"],
        &["10.1.2.3/16", "10.9.9.9", "fd12::/8", "0.0.0.0/1"],
    );
    assert!(matches!(verify(&net.pod(), &all).await, Err(Error::Refused(_))));
    apply(&net.pod(), &all).await.unwrap();
    apply(&net.pod(), &all).await.unwrap();
    assert!(matches!(
        verify(&net.pod(), &Skip::default()).await,
        Err(Error::Differs(_))
    ));
    apply(&net.pod(), &Skip::default()).await.unwrap();
    let foreign = || {
        std::process::Command::new("/usr/sbin/nft")
            .args(["add", "rule", "inet", "weir", "output", "accept"])
            .status()
    };
    assert!(within(net.pod(), foreign).unwrap().success());
    assert!(matches!(
        verify(&net.pod(), &Skip::default()).await,
        Err(Error::Differs(_))
    ));
    remove(&net.pod()).await.unwrap();
    remove(&net.pod()).await.unwrap();
    assert_eq!(ruleset(&net), "");
    let gone = Path::new("/nonexistent/netns");
    assert!(matches!(apply(gone, &all).await, Err(Error::Namespace(..))));
}

#[tokio::test]
async fn new_connections_are_captured_and_old_ones_left_alone() {
    let net = Net::new();
    echo(net.peer(), "0.0.0.0:7000", "peer");
    echo(net.peer(), "0.0.0.0:7100", "skipped");
    echo(net.pod(), "0.0.0.0:7001", "app");
    echo(net.pod(), "0.0.0.0:8900", "metrics");
    echo(net.pod(), "0.0.0.0:15001", "outbound");
    echo(net.pod(), "0.0.0.0:15006", "inbound");
    let out = |mark| connect(net.pod(), "10.199.0.2:7000", mark).unwrap();
    let mut old_out = out(None);
    let mut old_in = connect(net.peer(), "10.199.0.1:7001", None).unwrap();
    assert_eq!(say(&mut old_out, "1"), "peer:1");
    assert_eq!(say(&mut old_in, "1"), "app:1");

    apply(&net.pod(), &skip(&["7100"], &[])).await.unwrap();
    assert_eq!(say(&mut old_out, "2"), "peer:2");
    assert_eq!(say(&mut old_in, "2"), "app:2");
    let mut captured_out = out(None);
    assert_eq!(say(&mut captured_out, "3"), "outbound:3");
    let mut captured_in = connect(net.peer(), "10.199.0.1:7001", None).unwrap();
    assert_eq!(say(&mut captured_in, "3"), "inbound:3");
    assert_eq!(say(&mut out(Some(MARK)), "4"), "peer:4");
    assert_eq!(
        say(&mut connect(net.pod(), "127.0.0.1:7001", None).unwrap(), "4"),
        "app:4"
    );
    assert_eq!(
        say(&mut connect(net.pod(), "10.199.0.1:7001", None).unwrap(), "4"),
        "app:4"
    );
    assert_eq!(
        say(&mut connect(net.pod(), "10.199.0.2:7100", None).unwrap(), "4"),
        "skipped:4"
    );
    assert_eq!(
        say(&mut connect(net.peer(), "10.199.0.1:8900", None).unwrap(), "4"),
        "metrics:4"
    );

    // Other rules, same connections.
    apply(&net.pod(), &Skip::default()).await.unwrap();
    assert_eq!(
        say(&mut connect(net.pod(), "10.199.0.2:7100", None).unwrap(), "5"),
        "outbound:5"
    );
    assert_eq!(say(&mut captured_out, "5"), "outbound:5");

    release(&net.pod()).await.unwrap();
    assert_eq!(say(&mut out(None), "6"), "peer:6");
    assert_eq!(
        say(&mut connect(net.peer(), "10.199.0.1:7001", None).unwrap(), "6"),
        "app:6"
    );
    assert_eq!(say(&mut captured_out, "6"), "outbound:6");
    assert_eq!(say(&mut captured_in, "6"), "inbound:6");
    assert_eq!(say(&mut old_out, "6"), "peer:6");

    remove(&net.pod()).await.unwrap();
    assert_eq!(say(&mut out(None), "7"), "peer:7");
    assert_eq!(say(&mut old_in, "7"), "app:7");
    assert_eq!(ruleset(&net), "");
}

#[tokio::test]
async fn ports_that_nobody_listens_to_refuse_as_without_a_proxy() {
    let net = Net::new();
    echo(net.pod(), "0.0.0.0:15006", "inbound");
    apply(&net.pod(), &Skip::default()).await.unwrap();
    let refused = connect(net.peer(), "10.199.0.1:7001", None).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    // At whichever address it listens.
    for (listens, to) in [
        ("10.199.0.1:7001", "10.199.0.1:7001"),
        ("0.0.0.0:7002", "10.199.0.1:7002"),
        ("[::]:7003", "10.199.0.1:7003"),
    ] {
        echo(net.pod(), listens, "app");
        let mut taken = connect(net.peer(), to, None).unwrap();
        assert_eq!(say(&mut taken, "1"), "inbound:1");
    }
}

#[tokio::test]
async fn a_kernel_that_knows_no_sockets_in_rules_redirects_all() {
    let net = Net::new();
    echo(net.pod(), "0.0.0.0:15006", "inbound");
    nft(&net.pod(), &["-f", "-"], &script(&Skip::default(), Inbound::All))
        .await
        .unwrap();
    verify(&net.pod(), &Skip::default()).await.unwrap();
    let mut taken = connect(net.peer(), "10.199.0.1:7001", None).unwrap();
    assert_eq!(say(&mut taken, "1"), "inbound:1");
}

/// A connection of the application from a certain port.
fn connect_from(net: &Net, port: u16) -> std::net::TcpStream {
    let connected = within(net.pod(), move || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&std::net::SocketAddr::from(([10, 199, 0, 1], port)).into())?;
        let peer = std::net::SocketAddr::from(([10, 199, 0, 2], 7000));
        socket.connect_timeout(&peer.into(), Duration::from_secs(3))?;
        let stream = std::net::TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        Ok::<_, std::io::Error>(stream)
    });
    connected.unwrap()
}

/// A port is used twice for the same address: by a connection that is redirected, and, when that has ended and redirection has
/// gone, by one that is not. When redirection comes back, the second one goes on as it was.
#[tokio::test]
async fn what_was_redirected_once_is_forgotten_when_redirection_goes() {
    let net = Net::new();
    echo(net.pod(), "0.0.0.0:15001", "outbound");
    let peer = within(net.peer(), || std::net::TcpListener::bind("0.0.0.0:7000").unwrap());
    let skip = Skip::default();
    apply(&net.pod(), &skip).await.unwrap();
    let mut captured = connect_from(&net, 40_000);
    assert_eq!(say(&mut captured, "1"), "outbound:1");
    // It ends with a reset, so that its port is free at once.
    socket2::SockRef::from(&captured)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(captured);
    release(&net.pod()).await.unwrap();
    remove(&net.pod()).await.unwrap();

    let mut direct = connect_from(&net, 40_000);
    let (mut accepted, _) = peer.accept().unwrap();
    apply(&net.pod(), &skip).await.unwrap();
    // The first packet that is seen of it comes from outside.
    assert_eq!(exchange(&mut accepted, &mut direct, "2"), "2");
    assert_eq!(exchange(&mut direct, &mut accepted, "3"), "3");
}

/// What arrives at the other end.
fn exchange(from: &mut std::net::TcpStream, to: &mut std::net::TcpStream, word: &str) -> String {
    use std::io::{Read, Write};
    to.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    from.write_all(word.as_bytes()).unwrap();
    let mut buffer = [0; 64];
    let length = to.read(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}
