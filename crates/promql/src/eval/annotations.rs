//! What a query's answer should be read with: warnings (something is missing or wrong) and infos (something is odd).

use std::collections::BTreeSet;

/// The remarks of one query, each text once, in the order of the alphabet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    /// The answer is not what the query asked for.
    pub warnings: BTreeSet<String>,
    /// The answer stands, but the query may not mean what its author thinks.
    pub infos: BTreeSet<String>,
}

impl Annotations {
    fn warn(&mut self, text: String) {
        self.warnings.insert(format!("PromQL warning: {text}"));
    }

    fn inform(&mut self, text: String) {
        self.infos.insert(format!("PromQL info: {text}"));
    }

    pub(crate) fn quantile(&mut self, q: f64) {
        if !(0.0..=1.0).contains(&q) {
            let q = crate::format::value(q);
            self.warn(format!("quantile value should be between 0 and 1, got {q}"));
        }
    }

    pub(crate) fn ratio(&mut self, ratio: f64, capped: f64) {
        let (ratio, capped) = (crate::format::value(ratio), crate::format::value(capped));
        self.warn(format!(
            "ratio value should be between -1 and 1, got {ratio}, capping to {capped}"
        ));
    }

    pub(crate) fn sort_in_range(&mut self, function: &str) {
        self.warn(format!(
            "{function} is ineffective for range queries, whose series are ordered by their labels"
        ));
    }

    pub(crate) fn bad_bucket_label(&mut self, metric: &str, le: &str) {
        let text = format!("bucket label \"le\" is missing or has a malformed value of {le:?}");
        self.warn(format!("{text}{}", for_metric(metric)));
    }

    pub(crate) fn mixed_range(&mut self, metric: &str) {
        self.warn(format!(
            "encountered a mix of histograms and floats for metric name {metric:?}"
        ));
    }

    pub(crate) fn mixed_aggregation(&mut self) {
        self.warn("encountered a mix of histograms and floats for aggregation".into());
    }

    pub(crate) fn mixed_classic_native(&mut self, metric: &str) {
        let text = "vector contains a mix of classic and native histograms";
        self.warn(format!("{text}{}", for_metric(metric)));
    }

    pub(crate) fn not_counter(&mut self, metric: &str) {
        self.warn(format!("this native histogram metric is not a counter: {metric:?}"));
    }

    pub(crate) fn not_gauge(&mut self, metric: &str) {
        self.warn(format!("this native histogram metric is not a gauge: {metric:?}"));
    }

    pub(crate) fn mixed_schemas(&mut self, metric: &str) {
        let text = "vector contains a mix of histograms with exponential and custom buckets schemas";
        self.warn(format!("{text} for metric name {metric:?}"));
    }

    pub(crate) fn incompatible_buckets(&mut self, operator: &str) {
        self.warn(format!(
            "incompatible bucket layout encountered for binary operator {operator}"
        ));
    }

    pub(crate) fn conflicting_resets(&mut self, what: &str) {
        self.warn(format!(
            "conflicting counter resets during histogram {what}: the result may be wrong"
        ));
    }

    pub(crate) fn reconciled_bounds(&mut self, what: &str) {
        self.inform(format!(
            "mismatched custom buckets were reconciled during histogram {what}"
        ));
    }

    pub(crate) fn possible_non_counter(&mut self, metric: &str) {
        let counter = ["_total", "_sum", "_count", "_bucket"];
        if !metric.is_empty() && !counter.iter().any(|suffix| metric.ends_with(suffix)) {
            let wanted = "name does not end in _total/_sum/_count/_bucket";
            self.inform(format!("metric might not be a counter, {wanted}: {metric:?}"));
        }
    }

    pub(crate) fn forced_monotonic(&mut self) {
        self.inform("input to histogram_quantile needed to be fixed for monotonicity".into());
    }

    pub(crate) fn incompatible_types(&mut self, left: &str, operator: &str, right: &str) {
        self.inform(format!(
            "incompatible sample types encountered for binary operator {operator:?}: {left} {operator} {right}"
        ));
    }

    pub(crate) fn ignored_in_aggregation(&mut self, aggregation: &str) {
        self.inform(format!("ignored histogram in {aggregation} aggregation"));
    }

    pub(crate) fn ignored_in_range(&mut self, metric: &str) {
        let text = "ignored histograms in a range containing both floats and histograms";
        self.inform(format!("{text} for metric name {metric:?}"));
    }

    pub(crate) fn nan_observations(&mut self, function: &str) {
        let text = match function {
            "histogram_fraction" => "which are excluded from all fractions",
            _ => "which count as larger than all others",
        };
        self.inform(format!("input to {function} has NaN observations, {text}"));
    }
}

fn for_metric(metric: &str) -> String {
    if metric.is_empty() {
        String::new()
    } else {
        format!(" for metric name {metric:?}")
    }
}
