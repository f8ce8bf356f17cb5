//! Random queries from a grammar, decided by a seed.
//!
//! The grammar knows two kinds of vectors. Exact ones hold whole numbers on both sides to the last bit; only on those it
//! rounds, compares, ranks and counts values, for a difference in the sixteenth digit would become one in the first.

/// A linear congruential generator: the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len() as u64) as usize]
    }
}

const COUNTERS: &[&str] = &[
    "requests_total",
    "requests_total{class=\"success\"}",
    "requests_total{pod=~\"web-.\"}",
    "requests_total{deployment!=\"db\"}",
    "jobs_total",
    "jobs_total{queue=\"a\"}",
    "sparse_total",
    "latency_bucket{le=\"10\"}",
];
const GAUGES: &[&str] = &[
    "connections",
    "connections{deployment=\"web\"}",
    "connections{pod!~\"db.*\"}",
    "build_info",
    "build_info{version=\"v1\"}",
];
const RANGES: &[&str] = &["17s", "30s", "1m", "95s", "2m", "5m"];
/// Of subqueries, whose steps lie at whole seconds: their left edges, where Prometheus 2 and 3 differ, so meet no step of
/// another one, however they are nested.
const SPANS: &[&str] = &["17s300ms", "30s300ms", "1m300ms", "95s300ms", "2m300ms"];
const OFFSETS: &[&str] = &[
    "",
    "",
    "",
    "",
    " offset 30s",
    " offset 2m",
    " offset -20s",
    " @ 1700000502.4",
    " @ end()",
    " @ start() offset 10s",
];
const LABELS: &[&str] = &["pod", "deployment", "class", "version", "queue", "le", "nothing"];
const NUMBERS: &[&str] = &["0", "1", "2", "3.5", "-1", "0.25", "1e3", "5"];

/// A query; the random numbers decide everything.
pub fn query(random: &mut Random) -> String {
    loop {
        let query = any(random);
        // A subquery is a range, too.
        if has_ranges(&query) || !query.contains(':') {
            return query;
        }
    }
}

/// Whether it can be compared over a range: Prometheus moves the window that `@` should pin.
pub fn has_ranges(query: &str) -> bool {
    !(query.contains("predict_linear") && query.contains('@'))
}

/// Whether it is all noise: small deviations of large numbers, as times are.
pub fn is_noise(query: &str) -> bool {
    query.contains("std") && (query.contains("time()") || query.contains("timestamp("))
}

fn any(random: &mut Random) -> String {
    match random.below(12) {
        0 => scalar(random, 2),
        1 | 2 => exact(random, 3),
        3 => native(random),
        4 => format!("sort{}({})", random.pick(&["", "_desc"]), exact(random, 1)),
        _ => vector(random, 3),
    }
}

fn counter(random: &mut Random) -> String {
    random.pick(COUNTERS).to_owned()
}

fn selector(random: &mut Random) -> String {
    let all = [COUNTERS, GAUGES].concat();
    format!("{}{}", random.pick(&all), random.pick(OFFSETS))
}

fn window(random: &mut Random, of: String) -> String {
    format!("{of}[{}]{}", random.pick(RANGES), random.pick(OFFSETS))
}

fn modifier(random: &mut Random) -> String {
    match random.below(4) {
        0 => String::new(),
        1 => format!(" without ({})", labels(random)),
        _ => format!(" by ({})", labels(random)),
    }
}

fn labels(random: &mut Random) -> String {
    let count = 1 + random.below(2);
    let names: Vec<&str> = (0..count).map(|_| random.pick(LABELS)).collect();
    names.join(", ")
}

fn scalar(random: &mut Random, depth: u64) -> String {
    match random.below(if depth == 0 { 2 } else { 9 }) {
        0 | 1 => random.pick(NUMBERS).to_owned(),
        2 => "time()".into(),
        3 => "pi()".into(),
        4 => format!("scalar({})", exact(random, depth - 1)),
        5 => format!(
            "({} {} {})",
            scalar(random, depth - 1),
            random.pick(&["+", "-", "*", "/", "%", "atan2"]),
            scalar(random, depth - 1)
        ),
        // Of literals, for what is computed may differ in its last digit.
        6 => {
            let op = random.pick(&["==", "!=", ">", "<", ">=", "<="]);
            format!("({} {op} bool {})", scalar(random, 0), scalar(random, 0))
        }
        7 => format!("{} ^ {}", random.pick(NUMBERS), random.pick(NUMBERS)),
        _ => format!("-{}", scalar(random, depth - 1)),
    }
}

