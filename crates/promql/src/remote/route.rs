//! Several servers behind one [`Backend`]: by rule, each question to one; else as shards, of which each holds a part.

use super::backend::{Backend, BoxFuture};
use super::shards::Shards;
use super::upstream::Upstream;
use crate::parse::Expr;
use crate::{Engine, Error, Options, Value, engine};
use std::sync::Arc;
use weir_series::{Labels, Matcher, SeriesData, names};

/// A server and the questions that go to it.
#[derive(Clone)]
pub struct Route {
    /// A selector: questions go here whose every selector asks for values that it lets pass. None: all others.
    pub rule: Option<String>,
    /// The server.
    pub upstream: Upstream,
}

/// Servers elsewhere.
pub struct Remote {
    rules: Vec<(Vec<Matcher>, Upstream)>,
    rest: Rest,
}

enum Rest {
    Nobody,
    One(Upstream),
    Shards(Engine),
}

impl Remote {
    /// Rules are tried in their order; the servers without one are shards of one store. Needs a running Tokio runtime.
    pub fn new(routes: Vec<Route>, options: Options) -> Result<Self, Error> {
        let mut rules = Vec::new();
        let mut rest = Vec::new();
        for route in routes {
            match route.rule {
                Some(rule) => rules.push((engine::selector(&rule)?, route.upstream)),
                None => rest.push(route.upstream),
            }
        }
        let rest = match rest.len() {
            0 => Rest::Nobody,
            1 => Rest::One(rest.remove(0)),
            _ => Rest::Shards(Engine::new(Arc::new(Shards::new(rest)?), options)),
        };
        Ok(Remote { rules, rest })
    }

    fn by_rule(&self, selectors: &[Vec<Matcher>]) -> Option<&Upstream> {
        let fits = |rule: &[Matcher]| {
            let all = |selector: &Vec<Matcher>| rule.iter().all(|r| selector.iter().any(|m| implies(m, r)));
            !selectors.is_empty() && selectors.iter().all(all)
        };
        self.rules
            .iter()
            .find(|(rule, _)| fits(rule))
            .map(|(_, upstream)| upstream)
    }

    fn of_query(&self, query: &str) -> Result<Target<'_>, Error> {
        if self.rules.is_empty() {
            return self.other();
        }
        let mut selectors = Vec::new();
        engine::with_parsed(query, |expr| collect(expr, &mut selectors))?;
        match self.by_rule(&selectors) {
            Some(upstream) => Ok(Target::One(upstream)),
            None => self.other(),
        }
    }

    fn of_selectors(&self, selectors: &[String]) -> Result<Target<'_>, Error> {
        let parsed = selectors
            .iter()
            .map(|s| engine::selector(s))
            .collect::<Result<Vec<_>, _>>()?;
        match self.by_rule(&parsed) {
            Some(upstream) => Ok(Target::One(upstream)),
            None => self.other(),
        }
    }

    fn other(&self) -> Result<Target<'_>, Error> {
        match &self.rest {
            Rest::One(upstream) => Ok(Target::One(upstream)),
            Rest::Shards(engine) => Ok(Target::Shards(engine)),
            Rest::Nobody => Err(Error::Execution(
                "no server's rule fits the query, and there is none without a rule".into(),
            )),
        }
    }
}

enum Target<'a> {
    One(&'a Upstream),
    Shards(&'a Engine),
}

/// Whether all that satisfies `asked` satisfies `rule`.
fn implies(asked: &Matcher, rule: &Matcher) -> bool {
    asked.name() == rule.name()
        && asked
            .exact_values()
            .is_some_and(|values| values.iter().all(|value| rule.matches(value)))
}

/// The conditions of every selector; those of `info` select too.
fn collect(expr: &Expr, out: &mut Vec<Vec<Matcher>>) {
    match expr {
        Expr::VectorSelector(selector) => out.push(selector.all_matchers()),
        Expr::MatrixSelector(selector) => out.push(selector.vs.all_matchers()),
        Expr::Aggregate(e) => {
            collect(&e.expr, out);
            e.param.iter().for_each(|param| collect(param, out));
        }
        Expr::Unary(e) => collect(&e.expr, out),
        Expr::Paren(e) => collect(e, out),
        Expr::Subquery(e) => collect(&e.expr, out),
        Expr::Binary(e) => {
            collect(&e.lhs, out);
            collect(&e.rhs, out);
        }
        Expr::Call(e) => {
            if e.func.name == "info" && e.args.len() == 1 {
                out.push(vec![Matcher::equal(names::METRIC_NAME, names::TARGET_INFO)]);
            }
            e.args.iter().for_each(|argument| collect(argument, out));
        }
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) => {}
    }
}

impl Backend for Remote {
    fn instant<'a>(&'a self, query: &'a str, at_ms: i64) -> BoxFuture<'a, Value> {
        Box::pin(async move {
            match self.of_query(query)? {
                Target::One(upstream) => upstream.instant(query, at_ms).await,
                Target::Shards(engine) => Backend::instant(engine, query, at_ms).await,
            }
        })
    }

    fn range<'a>(&'a self, query: &'a str, start_ms: i64, end_ms: i64, step_ms: i64) -> BoxFuture<'a, Vec<SeriesData>> {
        Box::pin(async move {
            match self.of_query(query)? {
                Target::One(upstream) => match upstream.range(query, start_ms, end_ms, step_ms).await? {
                    Value::Matrix(series) => Ok(series),
                    _ => Err(Error::Execution(
                        "the server's answer to a range query is no matrix".into(),
                    )),
                },
                Target::Shards(engine) => Backend::range(engine, query, start_ms, end_ms, step_ms).await,
            }
        })
    }

    fn series<'a>(&'a self, selectors: &'a [String], start_ms: i64, end_ms: i64) -> BoxFuture<'a, Vec<Labels>> {
        Box::pin(async move {
            match self.of_selectors(selectors)? {
                Target::One(upstream) => {
                    let found = upstream.list("series", selectors, start_ms, end_ms).await?;
                    Ok(found.into_iter().map(labels).collect())
                }
                Target::Shards(engine) => Backend::series(engine, selectors, start_ms, end_ms).await,
            }
        })
    }

    fn label_names<'a>(&'a self, selectors: &'a [String], start_ms: i64, end_ms: i64) -> BoxFuture<'a, Vec<String>> {
        Box::pin(async move {
            match self.of_selectors(selectors)? {
                Target::One(upstream) => upstream.list("labels", selectors, start_ms, end_ms).await,
                Target::Shards(engine) => Backend::label_names(engine, selectors, start_ms, end_ms).await,
            }
        })
    }

    fn label_values<'a>(
        &'a self,
        name: &'a str,
        selectors: &'a [String],
        start_ms: i64,
        end_ms: i64,
    ) -> BoxFuture<'a, Vec<String>> {
        Box::pin(async move {
            match self.of_selectors(selectors)? {
                Target::One(upstream) => {
                    let path = super::upstream::values_path(name);
                    upstream.list(&path, selectors, start_ms, end_ms).await
                }
                Target::Shards(engine) => Backend::label_values(engine, name, selectors, start_ms, end_ms).await,
            }
        })
    }
}

pub(super) fn labels(pairs: std::collections::BTreeMap<String, String>) -> Labels {
    Labels::new(pairs)
}
