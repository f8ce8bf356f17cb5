//! The whole server over real TLS on loopback, against a small fake Kubernetes API.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::TokioIo;
use kube::client::Body as KubeBody;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use weir_api::table::{Column, Row};

use super::authenticate::{Authenticator, Trust};
use super::authorize::Authorizer;
use super::server::{Server, serve};
use super::tls::{Serving, ServingCertificate};
use super::*;

/// TokenReview knows one token; SubjectAccessReview lets `alice` do everything but `pods/edges`.
fn fake_kubernetes() -> (kube::Client, Arc<AtomicUsize>, Arc<Mutex<Vec<Value>>>) {
    let (calls, reviews) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (counter, seen) = (calls.clone(), reviews.clone());
    let service = tower_like(move |request: Request<KubeBody>| {
        let (counter, seen) = (counter.clone(), seen.clone());
        async move {
            counter.fetch_add(1, Ordering::Relaxed);
            let path = request.uri().path().to_owned();
            let body = request
                .into_body()
                .collect()
                .await
                .map(|b| b.to_bytes())
                .unwrap_or_default();
            let mut review: Value = serde_json::from_slice(&body).unwrap_or_default();
            if path.ends_with("/tokenreviews") {
                let known = review["spec"]["token"] == "good";
                review["status"] = if known {
                    json!({"authenticated": true, "user": {"username": "alice", "uid": "u1", "groups": ["dev"]}})
                } else {
                    json!({"authenticated": false, "error": "who is that?"})
                };
            } else {
                let spec = review["spec"].clone();
                let edges = spec["resourceAttributes"]["subresource"] == "edges";
                review["status"] = json!({"allowed": spec["user"] == "alice" && !edges});
                seen.lock().unwrap().push(spec);
            }
            Response::new(Full::new(Bytes::from(review.to_string())))
        }
    });
    (kube::Client::new(service, "default"), calls, reviews)
}

fn tower_like<F, Fut>(f: F) -> FakeService<F>
where
    F: Fn(Request<KubeBody>) -> Fut + Clone,
    Fut: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    FakeService(f)
}

#[derive(Clone)]
struct FakeService<F>(F);

impl<F, Fut> tower_service::Service<Request<KubeBody>> for FakeService<F>
where
    F: Fn(Request<KubeBody>) -> Fut,
    Fut: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    type Response = Response<Full<Bytes>>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<KubeBody>) -> Self::Future {
        let answer = (self.0)(request);
        Box::pin(async move { Ok(answer.await) })
    }
}

/// Answers with what it was asked.
struct Echo;

impl Handler for Echo {
    fn handle(&self, r: ResourceRequest) -> BoxFuture<'_, Result<Answer, Status>> {
        Box::pin(async move {
            if r.name.as_deref() == Some("missing") {
                return Err(Status::not_found("g.test", r.resource, "missing"));
            }
            let object = json!({
                "resource": r.resource, "sub": r.subresource, "ns": r.namespace, "name": r.name,
                "t": r.parameter("t"), "labels": r.labels.match_labels(),
            });
            let row = Row::new(vec!["a".into()], &Default::default());
            Ok(Answer {
                object,
                table: Some(Table::new(vec![Column::name()], vec![row])),
            })
        })
    }
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Authority {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    fn client(&self, common_name: &str, organization: &str) -> ClientCertificate {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.der().clone(), key.serialize_der())
    }
}

