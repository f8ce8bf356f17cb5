use super::*;
use crate::memory::Memory;

const T: i64 = 1_700_000_000_000;

fn job() -> Job {
    let mut job = Job::named("weir");
    (job.exact, job.limits.samples) = (true, 1000);
    job
}

fn pages() -> Pages {
    let labels = Labels::new([("namespace", "default"), ("pod", "web")]);
    let target = Target::new("10.0.0.1:8900".to_owned(), "/metrics", labels);
    Pages::new(&target, Arc::new(job()))
}

fn store(pages: &mut Pages, memory: &Memory, after_ms: i64, page: &str) -> Stored {
    pages
        .store(page.as_bytes(), Format::Text, T + after_ms, memory)
        .unwrap_or_else(|e| panic!("{e}"))
}

fn series(name: &str) -> String {
    format!("{name}{{namespace=\"default\",pod=\"web\"}}")
}

#[test]
fn labels_of_the_target_win() {
    let (mut pages, memory) = (pages(), Memory::default());
    store(
        &mut pages,
        &memory,
        0,
        "a{pod=\"mine\",exported_pod=\"x\",le=\"1\",namespace=\"\"} 1\n",
    );
    let labels = r#"exported_exported_pod="mine",exported_pod="x",le="1",namespace="default",pod="web""#;
    assert_eq!(memory.names(), [format!("a{{{labels}}}")]);
}

#[test]
fn counters_begin_at_zero_when_they_appear_later() {
    let (mut pages, memory) = (pages(), Memory::default());
    store(&mut pages, &memory, 0, "# TYPE c_total counter\nc_total{x=\"old\"} 7\n");
    let second = "# TYPE c_total counter\nc_total{x=\"old\"} 8\nc_total{x=\"new\"} 5\n# TYPE g gauge\ng 3\n\
                  # TYPE h histogram\nh_bucket{le=\"+Inf\"} 2\nuntyped 4\n";
    store(&mut pages, &memory, 5000, second);
    let get = |name: &str| memory.samples(name, T);
    let labels = r#"namespace="default",pod="web""#;
    assert_eq!(
        get(&format!("c_total{{{labels},x=\"old\"}}")),
        [(0, Some(7.0)), (5000, Some(8.0))]
    );
    assert_eq!(
        get(&format!("c_total{{{labels},x=\"new\"}}")),
        [(0, Some(0.0)), (5000, Some(5.0))]
    );
    assert_eq!(
        get(&format!("h_bucket{{le=\"+Inf\",{labels}}}")),
        [(0, Some(0.0)), (5000, Some(2.0))]
    );
    assert_eq!(get(&series("g")), [(5000, Some(3.0))]);
    assert_eq!(get(&series("untyped")), [(5000, Some(4.0))]);
}

#[test]
fn counters_of_a_first_scrape_begin_with_their_process() {
    let start = |s: f64| format!("# TYPE c_total counter\nc_total 7\nprocess_start_time_seconds {s}\n");
    let born = |s: f64| {
        let (mut pages, memory) = (pages(), Memory::default());
        store(&mut pages, &memory, 0, &start(s));
        memory.samples(&series("c_total"), T)
    };
    let t = T as f64 / 1000.0;
    assert_eq!(born(t - 60.5), [(-60_500, Some(0.0)), (0, Some(7.0))]);
    assert_eq!(born(t - 7200.0), [(0, Some(7.0))], "older than the retention");
    assert_eq!(born(t), [(-1, Some(0.0)), (0, Some(7.0))], "in its first millisecond");
    assert_eq!(born(t + 60.0), [(0, Some(7.0))], "a clock that is ahead");
    assert_eq!(born(f64::NAN), [(0, Some(7.0))]);
}

#[test]
fn what_vanishes_ends_and_begins_anew_at_zero() {
    let (mut pages, memory) = (pages(), Memory::default());
    let page = |v: u8| format!("# TYPE c_total counter\nc_total {v}\nother 1\n");
    store(&mut pages, &memory, 0, &page(7));
    store(&mut pages, &memory, 5000, "other 1\n");
    store(&mut pages, &memory, 10_000, "other 1\n");
    store(&mut pages, &memory, 15_000, &page(2));
    let expected = [(0, Some(7.0)), (5000, None), (10_000, Some(0.0)), (15_000, Some(2.0))];
    assert_eq!(memory.samples(&series("c_total"), T), expected);
    store(&mut pages, &memory, 20_000, "other 1\n");
    store(&mut pages, &memory, 25_000, &page(3));
    let tail = memory.samples(&series("c_total"), T).split_off(4);
    assert_eq!(tail, [(20_000, None), (20_001, Some(0.0)), (25_000, Some(3.0))]);
}

