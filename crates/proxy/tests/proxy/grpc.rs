//! gRPC through a proxy: its four kinds of calls, statuses and deadlines, with tonic on both sides.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{StreamExt, stream};
use http::uri::PathAndQuery;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, BoxStream, Service};
use tonic::server::{ClientStreamingService, NamedService, ServerStreamingService, StreamingService, UnaryService};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::sides::*;
use crate::support::*;

#[derive(Clone, PartialEq, prost::Message)]
struct Number {
    #[prost(int64, tag = "1")]
    value: i64,
}

type Codec = ProstCodec<Number, Number>;

/// The service, one kind of call a method.
#[derive(Clone, Default)]
struct Numbers {
    deadlines: Arc<Mutex<Vec<String>>>,
}

impl NamedService for Numbers {
    const NAME: &'static str = "test.Numbers";
}

impl Service<http::Request<Body>> for Numbers {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let numbers = self.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Codec::default());
            let path = request.uri().path().to_owned();
            Ok(match path.rsplit('/').next() {
                Some("Double") => grpc.unary(Double, request).await,
                Some("Count") => grpc.server_streaming(Count, request).await,
                Some("Sum") => grpc.client_streaming(Sum, request).await,
                Some("Running") => grpc.streaming(Running, request).await,
                Some("Wait") => grpc.unary(Wait(numbers), request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

/// Doubles; fails with the code `-value` for what is negative.
struct Double;

impl UnaryService<Number> for Double {
    type Response = Number;
    type Future = BoxFuture<Response<Number>, Status>;

    fn call(&mut self, request: Request<Number>) -> Self::Future {
        let value = request.into_inner().value;
        Box::pin(async move {
            if value < 0 {
                let mut status = Status::new(Code::from(i32::try_from(-value).unwrap()), "wie gewünscht: 100 %");
                status.metadata_mut().insert("x-why", "asked".parse().unwrap());
                return Err(status);
            }
            Ok(Response::new(Number { value: value * 2 }))
        })
    }
}

/// Counts to a number; a negative one breaks off in the midst.
struct Count;

impl ServerStreamingService<Number> for Count {
    type Response = Number;
    type ResponseStream = BoxStream<Number>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Number>) -> Self::Future {
        let to = request.into_inner().value;
        let numbers = stream::iter(1..=to.abs()).map(|value| Ok(Number { value }));
        let end = stream::iter((to < 0).then(|| Err(Status::data_loss("lost"))));
        Box::pin(async move { Ok(Response::new(numbers.chain(end).boxed() as BoxStream<Number>)) })
    }
}

/// Adds up.
struct Sum;

impl ClientStreamingService<Number> for Sum {
    type Response = Number;
    type Future = BoxFuture<Response<Number>, Status>;

    fn call(&mut self, request: Request<Streaming<Number>>) -> Self::Future {
        let mut numbers = request.into_inner();
        Box::pin(async move {
            let mut value = 0;
            while let Some(number) = numbers.message().await? {
                value += number.value;
            }
            Ok(Response::new(Number { value }))
        })
    }
}

/// Answers each number with the sum so far.
struct Running;

impl StreamingService<Number> for Running {
    type Response = Number;
    type ResponseStream = BoxStream<Number>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<Number>>) -> Self::Future {
        let sums = request.into_inner().scan(0, |sum, number| {
            let sum_now = number.map(|number| {
                *sum += number.value;
                Number { value: *sum }
            });
            std::future::ready(Some(sum_now))
        });
        Box::pin(async move { Ok(Response::new(sums.boxed() as BoxStream<Number>)) })
    }
}

/// Never answers; notes what time it was given.
struct Wait(Numbers);

impl UnaryService<Number> for Wait {
    type Response = Number;
    type Future = BoxFuture<Response<Number>, Status>;

    fn call(&mut self, request: Request<Number>) -> Self::Future {
        let deadline = request
            .metadata()
            .get("grpc-timeout")
            .map(|v| v.to_str().unwrap().to_owned());
        self.0.deadlines.lock().unwrap().push(deadline.unwrap_or_default());
        Box::pin(std::future::pending())
    }
}

/// A service, a proxy before it whose listener has a direction, a client.
struct Mesh {
    proxy: Proxy,
    numbers: Numbers,
    channel: Channel,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Mesh {
    async fn start(direction: &str) -> Self {
        Self::with_route(direction, RETRY).await
    }

    /// With a route that is more than a cluster.
    async fn with_route(direction: &str, route: &str) -> Self {
        let numbers = Numbers::default();
        let socket = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let endpoint = socket.local_addr().unwrap();
        let serving = tonic::transport::Server::builder().add_service(numbers.clone());
        let server = tokio::spawn(async move {
            serving
                .serve_with_incoming(TcpListenerStream::new(socket))
                .await
                .unwrap();
        });
        let port = free_port();
        let bootstrap = upstream_two(&http_bootstrap(port, &[(endpoint, 1)], route));
        let proxy = Proxy::start(&bootstrap.replace("OUTBOUND", direction)).await;
        let channel = Channel::from_shared(format!("http://127.0.0.1:{port}"))
            .unwrap()
            .origin("http://svc".parse().unwrap())
            .connect()
            .await
            .unwrap();
        Self {
            proxy,
            numbers,
            channel,
            server,
        }
    }

    async fn client(&self) -> tonic::client::Grpc<Channel> {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await.unwrap();
        client
    }

    async fn unary(&self, name: &str, request: Request<Number>) -> Result<i64, Status> {
        let answer = self.client().await.unary(request, method(name), Codec::default()).await;
        answer.map(|answer| answer.into_inner().value)
    }

    /// Waits until so many responses with this status are counted.
    async fn counted(&self, labels: &[&str], count: u32) {
        let what = format!("{count} responses {labels:?}");
        eventually(&what, async || {
            self.proxy.sum("response_total", labels).await == f64::from(count)
        })
        .await;
    }
}

fn method(name: &str) -> PathAndQuery {
    format!("/test.Numbers/{name}").parse().unwrap()
}

fn number(value: i64) -> Request<Number> {
    Request::new(Number { value })
}

#[tokio::test]
async fn four_kinds_of_calls_in_either_direction() {
    for direction in ["OUTBOUND", "INBOUND"] {
        let mesh = Mesh::start(direction).await;
        assert_eq!(mesh.unary("Double", number(21)).await.unwrap(), 42);

        let mut client = mesh.client().await;
        let answer = client
            .server_streaming(number(10_000), method("Count"), Codec::default())
            .await;
        let counted: Vec<i64> = answer.unwrap().into_inner().map(|n| n.unwrap().value).collect().await;
        assert_eq!(counted, (1..=10_000).collect::<Vec<_>>());

        let numbers = Request::new(stream::iter((1..=10_000).map(|value| Number { value })));
        let answer = mesh
            .client()
            .await
            .client_streaming(numbers, method("Sum"), Codec::default())
            .await;
        assert_eq!(answer.unwrap().into_inner().value, 50_005_000);

        // A conversation: each number is sent only after the answer to the one before.
        let (say, said) = tokio::sync::mpsc::channel(1);
        let said = Request::new(tokio_stream::wrappers::ReceiverStream::new(said));
        say.send(Number { value: 1 }).await.unwrap();
        let answer = mesh
            .client()
            .await
            .streaming(said, method("Running"), Codec::default())
            .await;
        let mut sums = answer.unwrap().into_inner();
        for turn in 1..=100 {
            let sum = tokio::time::timeout(PATIENCE, sums.message())
                .await
                .expect("an answer in time");
            assert_eq!(sum.unwrap().unwrap().value, turn);
            say.send(Number { value: 1 }).await.unwrap();
        }
        drop(say);
        assert_eq!(sums.message().await.unwrap().unwrap().value, 101);
        assert!(sums.message().await.unwrap().is_none());

        mesh.counted(&["grpc_status=\"0\"", "success", &direction.to_lowercase()], 4)
            .await;
        mesh.counted(&[], 4).await;
    }
}

#[tokio::test]
async fn statuses_reach_the_client_and_the_counters() {
    let mesh = Mesh::start("OUTBOUND").await;
    for code in 1..=16 {
        let status = mesh.unary("Double", number(-code)).await.unwrap_err();
        assert_eq!(status.code(), Code::from(i32::try_from(code).unwrap()));
        assert_eq!(status.message(), "wie gewünscht: 100 %");
        assert_eq!(status.metadata().get("x-why").unwrap(), "asked");
        mesh.counted(&[&format!("grpc_status=\"{code}\"")], 1).await;
    }
    mesh.counted(&["failure"], 6).await;
    let mut client = mesh.client().await;
    let answer = client
        .server_streaming(number(-3), method("Count"), Codec::default())
        .await;
    let all: Vec<_> = answer.unwrap().into_inner().collect().await;
    let values: Vec<_> = all
        .iter()
        .map(|n| n.as_ref().map(|n| n.value).map_err(Status::code))
        .collect();
    assert_eq!(values, [Ok(1), Ok(2), Ok(3), Err(Code::DataLoss)]);
    mesh.counted(&["failure"], 7).await;
    let status = mesh.unary("Unknown", number(1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    mesh.counted(&["grpc_status=\"12\"", "success"], 2).await;
}

#[tokio::test]
async fn deadlines_reach_the_server_and_end_the_call() {
    let mesh = Mesh::start("OUTBOUND").await;
    let mut request = number(1);
    request.set_timeout(Duration::from_millis(300));
    let call = tokio::time::timeout(PATIENCE, mesh.unary("Wait", request));
    let status = call.await.expect("an end in time").unwrap_err();
    assert!(
        matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded),
        "{status:?}"
    );
    assert_eq!(*mesh.numbers.deadlines.lock().unwrap(), ["300000u"]);
    // Server and client look at the same clock: either the status came first, or the client had left.
    eventually("it is counted once", async || {
        mesh.proxy.sum("response_total", &[]).await == 1.0
    })
    .await;
    assert_eq!(
        mesh.unary("Double", number(4)).await.unwrap(),
        8,
        "the connection goes on"
    );
}

fn for_an_hour<T>(mut request: Request<T>) -> Request<T> {
    request.set_timeout(Duration::from_secs(3600));
    request
}

/// Neither client nor server would end these calls soon: the proxy does, for whom they may last 200 ms at most.
#[tokio::test]
async fn calls_last_no_longer_than_the_route_lets_them() {
    let route = ", max_stream_duration: {max_stream_duration: 0s, grpc_timeout_header_max: 0.2s}, \
                 retry_policy: {retry_on: unavailable, num_retries: 3}";
    let mesh = Mesh::with_route("OUTBOUND", route).await;
    let begun = std::time::Instant::now();
    let call = tokio::time::timeout(PATIENCE, mesh.unary("Wait", for_an_hour(number(1))));
    let status = call.await.expect("an end in time").unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::DeadlineExceeded, "downstream duration timeout")
    );
    assert!(begun.elapsed() >= Duration::from_millis(200));
    mesh.counted(&["grpc_status=\"4\"", "failure"], 1).await;
    assert_eq!(mesh.numbers.deadlines.lock().unwrap().len(), 1, "no other try");

    // The end comes in the middle of a conversation.
    let (say, said) = tokio::sync::mpsc::channel(1);
    say.send(Number { value: 1 }).await.unwrap();
    let said = Request::new(tokio_stream::wrappers::ReceiverStream::new(said));
    let mut client = mesh.client().await;
    let conversation = client.streaming(for_an_hour(said), method("Running"), Codec::default());
    let mut sums = conversation.await.unwrap().into_inner();
    assert_eq!(sums.message().await.unwrap().unwrap().value, 1);
    let end = tokio::time::timeout(PATIENCE, sums.message())
        .await
        .expect("an end in time");
    assert!(end.is_err(), "{end:?}");
    mesh.counted(&["failure"], 2).await;

    // A call that says nothing lasts as long as both like.
    let call = tokio::time::timeout(Duration::from_millis(600), mesh.unary("Wait", number(1)));
    assert!(call.await.is_err(), "no end yet");
    let page = get(mesh.proxy.metrics, "/stats/prometheus").await.text();
    let expired = page
        .lines()
        .find(|line| line.starts_with("envoy_http_downstream_rq_max_duration_reached"));
    assert!(expired.is_some_and(|line| line.ends_with(" 2")), "{expired:?}");
}

#[tokio::test]
async fn what_no_endpoint_answers_is_told_in_grpc() {
    let closed = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
    let port = free_port();
    let proxy = Proxy::start(&upstream_two(&http_bootstrap(port, &[(closed, 1)], ""))).await;
    let channel = Channel::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
    let channel = channel.origin("http://svc".parse().unwrap()).connect().await.unwrap();
    for (path, code, words) in [
        (
            "/test.Numbers/Double",
            Code::Unavailable,
            "reset reason: connection failure",
        ),
        ("/refused", Code::Unimplemented, "blocked here\n"),
    ] {
        let mut client = tonic::client::Grpc::new(channel.clone());
        client.ready().await.unwrap();
        let answer = client.unary(number(1), PathAndQuery::from_static(path), Codec::default());
        let status = answer.await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().ends_with(words), "{status:?}");
    }
    eventually("both are counted, with the status of the call", async || {
        proxy
            .sum(
                "response_total",
                &["status_code=\"200\"", "grpc_status=\"14\"", "failure"],
            )
            .await
            == 1.0
            && proxy.sum("response_total", &["grpc_status=\"12\""]).await == 1.0
    })
    .await;
}
