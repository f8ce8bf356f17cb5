//! The tree of a query.

use super::{duration::Duration, functions::Function};
use weir_series::{Matcher, names};

/// What an expression yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Scalar,
    String,
    /// An instant vector.
    Vector,
    /// A range vector.
    Matrix,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Scalar => "scalar",
            Kind::String => "string",
            Kind::Vector => "instant vector",
            Kind::Matrix => "range vector",
        }
    }

    /// As Prometheus's API writes it.
    pub fn code(self) -> &'static str {
        match self {
            Kind::Scalar => "scalar",
            Kind::String => "string",
            Kind::Vector => "vector",
            Kind::Matrix => "matrix",
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Expr {
    NumberLiteral(NumberLiteral),
    StringLiteral(String),
    Paren(Box<Expr>),
    Unary(UnaryExpr),
    Binary(BinaryExpr),
    VectorSelector(VectorSelector),
    MatrixSelector(MatrixSelector),
    Subquery(SubqueryExpr),
    Aggregate(AggregateExpr),
    Call(Call),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct NumberLiteral {
    /// Seconds, where it was written as a duration.
    pub val: f64,
    pub is_duration: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct UnaryExpr {
    /// `-`, else `+`.
    pub negative: bool,
    pub expr: Box<Expr>,
}

#[derive(Clone, Debug)]
pub(crate) struct BinaryExpr {
    pub op: &'static str,
    pub lhs: Box<Expr>,
    pub rhs: Box<Expr>,
    pub modifier: BinModifier,
}

/// How the sides of an operator between vectors find each other.
#[derive(Clone, Debug, Default)]
pub(crate) struct BinModifier {
    pub return_bool: bool,
    pub matching: Option<LabelModifier>,
    pub card: Cardinality,
    /// Values that stand in for a missing side.
    pub fill_left: Option<f64>,
    pub fill_right: Option<f64>,
}

/// `on`, `by` (these labels), or `ignoring`, `without` (all but these).
#[derive(Clone, Debug)]
pub(crate) enum LabelModifier {
    Include(Vec<String>),
    Exclude(Vec<String>),
}

/// How many series of either side belong together; labels taken from the one side are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Cardinality {
    #[default]
    OneToOne,
    ManyToOne(Vec<String>),
    OneToMany(Vec<String>),
}

/// `@`
#[derive(Clone, Copy, Debug)]
pub(crate) enum AtModifier {
    Start,
    End,
    /// Milliseconds since 1970.
    At(i64),
}

/// What a selector does beyond the samples of its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extension {
    /// The window begins with the last sample before it.
    Anchored,
    /// Values at its ends are interpolated.
    Smoothed,
}

impl Extension {
    pub fn name(self) -> &'static str {
        match self {
            Extension::Anchored => "anchored",
            Extension::Smoothed => "smoothed",
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct VectorSelector {
    pub name: Option<String>,
    /// Without the name, unless it was written as `__name__`.
    pub matchers: Vec<Matcher>,
    pub offset: Option<Duration>,
    pub at: Option<AtModifier>,
    pub extension: Option<Extension>,
}

#[derive(Clone, Debug)]
pub(crate) struct MatrixSelector {
    pub vs: VectorSelector,
    pub range: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct SubqueryExpr {
    pub expr: Box<Expr>,
    pub range: Duration,
    pub step: Option<Duration>,
    pub offset: Option<Duration>,
    pub at: Option<AtModifier>,
}

#[derive(Clone, Debug)]
pub(crate) struct AggregateExpr {
    pub op: &'static str,
    pub expr: Box<Expr>,
    pub param: Option<Box<Expr>>,
    pub modifier: Option<LabelModifier>,
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub func: &'static Function,
    pub args: Vec<Expr>,
}

impl VectorSelector {
    /// All that satisfies some conditions.
    pub fn of(matchers: Vec<Matcher>) -> Self {
        VectorSelector {
            name: None,
            matchers,
            offset: None,
            at: None,
            extension: None,
        }
    }

    /// Its conditions, that on the name included.
    pub fn all_matchers(&self) -> Vec<Matcher> {
        let by_name = self.name.as_ref().map(|name| Matcher::equal(names::METRIC_NAME, name));
        by_name.into_iter().chain(self.matchers.iter().cloned()).collect()
    }
}

impl Expr {
    pub fn kind(&self) -> Kind {
        match self {
            Expr::NumberLiteral(_) => Kind::Scalar,
            Expr::StringLiteral(_) => Kind::String,
            Expr::Paren(inner) => inner.kind(),
            Expr::Unary(u) => u.expr.kind(),
            Expr::Binary(b) => match (b.lhs.kind(), b.rhs.kind()) {
                (Kind::Scalar, Kind::Scalar) => Kind::Scalar,
                _ => Kind::Vector,
            },
            Expr::VectorSelector(_) | Expr::Aggregate(_) => Kind::Vector,
            Expr::MatrixSelector(_) | Expr::Subquery(_) => Kind::Matrix,
            Expr::Call(c) => c.func.returns,
        }
    }

    /// Without the parentheses around it.
    pub fn bare(&self) -> &Expr {
        match self {
            Expr::Paren(inner) => inner.bare(),
            expr => expr,
        }
    }
}