#[test]
fn a_target_that_was_down_does_not_begin_anew() {
    let (mut pages, memory) = (pages(), Memory::default());
    let page = "# TYPE c_total counter\nc_total 7\n";
    store(&mut pages, &memory, 0, page);
    pages.fail(T + 5000, &memory);
    pages.fail(T + 10_000, &memory);
    store(&mut pages, &memory, 15_000, page);
    assert_eq!(
        memory.samples(&series("c_total"), T),
        [(0, Some(7.0)), (5000, None), (15_000, Some(7.0))]
    );
}

#[test]
fn nothing_of_a_bad_page_is_stored() {
    let (mut pages, memory) = (pages(), Memory::default());
    let error = pages
        .store(b"a 1\nb{ 2\n", Format::Text, T, &memory)
        .map(|_| String::new())
        .unwrap_or_else(|e| e.to_string());
    assert!(error.contains("line 2"), "{error}");
    let many: String = (0..1001).map(|i| format!("m{i} 1\n")).collect();
    let error = pages
        .store(many.as_bytes(), Format::Text, T, &memory)
        .map(|_| String::new())
        .unwrap_or_else(|e| e.to_string());
    assert_eq!(
        error,
        "the page has more than the 1000 samples that sample_limit allows"
    );
    assert_eq!(memory.names(), [""; 0]);
}

#[test]
fn refusals_are_counted_and_harm_no_other_series() {
    let (mut pages, memory) = (pages(), Memory::limited(1));
    let stored = store(&mut pages, &memory, 0, "a 1\nb 2\nc 3\n");
    assert_eq!((stored.samples, stored.refused), (3, 2));
    assert_eq!(stored.first_refusal, Some(AppendError::SeriesLimit { limit: 1 }));
    let stored = store(&mut pages, &memory, 0, "a 1 9999999999999\n");
    assert_eq!((stored.samples, stored.refused), (1, 1));
    assert_eq!(memory.names(), [series("a")]);
}

#[test]
fn series_that_the_store_forgot_are_made_again() {
    let (mut pages, memory) = (pages(), Memory::default());
    store(&mut pages, &memory, 0, "a 1\nb 1\n");
    memory.forget(&series("a"));
    let stored = store(&mut pages, &memory, 5000, "a 2\nb 2\n");
    assert_eq!(stored.refused, 0);
    assert_eq!(memory.samples(&series("a"), T), [(5000, Some(2.0))]);
    assert_eq!(memory.samples(&series("b"), T), [(0, Some(1.0)), (5000, Some(2.0))]);
}

#[test]
fn a_target_that_goes_ends_everything_about_it() {
    let (mut pages, memory) = (pages(), Memory::default());
    let stored = store(&mut pages, &memory, 0, "a 1\n");
    let report = Report {
        up: true,
        duration_s: 0.25,
        body_bytes: 4,
        stored,
    };
    pages.report(T, &report, &memory);
    pages.end(T + 1000, &memory);
    assert_eq!(memory.samples(&series("a"), T), [(0, Some(1.0)), (1000, None)]);
    assert_eq!(memory.samples(&series("up"), T), [(0, Some(1.0)), (1000, None)]);
    assert_eq!(
        memory.samples(&series("scrape_duration_seconds"), T),
        [(0, Some(0.25)), (1000, None)]
    );
}

/// Pages of a job with the given fields, and what is in the store after each page, with the names of series.
fn after(yaml: &str, all: &[&str]) -> Vec<String> {
    let text = format!("scrape_configs:\n- {{job_name: j, {yaml}}}");
    let config = crate::config::Config::parse(&text, std::path::Path::new("")).unwrap_or_else(|e| panic!("{e}"));
    let labels = Labels::new([("job", "j")]);
    let target = Target::new("h:1".to_owned(), "/", labels);
    let (mut pages, memory) = (Pages::new(&target, config.jobs[0].clone()), Memory::default());
    let mut out = Vec::new();
    for (at, page) in all.iter().enumerate() {
        let now = T + at as i64 * 1000;
        if let Err(error) = pages.store(page.as_bytes(), Format::Text, now, &memory) {
            pages.fail(now, &memory);
            out.push(error.to_string());
        }
    }
    for name in memory.names() {
        let show = |(ms, value): (i64, Option<f64>)| match value {
            Some(value) => format!("{value}@{ms}"),
            None => format!("end@{ms}"),
        };
        let samples: Vec<String> = memory.samples(&name, T).into_iter().map(show).collect();
        out.push(format!("{name} {}", samples.join(" ")));
    }
    out
}

