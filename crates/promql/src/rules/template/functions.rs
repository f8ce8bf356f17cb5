//! The functions of templates, by name.

use super::number;
use super::run::{Context, Found, Val};
use crate::format;
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use regex::Regex;

type Call = fn(&Context<'_>, Vec<Val>) -> Result<Val, String>;

/// A function and how many arguments it takes.
#[derive(Clone, Copy)]
pub(super) struct Function {
    name: &'static str,
    min: usize,
    max: usize,
    call: Call,
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Function {
    pub fn call(&self, context: &Context<'_>, arguments: Vec<Val>) -> Result<Val, String> {
        if !(self.min..=self.max).contains(&arguments.len()) {
            let wanted = if self.max == usize::MAX {
                format!("at least {}", self.min)
            } else {
                self.max.to_string()
            };
            return Err(format!(
                "{} takes {wanted} arguments, not {}",
                self.name,
                arguments.len()
            ));
        }
        (self.call)(context, arguments).map_err(|why| format!("{}: {why}", self.name))
    }
}

const MANY: usize = usize::MAX;

#[rustfmt::skip]
const FUNCTIONS: &[Function] = &[
    Function { name: "and", min: 1, max: MANY, call: |_, a| Ok(pick(a, |v| !v.is_true())) },
    Function { name: "or", min: 1, max: MANY, call: |_, a| Ok(pick(a, Val::is_true)) },
    Function { name: "not", min: 1, max: 1, call: |_, a| Ok(Val::Bool(!a[0].is_true())) },
    Function { name: "eq", min: 2, max: MANY, call: |_, a| Ok(Val::Bool(a[1..].iter().any(|b| equal(&a[0], b)))) },
    Function { name: "ne", min: 2, max: 2, call: |_, a| Ok(Val::Bool(!equal(&a[0], &a[1]))) },
    Function { name: "lt", min: 2, max: 2, call: |_, a| order(&a).map(|o| Val::Bool(o.is_lt())) },
    Function { name: "le", min: 2, max: 2, call: |_, a| order(&a).map(|o| Val::Bool(o.is_le())) },
    Function { name: "gt", min: 2, max: 2, call: |_, a| order(&a).map(|o| Val::Bool(o.is_gt())) },
    Function { name: "ge", min: 2, max: 2, call: |_, a| order(&a).map(|o| Val::Bool(o.is_ge())) },
    Function { name: "len", min: 1, max: 1, call: |_, a| length(&a[0]) },
    Function { name: "index", min: 2, max: 2, call: |_, a| index(&a) },
    Function { name: "print", min: 0, max: MANY, call: |_, a| Ok(Val::Text(shown(&a).concat())) },
    Function { name: "println", min: 0, max: MANY, call: |_, a| Ok(Val::Text(shown(&a).join(" ") + "\n")) },
    Function { name: "printf", min: 1, max: MANY, call: |_, a| printf(&a) },
    Function { name: "urlquery", min: 1, max: 1, call: |_, a| Ok(Val::Text(escape_query(&text(&a[0])))) },
    Function { name: "urlQueryEscape", min: 1, max: 1, call: |_, a| Ok(Val::Text(escape_query(&text(&a[0])))) },
    Function { name: "query", min: 1, max: 1, call: |c, a| Ok(Val::List((c.query)(&text(&a[0]))?.into_iter().map(Val::Element).collect())) },
    Function { name: "first", min: 1, max: 1, call: |_, a| first(&a[0]) },
    Function { name: "value", min: 1, max: 1, call: |_, a| Ok(Val::Number(element(&a[0])?.value)) },
    Function { name: "label", min: 2, max: 2, call: |_, a| Ok(Val::Text(element(&a[1])?.label(&text(&a[0])))) },
    Function { name: "strvalue", min: 1, max: 1, call: |_, a| Ok(Val::Text(element(&a[0])?.label("__value__"))) },
    Function { name: "sortByLabel", min: 2, max: 2, call: |_, a| sort_by_label(&a) },
    Function { name: "args", min: 0, max: MANY, call: |_, a| Ok(Val::Map(a.into_iter().enumerate().map(|(i, v)| (format!("arg{i}"), v)).collect())) },
    Function { name: "match", min: 2, max: 2, call: |_, a| Ok(Val::Bool(pattern(&a[0])?.is_match(&text(&a[1])))) },
    Function { name: "reReplaceAll", min: 3, max: 3, call: |_, a| Ok(Val::Text(pattern(&a[0])?.replace_all(&text(&a[2]), text(&a[1]).as_str()).into_owned())) },
    Function { name: "safeHtml", min: 1, max: 1, call: |_, a| Ok(Val::Text(text(&a[0]))) },
    Function { name: "title", min: 1, max: 1, call: |_, a| Ok(Val::Text(title(&text(&a[0])))) },
    Function { name: "toUpper", min: 1, max: 1, call: |_, a| Ok(Val::Text(text(&a[0]).to_uppercase())) },
    Function { name: "toLower", min: 1, max: 1, call: |_, a| Ok(Val::Text(text(&a[0]).to_lowercase())) },
    Function { name: "stripPort", min: 1, max: 1, call: |_, a| Ok(Val::Text(strip_port(&text(&a[0])))) },
    Function { name: "stripDomain", min: 1, max: 1, call: |_, a| Ok(Val::Text(strip_domain(&text(&a[0])))) },
    Function { name: "graphLink", min: 1, max: 1, call: |_, a| Ok(Val::Text(format!("/graph?g0.expr={}&g0.tab=0", escape_query(&text(&a[0]))))) },
    Function { name: "tableLink", min: 1, max: 1, call: |_, a| Ok(Val::Text(format!("/graph?g0.expr={}&g0.tab=1", escape_query(&text(&a[0]))))) },
    Function { name: "humanize", min: 1, max: 1, call: |_, a| Ok(Val::Text(humanize(number_of(&a[0])?))) },
    Function { name: "humanize1024", min: 1, max: 1, call: |_, a| Ok(Val::Text(humanize1024(number_of(&a[0])?))) },
    Function { name: "humanizeDuration", min: 1, max: 1, call: |_, a| Ok(Val::Text(humanize_duration(number_of(&a[0])?))) },
    Function { name: "humanizePercentage", min: 1, max: 1, call: |_, a| Ok(Val::Text(number::general(number_of(&a[0])? * 100.0, 4) + "%")) },
    Function { name: "humanizeTimestamp", min: 1, max: 1, call: |_, a| Ok(Val::Text(humanize_timestamp(number_of(&a[0])?))) },
    Function { name: "parseDuration", min: 1, max: 1, call: |_, a| parse_duration(&text(&a[0])) },
    Function { name: "now", min: 0, max: 0, call: |c, _| Ok(Val::Number(c.data.now_ms as f64 / 1000.0)) },
    Function { name: "externalURL", min: 0, max: 0, call: |c, _| Ok(Val::Text(c.data.external_url.to_owned())) },
    Function { name: "pathPrefix", min: 0, max: 0, call: |c, _| Ok(Val::Text(path_of(c.data.external_url))) },
];

/// The function of a name; others are refused by it.
pub(super) fn find(name: &str) -> Result<Function, String> {
    let found = FUNCTIONS.iter().find(|f| f.name == name);
    found
        .copied()
        .ok_or_else(|| format!("the function {name:?} is not supported"))
}

/// The first that satisfies, else the last one.
fn pick(values: Vec<Val>, wanted: impl Fn(&Val) -> bool) -> Val {
    let at = values.iter().position(wanted).unwrap_or(values.len() - 1);
    values.into_iter().nth(at).unwrap_or(Val::Nil)
}

fn text(value: &Val) -> String {
    value.show()
}

fn shown(values: &[Val]) -> Vec<String> {
    values.iter().map(Val::show).collect()
}

fn number_of(value: &Val) -> Result<f64, String> {
    match value {
        Val::Number(n) => Ok(*n),
        Val::Int(n) => Ok(*n as f64),
        Val::Text(t) => t.trim().parse().map_err(|_| format!("{t:?} is not a number")),
        other => Err(format!("{} is not a number", other.show())),
    }
}

fn equal(a: &Val, b: &Val) -> bool {
    match (a, b) {
        (Val::Number(_) | Val::Int(_), Val::Number(_) | Val::Int(_)) => number_of(a) == number_of(b),
        (Val::Text(a), Val::Text(b)) => a == b,
        (Val::Bool(a), Val::Bool(b)) => a == b,
        (Val::Nil, Val::Nil) => true,
        _ => false,
    }
}

fn order(values: &[Val]) -> Result<std::cmp::Ordering, String> {
    match (&values[0], &values[1]) {
        (Val::Text(a), Val::Text(b)) => Ok(a.cmp(b)),
        (a, b) => {
            let order = number_of(a)?.partial_cmp(&number_of(b)?);
            order.ok_or_else(|| "NaN cannot be compared".into())
        }
    }
}

fn length(value: &Val) -> Result<Val, String> {
    let length = match value {
        Val::Text(t) => t.len(),
        Val::List(l) => l.len(),
        Val::Map(m) => m.len(),
        Val::Labels(l) => l.len(),
        other => return Err(format!("{} has no length", other.show())),
    };
    Ok(Val::Int(length as i64))
}

fn index(arguments: &[Val]) -> Result<Val, String> {
    match (&arguments[0], &arguments[1]) {
        (Val::Labels(labels), Val::Text(name)) => Ok(Val::Text(labels.get(name).to_owned())),
        (Val::Map(map), Val::Text(key)) => Ok(map.get(key).cloned().unwrap_or(Val::Nil)),
        (Val::List(list), Val::Int(at)) => {
            let found = usize::try_from(*at).ok().and_then(|at| list.get(at));
            found
                .cloned()
                .ok_or_else(|| format!("there is no element {at} of {}", list.len()))
        }
        (value, key) => Err(format!("{} has no element {}", value.show(), key.show())),
    }
}

fn element(value: &Val) -> Result<&Found, String> {
    match value {
        Val::Element(element) => Ok(element),
        other => Err(format!("{} is no element of a query's answer: use first", other.show())),
    }
}

fn first(value: &Val) -> Result<Val, String> {
    match value {
        Val::List(list) => list
            .first()
            .cloned()
            .ok_or_else(|| "the query's answer is empty".into()),
        other => Err(format!("{} is no query's answer", other.show())),
    }
}

fn sort_by_label(arguments: &[Val]) -> Result<Val, String> {
    let name = text(&arguments[0]);
    let Val::List(list) = &arguments[1] else {
        return Err(format!("{} is no query's answer", arguments[1].show()));
    };
    let mut list = list.clone();
    list.sort_by_key(|v| element(v).map(|e| e.label(&name)).unwrap_or_default());
    Ok(Val::List(list))
}

fn pattern(value: &Val) -> Result<Regex, String> {
    let pattern = text(value);
    Regex::new(&pattern).map_err(|_| format!("{pattern:?} is not a regular expression"))
}

/// What a query string takes as it is.
const QUERY: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

pub(in crate::rules) fn escape_query(text: &str) -> String {
    utf8_percent_encode(text, &QUERY).to_string().replace("%20", "+")
}

fn title(text: &str) -> String {
    let mut before = ' ';
    let upper = text.chars().flat_map(|c| {
        let begins = !(before.is_alphanumeric() || before == '_' || before == '\'');
        before = c;
        if begins {
            c.to_uppercase().collect::<Vec<_>>()
        } else {
            vec![c]
        }
    });
    upper.collect()
}

fn strip_port(host: &str) -> String {
    match host.rsplit_once(':') {
        Some((name, port)) if port.chars().all(|c| c.is_ascii_digit()) && !name.contains(':') => name.to_owned(),
        Some((name, _)) if name.starts_with('[') && name.ends_with(']') => name[1..name.len() - 1].to_owned(),
        _ => host.to_owned(),
    }
}

fn strip_domain(host: &str) -> String {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') => (name, format!(":{port}")),
        _ => (host, String::new()),
    };
    if name.parse::<std::net::IpAddr>().is_ok() {
        return host.to_owned();
    }
    name.split('.').next().unwrap_or_default().to_owned() + &port
}

fn path_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.find('/')
        .map_or("", |at| &rest[at..])
        .trim_end_matches('/')
        .to_owned()
}

