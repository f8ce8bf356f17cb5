//! Servers behind TLS: a private authority, certificates of ours, another name, renewal.

use http_body_util::Full;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio_rustls::TlsAcceptor;
use weir_promql::Options;
use weir_promql::remote::http::{Client, Settings};
use weir_promql::remote::{Backend, Limits, Remote, Route, Upstream};
use weir_tls::{ClientTls, Pem};

const LIMIT: Duration = Duration::from_secs(20);
const ONE: &str = r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"1"]}]}}"#;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn key() -> KeyPair {
    KeyPair::generate().unwrap_or_else(|e| panic!("{e}"))
}

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap_or_else(|e| panic!("{e}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, key()).unwrap_or_else(|e| panic!("{e}"))
}

/// Certificate and key.
fn signed(by: &Authority, name: &str) -> (rcgen::Certificate, KeyPair) {
    let key = key();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap_or_else(|e| panic!("{e}"));
    (params.signed_by(&key, by).unwrap_or_else(|e| panic!("{e}")), key)
}

/// The TLS of a server called `name`, which wants certificates of `by` from its clients.
fn wanting(by: &Authority, name: &str) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(by.der().clone()).unwrap_or_else(|e| panic!("{e}"));
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
    let (certificate, key) = signed(by, name);
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap_or_else(|e| panic!("{e}"));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap_or_else(|e| panic!("{e}"))
        .with_client_cert_verifier(verifier.unwrap_or_else(|e| panic!("{e}")))
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap_or_else(|e| panic!("{e}"));
    TlsAcceptor::from(Arc::new(config))
}

/// A server that answers every query with 1. Its TLS can be changed, and it keeps no connection.
async fn serve(tls: Arc<Mutex<TlsAcceptor>>) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.unwrap_or_else(|e| panic!("{e}"));
    let port = listener.local_addr().unwrap_or_else(|e| panic!("{e}")).port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tls = tls.lock().unwrap_or_else(|e| panic!("{e}")).clone();
            tokio::spawn(async move {
                let Ok(stream) = tls.accept(stream).await else { return };
                let service = hyper::service::service_fn(|_| async {
                    let answer = http::Response::builder().header("content-type", "application/json");
                    answer.body(Full::new(bytes::Bytes::from_static(ONE.as_bytes())))
                });
                let io = hyper_util::rt::TokioIo::new(stream);
                let mut server = hyper::server::conn::http1::Builder::new();
                let _ = server.keep_alive(false).serve_connection(io, service).await;
            });
        }
    });
    port
}

/// The certificate of the authority, and one of ours with its key, as files.
fn write(folder: &Path, by: &Authority) -> ClientTls {
    let (certificate, key) = signed(by, "weir");
    let file = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap_or_else(|e| panic!("{e}"));
        Some(Pem::File(path))
    };
    ClientTls {
        ca: file("ca.crt", by.pem()),
        cert: file("tls.crt", certificate.pem()),
        key: file("tls.key", key.serialize_pem()),
        ..ClientTls::default()
    }
}

async fn ask(tls: ClientTls, url: &str) -> Result<String, String> {
    let settings = Settings {
        tls,
        ..Settings::default()
    };
    let upstream = Upstream::new(url, &settings, Limits::default()).map_err(|e| e.to_string())?;
    let route = Route { rule: None, upstream };
    let remote = Remote::new(vec![route], Options::default()).map_err(|e| e.to_string())?;
    let value = remote.instant("vector(1)", 1000).await.map_err(|e| e.to_string())?;
    Ok(value.into_vector().iter().map(|s| s.value.to_string()).collect())
}

#[tokio::test]
async fn certificates_are_checked_on_both_sides() {
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let ours = authority();
    let port = serve(Arc::new(Mutex::new(wanting(&ours, "localhost")))).await;
    let (by_name, by_address) = (format!("https://localhost:{port}"), format!("https://127.0.0.1:{port}"));
    let all = write(folder.path(), &ours);
    assert_eq!(ask(all.clone(), &by_name).await, Ok("1".to_owned()));
    let inline = ClientTls {
        ca: Some(Pem::Inline(ours.pem())),
        ..all.clone()
    };
    assert_eq!(ask(inline, &by_name).await, Ok("1".to_owned()));

    let unknown = ClientTls {
        ca: None,
        ..all.clone()
    };
    let refused = ask(unknown.clone(), &by_name).await;
    assert!(
        refused.as_ref().is_err_and(|e| e.contains("UnknownIssuer")),
        "{refused:?}"
    );
    let anybody = ClientTls {
        insecure_skip_verify: true,
        ..unknown
    };
    assert_eq!(ask(anybody, &by_name).await, Ok("1".to_owned()));

    let refused = ask(all.clone(), &by_address).await;
    assert!(
        refused.as_ref().is_err_and(|e| e.contains("not valid for name")),
        "{refused:?}"
    );
    let renamed = ClientTls {
        server_name: Some("localhost".to_owned()),
        ..all.clone()
    };
    assert_eq!(ask(renamed, &by_address).await, Ok("1".to_owned()));

    let nobody = ClientTls {
        cert: None,
        key: None,
        ..all.clone()
    };
    assert!(ask(nobody, &by_name).await.is_err(), "the server wants a certificate");
    let missing = ClientTls {
        key: Some(Pem::File(folder.path().join("missing.key"))),
        ..all
    };
    let refused = ask(missing, &by_name).await;
    assert!(
        refused
            .as_ref()
            .is_err_and(|e| e.contains("missing.key cannot be read")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn renewed_certificates_need_no_restart() {
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let (before, after) = (authority(), authority());
    let server = Arc::new(Mutex::new(wanting(&before, "localhost")));
    let url = format!("https://localhost:{}/", serve(server.clone()).await);
    let settings = Settings {
        tls: write(folder.path(), &before),
        ..Settings::default()
    };
    let client = Client::new(&settings).unwrap_or_else(|e| panic!("{e}"));
    let get = || async { client.get(&url, LIMIT).await.map(|a| a.status.as_u16()) };
    assert_eq!(get().await, Ok(200));
    *server.lock().unwrap_or_else(|e| panic!("{e}")) = wanting(&after, "localhost");
    assert!(get().await.is_err());

    // Half of a new pair is no pair: what was there before stays in use, and nothing breaks.
    let touch = |name: &str, seconds| {
        let file = File::options().write(true).open(folder.path().join(name));
        let later = SystemTime::now() + Duration::from_secs(seconds);
        file.and_then(|f| f.set_modified(later))
            .unwrap_or_else(|e| panic!("{e}"));
    };
    std::fs::write(folder.path().join("tls.key"), "").unwrap_or_else(|e| panic!("{e}"));
    touch("tls.key", 10);
    assert!(get().await.is_err());
    write(folder.path(), &after);
    for name in ["ca.crt", "tls.crt", "tls.key"] {
        touch(name, 20);
    }
    assert_eq!(get().await, Ok(200));
}
