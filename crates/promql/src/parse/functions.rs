//! Which functions there are, and what they take.

use super::ast::Kind;
use Kind::{Matrix, Scalar, String, Vector};

/// A function of the language.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub name: &'static str,
    pub args: &'static [Kind],
    /// How many of the last arguments may be missing.
    pub optional: usize,
    /// How often the last argument may repeat beyond those listed.
    pub repeats: usize,
    pub returns: Kind,
}

impl Function {
    pub fn fewest(&self) -> usize {
        self.args.len() - self.optional
    }

    pub fn most(&self) -> usize {
        self.args.len().saturating_add(self.repeats)
    }

    /// Of the argument at that place.
    pub fn arg(&self, at: usize) -> Option<Kind> {
        self.args.get(at).or(self.args.last()).copied()
    }

    /// As Prometheus's API counts it: how many arguments may be left out, or -1 for any number more.
    pub fn variadic(&self) -> i64 {
        i64::try_from(self.repeats.saturating_add(self.optional)).unwrap_or(-1)
    }
}

const fn function(name: &'static str, args: &'static [Kind], returns: Kind) -> Function {
    Function {
        name,
        args,
        optional: 0,
        repeats: 0,
        returns,
    }
}

const fn of_vector(name: &'static str) -> Function {
    function(name, &[Vector], Vector)
}

const fn of_range(name: &'static str) -> Function {
    function(name, &[Matrix], Vector)
}

const fn of_nothing(name: &'static str) -> Function {
    function(name, &[], Scalar)
}

/// Of the time of the evaluation, where no vector is given.
const fn of_time(name: &'static str) -> Function {
    Function {
        optional: 1,
        ..function(name, &[Vector], Vector)
    }
}

const fn sort_by(name: &'static str) -> Function {
    Function {
        repeats: usize::MAX,
        optional: 1,
        ..function(name, &[Vector, String], Vector)
    }
}

static FUNCTIONS: &[Function] = &[
    of_vector("abs"),
    of_vector("absent"),
    of_range("absent_over_time"),
    of_vector("acos"),
    of_vector("acosh"),
    of_vector("asin"),
    of_vector("asinh"),
    of_vector("atan"),
    of_vector("atanh"),
    of_range("avg_over_time"),
    of_vector("ceil"),
    of_range("changes"),
    function("clamp", &[Vector, Scalar, Scalar], Vector),
    function("clamp_max", &[Vector, Scalar], Vector),
    function("clamp_min", &[Vector, Scalar], Vector),
    of_vector("cos"),
    of_vector("cosh"),
    of_range("count_over_time"),
    of_time("day_of_month"),
    of_time("day_of_week"),
    of_time("day_of_year"),
    of_time("days_in_month"),
    of_vector("deg"),
    of_range("delta"),
    of_range("deriv"),
    function("double_exponential_smoothing", &[Matrix, Scalar, Scalar], Vector),
    of_nothing("end"),
    of_vector("exp"),
    of_range("first_over_time"),
    of_vector("floor"),
    of_vector("histogram_avg"),
    of_vector("histogram_count"),
    function("histogram_fraction", &[Scalar, Scalar, Vector], Vector),
    function("histogram_quantile", &[Scalar, Vector], Vector),
    Function {
        repeats: 8,
        optional: 1,
        ..function("histogram_quantiles", &[Vector, String, Scalar, Scalar], Vector)
    },
    of_vector("histogram_stddev"),
    of_vector("histogram_stdvar"),
    of_vector("histogram_sum"),
    // What double_exponential_smoothing was called before Prometheus 3, and still is in many rule files.
    function("holt_winters", &[Matrix, Scalar, Scalar], Vector),
    of_time("hour"),
    of_range("idelta"),
    of_range("increase"),
    Function {
        optional: 1,
        ..function("info", &[Vector, Vector], Vector)
    },
    of_range("irate"),
    Function {
        repeats: usize::MAX,
        optional: 1,
        ..function("label_join", &[Vector, String, String, String], Vector)
    },
    function("label_replace", &[Vector, String, String, String, String], Vector),
    of_range("last_over_time"),
    of_vector("ln"),
    of_vector("log10"),
    of_vector("log2"),
    of_range("mad_over_time"),
    function("max_of", &[Scalar, Scalar], Scalar),
    of_range("max_over_time"),
    function("min_of", &[Scalar, Scalar], Scalar),
    of_range("min_over_time"),
    of_time("minute"),
    of_time("month"),
    of_nothing("pi"),
    function("predict_linear", &[Matrix, Scalar], Vector),
    of_range("present_over_time"),
    function("quantile_over_time", &[Scalar, Matrix], Vector),
    of_vector("rad"),
    of_nothing("range"),
    of_range("rate"),
    of_range("resets"),
    Function {
        optional: 1,
        ..function("round", &[Vector, Scalar], Vector)
    },
    function("scalar", &[Vector], Scalar),
    of_vector("sgn"),
    of_vector("sin"),
    of_vector("sinh"),
    of_vector("sort"),
    sort_by("sort_by_label"),
    sort_by("sort_by_label_desc"),
    of_vector("sort_desc"),
    of_vector("sqrt"),
    of_nothing("start"),
    of_range("stddev_over_time"),
    of_range("stdvar_over_time"),
    of_nothing("step"),
    of_range("sum_over_time"),
    of_vector("tan"),
    of_vector("tanh"),
    of_nothing("time"),
    of_vector("timestamp"),
    of_range("ts_of_first_over_time"),
    of_range("ts_of_last_over_time"),
    of_range("ts_of_max_over_time"),
    of_range("ts_of_min_over_time"),
    function("vector", &[Scalar], Vector),
    of_time("year"),
];

/// The function of that name.
pub(super) fn lookup(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|f| f.name == name)
}

/// The function whose name is most like this one, for an error.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let distance = |f: &Function| edits(name, f.name);
    let best = FUNCTIONS.iter().min_by_key(|f| distance(f))?;
    (distance(best) <= 2.max(name.len() / 4)).then_some(best.name)
}

/// How many characters must be put in, taken out or changed.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_the_nearest_one_is_found() {
        assert!(FUNCTIONS.is_sorted_by(|a, b| a.name < b.name));
        assert_eq!(nearest("histogram_qantile"), Some("histogram_quantile"));
        assert_eq!(nearest("rte"), Some("rate"));
        assert_eq!(nearest("something_else_altogether"), None);
        assert_eq!(edits("", "abc"), 3);
    }

    #[test]
    fn counts_of_arguments() {
        let count = |name| lookup(name).map(|f| (f.fewest(), f.most(), f.variadic()));
        assert_eq!(count("rate"), Some((1, 1, 0)));
        assert_eq!(count("round"), Some((1, 2, 1)));
        assert_eq!(count("label_join"), Some((3, usize::MAX, -1)));
        assert_eq!(count("hour"), Some((0, 1, 1)));
    }
}
