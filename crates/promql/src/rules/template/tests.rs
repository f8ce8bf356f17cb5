//! Templates and what they become, and what is refused by name.

use super::*;
use weir_series::Labels;

fn render(text: &str, value: f64) -> Result<String, String> {
    let labels = Labels::new([("job", "web"), ("instance", "10.0.0.1:80")]);
    let data = Data {
        labels: &labels,
        external_labels: &Labels::new([("cluster", "x")]),
        external_url: "http://weir:9090/p",
        value,
        now_ms: 0,
    };
    let query = |text: &str| match text {
        "up" => Ok(["b", "a"]
            .map(|i| Found {
                labels: Labels::new([("instance", i)]),
                value: 1.5,
                histogram: None,
            })
            .to_vec()),
        "none" => Ok(Vec::new()),
        other => Err(format!("{other:?}?")),
    };
    Template::parse(text)?.render(&data, &query)
}

#[test]
fn renders_what_rule_files_use() {
    for (text, value, wanted) in [
        ("{{ $labels.job }} at {{ $value }}", 0.25, "web at 0.25"),
        (
            "{{$labels.missing}}|{{ .Labels.instance }}|{{ .Value }}",
            3.0,
            "|10.0.0.1:80|3",
        ),
        (
            "{{ $externalLabels.cluster }} {{ externalURL }}{{ pathPrefix }}",
            0.0,
            "x http://weir:9090/p/p",
        ),
        (
            "{{ printf \"%.2f%% of %s\" $value $labels.job }}",
            12.345,
            "12.35% of web",
        ),
        (
            "{{ $value | printf \"%5.1f|%-6s|\" | printf \"%s\" }}",
            1.0,
            "  1.0|%!s(NOTHING)",
        ),
        ("{{ $value | humanize }}", 1_234_567.0, "1.235M"),
        ("{{ humanize $value }}", 0.001_5, "1.5m"),
        ("{{ $value | humanize1024 }}", 1_572_864.0, "1.5Mi"),
        ("{{ $value | humanizeDuration }}", 93_784.0, "1d 2h 3m 4s"),
        ("{{ humanizeDuration $value }}", 0.0123, "12.3ms"),
        ("{{ humanizeDuration $value }}", 12.5, "12.5s"),
        ("{{ $value | humanizePercentage }}", 0.4567, "45.67%"),
        (
            "{{ $value | humanizeTimestamp }}",
            1_700_000_000.5,
            "2023-11-14 22:13:20.5 +0000 UTC",
        ),
        (
            "{{ if gt $value 1.0 }}much{{ else if eq $value 1.0 }}one{{ else }}little{{ end }}",
            1.0,
            "one",
        ),
        (
            "{{ if and (gt $value 1.0) (eq $labels.job \"web\") }}yes{{ end }}",
            2.0,
            "yes",
        ),
        ("a {{- /* nothing */ -}} b {{ \"}}\" -}}  c", 0.0, "ab }}c"),
        (
            "{{ range query \"up\" | sortByLabel \"instance\" }}{{ .Labels.instance }}={{ .Value }};{{ end }}",
            0.0,
            "a=1.5;b=1.5;",
        ),
        (
            "{{ range $i, $e := query \"up\" }}{{ $i }}{{ $e.Labels.instance }}{{ end }}",
            0.0,
            "0b1a",
        ),
        ("{{ range query \"none\" }}x{{ else }}nobody{{ end }}", 0.0, "nobody"),
        (
            "{{ query \"up\" | first | value }} {{ query \"up\" | first | label \"instance\" }}",
            0.0,
            "1.5 b",
        ),
        (
            "{{ with query \"none\" }}x{{ else }}-{{ end }}{{ with $labels.job }}{{ . }}{{ end }}",
            0.0,
            "-web",
        ),
        ("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ end }}{{ $x }}", 0.0, "2"),
        (
            "{{ reReplaceAll \"(.*):.*\" \"$1\" $labels.instance }} {{ stripPort $labels.instance }}",
            0.0,
            "10.0.0.1 10.0.0.1",
        ),
        (
            "{{ toUpper $labels.job }} {{ title \"some words\" }} {{ len $labels }}",
            0.0,
            "WEB Some Words 2",
        ),
        ("{{ graphLink \"a b\" }}", 0.0, "/graph?g0.expr=a+b&g0.tab=0"),
        ("{{ $value }}", f64::INFINITY, "+Inf"),
    ] {
        if wanted.contains("NOTHING") {
            assert!(render(text, value).is_err(), "{text}");
        } else {
            assert_eq!(render(text, value).as_deref(), Ok(wanted), "{text}");
        }
    }
}

#[test]
fn says_what_it_does_not_understand() {
    for (text, part) in [
        ("{{ $labels.job", "{{ without }}"),
        ("{{ template \"x\" }}", "{{ template }} is not supported"),
        ("{{ tmpl \"x\" }}", "\"tmpl\" is not supported"),
        ("{{ $nobody }}", "undefined variable $nobody"),
        ("{{ if true }}", "without {{ end }}"),
        ("{{ end }}", "without a block"),
        ("{{ query \"none\" | first }}", "empty"),
        ("{{ query \"down\" }}", "\"down\"?"),
        ("{{ . | $value }}", "no function"),
    ] {
        let error = render(text, 0.0).err().unwrap_or_default();
        assert!(error.contains(part), "{text}: {error}");
    }
    let deep = "{{ if true }}".repeat(100);
    assert!(Template::parse(&deep).is_err_and(|e| e.contains("deeper")));
}