type ClientCertificate = (CertificateDer<'static>, Vec<u8>);

struct Running {
    address: SocketAddr,
    ca_pem: String,
    calls: Arc<AtomicUsize>,
    reviews: Arc<Mutex<Vec<Value>>>,
    front_proxy: Authority,
    clients: Authority,
    _stop: tokio_util::sync::DropGuard,
}

async fn start() -> Running {
    let (client, calls, reviews) = fake_kubernetes();
    let (front_proxy, clients) = (Authority::new("front-proxy-ca"), Authority::new("client-ca"));
    let data: BTreeMap<String, String> = [
        ("requestheader-client-ca-file", front_proxy.pem.as_str()),
        ("requestheader-allowed-names", r#"["front-proxy-client"]"#),
        ("requestheader-username-headers", r#"["X-Remote-User"]"#),
        ("requestheader-group-headers", r#"["X-Remote-Group"]"#),
        ("requestheader-extra-headers-prefix", r#"["X-Remote-Extra-"]"#),
        ("client-ca-file", clients.pem.as_str()),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into();
    let (trust, problems) = Trust::from_config(&data);
    assert!(problems.is_empty(), "{problems:?}");
    let authenticator = Authenticator::new(client.clone());
    authenticator.set_trust(trust);

    let resource = |name, singular, namespaced, verbs| Resource {
        name,
        singular,
        kind: "Thing",
        response_kind: if namespaced { "NamespacedThing" } else { "ClusterThing" },
        namespaced,
        verbs,
        short_names: &["th"],
        subresources: &[("edges", "ThingList")],
    };
    let resources = vec![
        resource("pods", "pod", true, &["get", "list"] as &[&str]),
        resource("namespaces", "namespace", false, &["get", "list"]),
    ];
    let versions = vec![Version { name: "v1", resources }];
    let groups = vec![Group {
        name: "g.test",
        versions,
        handler: Arc::new(Echo),
    }];
    let ready: Ready = Arc::new(|| Err("no data yet".into()));
    let server = Arc::new(Server {
        groups,
        authenticator,
        authorizer: Authorizer::new(client),
        ready,
    });
    let names = vec!["weir-metrics.weir-system.svc".to_owned()];
    let certificate = Arc::new(ServingCertificate::new(&Serving::SelfSigned { names }).unwrap());
    let ca_pem = certificate.ca_pem.clone().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(serve(listener, certificate, server, stop.clone()));
    Running {
        address,
        ca_pem,
        calls,
        reviews,
        front_proxy,
        clients,
        _stop: stop.drop_guard(),
    }
}

struct Reply {
    code: u16,
    content_type: String,
    etag: String,
    text: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }
}

impl Running {
    async fn send(&self, certificate: Option<ClientCertificate>, request: http::request::Builder) -> Reply {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match certificate {
            Some((certificate, key)) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
                builder.with_client_auth_cert(vec![certificate], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("weir-metrics.weir-system.svc").unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let request = request.header("host", "weir").body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let header = |name: &str| {
            response
                .headers()
                .get(name)
                .and_then(|v| v.to_str().ok())
                .unwrap_or_default()
                .to_owned()
        };
        let (content_type, etag, code) = (header("content-type"), header("etag"), response.status().as_u16());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Reply {
            code,
            content_type,
            etag,
            text: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    /// As the front proxy would, on behalf of a user.
    async fn as_user(&self, user: &str, group: &str, request: http::request::Builder) -> Reply {
        let certificate = self.front_proxy.client("front-proxy-client", "");
        let request = request.header("x-remote-user", user).header("x-remote-group", group);
        self.send(Some(certificate), request).await
    }
}

const PODS: &str = "/apis/g.test/v1/namespaces/default/pods";

fn get(path: &str) -> http::request::Builder {
    Request::get(path)
}

#[tokio::test]
async fn the_front_proxy_speaks_for_users() {
    let server = start().await;
    let reply = server
        .as_user("alice", "dev", get(PODS).header("x-remote-extra-a%2fb", "1"))
        .await;
    assert_eq!(reply.code, 200, "{}", reply.text);
    let spec = server.reviews.lock().unwrap()[0].clone();
    assert_eq!(spec["groups"], json!(["dev", "system:authenticated"]));
    assert_eq!(spec["extra"], json!({"a/b": ["1"]}));
    assert_eq!(
        spec["resourceAttributes"],
        json!({"group": "g.test", "namespace": "default", "resource": "pods", "verb": "list", "version": "v1"})
    );

    let refused = server.as_user("bob", "dev", get(PODS)).await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.json()["message"],
        r#"pods.g.test is forbidden: User "bob" cannot list resource "pods" in API group "g.test" in the namespace "default""#
    );
    let edges = server.as_user("alice", "dev", get(&format!("{PODS}/a/edges"))).await;
    assert_eq!(edges.code, 403, "edges is a subresource of its own");
    // system:masters needs no review.
    let before = server.calls.load(Ordering::Relaxed);
    assert_eq!(server.as_user("root", "system:masters", get(PODS)).await.code, 200);
    assert_eq!(server.calls.load(Ordering::Relaxed), before);
}

#[tokio::test]
async fn headers_count_only_with_the_front_proxys_certificate() {
    let server = start().await;
    let masters = || {
        get(PODS)
            .header("x-remote-user", "root")
            .header("x-remote-group", "system:masters")
    };
    // No certificate: anonymous, and the headers mean nothing.
    let reply = server.send(None, masters()).await;
    assert_eq!(reply.code, 403);
    assert!(reply.text.contains("system:anonymous"), "{}", reply.text);
    // Another authority with the right name, and the right authority with another name.
    let stranger = Authority::new("front-proxy-ca").client("front-proxy-client", "");
    assert_eq!(server.send(Some(stranger), masters()).await.code, 401);
    let misnamed = server.front_proxy.client("somebody", "");
    assert_eq!(server.send(Some(misnamed), masters()).await.code, 401);
    // A client certificate is its own user, whatever the headers say.
    let bob = server.clients.client("bob", "dev");
    let reply = server.send(Some(bob), masters()).await;
    assert_eq!(reply.code, 403);
    assert!(reply.text.contains("User \\\"bob\\\""), "{}", reply.text);
    let admin = server.clients.client("admin", "system:masters");
    assert_eq!(server.send(Some(admin), get(PODS)).await.code, 200);
}

#[tokio::test]
async fn tokens_are_reviewed_once_in_ten_seconds() {
    let server = start().await;
    let with = |token: &str| get(PODS).header("authorization", format!("Bearer {token}"));
    assert_eq!(server.send(None, with("good")).await.code, 200);
    let calls = server.calls.load(Ordering::Relaxed);
    assert_eq!(calls, 2, "one TokenReview and one SubjectAccessReview");
    assert_eq!(server.send(None, with("good")).await.code, 200);
    assert_eq!(
        server.calls.load(Ordering::Relaxed),
        calls,
        "both answers are remembered"
    );
    let reply = server.send(None, with("bad")).await;
    assert_eq!(
        (reply.code, reply.json()["reason"].as_str()),
        (401, Some("Unauthorized"))
    );
}

/// Whoever knows no token can send any number of them.
#[tokio::test]
async fn strangers_are_reviewed_a_few_at_a_time_and_drive_nobody_out() {
    let (now, most) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let (counted, highest) = (now.clone(), most.clone());
    let service = tower_like(move |request: Request<KubeBody>| {
        let (now, most) = (counted.clone(), highest.clone());
        async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            // Whoever may come now comes.
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
            now.fetch_sub(1, Ordering::SeqCst);
            let body = request.into_body().collect().await.map(|b| b.to_bytes());
            let mut review: Value = serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default();
            let is_good = review["spec"]["token"] == "good";
            review["status"] = json!({"authenticated": is_good, "user": {"username": "alice"}});
            Response::new(Full::new(Bytes::from(review.to_string())))
        }
    });
    let authenticator = Authenticator::new(kube::Client::new(service, "default"));
    let first = authenticator.token("good").await;
    assert_eq!(first.map(|identity| identity.user).ok().as_deref(), Some("alice"));
    let strangers = (0..200).map(|number| format!("stranger {number}"));
    let asked = strangers.map(|token| {
        let authenticator = &authenticator;
        async move { authenticator.token(&token).await.map_err(|status| status.code) }
    });
    let answers = futures::future::join_all(asked).await;
    assert!(answers.iter().all(|answer| answer.as_ref().err() == Some(&401)));
    let most = most.load(Ordering::SeqCst);
    assert!((2..=16).contains(&most), "{most} reviews at a time");
}

#[tokio::test]
async fn paths_verbs_and_forms() {
    let server = start().await;
    let send = |request| server.as_user("root", "system:masters", request);
    let reply = send(get(&format!(
        "{PODS}/a/edges?t=10s&labelSelector=app%3Dfoo%2Cv+in+(a,b)"
    )))
    .await;
    let expected =
        json!({"resource": "pods", "sub": "edges", "ns": "default", "name": "a", "t": "10s", "labels": {"app": "foo"}});
    assert_eq!(reply.json(), expected);
    assert_eq!(
        send(get("/apis/g.test/v1/namespaces/x/edges")).await.json()["resource"],
        "namespaces"
    );
    assert_eq!(send(get("/apis/g.test/v1/namespaces/x")).await.json()["name"], "x");
    assert_eq!(send(get("/apis/g.test/v1/pods/%2A/edges")).await.json()["name"], "*");

    let code = |path: &str, method: &str| {
        let request = Request::builder().method(method).uri(path);
        async { send(request).await.json()["code"].as_u64() }
    };
    assert_eq!(code(&format!("{PODS}/missing"), "GET").await, Some(404));
    assert_eq!(code("/apis/g.test/v1/namespaces/x/nothing", "GET").await, Some(404));
    assert_eq!(code("/apis/g.test/v2/pods", "GET").await, Some(404));
    assert_eq!(code("/apis/g.test/v1/pods/a", "GET").await, Some(404));
    assert_eq!(code("/nowhere", "GET").await, Some(404));
    assert_eq!(code(&format!("{PODS}?watch=true"), "GET").await, Some(405));
    assert_eq!(code(PODS, "POST").await, Some(405));
    assert_eq!(code(&format!("{PODS}?labelSelector=a%20b"), "GET").await, Some(400));

    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let reply = send(get(PODS).header("accept", table)).await.json();
    assert_eq!(
        (reply["kind"].as_str(), reply["apiVersion"].as_str()),
        (Some("Table"), Some("meta.k8s.io/v1"))
    );
    let yaml = send(get(PODS).header("accept", "application/yaml")).await;
    assert!(
        yaml.content_type == "application/yaml" && yaml.text.contains("resource: pods"),
        "{}",
        yaml.text
    );
    let reply = send(get(PODS).header("accept", "application/vnd.kubernetes.protobuf")).await;
    assert_eq!(
        (reply.code, reply.json()["reason"].as_str()),
        (406, Some("NotAcceptable"))
    );
}

#[tokio::test]
async fn discovery_and_health() {
    let server = start().await;
    let send = |request| server.as_user("root", "system:masters", request);
    assert_eq!(
        send(get("/apis")).await.json()["groups"][0]["preferredVersion"]["groupVersion"],
        "g.test/v1"
    );
    assert_eq!(send(get("/apis/g.test")).await.json()["kind"], "APIGroup");
    let resources = send(get("/apis/g.test/v1")).await.json();
    let names: Vec<_> = resources["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["name"].clone())
        .collect();
    assert_eq!(names, ["pods", "pods/edges", "namespaces", "namespaces/edges"]);

    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let reply = send(get("/apis").header("accept", accept)).await;
    assert!(
        reply.content_type.ends_with("as=APIGroupDiscoveryList"),
        "{}",
        reply.content_type
    );
    let list = reply.json();
    assert_eq!(list["apiVersion"], "apidiscovery.k8s.io/v2");
    let pods = &list["items"][0]["versions"][0]["resources"][0];
    assert_eq!(resources["resources"][0]["kind"], "Thing");
    assert_eq!(pods["responseKind"]["kind"], "NamespacedThing");
    assert_eq!(
        (pods["scope"].as_str(), pods["subresources"][0]["subresource"].as_str()),
        (Some("Namespaced"), Some("edges"))
    );
    let again = send(
        get("/apis")
            .header("accept", accept)
            .header("if-none-match", &reply.etag),
    )
    .await;
    assert_eq!((again.code, again.text.as_str()), (304, ""));
    assert_eq!(send(get("/openapi/v2")).await.json()["swagger"], "2.0");
    let index = send(get("/openapi/v3")).await.json();
    let url = index["paths"]["apis/g.test/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(send(get(&url)).await.json()["openapi"], "3.0.0");

    // Health needs no user.
    assert_eq!(server.send(None, get("/livez")).await.text, "ok");
    let ready = server.send(None, get("/readyz?verbose")).await;
    assert_eq!(ready.code, 503);
    assert!(ready.text.contains("no data yet"), "{}", ready.text);
}
