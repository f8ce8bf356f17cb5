//! Requests against servers of a few lines: credentials, redirects, limits, gzip.

use super::*;
use std::sync::Arc;

#[test]
fn formats_are_asked_for_in_the_order_of_the_job() {
    let text = accept(&[Protocol::OpenMetrics1, Protocol::Text]);
    let expected = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
    assert_eq!(text, expected);
    let proto = accept(&[Protocol::Proto]);
    assert!(
        proto.starts_with("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;"),
        "{proto}"
    );
}

#[test]
fn redirects() {
    let from = parse("http://a:1/x/y?z").unwrap_or_else(|e| panic!("{e}"));
    let to = |location: &'static str| {
        follow(&from, &HeaderValue::from_static(location))
            .map(|u| u.to_string())
            .map_err(|e| e.to_string())
    };
    assert_eq!(to("https://b/metrics"), Ok("https://b/metrics".to_owned()));
    assert_eq!(to("/m"), Ok("http://a:1/m".to_owned()));
    assert_eq!(to("m"), Ok("http://a:1/x/m".to_owned()));
    assert_eq!(
        to("ftp://b/"),
        Err("the redirect to \"ftp://b/\" leads nowhere".to_owned())
    );
}

/// A server that shows what it is asked, over TLS if it has a certificate.
async fn echo(tls: Option<tokio_rustls::TlsAcceptor>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    let port = listener.local_addr().unwrap_or_else(|e| panic!("{e}")).port();
    let scheme = if tls.is_some() { "https" } else { "http" };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            match &tls {
                None => answer(stream).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        answer(stream).await;
                    }
                }
            }
        }
    });
    format!("{scheme}://localhost:{port}")
}

/// One answer: a redirect for `/away`, else the request's head.
async fn answer<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(mut stream: S) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut buffer = [0; 4096];
    let read = stream.read(&mut buffer).await.unwrap_or_default();
    let head = String::from_utf8_lossy(&buffer[..read]).into_owned();
    let text = match head.starts_with("GET /away") {
        true => "HTTP/1.1 302 Found\r\nlocation: /here\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned(),
        false => format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{head}",
            head.len()
        ),
    };
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}

const TIMEOUT: Duration = Duration::from_secs(10);

async fn asked(http: HttpConfig, url: &str) -> Result<String, String> {
    let mut fetcher = Fetcher::of_json(&http);
    let body = fetcher.body(url, TIMEOUT).await;
    body.map(|b| String::from_utf8_lossy(&b).to_lowercase())
        .map_err(|e| e.to_string())
}

#[tokio::test]
async fn who_we_are_and_where_we_are_sent() {
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let token = folder.path().join("token");
    std::fs::write(&token, "from-file\n").unwrap_or_else(|e| panic!("{e}"));
    let url = echo(None).await;
    let with = |authorization| HttpConfig {
        authorization: Some(authorization),
        headers: vec![("x-tenant".to_owned(), "a".to_owned())],
        ..HttpConfig::default()
    };
    let kind = || "Bearer".to_owned();
    let basic = with(Authorization::Basic {
        user: "u".to_owned(),
        password: "p".to_owned(),
    });
    let head = asked(basic, &url).await.unwrap_or_else(|e| panic!("{e}"));
    assert!(
        head.contains("authorization: basic dtpw") && head.contains("x-tenant: a"),
        "{head}"
    );
    let file = with(Authorization::File {
        kind: kind(),
        path: token.clone(),
    });
    let head = asked(file.clone(), &url).await.unwrap_or_else(|e| panic!("{e}"));
    assert!(head.contains("authorization: bearer from-file\r"), "{head}");
    std::fs::remove_file(&token).unwrap_or_else(|e| panic!("{e}"));
    assert!(
        asked(file, &url)
            .await
            .is_err_and(|e| e.contains("token cannot be read"))
    );
    let head = asked(HttpConfig::default(), &format!("{url}/away"))
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(head.starts_with("get /here "), "{head}");
    let stay = HttpConfig {
        follow_redirects: false,
        ..HttpConfig::default()
    };
    assert!(
        asked(stay, &format!("{url}/away"))
            .await
            .is_err_and(|e| e.contains("302"))
    );
}

#[tokio::test]
async fn tls_is_checked() {
    use weir_tls::{ClientTls, Pem};
    let signed = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap_or_else(|e| panic!("{e}"));
    let key =
        rustls_pki_types::PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap_or_else(|e| panic!("{e}"));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap_or_else(|e| panic!("{e}"))
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key)
        .unwrap_or_else(|e| panic!("{e}"));
    let url = echo(Some(Arc::new(server).into())).await;
    let with = |tls| HttpConfig {
        tls,
        ..HttpConfig::default()
    };
    let unknown = asked(HttpConfig::default(), &url).await;
    assert!(unknown.is_err_and(|e| e.contains("TLS with localhost")));
    let ca = Some(Pem::Inline(signed.cert.pem()));
    let known = asked(
        with(ClientTls {
            ca: ca.clone(),
            ..ClientTls::default()
        }),
        &url,
    )
    .await;
    assert!(known.is_ok_and(|head| head.starts_with("get / ")));
    let other_name = ClientTls {
        ca,
        server_name: Some("other".to_owned()),
        ..ClientTls::default()
    };
    assert!(asked(with(other_name), &url).await.is_err());
    let anybody = ClientTls {
        insecure_skip_verify: true,
        ..ClientTls::default()
    };
    assert!(asked(with(anybody), &url).await.is_ok());
    let missing = ClientTls {
        ca: Some(Pem::File("/nowhere/ca.crt".into())),
        ..ClientTls::default()
    };
    assert!(
        asked(with(missing), &url)
            .await
            .is_err_and(|e| e.contains("/nowhere/ca.crt cannot be read"))
    );
}
