//! Gets pages over HTTP or HTTPS, within limits of time and size, on one connection that is kept between scrapes.

mod connect;
mod intake;
mod tls;

use crate::config::{Authorization, HttpConfig, Job, Protocol};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use connect::Connection;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use intake::{Bounds, Intake};
use std::{error::Error as StdError, path::Path, time::Duration};
use weir_series::exposition::Format;

/// Why a page could not be got.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The address makes no URL.
    #[error("{url} is not a URL: {reason}")]
    Url {
        /// What was tried.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No connection, or it broke.
    #[error("{0}")]
    Connection(String),
    /// A certificate, a key or a password cannot be used.
    #[error("{0}")]
    Credentials(String),
    /// Another status than 200.
    #[error("the target answered {0} where 200 is needed")]
    Status(StatusCode),
    /// Redirected in a circle, or nowhere.
    #[error("the redirect to {0:?} leads nowhere")]
    Redirect(String),
    /// Too slow, or endless.
    #[error("the page did not end within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// Too large.
    #[error("the page is larger than the {0} bytes that body_size_limit allows")]
    TooLarge(u64),
    /// More than the store would take of it.
    #[error("the page has more than the {0} samples that sample_limit allows")]
    TooManySamples(u64),
    /// Not what it says it is.
    #[error("the page is no gzip: {0}")]
    Gzip(String),
    /// Another format than any that was asked for.
    #[error("the page is {0:?} where a Prometheus text format, OpenMetrics or protobuf is needed")]
    ContentType(String),
}

/// What was got.
pub(crate) struct Page {
    pub bytes: Vec<u8>,
    pub format: Format,
}

/// Redirects that are followed one after another.
const MAX_REDIRECTS: usize = 10;
const USER_AGENT: &str = concat!("weir/", env!("CARGO_PKG_VERSION"));

/// Gets the pages of one server.
pub(crate) struct Fetcher {
    http: HttpConfig,
    connection: Option<Connection>,
    accept: HeaderValue,
    compression: bool,
    bounds: Bounds,
    fallback: Format,
    /// Bytes of the last page: the next one is about as large.
    last_bytes: usize,
}

impl Fetcher {
    /// For the targets of a job.
    pub fn of_job(job: &Job) -> Self {
        let accept = accept(&job.protocols);
        Fetcher {
            accept: HeaderValue::from_str(&accept).unwrap_or(HeaderValue::from_static("*/*")),
            compression: job.compression,
            bounds: Bounds {
                bytes: job.limits.body_bytes,
                samples: job.samples_max(),
            },
            fallback: match job.fallback {
                Protocol::Proto => Format::Proto,
                Protocol::OpenMetrics0 | Protocol::OpenMetrics1 => Format::OpenMetrics,
                Protocol::Text | Protocol::Text1 => Format::Text,
            },
            ..Self::of_json(&job.http)
        }
    }

    /// For a server that answers JSON.
    pub fn of_json(http: &HttpConfig) -> Self {
        Fetcher {
            http: http.clone(),
            connection: None,
            accept: HeaderValue::from_static("application/json"),
            compression: true,
            bounds: Bounds {
                bytes: 64 << 20,
                samples: u64::MAX,
            },
            fallback: Format::Text,
            last_bytes: 0,
        }
    }

    /// A page of metrics.
    pub async fn page(&mut self, url: &str, timeout: Duration) -> Result<Page, FetchError> {
        let (bytes, content_type) = self.within(url, timeout).await?;
        let format = match content_type.as_deref() {
            None | Some("") => self.fallback,
            Some(given) => Format::of(given).unwrap_or(self.fallback),
        };
        if format == self.fallback
            && let Some(given) = content_type.filter(|c| c.trim_start().to_ascii_lowercase().starts_with("text/html"))
        {
            return Err(FetchError::ContentType(given));
        }
        Ok(Page { bytes, format })
    }

    /// Any body.
    pub async fn body(&mut self, url: &str, timeout: Duration) -> Result<Vec<u8>, FetchError> {
        Ok(self.within(url, timeout).await?.0)
    }

    async fn within(&mut self, url: &str, timeout: Duration) -> Result<(Vec<u8>, Option<String>), FetchError> {
        // What is cut off by the time limit takes its connection with it: it was taken out of `self`.
        match tokio::time::timeout(timeout, self.get(url, timeout)).await {
            Ok(got) => got,
            Err(_) => Err(FetchError::Timeout(timeout)),
        }
    }

    async fn get(&mut self, url: &str, timeout: Duration) -> Result<(Vec<u8>, Option<String>), FetchError> {
        let mut uri = parse(url)?;
        for _ in 0..MAX_REDIRECTS {
            let (response, connection) = self.ask(&uri, timeout).await?;
            let status = response.status();
            if status.is_redirection()
                && self.http.follow_redirects
                && let Some(location) = response.headers().get(header::LOCATION)
            {
                uri = follow(&uri, location)?;
                continue;
            }
            if status != StatusCode::OK {
                return Err(FetchError::Status(status));
            }
            let text = |name| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
            let content_type = text(header::CONTENT_TYPE);
            let packed = text(header::CONTENT_ENCODING).is_some_and(|coding| coding.eq_ignore_ascii_case("gzip"));
            let lines = content_type.as_deref().and_then(Format::of).unwrap_or(self.fallback) != Format::Proto;
            let body = self.read(response.into_body(), packed, lines).await?;
            self.connection = Some(connection);
            self.last_bytes = body.len();
            return Ok((body, content_type));
        }
        Err(FetchError::Redirect(uri.to_string()))
    }

