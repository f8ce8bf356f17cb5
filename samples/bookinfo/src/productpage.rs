//! `productpage`: the page a visitor sees, and the same data as an API.

use std::fmt::Write as _;
use std::rc::Rc;

use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use crate::server::{self, Answer, Call};
use crate::upstream::{Failure, Target, Upstream};
use crate::{ServerOptions, headers};

const TITLE: &str = "The Weir of Millbrook";
const DESCRIPTION: &str = "A family saga in three floods.";

#[derive(Args)]
pub struct Options {
    /// Where `details` is.
    #[arg(long, env = "BOOKINFO_DETAILS", default_value = "http://details:9080", value_parser = Target::parse)]
    details: Target,
    /// Where `reviews` is.
    #[arg(long, env = "BOOKINFO_REVIEWS", default_value = "http://reviews:9080", value_parser = Target::parse)]
    reviews: Target,
    /// Where `ratings` is (for `/api/v1/products/N/ratings` only).
    #[arg(long, env = "BOOKINFO_RATINGS", default_value = "http://ratings:9080", value_parser = Target::parse)]
    ratings: Target,
    #[command(flatten)]
    server: ServerOptions,
}

struct Shop {
    details: Upstream,
    reviews: Upstream,
    ratings: Upstream,
}

pub async fn run(options: Options) -> anyhow::Result<()> {
    let shop = Rc::new(Shop {
        details: Upstream::new(options.details),
        reviews: Upstream::new(options.reviews),
        ratings: Upstream::new(options.ratings),
    });
    server::run(options.server, move |call| {
        let shop = shop.clone();
        async move { shop.answer(call).await }
    })
    .await
}

impl Shop {
    async fn answer(&self, call: Call) -> Answer {
        let headers = headers::propagated(&call.headers);
        match call.path()[..] {
            [] => server::answer(StatusCode::OK, "text/html; charset=utf-8", front()),
            ["productpage"] => self.page(headers).await,
            ["api", "v1", "products"] => {
                let products = json!([{"id": 0, "title": TITLE, "descriptionHtml": DESCRIPTION}]);
                server::json(StatusCode::OK, &products)
            }
            ["api", "v1", "products", id] => hand_on(self.details.get(&format!("/details/{id}"), headers).await),
            ["api", "v1", "products", id, "reviews"] => {
                hand_on(self.reviews.get(&format!("/reviews/{id}"), headers).await)
            }
            ["api", "v1", "products", id, "ratings"] => {
                hand_on(self.ratings.get(&format!("/ratings/{id}"), headers).await)
            }
            _ => server::not_found(&call),
        }
    }

    /// Half a page is better than none: what cannot be had is said, with status 200.
    async fn page(&self, headers: HeaderMap) -> Answer {
        let details = data(self.details.get("/details/0", headers.clone()).await);
        let reviews = data(self.reviews.get("/reviews/0", headers).await);
        let html = render(details.as_ref(), reviews.as_ref());
        server::answer(StatusCode::OK, "text/html; charset=utf-8", html)
    }
}

fn data(result: Result<(StatusCode, Bytes), Failure>) -> Option<Value> {
    match result {
        Ok((StatusCode::OK, body)) => serde_json::from_slice(&body).ok(),
        _ => None,
    }
}

/// The API answers as the service behind it did.
fn hand_on(result: Result<(StatusCode, Bytes), Failure>) -> Answer {
    match result {
        Ok((status, body)) => server::answer(status, "application/json", body),
        Err(failure) => server::json(
            StatusCode::SERVICE_UNAVAILABLE,
            &json!({"error": format!("the service behind this could not be asked: {failure}")}),
        ),
    }
}

fn front() -> String {
    format!("<!doctype html><title>Book shop</title><h1>Book shop</h1><a href=/productpage>{TITLE}</a>\n")
}

fn render(details: Option<&Value>, reviews: Option<&Value>) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>{TITLE}</title></head>\n<body>\n\
         <h1>{TITLE}</h1>\n<p>{DESCRIPTION}</p>\n<h2>Details</h2>\n"
    );
    match details.and_then(Value::as_object) {
        Some(details) => {
            page.push_str("<dl>\n");
            for (name, value) in details {
                // Writing to a String cannot fail.
                let _ = writeln!(page, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(&text(value)));
            }
            page.push_str("</dl>\n");
        }
        None => page.push_str("<p class=error>The details cannot be shown at the moment.</p>\n"),
    }
    page.push_str("<h2>Reviews</h2>\n");
    match reviews.and_then(|reviews| reviews["reviews"].as_array().map(|list| (reviews, list))) {
        Some((reviews, list)) => {
            list.iter().for_each(|review| render_review(&mut page, review));
            let _ = writeln!(page, "<p>Served by {}</p>", escape(&text(&reviews["podname"])));
        }
        None => page.push_str("<p class=error>The reviews cannot be shown at the moment.</p>\n"),
    }
    page.push_str("</body></html>\n");
    page
}

fn render_review(page: &mut String, review: &Value) {
    let rating = &review["rating"];
    let stars = match rating["stars"].as_u64() {
        Some(stars) => format!(
            "<span style=\"color:{}\">{}</span>",
            escape(&text(&rating["color"])),
            "&#9733;".repeat(stars.min(5) as usize)
        ),
        None => escape(rating["error"].as_str().unwrap_or_default()),
    };
    let _ = writeln!(
        page,
        "<blockquote>{}<cite>{}</cite> {stars}</blockquote>",
        escape(&text(&review["text"])),
        escape(&text(&review["reviewer"])),
    );
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_what_there_is() {
        let details = json!({"author": "A <b>"});
        let reviews = json!({"podname": "reviews-v3-x", "reviews": [
            {"reviewer": "R1", "text": "good", "rating": {"stars": 3, "color": "red"}},
            {"reviewer": "R2", "text": "bad", "rating": {"error": "no stars"}},
        ]});
        let page = render(Some(&details), Some(&reviews));
        assert!(page.contains("A &lt;b&gt;"));
        assert!(page.contains("color:red"));
        assert!(page.contains("&#9733;&#9733;&#9733;<"));
        assert!(page.contains("no stars"));
        assert!(page.contains("reviews-v3-x"));
        assert!(render(None, None).contains("cannot be shown"));
    }
}
