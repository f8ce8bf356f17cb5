//! What lasts or is large: WebSockets, halves of connections, bodies that fit into no memory.

use std::process::Stdio;
use std::sync::atomic::Ordering;

use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::sides::*;
use crate::support::*;
use crate::tcp::tcp_bootstrap;

#[tokio::test]
async fn a_websocket_echoes_in_either_direction() {
    let server = Server::start(|stream| async move {
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_close() {
                return;
            }
            if !message.is_ping() {
                socket.send(message).await.unwrap();
            }
        }
    })
    .await;
    for direction in ["OUTBOUND", "INBOUND"] {
        let port = free_port();
        let bootstrap = http_bootstrap(port, &[(server.address, 1)], "").replace("OUTBOUND", direction);
        let proxy = Proxy::start(&bootstrap).await;
        let stream = TcpStream::connect(local(port)).await.unwrap();
        let (mut socket, response) = tokio_tungstenite::client_async("ws://svc/chat", stream).await.unwrap();
        assert_eq!(response.status(), 101);
        let large: Vec<u8> = (0..4_000_000u32).map(|i| (i % 253) as u8).collect();
        for message in [Message::text("hello"), Message::binary(large), Message::text("")] {
            socket.send(message.clone()).await.unwrap();
            let echo = tokio::time::timeout(PATIENCE, socket.next())
                .await
                .expect("an echo in time");
            assert!(echo.unwrap().unwrap() == message);
        }
        socket.send(Message::Ping("are you there".into())).await.unwrap();
        let pong = tokio::time::timeout(PATIENCE, socket.next())
            .await
            .expect("a pong in time");
        assert_eq!(pong.unwrap().unwrap(), Message::Pong("are you there".into()));
        socket.close(None).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            assert!(message.is_close(), "{message}");
        }
        drop(socket);
        eventually("it is recorded", async || {
            proxy
                .sum("response_total", &["\"101\"", "success", &direction.to_lowercase()])
                .await
                == 1.0
        })
        .await;
    }
}

#[tokio::test]
async fn an_endpoint_may_close_its_half_first() {
    let (seen, count) = shared(std::sync::atomic::AtomicU64::new(0));
    let server = Server::start(move |mut stream| {
        let count = std::sync::Arc::clone(&count);
        async move {
            stream.write_all(b"all I have to say").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            count.store(all.len() as u64, Ordering::Relaxed);
        }
    })
    .await;
    let port = free_port();
    let proxy = Proxy::start(&tcp_bootstrap(port, &[(server.address, 1)])).await;
    let mut stream = TcpStream::connect(local(port)).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "all I have to say");
    // The other half is still there, for as long as it takes.
    stream.write_all(&vec![1; 5_000_000]).await.unwrap();
    stream.shutdown().await.unwrap();
    eventually("all of it has come", async || seen.load(Ordering::Relaxed) == 5_000_000).await;
    eventually("closed well", async || {
        proxy.sum("tcp_close_total", &["svc-0", "success"]).await == 1.0
    })
    .await;
    assert_eq!(proxy.sum("tcp_write_bytes_total", &["svc-0"]).await, 5_000_000.0);
}

/// Of each body, both ways. More in optimised builds, where that is quick.
const LARGE: usize = if cfg!(debug_assertions) { 200 << 20 } else { 1 << 30 };
/// What the whole process may take more than before: proxy, clients and endpoints.
const GROWTH_KB_MAX: u64 = 20 << 10;
const PIECE: usize = 64 << 10;

/// Set in the process that measures its memory.
const MEASURING: &str = "WEIR_TEST_MEASURES_MEMORY";
/// The longest that the large bodies may take.
const LARGE_MAX: std::time::Duration = std::time::Duration::from_secs(240);

/// In a process of its own, which is this test again: the other tests of this one take memory too.
#[test]
fn large_bodies_take_no_memory() {
    if std::env::var_os(MEASURING).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        return runtime.block_on(measure_large_bodies());
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "streams::large_bodies_take_no_memory", "--nocapture"])
        .env(MEASURING, "1")
        .stdout(Stdio::inherit())
        .spawn()
        .unwrap();
    let end = std::time::Instant::now() + LARGE_MAX;
    while std::time::Instant::now() < end {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    panic!("the large bodies took longer than {LARGE_MAX:?}");
}

/// One way of sending a large body.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Framing {
    Length,
    Chunked,
}

