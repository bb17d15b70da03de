//! `ijepa demo`: pretrain on rendered scenes, then ask how much a linear probe reads from the features.
//!
//! Three questions are asked of scenes that training has not seen: which shape is the largest, how many objects are there, how
//! far is the nearest? Three kinds of features answer them by the same protocol: the trained target encoder's, an untrained
//! encoder's, and raw pixels.

mod page;
mod probe;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::cli::{DemoArgs, PretrainArgs};
use crate::config;
use crate::distributed::World;
use crate::exit::Exit;
use crate::extract::Encoder;
use crate::output;
use crate::pretrain::{Done, pretrain};
use crate::report;
use crate::run;
use probe::{Probe, Score, Task};

/// The run file of the demo.
const CONFIG: &str = include_str!("../../../../configs/demo.yaml");

/// What `--json` prints.
#[derive(Serialize)]
struct Printed<'a> {
    run: &'a Path,
    report: &'a Path,
    seconds: f64,
    results: &'a [Score],
}

/// Runs the command.
pub(crate) fn run(args: &DemoArgs, world: &World) -> Result<Exit> {
    let began = Instant::now();
    let asked =
        PretrainArgs { out: Some(folder(args)), seed: Some(args.seed), steps: args.steps, ..PretrainArgs::default() };
    let settings = run::settings_of(&asked, config::parse(CONFIG, "configs/demo.yaml")?)?;
    let done = pretrain(&settings, None, world)?;
    if done.exit != Exit::Done {
        return Ok(done.exit);
    }
    output::note("probing: which shape is the largest, how many objects are there, how far is the nearest?");
    let trained = trained(&done);
    let probe = Probe::new(args.seed)?;
    let (results, neighbours) = probe.run(&trained, &trained.untrained(done.run.config.meta.seed))?;

    let seconds = began.elapsed().as_secs_f64();
    let page = page::page(&done.run, &results, &neighbours, seconds)?;
    let path = done.run.folder.join("report.html");
    std::fs::write(&path, report::render(&page)).with_context(|| format!("cannot write {}", path.display()))?;
    if args.json {
        output::json(&Printed { run: &done.run.folder, report: &path, seconds, results: &results })?;
    } else {
        output::result(&table(&results))?;
        output::note(&format!("report: {}", path.display()));
    }
    Ok(Exit::Done)
}

/// `--out`, else the first of runs/demo, runs/demo-2, … that is free.
fn folder(args: &DemoArgs) -> PathBuf {
    let names = std::iter::once("runs/demo".to_owned()).chain((2..).map(|n| format!("runs/demo-{n}")));
    let free = || names.map(PathBuf::from).find(|folder| !folder.exists()).expect("the numbers do not end");
    args.out.clone().unwrap_or_else(free)
}

/// The target encoder as training left it.
fn trained(done: &Done) -> Encoder {
    Encoder::new(&done.run.config, done.target.clone())
}

fn table(results: &[Score]) -> String {
    let mut lines =
        vec![format!("{:<30} {:>10} {:>10} {:>10}", "linear probe, accuracy", "trained", "untrained", "pixels")];
    for task in Task::ALL {
        let cell = |features: &str| {
            let score = results.iter().find(|score| score.features == features && score.task == task);
            score.map_or_else(String::new, |score| format!("{:.1} %", 100.0 * score.value))
        };
        lines.push(format!(
            "{:<30} {:>10} {:>10} {:>10}",
            task.question(),
            cell("trained"),
            cell("untrained"),
            cell("pixels")
        ));
    }
    let error = results.iter().map(|score| score.standard_error).fold(0.0, f64::max);
    lines.push(format!("standard error at most {:.1} points", 100.0 * error));
    lines.join("\n")
}
