//! Rule files: read, checked, printed.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use weir_promql::rules;

use crate::args::RulesAction;

/// The rules of the mesh that are shipped.
const MESH: &str = include_str!("../../../../deploy/prometheus/mesh-rules.yml");
/// What stands for them in the place of a file.
const MESH_NAME: &str = "mesh";

/// `weir rules`.
pub fn run(action: &RulesAction) -> Result<ExitCode> {
    match action {
        RulesAction::Print => print!("{MESH}"),
        RulesAction::Check { files } => {
            let mut wrong = false;
            for (name, text) in read(files)? {
                match rules::count(&name, &text) {
                    Ok((groups, rules)) => println!("{name}: {groups} groups, {rules} rules"),
                    Err(problems) => {
                        wrong = true;
                        problems.iter().for_each(|problem| println!("{problem}"));
                    }
                }
            }
            if wrong {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Rules of these files, with nothing wrong in them.
pub fn load(config: rules::Config, files: &[PathBuf]) -> Result<rules::Rules> {
    let rules = match rules::Rules::new(config) {
        Ok(rules) => rules,
        Err(why) => bail!("alerts: {why}"),
    };
    if let Err(problems) = rules.load(&read(files)?) {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        bail!("{}", problems.join("\n"));
    }
    Ok(rules)
}

fn read(files: &[PathBuf]) -> Result<Vec<(String, String)>> {
    let read = |file: &PathBuf| {
        let name = file.display().to_string();
        if name == MESH_NAME && !file.exists() {
            return Ok((name, MESH.to_owned()));
        }
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {name}"))?;
        Ok((name, text))
    };
    files.iter().map(read).collect()
}
