//! The text of a series, `name{label="value"}` or `{"name",label="value"}`: where it ends, and what it says.

use memchr::{memchr, memchr2};
use std::borrow::Cow;

/// A name and its value.
pub type Pair<'a> = (Cow<'a, str>, Cow<'a, str>);

/// What stands in a label set: labels, and the metric's name where it needs quotes.
enum Element<'a> {
    Name(Cow<'a, str>),
    Label(Pair<'a>),
}

/// Length of the series at the beginning of a line, after a check of its syntax.
pub(super) fn length(line: &str) -> Result<usize, String> {
    let name_len = name_length(line, true);
    let after = &line[name_len..];
    let blanks = after.len() - after.trim_start_matches([' ', '\t']).len();
    let Some(inner) = after[blanks..].strip_prefix('{') else {
        if name_len == 0 {
            return Err(format!(
                "a metric name like request_total must stand where {} stands",
                quoted(line.lines().next().unwrap_or_default())
            ));
        }
        return Ok(name_len);
    };
    let end = set_length(inner)?;
    let mut named = name_len > 0;
    let mut rest = &inner[..end];
    while let Some((element, after)) = element(rest)? {
        if let Element::Name(name) = element {
            if named {
                return Err(format!("= must follow the label name {}", quoted(&name)));
            }
            if name.is_empty() {
                return Err("a metric name must not be empty".to_owned());
            }
            named = true;
        }
        rest = after;
    }
    if !named {
        return Err("the label set must begin with the metric's name in quotes, or follow it".to_owned());
    }
    Ok(name_len + blanks + 1 + end + 1)
}

/// The metric's name, of a series whose syntax was checked.
pub fn name(series: &str) -> Cow<'_, str> {
    let length = name_length(series, true);
    if length > 0 {
        return Cow::Borrowed(&series[..length]);
    }
    let elements = Elements { rest: set(series) };
    elements
        .filter_map(|element| match element {
            Element::Name(name) => Some(name),
            Element::Label(_) => None,
        })
        .next()
        .unwrap_or_default()
}

/// The labels in the order of the page, without the name, of a series whose syntax was checked.
pub fn labels(series: &str) -> impl Iterator<Item = Pair<'_>> {
    let elements = Elements { rest: set(series) };
    elements.filter_map(|element| match element {
        Element::Name(_) => None,
        Element::Label(pair) => Some(pair),
    })
}

/// What stands between the braces.
fn set(series: &str) -> &str {
    let inner = memchr(b'{', series.as_bytes()).map(|at| &series[at + 1..]);
    inner.and_then(|inner| inner.strip_suffix('}')).unwrap_or("")
}

struct Elements<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Elements<'a> {
    type Item = Element<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (element, rest) = element(self.rest).ok()??;
        self.rest = rest;
        Some(element)
    }
}

/// The first element of a set and what follows it; None at the set's end.
fn element(set: &str) -> Result<Option<(Element<'_>, &str)>, String> {
    let set = set.trim_start_matches([' ', '\t']);
    if set.is_empty() {
        return Ok(None);
    }
    let (name, after, in_quotes) = match set.strip_prefix('"') {
        Some(inner) => {
            let end = string_length(inner).ok_or_else(|| format!("the name {} has no closing quote", quoted(inner)))?;
            (unescape(&inner[..end]), &inner[end + 1..], true)
        }
        None => {
            let (name, after) = set.split_at(name_length(set, false));
            (Cow::Borrowed(name), after, false)
        }
    };
    if name.is_empty() && !in_quotes {
        return Err(format!("a label name must stand where {} stands", quoted(set)));
    }
    let after = after.trim_start_matches([' ', '\t']);
    let Some(after) = after.strip_prefix('=') else {
        if in_quotes && (after.is_empty() || after.starts_with(',')) {
            return Ok(Some((Element::Name(name), after.strip_prefix(',').unwrap_or(after))));
        }
        return Err(format!("= must follow the label name {}", quoted(&name)));
    };
    let Some(after) = after.trim_start_matches([' ', '\t']).strip_prefix('"') else {
        return Err(format!(
            "the value of label {} must stand in double quotes",
            quoted(&name)
        ));
    };
    let end =
        string_length(after).ok_or_else(|| format!("the value of label {} has no closing quote", quoted(&name)))?;
    let value = unescape(&after[..end]);
    let rest = after[end + 1..].trim_start_matches([' ', '\t']);
    let rest = match rest.strip_prefix(',') {
        Some(rest) => rest,
        None if rest.is_empty() => rest,
        None => return Err(format!("a comma or }} must follow label {}", quoted(&name))),
    };
    Ok(Some((Element::Label((name, value)), rest)))
}

/// Length of a label set up to its closing brace. A set ends with its line: a raw line feed cannot stand in it.
fn set_length(inner: &str) -> Result<usize, String> {
    let missing = || "the label set has no closing }".to_owned();
    let bytes = inner.as_bytes();
    let mut at = 0;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        at += rest
            .iter()
            .position(|b| matches!(b, b'"' | b'}' | b'\n'))
            .ok_or_else(missing)?;
        match bytes[at] {
            b'}' => return Ok(at),
            b'\n' => return Err(missing()),
            _ => {
                let string = &inner[at + 1..];
                let end = string_length(string).ok_or_else(missing)?;
                if memchr(b'\n', &string.as_bytes()[..end]).is_some() {
                    return Err(missing());
                }
                at += end + 2;
            }
        }
    }
}

fn name_length(text: &str, colons: bool) -> usize {
    let part = |(i, b): (usize, u8)| {
        b.is_ascii_alphabetic() || b == b'_' || (colons && b == b':') || (i > 0 && b.is_ascii_digit())
    };
    text.bytes().enumerate().take_while(|&x| part(x)).count()
}

/// Length up to the closing quote.
fn string_length(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 0;
    loop {
        at += memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

fn unescape(raw: &str) -> Cow<'_, str> {
    if memchr(b'\\', raw.as_bytes()).is_none() {
        return Cow::Borrowed(raw);
    }
    let mut out = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some(c @ ('\\' | '"')) => out.push(c),
            // Unknown escapes stand for themselves, as in Prometheus.
            Some(c) => out.extend(['\\', c]),
            None => out.push('\\'),
        }
    }
    Cow::Owned(out)
}

/// At most 60 characters of what stands there, so that an error stays readable.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{:?}...", &text[..cut]),
        None => format!("{text:?}"),
    }
}
