//! Reads one mapping of the configuration field by field, so that what nobody asked for can be refused by name.

use super::{ConfigError, units};
use std::{collections::BTreeMap, time::Duration};
use weir_yaml::{Content, Node};

/// A mapping and where it stands.
pub(crate) struct Fields {
    path: String,
    line: usize,
    left: Vec<Field>,
    asked: Vec<&'static str>,
}

struct Field {
    name: String,
    line: usize,
    /// None once it was taken.
    value: Option<Node>,
}

type Read<T> = Result<T, ConfigError>;

impl Fields {
    pub fn new(path: impl Into<String>, node: Node) -> Read<Self> {
        let path = path.into();
        let nothing = node.is_null();
        let left = match node.content {
            _ if nothing => Vec::new(),
            Content::Mapping(entries) => {
                let field = |entry: weir_yaml::Entry| Field {
                    name: entry.name,
                    line: entry.line,
                    value: Some(entry.value),
                };
                entries.into_iter().map(field).collect()
            }
            _ => return Err(misplaced(&path, "a mapping", &node)),
        };
        Ok(Fields {
            path,
            line: node.line,
            left,
            asked: Vec::new(),
        })
    }

    pub fn path(&self, field: &str) -> String {
        if self.path.is_empty() {
            field.to_owned()
        } else {
            format!("{}.{field}", self.path)
        }
    }

    pub fn error(&self, field: &str, message: impl Into<String>) -> ConfigError {
        let found = self.left.iter().find(|one| one.name == field);
        let line = found.map_or(self.line, |one| one.line);
        ConfigError::new(&self.path(field), line, message)
    }

    /// The field as it stands; None where it is missing or empty.
    pub fn take(&mut self, field: &'static str) -> Option<Node> {
        self.asked.push(field);
        self.remove(field)
    }

    fn remove(&mut self, field: &str) -> Option<Node> {
        let found = self.left.iter_mut().find(|one| one.name == field)?;
        found.value.take().filter(|value| !value.is_null())
    }

    pub fn text(&mut self, field: &'static str) -> Read<Option<String>> {
        let Some(node) = self.take(field) else { return Ok(None) };
        let text = node.text().map(str::to_owned);
        text.map(Some)
            .ok_or_else(|| misplaced(&self.path(field), "a text", &node))
    }

    pub fn flag(&mut self, field: &'static str) -> Read<Option<bool>> {
        let Some(node) = self.take(field) else { return Ok(None) };
        let flag = node.flag();
        flag.map(Some)
            .ok_or_else(|| misplaced(&self.path(field), "true or false", &node))
    }

    pub fn count(&mut self, field: &'static str) -> Read<Option<u64>> {
        let Some(node) = self.take(field) else { return Ok(None) };
        let shown = || node.text().map_or(node.kind().to_owned(), |text| format!("{text:?}"));
        let wrong = || self.error(field, format!("a whole number from 0 must stand here, not {}", shown()));
        node.count().map(Some).ok_or_else(wrong)
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
    pub fn list(&mut self, field: &'static str) -> Read<Vec<(String, Node)>> {
        let path = self.path(field);
        self.take(field)
            .map_or_else(|| Ok(Vec::new()), |node| items(&path, node))
    }

    pub fn texts(&mut self, field: &'static str) -> Read<Vec<String>> {
        self.list(field)?.into_iter().map(item_text).collect()
    }

    /// A mapping from names to texts; "" where nothing stands behind a name.
    pub fn pairs(&mut self, field: &'static str) -> Read<BTreeMap<String, String>> {
        let rest = self.mapping(field)?.map(Fields::rest).unwrap_or_default();
        let pair = |(name, path, node): (String, String, Node)| match node.text() {
            Some(text) => Ok((name, text.to_owned())),
            None => Err(misplaced(&path, "a text", &node)),
        };
        rest.into_iter().map(pair).collect()
    }

    /// A mapping from names to lists of texts.
    pub fn text_lists(&mut self, field: &'static str) -> Read<Vec<(String, Vec<String>)>> {
        let rest = self.mapping(field)?.map(Fields::rest).unwrap_or_default();
        let texts = |(name, path, node): (String, String, Node)| {
            let texts = items(&path, node)?.into_iter().map(item_text);
            Ok((name, texts.collect::<Read<_>>()?))
        };
        rest.into_iter().map(texts).collect()
    }

    /// A mapping below this one; None where it is missing.
    pub fn mapping(&mut self, field: &'static str) -> Read<Option<Fields>> {
        let path = self.path(field);
        self.take(field).map(|value| Fields::new(path, value)).transpose()
    }

    /// All that is left, whatever it is: names, paths and values.
    pub fn rest(self) -> Vec<(String, String, Node)> {
        let Fields { path, left, .. } = self;
        let one = |field: Field| {
            let path = format!("{path}.{}", field.name);
            field.value.map(|value| (field.name, path, value))
        };
        left.into_iter().filter_map(one).collect()
    }

    /// A field that Prometheus has and Weir has not.
    pub fn unsupported(&mut self, field: &'static str, instead: &str) -> Read<()> {
        match self.remove(field) {
            None => Ok(()),
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
        match self.left.iter().find(|field| field.value.is_some()) {
            None => Ok(()),
            Some(unknown) => {
                let mut known = self.asked.clone();
                known.sort_unstable();
                Err(self.error(
                    &unknown.name,
                    format!("there is no such field here; there are {}", known.join(", ")),
                ))
            }
        }
    }
}

fn items(path: &str, node: Node) -> Read<Vec<(String, Node)>> {
    match node.content {
        Content::List(items) => {
            let with_path = |(at, item)| (format!("{path}[{at}]"), item);
            Ok(items.into_iter().enumerate().map(with_path).collect())
        }
        _ if node.is_null() => Ok(Vec::new()),
        _ => Err(misplaced(path, "a list", &node)),
    }
}

fn item_text((path, node): (String, Node)) -> Read<String> {
    let text = node.text().filter(|_| !node.is_null());
    text.map(str::to_owned).ok_or_else(|| misplaced(&path, "a text", &node))
}

fn misplaced(path: &str, right: &str, found: &Node) -> ConfigError {
    let message = format!("{right} must stand here, not {}", found.kind());
    ConfigError::new(path, found.line, message)
}
