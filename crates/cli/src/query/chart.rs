//! Series over time as lines of dots in the terminal: two dots a column, four a line.

use std::io::IsTerminal;

use jiff::{Timestamp, tz::TimeZone};

use super::answer::{Answer, Series, number};

/// Series that a chart can show apart.
const MAX_SERIES: usize = 8;
/// Colours of series, as terminals number them.
const COLOURS: [u8; MAX_SERIES] = [36, 33, 32, 35, 34, 31, 96, 93];
/// The number of the character without dots.
const NO_DOTS: u32 = 0x2800;

/// The room there is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Columns.
    pub width: usize,
    /// Lines of the chart, without axis and legend.
    pub height: usize,
    /// Whether colours may be used.
    pub colours: bool,
}

impl Size {
    /// That of the terminal, as the environment tells it.
    pub fn of_terminal() -> Self {
        let columns = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok());
        Size {
            width: columns.unwrap_or(100).clamp(40, 240),
            height: 16,
            colours: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        }
    }
}

/// The chart with its axes, and a legend under it.
pub fn draw(answer: &Answer, size: Size) -> String {
    let shown: Vec<&Series> = answer
        .series
        .iter()
        .filter(|s| s.points.iter().any(|p| p.1.is_finite()))
        .collect();
    let shown = &shown[..shown.len().min(MAX_SERIES)];
    let points = || shown.iter().flat_map(|s| &s.points).filter(|p| p.1.is_finite());
    let Some((start, end)) = bounds(points().map(|p| p.0)) else {
        return answer.with_remarks("no series\n".to_owned());
    };
    let Some((low, high)) = bounds(points().map(|p| p.1)) else {
        return answer.with_remarks("no series\n".to_owned());
    };
    let (low, high) = scale(low, high);
    let labels: Vec<String> = (0..size.height)
        .map(|line| label(line, size.height, low, high))
        .collect();
    let margin = labels.iter().map(|l| l.chars().count()).max().unwrap_or(0);
    let width = size.width.saturating_sub(margin + 2).max(10);
    let mut canvas = Canvas::new(width, size.height);
    for (number, series) in shown.iter().enumerate() {
        let place = |(time, value): &(f64, f64)| {
            let x = share(*time, start, end) * (2 * width - 1) as f64;
            let y = (1.0 - share(*value, low, high)) * (4 * size.height - 1) as f64;
            (x.round() as i64, y.round() as i64)
        };
        let mut before: Option<(i64, i64)> = None;
        for point in &series.points {
            before = match point.1.is_finite() {
                false => None,
                true => {
                    let here = place(point);
                    canvas.line(before.unwrap_or(here), here, number);
                    Some(here)
                }
            };
        }
    }
    let mut out = String::new();
    for (line, label) in labels.iter().enumerate() {
        let tick = if label.is_empty() { '│' } else { '┤' };
        out += &format!("{label:>margin$} {tick}{}\n", canvas.row(line, size.colours));
    }
    let (first, last) = (clock(start), clock(end));
    let gap = width.saturating_sub(first.chars().count() + last.chars().count());
    out += &format!("{:margin$} └{}\n", "", "─".repeat(width));
    out += &format!("{:margin$}  {first}{}{last}\n", "", " ".repeat(gap));
    for (at, series) in shown.iter().enumerate() {
        let last = series
            .points
            .iter()
            .rev()
            .find(|p| p.1.is_finite())
            .map_or(f64::NAN, |p| p.1);
        let mark = paint("──", at, size.colours);
        out += &format!("{mark} {} {}\n", series.name, number(last));
    }
    let more = answer.series.len() - shown.len();
    if more > 0 {
        out += &format!("and {more} series more: aggregate, or take topk\n");
    }
    answer.with_remarks(out)
}

fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |found, v| match found {
        None => Some((v, v)),
        Some((low, high)) => Some((low.min(v), high.max(v))),
    })
}

/// From zero, where that does not flatten everything; never without height.
fn scale(low: f64, high: f64) -> (f64, f64) {
    let low = if low > 0.0 && low < high * 0.7 { 0.0 } else { low };
    match high - low {
        0.0 => (low - low.abs().max(1.0) / 2.0, high + high.abs().max(1.0) / 2.0),
        _ => (low, high),
    }
}

