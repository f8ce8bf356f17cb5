//! `RouteMatch` and the matchers in it.

use std::mem::take;

use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use http::header::HeaderName;
use regex::bytes::Regex;

use crate::config::decode::fault::runtime_percent;
use crate::config::decode::{Decoded, Within, flag, nothing_left, reject};
use crate::config::route::matching::{
    Conditions, Field, HeaderIs, HeaderMatch, PathMatch, QueryMatch, RouteMatch, StringMatch, Text, whole,
};

/// When a route applies.
pub(super) fn route(mut rest: pb::RouteMatch) -> Decoded<RouteMatch> {
    use pb::route_match::PathSpecifier;
    let path = match rest.path_specifier.take() {
        Some(PathSpecifier::Prefix(prefix)) => PathMatch::Prefix(prefix.into()),
        Some(PathSpecifier::Path(path)) => PathMatch::Exact(path.into()),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => PathMatch::SeparatedPrefix(prefix.into()),
        Some(PathSpecifier::SafeRegex(expression)) => PathMatch::Regex(regex(expression).within("safe_regex")?),
        Some(_) => {
            return reject(
                "path_specifier",
                "must be prefix, path, path_separated_prefix or safe_regex",
            );
        }
        None => {
            return reject(
                "prefix",
                "is missing; one of prefix, path, path_separated_prefix, safe_regex must be set",
            );
        }
    };
    let ignore_case = !flag(&rest.case_sensitive.take(), true);
    let mut more = Conditions {
        grpc: rest.grpc.take().is_some(),
        ..Conditions::default()
    };
    if let Some(fraction) = rest.runtime_fraction.take() {
        more.fraction = Some(runtime_percent(fraction).within("runtime_fraction")?);
    }
    for (i, one) in take(&mut rest.headers).into_iter().enumerate() {
        more.headers.push(header(one).within(format_args!("headers[{i}]"))?);
    }
    for (i, one) in take(&mut rest.query_parameters).into_iter().enumerate() {
        more.query
            .push(parameter(one).within(format_args!("query_parameters[{i}]"))?);
    }
    nothing_left(&rest)?;
    let any = more.grpc || more.fraction.is_some() || !more.headers.is_empty() || !more.query.is_empty();
    Ok(RouteMatch {
        path,
        ignore_case,
        more: any.then(|| Box::new(more)),
    })
}

fn regex(mut rest: matcher::RegexMatcher) -> Decoded<Regex> {
    let text = take(&mut rest.regex);
    // There is one engine, whether it is named or not.
    rest.engine_type = None;
    nothing_left(&rest)?;
    if text.is_empty() {
        return reject("regex", "is missing");
    }
    whole(&text).or_else(|why| reject("regex", format!("{text:?} is no expression: {why}")))
}

#[allow(deprecated)] // older control planes still write the older forms
fn header(mut rest: pb::HeaderMatcher) -> Decoded<HeaderMatch> {
    use pb::header_matcher::HeaderMatchSpecifier as Is;
    let name = take(&mut rest.name).to_ascii_lowercase();
    let field = match name.as_str() {
        ":method" => Field::Method,
        ":path" => Field::Path,
        ":authority" | "host" => Field::Authority,
        ":scheme" => Field::Scheme,
        _ if HeaderName::from_bytes(name.as_bytes()).is_ok() => Field::Named(name.into()),
        _ => return reject("name", format!("{name:?} is no name of a header")),
    };
    let plain = |is: Text| HeaderIs::Text(StringMatch { is, ignore_case: false });
    let is = match rest.header_match_specifier.take() {
        None => HeaderIs::Present(true),
        Some(Is::PresentMatch(present)) => HeaderIs::Present(present),
        Some(Is::StringMatch(matcher)) => HeaderIs::Text(string(matcher).within("string_match")?),
        Some(Is::ExactMatch(text)) => plain(Text::Exact(text.into())),
        Some(Is::PrefixMatch(text)) => plain(Text::Prefix(text.into())),
        Some(Is::SuffixMatch(text)) => plain(Text::Suffix(text.into())),
        Some(Is::ContainsMatch(text)) => plain(Text::Contains(text.into())),
        Some(Is::SafeRegexMatch(expression)) => plain(Text::Regex(regex(expression).within("safe_regex_match")?)),
        Some(Is::RangeMatch(range)) => HeaderIs::Number(range.start, range.end),
    };
    let invert = take(&mut rest.invert_match);
    let missing_is_empty = take(&mut rest.treat_missing_header_as_empty);
    nothing_left(&rest)?;
    Ok(HeaderMatch {
        field,
        is,
        invert,
        missing_is_empty,
    })
}

fn parameter(mut rest: pb::QueryParameterMatcher) -> Decoded<QueryMatch> {
    use pb::query_parameter_matcher::QueryParameterMatchSpecifier as Is;
    let name = take(&mut rest.name);
    if name.is_empty() {
        return reject("name", "is missing");
    }
    let is = match rest.query_parameter_match_specifier.take() {
        None | Some(Is::PresentMatch(true)) => None,
        Some(Is::PresentMatch(false)) => return reject("present_match", "must be true"),
        Some(Is::StringMatch(matcher)) => Some(string(matcher).within("string_match")?),
    };
    nothing_left(&rest)?;
    Ok(QueryMatch { name: name.into(), is })
}

fn string(mut rest: matcher::StringMatcher) -> Decoded<StringMatch> {
    use matcher::string_matcher::MatchPattern;
    let is = match rest.match_pattern.take() {
        Some(MatchPattern::Exact(text)) => Text::Exact(text.into()),
        Some(MatchPattern::Prefix(text)) => Text::Prefix(text.into()),
        Some(MatchPattern::Suffix(text)) => Text::Suffix(text.into()),
        Some(MatchPattern::Contains(text)) => Text::Contains(text.into()),
        Some(MatchPattern::SafeRegex(expression)) => Text::Regex(regex(expression).within("safe_regex")?),
        Some(MatchPattern::Custom(_)) => {
            return reject("custom", "is not supported by this proxy; leave it unset");
        }
        None => {
            return reject(
                "match_pattern",
                "is missing; one of exact, prefix, suffix, contains, safe_regex must be set",
            );
        }
    };
    let ignore_case = take(&mut rest.ignore_case);
    nothing_left(&rest)?;
    Ok(StringMatch { is, ignore_case })
}
