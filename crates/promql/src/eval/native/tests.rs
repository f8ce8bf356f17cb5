//! Native histograms by hand: bounds, sums of different resolutions, zero buckets, resets.

use super::*;

fn exponential(schema: i8, offset: i32, counts: &[f64]) -> Histogram {
    Histogram {
        schema,
        count: counts.iter().sum(),
        sum: 10.0,
        positive: from_pairs(counts.iter().enumerate().map(|(i, c)| (offset + i as i32, *c))),
        ..Histogram::default()
    }
}

#[test]
fn bounds_grow_by_the_schema() {
    assert_eq!(exponential_upper(0, 0), 1.0);
    assert_eq!(exponential_upper(3, 0), 8.0);
    assert_eq!(exponential_upper(-2, 0), 0.25);
    assert_eq!(exponential_upper(1, 1), 2f64.sqrt());
    assert_eq!(exponential_upper(2, -1), 16.0);
    assert_eq!(exponential_upper(1024, 0), f64::MAX);
    assert_eq!(exponential_upper(1025, 0), f64::INFINITY);
    assert_eq!(exponential_upper(-1074, 0), f64::from_bits(1));
}

#[test]
fn sums_have_the_coarser_resolution() {
    // Schema 1: buckets 1 and 2 are (1, 1.41] and (1.41, 2], of which schema 0 makes bucket 1.
    let fine = exponential(1, 1, &[1.0, 2.0, 4.0]);
    let coarse = exponential(0, 1, &[10.0, 20.0]);
    let sum = add(&fine, &coarse).map(|c| c.histogram);
    let sum = sum.unwrap_or_else(|_| panic!("compatible"));
    assert_eq!(sum.schema, 0);
    assert_eq!(pairs(&sum.positive), [(1, 13.0), (2, 24.0)]);
    assert_eq!(sum.count, 37.0);
    let difference = subtract(&sum, &coarse).map(|c| c.histogram);
    assert_eq!(difference.map(|d| pairs(&d.positive)), Ok(vec![(1, 3.0), (2, 4.0)]));
}

#[test]
fn zero_buckets_meet_at_the_wider_one() {
    let narrow = Histogram {
        zero_threshold: 0.5,
        zero_count: 1.0,
        ..exponential(0, 1, &[2.0, 3.0])
    };
    // 1.5 lies within the populated bucket (1, 2]: the zero bucket grows to 2.
    let wide = with_zero_threshold(&narrow, 1.5);
    assert_eq!((wide.zero_threshold, wide.zero_count), (2.0, 3.0));
    assert_eq!(pairs(&wide.positive), [(2, 3.0)]);
}

#[test]
fn resets_are_seen_in_any_bucket() {
    let before = exponential(0, 1, &[2.0, 3.0]);
    let more = exponential(0, 1, &[2.0, 4.0]);
    let moved = exponential(0, 1, &[1.0, 9.0]);
    assert!(!is_reset(&more, &before));
    assert!(is_reset(&moved, &before));
    assert!(is_reset(&before, &more));
    assert!(is_reset(&exponential(1, 1, &[9.0, 9.0]), &before));
    assert!(!is_reset(&exponential(-1, 1, &[6.0, 1.0]), &before));
    let said = Histogram {
        reset: weir_series::ResetHint::NotReset,
        ..before.clone()
    };
    assert!(!is_reset(&said, &more));
}

#[test]
fn quantiles_are_interpolated_by_the_logarithm() {
    let h = exponential(0, 1, &[4.0]);
    assert!((quantile(0.5, &h) - 2f64.sqrt()).abs() < 1e-12);
    assert_eq!(quantile(1.0, &h), 2.0);
    assert!((fraction(1.0, 2f64.sqrt(), &h) - 0.5).abs() < 1e-12);
    let custom = Histogram {
        schema: CUSTOM_BUCKETS_SCHEMA,
        custom_values: vec![5.0, 10.0].into(),
        ..exponential(0, 0, &[2.0, 2.0, 1.0])
    };
    assert_eq!(quantile(0.2, &custom), 2.5);
    assert_eq!(quantile(0.6, &custom), 7.5);
    assert_eq!(quantile(1.0, &custom), 10.0);
    assert_eq!(fraction(5.0, 7.5, &custom), 0.2);
}

#[test]
fn custom_bounds_are_cut_to_the_common_ones() {
    let custom = |bounds: &[f64], counts: &[f64]| Histogram {
        schema: CUSTOM_BUCKETS_SCHEMA,
        custom_values: bounds.into(),
        ..exponential(0, 0, counts)
    };
    let (a, b) = (
        custom(&[1.0, 2.0, 4.0], &[1.0, 2.0, 3.0, 4.0]),
        custom(&[2.0, 4.0], &[10.0, 20.0, 30.0]),
    );
    let sum = add(&a, &b).unwrap_or_else(|_| panic!("compatible"));
    assert!(sum.reconciled);
    assert_eq!(*sum.histogram.custom_values, [2.0, 4.0]);
    assert_eq!(pairs(&sum.histogram.positive), [(0, 13.0), (1, 23.0), (2, 34.0)]);
    assert_eq!(add(&a, &exponential(0, 1, &[1.0])).err(), Some(Incompatible));
}
