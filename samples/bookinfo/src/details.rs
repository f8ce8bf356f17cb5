//! `details`: the facts about a book.

use http::StatusCode;
use serde_json::json;

use crate::server::{self, Answer, Call};

pub async fn answer(call: Call) -> Answer {
    match call.path()[..] {
        ["details", id] => match id.parse::<u64>() {
            Ok(id) => server::json(
                StatusCode::OK,
                &json!({
                    "id": id,
                    "author": "Ada Millrace",
                    "year": 1897,
                    "type": "paperback",
                    "pages": 312,
                    "publisher": "Sluice & Sons",
                    "language": "English",
                    "ISBN-10": "0000001897",
                    "ISBN-13": "000-0000001897",
                }),
            ),
            Err(_) => server::json(StatusCode::BAD_REQUEST, &json!({"error": "a product id is a number"})),
        },
        _ => server::not_found(&call),
    }
}