#[test]
fn what_a_job_says_of_its_pages() {
    let table: [(&str, &[&str], &[&str]); 12] = [
        (
            "honor_labels: true",
            &["a{job=\"x\"} 1\nb{job=\"\"} 1\n"],
            &["a{job=\"x\"} 1@0", "b{} 1@0"],
        ),
        (
            "honor_labels: false",
            &["a{job=\"x\"} 1\n"],
            &["a{exported_job=\"x\",job=\"j\"} 1@0"],
        ),
        // Series with times of their own have no markers, unless the job wants them.
        (
            "sample_limit: 9",
            &["a 1 1700000000000\n", "b 1\n"],
            &["a{job=\"j\"} 1@0", "b{job=\"j\"} 1@1000"],
        ),
        (
            "track_timestamps_staleness: true",
            &["a 1 1700000000000\n", "b 1\n"],
            &["a{job=\"j\"} 1@0 end@1000", "b{job=\"j\"} 1@1000"],
        ),
        (
            "honor_timestamps: false",
            &["a 1 5\n", "b 1\n"],
            &["a{job=\"j\"} 1@0 end@1000", "b{job=\"j\"} 1@1000"],
        ),
        (
            "metric_relabel_configs: [{source_labels: [__name__], regex: 'go_.*', action: drop}, {regex: id, action: labeldrop}]",
            &["go_x 1\na{id=\"1\"} 1\n", "go_x 2\na{id=\"1\"} 2\n", "go_x 2\n"],
            &["a{job=\"j\"} 1@0 2@1000 end@2000"],
        ),
        // What rules drop does not count.
        (
            "sample_limit: 1, metric_relabel_configs: [{source_labels: [__name__], regex: 'go_.*', action: drop}]",
            &["go_x 1\na 1\n", "a 1\nb 1\n"],
            &[
                "the page has more than the 1 samples that sample_limit allows",
                "a{job=\"j\"} 1@0 end@1000",
                "b{job=\"j\"} ",
            ],
        ),
        (
            "label_limit: 2",
            &["a{b=\"1\",c=\"2\"} 1\n"],
            &["a has 3 labels where label_limit allows 2"],
        ),
        (
            "label_name_length_limit: 8",
            &["a{much_too_long=\"1\"} 1\n"],
            &["a has a label name of 13 bytes where label_name_length_limit allows 8: much_too_long"],
        ),
        (
            "label_value_length_limit: 3",
            &["a{b=\"long\"} 1\n"],
            &["label b of a has a value of 4 bytes where label_value_length_limit allows 3"],
        ),
        // Bounds are the same however they are written.
        (
            "sample_limit: 9",
            &[
                "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\n",
                "# TYPE h histogram\nh_bucket{le=\"1.0\"} 3\nh_bucket{le=\"+Inf\"} 2\n",
            ],
            &[
                "h_bucket{job=\"j\",le=\"+Inf\"} 2@0 2@1000",
                "h_bucket{job=\"j\",le=\"1.0\"} 1@0 3@1000",
            ],
        ),
        // UTF-8 names.
        (
            "sample_limit: 9",
            &["{\"my.metric\",\"a.b\"=\"c\"} 1\n"],
            &["{\"my.metric\",\"a.b\"=\"c\",job=\"j\"} 1@0"],
        ),
    ];
    for (yaml, pages, expected) in table {
        assert_eq!(after(yaml, pages), expected, "{yaml}");
    }
}

#[test]
fn a_page_in_another_order_is_the_same_page() {
    let first = "a 1\nb{x=\"1\"} 1\nc 1\nd 1\n";
    let moved = "d 2\na 2\nc 2\nb{x=\"1\"} 2\n";
    let grown = "d 3\nnew 3\na 3\nc 3\nb{x=\"1\"} 3\nlast 3\n";
    let less = "new 4\nc 4\n";
    let expected = [
        "a{job=\"j\"} 1@0 2@1000 3@2000 end@3000",
        "b{job=\"j\",x=\"1\"} 1@0 2@1000 3@2000 end@3000",
        "c{job=\"j\"} 1@0 2@1000 3@2000 4@3000",
        "d{job=\"j\"} 1@0 2@1000 3@2000 end@3000",
        "last{job=\"j\"} 3@2000 end@3000",
        "new{job=\"j\"} 3@2000 4@3000",
    ];
    assert_eq!(after("sample_limit: 9", &[first, moved, grown, less]), expected);
    // Cut short at its end, and whole again.
    let expected = ["a{job=\"j\"} 1@0 1@1000 1@2000", "b{job=\"j\"} 1@0 end@1000 1@2000"];
    assert_eq!(
        after("sample_limit: 9", &["a 1\nb 1\n", "a 1\n", "a 1\nb 1\n"]),
        expected
    );
    // A longer name at the place of a shorter one.
    let expected = ["a_b{job=\"j\"} 2@1000", "a{job=\"j\"} 1@0 end@1000"];
    assert_eq!(after("sample_limit: 9", &["a 1\n", "a_b 2\n"]), expected);
}
