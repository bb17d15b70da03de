//! `ijepa config show|validate|diff`: what does a run file say, can it be run, and how does it differ from another?

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};

use crate::cli::{ConfigCommand, ConfigDiffArgs, ConfigShowArgs, ConfigValidateArgs};
use crate::config::{self, Config};
use crate::exit::{self, Exit};
use crate::output;
use crate::run::mask_failure;

/// Runs the command.
pub(crate) fn run(command: &ConfigCommand) -> Result<Exit> {
    match command {
        ConfigCommand::Show(args) => show(args),
        ConfigCommand::Validate(args) => validate(args),
        ConfigCommand::Diff(args) => diff(args),
    }
}

fn show(args: &ConfigShowArgs) -> Result<Exit> {
    let (config, origins) = config::load(args.config.as_deref(), &args.set)?;
    if !args.json {
        output::result(config.to_yaml().trim_end())?;
        return Ok(Exit::Done);
    }
    let shown: BTreeMap<&str, Value> = config
        .values()
        .into_iter()
        .map(|(key, value)| (key, json!({"value": value, "origin": origins.origin(key)})))
        .collect();
    output::json(&shown)?;
    Ok(Exit::Done)
}

/// Says of every file whether it can be run; the exit code is that of the first that cannot.
fn validate(args: &ConfigValidateArgs) -> Result<Exit> {
    let mut exit = Exit::Done;
    let mut files = Vec::new();
    for path in &args.configs {
        let outcome = config::load(Some(path), &[]).and_then(|(config, _)| masks(&config));
        let name = path.display();
        let error = outcome.err().map(|error| {
            if exit == Exit::Done {
                exit = exit::code(&error);
            }
            exit::describe(&error)
        });
        if !args.json {
            output::result(&error.as_ref().map_or(format!("{name}: valid"), |error| format!("{name}: {error}")))?;
        }
        files.push(json!({"file": name.to_string(), "valid": error.is_none(), "error": error}));
    }
    if args.json {
        output::json(&json!({"files": files}))?;
    }
    Ok(exit)
}

fn masks(config: &Config) -> Result<()> {
    config::mask_config(config).validate().map_err(|error| mask_failure(&error).into())
}

fn diff(args: &ConfigDiffArgs) -> Result<Exit> {
    let (a, b) = (config::load(Some(&args.a), &[])?.0, config::load(Some(&args.b), &[])?.0);
    let differences = a.differences(&b);
    if args.json {
        let list: Vec<Value> = differences.iter().map(|(key, a, b)| json!({"key": key, "a": a, "b": b})).collect();
        output::json(&json!({"differences": list}))?;
        return Ok(Exit::Done);
    }
    if differences.is_empty() {
        output::note("no value differs");
        return Ok(Exit::Done);
    }
    let width = differences.iter().map(|(key, ..)| key.len()).max().unwrap_or(0);
    let lines: Vec<String> = differences.iter().map(|(key, a, b)| format!("{key:<width$}  {a} → {b}")).collect();
    output::result(&lines.join("\n"))?;
    Ok(Exit::Done)
}
