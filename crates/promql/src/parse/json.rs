//! The tree as JSON, in the form of Prometheus's `/api/v1/parse_query`.

use super::{
    ast::{AtModifier, BinaryExpr, Cardinality, Expr, LabelModifier, VectorSelector},
    duration::Duration,
};
use serde_json::{Value, json};
use weir_series::MatchOp;

impl Expr {
    pub fn to_json(&self) -> Value {
        match self {
            Expr::NumberLiteral(n) => json!({"type": "numberLiteral", "val": crate::format::value(n.val)}),
            Expr::StringLiteral(text) => json!({"type": "stringLiteral", "val": text}),
            Expr::Paren(inner) => json!({"type": "parenExpr", "expr": inner.to_json()}),
            Expr::Unary(u) => {
                let op = if u.negative { "-" } else { "+" };
                json!({"type": "unaryExpr", "op": op, "expr": u.expr.to_json()})
            }
            Expr::Binary(b) => json!({
                "type": "binaryExpr",
                "op": b.op,
                "lhs": b.lhs.to_json(),
                "rhs": b.rhs.to_json(),
                "matching": matching(b),
                "bool": b.modifier.return_bool,
            }),
            Expr::Aggregate(a) => {
                let (grouping, without) = match &a.modifier {
                    None => (&[][..], false),
                    Some(LabelModifier::Include(labels)) => (labels.as_slice(), false),
                    Some(LabelModifier::Exclude(labels)) => (labels.as_slice(), true),
                };
                json!({
                    "type": "aggregation",
                    "op": a.op,
                    "expr": a.expr.to_json(),
                    "param": a.param.as_ref().map(|p| p.to_json()),
                    "grouping": grouping,
                    "without": without,
                })
            }
            Expr::Call(c) => json!({
                "type": "call",
                "func": {
                    "name": c.func.name,
                    "argTypes": c.func.args.iter().map(|k| k.code()).collect::<Vec<_>>(),
                    "variadic": c.func.variadic(),
                    "returnType": c.func.returns.code(),
                },
                "args": c.args.iter().map(Expr::to_json).collect::<Vec<_>>(),
            }),
            Expr::VectorSelector(vs) => selector("vectorSelector", vs),
            Expr::MatrixSelector(m) => {
                let mut out = selector("matrixSelector", &m.vs);
                out["range"] = json!(m.range.ms);
                out
            }
            Expr::Subquery(s) => json!({
                "type": "subquery",
                "expr": s.expr.to_json(),
                "range": s.range.ms,
                "offset": ms(s.offset.as_ref()),
                "step": ms(s.step.as_ref()),
                "timestamp": timestamp(s.at),
                "startOrEnd": start_or_end(s.at),
            }),
        }
    }
}

fn ms(duration: Option<&Duration>) -> i64 {
    duration.map_or(0, |d| d.ms)
}

fn timestamp(at: Option<AtModifier>) -> Option<i64> {
    match at {
        Some(AtModifier::At(ms)) => Some(ms),
        _ => None,
    }
}

fn start_or_end(at: Option<AtModifier>) -> Option<&'static str> {
    match at {
        Some(AtModifier::Start) => Some("start"),
        Some(AtModifier::End) => Some("end"),
        _ => None,
    }
}

fn selector(kind: &str, vs: &VectorSelector) -> Value {
    let condition = |(name, op, value): (&str, MatchOp, &str)| {
        let op = match op {
            MatchOp::Equal => "=",
            MatchOp::NotEqual => "!=",
            MatchOp::Regex => "=~",
            MatchOp::NotRegex => "!~",
        };
        json!({"name": name, "value": value, "type": op})
    };
    let mut out = json!({
        "type": kind,
        "name": vs.name.as_deref().unwrap_or_default(),
        "offset": ms(vs.offset.as_ref()),
        "matchers": vs.conditions().map(condition).collect::<Vec<_>>(),
        "timestamp": timestamp(vs.at),
        "startOrEnd": start_or_end(vs.at),
    });
    if let Some(extension) = vs.extension {
        out[extension.name()] = json!(true);
    }
    out
}

/// None between a vector and a number, where nothing is matched.
fn matching(b: &BinaryExpr) -> Value {
    use super::ast::Kind;
    if b.lhs.kind() != Kind::Vector || b.rhs.kind() != Kind::Vector {
        return Value::Null;
    }
    let m = &b.modifier;
    let (card, include) = match &m.card {
        Cardinality::OneToOne if matches!(b.op, "and" | "or" | "unless") => ("many-to-many", &[][..]),
        Cardinality::OneToOne => ("one-to-one", &[][..]),
        Cardinality::ManyToOne(labels) => ("many-to-one", labels.as_slice()),
        Cardinality::OneToMany(labels) => ("one-to-many", labels.as_slice()),
    };
    let (labels, on) = match &m.matching {
        None => (&[][..], false),
        Some(LabelModifier::Include(labels)) => (labels.as_slice(), true),
        Some(LabelModifier::Exclude(labels)) => (labels.as_slice(), false),
    };
    json!({
        "card": card,
        "labels": labels,
        "on": on,
        "include": include,
        "fillValues": {"lhs": m.fill_left, "rhs": m.fill_right},
    })
}
