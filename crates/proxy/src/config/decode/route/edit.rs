//! Changes of headers and paths.

use std::mem::take;

use envoy_types::pb::envoy::config::core::v3::HeaderValueOption;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;
use http::header::{HeaderName, HeaderValue};
use regex::Regex;

use crate::config::decode::{Decoded, Within, nothing_left, reject};
use crate::config::route::edit::{Add, Append, Level, PathRewrite};

/// Headers that say where a message ends or what its connection does: what is said of them must stay true.
const FIXED: [&str; 8] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// `request_headers_to_add` and `request_headers_to_remove`.
pub(super) fn request(add: &mut Vec<HeaderValueOption>, remove: &mut Vec<String>) -> Decoded<Level> {
    level("request_headers", take(add), take(remove))
}

/// `response_headers_to_add` and `response_headers_to_remove`.
pub(super) fn response(add: &mut Vec<HeaderValueOption>, remove: &mut Vec<String>) -> Decoded<Level> {
    level("response_headers", take(add), take(remove))
}

fn level(what: &str, add: Vec<HeaderValueOption>, remove: Vec<String>) -> Decoded<Level> {
    let mut level = Level::default();
    for (i, name) in remove.iter().enumerate() {
        let name = name_of(name).within(format_args!("{what}_to_remove[{i}]"))?;
        level.remove.push(name);
    }
    for (i, option) in add.into_iter().enumerate() {
        level
            .add
            .extend(one(option).within(format_args!("{what}_to_add[{i}]"))?);
    }
    Ok(level)
}

fn name_of(name: &str) -> Decoded<HeaderName> {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        return reject(
            "",
            format!("{name:?} may not be changed; a host is rewritten by host_rewrite_literal"),
        );
    }
    match HeaderName::from_bytes(name.as_bytes()) {
        Ok(name) if FIXED.contains(&name.as_str()) => {
            reject("", format!("{name:?} belongs to the connection and may not be changed"))
        }
        Ok(name) => Ok(name),
        Err(_) => reject("", format!("{name:?} is no name of a header")),
    }
}

/// `None`: an empty value that is not to be added.
fn one(mut rest: HeaderValueOption) -> Decoded<Option<Add>> {
    let Some(mut header) = rest.header.take() else {
        return reject("header", "is missing");
    };
    let name = name_of(&take(&mut header.key)).within("header.key")?;
    let raw = take(&mut header.raw_value);
    let text = take(&mut header.value);
    let bytes = match raw.is_empty() {
        false if !text.is_empty() => return reject("header.raw_value", "must not stand beside value"),
        false => raw,
        true => plain(&text).within("header.value")?.into_bytes(),
    };
    let Ok(value) = HeaderValue::from_bytes(&bytes) else {
        return reject("header.value", "has characters that no header may have");
    };
    #[allow(deprecated)]
    let old = rest.append.take().map(|append| append.value);
    let append = match (HeaderAppendAction::try_from(take(&mut rest.append_action)), old) {
        (Ok(HeaderAppendAction::AppendIfExistsOrAdd), Some(false)) => Append::Overwrite,
        (Ok(HeaderAppendAction::AppendIfExistsOrAdd), _) => Append::Always,
        (Ok(_), Some(_)) => return reject("append", "must not stand beside append_action"),
        (Ok(HeaderAppendAction::AddIfAbsent), None) => Append::IfAbsent,
        (Ok(HeaderAppendAction::OverwriteIfExistsOrAdd), None) => Append::Overwrite,
        (Ok(HeaderAppendAction::OverwriteIfExists), None) => Append::OverwriteIfPresent,
        (Err(_), _) => return reject("append_action", "is unknown"),
    };
    let keep = take(&mut rest.keep_empty_value);
    nothing_left(&header).within("header")?;
    nothing_left(&rest)?;
    Ok((keep || !value.is_empty()).then_some(Add { name, value, append }))
}

/// A text in which `%%` stands for the sign itself; values that differ from request to request are refused.
fn plain(text: &str) -> Decoded<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let behind = &rest[at + 1..];
        match behind.strip_prefix('%') {
            Some(behind) => rest = behind,
            None => {
                let name = behind.split_inclusive('%').next().unwrap_or_default();
                let right = "only plain text is, with %% for the sign itself";
                return reject("", format!("\"%{name}\" is not supported by this proxy; {right}"));
            }
        }
        out.push('%');
    }
    out.push_str(rest);
    Ok(out)
}

/// A new text in place of what an expression describes; `\\1` is its first group.
pub(super) fn substitution(mut rest: RegexMatchAndSubstitute) -> Decoded<PathRewrite> {
    let Some(mut pattern) = rest.pattern.take() else {
        return reject("pattern", "is missing");
    };
    let text = take(&mut pattern.regex);
    pattern.engine_type = None;
    nothing_left(&pattern).within("pattern")?;
    let regex = match Regex::new(&text) {
        Ok(regex) if !text.is_empty() => regex,
        Ok(_) => return reject("pattern.regex", "is missing"),
        Err(error) => {
            let why = error.to_string().lines().last().unwrap_or_default().to_owned();
            return reject("pattern.regex", format!("{text:?} is no expression: {why}"));
        }
    };
    let mut new = String::new();
    let from = take(&mut rest.substitution);
    let mut characters = from.chars();
    while let Some(c) = characters.next() {
        match c {
            '$' => new.push_str("$$"),
            '\\' => match characters.next() {
                Some('\\') => new.push('\\'),
                Some(digit) if digit.to_digit(10).is_some_and(|n| (n as usize) < regex.captures_len()) => {
                    new.push_str(&format!("${{{digit}}}"));
                }
                _ => {
                    let groups = regex.captures_len() - 1;
                    let right = format!("\\0 to \\{groups} stand for groups, \\\\ for the sign itself");
                    return reject("substitution", format!("{from:?}: {right}"));
                }
            },
            c if ('!'..='~').contains(&c) => new.push(c),
            _ => return reject("substitution", format!("{from:?} has characters that no path may have")),
        }
    }
    nothing_left(&rest)?;
    Ok(PathRewrite::Regex(regex, new.into()))
}