/// Whole numbers.
fn exact(random: &mut Random, depth: u64) -> String {
    if depth == 0 {
        return selector(random);
    }
    let inner = depth - 1;
    match random.below(16) {
        0 | 1 => selector(random),
        2 | 3 => {
            let op = random.pick(&["sum", "min", "max", "count", "group"]);
            format!("{op}{} ({})", modifier(random), exact(random, inner))
        }
        4 => {
            let f = random.pick(&[
                "changes",
                "resets",
                "count_over_time",
                "min_over_time",
                "max_over_time",
                "sum_over_time",
                "last_over_time",
                "present_over_time",
                "idelta",
            ]);
            let of = random.pick(&[COUNTERS, GAUGES].concat()).to_owned();
            format!("{f}({})", window(random, of))
        }
        5 => format!(
            "({}) {} {}",
            exact(random, inner),
            random.pick(&["+", "-", "*"]),
            random.pick(&["1", "2", "7"])
        ),
        6 => {
            let op = random.pick(&["==", "!=", ">", "<", ">=", "<=", "> bool", "<= bool", "== bool"]);
            format!(
                "({}) {op} {}",
                exact(random, inner),
                random.pick(&["0", "1", "5", "1500"])
            )
        }
        7 => format!(
            "3 {} ({})",
            random.pick(&["<", ">=", "+", "-", "*"]),
            exact(random, inner)
        ),
        8 => {
            let op = random.pick(&["and", "or", "unless"]);
            let on = random.pick(&["", " on (pod)", " ignoring (class)", " on (deployment)", " on ()"]);
            format!("({}) {op}{on} ({})", exact(random, inner), exact(random, inner))
        }
        9 => {
            let f = random.pick(&["abs", "ceil", "floor", "sgn", "round"]);
            format!("{f}({})", exact(random, inner))
        }
        10 => format!("-({})", exact(random, inner)),
        11 => {
            let f = random.pick(&[
                "clamp_min({}, 5)",
                "clamp_max({}, 6)",
                "clamp({}, 2, 1200)",
                "clamp({}, 3, 1)",
            ]);
            f.replace("{}", &exact(random, inner))
        }
        12 => match random.below(3) {
            0 => format!(
                "label_replace({}, \"kind\", \"$1\", \"pod\", \"(.*)-.*\")",
                exact(random, inner)
            ),
            1 => format!(
                "label_join({}, \"both\", \"/\", \"deployment\", \"pod\")",
                exact(random, inner)
            ),
            _ => format!(
                "label_replace({}, \"pod\", \"\", \"pod\", \"web.*\")",
                exact(random, inner)
            ),
        },
        13 => {
            let f = random.pick(&[
                "max_over_time",
                "min_over_time",
                "sum_over_time",
                "count_over_time",
                "changes",
            ]);
            let step = random.pick(&["7s", "20s", ""]);
            format!(
                "{f}(({})[{}:{step}]{})",
                exact(random, inner),
                random.pick(SPANS),
                random.pick(OFFSETS)
            )
        }
        14 => {
            let (matching, other) = (
                random.pick(&["on (pod)", "ignoring (class, version)"]),
                exact(random, inner),
            );
            let group = random.pick(&["", " group_left ()", " group_right ()", " group_left (version)"]);
            let op = random.pick(&["+", "-", "*", "==", "<"]);
            format!("({}) {op} {matching}{group} ({other})", exact(random, inner))
        }
        _ => match random.below(3) {
            0 => format!("absent({})", exact(random, inner)),
            1 => format!("count_values{} (\"value\", {})", modifier(random), exact(random, inner)),
            _ => format!("timestamp({})", selector(random)),
        },
    }
}

