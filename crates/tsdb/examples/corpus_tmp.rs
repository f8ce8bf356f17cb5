use weir_series::*;
use weir_tsdb::*;
fn main() {
    let db = Tsdb::open(
        Options {
            retention: std::time::Duration::from_secs(1 << 40),
            ..Default::default()
        },
        Storage::new("/tmp/w/Tc/s"),
    )
    .unwrap();
    for i in 0..6i64 {
        let mut batch = vec![];
        for s in 0..4 {
            let id = db
                .resolve(&Labels::new([("__name__", "up"), ("pod", ["a", "b", "c", "d"][s])]))
                .unwrap();
            let value = match s {
                0 => 1.0,
                1 => i as f64 * 3.0,
                2 => i as f64 * 0.1,
                _ => stale_nan(),
            };
            batch.push((
                id,
                Sample {
                    ts_ms: 1_700_000_000_000 + i * 5000,
                    value,
                },
            ));
        }
        db.append(&batch, &mut vec![]);
        let id = db.resolve(&Labels::new([("__name__", "h")])).unwrap();
        let mut h = Histogram {
            schema: 3,
            count: i as f64,
            sum: 0.5 * i as f64,
            positive: Buckets {
                spans: vec![Span { offset: 1, length: 2 }],
                counts: vec![i as f64, 1.0],
            },
            ..Default::default()
        };
        if i == 3 {
            h.count = 0.5;
        }
        db.append_histograms(
            &[(
                id,
                1_700_000_000_000 + i * 5000,
                if i == 5 { Histogram::stale() } else { h },
            )],
            &mut vec![],
        );
    }
    db.describe(
        "up",
        &Metadata {
            kind: "gauge".into(),
            help: "Help.".into(),
            unit: String::new(),
        },
    );
    assert!(db.flush(std::time::Duration::from_secs(9)));
    assert!(db.close(std::time::Duration::from_secs(9)));
}
