//! A text into a tree.
//!
//! The parser gives events, one for each value and for each begin and end of a list or mapping; they are put together on a
//! stack, so that no nesting of the text can exhaust that of the thread. How deep a tree may be and how much aliases may
//! repeat is bounded.

use crate::{Content, Entry, Node};
use granit_parser::{Event, Options, Parser, ScalarStyle, Tag};
use std::collections::HashMap;

/// Levels of lists and mappings: far beyond what any configuration has.
const MAX_DEPTH: usize = 64;
/// What aliases may repeat in all, in bytes of the tree: ten aliases of ten aliases each, ten times over, are stopped here.
const MAX_REPEATED_BYTES: usize = 16 << 20;

/// Why a text is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong. Nothing of the text stands in it but names of fields, anchors and tags: values may be secrets.
    pub message: String,
}

impl Error {
    fn new(line: usize, message: impl Into<String>) -> Self {
        Error {
            line,
            message: message.into(),
        }
    }
}

type Read<T> = Result<T, Error>;

/// Reads a text that holds one document; an empty one is a null.
///
/// # Errors
/// Where it is no YAML, a name stands twice in a mapping, it is nested too deep, or aliases repeat too much.
pub fn read(text: &str) -> Result<Node, Error> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.block_scalar_eof_without_line_feed = true;
    let mut reader = Reader::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) =
            event.map_err(|error| Error::new(error.marker().line(), format!("is no YAML: {}", error.info())))?;
        reader.take(event, span.start.line())?;
    }
    Ok(reader.root.unwrap_or_else(|| Node::plain(1, "")))
}

#[derive(Default)]
struct Reader {
    root: Option<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    repeated_bytes: usize,
}

/// A list or mapping whose end is still to come.
struct Open {
    line: usize,
    anchor: usize,
    part: Part,
}

enum Part {
    List(Vec<Node>),
    Mapping(Mapping),
}

#[derive(Default)]
struct Mapping {
    entries: Vec<Entry>,
    /// The line of each name.
    lines: HashMap<String, usize>,
    key: Option<Key>,
    /// What stood behind `<<`.
    merged: Vec<Node>,
}

/// A name whose value is still to come.
struct Key {
    name: String,
    line: usize,
    is_merge: bool,
}

impl Reader {
    fn take(&mut self, event: Event<'_>, line: usize) -> Read<()> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let quoted = style != ScalarStyle::Plain || is_text(tag.as_deref(), line)?;
                let content = Content::Scalar {
                    text: text.into_owned(),
                    quoted,
                };
                self.place(Node { line, content }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                is_text(tag.as_deref(), line)?;
                self.begin(line, anchor, Part::List(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                is_text(tag.as_deref(), line)?;
                self.begin(line, anchor, Part::Mapping(Mapping::default()))
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                None => Ok(()),
                Some(Open { line, anchor, part }) => {
                    let content = match part {
                        Part::List(items) => Content::List(items),
                        Part::Mapping(mapping) => Content::Mapping(mapping.close()?),
                    };
                    self.place(Node { line, content }, anchor)
                }
            },
            Event::Alias(anchor) => {
                let node = self.repeat(anchor, line)?;
                self.place(node, 0)
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, line: usize, anchor: usize, part: Part) -> Read<()> {
        if self.open.len() == MAX_DEPTH {
            return Err(too_deep(line));
        }
        self.open.push(Open { line, anchor, part });
        Ok(())
    }

    /// What an alias stands for.
    fn repeat(&mut self, anchor: usize, line: usize) -> Read<Node> {
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(Error::new(line, "an alias stands within what it stands for"));
        };
        let (depth, bytes) = node.size();
        if self.open.len() + depth > MAX_DEPTH {
            return Err(too_deep(line));
        }
        self.repeated_bytes = self.repeated_bytes.saturating_add(bytes);
        if self.repeated_bytes > MAX_REPEATED_BYTES {
            let mb = MAX_REPEATED_BYTES >> 20;
            return Err(Error::new(
                line,
                format!("aliases repeat more than {mb} MiB in all: write fewer"),
            ));
        }
        Ok(node.clone())
    }

    /// Puts a whole node where it belongs.
    fn place(&mut self, node: Node, anchor: usize) -> Read<()> {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.part) {
            Some(Part::List(items)) => items.push(node),
            Some(Part::Mapping(mapping)) => mapping.add(node)?,
            None if self.root.is_none() => self.root = Some(node),
            None if node.is_null() => {}
            None => return Err(Error::new(node.line, "a second document begins here: one is read")),
        }
        Ok(())
    }
}

impl Mapping {
    /// Takes names and values in turn.
    fn add(&mut self, node: Node) -> Read<()> {
        let Some(Key { name, line, is_merge }) = self.key.take() else {
            self.key = Some(key(node)?);
            return Ok(());
        };
        if is_merge {
            self.merged.push(node);
            return Ok(());
        }
        if let Some(first) = self.lines.insert(name.clone(), line) {
            return Err(Error::new(
                line,
                format!("{name:?} stands twice here, first in line {first}"),
            ));
        }
        let value = node;
        self.entries.push(Entry { name, line, value });
        Ok(())
    }

    /// Adds what is merged in: what the mapping says itself counts, and of several sources the first.
    fn close(mut self) -> Read<Vec<Entry>> {
        for source in std::mem::take(&mut self.merged) {
            let (line, sources) = match source.content {
                Content::List(items) => (source.line, items),
                content => (source.line, vec![Node { content, ..source }]),
            };
            for source in sources {
                let Content::Mapping(entries) = source.content else {
                    return Err(Error::new(line, "behind << stands a mapping or a list of mappings"));
                };
                for entry in entries {
                    if !self.lines.contains_key(&entry.name) {
                        self.lines.insert(entry.name.clone(), entry.line);
                        self.entries.push(entry);
                    }
                }
            }
        }
        Ok(self.entries)
    }
}

fn key(node: Node) -> Read<Key> {
    let kind = node.kind();
    match node.content {
        Content::Scalar { text, quoted } => Ok(Key {
            is_merge: text == "<<" && !quoted,
            name: text,
            line: node.line,
        }),
        _ => Err(Error::new(
            node.line,
            format!("a name must stand before the colon, not {kind}"),
        )),
    }
}

fn too_deep(line: usize) -> Error {
    Error::new(line, format!("is nested deeper than {MAX_DEPTH} levels"))
}

/// Whether a tag makes a text of what looks like something else. Those that say what is read anyway do no harm; what others
/// are to mean is not known.
fn is_text(tag: Option<&Tag>, line: usize) -> Read<bool> {
    let Some(tag) = tag else { return Ok(false) };
    match tag.core_suffix() {
        Some(kind) => Ok(kind == "str"),
        None if tag.original() == "!" => Ok(true),
        None => Err(Error::new(
            line,
            format!("the tag {} is not supported: remove it", tag.original()),
        )),
    }
}

#[cfg(test)]
mod tests;
