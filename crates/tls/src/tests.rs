//! Handshakes without a network: a client and a server hand each other their bytes.

use super::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConnection, ServerConfig, ServerConnection};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap_or_else(|e| panic!("{e}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap_or_else(|e| panic!("{e}"));
    CertifiedIssuer::self_signed(params, key).unwrap_or_else(|e| panic!("{e}"))
}

/// Certificate and key, PEM.
fn signed(by: &Authority, name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap_or_else(|e| panic!("{e}"));
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap_or_else(|e| panic!("{e}"));
    let certificate = params.signed_by(&key, by).unwrap_or_else(|e| panic!("{e}"));
    (certificate.pem(), key.serialize_pem())
}

/// A server called `store`; with `clients`, it wants certificates of that authority.
fn server(by: &Authority, clients: Option<&Authority>) -> Arc<ServerConfig> {
    let (certificate, key) = signed(by, "store");
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap_or_else(|e| panic!("{e}"));
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der().clone()).unwrap_or_else(|e| panic!("{e}"));
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
            builder.with_client_cert_verifier(verifier.unwrap_or_else(|e| panic!("{e}")))
        }
    };
    let chain = certificates("cert", &Pem::Inline(certificate)).unwrap_or_else(|e| panic!("{e}"));
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
    Arc::new(builder.with_single_cert(chain, key).unwrap_or_else(|e| panic!("{e}")))
}

/// A handshake with `host`, to its end on both sides.
fn meet(tls: &ClientTls, host: &str, server: Arc<ServerConfig>) -> Result<(), String> {
    let text = |e: rustls::Error| e.to_string();
    let name = tls.name_of(host).map_err(|e| e.to_string())?;
    let config = tls.config().map_err(|e| e.to_string())?;
    let mut client = ClientConnection::new(Arc::new(config), name).map_err(text)?;
    let mut server = ServerConnection::new(server).map_err(text)?;
    let mut bytes = Vec::new();
    while client.is_handshaking() || server.is_handshaking() || client.wants_write() || server.wants_write() {
        bytes.clear();
        while client.wants_write() {
            client.write_tls(&mut bytes).map_err(|e| e.to_string())?;
        }
        let mut unread = bytes.as_slice();
        while !unread.is_empty() {
            server.read_tls(&mut unread).map_err(|e| e.to_string())?;
            server.process_new_packets().map_err(text)?;
        }
        bytes.clear();
        while server.wants_write() {
            server.write_tls(&mut bytes).map_err(|e| e.to_string())?;
        }
        let mut unread = bytes.as_slice();
        while !unread.is_empty() {
            client.read_tls(&mut unread).map_err(|e| e.to_string())?;
            client.process_new_packets().map_err(text)?;
        }
    }
    Ok(())
}

#[test]
fn only_a_certificate_of_the_authority_for_this_name_is_taken() {
    let (ours, strange) = (authority(), authority());
    let trusting = ClientTls {
        ca: Some(Pem::Inline(ours.pem())),
        ..ClientTls::default()
    };
    assert_eq!(meet(&trusting, "store", server(&ours, None)), Ok(()));
    let refused = meet(&trusting, "store", server(&strange, None));
    assert!(
        refused.as_ref().is_err_and(|e| e.contains("invalid peer certificate")),
        "{refused:?}"
    );
    let refused = meet(&trusting, "shop", server(&ours, None));
    assert!(
        refused.as_ref().is_err_and(|e| e.contains("not valid for name")),
        "{refused:?}"
    );
    let renamed = ClientTls {
        server_name: Some("store".to_owned()),
        ..trusting
    };
    assert_eq!(meet(&renamed, "10.0.0.1", server(&ours, None)), Ok(()));
    let of_system = meet(&ClientTls::default(), "store", server(&ours, None));
    assert!(of_system.is_err());
}

#[test]
fn anybody_is_anybody() {
    assert_eq!(
        meet(&ClientTls::of_anybody(), "shop", server(&authority(), None)),
        Ok(())
    );
}

#[test]
fn a_server_that_wants_a_certificate_gets_ours() {
    let (ours, strange) = (authority(), authority());
    let nobody = ClientTls {
        ca: Some(Pem::Inline(ours.pem())),
        ..ClientTls::default()
    };
    let somebody = |by: &Authority| {
        let (cert, key) = signed(by, "client");
        ClientTls {
            cert: Some(Pem::Inline(cert)),
            key: Some(Pem::Inline(key)),
            ..nobody.clone()
        }
    };
    assert!(meet(&nobody, "store", server(&ours, Some(&ours))).is_err());
    assert!(meet(&somebody(&strange), "store", server(&ours, Some(&ours))).is_err());
    assert_eq!(meet(&somebody(&ours), "store", server(&ours, Some(&ours))), Ok(()));
}

#[test]
fn what_is_wrong_is_told_by_part_and_file() {
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap_or_else(|e| panic!("{e}"));
    let (cert, _) = signed(&authority(), "client");
    let (_, other_key) = signed(&authority(), "client");
    let said = |tls: ClientTls| tls.config().err().map_or(String::new(), |e| e.to_string());
    let file = |path: &std::path::Path| Some(Pem::File(path.to_owned()));
    let missing = ClientTls {
        ca: file(&folder.path().join("missing.pem")),
        ..ClientTls::default()
    };
    let text = said(missing);
    assert!(
        text.starts_with("ca: /") && text.contains("missing.pem cannot be read: "),
        "{text}"
    );
    let nothing = ClientTls {
        ca: file(&empty),
        ..ClientTls::default()
    };
    assert_eq!(
        said(nothing),
        format!("ca: {}: there is no certificate in it", empty.display())
    );
    let half = ClientTls {
        cert: Some(Pem::Inline(cert.clone())),
        ..ClientTls::default()
    };
    assert_eq!(said(half), "a certificate needs its key, and a key its certificate");
    let mixed = ClientTls {
        cert: Some(Pem::Inline(cert)),
        key: Some(Pem::Inline(other_key)),
        ..ClientTls::default()
    };
    assert!(said(mixed).starts_with("cert: "));
    let bad_name = ClientTls {
        server_name: Some("a b".to_owned()),
        ..ClientTls::default()
    };
    assert_eq!(
        bad_name.name_of("host").err().map(|e| e.to_string()).as_deref(),
        Some("\"a b\" is no name that a certificate can have")
    );
}

#[test]
fn a_file_that_is_written_anew_is_noticed() {
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, "one").unwrap_or_else(|e| panic!("{e}"));
    let tls = ClientTls {
        ca: Some(Pem::File(path.clone())),
        ..ClientTls::default()
    };
    let before = tls.written();
    assert_eq!(tls.written(), before);
    let later = SystemTime::now() + std::time::Duration::from_secs(5);
    let file = std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap_or_else(|e| panic!("{e}"));
    file.set_modified(later).unwrap_or_else(|e| panic!("{e}"));
    assert_ne!(tls.written(), before);
}
