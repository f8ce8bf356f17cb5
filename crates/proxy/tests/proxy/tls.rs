//! Clients that speak TLS: which certificate they are shown, and how certificates change.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use weir_xds::{Resource, ResourceType};

use crate::plane::*;
use crate::sides::*;
use crate::support::*;

/// A certificate for some names, as a secret, and as clients trust it.
struct Pair {
    chain: String,
    key: String,
    der: CertificateDer<'static>,
}

fn pair(names: &[&str]) -> Pair {
    let made = rcgen::generate_simple_self_signed(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
    Pair {
        chain: made.cert.pem(),
        key: made.signing_key.serialize_pem(),
        der: made.cert.der().clone(),
    }
}

fn secret(name: &str, chain: &str, key: &str) -> Arc<Resource> {
    let source = |text: &str| {
        Some(core::DataSource {
            specifier: Some(core::data_source::Specifier::InlineBytes(text.as_bytes().to_vec())),
            ..Default::default()
        })
    };
    let message = tls::Secret {
        name: name.into(),
        r#type: Some(tls::secret::Type::TlsCertificate(tls::TlsCertificate {
            certificate_chain: source(chain),
            private_key: source(key),
            ..Default::default()
        })),
    };
    Resource::new(ResourceType::Secret, name, message.encode_to_vec())
}

/// A listener as a gateway has it: a chain for each (names, secret).
fn edge(port: u16, chains: &[(&[&str], &str)]) -> Arc<Resource> {
    let ads = core::ConfigSource {
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(Default::default())),
        ..Default::default()
    };
    let chain = |(names, secret): &(&[&str], &str)| {
        let context = tls::DownstreamTlsContext {
            common_tls_context: Some(tls::CommonTlsContext {
                tls_certificate_sds_secret_configs: vec![tls::SdsSecretConfig {
                    name: (*secret).into(),
                    sds_config: Some(ads.clone()),
                }],
                alpn_protocols: vec!["h2".into(), "http/1.1".into()],
                ..Default::default()
            }),
            ..Default::default()
        };
        listener::FilterChain {
            filter_chain_match: Some(listener::FilterChainMatch {
                server_names: names.iter().map(|n| (*n).into()).collect(),
                ..Default::default()
            }),
            filters: vec![manager(named("web"))],
            transport_socket: Some(core::TransportSocket {
                name: "tls".into(),
                config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(&context))),
            }),
            ..Default::default()
        }
    };
    let mut message = listener_message("edge", local(port), true, manager(named("web")));
    message.filter_chains = chains.iter().map(chain).collect();
    message.listener_filters = vec![listener::ListenerFilter {
        name: "envoy.filters.listener.tls_inspector".into(),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(Any {
            type_url: "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector".into(),
            value: Vec::new(),
        })),
        ..Default::default()
    }];
    Resource::new(ResourceType::Listener, "edge", message.encode_to_vec())
}

/// The service behind [`edge`].
fn behind(server: &Server, edge: Arc<Resource>, secrets: &[Arc<Resource>]) -> Vec<Arc<Resource>> {
    let mut all = vec![
        cluster("svc"),
        endpoints("svc", &[(server.address, "a")]),
        routes("web", &["svc"], "svc"),
        edge,
    ];
    all.extend(secrets.iter().cloned());
    all
}

/// A handshake for a name, in which exactly this certificate must be shown.
async fn shake(port: u16, name: &str, trusted: &Pair, alpn: &[&[u8]]) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.der.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    let stream = TcpStream::connect(local(port)).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    tokio::time::timeout(PATIENCE, connector.connect(name, stream))
        .await
        .expect("an outcome of the handshake")
}