fn share(value: f64, low: f64, high: f64) -> f64 {
    if high > low { (value - low) / (high - low) } else { 0.5 }
}

/// At the top and at the bottom; in the middle where there is one.
fn label(line: usize, height: usize, low: f64, high: f64) -> String {
    if line == 0 {
        return number(high);
    }
    if line + 1 == height {
        return number(low);
    }
    if height % 2 == 1 && line == height / 2 {
        return number((low + high) / 2.0);
    }
    String::new()
}

fn clock(seconds: f64) -> String {
    let time = Timestamp::from_millisecond((seconds * 1000.0) as i64).unwrap_or_default();
    time.to_zoned(TimeZone::system()).strftime("%H:%M:%S").to_string()
}

fn paint(text: &str, series: usize, colours: bool) -> String {
    match colours {
        true => format!("\x1b[{}m{text}\x1b[0m", COLOURS[series % COLOURS.len()]),
        false => text.to_owned(),
    }
}

/// Dots, eight a cell; a cell has the colour of who drew in it last.
struct Canvas {
    width: usize,
    cells: Vec<(u8, usize)>,
}

impl Canvas {
    fn new(width: usize, height: usize) -> Self {
        Canvas {
            width,
            cells: vec![(0, 0); width * height],
        }
    }

    fn dot(&mut self, x: i64, y: i64, series: usize) {
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else {
            return;
        };
        // Where each dot of a cell stands in the character's number.
        let bit = [[0, 3], [1, 4], [2, 5], [6, 7]][y % 4][x % 2];
        if x / 2 < self.width
            && let Some(cell) = self.cells.get_mut(y / 4 * self.width + x / 2)
        {
            *cell = (cell.0 | 1 << bit, series);
        }
    }

    fn line(&mut self, from: (i64, i64), to: (i64, i64), series: usize) {
        let steps = (to.0 - from.0).abs().max((to.1 - from.1).abs()).max(1);
        for step in 0..=steps {
            let along = |a: i64, b: i64| a + ((b - a) as f64 * step as f64 / steps as f64).round() as i64;
            self.dot(along(from.0, to.0), along(from.1, to.1), series);
        }
    }

    fn row(&self, line: usize, colours: bool) -> String {
        let mut out = String::new();
        for (dots, series) in &self.cells[line * self.width..(line + 1) * self.width] {
            match char::from_u32(NO_DOTS + u32::from(*dots)) {
                Some(c) if *dots != 0 => out += &paint(&c.to_string(), *series, colours),
                _ => out.push(' '),
            }
        }
        out.trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(points: &[(f64, f64)]) -> Answer {
        Answer {
            series: vec![Series {
                name: "{a=\"b\"}".into(),
                labels: vec![("a".into(), "b".into())],
                points: points.to_vec(),
            }],
            over_time: true,
            remarks: vec!["remark".into()],
        }
    }

    #[test]
    fn a_rising_line_rises() {
        let size = Size {
            width: 40,
            height: 4,
            colours: false,
        };
        let text = draw(&answer(&[(0.0, 0.0), (10.0, 8.0)]), size);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4 + 2 + 1 + 1);
        assert!(lines[0].starts_with("8 ┤") && lines[3].starts_with("0 ┤"), "{text}");
        let begins = |line: &str| line.chars().skip(3).position(|c| c != ' ');
        let starts: Vec<_> = lines[..4].iter().map(|l| begins(l)).collect();
        assert!(starts.is_sorted_by(|a, b| a > b), "{text}");
        assert_eq!(lines[6], "── {a=\"b\"} 8");
        assert_eq!(lines[7], "remark");
    }

    #[test]
    fn odd_values_are_no_trouble() {
        let size = Size {
            width: 40,
            height: 4,
            colours: true,
        };
        assert!(draw(&answer(&[]), size).starts_with("no series"));
        assert!(draw(&answer(&[(0.0, f64::NAN)]), size).starts_with("no series"));
        assert!(draw(&answer(&[(0.0, 5.0)]), size).contains('\x1b'));
        let text = draw(&answer(&[(0.0, 1.0), (1.0, f64::INFINITY), (2.0, -1.0)]), size);
        assert!(text.contains("-1"), "{text}");
    }
}
