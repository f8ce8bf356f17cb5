//! `/exec/{namespace}/{pod}/{container}`: a command's streams over a WebSocket.
//!
//! Every message begins with its channel: 0 standard input, 1 output, 2 error, 3 the final Status; in version 5 a message
//! `255 N` closes channel N.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::{Child, ChildStdin};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::super::Node;
use super::super::exec;
use super::super::state::PodRuntime;
use super::{Body, Query, full, status};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const CLOSE: u8 = 255;
/// Newest first: the server chooses.
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// Messages on their way to the client.
const QUEUE: usize = 32;
/// Messages on their way to the command's standard input.
const INPUT_QUEUE: usize = 4;
/// How often the client is asked whether it is still there: while the command does not read, nothing that it sends is read.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Bytes of a message.
const CHUNK: usize = 32 * 1024;
/// How long output may still come after the command has ended (a process it left may hold the pipe).
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);
/// How long the client may take to close.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

pub(super) async fn respond(
    node: &Arc<Node>,
    runtime: Arc<PodRuntime>,
    container: &str,
    query: &Query,
    mut request: Request<Incoming>,
) -> Response<Body> {
    if query.flag("tty") {
        let message = "tty: this node has no terminals; leave out -t";
        return status(StatusCode::BAD_REQUEST, "BadRequest", message);
    }
    let headers = request.headers();
    let offered = headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let offered: Vec<&str> = offered.flat_map(|value| value.split(',')).map(str::trim).collect();
    let protocol = PROTOCOLS.into_iter().find(|known| offered.contains(known));
    let (Some(protocol), Some(key)) = (protocol, headers.get(SEC_WEBSOCKET_KEY)) else {
        let message = format!("exec needs a WebSocket with a subprotocol of {PROTOCOLS:?}, offered: {offered:?}");
        return status(StatusCode::BAD_REQUEST, "BadRequest", &message);
    };
    let accept = derive_accept_key(key.as_bytes());
    let wants_stdin = query.flag("stdin") || query.flag("input");
    let child = exec::start(node, &runtime, container, query.all("command").to_vec(), wants_stdin).await;
    let child = match child {
        Ok(child) => child,
        Err(message) => return status(StatusCode::BAD_REQUEST, "BadRequest", &message),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => run(TokioIo::new(upgraded), child).await,
            Err(error) => tracing::debug!(%error, "exec was not upgraded"),
        }
    });
    let mut response = Response::new(full(String::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

/// Carries the streams until the command has ended or the client is gone.
async fn run(upgraded: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, mut child: Child) {
    let socket = WebSocketStream::from_raw_socket(upgraded, Role::Server, None).await;
    let (mut sink, mut source) = socket.split();
    let (messages, mut outgoing) = mpsc::channel::<Message>(QUEUE);
    let outputs = tokio::spawn({
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (to_out, to_err) = (messages.clone(), messages.clone());
        async move {
            tokio::join!(copy(out, STDOUT, to_out), copy(err, STDERR, to_err));
        }
    });
    let abort_outputs = outputs.abort_handle();
    let mut writer = tokio::spawn(async move {
        while let Some(message) = outgoing.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
        // Clients take anything but a normal closure for an error.
        let normal = CloseFrame {
            code: CloseCode::Normal,
            reason: Utf8Bytes::default(),
        };
        let _ = sink.send(Message::Close(Some(normal))).await;
        let _ = sink.close().await;
    });
    let (to_stdin, waiting) = mpsc::channel(INPUT_QUEUE);
    let (mut to_stdin, mut next) = (Some(to_stdin), None);
    let feeder = tokio::spawn(feed(child.stdin.take(), waiting));
    let mut ping = tokio::time::interval(PING_INTERVAL);
    let status = loop {
        tokio::select! {
            status = child.wait() => break Some(status),
            // It ends by itself only when the client takes nothing any more.
            _ = &mut writer => break None,
            _ = ping.tick() => drop(messages.try_send(Message::Ping(Bytes::new()))),
            () = hand_on(&to_stdin, &mut next), if next.is_some() => {}
            message = source.next(), if next.is_none() => match message {
                Some(Ok(Message::Binary(bytes))) => match bytes.first() {
                    Some(&STDIN) => next = Some(bytes.slice(1..)),
                    Some(&CLOSE) if bytes.get(1) == Some(&STDIN) => to_stdin = None,
                    _ => {}
                },
                Some(Ok(Message::Close(_)) | Err(_)) | None => break None,
                Some(Ok(_)) => {}
            }
        }
    };
    feeder.abort();
    let Some(status) = status else {
        // The client is gone: so is its command.
        let _ = child.kill().await;
        abort_outputs.abort();
        writer.abort();
        return;
    };
    if timeout(DRAIN_DEADLINE, outputs).await.is_err() {
        abort_outputs.abort();
    }
    let status = match status {
        Ok(status) => final_status(exec::exit_code(status)),
        Err(error) => {
            json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "message": error.to_string()})
        }
    };
    let mut message = vec![STATUS];
    message.extend_from_slice(status.to_string().as_bytes());
    let _ = messages.send(Message::binary(message)).await;
    drop(messages);
    let _ = timeout(CLOSE_DEADLINE, async {
        let _ = writer.await;
        while let Some(Ok(_)) = source.next().await {}
    })
    .await;
}

