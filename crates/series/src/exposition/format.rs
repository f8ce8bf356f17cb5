//! Which format a page has, by its content type.

/// A format that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text.
    Text,
    /// OpenMetrics text.
    OpenMetrics,
    /// `io.prometheus.client.MetricFamily`, each behind its length.
    Proto,
}

impl Format {
    /// By the value of a `Content-Type` header; None where it names none of them.
    pub fn of(content_type: &str) -> Option<Format> {
        let mut parts = content_type.split(';').map(str::trim);
        let kind = parts.next()?.to_ascii_lowercase();
        match kind.as_str() {
            "text/plain" => Some(Format::Text),
            "application/openmetrics-text" => Some(Format::OpenMetrics),
            "application/vnd.google.protobuf" => {
                let mut wanted = [
                    ("proto", "io.prometheus.client.MetricFamily"),
                    ("encoding", "delimited"),
                ]
                .into_iter();
                let given: Vec<(&str, &str)> = parts.filter_map(|p| p.split_once('=')).collect();
                let says = |name: &str, value: &str| {
                    given
                        .iter()
                        .all(|(n, v)| !n.trim().eq_ignore_ascii_case(name) || v.trim().trim_matches('"') == value)
                };
                wanted.all(|(name, value)| says(name, value)).then_some(Format::Proto)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types() {
        let table = [
            ("text/plain; version=0.0.4; charset=utf-8", Some(Format::Text)),
            ("Text/Plain", Some(Format::Text)),
            (
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                Some(Format::OpenMetrics),
            ),
            (
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
                Some(Format::Proto),
            ),
            (
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=text",
                None,
            ),
            ("text/html", None),
            ("", None),
        ];
        for (content_type, format) in table {
            assert_eq!(Format::of(content_type), format, "{content_type}");
        }
    }
}
