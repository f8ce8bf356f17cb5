//! Small pieces of configuration as people say them.

use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
use envoy_types::pb::google::protobuf::Duration;

use super::Error;

/// Decodes a message that stands in `resource`.
pub(super) fn decode<M: prost::Message + Default>(resource: &str, body: &[u8]) -> Result<M, Error> {
    M::decode(body).map_err(|error| Error::Unreadable {
        resource: resource.to_owned(),
        reason: error.to_string(),
    })
}

/// `3s`, `250ms`, `1m30s`; `None` for no limit (absent or zero).
pub(super) fn duration(duration: Option<&Duration>) -> Option<String> {
    let millis = duration.map(|d| d.seconds.saturating_mul(1000) + i64::from(d.nanos) / 1_000_000)?;
    match millis {
        ..=0 => None,
        ms if ms % 1000 != 0 => Some(format!("{ms}ms")),
        ms if ms >= 60_000 && ms % 60_000 == 0 => Some(format!("{}m", ms / 60_000)),
        ms => Some(format!("{}s", ms / 1000)),
    }
}

/// `12.5 %`
pub(super) fn percent(share: f64) -> String {
    let rounded = (share * 1000.0).round() / 1000.0;
    format!("{rounded} %")
}

/// A share of requests in percent.
pub(super) fn fraction(fraction: Option<&FractionalPercent>) -> f64 {
    fraction.map_or(0.0, |f| {
        let of = match DenominatorType::try_from(f.denominator) {
            Ok(DenominatorType::TenThousand) => 10_000.0,
            Ok(DenominatorType::Million) => 1_000_000.0,
            _ => 100.0,
        };
        f64::from(f.numerator) / of * 100.0
    })
}

/// A condition on a text, and whether it holds. A regular expression that cannot be compiled holds for nothing.
pub(super) fn text_matches(matcher: &StringMatcher, text: &str) -> (bool, String) {
    let fold = |s: &str| {
        if matcher.ignore_case {
            s.to_lowercase()
        } else {
            s.to_owned()
        }
    };
    let subject = fold(text);
    match &matcher.match_pattern {
        Some(MatchPattern::Exact(want)) => (subject == fold(want), format!("is {want:?}")),
        Some(MatchPattern::Prefix(want)) => (subject.starts_with(&fold(want)), format!("begins with {want:?}")),
        Some(MatchPattern::Suffix(want)) => (subject.ends_with(&fold(want)), format!("ends with {want:?}")),
        Some(MatchPattern::Contains(want)) => (subject.contains(&fold(want)), format!("contains {want:?}")),
        Some(MatchPattern::SafeRegex(regex)) => (whole(&regex.regex, text), format!("matches {:?}", regex.regex)),
        _ => (false, "satisfies a condition that is not understood here".to_owned()),
    }
}

/// Whether a regular expression matches the whole text.
pub(super) fn whole(regex: &str, text: &str) -> bool {
    regex::Regex::new(&format!("^(?:{regex})$")).is_ok_and(|regex| regex.is_match(text))
}
