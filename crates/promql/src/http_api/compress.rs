//! Answers compressed with gzip for those who ask for it.

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::Full;
use std::io::Write as _;

/// Shorter answers are not worth it.
const MIN_BYTES: usize = 1024;

/// Whether `Accept-Encoding` has gzip, and not only to refuse it.
pub(super) fn accepted(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter();
    let mut codings = values.filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    codings.any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let gzip = parts
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case("gzip") || name == "*");
        let refused = parts.filter_map(|p| p.strip_prefix("q=")).any(|q| q.parse() == Ok(0.0));
        gzip && !refused
    })
}

/// The same answer, compressed.
pub(super) fn compress(response: Response<Bytes>) -> Response<Full<Bytes>> {
    let (mut head, body) = response.into_parts();
    if body.len() < MIN_BYTES {
        return Response::from_parts(head, Full::new(body));
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to memory does not fail; if it did, the plain answer is as good.
    let compressed = encoder.write_all(&body).and_then(|()| encoder.finish());
    match compressed {
        Ok(compressed) => {
            head.headers
                .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            head.headers
                .append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
            Response::from_parts(head, Full::new(compressed.into()))
        }
        Err(_) => Response::from_parts(head, Full::new(body)),
    }
}
