//! Asking the machine's resolvers about names outside the cluster. From a network namespace without a way out the
//! attempt fails at once, which is the answer then.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// For one resolver; a stub resolver waits 5 s in all before it asks again.
const TIMEOUT: Duration = Duration::from_millis(1500);
const RESOLVERS_MAX: usize = 3;

/// The resolvers that a resolv.conf names.
pub fn resolvers(resolv_conf: &str) -> Vec<SocketAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|address| address.trim().parse().ok())
        .map(|ip| SocketAddr::new(ip, 53))
        .take(RESOLVERS_MAX)
        .collect()
}

/// Hands a query on as it is and returns the first answer, also as it is; None if nobody answers.
pub async fn ask(upstreams: &[SocketAddr], query: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
    for upstream in upstreams {
        let exchange = async {
            let answer = ask_udp(*upstream, query).await?;
            // The client asked over TCP because the answer does not fit otherwise.
            if over_tcp && Message::from_vec(&answer).is_ok_and(|answer| answer.metadata.truncation) {
                return ask_tcp(*upstream, query).await;
            }
            Ok(answer)
        };
        match tokio::time::timeout(TIMEOUT, exchange).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => tracing::debug!(%upstream, %error, "resolver not reached"),
            Err(_) => tracing::debug!(%upstream, "resolver did not answer"),
        }
    }
    None
}

async fn ask_udp(upstream: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any = match upstream {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(query).await?;
    let mut answer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut answer).await?;
        // Its id tells a late answer to another question.
        if length >= 12 && answer.get(..2) == query.get(..2) {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

async fn ask_tcp(upstream: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf() {
        let text = "# comment\nnameserver 127.0.0.53\nnameserver ::1\nsearch x\nnameserver soon\n";
        let found: Vec<String> = resolvers(text).iter().map(SocketAddr::to_string).collect();
        assert_eq!(found, ["127.0.0.53:53", "[::1]:53"]);
    }
}