    /// Sends the request; once more on a new connection where the old one turns out to be closed.
    async fn ask(&mut self, uri: &Uri, timeout: Duration) -> Result<(Response<Incoming>, Connection), FetchError> {
        let authorization = self.http.authorization.as_ref().map(authorization).transpose()?;
        let kept = self.connection.take().filter(|c| c.leads_to(uri));
        let request = || self.request(uri, authorization.as_ref(), timeout);
        if let Some(mut connection) = kept
            && let Ok(response) = connection.send(request()?).await
        {
            return Ok((response, connection));
        }
        let mut connection = Connection::open(uri, &self.http.tls).await?;
        let sent = connection.send(request()?).await;
        let response = sent.map_err(|e| FetchError::Connection(chain(&e)))?;
        Ok((response, connection))
    }

    fn request(
        &self,
        uri: &Uri,
        authorization: Option<&HeaderValue>,
        timeout: Duration,
    ) -> Result<Request<Empty<Bytes>>, FetchError> {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::get(path)
            .header(header::HOST, uri.authority().map_or("", |a| a.as_str()))
            .header(header::ACCEPT, &self.accept)
            .header(header::USER_AGENT, USER_AGENT)
            .header("x-prometheus-scrape-timeout-seconds", timeout.as_secs_f64().to_string());
        let coding = if self.compression { "gzip" } else { "identity" };
        request = request.header(header::ACCEPT_ENCODING, coding);
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        for (name, value) in &self.http.headers {
            request = request.header(name, value);
        }
        request.body(Empty::new()).map_err(|e| FetchError::Url {
            url: uri.to_string(),
            reason: e.to_string(),
        })
    }

    async fn read(&self, mut body: Incoming, packed: bool, lines: bool) -> Result<Vec<u8>, FetchError> {
        let mut bounds = self.bounds;
        if !lines {
            bounds.samples = u64::MAX;
        }
        // An eighth more: pages grow. Never more than the limit on a server's word.
        let expected = (self.last_bytes + self.last_bytes / 8) as u64;
        let expected = usize::try_from(expected.min(bounds.bytes)).unwrap_or_default();
        let mut intake = Intake::new(packed, expected, bounds);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| FetchError::Connection(chain(&e)))?;
            if let Some(data) = frame.data_ref() {
                intake.take(data)?;
            }
        }
        intake.end()
    }
}

/// As Prometheus asks: the formats of the job, the best first, then anything.
fn accept(protocols: &[Protocol]) -> String {
    let mut weight = protocols.len() + 1;
    let mut parts: Vec<String> = Vec::new();
    for protocol in protocols {
        let kind = match protocol {
            Protocol::Proto => {
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
            }
            Protocol::OpenMetrics1 => "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8",
            Protocol::OpenMetrics0 => "application/openmetrics-text;version=0.0.1",
            Protocol::Text1 => "text/plain;version=1.0.0;escaping=allow-utf-8",
            Protocol::Text => "text/plain;version=0.0.4",
        };
        parts.push(format!("{kind};q=0.{weight}"));
        weight -= 1;
    }
    parts.push(format!("*/*;q=0.{weight}"));
    parts.join(",")
}

fn parse(url: &str) -> Result<Uri, FetchError> {
    let wrong = |reason: String| FetchError::Url {
        url: url.to_owned(),
        reason,
    };
    let uri: Uri = url.parse().map_err(|e: http::uri::InvalidUri| wrong(e.to_string()))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http" | "https"), Some(host)) if !host.is_empty() => Ok(uri),
        _ => Err(wrong("it needs http:// or https:// and a host".to_owned())),
    }
}

fn follow(from: &Uri, location: &HeaderValue) -> Result<Uri, FetchError> {
    let text = location.to_str().unwrap_or_default();
    let nowhere = || FetchError::Redirect(text.to_owned());
    let to: Uri = text.parse().map_err(|_| nowhere())?;
    if to.scheme().is_some() {
        return parse(text).map_err(|_| nowhere());
    }
    let mut parts = from.clone().into_parts();
    let path = match text.starts_with('/') {
        true => text.to_owned(),
        false => format!(
            "{}/{text}",
            from.path().rsplit_once('/').map_or("", |(folder, _)| folder)
        ),
    };
    parts.path_and_query = Some(path.parse().map_err(|_| nowhere())?);
    Uri::from_parts(parts).map_err(|_| nowhere())
}

fn authorization(who: &Authorization) -> Result<HeaderValue, FetchError> {
    let read = |path: &Path| {
        let text = std::fs::read_to_string(path);
        text.map(|text| text.trim().to_owned())
            .map_err(|e| FetchError::Credentials(format!("{} cannot be read: {e}", path.display())))
    };
    let basic = |user: &str, password: &str| format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
    let text = match who {
        Authorization::Inline { kind, credentials } => format!("{kind} {credentials}"),
        Authorization::File { kind, path } => format!("{kind} {}", read(path)?),
        Authorization::Basic { user, password } => basic(user, password),
        Authorization::BasicFile { user, path } => basic(user, &read(path)?),
    };
    let mut value = HeaderValue::from_str(&text)
        .map_err(|_| FetchError::Credentials("the credentials hold characters that no header may have".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
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
mod tests;