async fn copy(from: Option<impl AsyncRead + Unpin>, channel: u8, to: mpsc::Sender<Message>) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0u8; CHUNK];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => {
                let mut message = Vec::with_capacity(read + 1);
                message.push(channel);
                message.extend_from_slice(&buffer[..read]);
                if to.send(Message::binary(message)).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Puts the next input into the queue once it has room; drops it when nobody wants any more.
async fn hand_on(to: &Option<mpsc::Sender<Bytes>>, next: &mut Option<Bytes>) {
    if let Some(to) = to
        && let Ok(place) = to.reserve().await
        && let Some(input) = next.take()
    {
        place.send(input);
    }
    *next = None;
}

/// Writes what comes to the command, which may be slow to take it, and closes its input at the end.
async fn feed(stdin: Option<ChildStdin>, mut from: mpsc::Receiver<Bytes>) {
    let Some(mut pipe) = stdin else { return };
    while let Some(input) = from.recv().await {
        if pipe.write_all(&input).await.is_err() {
            return;
        }
    }
}

/// The last message, as kubelets word it.
fn final_status(exit_code: i32) -> Value {
    if exit_code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {exit_code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": exit_code.to_string()}]}
    })
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use tokio::process::Command;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn command(script: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", script]).kill_on_drop(true);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    async fn client_of(child: Child) -> (WebSocketStream<tokio::io::DuplexStream>, tokio::task::JoinHandle<()>) {
        let (server, client) = tokio::io::duplex(CHUNK);
        let running = tokio::spawn(run(server, child));
        let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        (client, running)
    }

    #[tokio::test]
    async fn input_comes_to_the_command_and_has_an_end() {
        let (mut client, running) = client_of(command("cat; exit 3")).await;
        for message in [&b"\0one "[..], b"\0two", b"\xff\0"] {
            client.send(Message::binary(message.to_vec())).await.unwrap();
        }
        let mut said = Vec::new();
        let status = loop {
            let message = timeout(PATIENCE, client.next()).await.expect("nothing comes").unwrap();
            let Message::Binary(bytes) = message.unwrap() else {
                continue;
            };
            match bytes[0] {
                STATUS => break bytes.slice(1..),
                _ => said.extend_from_slice(&bytes[1..]),
            }
        };
        assert_eq!(said, b"one two");
        let status: Value = serde_json::from_slice(&status).unwrap();
        assert_eq!(status["details"]["causes"][0]["message"], "3");
        drop(client);
        timeout(PATIENCE, running).await.expect("it goes on").unwrap();
    }

    /// `kubectl exec -i ... < large.file`, interrupted.
    #[tokio::test]
    async fn a_client_that_leaves_is_seen_while_the_command_does_not_read() {
        let (mut client, running) = client_of(command("exec sleep 10000")).await;
        let piece = Message::binary(vec![STDIN; CHUNK]);
        // Until nothing more is taken, or a machine is so slow that it looks like that.
        while let Ok(sent) = timeout(Duration::from_secs(1), client.send(piece.clone())).await {
            sent.unwrap();
        }
        drop(client);
        timeout(PATIENCE, running).await.expect("the command stays").unwrap();
    }

    #[test]
    fn the_exit_code_stands_in_the_causes() {
        assert_eq!(final_status(0)["status"], "Success");
        let failed = final_status(3);
        assert_eq!(failed["details"]["causes"][0]["message"], "3");
        assert_eq!(failed["reason"], "NonZeroExitCode");
    }
}
