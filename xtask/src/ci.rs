//! Everything a change must pass, in order. Stops at the first step that fails.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Training steps of the demo that is run here: enough to go through every part of it, not to learn.
const DEMO_STEPS: &str = "30";

/// Runs all steps.
pub(crate) fn run() -> Result<()> {
    let began = Instant::now();
    let cargo =
        |arguments: &[&str]| command(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()), arguments, &[]);
    let folder = crate::root().join("target/ci-demo");
    let demo_folder = folder.to_str().context("the path of the repository is UTF-8")?;
    let program = format!("target/release/ijepa{}", std::env::consts::EXE_SUFFIX);

    let mut times = Vec::new();
    let mut step = |name: &'static str, work: &dyn Fn() -> Result<()>| -> Result<()> {
        println!("== {name}");
        let began = Instant::now();
        work().with_context(|| format!("ci: {name} failed"))?;
        times.push((name, began.elapsed()));
        Ok(())
    };
    step("format", &|| cargo(&["fmt", "--all", "--check"]))?;
    step("tidy", &crate::tidy::run)?;
    step("clippy", &|| cargo(&["clippy", "-q", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    step("tests", &|| cargo(&["test", "--workspace"]))?;
    step("avif", &|| {
        let feature = ["-q", "-p", "ijepa-data", "--features", "avif"];
        cargo(&[&["clippy"], &feature[..], &["--all-targets", "--", "-D", "warnings"]].concat())?;
        cargo(&[&["test"], &feature[..], &["--test", "it", "avif"]].concat())
    })?;
    step("release build", &|| cargo(&["build", "-q", "--release"]))?;
    step("demo", &|| {
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        command(&program, &["demo", "--steps", DEMO_STEPS, "--out", demo_folder, "--json"], &[])
    })?;
    step("large files", &|| {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let large = [("IJEPA_LARGE", "1")];
        command(&cargo, &["test", "-q", "-p", "ijepa", "--test", "it", "large"], &large)?;
        command(&cargo, &["test", "-q", "-p", "ijepa-data", "--test", "it", "million", "--", "--nocapture"], &large)
    })?;
    step("ranks", &|| {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        install_mpi()?;
        let features = ["-q", "-p", "ijepa", "--features", "mpi"];
        command(&cargo, &[&["clippy"], &features[..], &["--all-targets", "--", "-D", "warnings"]].concat(), &[])?;
        let test = [&["test"], &features[..], &["--test", "it", "ranks"]].concat();
        command(&cargo, &test, &[("IJEPA_REQUIRE_MPI", "1")])
    })?;
    step("cuda", &|| crate::cuda::run(&[]))?;
    step("interop", &|| crate::interop::run(&[]))?;

    println!();
    for (name, time) in &times {
        println!("{name:<14} {}", said(*time));
    }
    println!("ci: all {} steps passed in {}", times.len(), said(began.elapsed()));
    Ok(())
}

/// Open MPI from Debian's packages, where it is not there yet.
fn install_mpi() -> Result<()> {
    if Command::new("mpicc").arg("--version").output().is_ok_and(|said| said.status.success()) {
        return Ok(());
    }
    // mpirun looks for ssh even where all ranks are on one machine.
    let packages = ["openmpi-bin", "libopenmpi-dev", "libclang-dev", "openssh-client"];
    let quiet = [("DEBIAN_FRONTEND", "noninteractive")];
    command("apt-get", &["update", "-qq"], &quiet)?;
    command("apt-get", &[&["install", "-y", "-qq", "--no-install-recommends"], &packages[..]].concat(), &quiet)
}

/// Runs a program in the root of the repository, with variables set; its output is shown as it comes.
fn command(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    let root = crate::root();
    // A path with a folder is meant from the root, a bare name from PATH.
    let path = if Path::new(program).components().count() > 1 { root.join(program) } else { program.into() };
    let status = Command::new(&path)
        .args(arguments)
        .current_dir(&root)
        // One cargo inside another would take this build's settings for its own.
        .env_remove("CARGO_MANIFEST_DIR")
        .envs(variables.iter().copied())
        .status()
        .with_context(|| format!("cannot start {}", path.display()))?;
    if !status.success() {
        bail!("`{program} {}` ended with {status}", arguments.join(" "));
    }
    Ok(())
}

fn said(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{} min {:.0} s", (seconds / 60.0) as u64, seconds % 60.0)
    }
}
