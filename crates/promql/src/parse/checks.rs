//! Which kinds of values go together, and which modifiers go where.

use super::{
    ParseError,
    ast::{
        AtModifier, BinModifier, BinaryExpr, Call, Cardinality, Expr, Extension, Kind, LabelModifier, NumberLiteral,
        UnaryExpr, VectorSelector,
    },
    duration::Duration,
    functions::Function,
};

/// An expression and the byte at which it begins.
type Placed = (usize, Expr);
type Checked<T> = Result<T, ParseError>;

fn wrong<T>(at: usize, why: impl Into<String>) -> Checked<T> {
    Err(ParseError::new(at, why))
}

/// Whether an operator compares.
pub(super) fn is_comparison(op: &str) -> bool {
    matches!(op, "==" | "!=" | "<" | "<=" | ">" | ">=")
}

fn is_trim(op: &str) -> bool {
    matches!(op, "</" | ">/")
}

fn is_set(op: &str) -> bool {
    matches!(op, "and" | "or" | "unless")
}

pub(super) fn binary(
    op: &'static str,
    modifier: BinModifier,
    (left_at, lhs): Placed,
    at: usize,
    (right_at, rhs): Placed,
) -> Checked<Expr> {
    for (at, side) in [(left_at, &lhs), (right_at, &rhs)] {
        if matches!(side.kind(), Kind::String | Kind::Matrix) {
            let kind = side.kind().name();
            return wrong(
                at,
                format!(
                    "binary expression must contain only scalar and instant vector types, this side of {op} is a {kind}"
                ),
            );
        }
    }
    let scalars = [&lhs, &rhs].iter().filter(|e| e.kind() == Kind::Scalar).count();
    if modifier.return_bool && !is_comparison(op) {
        return wrong(
            at,
            format!("bool modifier can only be used on comparison operators, not on {op}"),
        );
    }
    if scalars == 2 && is_comparison(op) && !modifier.return_bool {
        return wrong(
            at,
            format!("comparisons between scalars must use BOOL modifier: {lhs} {op} bool {rhs}"),
        );
    }
    if scalars == 2 && is_trim(op) {
        return wrong(
            at,
            format!("{op} cuts native histograms off at a number, its left side must be an instant vector"),
        );
    }
    let is_plain = modifier.matching.is_none() && modifier.fill_left.is_none() && modifier.fill_right.is_none();
    if scalars > 0 {
        if is_set(op) {
            return wrong(
                at,
                format!("set operator {op:?} not allowed in binary scalar expression"),
            );
        }
        if !is_plain {
            return wrong(at, "vector matching only allowed between instant vectors");
        }
    }
    if is_set(op) {
        if modifier.card != Cardinality::OneToOne {
            return wrong(at, format!("no grouping allowed for {op:?} operation"));
        }
        if modifier.fill_left.is_some() || modifier.fill_right.is_some() {
            return wrong(
                at,
                format!("filling in missing series not allowed for {op:?} operation"),
            );
        }
    }
    let included = match &modifier.card {
        Cardinality::OneToOne => &[][..],
        Cardinality::ManyToOne(labels) | Cardinality::OneToMany(labels) => labels.as_slice(),
    };
    if let Some(LabelModifier::Include(on)) = &modifier.matching
        && let Some(label) = included.iter().find(|l| on.contains(l))
    {
        return wrong(
            at,
            format!("label {label:?} must not occur in ON and GROUP clause at once"),
        );
    }
    Ok(Expr::Binary(BinaryExpr {
        op,
        lhs: Box::new(lhs),
        rhs: Box::new(rhs),
        modifier,
    }))
}

