//! The store's answer as rows: tables and CSV of it.

use jiff::Timestamp;
use serde_json::Value;

use crate::error::Error;
use crate::table::{Align, Table};

/// One series, or one value.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// `name{a="b"}`.
    pub name: String,
    /// Its labels, as they came.
    pub labels: Vec<(String, String)>,
    /// Seconds since 1970, and the value.
    pub points: Vec<(f64, f64)>,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// In the order of the answer.
    pub series: Vec<Series>,
    /// Whether there are values over time.
    pub over_time: bool,
    /// What the store remarks.
    pub remarks: Vec<String>,
}

impl Answer {
    /// Reads the envelope.
    pub fn read(answer: &Value) -> Result<Self, Error> {
        let data = &answer["data"];
        let texts = |name: &str| {
            let list = answer[name].as_array().into_iter().flatten();
            list.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
        };
        let over_time = data["resultType"] == "matrix";
        let series = match data["resultType"].as_str() {
            Some("scalar") => vec![Series {
                name: "scalar".into(),
                labels: Vec::new(),
                points: vec![point(&data["result"])?],
            }],
            Some("string") => {
                let name = data["result"][1].as_str().unwrap_or_default().to_owned();
                vec![Series {
                    name,
                    labels: Vec::new(),
                    points: Vec::new(),
                }]
            }
            Some("vector" | "matrix") => data["result"]
                .as_array()
                .into_iter()
                .flatten()
                .map(series)
                .collect::<Result<_, _>>()?,
            _ => return Err(Error::Answer("it has no resultType".into())),
        };
        Ok(Answer {
            series,
            over_time,
            remarks: [texts("warnings"), texts("infos")].concat(),
        })
    }

    /// A row a series.
    pub fn table(&self) -> String {
        let headings: &[&str] = match self.over_time {
            true => &["FIRST", "MIN", "MAX", "LAST"],
            false => &["VALUE"],
        };
        let headings = headings.iter().map(|h| (*h, Align::Right));
        let mut table = Table::new([("SERIES", Align::Left)].into_iter().chain(headings));
        for series in &self.series {
            let values: Vec<f64> = series.points.iter().map(|p| p.1).collect();
            let (first, last) = (values.first().copied(), values.last().copied());
            let least = values.iter().copied().reduce(f64::min);
            let most = values.iter().copied().reduce(f64::max);
            let shown = if self.over_time {
                vec![first, least, most, last]
            } else {
                vec![last]
            };
            let shown = shown.into_iter().map(|v| v.map_or_else(String::new, number));
            table.row([series.name.clone()].into_iter().chain(shown));
        }
        let text = if table.is_empty() {
            "no series\n".to_owned()
        } else {
            table.render()
        };
        self.with_remarks(text)
    }

    /// A line a value, with a column a label.
    pub fn csv(&self) -> String {
        let mut names: Vec<&str> = self
            .series
            .iter()
            .flat_map(|s| &s.labels)
            .map(|(n, _)| n.as_str())
            .collect();
        names.sort_unstable();
        names.dedup();
        let mut out = String::from("time");
        for name in &names {
            out += &format!(",{}", quoted(name));
        }
        out += ",value\n";
        for series in &self.series {
            for (seconds, value) in &series.points {
                out += &time(*seconds);
                for name in &names {
                    let found = series.labels.iter().find(|(n, _)| n == name);
                    out += &format!(",{}", quoted(found.map_or("", |(_, v)| v)));
                }
                out += &format!(",{value}\n");
            }
        }
        out
    }

    /// Remarks go under what is shown.
    pub fn with_remarks(&self, mut text: String) -> String {
        for remark in &self.remarks {
            text += &format!("{remark}\n");
        }
        text
    }
}

fn series(element: &Value) -> Result<Series, Error> {
    let labels: Vec<(String, String)> = element["metric"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(n, v)| (n.clone(), v.as_str().unwrap_or_default().to_owned()))
        .collect();
    let of = |wanted: &str| labels.iter().find(|(n, _)| n == wanted).map_or("", |(_, v)| v);
    let pairs: Vec<String> = labels
        .iter()
        .filter(|(n, _)| n != "__name__")
        .map(|(n, v)| format!("{n}={v:?}"))
        .collect();
    let name = format!("{}{{{}}}", of("__name__"), pairs.join(","));
    let points = match (&element["values"], &element["value"]) {
        (Value::Array(values), _) => values.iter().map(point).collect::<Result<_, _>>()?,
        (_, value @ Value::Array(_)) => vec![point(value)?],
        // A native histogram: its count stands for it.
        _ => histogram(element)?,
    };
    Ok(Series { name, labels, points })
}

fn histogram(element: &Value) -> Result<Vec<(f64, f64)>, Error> {
    let one = |pair: &Value| -> Result<(f64, f64), Error> { point(&serde_json::json!([pair[0], pair[1]["count"]])) };
    match (&element["histograms"], &element["histogram"]) {
        (Value::Array(all), _) => all.iter().map(one).collect(),
        (_, pair @ Value::Array(_)) => Ok(vec![one(pair)?]),
        _ => Ok(Vec::new()),
    }
}

fn point(pair: &Value) -> Result<(f64, f64), Error> {
    let read = || {
        let value = match pair[1].as_str()? {
            "+Inf" => f64::INFINITY,
            "-Inf" => f64::NEG_INFINITY,
            text => text.parse().ok()?,
        };
        Some((pair[0].as_f64()?, value))
    };
    read().ok_or_else(|| Error::Answer(format!("{pair} is no time and value")))
}

/// Six digits are enough to look at.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if value == value.trunc() && size < 1e15 || !value.is_finite() {
        return format!("{value}");
    }
    if !(1e-4..1e9).contains(&size) {
        return format!("{value:.4e}");
    }
    let decimals = (5 - size.log10().floor() as i32).clamp(0, 9) as usize;
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

fn time(seconds: f64) -> String {
    Timestamp::from_millisecond((seconds * 1000.0).round() as i64)
        .map(|t| t.to_string())
        .unwrap_or_default()
}

fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tables_and_csv() {
        let vector = json!({"status": "success", "warnings": ["W"], "data": {"resultType": "vector", "result": [
            {"metric": {"__name__": "up", "pod": "a,b"}, "value": [1.5, "0.333333333"]},
            {"metric": {"job": "x"}, "histogram": [2, {"count": "7", "sum": "1"}]},
        ]}});
        let answer = Answer::read(&vector).unwrap();
        let table = answer.table();
        assert!(table.contains("up{pod=\"a,b\"}   0.333333\n"), "{table}");
        assert!(table.contains("{job=\"x\"}") && table.ends_with("W\n"), "{table}");
        let csv = "time,__name__,job,pod,value\n\
                   1970-01-01T00:00:01.5Z,up,,\"a,b\",0.333333333\n\
                   1970-01-01T00:00:02Z,,x,,7\n";
        assert_eq!(answer.csv(), csv);
        let matrix = json!({"data": {"resultType": "matrix", "result": [
            {"metric": {}, "values": [[0, "1"], [1, "3"], [2, "2"]]},
        ]}});
        let table = Answer::read(&matrix).unwrap().table();
        assert!(table.ends_with("{}           1     1     3      2\n"), "{table}");
        assert!(Answer::read(&json!({"data": {}})).is_err());
    }
}
