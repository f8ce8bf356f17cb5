//! The tree as text: on one line, and in lines of a bearable length.

use super::{
    ast::{
        AggregateExpr, AtModifier, BinaryExpr, Cardinality, Expr, LabelModifier, MatrixSelector, SubqueryExpr,
        VectorSelector,
    },
    grammar::is_bare_metric,
    text::{is_plain_name, quote},
};
use std::fmt::{self, Display, Formatter, Write};
use weir_series::{MatchOp, Matcher, names};

/// Characters of a line that is not split.
const LINE: usize = 100;

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Expr::NumberLiteral(n) if n.is_duration && n.val < 0.0 => write!(f, "-{}", seconds(-n.val)),
            Expr::NumberLiteral(n) if n.is_duration => f.write_str(&seconds(n.val)),
            Expr::NumberLiteral(n) => f.write_str(&crate::format::digits(n.val)),
            Expr::StringLiteral(text) => f.write_str(&quote(text)),
            Expr::Paren(inner) => write!(f, "({inner})"),
            Expr::Unary(u) => write!(f, "{}{}", if u.negative { "-" } else { "+" }, u.expr),
            Expr::Binary(b) => write!(f, "{} {}{} {}", b.lhs, b.op, modifier(b), b.rhs),
            Expr::VectorSelector(vs) => write!(f, "{}{}", series(vs), moved(vs)),
            Expr::MatrixSelector(m) => write!(f, "{}[{}]{}", series(&m.vs), m.range, moved(&m.vs)),
            Expr::Subquery(s) => write!(f, "{}{}", s.expr, steps(s)),
            Expr::Aggregate(a) => {
                write!(f, "{}(", head(a))?;
                if let Some(param) = &a.param {
                    write!(f, "{param}, ")?;
                }
                write!(f, "{})", a.expr)
            }
            Expr::Call(c) => {
                let args: Vec<String> = c.args.iter().map(Expr::to_string).collect();
                write!(f, "{}({})", c.func.name, args.join(", "))
            }
        }
    }
}

fn seconds(seconds: f64) -> String {
    weir_series::duration::text((seconds * 1000.0).round() as i64)
}

fn name(name: &str) -> String {
    if is_plain_name(name, false) {
        name.to_owned()
    } else {
        quote(name)
    }
}

fn list(labels: &[String]) -> String {
    labels.iter().map(|l| name(l)).collect::<Vec<_>>().join(", ")
}

fn head(a: &AggregateExpr) -> String {
    match &a.modifier {
        Some(LabelModifier::Exclude(labels)) => format!("{} without ({}) ", a.op, list(labels)),
        Some(LabelModifier::Include(labels)) if !labels.is_empty() => format!("{} by ({}) ", a.op, list(labels)),
        _ => a.op.to_owned(),
    }
}

/// What stands behind the operator, with a blank before each.
fn modifier(b: &BinaryExpr) -> String {
    let m = &b.modifier;
    let mut out = String::new();
    if m.return_bool {
        out.push_str(" bool");
    }
    let is_grouped = m.card != Cardinality::OneToOne;
    // Writing to a String cannot fail.
    let _ = match &m.matching {
        Some(LabelModifier::Include(labels)) => write!(out, " on ({})", list(labels)),
        Some(LabelModifier::Exclude(labels)) if is_grouped || !labels.is_empty() => {
            write!(out, " ignoring ({})", list(labels))
        }
        _ => Ok(()),
    };
    let _ = match &m.card {
        Cardinality::OneToOne => Ok(()),
        Cardinality::ManyToOne(labels) => write!(out, " group_left ({})", list(labels)),
        Cardinality::OneToMany(labels) => write!(out, " group_right ({})", list(labels)),
    };
    let value = crate::format::value;
    match (m.fill_left, m.fill_right) {
        (Some(left), Some(right)) if left.to_bits() == right.to_bits() => {
            let _ = write!(out, " fill ({})", value(left));
        }
        (left, right) => {
            for (word, side) in [("fill_left", left), ("fill_right", right)] {
                if let Some(side) = side {
                    let _ = write!(out, " {word} ({})", value(side));
                }
            }
        }
    }
    out
}

/// Matchers as a selector.
pub(crate) fn selector(matchers: &[Matcher]) -> String {
    let conditions: Vec<String> = matchers.iter().map(condition).collect();
    format!("{{{}}}", conditions.join(","))
}

