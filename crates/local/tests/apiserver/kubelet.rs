//! log and exec reach the kubelet of the pod's node, with the API server's client certificate.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, LogParams, PostParams};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use weir_local::apiserver::Pki;

use super::fixture::{DEADLINE, Server, call};

fn roots(pki: &Pki) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.ca()).unwrap()).unwrap();
    Arc::new(roots)
}

fn identity(pki: &Pki, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_file_iter(pki.cert(name))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    (chain, PrivateKeyDer::from_pem_file(pki.key(name)).unwrap())
}

/// A kubelet that answers logs with its URL and echoes upgraded connections.
async fn kubelet(pki: &Pki) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(pki), provider.clone())
        .build()
        .unwrap();
    let (chain, key) = identity(pki, "kubelet-server");
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service_fn(answer));
                let _ = connection.with_upgrades().await;
            });
        }
    });
    address
}

async fn answer(mut request: http::Request<Incoming>) -> Result<http::Response<Full<Bytes>>, std::convert::Infallible> {
    let url = request.uri().to_string();
    let Some(protocol) = request.headers().get("upgrade").cloned() else {
        return Ok(http::Response::new(Full::new(Bytes::from(format!("{url}\n")))));
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut io = TokioIo::new(upgrade.await.unwrap());
        io.write_all(url.as_bytes()).await.unwrap();
        let mut buffer = [0; 64];
        while let Ok(n @ 1..) = io.read(&mut buffer).await {
            io.write_all(&buffer[..n]).await.unwrap();
        }
    });
    let response = http::Response::builder()
        .status(101)
        .header("connection", "Upgrade")
        .header("upgrade", protocol);
    Ok(response
        .header("sec-websocket-protocol", "v5.channel.k8s.io")
        .body(Full::default())
        .unwrap())
}

async fn read_until(io: &mut (impl AsyncReadExt + Unpin), end: &str) -> String {
    let read = async {
        let mut text = String::new();
        while !text.ends_with(end) {
            let mut byte = [0];
            io.read_exact(&mut byte).await.unwrap();
            text.push(byte[0].into());
        }
        text
    };
    tokio::time::timeout(DEADLINE, read).await.unwrap()
}

#[tokio::test]
async fn logs_and_upgrades_go_to_the_node_of_the_pod() {
    let server = Server::start();
    let client = server.admin().await;
    let address = kubelet(&server.pki).await;
    let node = json!({"metadata": {"name": "n"}, "status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": address.port()}}}});
    assert_eq!(call(&client, "POST", "/api/v1/nodes", &[], &node).await.0, 201);
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "x"}]}});
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap())
        .await
        .unwrap();

    let named = LogParams {
        container: Some("b".to_owned()),
        tail_lines: Some(5),
        ..LogParams::default()
    };
    let logs = pods.logs("p", &named).await.unwrap();
    assert!(
        logs.starts_with("/containerLogs/default/p/b?") && logs.contains("tailLines=5"),
        "{logs}"
    );
    let unnamed = pods.logs("p", &LogParams::default()).await;
    assert!(matches!(unnamed, Err(kube::Error::Api(s)) if s.code == 400 && s.message.contains("choose one of: [a b]")));
    assert!(matches!(pods.logs("none", &named).await, Err(kube::Error::Api(s)) if s.code == 404));

    // exec, as a WebSocket client begins it.
    let (chain, key) = identity(&server.pki, "admin");
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(&server.pki))
        .with_client_auth_cert(chain, key)
        .unwrap();
    let tcp = TcpStream::connect(server.address()).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut io = tokio_rustls::TlsConnector::from(Arc::new(tls))
        .connect(name, tcp)
        .await
        .unwrap();
    let head = "GET /api/v1/namespaces/default/pods/p/exec?container=a&command=ls HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\n\
        upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: v5.channel.k8s.io\r\n\r\n";
    io.write_all(head.as_bytes()).await.unwrap();
    let answer = read_until(&mut io, "\r\n\r\n").await.to_lowercase();
    assert!(
        answer.starts_with("http/1.1 101") && answer.contains("sec-websocket-protocol: v5.channel.k8s.io"),
        "{answer}"
    );
    assert_eq!(
        read_until(&mut io, "command=ls").await,
        "/exec/default/p/a?container=a&command=ls"
    );
    io.write_all(b"hello\n").await.unwrap();
    assert_eq!(read_until(&mut io, "\n").await, "hello\n");
}
