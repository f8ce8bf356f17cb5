//! The invariants that can be checked without compiling.
//!
//! - crate dependencies follow the table in ARCHITECTURE.md;
//! - metric names stand in `series::names` only, `traffic.*` keys in `api::labels` only, PromQL in `metrics-api::query` only;
//! - only the crates that may talk to a Kubernetes API do;
//! - every `.rs` file is reachable from its crate's root.
//!
//! Test code (files named `tests`, folders `tests/`, and what follows `#[cfg(test)]` in a file) is free to write names out.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Crate -> the workspace crates it may depend on. `weir` (the binary) may depend on all.
const MAY_DEPEND: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("mesh", &["api"]),
    ("xds", &[]),
    ("control", &["api", "mesh", "xds"]),
    ("series", &[]),
    ("proxy", &["xds", "series"]),
    ("agent", &["api", "series"]),
    ("tls", &[]),
    ("yaml", &[]),
    ("bodies", &[]),
    ("scrape", &["series", "tls", "yaml"]),
    ("tsdb", &["series"]),
    ("promql", &["series", "tls", "yaml", "bodies"]),
    ("traces", &["bodies"]),
    ("metrics-api", &["api", "series", "promql"]),
    ("cli", &["api"]),
    ("local", &["api", "tls"]),
];

/// Crates that may be clients of a Kubernetes API (`api` only defines types with kube's derive).
const MAY_TALK_KUBERNETES: &[&str] = &[
    "api",
    "control",
    "agent",
    "scrape",
    "metrics-api",
    "cli",
    "local",
    "weir",
];

/// A spelling that may stand in one place only.
struct Reserved {
    what: &'static str,
    /// Texts that give the spelling away.
    needles: &'static [&'static str],
    /// Where it belongs, relative to the root.
    home: &'static [&'static str],
}

const RESERVED: &[Reserved] = &[
    Reserved {
        what: "a canonical metric name",
        needles: &[
            "\"request_total\"",
            "\"response_total\"",
            "\"response_latency_ms",
            "\"attempt_total\"",
            "\"retry_total\"",
            "\"fault_total\"",
            "\"overflow_total\"",
            "\"tcp_open_total\"",
            "\"tcp_close_total\"",
            "\"tcp_open_connections\"",
            "\"tcp_read_bytes_total\"",
            "\"tcp_write_bytes_total\"",
        ],
        home: &["crates/series/src/names.rs"],
    },
    Reserved {
        what: "a label or annotation key",
        needles: &[
            "\"traffic.envoy.",
            "\"traffic.proxy.",
            "\"traffic.port.",
            "\"traffic.target.",
            "\"traffic.endpoint.",
        ],
        home: &["crates/api/src/labels.rs"],
    },
    Reserved {
        what: "PromQL text",
        needles: &["histogram_quantile(", "sum by (", "last_over_time("],
        home: &[
            "crates/metrics-api/src/query.rs",
            "crates/metrics-api/src/query/",
            "crates/promql/",
        ],
    },
];

/// All violations found in the tree below `root`.
pub fn check(root: &Path) -> Result<Vec<String>> {
    let mut violations = Vec::new();
    for folder in sorted_entries(&root.join("crates"))? {
        let name = file_name(&folder);
        if folder.join("Cargo.toml").is_file() {
            check_dependencies(&folder, &name, &mut violations)?;
            check_reachable(root, &folder, &mut violations)?;
            check_spellings(root, &folder.join("src"), &mut violations)?;
        }
    }
    for folder in [root.join("samples/bookinfo"), root.join("xtask")] {
        check_reachable(root, &folder, &mut violations)?;
    }
    Ok(violations)
}

fn check_dependencies(folder: &Path, name: &str, violations: &mut Vec<String>) -> Result<()> {
    if name == "weir" {
        return Ok(());
    }
    let Some((_, allowed)) = MAY_DEPEND.iter().find(|(known, _)| *known == name) else {
        violations.push(format!(
            "crates/{name}: not in the crate table of ARCHITECTURE.md and xtask/src/tidy.rs"
        ));
        return Ok(());
    };
    let manifest = fs::read_to_string(folder.join("Cargo.toml"))?;
    let mut section = "";
    for line in manifest.lines() {
        let line = line.trim();
        if line.starts_with('[') {
            section = line;
        }
        // Tests may use other crates as peers (for example the real xDS server against our client).
        if section != "[dependencies]" {
            continue;
        }
        let dependency = line.split(['.', '=', ' ']).next().unwrap_or_default();
        if let Some(other) = dependency.strip_prefix("weir-")
            && !allowed.contains(&other)
        {
            violations.push(format!(
                "crates/{name}/Cargo.toml: may not depend on weir-{other} (allowed: {allowed:?})"
            ));
        }
        if dependency == "kube" && !MAY_TALK_KUBERNETES.contains(&name) {
            violations.push(format!(
                "crates/{name}/Cargo.toml: may not talk to a Kubernetes API (kube)"
            ));
        }
    }
    Ok(())
}

