//! Which crate may use which: arrows point down only.

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Floor by floor, what each crate of ours may use of ours.
const EDGES: [(&str, &[&str]); 6] = [
    ("ijepa-tensor", &[]),
    ("ijepa-data", &[]),
    ("ijepa-model", &["ijepa-tensor", "ijepa-data"]),
    ("ijepa-eval", &["ijepa-tensor"]),
    ("ijepa", &["ijepa-tensor", "ijepa-data", "ijepa-model", "ijepa-eval"]),
    ("xtask", &[]),
];

/// Crates that are not in the table, and arrows that it does not have.
pub(super) fn problems() -> Result<Vec<String>> {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(crate::root())
        .output()
        .context("cargo cannot be started")?;
    if !output.status.success() {
        bail!("`cargo metadata` failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata prints JSON")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut used = Vec::new();
    for package in list(&metadata["packages"]) {
        let dependencies = list(&package["dependencies"]);
        let ours = dependencies
            .iter()
            .filter(|dependency| !dependency["path"].is_null())
            .map(|dependency| text(&dependency["name"]));
        used.push((text(&package["name"]), ours.collect()));
    }
    Ok(outside_the_table(&used))
}

fn outside_the_table(used: &[(String, Vec<String>)]) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, dependencies) in used {
        let Some((_, allowed)) = EDGES.iter().find(|(known, _)| known == name) else {
            problems.push(format!(
                "{name}: a crate that has no floor; give it one in ARCHITECTURE.md and in xtask/src/tidy/edges.rs"
            ));
            continue;
        };
        for dependency in dependencies.iter().filter(|dependency| !allowed.contains(&dependency.as_str())) {
            problems.push(format!(
                "{name} uses {dependency}: arrows point down only; move what is shared to a lower floor"
            ));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrow_up_and_an_unknown_crate_are_found() {
        let used = [("ijepa-data".to_owned(), vec!["ijepa-tensor".to_owned()]), ("ijepa-new".to_owned(), vec![])];
        let problems = outside_the_table(&used);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("ijepa-data uses ijepa-tensor") && problems[1].starts_with("ijepa-new"));
    }

    #[test]
    fn an_arrow_down_is_allowed() {
        let used = [("ijepa-model".to_owned(), vec!["ijepa-tensor".to_owned(), "ijepa-data".to_owned()])];
        assert_eq!(outside_the_table(&used), Vec::<String>::new());
    }
}
