//! Text -> nodes.

use super::{Base, Command, MAX_DEPTH, Node, Operand, Pipeline, functions};

/// Words that begin something of Go's templates that rule files have no need of.
const REFUSED: [&str; 5] = ["define", "template", "block", "break", "continue"];

pub(super) fn template(text: &str) -> Result<Vec<Node>, String> {
    let mut parser = Parser {
        pieces: split(text)?.into_iter(),
        variables: ["labels", "externalLabels", "externalURL", "value"]
            .map(str::to_owned)
            .into(),
    };
    let (nodes, end) = parser.block(0)?;
    match end {
        Closed::Text => Ok(nodes),
        Closed::Close => Err("{{ end }} without a block".into()),
        Closed::Else(_) => Err("{{ else }} without {{ if }}".into()),
    }
}

enum Piece {
    Text(String),
    Action(String),
}

/// Splits text from actions; `{{-` and `-}}` take the white space beside them away.
fn split(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim = false;
    while let Some(at) = rest.find("{{") {
        let (before, after) = (&rest[..at], &rest[at + 2..]);
        let before = if trim { before.trim_start() } else { before };
        let trims_before = after.starts_with("- ") || after.starts_with("-\n") || after.starts_with("-\t");
        let before = if trims_before { before.trim_end() } else { before };
        pieces.push(Piece::Text(before.to_owned()));
        let after = if trims_before { &after[1..] } else { after };
        let end = action_end(after).ok_or_else(|| format!("{{{{ without }}}}: {:.40}", after))?;
        let action = &after[..end];
        let trims_after = action.ends_with(" -") || action.ends_with("\n-") || action.ends_with("\t-");
        let action = if trims_after { &action[..end - 1] } else { action };
        trim = trims_after;
        rest = &after[end + 2..];
        let action = action.trim();
        if !(action.starts_with("/*") && action.ends_with("*/")) {
            pieces.push(Piece::Action(action.to_owned()));
        }
    }
    pieces.push(Piece::Text(if trim { rest.trim_start() } else { rest }.to_owned()));
    Ok(pieces)
}

/// Where `}}` stands outside of strings and comments.
fn action_end(text: &str) -> Option<usize> {
    if text.trim_start().starts_with("/*") {
        let comment = text.find("*/")?;
        return text[comment..].find("}}").map(|at| comment + at);
    }
    let (mut quote, mut escaped) = (None, false);
    for (at, c) in text.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some('"' | '\'') if c == '\\' => escaped = true,
            Some(q) if q == c => quote = None,
            Some(_) => {}
            None if matches!(c, '"' | '`' | '\'') => quote = Some(c),
            None if text[at..].starts_with("}}") => return Some(at),
            None => {}
        }
    }
    None
}

/// What ended a run of nodes.
enum Closed {
    Text,
    Close,
    Else(String),
}

struct Parser {
    pieces: std::vec::IntoIter<Piece>,
    variables: Vec<String>,
}

impl Parser {
    fn block(&mut self, depth: usize) -> Result<(Vec<Node>, Closed), String> {
        if depth > MAX_DEPTH {
            return Err(format!("blocks are nested deeper than {MAX_DEPTH}"));
        }
        let known = self.variables.len();
        let mut nodes = Vec::new();
        let end = loop {
            let action = match self.pieces.next() {
                None => break Closed::Text,
                Some(Piece::Text(text)) => {
                    if !text.is_empty() {
                        nodes.push(Node::Text(text));
                    }
                    continue;
                }
                Some(Piece::Action(action)) => action,
            };
            let (word, rest) = action.split_once(char::is_whitespace).unwrap_or((&action, ""));
            match word {
                "end" if rest.is_empty() => break Closed::Close,
                "else" => break Closed::Else(rest.trim().to_owned()),
                "if" => nodes.push(self.condition(rest, depth)?),
                "with" => nodes.push(self.with(rest, depth)?),
                "range" => nodes.push(self.range(rest, depth)?),
                word if REFUSED.contains(&word) => return Err(format!("{{{{ {word} }}}} is not supported")),
                _ => nodes.push(self.action(&action)?),
            }
        };
        self.variables.truncate(known);
        Ok((nodes, end))
    }

    fn condition(&mut self, condition: &str, depth: usize) -> Result<Node, String> {
        let mut branches = Vec::new();
        let mut condition = condition.to_owned();
        loop {
            let known = self.variables.len();
            let pipeline = self.pipeline(&condition)?;
            let (body, end) = self.block(depth + 1)?;
            self.variables.truncate(known);
            branches.push((pipeline, body));
            match end {
                Closed::Close => return Ok(Node::If(branches, Vec::new())),
                Closed::Else(rest) if rest.is_empty() => return Ok(Node::If(branches, self.last_block(depth)?)),
                Closed::Else(rest) => match rest.strip_prefix("if ") {
                    Some(next) => condition = next.to_owned(),
                    None => return Err(format!("{{{{ else {rest} }}}} is not supported")),
                },
                Closed::Text => return Err("{{ if }} without {{ end }}".into()),
            }
        }
    }