fn prefixed(mut v: f64, prefixes: &[&str], base: f64, grow: bool) -> String {
    let mut prefix = "";
    for next in prefixes {
        if (grow && v.abs() < base) || (!grow && v.abs() >= 1.0) {
            break;
        }
        prefix = next;
        v = if grow { v / base } else { v * base };
    }
    number::general(v, 4) + prefix
}

const SMALL: [&str; 8] = ["m", "u", "n", "p", "f", "a", "z", "y"];

fn humanize(v: f64) -> String {
    if v == 0.0 || !v.is_finite() {
        return number::general(v, 4);
    }
    match v.abs() >= 1.0 {
        true => prefixed(v, &["k", "M", "G", "T", "P", "E", "Z", "Y"], 1000.0, true),
        false => prefixed(v, &SMALL, 1000.0, false),
    }
}

fn humanize1024(v: f64) -> String {
    if v.abs() <= 1.0 || !v.is_finite() {
        return number::general(v, 4);
    }
    prefixed(v, &["ki", "Mi", "Gi", "Ti", "Pi", "Ei", "Zi", "Yi"], 1024.0, true)
}

fn humanize_duration(v: f64) -> String {
    if !v.is_finite() {
        return number::general(v, 4);
    }
    if v == 0.0 || v.abs() < 1.0 {
        let shown = if v == 0.0 {
            "0".into()
        } else {
            prefixed(v, &SMALL, 1000.0, false)
        };
        return shown + "s";
    }
    let sign = if v < 0.0 { "-" } else { "" };
    let whole = v.abs() as i64;
    let (days, hours, minutes, seconds) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{sign}{}s", number::general(v.abs(), 4)),
        (0, 0, _) => format!("{sign}{minutes}m {seconds}s"),
        (0, ..) => format!("{sign}{hours}h {minutes}m {seconds}s"),
        _ => format!("{sign}{days}d {hours}h {minutes}m {seconds}s"),
    }
}

