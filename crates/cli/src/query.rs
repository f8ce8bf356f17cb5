//! `query`: PromQL put to the metric store, shown as a table, JSON, CSV or a chart.

mod answer;
mod chart;
mod connect;

use std::process::ExitCode;

use jiff::{SignedDuration, Timestamp};

use crate::connect::escape;
use crate::error::Error;
use crate::watch::show;
use answer::Answer;

/// Points of a chart where no step is given.
const STEPS_DEFAULT: i64 = 120;

/// Arguments of `query`.
#[derive(clap::Args, Clone, Debug)]
pub struct Query {
    /// The query, such as 'sum by (deployment) (rate(response_total[1m]))'.
    promql: String,
    /// Ask for this long up to now, such as 10m or 1h30m, instead of for now.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    range: Option<SignedDuration>,
    /// Between two points of a range (default: 120 points).
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "range")]
    step: Option<SignedDuration>,
    /// The time to ask for, or the end of the range (default: now), such as 2026-01-02T15:04:05Z.
    #[arg(long, value_name = "TIME")]
    time: Option<Timestamp>,
    /// Form of the output (default: a table, for a range a chart).
    #[arg(short, long, value_enum)]
    output: Option<Form>,
    /// Show it again every two seconds.
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    store: connect::Store,
}

/// The form of the output.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A row a series; of a range with its first, smallest, largest and last value.
    Table,
    /// The API's answer.
    Json,
    /// A line a value, for spreadsheets.
    Csv,
    /// Lines over time, in the terminal.
    Chart,
}

fn duration(text: &str) -> Result<SignedDuration, String> {
    let parsed: SignedDuration = text
        .parse()
        .map_err(|_| "write a duration such as 30s, 10m or 1h30m".to_owned())?;
    match parsed.is_positive() {
        true => Ok(parsed),
        false => Err("a duration must be longer than nothing".to_owned()),
    }
}

impl Query {
    /// Shows the answer.
    pub async fn run(self) -> Result<ExitCode, Error> {
        let store = self.store.open().await?;
        show(self.watch, || self.picture(&store)).await
    }

    async fn picture(&self, store: &connect::Open) -> Result<String, Error> {
        let end = self.time.unwrap_or_else(Timestamp::now);
        let path = self.path(end);
        let answer = store.get(&path).await?;
        let form = self.output.unwrap_or(match self.range {
            Some(_) => Form::Chart,
            None => Form::Table,
        });
        if form == Form::Json {
            let text = serde_json::to_string_pretty(&answer).map_err(|e| Error::Answer(e.to_string()))?;
            return Ok(text + "\n");
        }
        let answer = Answer::read(&answer)?;
        Ok(match form {
            Form::Chart if self.range.is_some() => chart::draw(&answer, chart::Size::of_terminal()),
            Form::Csv => answer.csv(),
            Form::Chart => return Err(Error::Usage("a chart needs time: add --range 10m".into())),
            Form::Table | Form::Json => answer.table(),
        })
    }

    fn path(&self, end: Timestamp) -> String {
        let seconds = |t: Timestamp| format!("{:.3}", t.as_millisecond() as f64 / 1000.0);
        let query = escape(&self.promql);
        let Some(range) = self.range else {
            return format!("/api/v1/query?query={query}&time={}", seconds(end));
        };
        let step = self.step.unwrap_or_else(|| {
            let step = range.as_millis() / i128::from(STEPS_DEFAULT);
            SignedDuration::from_millis(i64::try_from(step).unwrap_or(i64::MAX).max(1000))
        });
        let start = end.checked_sub(range).unwrap_or(Timestamp::UNIX_EPOCH);
        let step = step.as_secs_f64();
        format!(
            "/api/v1/query_range?query={query}&start={}&end={}&step={step}",
            seconds(start),
            seconds(end)
        )
    }
}

#[cfg(test)]
mod tests;
