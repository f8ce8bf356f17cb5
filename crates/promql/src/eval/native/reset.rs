//! Whether a counter began anew between two histograms.

use super::{Pairs, at_bounds, at_schema, common_bounds, is_custom, pairs, with_zero_threshold};
use weir_series::{Histogram, ResetHint};

/// Whether `h` cannot have grown out of `before`: something fell, or the resolution became finer.
pub(crate) fn is_reset(h: &Histogram, before: &Histogram) -> bool {
    match h.reset {
        ResetHint::Reset => return true,
        ResetHint::NotReset => return false,
        // A gauge in the place of a counter is looked at as if it were one.
        ResetHint::Unknown | ResetHint::Gauge => {}
    }
    if h.count < before.count || is_custom(h) != is_custom(before) {
        return true;
    }
    if is_custom(h) {
        if h.custom_values == before.custom_values {
            return fell(&pairs(&h.positive), &pairs(&before.positive));
        }
        let bounds = common_bounds(&h.custom_values, &before.custom_values);
        let (h, before) = (at_bounds(h, &bounds), at_bounds(before, &bounds));
        return fell(&pairs(&h.positive), &pairs(&before.positive));
    }
    if h.schema > before.schema || h.zero_threshold < before.zero_threshold {
        return true;
    }
    let before = with_zero_threshold(before, h.zero_threshold);
    if before.zero_threshold != h.zero_threshold || h.zero_count < before.zero_count {
        return true;
    }
    let before = at_schema(&before, h.schema);
    fell(&pairs(&h.positive), &pairs(&before.positive)) || fell(&pairs(&h.negative), &pairs(&before.negative))
}

/// Whether any bucket lost observations.
fn fell(now: &Pairs, before: &Pairs) -> bool {
    let mut now = now.iter().peekable();
    before.iter().any(|(index, count)| {
        while now.next_if(|(i, _)| i < index).is_some() {}
        let present = now.peek().filter(|(i, _)| i == index).map_or(0.0, |(_, c)| *c);
        present < *count
    })
}