fn humanize_timestamp(seconds: f64) -> String {
    let time = Timestamp::from_nanosecond((seconds * 1e9) as i128);
    match time {
        Ok(time) if seconds.is_finite() => {
            let text = time.to_string().replace('T', " ");
            format!("{} +0000 UTC", text.trim_end_matches('Z'))
        }
        _ => number::general(seconds, 4),
    }
}

fn parse_duration(text: &str) -> Result<Val, String> {
    let duration = format::parse_duration(text).ok_or_else(|| format!("{text:?} is not a duration"))?;
    Ok(Val::Number(duration.as_secs_f64()))
}

/// `%[flags][width][.precision]verb`
fn printf(arguments: &[Val]) -> Result<Val, String> {
    let format = text(&arguments[0]);
    let mut arguments = arguments[1..].iter();
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut take = |wanted: &dyn Fn(char) -> bool| {
            let mut taken = String::new();
            while let Some(c) = chars.next_if(|c| wanted(*c)) {
                taken.push(c);
            }
            taken
        };
        let flags = take(&|c| matches!(c, '-' | '+' | ' ' | '0' | '#'));
        let width: usize = take(&|c| c.is_ascii_digit()).parse().unwrap_or(0);
        let point = !take(&|c| c == '.').is_empty();
        let precision = point.then(|| take(&|c| c.is_ascii_digit()).parse().unwrap_or(0usize));
        if width > 1000 || precision.is_some_and(|p| p > 1000) {
            return Err("a width or precision above 1000".into());
        }
        let verb = chars.next().ok_or("the format ends within %")?;
        if verb == '%' {
            out.push('%');
            continue;
        }
        let value = arguments.next().ok_or_else(|| format!("%{verb} has no argument"))?;
        let mut shown = verb_text(verb, value, precision)?;
        if flags.contains('+') && matches!(value, Val::Number(_) | Val::Int(_)) && !shown.starts_with(['-', '+']) {
            shown.insert(0, '+');
        }
        let missing = width.saturating_sub(shown.chars().count());
        match () {
            () if flags.contains('-') => shown.push_str(&" ".repeat(missing)),
            () if flags.contains('0') && !matches!(value, Val::Text(_)) => {
                let at = usize::from(shown.starts_with(['-', '+']));
                shown.insert_str(at, &"0".repeat(missing));
            }
            () => shown.insert_str(0, &" ".repeat(missing)),
        }
        out.push_str(&shown);
    }
    Ok(Val::Text(out))
}

