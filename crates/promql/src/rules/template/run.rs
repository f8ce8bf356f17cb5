//! Nodes and the data of one alert -> text.

use super::number;
use super::{Base, Command, MAX_OUTPUT_BYTES, Node, Operand, Pipeline};
use std::collections::BTreeMap;
use weir_series::{Labels, names};

/// What a template tells about.
#[derive(Clone, Debug)]
pub(crate) struct Data<'a> {
    /// Labels of the element that made the alert.
    pub labels: &'a Labels,
    /// Labels that this server puts on everything it sends.
    pub external_labels: &'a Labels,
    /// Where people reach this server.
    pub external_url: &'a str,
    /// The element's value.
    pub value: f64,
    /// Milliseconds since 1970.
    pub now_ms: i64,
}

/// An element of a query's answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    pub labels: Labels,
    pub value: f64,
}

/// Answers the queries of a template.
pub(crate) type Query<'a> = &'a dyn Fn(&str) -> Result<Vec<Found>, String>;

/// A value while a template runs.
#[derive(Clone, Debug)]
pub(super) enum Val {
    Nil,
    Bool(bool),
    Number(f64),
    Int(i64),
    Text(String),
    Labels(Labels),
    Map(BTreeMap<String, Val>),
    List(Vec<Val>),
    Element(Found),
}

impl Val {
    pub fn is_true(&self) -> bool {
        match self {
            Val::Nil => false,
            Val::Bool(b) => *b,
            Val::Number(n) => *n != 0.0,
            Val::Int(n) => *n != 0,
            Val::Text(t) => !t.is_empty(),
            Val::Labels(l) => !l.is_empty(),
            Val::Map(m) => !m.is_empty(),
            Val::List(l) => !l.is_empty(),
            Val::Element(_) => true,
        }
    }

    /// As it is shown where nothing else is said.
    pub fn show(&self) -> String {
        match self {
            Val::Nil => "<nil>".into(),
            Val::Bool(b) => b.to_string(),
            Val::Number(n) => number::shortest(*n),
            Val::Int(n) => n.to_string(),
            Val::Text(t) => t.clone(),
            Val::Labels(labels) => {
                let pairs: Vec<String> = labels.iter().map(|l| format!("{}:{}", l.name, l.value)).collect();
                format!("map[{}]", pairs.join(" "))
            }
            Val::Map(map) => {
                let pairs: Vec<String> = map.iter().map(|(k, v)| format!("{k}:{}", v.show())).collect();
                format!("map[{}]", pairs.join(" "))
            }
            Val::List(list) => format!("[{}]", list.iter().map(Val::show).collect::<Vec<_>>().join(" ")),
            Val::Element(e) => format!("{{{} {}}}", e.labels, number::shortest(e.value)),
        }
    }

    fn field(&self, name: &str) -> Result<Val, String> {
        match self {
            // A label that is not there is empty, as everywhere.
            Val::Labels(labels) => Ok(Val::Text(labels.get(name).to_owned())),
            Val::Map(map) => map
                .get(name)
                .cloned()
                .ok_or_else(|| format!("there is no field .{name}")),
            Val::Element(element) if name == "Labels" => Ok(Val::Labels(element.labels.clone())),
            Val::Element(element) if name == "Value" => Ok(Val::Number(element.value)),
            _ => Err(format!("{} has no field .{name}", self.show())),
        }
    }
}

/// What functions may use beside their arguments.
pub(super) struct Context<'a> {
    pub data: &'a Data<'a>,
    pub query: Query<'a>,
}

struct Run<'a> {
    context: Context<'a>,
    variables: Vec<(String, Val)>,
    out: String,
}

pub(super) fn render(nodes: &[Node], data: &Data<'_>, query: Query<'_>) -> Result<String, String> {
    let variables = [
        ("labels", Val::Labels(data.labels.clone())),
        ("externalLabels", Val::Labels(data.external_labels.clone())),
        ("externalURL", Val::Text(data.external_url.to_owned())),
        ("value", Val::Number(data.value)),
    ];
    let dot = [
        ("Labels", variables[0].1.clone()),
        ("ExternalLabels", variables[1].1.clone()),
        ("ExternalURL", variables[2].1.clone()),
        ("Value", variables[3].1.clone()),
    ];
    let dot = Val::Map(dot.map(|(name, value)| (name.to_owned(), value)).into());
    let mut run = Run {
        context: Context { data, query },
        variables: variables.map(|(name, value)| (name.to_owned(), value)).into(),
        out: String::new(),
    };
    run.variables.push((String::new(), dot.clone()));
    run.nodes(nodes, &dot)?;
    Ok(run.out)
}

