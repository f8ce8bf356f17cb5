//! Tokens into a tree, by recursive descent. What kinds of values an operator or a function takes is checked in
//! [`checks`](super::checks).

use super::{
    ParseError, Times,
    ast::{
        AggregateExpr, AtModifier, BinModifier, Cardinality, Expr, Extension, LabelModifier, MatrixSelector,
        NumberLiteral, SubqueryExpr, VectorSelector,
    },
    checks,
    duration::{self, Duration, Sign, Written},
    functions,
    lex::Token,
    text::is_plain_name,
};
use weir_series::{MatchOp, Matcher, names};

const AGGREGATIONS: &[&str] = &[
    "sum",
    "avg",
    "min",
    "max",
    "count",
    "group",
    "stddev",
    "stdvar",
    "topk",
    "bottomk",
    "quantile",
    "count_values",
    "limitk",
    "limit_ratio",
];
/// Words that cannot stand for a metric.
const RESERVED: &[&str] = &["bool", "on", "ignoring", "group_left", "group_right", "atan2"];
/// Whether a metric of that name can be written without quotes.
pub(super) fn is_bare_metric(name: &str) -> bool {
    is_plain_name(name, true) && of_list(name, RESERVED).is_none() && of_list(name, &["inf", "nan"]).is_none()
}

/// How tightly `^` binds, which is the tightest.
const POWER: u8 = 6;
/// How tightly multiplication binds, and a sign.
const PRODUCT: u8 = 5;

pub(super) struct Parser {
    tokens: Vec<(usize, Token)>,
    next: usize,
    times: Option<Times>,
}

type Parsed<T> = Result<T, ParseError>;

