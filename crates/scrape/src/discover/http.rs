//! `http_sd_configs`: groups of targets from an HTTP server, asked again and again.

use super::{Publish, file, label_sets};
use crate::{config::HttpConfig, fetch::Fetcher};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const TIMEOUT: Duration = Duration::from_secs(30);
/// No server is asked more often.
const REFRESH_MIN: Duration = Duration::from_millis(100);
const URL: &str = "__meta_url";

/// Asks until `stop`. What the server said last stays while it does not answer.
pub(super) async fn run(url: String, refresh: Duration, mut http: HttpConfig, out: Publish, stop: CancellationToken) {
    let seconds = refresh.as_secs_f64().to_string();
    http.headers
        .push(("x-prometheus-refresh-interval-seconds".to_owned(), seconds));
    let mut fetcher = Fetcher::of_json(&http);
    loop {
        let asked = tokio::select! {
            () = stop.cancelled() => return,
            asked = fetcher.body(&url, TIMEOUT) => asked,
        };
        let groups = asked
            .map_err(|e| e.to_string())
            .and_then(|body| file::groups_of_json(&body));
        match groups {
            Ok(groups) => {
                let mut labels: Vec<_> = groups.iter().flat_map(label_sets).collect();
                labels.iter_mut().for_each(|set| set.set(URL, url.as_str()));
                out.set(labels);
            }
            Err(error) => tracing::warn!(%url, %error, "http_sd_configs: the targets are left as they were"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(refresh.max(REFRESH_MIN)) => {}
        }
    }
}
