//! Our training step and PyTorch's, in turn on the same machine. Absolute times on shared machines mean little; ratios
//! within one run do.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

const USAGE: &str = "\
usage: cargo xtask peers [--python PYTHON] [--shapes S1,S2,S3,embed,B16,H14] [--modes eager,sdpa,compile,bf16]
                         [--rounds 3] [--repeat 9] [--threads N] [--avx2] [--bf16 target|all] [--device cuda]

PYTHON needs torch and numpy (`pip install torch numpy`). With --avx2 both sides are held to AVX2;
--bf16 lets ours multiply in bfloat16, which PyTorch does in mode bf16. B16 and H14 are for a GPU (--device cuda), where both sides
compute in bfloat16; `embed` is for CPUs.
Close everything else first: times are medians of rounds, in turn.";

struct Options {
    python: String,
    shapes: Vec<String>,
    modes: Vec<String>,
    rounds: usize,
    repeat: String,
    threads: Option<String>,
    avx2: bool,
    bf16: Option<String>,
    device: String,
}

/// Milliseconds of each round, and the most memory.
#[derive(Default)]
struct Measured {
    ms: Vec<f64>,
    peak_bytes: f64,
}

impl Measured {
    fn add(&mut self, report: &Value) -> Result<()> {
        self.ms.push(report["ms"].as_f64().context("a report without `ms`")?);
        self.peak_bytes = self.peak_bytes.max(report["peak_bytes"].as_f64().unwrap_or(0.0));
        Ok(())
    }

    fn median(&self) -> f64 {
        median(&self.ms)
    }
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Runs the command.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let options = parse(arguments)?;
    let status = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
        .args(["build", "-q", "--release", "-p", "ijepa"])
        .current_dir(crate::root())
        .status()?;
    if !status.success() {
        bail!("the release build failed");
    }
    println!("| shape | program | ms | against ours | peak GiB | share of peak |");
    println!("|---|---|---|---|---|---|");
    for shape in &options.shapes {
        measure(shape, &options)?;
    }
    Ok(())
}

fn measure(shape: &str, options: &Options) -> Result<()> {
    let (mut ours, mut theirs) = (Measured::default(), BTreeMap::<&str, Measured>::new());
    let mut share = 0.0;
    for _ in 0..options.rounds {
        let report = report(&mut our_program(shape, options)).context(USAGE)?;
        share = report["peak_share"].as_f64().unwrap_or(0.0);
        ours.add(&report)?;
        for mode in &options.modes {
            let report = self::report(&mut peer(shape, mode, options)).context(USAGE)?;
            theirs.entry(mode).or_default().add(&report)?;
        }
    }
    let base = ours.median();
    let gib = |bytes: f64| bytes / f64::from(1 << 30);
    println!("| {shape} | ijepa | {base:.1} | 1 | {:.2} | {:.0} % |", gib(ours.peak_bytes), 100.0 * share);
    for (mode, measured) in &theirs {
        let ms = measured.median();
        println!("| {shape} | PyTorch {mode} | {ms:.1} | {:.2} | {:.2} | |", ms / base, gib(measured.peak_bytes));
    }
    Ok(())
}

fn our_program(shape: &str, options: &Options) -> Command {
    let program = format!("target/release/ijepa{}", std::env::consts::EXE_SUFFIX);
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let program = match target {
        Some(target) => std::path::Path::new(&target).join("release/ijepa"),
        None => crate::root().join(program),
    };
    let mut command = Command::new(program);
    match shape {
        "embed" => command.args(["bench", "embed", "--json", "--repeat", &options.repeat]),
        shape => command.args(["bench", "step", "--json", "--shape", shape, "--steps", &options.repeat]),
    };
    if options.device != "cpu" {
        command.args(["--device", &options.device]);
    }
    match (&options.bf16, shape) {
        (Some(_), "embed") => drop(command.arg("--bf16")),
        (Some(networks), _) => drop(command.args(["--bf16", networks])),
        (None, _) => {}
    }
    if let Some(threads) = &options.threads {
        command.args(["--threads", threads]);
    }
    if options.avx2 {
        command.env("IJEPA_CPU", "avx2");
    }
    command
}

fn peer(shape: &str, mode: &str, options: &Options) -> Command {
    let mut command = Command::new(&options.python);
    command.arg(crate::root().join("peers/pytorch/step.py"));
    match shape {
        "embed" => command.arg("embed"),
        shape => command.args(["step", "--shape", shape, "--device", &options.device]),
    };
    command.args(["--mode", mode, "--repeat", &options.repeat]);
    if let Some(threads) = &options.threads {
        command.args(["--threads", threads]);
    }
    if options.avx2 {
        command
            .env("ATEN_CPU_CAPABILITY", "avx2")
            .env("MKL_ENABLE_INSTRUCTIONS", "AVX2")
            .env("ONEDNN_MAX_CPU_ISA", "AVX2");
    }
    command
}

/// The JSON object that a program prints last.
pub(crate) fn report(command: &mut Command) -> Result<Value> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}:\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text[text.find('{').unwrap_or(0)..]).with_context(|| format!("{command:?} printed {text}"))
}

fn parse(arguments: &[&str]) -> Result<Options> {
    let list = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    let mut options = Options {
        python: "python3".to_owned(),
        shapes: list("S1,S2,S3,embed"),
        modes: list("eager,sdpa"),
        rounds: 3,
        repeat: "9".to_owned(),
        threads: None,
        avx2: false,
        bf16: None,
        device: "cpu".to_owned(),
    };
    let mut arguments = arguments.iter();
    while let Some(&name) = arguments.next() {
        if name == "--avx2" {
            options.avx2 = true;
            continue;
        }
        let value = *arguments.next().with_context(|| format!("{name}: expected a value\n{USAGE}"))?;
        match name {
            "--python" => options.python = value.to_owned(),
            "--shapes" => options.shapes = list(value),
            "--modes" => options.modes = list(value),
            "--rounds" => options.rounds = value.parse().with_context(|| format!("--rounds {value}"))?,
            "--repeat" => options.repeat = value.to_owned(),
            "--bf16" => options.bf16 = Some(value.to_owned()),
            "--device" => options.device = value.to_owned(),
            "--threads" => options.threads = Some(value.to_owned()),
            _ => bail!("{name}: no such option\n{USAGE}"),
        }
    }
    if options.rounds == 0 {
        bail!("--rounds 0: expected at least 1");
    }
    Ok(options)
}
