//! Text into tokens, each with the byte at which it begins.

use super::ParseError;
use super::text::unquote;
use weir_series::duration::{self, DurationError};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A name or a keyword.
    Word(String),
    Number(f64),
    /// A number with units, in milliseconds.
    Duration(i64),
    String(String),
    /// An operator or a bracket.
    Sign(&'static str),
    End,
}

impl Token {
    /// For errors.
    pub fn describe(&self) -> String {
        match self {
            Token::Word(word) => format!("identifier {word:?}"),
            Token::Number(number) => format!("number {}", crate::format::value(*number)),
            Token::Duration(ms) => format!("duration {}", duration::text(*ms)),
            Token::String(text) => format!("string {text:?}"),
            Token::Sign(sign) => format!("{sign:?}"),
            Token::End => "end of input".into(),
        }
    }
}

/// Longer ones before those that they begin with.
const SIGNS: &[&str] = &[
    "==", "=~", "!=", "!~", "<=", ">=", "</", ">/", "=", "<", ">", "(", ")", "{", "}", "[", "]", ",", ":", "+", "-",
    "*", "/", "%", "^", "@",
];

/// All tokens, the last of which is the end.
pub(super) fn lex(text: &str) -> Result<Vec<(usize, Token)>, ParseError> {
    let mut lexer = Lexer {
        text,
        at: 0,
        in_range: false,
    };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blanks();
        let at = lexer.at;
        let token = lexer.next()?;
        match token {
            Token::Sign("[") => lexer.in_range = true,
            Token::Sign("]") => lexer.in_range = false,
            _ => {}
        }
        let is_end = token == Token::End;
        tokens.push((at, token));
        if is_end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    /// Between brackets, where `:` is no part of a name.
    in_range: bool,
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// The first characters of the rest that satisfy a condition.
    fn run(&self, is_part: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        &rest[..end]
    }

    fn skip_blanks(&mut self) {
        loop {
            self.at += self.run(|c| matches!(c, ' ' | '\t' | '\n' | '\r')).len();
            if !self.rest().starts_with('#') {
                return;
            }
            self.at += self.run(|c| c != '\n').len();
        }
    }

    fn next(&mut self) -> Result<Token, ParseError> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return Ok(Token::End);
        };
        let second_is_digit = rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
        if first.is_ascii_digit() || (first == '.' && second_is_digit) {
            return self.number();
        }
        if matches!(first, '"' | '\'' | '`') {
            let (text, length) = unquote(rest).map_err(|(offset, why)| ParseError::new(self.at + offset, why))?;
            self.at += length;
            return Ok(Token::String(text));
        }
        if first.is_ascii_alphabetic() || first == '_' || (first == ':' && !self.in_range) {
            let word = self.run(|c| is_name(c) || (c == ':' && !self.in_range));
            self.at += word.len();
            return Ok(Token::Word(word.to_owned()));
        }
        if let Some(sign) = SIGNS.iter().find(|s| rest.starts_with(**s)) {
            self.at += sign.len();
            return Ok(Token::Sign(sign));
        }
        let why = match first {
            '!' => "unexpected character '!', expected \"!=\" or \"!~\"".to_owned(),
            other if !other.is_ascii() => {
                format!("unexpected character {other:?}, names beyond ASCII are written in quotes: {{\"name\"}}")
            }
            other => format!("unexpected character {other:?}"),
        };
        Err(ParseError::new(self.at, why))
    }

    /// A number, or one with units.
    fn number(&mut self) -> Result<Token, ParseError> {
        let word = self.run(|c| is_name(c) || c == '.');
        let bad = || {
            let why = format!(
                "bad number or duration syntax: {word:?}, expected a number like 1.5e3 or a duration like 1h30m"
            );
            ParseError::new(self.at, why)
        };
        match duration::parse(word) {
            // A number, or nothing at all.
            Err(DurationError::Syntax) => {}
            Err(why) => return Err(ParseError::new(self.at, format!("{word:?}: {why}"))),
            Ok(ms) => {
                self.at += word.len();
                return Ok(Token::Duration(ms));
            }
        }
        // The sign of an exponent is no part of a word.
        let mut length = word.len();
        let is_hex = word.starts_with("0x") || word.starts_with("0X");
        if !is_hex && word.ends_with(['e', 'E']) && self.rest()[length..].starts_with(['+', '-']) {
            let digits = self.rest()[length + 1..].bytes().take_while(u8::is_ascii_digit).count();
            length += if digits > 0 { digits + 1 } else { 0 };
        }
        let number = number(&self.rest()[..length]).ok_or_else(bad)?;
        if self.rest()[length..].starts_with(|c| is_name(c) || c == '.') {
            return Err(bad());
        }
        self.at += length;
        Ok(Token::Number(number))
    }
}

/// Decimal, hexadecimal (`0x1f`) or octal (`017`), with `_` between digits.
fn number(text: &str) -> Option<f64> {
    let digits: String = text.chars().filter(|c| *c != '_').collect();
    if text.ends_with('_') || text.contains("__") {
        return None;
    }
    if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).ok().map(|v| v as f64);
    }
    if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| matches!(b, b'0'..=b'7')) {
        return u64::from_str_radix(&digits, 8).ok().map(|v| v as f64);
    }
    // Rust's own words for numbers ("inf", "nan") do not begin with a digit or a point.
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<Token> {
        match lex(text) {
            Ok(tokens) => tokens
                .into_iter()
                .map(|(_, t)| t)
                .filter(|t| *t != Token::End)
                .collect(),
            Err(e) => panic!("{text}: {e:?}"),
        }
    }

    #[test]
    fn numbers_and_durations() {
        for (text, value) in [
            ("1", 1.0),
            (".5", 0.5),
            ("1e3", 1000.0),
            ("1E-3", 0.001),
            ("1.5e+2", 150.0),
            ("0x1F", 31.0),
            ("017", 15.0),
            ("089", 89.0),
            ("1_000", 1000.0),
            ("5.", 5.0),
        ] {
            assert_eq!(tokens(text), [Token::Number(value)], "{text}");
        }
        for (text, ms) in [("1h30m", 5_400_000), ("0s", 0), ("5ms", 5), ("1y2w", 32_745_600_000)] {
            assert_eq!(tokens(text), [Token::Duration(ms)], "{text}");
        }
        for bad in [
            "1m1h", "1s1s", "1.5m", "5x", "1e", "0x", "1__0", "1_", "9999999y", "1.2.3", "0xg",
        ] {
            assert!(lex(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn colons_belong_to_names_outside_brackets_only() {
        assert_eq!(tokens("a:b"), [Token::Word("a:b".into())]);
        let range = [
            Token::Word("a:b".into()),
            Token::Sign("["),
            Token::Duration(60_000),
            Token::Sign(":"),
            Token::Word("step".into()),
            Token::Sign("("),
            Token::Sign(")"),
            Token::Sign("]"),
        ];
        assert_eq!(tokens("a:b[1m:step()]# :"), range);
    }
}
