//! `check`: is Weir installed, is it well, are all labels understood? One row a finding.
//!
//! [`collect`] asks the Kubernetes API, [`judge`] turns what it said into rows; the latter is pure.

mod collect;
mod judge;

use std::process::ExitCode;

use crate::connect::Connection;
use crate::error::Error;
use crate::table::{Align, Table};
use crate::watch::print;

/// How a finding counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// As it should be.
    Ok,
    /// Could not be found out, or does not matter yet.
    Warn,
    /// Wrong.
    Fail,
}

impl Mark {
    fn text(self) -> &'static str {
        match self {
            Mark::Ok => "ok",
            Mark::Warn => "warn",
            Mark::Fail => "FAIL",
        }
    }
}

/// A row of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How it counts.
    pub mark: Mark,
    /// What was looked at.
    pub subject: String,
    /// What was seen, and what would be right.
    pub detail: String,
}

impl Finding {
    fn new(mark: Mark, subject: impl Into<String>, detail: impl Into<String>) -> Self {
        Finding {
            mark,
            subject: subject.into(),
            detail: detail.into(),
        }
    }
}

/// Arguments of `check`.
#[derive(clap::Args, Clone, Debug)]
pub struct Check {
    /// The namespace that Weir is installed in.
    #[arg(long, default_value = "weir-system", value_name = "NAME")]
    weir_namespace: String,
    #[command(flatten)]
    connection: Connection,
}

impl Check {
    /// Prints the report; exit code 1 when something is wrong.
    pub async fn run(self) -> Result<ExitCode, Error> {
        let cluster = self.connection.open().await?;
        let facts = collect::facts(&cluster, &self.weir_namespace).await?;
        let findings = judge::findings(&facts);
        print(&render(&findings));
        let wrong = findings.iter().any(|f| f.mark == Mark::Fail);
        Ok(if wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn render(findings: &[Finding]) -> String {
    let mut table = Table::new(["STATE", "WHAT", "DETAIL"].map(|h| (h, Align::Left)));
    for finding in findings {
        table.row([
            finding.mark.text().to_owned(),
            finding.subject.clone(),
            finding.detail.clone(),
        ]);
    }
    let count = |mark| findings.iter().filter(|f| f.mark == mark).count();
    let summary = match (count(Mark::Fail), count(Mark::Warn)) {
        (0, 0) => "All is well.".to_owned(),
        (0, warnings) => format!("All is well, as far as could be seen; {warnings} to look at."),
        (failures, _) => format!("{failures} of {} are wrong.", findings.len()),
    };
    format!("{}\n{summary}\n", table.render())
}
