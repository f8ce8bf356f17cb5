//! What is a query and what is none, and what errors say.

use super::*;

fn parsed(text: &str) -> Expr {
    parse(text, None).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// Queries that are written as they are shown.
#[test]
fn shown_as_written() {
    for text in [
        "up",
        "1",
        "-1.5",
        "5m",
        "\"a\\n\"",
        "a:b{c=\"d\",e!=\"f\",g=~\"h.*\",i!~\"j\"}",
        "{\"a.b\",\"c.d\"=\"e\"}",
        "{__name__=~\".+\"}",
        "sum by (a, \"b.c\") (x)",
        "sum without () (x)",
        "topk(5, x)",
        "count_values by (a) (\"v\", x)",
        "a + on (b) group_left (c) d",
        "a * ignoring (b) group_right () d",
        "a == bool on () d",
        "a / fill (0) b",
        "a / on (x) fill_left (1) fill_right (2) b",
        "a </ 5 >/ 1",
        "a offset 5m",
        "a @ 100.000 offset -1h30m",
        "a[5m] @ start() offset 5m",
        "a[5m:] @ end()",
        "rate(a[1m])[5m:10s] offset 1m",
        "rate(a[5m] anchored @ 1.000)",
        "rate(a[5m] smoothed)",
        "a smoothed",
        "a[5m * 2]",
        "a[step() + 1s:range() / 2]",
        "a[max(step(), 5s)] offset (1h - 5m)",
        "a offset -min_of(step(), 5s)",
        "-a ^ 2",
        "(-a) ^ 2",
        "info(a, {b=~\".*\"})",
        "histogram_quantile(0.9, sum by (le) (rate(a[5m])))",
        "sum + min",
        "offset offset 5m",
        "by{on=\"x\"} and or",
        "label_join(a, \"b\", \"-\")",
        "{\"on\"} + {\"NaN\"}",
        "step() + start() + end() + range()",
    ] {
        assert_eq!(parsed(text).to_string(), text);
        // And once more, through the form in lines.
        assert_eq!(parsed(&parsed(text).pretty()).to_string(), text);
    }
}

/// Other ways to write the same.
#[test]
fn shown_in_the_usual_form() {
    for (text, usual) in [
        ("SUM(x) BY (a,)", "sum by (a) (x)"),
        ("sum by () (x)", "sum(x)"),
        ("a AND b Or c", "a and b or c"),
        ("{'a'}", "a"),
        ("a{}", "a"),
        ("1_000 + 0x1f", "1000 + 31"),
        ("1e21", "1000000000000000000000"),
        ("- 5", "-5"),
        ("+5", "5"),
        ("Inf - nan", "+Inf - NaN"),
        ("a[300]", "a[5m]"),
        ("a offset 60", "a offset 1m"),
        ("a[90m:60s]", "a[1h30m:1m]"),
        ("count_over_time(a[STEP()])", "count_over_time(a[step()])"),
        ("a @ -5", "a @ -5.000"),
        ("a # comment\n+ b", "a + b"),
        ("a offset 100 + 2", "a offset 1m40s + 2"),
        ("a offset -2 ^ 2", "a offset -2s ^ 2"),
    ] {
        assert_eq!(parsed(text).to_string(), usual);
    }
}

#[test]
fn operators_bind_as_they_should() {
    let tree = |text: &str| {
        fn grouped(e: &Expr) -> String {
            match e {
                Expr::Binary(b) => format!("({}{}{})", grouped(&b.lhs), b.op, grouped(&b.rhs)),
                Expr::Unary(u) => format!("({}{})", if u.negative { "-" } else { "+" }, grouped(&u.expr)),
                other => other.to_string(),
            }
        }
        grouped(&parsed(text))
    };
    for (text, grouped) in [
        ("a + b * c ^ d ^ e", "(a+(b*(c^(d^e))))"),
        ("a * b % c", "((a*b)%c)"),
        ("a atan2 b - c", "((aatan2b)-c)"),
        ("-a ^ b", "(-(a^b))"),
        ("-a * b", "((-a)*b)"),
        ("a ^ -b * c", "((a^(-b))*c)"),
        ("a or b and c unless d", "(aor((bandc)unlessd))"),
        ("a == b + c", "(a==(b+c))"),
        ("a < b > c", "((a<b)>c)"),
    ] {
        assert_eq!(tree(text), grouped, "{text}");
    }
}

#[test]
fn errors_tell_place_and_what_would_be_right() {
    for (text, expected) in [
        ("", "1:1: parse error: no expression found in input"),
        ("1 </ 2", "1:3: parse error: </ cuts native histograms off at a number"),
        ("# nothing", "1:1: parse error: no expression found in input"),
        (
            "up{",
            "1:4: parse error: unexpected end of input in label matching, expected a label name or \"}\"",
        ),
        (
            "up{job}",
            "1:7: parse error: unexpected \"}\" in label matching, expected one of \"=\", \"!=\", \"=~\", \"!~\"",
        ),
        (
            "up{job=x}",
            "1:8: parse error: unexpected identifier \"x\" in label matching, expected a string",
        ),
        (
            "up{job=\"a\" or job=\"b\"}",
            "1:12: parse error: unexpected identifier \"or\"",
        ),
        (
            "up{job=~\"a(\"}",
            "1:9: parse error: the regular expression \"a(\" for label \"job\" is not valid",
        ),
        (
            "up{job=\"a}",
            "1:8: parse error: unterminated quoted string, expected \" at its end",
        ),
        ("\"\\q\"", "1:2: parse error: unknown escape sequence \\q"),
        (
            "a +",
            "1:4: parse error: unexpected end of input, expected an expression",
        ),
        (
            "a b",
            "1:3: parse error: unexpected identifier \"b\", expected an operator",
        ),
        ("a\n  + )", "2:5: parse error: unexpected \")\", expected an expression"),
        ("ä", "1:1: parse error: unexpected character 'ä'"),
        ("a ! b", "1:3: parse error: unexpected character '!'"),
        (
            "(a",
            "1:3: parse error: unexpected end of input in parentheses, expected \")\"",
        ),
        (
            "rte(a[5m])",
            "1:1: parse error: unknown function with name \"rte\", did you mean \"rate\"?",
        ),
        (
            "rate(a)",
            "1:6: parse error: expected type range vector in call to function \"rate\", got instant vector, as in rate(a[5m])",
        ),
        (
            "abs(a[5m])",
            "1:5: parse error: expected type instant vector in call to function \"abs\", got range vector",
        ),
        (
            "abs()",
            "1:1: parse error: expected 1 argument(s) in call to \"abs\" (instant vector), got 0",
        ),
        (
            "label_join(a, \"b\")",
            "1:1: parse error: expected at least 3 argument(s)",
        ),
        ("abs(a,)", "1:7: parse error: trailing commas not allowed"),
        (
            "sum(a, b)",
            "1:1: parse error: wrong number of arguments for aggregate expression sum, expected 1, got 2",
        ),
        (
            "topk(a, b)",
            "1:6: parse error: expected type scalar in the parameter of topk, got instant vector",
        ),
        (
            "sum(1)",
            "1:5: parse error: expected type instant vector in aggregation expression sum, got scalar",
        ),
        (
            "sum by (a b) (c)",
            "1:11: parse error: unexpected identifier \"b\" in the labels of by, expected \",\" or \")\"",
        ),
        (
            "1 == 2",
            "1:3: parse error: comparisons between scalars must use BOOL modifier: 1 == bool 2",
        ),
        (
            "a + bool b",
            "1:3: parse error: bool modifier can only be used on comparison operators",
        ),
        (
            "a and 1",
            "1:3: parse error: set operator \"and\" not allowed in binary scalar expression",
        ),
        (
            "a and on (x) group_left b",
            "1:3: parse error: no grouping allowed for \"and\" operation",
        ),
        (
            "a * group_left b",
            "1:5: parse error: unexpected identifier \"group_left\" in vector matching, expected \"on (...)\"",
        ),
        (
            "a * on (x) group_left (x) b",
            "1:3: parse error: label \"x\" must not occur in ON and GROUP clause at once",
        ),
        (
            "a * on (x) 1",
            "1:3: parse error: vector matching only allowed between instant vectors",
        ),
        (
            "a or fill(0) b",
            "1:3: parse error: filling in missing series not allowed",
        ),
        (
            "\"a\" + 1",
            "1:1: parse error: binary expression must contain only scalar and instant vector types",
        ),
        ("-\"a\"", "1:2: parse error: unary expression only allowed"),
        (
            "{}",
            "1:1: parse error: vector selector must contain at least one non-empty matcher",
        ),
        (
            "{a=~\".*\"}",
            "1:1: parse error: vector selector must contain at least one non-empty matcher",
        ),
        (
            "a{__name__=\"b\"}",
            "1:1: parse error: metric name must not be set twice: \"a\" or \"b\"",
        ),
        ("{\"a\", \"b\"}", "1:7: parse error: metric name must not be set twice"),
        (
            "a[5m][5m]",
            "1:6: parse error: ranges only allowed for vector selectors",
        ),
        (
            "a offset 5m [5m]",
            "1:13: parse error: no offset modifiers allowed before range",
        ),
        ("a @ 5 [5m]", "1:7: parse error: no @ modifiers allowed before range"),
        (
            "a[5m][5m:]",
            "1:1: parse error: subquery is only allowed on instant vector, got range vector instead",
        ),
        (
            "1[5m:]",
            "1:1: parse error: subquery is only allowed on instant vector, got scalar instead",
        ),
        ("a[0s]", "1:3: parse error: duration must be greater than 0"),
        (
            "a[5m - 10m]",
            "1:3: parse error: duration must be greater than 0, 5m - 10m is -5m",
        ),
        ("a[5m / 0]", "1:3: parse error: division by zero in the duration 5m / 0"),
        ("a[5m:0]", "1:6: parse error: duration must be greater than 0"),
        (
            "a[1m30h]",
            "1:3: parse error: \"1m30h\": the units of a duration stand from the longest to the shortest",
        ),
        (
            "a[5]m",
            "1:5: parse error: unexpected identifier \"m\", expected an operator",
        ),
        (
            "a[b]",
            "1:3: parse error: unexpected identifier \"b\" in a range, expected a duration like 5m",
        ),
        (
            "a[5m",
            "1:5: parse error: unexpected end of input in a range, expected \":\" or \"]\"",
        ),
        (
            "a offset b",
            "1:10: parse error: unexpected identifier \"b\" in offset, expected a duration like 5m",
        ),
        (
            "sum(a) offset 5m",
            "1:8: parse error: offset modifier must be preceded by an instant vector selector",
        ),
        (
            "a offset 5m offset 5m",
            "1:13: parse error: offset may not be set multiple times",
        ),
        (
            "a @ 1 @ 2",
            "1:7: parse error: @ <timestamp> may not be set multiple times",
        ),
        (
            "a @ Inf",
            "1:5: parse error: timestamp out of bounds for @ modifier: +Inf",
        ),
        (
            "a @ b",
            "1:5: parse error: unexpected identifier \"b\" in @, expected a timestamp, start() or end()",
        ),
        (
            "on",
            "1:1: parse error: unexpected identifier \"on\", expected an expression (a metric of that name is {\"on\"})",
        ),
        (
            "info(a, b)",
            "1:9: parse error: unexpected identifier \"b\" in info, expected conditions on labels",
        ),
        (
            "deriv(a[5m] smoothed)",
            "1:7: parse error: smoothed modifier can only be used with: delta, increase, rate - not with deriv",
        ),
        ("resets(a[5m] smoothed)", "not with resets"),
        (
            "a anchored",
            "1:3: parse error: anchored modifier must be preceded by a range vector selector",
        ),
        (
            "rate(a[5m] anchored smoothed)",
            "1:21: parse error: one modifier of anchored and smoothed may be set, once",
        ),
        (
            "a[5m:] anchored",
            "1:8: parse error: anchored modifier is not supported for subqueries",
        ),
        ("1.5m", "1:1: parse error: bad number or duration syntax: \"1.5m\""),
    ] {
        match parse(text, None) {
            Ok(tree) => panic!("{text}: read as {tree}"),
            Err(why) => assert!(why.contains(expected), "{text}:\n{why}\n{expected}"),
        }
    }
}

#[test]
fn durations_come_to_what_they_should() {
    let times = Times {
        step_ms: 10_000,
        range_ms: 60_000,
    };
    for (text, ms) in [
        ("5m * 2", 600_000),
        ("(5+2) * 1m", 420_000),
        ("1h / 2", 1_800_000),
        ("4h % 3h", 3_600_000),
        ("(2 ^ 3) * 1m", 480_000),
        ("-5m + 35m", 1_800_000),
        ("step() + 1", 11_000),
        ("max(step(), 5s)", 10_000),
        ("min_of(2 * step() + 5s, 5m)", 25_000),
        ("range()", 60_000),
        ("1.5", 1_500),
        ("100ms", 100),
    ] {
        match parse(&format!("a[{text}]"), Some(times)) {
            Ok(Expr::MatrixSelector(m)) => assert_eq!(m.range.ms, ms, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    let offset = |text: &str| match parse(&format!("a offset {text}"), Some(times)) {
        Ok(Expr::VectorSelector(vs)) => vs.offset.map(|o| o.ms),
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!(offset("-(step() * 2)"), Some(-20_000));
    assert_eq!(offset("(-2 ^ 2)"), Some(-4_000));
    let instant = Times {
        step_ms: 0,
        range_ms: 0,
    };
    let refused = parse("a[step()]", Some(instant)).err().unwrap_or_default();
    assert!(
        refused.contains("duration must be greater than 0, step() is 0s"),
        "{refused}"
    );
}

#[test]
fn long_queries_go_over_several_lines() {
    let metric = "a_metric_with_a_name_that_is_rather_long_total";
    let text = format!("sum by (a) (rate({metric}[5m])) / on (a) sum by (a) (rate({metric}[5m] offset 1d))");
    let pretty = parsed(&text).pretty();
    let expected = format!("  sum by (a) (rate({metric}[5m]))\n/ on (a)\n  sum by (a) (rate({metric}[5m] offset 1d))");
    assert_eq!(pretty, expected);
}

#[test]
fn as_json() {
    let tree = parsed("sum by (a) (b{c=\"d\"} offset 1m) > 5").to_json();
    assert_eq!(tree["type"], "binaryExpr");
    assert_eq!(tree["matching"], serde_json::Value::Null);
    assert_eq!(tree["lhs"]["grouping"], serde_json::json!(["a"]));
    assert_eq!(tree["lhs"]["expr"]["offset"], 60_000);
    let matchers = serde_json::json!([
        {"name": "c", "value": "d", "type": "="},
        {"name": "__name__", "value": "b", "type": "="},
    ]);
    assert_eq!(tree["lhs"]["expr"]["matchers"], matchers);
    assert_eq!(tree["rhs"]["val"], "5");
}
