//! HTTP requests with credentials and limits: a URL and bytes go in, a status and bytes come out.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use std::{error::Error as StdError, path::PathBuf, sync::Arc, time::Duration};

/// Bytes of an answer.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Idle connections to one server.
const MAX_IDLE: usize = 8;
/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(90);

/// A secret, given or in a file, which is read anew for each request.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// As it stands.
    Text(String),
    /// The file's content, without white space around it.
    File(PathBuf),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Secret::Text(_) => f.write_str("<secret>"),
            Secret::File(path) => write!(f, "<secret of {}>", path.display()),
        }
    }
}

impl Secret {
    async fn read(&self) -> Result<String, Error> {
        match self {
            Secret::Text(text) => Ok(text.clone()),
            Secret::File(path) => match tokio::fs::read_to_string(path).await {
                Ok(text) => Ok(text.trim().to_owned()),
                Err(e) => Err(Error::Settings(format!("cannot read {}: {e}", path.display()))),
            },
        }
    }
}

/// Who we say we are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nobody.
    #[default]
    None,
    /// `Authorization: Bearer`, or another type.
    Token {
        /// Usually `Bearer`.
        kind: String,
        /// The token.
        secret: Secret,
    },
    /// `Authorization: Basic`.
    Basic {
        /// User.
        user: String,
        /// Password.
        password: Secret,
    },
}

/// How a server is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// See [`Credentials`].
    pub credentials: Credentials,
    /// Sent with every request.
    pub headers: Vec<(String, String)>,
    /// Certificates (PEM) that the server's must come from; none: those of the system.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate and key (PEM).
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name in the server's certificate, where it is not that of the URL.
    pub server_name: Option<String>,
    /// Take any certificate.
    pub insecure_skip_verify: bool,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A file or a value of the settings.
    #[error("{0}")]
    Settings(String),
    /// No connection, or it broke.
    #[error("{0}")]
    Connection(String),
    /// Too slow.
    #[error("no answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// Too large.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
}

/// An answer of any status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// All of the body.
    pub body: Bytes,
}

/// Sends requests. Connections are kept between them. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    client: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    credentials: Credentials,
    headers: HeaderMap,
}

impl Client {
    /// Reads certificates and checks headers. Secrets of files are read later, for each request.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let mut headers = HeaderMap::new();
        for (name, value) in &settings.headers {
            let bad = || Error::Settings(format!("the header {name:?} is not valid"));
            let value = HeaderValue::from_str(value).map_err(|_| bad())?;
            headers.insert(HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?, value);
        }
        let mut http = HttpConnector::new();
        http.set_nodelay(true);
        http.enforce_http(false);
        http.set_connect_timeout(Some(Duration::from_secs(10)));
        let builder = HttpsConnectorBuilder::new()
            .with_tls_config(tls(settings)?)
            .https_or_http();
        let connector = match &settings.server_name {
            None => builder.enable_http1().wrap_connector(http),
            Some(name) => {
                let name = ServerName::try_from(name.clone());
                let name = name.map_err(|e| Error::Settings(format!("server_name: {e}")))?;
                let resolver = hyper_rustls::FixedServerNameResolver::new(name);
                builder
                    .with_server_name_resolver(resolver)
                    .enable_http1()
                    .wrap_connector(http)
            }
        };
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE)
            .build(connector);
        Ok(Client {
            client,
            credentials: settings.credentials.clone(),
            headers,
        })
    }

    /// GET.
    pub async fn get(&self, url: &str, limit: Duration) -> Result<Answer, Error> {
        self.send(Method::GET, url, &[], Bytes::new(), limit).await
    }

    /// POST.
    pub async fn post(
        &self,
        url: &str,
        headers: &[(&'static str, &str)],
        body: Bytes,
        limit: Duration,
    ) -> Result<Answer, Error> {
        self.send(Method::POST, url, headers, body, limit).await
    }

    async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(&'static str, &str)],
        body: Bytes,
        limit: Duration,
    ) -> Result<Answer, Error> {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request = request.header(header::USER_AGENT, concat!("weir/", env!("CARGO_PKG_VERSION")));
        if let Some(value) = self.authorization().await? {
            request = request.header(header::AUTHORIZATION, value);
        }
        let bad = |e: http::Error| Error::Settings(format!("{url}: {e}"));
        let mut request = request.body(Full::new(body)).map_err(bad)?;
        for (name, value) in &self.headers {
            request.headers_mut().insert(name, value.clone());
        }
        let answer = tokio::time::timeout(limit, self.exchange(request)).await;
        answer.map_err(|_| Error::Timeout(limit))?
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, Error> {
        let broken = |e: &(dyn StdError + 'static)| Error::Connection(chain(e));
        let response = self.client.request(request).await.map_err(|e| broken(&e))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|e| match e.downcast_ref::<LengthLimitError>() {
            Some(_) => Error::TooLarge(MAX_ANSWER_BYTES),
            None => broken(e.as_ref()),
        })?;
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: body.to_bytes(),
        })
    }

    async fn authorization(&self) -> Result<Option<HeaderValue>, Error> {
        let text = match &self.credentials {
            Credentials::None => return Ok(None),
            Credentials::Token { kind, secret } => format!("{kind} {}", secret.read().await?),
            Credentials::Basic { user, password } => {
                format!(
                    "Basic {}",
                    STANDARD.encode(format!("{user}:{}", password.read().await?))
                )
            }
        };
        let value = HeaderValue::from_str(&text);
        let mut value = value.map_err(|_| Error::Settings("the credentials are no header value".into()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

fn tls(settings: &Settings) -> Result<ClientConfig, Error> {
    let broken =
        |what: &std::path::Path, e: &dyn std::fmt::Display| Error::Settings(format!("{}: {e}", what.display()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| Error::Settings(e.to_string()))?;
    let mut roots = RootCertStore::empty();
    match &settings.ca_file {
        Some(file) => {
            let found = CertificateDer::pem_file_iter(file).map_err(|e| broken(file, &e))?;
            for certificate in found {
                let certificate = certificate.map_err(|e| broken(file, &e))?;
                roots.add(certificate).map_err(|e| broken(file, &e))?;
            }
            if roots.is_empty() {
                return Err(broken(file, &"holds no certificate"));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let builder = match settings.insecure_skip_verify {
        true => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))),
        false => builder.with_root_certificates(roots),
    };
    match &settings.identity {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_file_iter(certificate).map_err(|e| broken(certificate, &e))?;
            let chain = chain
                .collect::<Result<Vec<_>, _>>()
                .map_err(|e| broken(certificate, &e))?;
            let key_der = PrivateKeyDer::from_pem_file(key).map_err(|e| broken(key, &e))?;
            builder
                .with_client_auth_cert(chain, key_der)
                .map_err(|e| broken(key, &e))
        }
    }
}

/// Takes any certificate; signatures are checked all the same.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// An error with its causes, for those of the HTTP client say little alone.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