impl Run<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Val) -> Result<(), String> {
        let known = self.variables.len();
        for node in nodes {
            self.node(node, dot)?;
            if self.out.len() > MAX_OUTPUT_BYTES {
                return Err(format!("the text is longer than {MAX_OUTPUT_BYTES} bytes"));
            }
        }
        self.variables.truncate(known);
        Ok(())
    }

    fn node(&mut self, node: &Node, dot: &Val) -> Result<(), String> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Show(pipeline) => {
                let shown = self.pipeline(pipeline, dot)?;
                match shown {
                    Val::Nil => self.out.push_str("<no value>"),
                    shown => self.out.push_str(&shown.show()),
                }
            }
            Node::Set { name, declare, value } => {
                let value = self.pipeline(value, dot)?;
                match self.variables.iter_mut().rev().find(|(n, _)| n == name) {
                    Some((_, known)) if !declare => *known = value,
                    _ => self.variables.push((name.clone(), value)),
                }
            }
            Node::If(branches, otherwise) => {
                for (condition, body) in branches {
                    if self.pipeline(condition, dot)?.is_true() {
                        return self.nodes(body, dot);
                    }
                }
                return self.nodes(otherwise, dot);
            }
            Node::With(value, body, otherwise) => {
                let value = self.pipeline(value, dot)?;
                return match value.is_true() {
                    true => self.nodes(body, &value),
                    false => self.nodes(otherwise, dot),
                };
            }
            Node::Range {
                key,
                element,
                over,
                body,
                otherwise,
            } => {
                let pairs = pairs(self.pipeline(over, dot)?)?;
                if pairs.is_empty() {
                    return self.nodes(otherwise, dot);
                }
                for (at, value) in pairs {
                    let known = self.variables.len();
                    self.variables.extend(key.iter().map(|name| (name.clone(), at.clone())));
                    self.variables
                        .extend(element.iter().map(|name| (name.clone(), value.clone())));
                    self.nodes(body, &value)?;
                    self.variables.truncate(known);
                }
            }
        }
        Ok(())
    }

    fn pipeline(&self, pipeline: &Pipeline, dot: &Val) -> Result<Val, String> {
        let mut last: Option<Val> = None;
        for command in &pipeline.0 {
            let value = match command {
                Command::Operand(operand) => self.operand(operand, dot)?,
                Command::Call(function, operands) => {
                    let mut arguments = Vec::with_capacity(operands.len() + 1);
                    for operand in operands {
                        arguments.push(self.operand(operand, dot)?);
                    }
                    arguments.extend(last.take());
                    function.call(&self.context, arguments)?
                }
            };
            last = Some(value);
        }
        Ok(last.unwrap_or(Val::Nil))
    }

    fn operand(&self, operand: &Operand, dot: &Val) -> Result<Val, String> {
        let mut value = match &operand.base {
            Base::Dot => dot.clone(),
            Base::Variable(name) => {
                let found = self.variables.iter().rev().find(|(n, _)| n == name);
                found
                    .map(|(_, v)| v.clone())
                    .ok_or_else(|| format!("undefined variable ${name}"))?
            }
            Base::Number(number) => Val::Number(*number),
            Base::Int(number) => Val::Int(*number),
            Base::Text(text) => Val::Text(text.clone()),
            Base::Bool(b) => Val::Bool(*b),
            Base::Nil => Val::Nil,
            Base::Pipeline(pipeline) => self.pipeline(pipeline, dot)?,
            Base::Call(function) => function.call(&self.context, Vec::new())?,
        };
        for name in &operand.fields {
            value = value.field(name)?;
        }
        Ok(value)
    }
}

/// Keys and elements of what `range` goes through.
fn pairs(value: Val) -> Result<Vec<(Val, Val)>, String> {
    let text = |text: &str| Val::Text(text.to_owned());
    Ok(match value {
        Val::Nil => Vec::new(),
        Val::List(list) => list
            .into_iter()
            .enumerate()
            .map(|(at, v)| (Val::Int(at as i64), v))
            .collect(),
        Val::Map(map) => map.into_iter().map(|(k, v)| (Val::Text(k), v)).collect(),
        Val::Labels(labels) => labels.iter().map(|l| (text(&l.name), text(&l.value))).collect(),
        other => return Err(format!("{{{{ range }}}} over {}, which is no list", other.show())),
    })
}

impl Found {
    /// Its labels without the metric's name, as `label` reads them.
    pub fn label(&self, name: &str) -> String {
        if name == names::METRIC_NAME {
            return self.labels.metric_name().to_owned();
        }
        self.labels.get(name).to_owned()
    }
}
