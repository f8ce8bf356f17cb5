//! Native histograms in JSON: count and sum, and each populated bucket with its bounds and which of them belong to it.

use crate::format;
use serde::{Serialize, Serializer, ser::SerializeTuple};
use weir_series::{Buckets, CUSTOM_BUCKETS_SCHEMA, Histogram};

/// Which bounds belong to a bucket, as the API numbers it.
const UPPER: u8 = 0;
const LOWER: u8 = 1;
const BOTH: u8 = 3;

/// A histogram on its way into JSON.
pub(super) struct Native<'a>(pub &'a Histogram);

impl Serialize for Native<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown {
            count: String,
            sum: String,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            buckets: Vec<Bucket>,
        }
        Shown {
            count: format::value(self.0.count),
            sum: format::value(self.0.sum),
            buckets: buckets(self.0),
        }
        .serialize(serializer)
    }
}

struct Bucket {
    bounds: u8,
    lower: f64,
    upper: f64,
    count: f64,
}

impl Serialize for Bucket {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(4)?;
        tuple.serialize_element(&self.bounds)?;
        for value in [self.lower, self.upper, self.count] {
            tuple.serialize_element(&format::value(value))?;
        }
        tuple.end()
    }
}

/// From the lowest bound up, without empty ones.
fn buckets(h: &Histogram) -> Vec<Bucket> {
    let custom = h.schema == CUSTOM_BUCKETS_SCHEMA;
    let mut out: Vec<Bucket> = indexed(&h.negative)
        .map(|(index, count)| Bucket {
            bounds: LOWER,
            lower: -bound(h, index),
            upper: -bound(h, index - 1),
            count,
        })
        .collect();
    out.reverse();
    if h.zero_count != 0.0 {
        out.push(Bucket {
            bounds: BOTH,
            lower: -h.zero_threshold,
            upper: h.zero_threshold,
            count: h.zero_count,
        });
    }
    out.extend(indexed(&h.positive).map(|(index, count)| Bucket {
        bounds: if custom && index == 0 { BOTH } else { UPPER },
        lower: bound(h, index - 1),
        upper: bound(h, index),
        count,
    }));
    out.retain(|b| b.count != 0.0);
    out
}

fn indexed(buckets: &Buckets) -> impl Iterator<Item = (i32, f64)> {
    let mut end = 0i32;
    let indexes = buckets.spans.iter().flat_map(move |span| {
        let start = end.saturating_add(span.offset);
        end = start.saturating_add(i32::try_from(span.length).unwrap_or(i32::MAX));
        start..end
    });
    indexes.zip(buckets.counts.iter().copied())
}

/// The upper bound of a bucket.
fn bound(h: &Histogram, index: i32) -> f64 {
    if h.schema == CUSTOM_BUCKETS_SCHEMA {
        return match usize::try_from(index) {
            Err(_) => f64::NEG_INFINITY,
            Ok(at) => h.custom_values.get(at).copied().unwrap_or(f64::INFINITY),
        };
    }
    let exponent = f64::from(index) * 2f64.powi(-i32::from(h.schema));
    match exponent {
        // The bucket of the largest number ends with it, the one beyond holds infinity.
        1024.0 => f64::MAX,
        exponent => exponent.exp2(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_series::Span;

    #[test]
    fn buckets_stand_in_ascending_order() {
        let side = |offset| Buckets {
            spans: vec![Span { offset, length: 2 }, Span { offset: 1, length: 1 }],
            counts: vec![1.0, 0.0, 2.5],
        };
        let h = Histogram {
            schema: 0,
            zero_threshold: 0.001,
            zero_count: 4.0,
            count: 11.0,
            sum: f64::NAN,
            positive: side(0),
            negative: side(1),
            ..Histogram::default()
        };
        let json = serde_json::to_string(&Native(&h)).unwrap_or_default();
        let buckets = [
            r#"[1,"-16","-8","2.5"]"#,
            r#"[1,"-2","-1","1"]"#,
            r#"[3,"-0.001","0.001","4"]"#,
            r#"[0,"0.5","1","1"]"#,
            r#"[0,"4","8","2.5"]"#,
        ];
        assert_eq!(
            json,
            format!(r#"{{"count":"11","sum":"NaN","buckets":[{}]}}"#, buckets.join(","))
        );
        let custom = Histogram {
            schema: CUSTOM_BUCKETS_SCHEMA,
            custom_values: [0.5, 1.0].into(),
            count: 3.0,
            positive: Buckets {
                spans: vec![Span { offset: 0, length: 3 }],
                counts: vec![1.0, 1.0, 1.0],
            },
            ..Histogram::default()
        };
        let json = serde_json::to_string(&Native(&custom)).unwrap_or_default();
        assert!(
            json.ends_with(r#"[[3,"-Inf","0.5","1"],[0,"0.5","1","1"],[0,"1","+Inf","1"]]}"#),
            "{json}"
        );
    }
}
