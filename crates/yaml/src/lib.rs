//! Configuration files in YAML, read as Prometheus and its kin read them.
//!
//! A text goes in, a tree of [`Node`]s comes out, or the line that is wrong. A value without quotes keeps the text that was
//! written (`1.10`, `007`, `no`): whether it is meant as a text, a number or a switch is known only to who asks for the
//! field. Anchors, aliases and merge keys are resolved. Knows no field of any file. Kubernetes objects are not read here:
//! they follow the rules of JSON.

mod node;
mod read;

pub use node::{Content, Entry, Node};
pub use read::{Error, read};
