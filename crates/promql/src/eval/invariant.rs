//! Which expressions are the same at every step, because all that they select is pinned by `@`.

use crate::parse::Expr;

/// Functions whose result depends on the time of the evaluation, whatever their arguments are.
const OF_THE_TIME: &[&str] = &[
    "days_in_month",
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "hour",
    "minute",
    "month",
    "year",
    "predict_linear",
    "time",
    "timestamp",
];

/// Whether it is the same at every step and costs something.
pub(super) fn is_worthwhile(expr: &Expr) -> bool {
    match expr {
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) => false,
        Expr::Paren(p) => is_worthwhile(p),
        _ => is_invariant(expr),
    }
}

fn is_invariant(expr: &Expr) -> bool {
    match expr {
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) => true,
        Expr::Paren(p) => is_invariant(p),
        Expr::Unary(u) => is_invariant(&u.expr),
        Expr::VectorSelector(s) => s.at.is_some(),
        Expr::MatrixSelector(m) => m.vs.at.is_some(),
        Expr::Subquery(s) => s.at.is_some(),
        Expr::Aggregate(a) => is_invariant(&a.expr) && a.param.as_ref().is_none_or(|p| is_invariant(p)),
        Expr::Binary(b) => is_invariant(&b.lhs) && is_invariant(&b.rhs),
        Expr::Call(c) => !OF_THE_TIME.contains(&c.func.name) && c.args.iter().all(is_invariant),
    }
}
