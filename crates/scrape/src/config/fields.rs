//! Reads one mapping of the configuration field by field, so that what nobody asked for can be refused by name.

use super::{ConfigError, units};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, time::Duration};

/// A mapping and where it stands.
pub(crate) struct Fields {
    path: String,
    left: Map<String, Value>,
    asked: Vec<&'static str>,
}

type Read<T> = Result<T, ConfigError>;

impl Fields {
    pub fn new(path: impl Into<String>, value: Value) -> Read<Self> {
        let path = path.into();
        match value {
            Value::Object(left) => Ok(Fields {
                path,
                left,
                asked: Vec::new(),
            }),
            Value::Null => Ok(Fields {
                path,
                left: Map::new(),
                asked: Vec::new(),
            }),
            other => Err(ConfigError::new(
                &path,
                format!("a mapping must stand here, not {}", kind(&other)),
            )),
        }
    }

    pub fn path(&self, field: &str) -> String {
        if self.path.is_empty() {
            field.to_owned()
        } else {
            format!("{}.{field}", self.path)
        }
    }

    pub fn error(&self, field: &str, message: impl Into<String>) -> ConfigError {
        ConfigError::new(&self.path(field), message.into())
    }

    /// The field as it stands; None where it is missing or empty.
    pub fn take(&mut self, field: &'static str) -> Option<Value> {
        self.asked.push(field);
        self.left.remove(field).filter(|value| !value.is_null())
    }

    pub fn text(&mut self, field: &'static str) -> Read<Option<String>> {
        let Some(value) = self.take(field) else { return Ok(None) };
        scalar(&value)
            .map(Some)
            .ok_or_else(|| self.error(field, format!("a text must stand here, not {}", kind(&value))))
    }

    pub fn flag(&mut self, field: &'static str) -> Read<Option<bool>> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(Value::String(text)) if text == "true" || text == "false" => Ok(Some(text == "true")),
            Some(other) => Err(self.error(field, format!("true or false must stand here, not {}", kind(&other)))),
        }
    }

    pub fn count(&mut self, field: &'static str) -> Read<Option<u64>> {
        let Some(value) = self.take(field) else { return Ok(None) };
        let number = value
            .as_u64()
            .or_else(|| value.as_str().and_then(|text| text.parse().ok()));
        let wrong = || self.error(field, format!("a whole number from 0 must stand here, not {value}"));
        number.map(Some).ok_or_else(wrong)
    }

    pub fn duration(&mut self, field: &'static str) -> Read<Option<Duration>> {
        let Some(text) = self.text(field)? else { return Ok(None) };
        units::duration(&text)
            .map(Some)
            .ok_or_else(|| self.error(field, format!("{text:?} is no duration such as 15s, 1m30s or 500ms")))
    }

    pub fn bytes(&mut self, field: &'static str) -> Read<Option<u64>> {
        let Some(text) = self.text(field)? else { return Ok(None) };
        units::bytes(&text)
            .map(Some)
            .ok_or_else(|| self.error(field, format!("{text:?} is no size such as 500KB, 10MB or 1GB")))
    }

    /// The items of a list, each with its path.
    pub fn list(&mut self, field: &'static str) -> Read<Vec<(String, Value)>> {
        let path = self.path(field);
        match self.take(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => {
                let with_path = |(at, item)| (format!("{path}[{at}]"), item);
                Ok(items.into_iter().enumerate().map(with_path).collect())
            }
            Some(other) => Err(self.error(field, format!("a list must stand here, not {}", kind(&other)))),
        }
    }

    pub fn texts(&mut self, field: &'static str) -> Read<Vec<String>> {
        let text = |(path, item): (String, Value)| {
            scalar(&item).ok_or_else(|| ConfigError::new(&path, format!("a text must stand here, not {}", kind(&item))))
        };
        self.list(field)?.into_iter().map(text).collect()
    }

    /// A mapping from names to texts.
    pub fn pairs(&mut self, field: &'static str) -> Read<BTreeMap<String, String>> {
        let path = self.path(field);
        let Some(value) = self.take(field) else {
            return Ok(BTreeMap::new());
        };
        let pair = |(name, value): (String, Value)| match scalar(&value) {
            Some(text) => Ok((name, text)),
            None => Err(ConfigError::new(
                &format!("{path}.{name}"),
                format!("a text must stand here, not {}", kind(&value)),
            )),
        };
        Fields::new(path.clone(), value)?.left.into_iter().map(pair).collect()
    }

    /// A mapping below this one; None where it is missing.
    pub fn mapping(&mut self, field: &'static str) -> Read<Option<Fields>> {
        let path = self.path(field);
        self.take(field).map(|value| Fields::new(path, value)).transpose()
    }

    /// All names and values that are left, whatever they are.
    pub fn rest(&mut self) -> Map<String, Value> {
        std::mem::take(&mut self.left)
    }

    /// A field that Prometheus has and Weir has not.
    pub fn unsupported(&mut self, field: &'static str, instead: &str) -> Read<()> {
        match self.left.remove(field) {
            None | Some(Value::Null) => Ok(()),
            Some(_) => Err(self.error(field, format!("is not supported; {instead}"))),
        }
    }

    /// A switch that stands where it stands: the other position is refused.
    pub fn always(&mut self, field: &'static str, position: bool, why: &str) -> Read<()> {
        match self.flag(field)? {
            Some(asked) if asked != position => Err(self.error(field, format!("{asked} is not supported; {why}"))),
            _ => Ok(()),
        }
    }

    /// Refuses what nobody asked for.
    pub fn finish(self) -> Read<()> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(unknown) => {
                let mut known = self.asked.clone();
                known.sort_unstable();
                Err(self.error(
                    unknown,
                    format!("there is no such field here; there are {}", known.join(", ")),
                ))
            }
        }
    }
}

/// A text; numbers and truth values that were written without quotes are texts too.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}