/// Every file below `src` must be named by a `mod` line of its parent, or be a root (`lib.rs`, `main.rs`, `bin/`).
fn check_reachable(root: &Path, folder: &Path, violations: &mut Vec<String>) -> Result<()> {
    let src = folder.join("src");
    let mut reachable = BTreeSet::new();
    for crate_root in ["lib.rs", "main.rs"] {
        let path = src.join(crate_root);
        if path.is_file() {
            follow(&path, &src, &mut reachable)?;
        }
    }
    for file in rust_files(&src)? {
        if !reachable.contains(&file) && !file.starts_with(src.join("bin")) {
            violations.push(format!("{}: no `mod` leads to this file", relative(root, &file)));
        }
    }
    Ok(())
}

fn follow(file: &Path, children: &Path, reachable: &mut BTreeSet<PathBuf>) -> Result<()> {
    if !reachable.insert(file.to_path_buf()) {
        return Ok(());
    }
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    for line in text.lines() {
        let Some(name) = module_declaration(line) else { continue };
        let flat = children.join(format!("{name}.rs"));
        let nested = children.join(name).join("mod.rs");
        let child = if flat.is_file() { flat } else { nested };
        if child.is_file() {
            follow(&child, &children.join(name), reachable)?;
        }
    }
    Ok(())
}

/// The name in `mod name;`, whatever its visibility.
fn module_declaration(line: &str) -> Option<&str> {
    let line = line.trim();
    let rest = match line.find("mod ") {
        Some(0) => &line[4..],
        Some(at) if line.starts_with("pub") && !line[..at].contains("//") => &line[at + 4..],
        _ => return None,
    };
    rest.split_once(';').map(|(name, _)| name.trim())
}

fn check_spellings(root: &Path, src: &Path, violations: &mut Vec<String>) -> Result<()> {
    for file in rust_files(src)? {
        let path = relative(root, &file);
        if path.ends_with("/tests.rs") || path.contains("/tests/") || path.contains("/testdata/") {
            continue;
        }
        let text = fs::read_to_string(&file)?;
        let production = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in production.lines().enumerate() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            for reserved in RESERVED {
                if reserved.home.iter().any(|home| path.starts_with(home)) {
                    continue;
                }
                if let Some(needle) = reserved.needles.iter().find(|needle| line.contains(*needle)) {
                    let home = reserved.home[0];
                    violations.push(format!(
                        "{path}:{}: {} ({needle}) belongs in {home}",
                        number + 1,
                        reserved.what
                    ));
                }
            }
        }
    }
    Ok(())
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in sorted_entries(folder)? {
        if entry.is_dir() {
            files.extend(rust_files(&entry)?);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            files.push(entry);
        }
    }
    Ok(files)
}

fn sorted_entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut entries = fs::read_dir(folder)
        .with_context(|| folder.display().to_string())?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()?;
    entries.sort();
    Ok(entries)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_declarations_are_found() {
        assert_eq!(module_declaration("mod tidy;"), Some("tidy"));
        assert_eq!(module_declaration("    pub(crate) mod store;"), Some("store"));
        assert_eq!(module_declaration("mod tests {"), None);
        assert_eq!(module_declaration("// see mod x;"), None);
    }

    #[test]
    fn a_misplaced_file_and_name_are_reported() {
        let root = std::env::temp_dir().join(format!("weir-tidy-{}", std::process::id()));
        let src = root.join("crates/proxy/src");
        fs::create_dir_all(&src).unwrap();
        fs::create_dir_all(root.join("samples/bookinfo/src")).unwrap();
        fs::create_dir_all(root.join("xtask/src")).unwrap();
        fs::write(
            root.join("crates/proxy/Cargo.toml"),
            "[dependencies]\nweir-api.workspace = true\n",
        )
        .unwrap();
        fs::write(src.join("lib.rs"), "mod a;\n").unwrap();
        fs::write(src.join("a.rs"), "const X: &str = \"request_total\";\n").unwrap();
        fs::write(src.join("b.rs"), "").unwrap();
        let violations = check(&root).unwrap();
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(violations.len(), 3, "{violations:#?}");
        assert!(
            violations
                .iter()
                .any(|line| line.contains("may not depend on weir-api"))
        );
        assert!(violations.iter().any(|line| line.contains("b.rs: no `mod` leads")));
        assert!(
            violations
                .iter()
                .any(|line| line.contains("a.rs:1: a canonical metric name"))
        );
    }
}
