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