    fn last_block(&mut self, depth: usize) -> Result<Vec<Node>, String> {
        match self.block(depth + 1)? {
            (nodes, Closed::Close) => Ok(nodes),
            _ => Err("{{ else }} without {{ end }}".into()),
        }
    }

    /// The body of `with` or `range`, and what stands behind `else`.
    fn bodies(&mut self, depth: usize) -> Result<(Vec<Node>, Vec<Node>), String> {
        match self.block(depth + 1)? {
            (body, Closed::Close) => Ok((body, Vec::new())),
            (body, Closed::Else(rest)) if rest.is_empty() => Ok((body, self.last_block(depth)?)),
            (_, Closed::Else(rest)) => Err(format!("{{{{ else {rest} }}}} is not supported")),
            (_, Closed::Text) => Err("a block without {{ end }}".into()),
        }
    }

    fn with(&mut self, text: &str, depth: usize) -> Result<Node, String> {
        if text.contains(":=") {
            return Err("{{ with $x := ... }} is not supported: assign before".into());
        }
        let value = self.pipeline(text)?;
        let (body, otherwise) = self.bodies(depth)?;
        Ok(Node::With(value, body, otherwise))
    }

    fn range(&mut self, text: &str, depth: usize) -> Result<Node, String> {
        let known = self.variables.len();
        let (names, over) = match text.split_once(":=") {
            Some((names, over)) if names.trim_start().starts_with('$') => (names, over),
            _ => ("", text),
        };
        let over = self.pipeline(over)?;
        let mut names: Vec<String> = names
            .split(',')
            .filter(|n| !n.trim().is_empty())
            .map(variable)
            .collect::<Result<_, _>>()?;
        self.variables.extend(names.iter().cloned());
        let element = names.pop();
        let key = names.pop();
        if !names.is_empty() {
            return Err("{{ range }} takes at most two variables".into());
        }
        let (body, otherwise) = self.bodies(depth)?;
        self.variables.truncate(known);
        Ok(Node::Range {
            key,
            element,
            over,
            body,
            otherwise,
        })
    }

    fn action(&mut self, action: &str) -> Result<Node, String> {
        if action.starts_with('$')
            && let Some(at) = action.find('=')
            && action[1..at]
                .trim_end_matches(':')
                .trim()
                .chars()
                .all(|c| c.is_alphanumeric() || c == '_')
        {
            let declare = action[..at].ends_with(':');
            let name = variable(action[..at].trim_end_matches(':'))?;
            let value = self.pipeline(&action[at + 1..])?;
            if declare {
                self.variables.push(name.clone());
            } else if !self.variables.contains(&name) {
                return Err(format!("undefined variable ${name}"));
            }
            return Ok(Node::Set { name, declare, value });
        }
        self.pipeline(action).map(Node::Show)
    }

    fn pipeline(&self, text: &str) -> Result<Pipeline, String> {
        let tokens = tokens(text)?;
        let mut tokens = Tokens {
            list: &tokens,
            at: 0,
            variables: &self.variables,
        };
        let pipeline = tokens.pipeline(0)?;
        match tokens.peek() {
            None => Ok(pipeline),
            Some(token) => Err(format!("unexpected {token:?} in {{{{ {} }}}}", text.trim())),
        }
    }
}

fn variable(text: &str) -> Result<String, String> {
    let name = text.trim().strip_prefix('$').unwrap_or_default();
    if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || c == '_') {
        return Err(format!("{:?} is not a variable like $x", text.trim()));
    }
    Ok(name.to_owned())
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Open,
    Close,
    Pipe,
    /// `.`, `.a.b`: with a space before it, or else joined to what stands before.
    Fields {
        names: Vec<String>,
        joined: bool,
    },
    Variable(String),
    Word(String),
    Number(f64),
    Int(i64),
    Text(String),
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut out = Vec::new();
    let mut rest = text;
    let mut space = true;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            c if c.is_whitespace() => {
                space = true;
                rest = &rest[c.len_utf8()..];
                continue;
            }
            '(' | ')' | '|' => {
                out.push(match c {
                    '(' => Token::Open,
                    ')' => Token::Close,
                    _ => Token::Pipe,
                });
                1
            }
            '"' | '`' => {
                let (value, length) = string(rest)?;
                out.push(Token::Text(value));
                length
            }
            '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                let length = word_length(rest, |c| c == '.');
                let names = rest[1..length].split('.').map(str::to_owned);
                let names: Vec<String> = if length == 1 { Vec::new() } else { names.collect() };
                if names.iter().any(String::is_empty) {
                    return Err(format!("{:?} is not a field", &rest[..length]));
                }
                out.push(Token::Fields { names, joined: !space });
                length
            }
            '$' => {
                let length = 1 + word_length(&rest[1..], |_| false);
                out.push(Token::Variable(rest[1..length].to_owned()));
                length
            }
            c if c.is_ascii_digit() || matches!(c, '-' | '+' | '.') => {
                let length = word_length(rest, |c| matches!(c, '.' | '-' | '+'));
                let number = &rest[..length];
                out.push(match (number.parse::<i64>(), number.parse::<f64>()) {
                    (Ok(int), _) => Token::Int(int),
                    (_, Ok(float)) => Token::Number(float),
                    _ => return Err(format!("{number:?} is not a number")),
                });
                length
            }
            c if c.is_alphabetic() || c == '_' => {
                let length = word_length(rest, |_| false);
                out.push(Token::Word(rest[..length].to_owned()));
                length
            }
            c => return Err(format!("unexpected {c:?} in {{{{ {} }}}}", text.trim())),
        };
        space = false;
        rest = &rest[length..];
    }
    Ok(out)
}

