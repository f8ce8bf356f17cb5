//! Templates of alerts' labels and annotations: the part of Go's templates that rule files use.
//!
//! Text goes in and is parsed once, when the rules are loaded; [`Template::render`] gives the text for one alert. Known are
//! pipelines, variables, `if`, `range`, `with`, comments and trimming; `define`, `template` and the like are refused by name.

mod functions;
mod number;
mod parse;
mod run;

pub(super) use functions::escape_query;
pub(crate) use run::{Data, Found, Query};

/// A number with an exponent, as the API shows the values of alerts.
pub(super) fn scientific(value: f64) -> String {
    number::scientific(value, None)
}

/// Levels that blocks and brackets may be nested in.
const MAX_DEPTH: usize = 32;
/// Bytes that a template may render.
const MAX_OUTPUT_BYTES: usize = 64 * 1024;

/// A parsed template.
#[derive(Clone, Debug)]
pub(crate) struct Template(Vec<Node>);

impl Template {
    /// Parses; the error says what is not understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse::template(text).map(Template)
    }

    /// The text for one alert.
    pub fn render(&self, data: &Data<'_>, query: Query<'_>) -> Result<String, String> {
        run::render(&self.0, data, query)
    }
}

#[derive(Clone, Debug)]
enum Node {
    Text(String),
    Show(Pipeline),
    Set {
        name: String,
        declare: bool,
        value: Pipeline,
    },
    If(Vec<(Pipeline, Vec<Node>)>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    Range {
        key: Option<String>,
        element: Option<String>,
        over: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
}

/// Each command's result is the next one's last argument.
#[derive(Clone, Debug)]
struct Pipeline(Vec<Command>);

#[derive(Clone, Debug)]
enum Command {
    /// A value as it stands.
    Operand(Operand),
    /// A function and its arguments.
    Call(functions::Function, Vec<Operand>),
}

#[derive(Clone, Debug)]
struct Operand {
    base: Base,
    fields: Vec<String>,
}

#[derive(Clone, Debug)]
enum Base {
    Dot,
    Variable(String),
    Number(f64),
    Int(i64),
    Text(String),
    Bool(bool),
    Nil,
    Pipeline(Pipeline),
    /// A function without arguments among the arguments of another.
    Call(functions::Function),
}

#[cfg(test)]
mod tests;
