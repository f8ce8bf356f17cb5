//! `reviews`: what readers say. v1 shows no stars, v2 black ones, v3 red ones, from `ratings`.

use std::rc::Rc;

use clap::{Args, ValueEnum};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use crate::server::{self, Answer, Call};
use crate::upstream::{Target, Upstream};
use crate::{ServerOptions, headers};

#[derive(Args)]
pub struct Options {
    /// Which version of the service to be.
    #[arg(long, env = "BOOKINFO_VERSION")]
    version: Version,
    /// Where `ratings` is.
    #[arg(long, env = "BOOKINFO_RATINGS", default_value = "http://ratings:9080", value_parser = Target::parse)]
    ratings: Target,
    #[command(flatten)]
    server: ServerOptions,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Version {
    V1,
    V2,
    V3,
}

struct Reviews {
    version: Version,
    ratings: Upstream,
    pod: String,
}

pub async fn run(options: Options) -> anyhow::Result<()> {
    let reviews = Rc::new(Reviews {
        version: options.version,
        ratings: Upstream::new(options.ratings),
        pod: server::pod_name(),
    });
    server::run(options.server, move |call| {
        let reviews = reviews.clone();
        async move { reviews.answer(call).await }
    })
    .await
}

impl Reviews {
    async fn answer(&self, call: Call) -> Answer {
        let path = call.path();
        let ["reviews", id] = path[..] else {
            return server::not_found(&call);
        };
        let stars = self.stars(id, headers::propagated(&call.headers)).await;
        let review = |reviewer: &str, text: &str| {
            let mut review = json!({"reviewer": reviewer, "text": text});
            if let Some(stars) = &stars {
                review["rating"] = stars(reviewer);
            }
            review
        };
        let body = json!({
            "id": id,
            "podname": self.pod,
            "clustername": "null",
            "reviews": [
                review("Reviewer1", "Two heirs, one mill and a river that belongs to nobody. I read it in a night."),
                review("Reviewer2", "Slow like the water in August, and then the dam goes. Worth the wait."),
            ],
        });
        server::json(StatusCode::OK, &body)
    }

    /// How to rate a reviewer's review; `None` for v1, which does not know stars.
    async fn stars(&self, id: &str, headers: HeaderMap) -> Option<impl Fn(&str) -> Value> {
        let color = match self.version {
            Version::V1 => return None,
            Version::V2 => "black",
            Version::V3 => "red",
        };
        let ratings = match self.ratings.get(&format!("/ratings/{id}"), headers).await {
            Ok((StatusCode::OK, body)) => serde_json::from_slice::<Value>(&body).ok(),
            _ => None,
        };
        Some(move |reviewer: &str| match &ratings {
            Some(ratings) => json!({"stars": ratings["ratings"][reviewer], "color": color}),
            None => json!({"error": "the stars cannot be had at the moment"}),
        })
    }
}