/// Any numbers.
fn vector(random: &mut Random, depth: u64) -> String {
    if depth == 0 {
        let of = counter(random);
        return format!("rate({})", window(random, of));
    }
    let inner = depth - 1;
    match random.below(13) {
        0 | 1 => {
            let of = counter(random);
            let f = random.pick(&["rate", "increase", "irate"]);
            format!("{f}({})", window(random, of))
        }
        2 => {
            let f = random.pick(&[
                "delta({})",
                "deriv({})",
                "avg_over_time({})",
                "stddev_over_time({})",
                "stdvar_over_time({})",
                "predict_linear({}, 60)",
                "quantile_over_time(0.3, {})",
                "holt_winters({}, 0.3, 0.6)",
            ]);
            let of = random
                .pick(&["connections", "level", "level{pod=~\"web.*\"}", "gone"])
                .to_owned();
            f.replace("{}", &window(random, of))
        }
        3 | 4 => {
            let op = random.pick(&["sum", "avg", "min", "max", "stddev", "stdvar", "count"]);
            let modifier = modifier(random);
            // Of infinities Prometheus 2 gives no deviation, 3 gives NaN; and small differences of large numbers, as
            // times are, are all noise.
            let of = match (op.starts_with("std"), random.below(3)) {
                (true, 0) => vector(random, 0),
                (true, _) => Some(exact(random, inner))
                    .filter(|of| !of.contains("timestamp"))
                    .unwrap_or_else(|| "connections".into()),
                (false, _) => vector(random, inner),
            };
            format!("{op}{modifier} ({of})")
        }
        5 => format!(
            "quantile{} ({}, {})",
            modifier(random),
            random.pick(&["0.1", "0.5", "0.9", "1"]),
            vector(random, inner)
        ),
        6 => {
            let op = random.pick(&["+", "-", "*", "/"]);
            format!("({}) {op} {}", vector(random, inner), scalar(random, 1))
        }
        7 => {
            let f = random.pick(&[
                "sqrt", "exp", "ln", "log2", "log10", "abs", "atan", "sinh", "tanh", "rad", "deg",
            ]);
            format!("{f}(({}) / 100)", vector(random, inner))
        }
        8 => {
            let q = random.pick(&["0.1", "0.5", "0.9", "0.99", "-1", "2"]);
            let range = random.pick(&["30s", "1m", "2m"]);
            let by = random.pick(&["le", "le, deployment", "le, pod"]);
            format!("histogram_quantile({q}, sum by ({by}) (rate(latency_bucket[{range}])))")
        }
        9 => {
            let f = random.pick(&["avg_over_time", "max_over_time", "stddev_over_time", "delta", "deriv"]);
            let step = random.pick(&["7s", "11s", "20s"]);
            format!("{f}(({})[{}:{step}])", vector(random, inner), random.pick(SPANS))
        }
        10 => format!(
            "({}) / on (pod) group_left () ({})",
            vector(random, inner),
            exact(random, inner)
        ),
        11 => format!("topk{} ({}, level)", modifier(random), random.pick(&["1", "2", "9"])),
        _ => exact(random, depth),
    }
}

/// Native histograms, and what Prometheus 2.42 already makes of them.
fn native(random: &mut Random) -> String {
    let of = random.pick(&[
        "duration_seconds",
        "duration_seconds{deployment=\"web\"}",
        "duration_seconds{pod=\"db-1\"}",
    ]);
    let range = random.pick(&["30s", "1m", "2m", "5m"]);
    let range = match random.below(4) {
        0 => format!("{of}{}", random.pick(OFFSETS)),
        1 => format!("increase({of}[{range}])"),
        _ => format!("rate({of}[{range}])"),
    };
    let sum = match random.below(4) {
        0 => format!(
            "sum{} ({range})",
            random.pick(&["", " by (deployment)", " without (pod)"])
        ),
        _ => range,
    };
    match random.below(3) {
        0 => format!("histogram_count({sum})"),
        1 => format!("histogram_sum({sum})"),
        _ => sum,
    }
}