fn word_length(text: &str, also: impl Fn(char) -> bool) -> usize {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || also(c)));
    end.unwrap_or(text.len())
}

/// A string and how many bytes it takes in the source.
fn string(text: &str) -> Result<(String, usize), String> {
    if let Some(raw) = text.strip_prefix('`') {
        let end = raw.find('`').ok_or("a string without its end")?;
        return Ok((raw[..end].to_owned(), end + 2));
    }
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((out, at + 1)),
            '\\' => match chars.next().map(|(_, c)| c) {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('r') => out.push('\r'),
                Some(c @ ('"' | '\\' | '\'')) => out.push(c),
                other => return Err(format!("the escape \\{} is not supported", other.unwrap_or(' '))),
            },
            c => out.push(c),
        }
    }
    Err("a string without its end".into())
}

struct Tokens<'a> {
    list: &'a [Token],
    at: usize,
    variables: &'a [String],
}

impl Tokens<'_> {
    fn peek(&self) -> Option<&Token> {
        self.list.get(self.at)
    }

    fn pipeline(&mut self, depth: usize) -> Result<Pipeline, String> {
        if depth > MAX_DEPTH {
            return Err(format!("brackets are nested deeper than {MAX_DEPTH}"));
        }
        let mut commands = vec![self.command(depth)?];
        while self.peek() == Some(&Token::Pipe) {
            self.at += 1;
            let command = self.command(depth)?;
            if matches!(command, Command::Operand(_)) {
                return Err("behind | stands something that is no function".into());
            }
            commands.push(command);
        }
        Ok(Pipeline(commands))
    }

    fn command(&mut self, depth: usize) -> Result<Command, String> {
        let Some(first) = self.operand(depth)? else {
            return Err("an empty command".into());
        };
        let mut arguments = Vec::new();
        while let Some(argument) = self.operand(depth)? {
            arguments.push(argument);
        }
        match first.base {
            Base::Call(function) if first.fields.is_empty() => Ok(Command::Call(function, arguments)),
            _ if arguments.is_empty() => Ok(Command::Operand(first)),
            _ => Err("a value that is no function has arguments".into()),
        }
    }

    fn operand(&mut self, depth: usize) -> Result<Option<Operand>, String> {
        let Some(token) = self.peek().cloned() else {
            return Ok(None);
        };
        let mut fields = Vec::new();
        let base = match token {
            Token::Close | Token::Pipe => return Ok(None),
            Token::Open => {
                self.at += 1;
                let inner = self.pipeline(depth + 1)?;
                if self.peek() != Some(&Token::Close) {
                    return Err("( without )".into());
                }
                Base::Pipeline(inner)
            }
            Token::Fields { names, .. } => {
                fields = names;
                Base::Dot
            }
            Token::Variable(name) if name.is_empty() => Base::Variable(name),
            Token::Variable(name) => match self.variables.contains(&name) {
                true => Base::Variable(name),
                false => return Err(format!("undefined variable ${name}")),
            },
            Token::Number(number) => Base::Number(number),
            Token::Int(number) => Base::Int(number),
            Token::Text(text) => Base::Text(text),
            Token::Word(word) => match word.as_str() {
                "true" => Base::Bool(true),
                "false" => Base::Bool(false),
                "nil" => Base::Nil,
                word => Base::Call(functions::find(word)?),
            },
        };
        self.at += 1;
        if let Some(Token::Fields { names, joined: true }) = self.peek() {
            fields.extend(names.iter().cloned());
            self.at += 1;
        }
        Ok(Some(Operand { base, fields }))
    }
}
