//! Do all CUDA kernels compile, and compute right, without a GPU? Runs the tests that need a C++ compiler and NVRTC.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::interop;

/// Prints the path of NVRTC in the environment that runs it.
const FIND: &str = "import glob, nvidia; print(*glob.glob(list(nvidia.__path__)[0] + '/*/lib/libnvrtc.so.*'))";

/// Runs the command; NVRTC is installed into target/cuda when it is not there.
pub(crate) fn run() -> Result<()> {
    let python = interop::environment("cuda")?;
    let output = Command::new(&python).args(["-c", FIND]).output().context("the environment's Python starts")?;
    let path = String::from_utf8(output.stdout).context("the path of NVRTC is UTF-8")?;
    ensure!(output.status.success() && !path.trim().is_empty(), "NVRTC is not in {}", python.display());
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    interop::call(
        Command::new(cargo)
            .args(["test", "-q", "-p", "ijepa-tensor", "--test", "it", "cuda", "--", "--nocapture"])
            .env("IJEPA_NVRTC", path.trim())
            .env("IJEPA_REQUIRE_CUDA_CHECKS", "1"),
    )
}
