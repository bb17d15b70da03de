//! Do our checkpoints mean the same in PyTorch, transformers, timm and onnxruntime? Runs `peers/interop/interop.py` and the tests that
//! need those libraries.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

const USAGE: &str = "\
usage: cargo xtask interop [--python PYTHON]

PYTHON has what peers/interop/requirements.txt names. Without it, an environment with them is made in target/interop (about 6 GB).";

/// Runs the command.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let python = match arguments {
        [] => environment("interop")?,
        ["--python", python] => PathBuf::from(python),
        _ => bail!("{USAGE}"),
    };
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    call(Command::new(&cargo).args(["build", "-q", "--release", "-p", "ijepa"]))?;
    let program = crate::root().join(format!("target/release/ijepa{}", std::env::consts::EXE_SUFFIX));
    call(Command::new(&python).arg("peers/interop/interop.py").arg(program))?;
    call(
        Command::new(&cargo)
            .args(["test", "-q", "-p", "ijepa-model", "--test", "it", "onnx"])
            .env("IJEPA_PYTHON", &python)
            .env("IJEPA_REQUIRE_PEERS", "1"),
    )
}

/// The Python of an environment with the packages that a folder of `peers/` requires, made when it is not there or they have changed.
pub(crate) fn environment(peers: &str) -> Result<PathBuf> {
    let folder = crate::root().join("target").join(peers);
    let requirements = crate::root().join("peers").join(peers).join("requirements.txt");
    let wanted =
        std::fs::read_to_string(&requirements).with_context(|| format!("{} cannot be read", requirements.display()))?;
    let (python, installed) = (folder.join("bin/python"), folder.join("installed.txt"));
    if std::fs::read_to_string(&installed).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    println!("making {} with the packages of {}", folder.display(), requirements.display());
    call(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    call(
        Command::new(&python)
            .args(["-m", "pip", "install", "-q", "--disable-pip-version-check", "-r"])
            .arg(&requirements),
    )?;
    std::fs::write(&installed, wanted).with_context(|| format!("{} cannot be written", installed.display()))?;
    Ok(python)
}

/// Runs a command in the root of the repository; its output is shown as it comes.
pub(crate) fn call(command: &mut Command) -> Result<()> {
    let root: &Path = &crate::root();
    // One cargo inside another would take this build's settings for its own.
    let status = command.current_dir(root).env_remove("CARGO_MANIFEST_DIR").status();
    let status = status.with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}