pub(super) fn unary(negative: bool, expr: Expr, at: usize) -> Checked<Expr> {
    match expr {
        Expr::NumberLiteral(number) if negative => Ok(Expr::NumberLiteral(NumberLiteral {
            val: -number.val,
            ..number
        })),
        Expr::NumberLiteral(_) => Ok(expr),
        _ if matches!(expr.kind(), Kind::String | Kind::Matrix) => {
            let kind = expr.kind().name();
            wrong(
                at,
                format!(
                    "unary expression only allowed on expressions of type scalar or instant vector, this is a {kind}"
                ),
            )
        }
        _ => Ok(Expr::Unary(UnaryExpr {
            negative,
            expr: Box::new(expr),
        })),
    }
}

/// The parameter, where the aggregation has one, and what is aggregated.
pub(super) fn aggregation(op: &str, args: Vec<Placed>, at: usize) -> Checked<(Option<Expr>, Expr)> {
    let wanted = match op {
        "count_values" => Some(Kind::String),
        "topk" | "bottomk" | "quantile" | "limitk" | "limit_ratio" => Some(Kind::Scalar),
        _ => None,
    };
    let (count, expected) = (args.len(), 1 + usize::from(wanted.is_some()));
    if count != expected {
        return wrong(
            at,
            format!("wrong number of arguments for aggregate expression {op}, expected {expected}, got {count}"),
        );
    }
    let mut args = args.into_iter();
    let mut next = |kind: Kind, what: &str| match args.next() {
        Some((_, expr)) if expr.kind() == kind => Ok(expr),
        Some((at, expr)) => {
            let found = expr.kind().name();
            wrong(at, format!("expected type {} in {what} {op}, got {found}", kind.name()))
        }
        None => wrong(at, format!("no arguments for aggregate expression {op} provided")),
    };
    let param = match wanted {
        Some(kind) => Some(next(kind, "the parameter of")?),
        None => None,
    };
    Ok((param, next(Kind::Vector, "aggregation expression")?))
}

pub(super) fn call(func: &'static Function, args: Vec<Placed>, at: usize) -> Checked<Expr> {
    let (name, count) = (func.name, args.len());
    if count < func.fewest() || count > func.most() {
        let expected = match (func.fewest(), func.most()) {
            (fewest, most) if fewest == most => format!("{fewest}"),
            (fewest, usize::MAX) => format!("at least {fewest}"),
            (fewest, most) => format!("{fewest} to {most}"),
        };
        let kinds: Vec<&str> = func.args.iter().map(|k| k.name()).collect();
        let kinds = if kinds.is_empty() {
            String::new()
        } else {
            format!(" ({})", kinds.join(", "))
        };
        return wrong(
            at,
            format!("expected {expected} argument(s) in call to {name:?}{kinds}, got {count}"),
        );
    }
    for (place, (at, arg)) in args.iter().enumerate() {
        let (wanted, found) = (func.arg(place), arg.kind());
        if let Some(wanted) = wanted.filter(|k| *k != found) {
            let hint = match (wanted, found) {
                (Kind::Matrix, Kind::Vector) => format!(", as in {name}({arg}[5m])"),
                (Kind::Vector, Kind::Matrix) => ", a function like rate() makes one of a range".to_owned(),
                (Kind::Vector, Kind::Scalar) => format!(", as in vector({arg})"),
                _ => String::new(),
            };
            let (wanted, found) = (wanted.name(), found.name());
            return wrong(
                *at,
                format!("expected type {wanted} in call to function {name:?}, got {found}{hint}"),
            );
        }
        extension(name, arg, *at)?;
    }
    Ok(Expr::Call(Call {
        func,
        args: args.into_iter().map(|(_, arg)| arg).collect(),
    }))
}

/// Not every function has a meaning for windows whose ends are made up.
fn extension(function: &str, arg: &Expr, at: usize) -> Checked<()> {
    let Expr::MatrixSelector(matrix) = arg.bare() else {
        return Ok(());
    };
    let Some(extension) = matrix.vs.extension else {
        return Ok(());
    };
    let allowed: &[&str] = match extension {
        Extension::Anchored => &["changes", "delta", "increase", "rate", "resets"],
        Extension::Smoothed => &["delta", "increase", "rate"],
    };
    if allowed.contains(&function) {
        return Ok(());
    }
    let (name, allowed) = (extension.name(), allowed.join(", "));
    wrong(
        at,
        format!("{name} modifier can only be used with: {allowed} - not with {function}"),
    )
}

