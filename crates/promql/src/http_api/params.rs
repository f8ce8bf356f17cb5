//! `application/x-www-form-urlencoded` parameters, and the times in them.

use crate::{Error, format, rules::RuleFilter};
use percent_encoding::percent_decode_str;
use std::time::SystemTime;

/// In the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    pub fn add(&mut self, encoded: &str) {
        for pair in encoded.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            self.0.push((decode(name), decode(value)));
        }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn required(&self, name: &str) -> Result<&str, Error> {
        let given = self.get(name).filter(|v| !v.is_empty());
        given.ok_or_else(|| Error::BadQuery(format!("the parameter {name} is missing")))
    }

    /// A time in milliseconds, `default` where it is not given.
    pub fn time(&self, name: &str, default: i64) -> Result<i64, Error> {
        match self.get(name).filter(|v| !v.is_empty()) {
            None => Ok(default),
            Some(text) => format::parse_time(text).ok_or_else(|| {
                let wanted = "seconds since 1970 or a time like 2026-01-02T15:04:05Z";
                Error::BadQuery(format!(
                    "invalid parameter {name:?}: {text:?} is not a time; give {wanted}"
                ))
            }),
        }
    }

    /// A duration in milliseconds, none where it is not given.
    pub fn optional_duration_ms(&self, name: &str) -> Result<Option<i64>, Error> {
        match self.get(name).filter(|v| !v.is_empty()) {
            None => Ok(None),
            Some(_) => self.duration_ms(name).map(Some),
        }
    }

    /// How many entries are wanted; 0 where all are.
    pub fn limit(&self, name: &str) -> Result<usize, Error> {
        match self.get(name).filter(|v| !v.is_empty()) {
            None => Ok(0),
            Some(text) => text
                .parse()
                .map_err(|_| Error::BadQuery(format!("invalid parameter {name:?}: {text:?} is not a whole number"))),
        }
    }

    /// Which rules are asked for.
    pub fn rule_filter(&self) -> RuleFilter {
        let all = |name| self.all(name).map(str::to_owned).collect();
        RuleFilter {
            kind: self.get("type").unwrap_or_default().to_owned(),
            names: all("rule_name[]"),
            groups: all("rule_group[]"),
            files: all("file[]"),
            matchers: all("match[]"),
            exclude_alerts: self.get("exclude_alerts") == Some("true"),
        }
    }

    /// A duration in milliseconds.
    pub fn duration_ms(&self, name: &str) -> Result<i64, Error> {
        let text = self.required(name)?;
        let duration = format::parse_duration(text).ok_or_else(|| {
            let wanted = "seconds or a duration like 15s";
            Error::BadQuery(format!(
                "invalid parameter {name:?}: {text:?} is not a duration; give {wanted}"
            ))
        })?;
        i64::try_from(duration.as_millis()).map_err(|_| Error::BadQuery(format!("the parameter {name} is too long")))
    }
}

fn decode(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_forms() {
        let mut params = Params::default();
        params.add("query=sum%28up%29+%2B+1&match[]=a&match%5B%5D=b&time=1.5&step=1m&bad=x&empty");
        assert_eq!(params.get("query"), Some("sum(up) + 1"));
        assert_eq!(params.all("match[]").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(params.time("time", 0), Ok(1500));
        assert_eq!(params.time("start", 7), Ok(7));
        assert_eq!(params.duration_ms("step"), Ok(60_000));
        assert!(params.time("bad", 0).is_err_and(|e| e.to_string().contains("\"bad\"")));
        assert_eq!(
            params.required("empty"),
            Err(Error::BadQuery("the parameter empty is missing".into()))
        );
    }
}
