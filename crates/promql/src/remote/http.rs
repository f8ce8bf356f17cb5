//! HTTP requests with credentials and limits: a URL and bytes go in, a status and bytes come out.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use std::{
    error::Error as StdError,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};
use weir_tls::{ClientTls, TlsError};

/// Bytes of an answer.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// Redirects that are followed one after another.
const MAX_REDIRECTS: usize = 10;
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
    /// Go where a redirect leads.
    pub follow_redirects: bool,
    /// Of `https` URLs. Files that are written anew count for the connections after that.
    pub tls: ClientTls,
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

type Connections = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Sends requests. Connections are kept between them. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    tls: ClientTls,
    /// And when the files were written that it was made from.
    pool: Arc<Mutex<([Option<SystemTime>; 3], Connections)>>,
    credentials: Credentials,
    headers: HeaderMap,
    follow_redirects: bool,
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
        let written = settings.tls.written();
        Ok(Client {
            tls: settings.tls.clone(),
            pool: Arc::new(Mutex::new((written, connect(&settings.tls)?))),
            credentials: settings.credentials.clone(),
            headers,
            follow_redirects: settings.follow_redirects,
        })
    }

    /// The pool, made anew if certificates were. One that cannot be read leaves it as it was: files are not written at once.
    fn connections(&self) -> Connections {
        let written = self.tls.written();
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.0 != written {
            pool.0 = written;
            match connect(&self.tls) {
                Ok(connections) => pool.1 = connections,
                Err(error) => tracing::warn!(%error, "certificates were written anew; those before stay in use"),
            }
        }
        pool.1.clone()
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
        let redirected = async {
            let mut url = url.to_owned();
            for _ in 0..MAX_REDIRECTS {
                let request = self.request(&method, &url, headers, body.clone()).await?;
                let answer = self.exchange(request).await?;
                match self.next(&method, &url, &answer) {
                    Some(next) => url = next,
                    None => return Ok(answer),
                }
            }
            Err(Error::Connection(format!(
                "{url} is the end of {MAX_REDIRECTS} redirects"
            )))
        };
        let answer = tokio::time::timeout(limit, redirected).await;
        answer.map_err(|_| Error::Timeout(limit))?
    }

    async fn request(
        &self,
        method: &Method,
        url: &str,
        headers: &[(&'static str, &str)],
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Error> {
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
        Ok(request)
    }

    /// Where an answer sends a request. A POST goes only where its body may go with it.
    fn next(&self, method: &Method, from: &str, answer: &Answer) -> Option<String> {
        let elsewhere = match answer.status {
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => *method == Method::GET,
            _ => false,
        };
        let to = answer.headers.get(header::LOCATION)?.to_str().ok()?;
        if !self.follow_redirects || !elsewhere {
            return None;
        }
        if !to.starts_with('/') {
            return Some(to.to_owned());
        }
        let server = http::Uri::try_from(from).ok()?;
        Some(format!("{}://{}{to}", server.scheme_str()?, server.authority()?))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, Error> {
        let broken = |e: &(dyn StdError + 'static)| Error::Connection(chain(e));
        let response = self.connections().request(request).await.map_err(|e| broken(&e))?;
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

/// A pool of connections with what the files hold now.
fn connect(tls: &ClientTls) -> Result<Connections, Error> {
    let wrong = |e: TlsError| Error::Settings(e.to_string());
    let mut http = HttpConnector::new();
    http.set_nodelay(true);
    http.enforce_http(false);
    http.set_connect_timeout(Some(CONNECT));
    let builder = HttpsConnectorBuilder::new()
        .with_tls_config(tls.config().map_err(wrong)?)
        .https_or_http();
    let connector = match &tls.server_name {
        None => builder.enable_http1().wrap_connector(http),
        Some(name) => builder
            .with_server_name_resolver(FixedServerNameResolver::new(tls.name_of(name).map_err(wrong)?))
            .enable_http1()
            .wrap_connector(http),
    };
    Ok(legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(MAX_IDLE)
        .build(connector))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn redirects_are_followed_where_the_body_may_go_along() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.unwrap_or_else(|e| panic!("{e}"));
        let address = listener.local_addr().unwrap_or_else(|e| panic!("{e}"));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| async move {
                    let path = request.uri().path().to_owned();
                    let method = request.method().clone();
                    let body = request.into_body().collect().await?.to_bytes();
                    let answer = http::Response::builder();
                    let answer = match path.as_str() {
                        "/moved" => answer.status(301).header("location", "/there"),
                        "/kept" => answer.status(307).header("location", format!("http://{address}/there")),
                        "/circle" => answer.status(308).header("location", "/circle"),
                        _ => answer.status(200),
                    };
                    let text = format!("{method} {path} {}", String::from_utf8_lossy(&body));
                    Ok::<_, hyper::Error>(answer.body(Full::new(Bytes::from(text))).unwrap_or_default())
                });
                let io = hyper_util::rt::TokioIo::new(stream);
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
            }
        });
        let client = |follow_redirects| {
            let settings = Settings {
                follow_redirects,
                ..Settings::default()
            };
            Client::new(&settings).unwrap_or_else(|e| panic!("{e}"))
        };
        let limit = Duration::from_secs(20);
        let text = |answer: Result<Answer, Error>| {
            let answer = answer.unwrap_or_else(|e| panic!("{e}"));
            format!("{} {}", answer.status.as_u16(), String::from_utf8_lossy(&answer.body))
        };
        let url = |path| format!("http://{address}/{path}");
        let post = async |follow, path| client(follow).post(&url(path), &[], Bytes::from("x"), limit).await;
        assert_eq!(text(client(true).get(&url("moved"), limit).await), "200 GET /there ");
        assert_eq!(text(client(true).get(&url("kept"), limit).await), "200 GET /there ");
        assert_eq!(text(client(false).get(&url("moved"), limit).await), "301 GET /moved ");
        assert_eq!(text(post(true, "kept").await), "200 POST /there x");
        assert_eq!(text(post(true, "moved").await), "301 POST /moved x");
        assert_eq!(text(post(false, "kept").await), "307 POST /kept x");
        let circle = post(true, "circle").await.err();
        assert!(
            matches!(circle, Some(Error::Connection(ref why)) if why.contains("10 redirects")),
            "{circle:?}"
        );
    }
}
