//! Output in the form that was asked for, once or again and again.

use std::future::Future;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use crate::error::Error;

/// Pause between two pictures.
const REDRAW: Duration = Duration::from_secs(2);

/// The form of the output.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// A table.
    #[default]
    Table,
    /// A table with more columns.
    Wide,
    /// The API's answer as JSON.
    Json,
    /// The API's answer as YAML.
    Yaml,
}

impl Output {
    /// The API's answer in this form; `None` for a table.
    pub fn raw(self, answer: &Value) -> Result<Option<String>, Error> {
        let unreadable = |e: &dyn std::fmt::Display| Error::Answer(e.to_string());
        match self {
            Output::Table | Output::Wide => Ok(None),
            Output::Json => serde_json::to_string_pretty(answer)
                .map(|t| Some(t + "\n"))
                .map_err(|e| unreadable(&e)),
            Output::Yaml => serde_saphyr::to_string(answer).map(Some).map_err(|e| unreadable(&e)),
        }
    }
}

/// Prints a text; a reader that went away (`| head`) is no error.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Shows a picture once, or every two seconds until Ctrl-C.
pub async fn show<F, Fut>(again: bool, mut picture: F) -> Result<ExitCode, Error>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<String, Error>>,
{
    if !again {
        print(&picture().await?);
        return Ok(ExitCode::SUCCESS);
    }
    let terminal = std::io::stdout().is_terminal();
    let ended = tokio::signal::ctrl_c();
    tokio::pin!(ended);
    loop {
        let seen = tokio::select! {
            seen = picture() => seen,
            _ = &mut ended => return Ok(ExitCode::SUCCESS),
        };
        let text = match seen {
            Ok(text) => text,
            Err(error @ Error::Usage(_)) => return Err(error),
            // A server that restarts is no reason to stop looking.
            Err(error) => format!("{error}\n"),
        };
        print(&if terminal {
            format!("\x1b[H\x1b[2J{text}")
        } else {
            format!("{text}\n")
        });
        tokio::select! {
            _ = &mut ended => return Ok(ExitCode::SUCCESS),
            () = tokio::time::sleep(REDRAW) => {}
        }
    }
}