fn of_list(word: &str, list: &[&'static str]) -> Option<&'static str> {
    list.iter().find(|w| word.eq_ignore_ascii_case(w)).copied()
}

impl Parser {
    pub fn new(tokens: Vec<(usize, Token)>, times: Option<Times>) -> Self {
        Parser { tokens, next: 0, times }
    }

    /// The whole text is one expression.
    pub fn whole(mut self) -> Parsed<Expr> {
        if *self.peek() == Token::End {
            return Err(ParseError::new(0, "no expression found in input"));
        }
        let expr = self.expr(0)?;
        match self.peek() {
            Token::End => Ok(expr),
            _ => Err(self.unexpected("", "an operator or the end of the query")),
        }
    }

    fn token(&self, ahead: usize) -> &Token {
        self.tokens
            .get(self.next + ahead)
            .map_or(&Token::End, |(_, token)| token)
    }

    fn peek(&self) -> &Token {
        self.token(0)
    }

    /// The byte at which the next token begins.
    fn at(&self) -> usize {
        let last = self.tokens.last();
        self.tokens.get(self.next).or(last).map_or(0, |(at, _)| *at)
    }

    fn skip(&mut self) {
        self.next += 1;
    }

    fn is_sign(&self, sign: &str) -> bool {
        matches!(self.peek(), Token::Sign(s) if *s == sign)
    }

    /// Whether the next token is that sign, which then is behind us.
    fn take(&mut self, sign: &str) -> bool {
        let is = self.is_sign(sign);
        self.next += usize::from(is);
        is
    }

    fn is_word(&self, ahead: usize, word: &str) -> bool {
        matches!(self.token(ahead), Token::Word(w) if w.eq_ignore_ascii_case(word))
    }

    fn take_word(&mut self, word: &str) -> bool {
        let is = self.is_word(0, word);
        self.next += usize::from(is);
        is
    }

    fn expect(&mut self, sign: &str, context: &str) -> Parsed<()> {
        if self.take(sign) {
            return Ok(());
        }
        Err(self.unexpected(context, &format!("{sign:?}")))
    }

    fn unexpected(&self, context: &str, expected: &str) -> ParseError {
        let found = self.peek().describe();
        let within = if context.is_empty() {
            String::new()
        } else {
            format!(" in {context}")
        };
        ParseError::new(self.at(), format!("unexpected {found}{within}, expected {expected}"))
    }

    /// The operator that comes next, and how tightly it binds.
    fn operator(&self) -> Option<(&'static str, u8)> {
        Some(match self.peek() {
            Token::Sign(sign) => match *sign {
                "^" => ("^", POWER),
                "*" | "/" | "%" => (sign, PRODUCT),
                "+" | "-" => (sign, 4),
                "==" | "!=" | "<" | "<=" | ">" | ">=" | "</" | ">/" => (sign, 3),
                _ => return None,
            },
            Token::Word(word) => match of_list(word, &["atan2", "and", "unless", "or"])? {
                "atan2" => ("atan2", PRODUCT),
                "or" => ("or", 1),
                set => (set, 2),
            },
            _ => return None,
        })
    }

    /// Operators that bind at least so tightly.
    fn expr(&mut self, least: u8) -> Parsed<Expr> {
        let left_at = self.at();
        let mut lhs = self.signed()?;
        while let Some((op, binding)) = self.operator().filter(|(_, binding)| *binding >= least) {
            let at = self.at();
            self.skip();
            let modifier = self.modifier()?;
            let right_at = self.at();
            let rhs = self.expr(if op == "^" { binding } else { binding + 1 })?;
            lhs = checks::binary(op, modifier, (left_at, lhs), at, (right_at, rhs))?;
        }
        Ok(lhs)
    }

    fn signed(&mut self) -> Parsed<Expr> {
        let negative = self.is_sign("-");
        if !negative && !self.is_sign("+") {
            let at = self.at();
            let primary = self.primary()?;
            return self.suffixes(primary, at);
        }
        self.skip();
        let at = self.at();
        let expr = self.expr(POWER)?;
        checks::unary(negative, expr, at)
    }

    /// What stands between an operator and its right side.
    fn modifier(&mut self) -> Parsed<BinModifier> {
        let mut modifier = BinModifier {
            return_bool: self.take_word("bool"),
            ..BinModifier::default()
        };
        if self.take_word("on") {
            modifier.matching = Some(LabelModifier::Include(self.labels("on")?));
        } else if self.take_word("ignoring") {
            modifier.matching = Some(LabelModifier::Exclude(self.labels("ignoring")?));
        }
        for side in ["group_left", "group_right"] {
            if !self.is_word(0, side) {
                continue;
            }
            if modifier.matching.is_none() {
                return Err(self.unexpected("vector matching", "\"on (...)\" or \"ignoring (...)\" before it"));
            }
            self.skip();
            let include = if self.is_sign("(") {
                self.labels(side)?
            } else {
                Vec::new()
            };
            modifier.card = match side {
                "group_left" => Cardinality::ManyToOne(include),
                _ => Cardinality::OneToMany(include),
            };
            break;
        }
        while let Some(side) = self.fill() {
            self.next += 2;
            let value = self.number("a fill value")?;
            self.expect(")", "a fill value")?;
            if side != "fill_right" {
                modifier.fill_left = Some(value);
            }
            if side != "fill_left" {
                modifier.fill_right = Some(value);
            }
        }
        Ok(modifier)
    }

    /// `fill (` and a number, for a metric may have that name.
    fn fill(&self) -> Option<&'static str> {
        let Token::Word(word) = self.peek() else {
            return None;
        };
        let side = of_list(word, &["fill", "fill_left", "fill_right"])?;
        let is_number = |ahead: usize| match self.token(ahead) {
            Token::Number(_) | Token::Duration(_) => true,
            Token::Word(word) => of_list(word, &["inf", "nan"]).is_some(),
            _ => false,
        };
        let has_sign = matches!(self.token(2), Token::Sign("+" | "-"));
        let opens = matches!(self.token(1), Token::Sign("("));
        (opens && is_number(if has_sign { 3 } else { 2 })).then_some(side)
    }

    /// A number with or without a sign.
    fn number(&mut self, context: &str) -> Parsed<f64> {
        let sign = if self.take("-") {
            -1.0
        } else {
            self.take("+");
            1.0
        };
        let value = match self.peek() {
            Token::Number(value) => *value,
            Token::Duration(ms) => *ms as f64 / 1000.0,
            Token::Word(word) if word.eq_ignore_ascii_case("inf") => f64::INFINITY,
            Token::Word(word) if word.eq_ignore_ascii_case("nan") => f64::NAN,
            _ => return Err(self.unexpected(context, "a number")),
        };
        self.skip();
        Ok(sign * value)
    }

    /// `(a, "b.c", d,)`
    fn labels(&mut self, context: &str) -> Parsed<Vec<String>> {
        let context = format!("the labels of {}", context.to_ascii_lowercase());
        self.expect("(", &context)?;
        let mut labels = Vec::new();
        while !self.take(")") {
            match self.peek() {
                Token::Word(name) if is_plain_name(name, false) => labels.push(name.clone()),
                Token::String(name) if !name.is_empty() => labels.push(name.clone()),
                _ => return Err(self.unexpected(&context, "a label or \")\"")),
            }
            self.skip();
            if !self.take(",") && !self.is_sign(")") {
                return Err(self.unexpected(&context, "\",\" or \")\""));
            }
        }
        Ok(labels)
    }

    fn primary(&mut self) -> Parsed<Expr> {
        let at = self.at();
        let number = |val, is_duration| Expr::NumberLiteral(NumberLiteral { val, is_duration });
        let expr = match self.peek().clone() {
            Token::Number(value) => number(value, false),
            Token::Duration(ms) => number(ms as f64 / 1000.0, true),
            Token::String(text) => Expr::StringLiteral(text),
            Token::Sign("(") => {
                self.skip();
                let inner = self.expr(0)?;
                self.expect(")", "parentheses")?;
                return Ok(Expr::Paren(Box::new(inner)));
            }
            Token::Sign("{") => return self.selector(None, at).map(Expr::VectorSelector),
            Token::Word(word) => {
                if let Some(op) = of_list(&word, AGGREGATIONS) {
                    let opens = matches!(self.token(1), Token::Sign("("));
                    if opens || self.is_word(1, "by") || self.is_word(1, "without") {
                        self.skip();
                        return self.aggregation(op, at);
                    }
                }
                match of_list(&word, &["inf", "nan"]) {
                    Some("inf") => number(f64::INFINITY, false),
                    Some(_) => number(f64::NAN, false),
                    None if matches!(self.token(1), Token::Sign("(")) => {
                        self.skip();
                        return self.call(&word, at);
                    }
                    None if of_list(&word, RESERVED).is_some() => {
                        let expected = format!("an expression (a metric of that name is {{\"{word}\"}})");
                        return Err(self.unexpected("", &expected));
                    }
                    None => {
                        self.skip();
                        return self.selector(Some(word), at).map(Expr::VectorSelector);
                    }
                }
            }
            _ => return Err(self.unexpected("", "an expression")),
        };
        self.skip();
        Ok(expr)
    }

    fn aggregation(&mut self, op: &'static str, at: usize) -> Parsed<Expr> {
        let mut modifier = self.grouping()?;
        let args = self.arguments(op)?;
        if modifier.is_none() {
            modifier = self.grouping()?;
        }
        let (param, expr) = checks::aggregation(op, args, at)?;
        Ok(Expr::Aggregate(AggregateExpr {
            op,
            expr: Box::new(expr),
            param: param.map(Box::new),
            modifier,
        }))
    }

    fn grouping(&mut self) -> Parsed<Option<LabelModifier>> {
        Ok(if self.take_word("by") {
            Some(LabelModifier::Include(self.labels("by")?))
        } else if self.take_word("without") {
            Some(LabelModifier::Exclude(self.labels("without")?))
        } else {
            None
        })
    }

    /// `(a, b)`, each with the byte at which it begins.
    fn arguments(&mut self, context: &str) -> Parsed<Vec<(usize, Expr)>> {
        let context = format!("the arguments of {context}");
        self.expect("(", &context)?;
        let mut args = Vec::new();
        if self.take(")") {
            return Ok(args);
        }
        loop {
            args.push((self.at(), self.expr(0)?));
            if self.take(")") {
                return Ok(args);
            }
            if !self.take(",") {
                return Err(self.unexpected(&context, "\",\" or \")\""));
            }
            if self.is_sign(")") {
                return Err(ParseError::new(
                    self.at(),
                    format!("trailing commas not allowed in {context}"),
                ));
            }
        }
    }

    fn call(&mut self, name: &str, at: usize) -> Parsed<Expr> {
        let known = functions::lookup(name).or_else(|| {
            // These are keywords too, which know no case.
            let keywords = ["step", "range", "start", "end", "min_of", "max_of"];
            functions::lookup(of_list(name, &keywords)?)
        });
        let Some(func) = known else {
            let hint = match functions::nearest(name) {
                Some(nearest) => format!(", did you mean {nearest:?}?"),
                None => String::new(),
            };
            return Err(ParseError::new(
                at,
                format!("unknown function with name {name:?}{hint}"),
            ));
        };
        let args = match func.name {
            "info" => self.info_arguments()?,
            name => self.arguments(name)?,
        };
        checks::call(func, args, at)
    }

    /// The second one of `info` is conditions on labels, and may match nothing but what is absent.
    fn info_arguments(&mut self) -> Parsed<Vec<(usize, Expr)>> {
        self.expect("(", "the arguments of info")?;
        let mut args = Vec::new();
        if !self.is_sign(")") {
            args.push((self.at(), self.expr(0)?));
            if self.take(",") {
                let at = self.at();
                if !self.is_sign("{") {
                    return Err(self.unexpected("info", "conditions on labels like {version=~\".+\"}"));
                }
                let conditions = self.conditions(None, at)?;
                args.push((at, Expr::VectorSelector(conditions)));
            }
        }
        self.expect(")", "the arguments of info")?;
        Ok(args)
    }

    fn selector(&mut self, name: Option<String>, at: usize) -> Parsed<VectorSelector> {
        let selector = self.conditions(name, at)?;
        checks::selector(&selector, at)?;
        Ok(selector)
    }

    /// `{"name", a="b", "c.d"=~"e",}`, or nothing after a name.
    fn conditions(&mut self, name: Option<String>, at: usize) -> Parsed<VectorSelector> {
        let mut selector = VectorSelector {
            name,
            ..VectorSelector::of(Vec::new())
        };
        if !self.take("{") {
            return Ok(selector);
        }
        while !self.take("}") {
            let label_at = self.at();
            let (label, quoted) = match self.peek() {
                Token::Word(label) if is_plain_name(label, false) => (label.clone(), false),
                Token::String(label) => (label.clone(), true),
                _ => return Err(self.unexpected("label matching", "a label name or \"}\"")),
            };
            self.skip();
            let op = match self.peek() {
                Token::Sign("=") => MatchOp::Equal,
                Token::Sign("!=") => MatchOp::NotEqual,
                Token::Sign("=~") => MatchOp::Regex,
                Token::Sign("!~") => MatchOp::NotRegex,
                Token::Sign("," | "}") if quoted => {
                    if let Some(first) = selector.name.replace(label.clone()) {
                        let why = format!("metric name must not be set twice: {first:?} or {label:?}");
                        return Err(ParseError::new(label_at, why));
                    }
                    self.take(",");
                    continue;
                }
                _ => return Err(self.unexpected("label matching", "one of \"=\", \"!=\", \"=~\", \"!~\"")),
            };
            self.skip();
            let Token::String(value) = self.peek().clone() else {
                return Err(self.unexpected("label matching", "a string like \"x\""));
            };
            let value_at = self.at();
            self.skip();
            if label.is_empty() {
                return Err(ParseError::new(label_at, "a label name must not be \"\""));
            }
            let matcher = Matcher::new(op, label, value);
            selector
                .matchers
                .push(matcher.map_err(|e| ParseError::new(value_at, e.to_string()))?);
            if self.is_word(0, "or") {
                let expected = "\",\" or \"}\" (`or` stands between selectors, not within one)";
                return Err(self.unexpected("label matching", expected));
            }
            if !self.take(",") && !self.is_sign("}") {
                return Err(self.unexpected("label matching", "\",\" or \"}\""));
            }
        }
        let named = selector.matchers.iter().find(|m| m.name() == names::METRIC_NAME);
        if let (Some(name), Some(named)) = (&selector.name, named) {
            let why = format!("metric name must not be set twice: {name:?} or {:?}", named.value());
            return Err(ParseError::new(at, why));
        }
        Ok(selector)
    }

    /// `[5m]`, `[5m:10s]`, `offset 1h`, `@ 100`, `anchored`, `smoothed`.
    fn suffixes(&mut self, mut expr: Expr, begin: usize) -> Parsed<Expr> {
        loop {
            let at = self.at();
            if self.take("[") {
                expr = self.range(expr, begin, at)?;
            } else if self.take_word("offset") {
                let written_at = self.at();
                let written = self.offset()?;
                let duration = duration::resolve(written, Sign::Any, written_at, self.times)?;
                checks::set_once(at, checks::offset_of(&mut expr), "offset", "offset modifier", duration)?;
            } else if self.take("@") {
                let time = self.time()?;
                checks::set_once(at, checks::at_of(&mut expr), "@ <timestamp>", "@ modifier", time)?;
            } else if self.take_word("anchored") {
                checks::extend(&mut expr, Extension::Anchored, at)?;
            } else if self.take_word("smoothed") {
                checks::extend(&mut expr, Extension::Smoothed, at)?;
            } else {
                return Ok(expr);
            }
        }
    }

    /// After `[`.
    fn range(&mut self, expr: Expr, begin: usize, at: usize) -> Parsed<Expr> {
        let range = self.positive_duration("a range")?;
        if self.take(":") {
            let step = match self.is_sign("]") {
                true => None,
                false => Some(self.positive_duration("a subquery")?),
            };
            self.expect("]", "a subquery")?;
            checks::subquery(&expr, begin)?;
            return Ok(Expr::Subquery(SubqueryExpr {
                expr: Box::new(expr),
                range,
                step,
                offset: None,
                at: None,
            }));
        }
        if !self.take("]") {
            return Err(self.unexpected("a range", "\":\" or \"]\""));
        }
        let vs = checks::ranged(expr, at)?;
        Ok(Expr::MatrixSelector(MatrixSelector { vs, range }))
    }

    /// After `@`.
    fn time(&mut self) -> Parsed<AtModifier> {
        for (word, time) in [("start", AtModifier::Start), ("end", AtModifier::End)] {
            if self.take_word(word) {
                self.expect("(", "@")?;
                self.expect(")", "@")?;
                return Ok(time);
            }
        }
        let at = self.at();
        let starts = matches!(
            self.peek(),
            Token::Number(_) | Token::Duration(_) | Token::Sign("+" | "-")
        );
        let is_word = matches!(self.peek(), Token::Word(w) if of_list(w, &["inf", "nan"]).is_some());
        if !starts && !is_word {
            return Err(self.unexpected("@", "a timestamp, start() or end()"));
        }
        let seconds = self.number("@")?;
        let ms = (seconds * 1000.0).round();
        if !ms.is_finite() || ms.abs() >= i64::MAX as f64 {
            let value = crate::format::value(seconds);
            return Err(ParseError::new(
                at,
                format!("timestamp out of bounds for @ modifier: {value}"),
            ));
        }
        Ok(AtModifier::At(ms as i64))
    }

    fn positive_duration(&mut self, context: &str) -> Parsed<Duration> {
        let at = self.at();
        let written = self.duration(0, context)?;
        duration::resolve(written, Sign::Positive, at, self.times)
    }

    /// Arithmetic of durations, operators that bind at least so tightly.
    fn duration(&mut self, least: u8, context: &str) -> Parsed<Written> {
        let mut lhs = if self.take("-") {
            Written::Negative(Box::new(self.duration(POWER, context)?))
        } else if self.take("+") {
            self.duration(POWER, context)?
        } else {
            self.single_duration(context)?
        };
        while let Some((op, binding)) = self.operator().filter(|(_, b)| *b >= least.max(4)) {
            if op == "atan2" {
                break;
            }
            self.skip();
            let rhs = self.duration(if op == "^" { binding } else { binding + 1 }, context)?;
            lhs = Written::Binary(op, Box::new(lhs), Box::new(rhs));
        }
        Ok(lhs)
    }

    /// One operand.
    fn single_duration(&mut self, context: &str) -> Parsed<Written> {
        let written = match self.peek().clone() {
            Token::Duration(ms) => Written::Units(ms),
            Token::Number(seconds) => Written::Seconds(seconds),
            Token::Sign("(") => {
                self.skip();
                let inner = self.duration(0, context)?;
                self.expect(")", context)?;
                return Ok(Written::Paren(Box::new(inner)));
            }
            Token::Word(word) => {
                let functions = ["step", "range", "min", "max", "min_of", "max_of"];
                let Some(name) = of_list(&word, &functions) else {
                    return Err(self.unexpected(context, "a duration like 5m"));
                };
                self.skip();
                self.expect("(", context)?;
                if matches!(name, "step" | "range") {
                    self.expect(")", context)?;
                    return Ok(Written::OfQuery(name));
                }
                let a = self.duration(0, context)?;
                self.expect(",", context)?;
                let b = self.duration(0, context)?;
                self.expect(")", context)?;
                return Ok(Written::Choice(name, Box::new(a), Box::new(b)));
            }
            _ => return Err(self.unexpected(context, "a duration like 5m")),
        };
        self.skip();
        Ok(written)
    }

    /// After `offset`: one operand, perhaps with a sign. What follows it belongs to the query.
    fn offset(&mut self) -> Parsed<Written> {
        if self.take("-") {
            return Ok(Written::Negative(Box::new(self.single_duration("offset")?)));
        }
        self.take("+");
        self.single_duration("offset")
    }
}
