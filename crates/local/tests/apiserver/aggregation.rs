//! Aggregated API servers: availability, identity, discovery, streaming, failure.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::AsyncBufReadExt;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::fixture::{DEADLINE, Server, call, until};

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// An HTTPS server that tells what it was sent.
async fn serve() -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let made = rcgen::generate_simple_self_signed(vec!["echo.default.svc".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(tls), service_fn(answer))
                    .await;
            });
        }
    });
    (address, task)
}

async fn answer(request: http::Request<Incoming>) -> Result<http::Response<Body>, std::convert::Infallible> {
    let path = request.uri().path().to_owned();
    let headers: serde_json::Map<String, Value> = request
        .headers()
        .iter()
        .map(|(k, v)| (k.to_string(), v.to_str().unwrap_or("").into()))
        .collect();
    let body = if path == "/apis/echo.test.dev/v1" {
        json!({"kind": "APIResourceList", "groupVersion": "echo.test.dev/v1", "resources": [
            {"name": "echoes", "singularName": "echo", "namespaced": true, "kind": "Echo", "verbs": ["get", "list"]}]})
    } else if request.uri().query().is_some_and(|q| q.contains("watch")) {
        // Two lines, the second only after a while.
        let lines = futures::stream::unfold(0, |n| async move {
            if n == 1 {
                tokio::time::sleep(Duration::from_millis(1500)).await;
            }
            (n < 2).then(|| (Ok(Frame::data(Bytes::from(format!("{{\"n\":{n}}}\n")))), n + 1))
        });
        return Ok(http::Response::new(StreamBody::new(lines).boxed_unsync()));
    } else {
        json!({"path": path, "headers": headers})
    };
    Ok(http::Response::new(
        Full::new(Bytes::from(body.to_string())).boxed_unsync(),
    ))
}

#[tokio::test]
async fn requests_pass_under_the_front_proxy_identity() {
    let server = Server::start();
    let client = server.admin().await;
    let (address, task) = serve().await;
    let post = async |path: &str, body: Value| {
        let (status, answer) = call(&client, "POST", path, &[], &body).await;
        assert_eq!(status, 201, "{answer}");
    };
    post(
        "/apis/apiregistration.k8s.io/v1/apiservices",
        json!({"metadata": {"name": "v1.echo.test.dev"}, "spec": {
        "group": "echo.test.dev", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 10,
        "insecureSkipTLSVerify": true, "service": {"name": "echo", "namespace": "default"}}}),
    )
    .await;
    let at = "/apis/echo.test.dev/v1/namespaces/default/echoes/x";
    assert_eq!(call(&client, "GET", at, &[], &Value::Null).await.0, 503);
    post(
        "/api/v1/namespaces/default/services",
        json!({"metadata": {"name": "echo"}, "spec": {"ports": [{"port": 443, "targetPort": "https"}]}}),
    )
    .await;
    post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", json!({"metadata": {"name": "echo-1", "labels": {"kubernetes.io/service-name": "echo"}},
        "addressType": "IPv4", "ports": [{"port": address.port()}], "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}]}))
    .await;
    let available = async || {
        let (_, service) = call(
            &client,
            "GET",
            "/apis/apiregistration.k8s.io/v1/apiservices/v1.echo.test.dev",
            &[],
            &Value::Null,
        )
        .await;
        service["status"]["conditions"][0]["status"]
            .as_str()
            .unwrap_or("")
            .to_owned()
    };
    until("it is available", || async { available().await == "True" }).await;

    // A forged identity is replaced by the real one.
    let (status, seen) = call(
        &client,
        "GET",
        at,
        &[("x-remote-user", "mallory"), ("x-remote-group", "x")],
        &Value::Null,
    )
    .await;
    assert_eq!((status, &seen["path"]), (200, &json!(at)));
    assert_eq!(seen["headers"]["x-remote-user"], "kubernetes-admin");
    assert!(seen["headers"].get("authorization").is_none());

    let aggregated = (
        "accept",
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
    );
    let (_, list) = call(&client, "GET", "/apis", &[aggregated], &Value::Null).await;
    let group = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|g| g["metadata"]["name"] == "echo.test.dev")
        .unwrap();
    assert_eq!(group["versions"][0]["resources"][0]["resource"], "echoes");

    // A stream arrives as it is sent.
    let request = http::Request::get(format!("{at}?watch=1")).body(Vec::new()).unwrap();
    let mut lines = client.request_stream(request).await.unwrap().lines();
    let began = std::time::Instant::now();
    let first = tokio::time::timeout(DEADLINE, futures::StreamExt::next(&mut lines))
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(
        first.contains('0') && began.elapsed() < Duration::from_millis(1200),
        "{:?}",
        began.elapsed()
    );

    task.abort();
    until("it is refused", || async {
        call(&client, "GET", at, &[], &Value::Null).await.0 == 503
    })
    .await;
}

#[tokio::test]
async fn without_a_bundle_a_server_is_not_available_yet() {
    let server = Server::start();
    let client = server.admin().await;
    let post = async |path: &str, body: Value| {
        let (status, answer) = call(&client, "POST", path, &[], &body).await;
        assert_eq!(status, 201, "{answer}");
    };
    post(
        "/apis/apiregistration.k8s.io/v1/apiservices",
        json!({"metadata": {"name": "v1.echo.test.dev"}, "spec": {
        "group": "echo.test.dev", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 10,
        "service": {"name": "echo", "namespace": "default"}}}),
    )
    .await;
    post(
        "/api/v1/namespaces/default/services",
        json!({"metadata": {"name": "echo"}, "spec": {"ports": [{"port": 443}]}}),
    )
    .await;
    post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", json!({"metadata": {"name": "echo-1", "labels": {"kubernetes.io/service-name": "echo"}},
        "addressType": "IPv4", "ports": [{"port": 1}], "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}]}))
    .await;
    let told = async || {
        let path = "/apis/apiregistration.k8s.io/v1/apiservices/v1.echo.test.dev";
        let (_, service) = call(&client, "GET", path, &[], &Value::Null).await;
        let condition = &service["status"]["conditions"][0];
        condition["status"] == "False"
            && condition["message"]
                .as_str()
                .is_some_and(|m| m.contains("caBundle is not set yet"))
    };
    until("it says what is missing", told).await;
}