/// Not everything at once.
pub(super) fn selector(selector: &VectorSelector, at: usize) -> Checked<()> {
    let is_named = selector.name.as_deref().is_some_and(|n| !n.is_empty());
    if is_named || selector.matchers.iter().any(|m| !m.matches("")) {
        return Ok(());
    }
    wrong(
        at,
        "vector selector must contain at least one non-empty matcher, like {job=~\".+\"} (which an absent label does not satisfy)",
    )
}

pub(super) fn subquery(expr: &Expr, at: usize) -> Checked<()> {
    match expr.kind() {
        Kind::Vector => Ok(()),
        other => wrong(
            at,
            format!(
                "subquery is only allowed on instant vector, got {} instead",
                other.name()
            ),
        ),
    }
}

/// What `[5m]` may follow.
pub(super) fn ranged(expr: Expr, at: usize) -> Checked<VectorSelector> {
    match expr {
        Expr::VectorSelector(vs) if vs.offset.is_some() => wrong(at, "no offset modifiers allowed before range"),
        Expr::VectorSelector(vs) if vs.at.is_some() => wrong(at, "no @ modifiers allowed before range"),
        Expr::VectorSelector(vs) if vs.extension.is_some() => {
            wrong(at, "no anchored or smoothed modifiers allowed before range")
        }
        Expr::VectorSelector(vs) => Ok(vs),
        _ => wrong(
            at,
            "ranges only allowed for vector selectors, a subquery has a colon: [5m:]",
        ),
    }
}

/// Where its `offset` belongs.
pub(super) fn offset_of(expr: &mut Expr) -> Option<&mut Option<Duration>> {
    match expr {
        Expr::VectorSelector(vs) => Some(&mut vs.offset),
        Expr::MatrixSelector(m) => Some(&mut m.vs.offset),
        Expr::Subquery(s) => Some(&mut s.offset),
        _ => None,
    }
}

/// Where its `@` belongs.
pub(super) fn at_of(expr: &mut Expr) -> Option<&mut Option<AtModifier>> {
    match expr {
        Expr::VectorSelector(vs) => Some(&mut vs.at),
        Expr::MatrixSelector(m) => Some(&mut m.vs.at),
        Expr::Subquery(s) => Some(&mut s.at),
        _ => None,
    }
}

pub(super) fn set_once<T>(at: usize, place: Option<&mut Option<T>>, short: &str, long: &str, value: T) -> Checked<()> {
    match place {
        None => wrong(
            at,
            format!(
                "{long} must be preceded by an instant vector selector or range vector selector or a subquery, \
                 it belongs right behind the selector"
            ),
        ),
        Some(Some(_)) => wrong(at, format!("{short} may not be set multiple times")),
        Some(place) => {
            *place = Some(value);
            Ok(())
        }
    }
}

pub(super) fn extend(expr: &mut Expr, extension: Extension, at: usize) -> Checked<()> {
    let name = extension.name();
    let place = match expr {
        Expr::VectorSelector(_) if extension == Extension::Anchored => {
            return wrong(
                at,
                "anchored modifier must be preceded by a range vector selector like up[5m]",
            );
        }
        Expr::VectorSelector(vs) => &mut vs.extension,
        Expr::MatrixSelector(m) => &mut m.vs.extension,
        Expr::Subquery(_) => return wrong(at, format!("{name} modifier is not supported for subqueries")),
        _ => return wrong(at, format!("{name} modifier must be preceded by a selector")),
    };
    if place.replace(extension).is_some() {
        return wrong(at, "one modifier of anchored and smoothed may be set, once");
    }
    Ok(())
}