/// One request of HTTP/1.1 on a kept connection.
async fn ask(stream: &mut TlsStream<TcpStream>) -> std::io::Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: svc\r\n\r\n").await?;
    let mut text = Vec::new();
    while !text.ends_with(b"fine") {
        if stream.read_buf(&mut text).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Runs a program and returns what it wrote on both of its outputs.
async fn run(program: &str, arguments: &[&str]) -> String {
    let (name, arguments) = (
        program.to_owned(),
        arguments.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>(),
    );
    let output = tokio::task::spawn_blocking(move || {
        std::process::Command::new(&name)
            .args(arguments)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap_or_else(|e| panic!("this test needs the program {name}: {e}"))
    });
    let output = tokio::time::timeout(PATIENCE, output)
        .await
        .expect("the program's end")
        .unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test]
async fn the_name_of_the_handshake_chooses_the_certificate() {
    let server = Server::http(|_, _| ok("fine")).await;
    let (exact, wild, fallback) = (
        pair(&["a.example.com"]),
        pair(&["*.example.com"]),
        pair(&["anything.test"]),
    );
    let secrets = [
        secret("default/exact", &exact.chain, &exact.key),
        secret("default/wild", &wild.chain, &wild.key),
        secret("default/fallback", &fallback.chain, &fallback.key),
    ];
    let plane = Plane::start().await;
    let port = free_port();
    let chains: [(&[&str], &str); 3] = [
        (&["*.example.com"], "default/wild"),
        (&["a.example.com"], "default/exact"),
        (&[], "default/fallback"),
    ];
    plane.publish(behind(&server, edge(port, &chains[..2]), &secrets));
    let proxy = Proxy::start(&bootstrap(plane.address)).await;
    for (name, certificate) in [
        ("a.example.com", &exact),
        ("b.example.com", &wild),
        ("B.EXAMPLE.com", &wild),
    ] {
        let stream = shake(port, name, certificate, &[b"h2", b"http/1.1"]).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let sender = open_two(stream).await;
        assert_eq!(ask_two(&sender, request("GET", "/"), b"").await.unwrap().body, b"fine");
    }
    for alpn in [&[&b"http/1.1"[..]][..], &[]] {
        let mut stream = shake(port, "a.example.com", &exact, alpn).await.unwrap();
        assert!(ask(&mut stream).await.unwrap().starts_with("HTTP/1.1 200"));
    }
    assert!(
        shake(port, "anything.test", &fallback, &[]).await.is_err(),
        "nobody has this name"
    );

    // A chain for no name in particular takes all others, from then on.
    plane.publish(behind(&server, edge(port, &chains), &secrets));
    eventually("others are answered", async || {
        shake(port, "anything.test", &fallback, &[]).await.is_ok()
    })
    .await;
    shake(port, "a.example.com", &exact, &[]).await.unwrap();

    // The same with clients of others.
    let directory = tempfile::tempdir().unwrap();
    let trusted = write(&directory.path().join("ca.crt"), &exact.chain);
    let (trusted, at) = (trusted.display().to_string(), format!("127.0.0.1:{port}"));
    let resolve = format!("a.example.com:{port}:127.0.0.1");
    let url = format!("https://a.example.com:{port}/");
    for version in ["--http1.1", "--http2"] {
        let said = run(
            "curl",
            &[
                "-sS",
                "-i",
                version,
                "--max-time",
                "10",
                "--cacert",
                &trusted,
                "--resolve",
                &resolve,
                "-H",
                "Host: svc",
                &url,
            ],
        )
        .await;
        assert!(said.contains(" 200") && said.ends_with("fine"), "{version}: {said}");
    }
    for (name, subject) in [
        ("a.example.com", "a.example.com"),
        ("q.example.com", "*.example.com"),
        ("other", "anything.test"),
    ] {
        let said = run("openssl", &["s_client", "-connect", &at, "-servername", name]).await;
        let text = said
            .split_inclusive("-----END CERTIFICATE-----")
            .next()
            .unwrap_or_default();
        let begin = text
            .find("-----BEGIN CERTIFICATE-----")
            .unwrap_or_else(|| panic!("{name}: {said}"));
        let shown = write(&directory.path().join("shown.crt"), &text[begin..]);
        let names = run(
            "openssl",
            &[
                "x509",
                "-noout",
                "-ext",
                "subjectAltName",
                "-in",
                &shown.display().to_string(),
            ],
        )
        .await;
        assert!(names.contains(&format!("DNS:{subject}")), "{name}: {names}");
    }
    drop(proxy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_change_under_load_and_no_connection_drops() {
    const CHANGES: usize = 100;
    let server = Server::http(|_, _| ok("fine")).await;
    let pairs: Arc<Vec<Pair>> = Arc::new((0..3).map(|_| pair(&["svc"])).collect());
    let plane = Plane::start().await;
    let port = free_port();
    let listener = edge(port, &[(&["svc"], "default/svc")]);
    let publish = |i: usize| {
        let secret = secret("default/svc", &pairs[i].chain, &pairs[i].key);
        plane.publish(behind(&server, Arc::clone(&listener), &[secret]));
    };
    publish(0);
    let proxy = Proxy::start(&bootstrap(plane.address)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let mut stream = shake(port, "svc", &pairs[0], &[]).await.unwrap();
        let stop = Arc::clone(&stop);
        clients.spawn(async move {
            let mut requests = 0;
            while !stop.load(Ordering::Relaxed) {
                ask(&mut stream).await.expect("a kept connection stays");
                requests += 1;
            }
            requests
        });
    }
    for _ in 0..2 {
        let (stop, pairs) = (Arc::clone(&stop), Arc::clone(&pairs));
        clients.spawn(async move {
            let mut requests = 0;
            while !stop.load(Ordering::Relaxed) {
                // Whichever is shown, it is one of them; but they may change places between two handshakes.
                let mut shaken = None;
                for pair in pairs.iter().cycle().take(12) {
                    match shake(port, "svc", pair, &[]).await {
                        Ok(stream) => shaken = Some(stream),
                        Err(error) if error.to_string().contains("certificate") => continue,
                        Err(error) => panic!("no handshake: {error}"),
                    }
                    break;
                }
                let Some(mut stream) = shaken else { continue };
                ask(&mut stream).await.expect("a new connection is served");
                requests += 1;
            }
            requests
        });
    }
    for i in 1..=CHANGES {
        publish(i % 2);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    publish(2);
    eventually("the last certificate is shown", async || {
        shake(port, "svc", &pairs[2], &[]).await.is_ok()
    })
    .await;
    for before in &pairs[..2] {
        assert!(shake(port, "svc", before, &[]).await.is_err());
    }
    stop.store(true, Ordering::Relaxed);
    let requests: u64 = clients.join_all().await.into_iter().sum();
    assert!(requests > CHANGES as u64, "{requests} requests");
    eventually("all are recorded", async || {
        proxy.sum("response_total", &["success"]).await == requests as f64
    })
    .await;
}

#[tokio::test]
async fn a_broken_secret_is_refused_by_name_and_the_last_one_stays_also_without_a_control_plane() {
    let server = Server::http(|_, _| ok("fine")).await;
    let (good, other) = (pair(&["svc"]), pair(&["svc"]));
    let plane = Plane::start().await;
    let port = free_port();
    let listener = edge(port, &[(&[], "default/svc")]);
    let publish = |chain: &str, key: &str| {
        let secret = secret("default/svc", chain, key);
        plane.publish(behind(&server, Arc::clone(&listener), &[secret]));
    };
    publish(&good.chain, &good.key);
    let proxy = Proxy::start(&bootstrap(plane.address)).await;
    shake(port, "svc", &good, &[]).await.unwrap();
    for (chain, key, complaint) in [
        (
            &*good.chain,
            &*other.key,
            "private_key: is not the key of the certificate",
        ),
        ("nothing", &good.key, "certificate_chain: holds no certificate in PEM"),
        (&good.chain, "nothing", "private_key: holds no private key in PEM"),
    ] {
        publish(chain, key);
        let expected = format!("default/svc: tls_certificate.{complaint}");
        eventually("it is refused", async || {
            plane
                .nack(ResourceType::Secret)
                .is_some_and(|m| m.starts_with(&expected))
        })
        .await;
        shake(port, "svc", &good, &[]).await.unwrap();
    }
    let address = plane.address;
    let kept = proxy.directory.path().join("state/resources.bin");
    eventually("it is kept on disk", async || kept.exists()).await;
    assert_eq!(kept.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    plane.end().await;
    let proxy = Proxy::launch(&bootstrap(address), proxy.end(), Duration::from_secs(1));
    proxy.wait_ready().await;
    let mut stream = shake(port, "svc", &good, &[]).await.unwrap();
    ask(&mut stream).await.unwrap();
}

#[tokio::test]
async fn secrets_of_the_bootstrap() {
    let server = Server::http(|_, _| ok("fine")).await;
    let (one, two) = (pair(&["one.test"]), pair(&["two.test"]));
    let directory = tempfile::tempdir().unwrap();
    let mut secrets = String::new();
    for (name, pair) in [("one", &one), ("two", &two)] {
        let chain = write(&directory.path().join(format!("{name}.crt")), &pair.chain);
        let key = write(&directory.path().join(format!("{name}.key")), &pair.key);
        secrets += &format!(
            "  - {{name: {name}, tls_certificate: {{certificate_chain: {{filename: {}}}, private_key: {{filename: {}}}}}}}\n",
            chain.display(),
            key.display()
        );
    }
    let port = free_port();
    let chain = |name: &str| {
        format!(
            r#"    - filter_chain_match: {{server_names: [{name}.test]}}
      transport_socket: {{name: tls, typed_config: {{
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext,
        common_tls_context: {{tls_certificate_sds_secret_configs: [{{name: {name}}}]}}}}}}
      filters: [{{name: tcp, typed_config: {{
        "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy,
        stat_prefix: x, cluster: svc}}}}]
"#
        )
    };
    let text = format!(
        r#"
static_resources:
  secrets:
{secrets}  clusters:
  - name: svc
    load_assignment: {{cluster_name: svc, endpoints: [{{lb_endpoints: [{{endpoint: {{address:
      {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}
  listeners:
  - name: edge
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
{}{}"#,
        server.address.port(),
        chain("one"),
        chain("two")
    );
    let proxy = Proxy::start(&text).await;
    for (name, pair) in [("one.test", &one), ("two.test", &two)] {
        let mut stream = shake(port, name, pair, &[]).await.unwrap();
        ask(&mut stream).await.unwrap();
    }
    proxy.end();

    // A name that stands nowhere is a mistake of the file.
    let broken = text.replace("{name: two,", "{name: three,");
    let proxy = Proxy::launch(&broken, tempfile::tempdir().unwrap(), Duration::from_secs(1));
    eventually("it ends at once", async || proxy.has_ended()).await;
}
