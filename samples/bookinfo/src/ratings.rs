//! `ratings`: how many stars each reviewer gave.

use http::StatusCode;
use serde_json::json;

use crate::server::{self, Answer, Call};

pub async fn answer(call: Call) -> Answer {
    match call.path()[..] {
        ["ratings", id] => match id.parse::<u64>() {
            Ok(id) => server::json(
                StatusCode::OK,
                &json!({"id": id, "ratings": {"Reviewer1": 5, "Reviewer2": 4}}),
            ),
            Err(_) => server::json(StatusCode::BAD_REQUEST, &json!({"error": "a product id is a number"})),
        },
        _ => server::not_found(&call),
    }
}