fn verb_text(verb: char, value: &Val, precision: Option<usize>) -> Result<String, String> {
    Ok(match (verb, value) {
        ('s' | 'v', Val::Text(text)) => match precision {
            Some(precision) => text.chars().take(precision).collect(),
            None => text.clone(),
        },
        ('g' | 'v', Val::Number(n)) => match precision {
            Some(precision) => number::general(*n, precision),
            None => number::shortest(*n),
        },
        ('f' | 'F', Val::Number(n)) => number::fixed(*n, precision.unwrap_or(6)),
        ('e', Val::Number(n)) => number::scientific(*n, Some(precision.unwrap_or(6))),
        ('d' | 'v', Val::Int(n)) => n.to_string(),
        ('x', Val::Int(n)) => format!("{n:x}"),
        ('q', Val::Text(text)) => format!("{text:?}"),
        ('t' | 'v', Val::Bool(b)) => b.to_string(),
        ('v', other) => other.show(),
        // As Go says it: the template is wrong, but the alert goes out.
        (verb, Val::Number(n)) => format!("%!{verb}(float64={})", number::shortest(*n)),
        (verb, Val::Int(n)) => format!("%!{verb}(int={n})"),
        (verb, Val::Text(text)) => format!("%!{verb}(string={text})"),
        (verb, other) => return Err(format!("%{verb} does not show {}", other.show())),
    })
}