async fn measure_large_bodies() {
    let server = Server::start(serve_large).await;
    let (_one, one) = before(&server, false, RETRY).await;
    // Everything is loaded and warm.
    for framing in [Framing::Length, Framing::Chunked] {
        upload(one, framing, 1 << 20).await;
        download(one, framing, 1 << 20).await;
    }
    let server_two = serve_two(100, |request, respond| async move {
        let mut body = request.into_body();
        let mut seen = 0;
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            seen += data.len();
        }
        answer_two(respond, http::Response::new(()), seen.to_string().as_bytes(), None).await;
    })
    .await;
    let (_two, two) = before(&server_two, true, RETRY).await;
    upload(two, Framing::Length, 1 << 20).await;
    std::fs::write("/proc/self/clear_refs", "5").expect("the peak can be reset");
    let start = status_kb("VmRSS");
    for framing in [Framing::Length, Framing::Chunked] {
        for (what, address) in [("HTTP/1", one), ("HTTP/2", two)] {
            let begin = std::time::Instant::now();
            upload(address, framing, LARGE).await;
            println!("up to {what}, {framing:?}: {LARGE} bytes in {:?}", begin.elapsed());
        }
        let begin = std::time::Instant::now();
        download(one, framing, LARGE).await;
        println!("down, {framing:?}: {LARGE} bytes in {:?}", begin.elapsed());
    }
    let growth = status_kb("VmHWM").saturating_sub(start);
    println!("memory grew by {growth} kB from {start} kB");
    assert!(growth < GROWTH_KB_MAX, "{growth} kB");
}

fn status_kb(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Counts what comes, or sends what the path asks for.
async fn serve_large(stream: TcpStream) {
    let mut stream = BufReader::with_capacity(PIECE, stream);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let framing = if head.contains("chunked") {
            Framing::Chunked
        } else {
            Framing::Length
        };
        if let Some(rest) = head.strip_prefix("get /") {
            let (length, _) = rest.split_once(['?', ' ']).unwrap();
            let length: usize = length.parse().unwrap();
            let start = match framing {
                Framing::Length => format!("HTTP/1.1 200 X\r\nContent-Length: {length}\r\n\r\n"),
                Framing::Chunked => "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
            };
            stream.get_mut().write_all(start.as_bytes()).await.unwrap();
            write_large(stream.get_mut(), framing, length).await;
            continue;
        }
        let length = head.split("content-length: ").nth(1);
        let length = length.map(|rest| rest.split("\r\n").next().unwrap().parse::<usize>().unwrap());
        let seen = read_large(&mut stream, length).await;
        stream.get_mut().write_all(&ok(&seen.to_string())).await.unwrap();
    }
}

async fn write_large(to: &mut TcpStream, framing: Framing, length: usize) {
    let mut piece = vec![b'x'; PIECE];
    if framing == Framing::Chunked {
        piece = [format!("{PIECE:x}\r\n").as_bytes(), &piece, b"\r\n"].concat();
    }
    for _ in 0..length / PIECE {
        to.write_all(&piece).await.unwrap();
    }
    if framing == Framing::Chunked {
        to.write_all(b"0\r\n\r\n").await.unwrap();
    }
}

/// Reads a body of a known length, or chunks; returns how much content it had.
async fn read_large(from: &mut BufReader<TcpStream>, length: Option<usize>) -> usize {
    let mut sink = vec![0; PIECE];
    let mut seen = 0;
    let mut left = length.unwrap_or(0);
    loop {
        while left > 0 {
            let n = from.read(&mut sink[..left.min(PIECE)]).await.unwrap();
            assert!(n > 0, "it ends after {seen} bytes");
            (seen, left) = (seen + n, left - n);
        }
        if length.is_some() {
            return seen;
        }
        let mut size = Vec::new();
        while !size.ends_with(b"\r\n") || size == b"\r\n" {
            if size == b"\r\n" {
                size.clear();
            }
            size.push(from.read_u8().await.unwrap());
        }
        left = usize::from_str_radix(std::str::from_utf8(&size).unwrap().trim(), 16).unwrap();
        if left == 0 {
            assert_eq!(from.read_u16().await.unwrap(), u16::from_be_bytes(*b"\r\n"));
            return seen;
        }
    }
}

async fn upload(address: std::net::SocketAddr, framing: Framing, length: usize) {
    let mut client = Client::connect(address).await;
    let header = match framing {
        Framing::Length => format!("Content-Length: {length}"),
        Framing::Chunked => "Transfer-Encoding: chunked".into(),
    };
    client
        .send(format!("POST / HTTP/1.1\r\nHost: svc\r\n{header}\r\n\r\n"))
        .await;
    write_large(client.stream.get_mut(), framing, length).await;
    let answer = client.answer("POST").await;
    assert_eq!((answer.status, answer.text()), (200, length.to_string()));
}

async fn download(address: std::net::SocketAddr, framing: Framing, length: usize) {
    let mut stream = BufReader::with_capacity(PIECE, TcpStream::connect(address).await.unwrap());
    let query = if framing == Framing::Chunked { "?chunked" } else { "" };
    let request = format!("GET /{length}{query} HTTP/1.1\r\nHost: svc\r\n\r\n");
    stream.get_mut().write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let seen = read_large(&mut stream, (framing == Framing::Length).then_some(length)).await;
    assert_eq!(seen, length);
}
