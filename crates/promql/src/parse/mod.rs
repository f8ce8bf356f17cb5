//! The language: text goes in, a tree of which every node has the kinds of values that it needs comes out, or an error
//! that tells line and column, what stands there, and what would be right.
//!
//! Knows no data. What a query's own times decide (`step()` in a duration) is worked out here, where they are given.

mod ast;
mod checks;
mod display;
mod duration;
mod functions;
mod grammar;
mod json;
mod lex;
mod text;

pub(crate) use ast::{
    AggregateExpr, AtModifier, BinModifier, BinaryExpr, Call, Cardinality, Expr, Extension, Kind, LabelModifier,
    SubqueryExpr, VectorSelector,
};
pub(crate) use display::selector;
pub(crate) use duration::Duration;

/// Step and length of a query, both 0 of an instant one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub step_ms: i64,
    pub range_ms: i64,
}

/// Why a text is no query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ParseError {
    /// The byte at which it goes wrong.
    at: usize,
    why: String,
}

impl ParseError {
    fn new(at: usize, why: impl Into<String>) -> Self {
        ParseError { at, why: why.into() }
    }

    /// With line and column, both from 1.
    fn in_text(&self, text: &str) -> String {
        let before = &text.as_bytes()[..self.at.min(text.len())];
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        let begin = before.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        let column = String::from_utf8_lossy(&before[begin..]).chars().count() + 1;
        format!("{line}:{column}: parse error: {}", self.why)
    }
}

/// Bytes of the longest query.
const MAX_BYTES: usize = 64 * 1024;
/// Operators and brackets in a query: what bounds the depth of its tree, and so the stack.
pub(crate) const MAX_NODES: usize = 600;

/// The tree of a query. Recursion is as deep as the query is, up to [`MAX_NODES`].
pub(crate) fn parse(text: &str, times: Option<Times>) -> Result<Expr, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("a query may have at most {MAX_BYTES} bytes"));
    }
    let tokens = lex::lex(text).map_err(|e| e.in_text(text))?;
    if nodes(&tokens) > MAX_NODES {
        return Err(format!("a query may have at most {MAX_NODES} operators and brackets"));
    }
    grammar::Parser::new(tokens, times).whole().map_err(|e| e.in_text(text))
}

/// Whatever may make the tree deeper.
fn nodes(tokens: &[(usize, lex::Token)]) -> usize {
    let mut braces = 0usize;
    let deepens = tokens.iter().filter(|(_, token)| match token {
        lex::Token::Sign("{") => {
            braces += 1;
            false
        }
        lex::Token::Sign("}") => {
            braces = braces.saturating_sub(1);
            false
        }
        lex::Token::Sign("," | ":" | "@" | ")" | "]") => false,
        lex::Token::Sign(_) => braces == 0,
        lex::Token::Word(word) => ["and", "or", "unless", "atan2"]
            .iter()
            .any(|o| word.eq_ignore_ascii_case(o)),
        _ => false,
    });
    deepens.count()
}

#[cfg(test)]
mod tests;