fn condition(m: &Matcher) -> String {
    let op = match m.op() {
        MatchOp::Equal => "=",
        MatchOp::NotEqual => "!=",
        MatchOp::Regex => "=~",
        MatchOp::NotRegex => "!~",
    };
    format!("{}{op}{}", name(m.name()), quote(m.value()))
}

/// A selector without what moves it in time.
fn series(vs: &VectorSelector) -> String {
    let plain = vs.name.as_deref().filter(|n| is_bare_metric(n));
    let mut conditions = Vec::new();
    if let Some(quoted) = vs.name.as_deref().filter(|_| plain.is_none()) {
        conditions.push(quote(quoted));
    }
    conditions.extend(vs.matchers.iter().map(condition));
    let out = plain.unwrap_or_default().to_owned();
    if conditions.is_empty() {
        return out;
    }
    format!("{out}{{{}}}", conditions.join(","))
}

fn at_time(at: Option<AtModifier>) -> String {
    match at {
        None => String::new(),
        Some(AtModifier::Start) => " @ start()".into(),
        Some(AtModifier::End) => " @ end()".into(),
        Some(AtModifier::At(ms)) => {
            let sign = if ms < 0 { "-" } else { "" };
            let ms = ms.unsigned_abs();
            format!(" @ {sign}{}.{:03}", ms / 1000, ms % 1000)
        }
    }
}

fn by_offset(offset: Option<&super::Duration>) -> String {
    offset.map_or_else(String::new, |o| format!(" offset {o}"))
}

fn moved(vs: &VectorSelector) -> String {
    let extension = vs.extension.map_or_else(String::new, |e| format!(" {}", e.name()));
    format!("{extension}{}{}", at_time(vs.at), by_offset(vs.offset.as_ref()))
}

/// `[5m:1m] @ 100.000 offset 1m`
fn steps(s: &SubqueryExpr) -> String {
    let step = s.step.as_ref().map_or_else(String::new, ToString::to_string);
    format!("[{}:{step}]{}{}", s.range, at_time(s.at), by_offset(s.offset.as_ref()))
}

impl VectorSelector {
    /// All conditions as pairs of (name, operator, value), that of the name last.
    pub(super) fn conditions(&self) -> impl Iterator<Item = (&str, MatchOp, &str)> {
        let by_name = self.name.as_deref().map(|n| (names::METRIC_NAME, MatchOp::Equal, n));
        self.matchers
            .iter()
            .map(|m| (m.name(), m.op(), m.value()))
            .chain(by_name)
    }
}

impl Expr {
    /// In lines, each level of the tree two blanks further to the right, where one line would be too long.
    pub fn pretty(&self) -> String {
        self.lines(0)
    }

    fn lines(&self, level: usize) -> String {
        let (indent, line) = ("  ".repeat(level), self.to_string());
        if line.chars().count() <= LINE {
            return format!("{indent}{line}");
        }
        let below = |expr: &Expr| expr.lines(level + 1);
        match self {
            Expr::Aggregate(a) => {
                let param = a
                    .param
                    .as_ref()
                    .map_or_else(String::new, |p| format!("{},\n", below(p)));
                format!("{indent}{}(\n{param}{}\n{indent})", head(a), below(&a.expr))
            }
            Expr::Binary(b) => {
                let op = format!("{indent}{}{}", b.op, modifier(b));
                format!("{}\n{op}\n{}", below(&b.lhs), below(&b.rhs))
            }
            Expr::Call(c) => {
                let args: Vec<String> = c.args.iter().map(below).collect();
                format!("{indent}{}(\n{}\n{indent})", c.func.name, args.join(",\n"))
            }
            Expr::Paren(inner) => format!("{indent}(\n{}\n{indent})", below(inner)),
            Expr::Subquery(s) => format!("{}{}", s.expr.lines(level), steps(s)),
            Expr::Unary(u) => {
                let sign = if u.negative { "-" } else { "+" };
                format!("{indent}{sign}{}", u.expr.lines(level).trim_start())
            }
            Expr::MatrixSelector(MatrixSelector { .. })
            | Expr::VectorSelector(_)
            | Expr::NumberLiteral(_)
            | Expr::StringLiteral(_) => format!("{indent}{line}"),
        }
    }
}
