//! Gets one page over HTTP within limits of time and size. Connections are kept alive between scrapes.

use crate::Target;
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use std::{error::Error as StdError, time::Duration};

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
    /// Another status than 200.
    #[error("the target answered {0} where 200 is needed")]
    Status(StatusCode),
    /// Too slow, or endless.
    #[error("the page did not end within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// Too large.
    #[error("the page is larger than {0} bytes")]
    TooLarge(usize),
    /// Not text.
    #[error("the page is not UTF-8 at byte {0}")]
    NotText(usize),
}

/// Gets pages. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Fetcher {
    client: Client<HttpConnector, Empty<Bytes>>,
    timeout: Duration,
    max_bytes: usize,
}

/// Idle connections to one target: its loop needs one.
const MAX_IDLE: usize = 1;
const ACCEPT: &str = "text/plain;version=0.0.4;q=0.9,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1";

impl Fetcher {
    pub fn new(timeout: Duration, idle: Duration, max_bytes: usize) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(timeout));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(idle)
            .pool_max_idle_per_host(MAX_IDLE)
            .build(connector);
        Fetcher {
            client,
            timeout,
            max_bytes,
        }
    }

    pub async fn get(&self, target: &Target) -> Result<String, FetchError> {
        self.get_within(target, self.timeout).await
    }

    pub async fn get_within(&self, target: &Target, limit: Duration) -> Result<String, FetchError> {
        // A page that is cut off by the time limit takes its connection with it.
        let page = tokio::time::timeout(limit, self.page(target)).await;
        let bytes = page.map_err(|_| FetchError::Timeout(limit))??;
        String::from_utf8(bytes.into()).map_err(|e| FetchError::NotText(e.utf8_error().valid_up_to()))
    }

    async fn page(&self, target: &Target) -> Result<Bytes, FetchError> {
        let url = target.url();
        let request = Request::get(&url)
            .header(header::ACCEPT, ACCEPT)
            .header(header::USER_AGENT, concat!("weir/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|e| FetchError::Url {
                url,
                reason: e.to_string(),
            })?;
        let response = self
            .client
            .request(request)
            .await
            .map_err(|e| FetchError::Connection(chain(&e)))?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), self.max_bytes).collect().await;
        let body = body.map_err(|e| match e.downcast_ref::<LengthLimitError>() {
            Some(_) => FetchError::TooLarge(self.max_bytes),
            None => FetchError::Connection(chain(e.as_ref())),
        })?;
        Ok(body.to_bytes())
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
