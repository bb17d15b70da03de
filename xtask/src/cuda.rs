//! Do all CUDA kernels compile, and compute right, without a GPU? Runs the tests that need a C++ compiler and NVRTC.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::interop;

const USAGE: &str = "\
usage: cargo xtask cuda [--write]

Runs the tests that need a C++ compiler and NVRTC, which is installed into target/cuda. With --write, the PTX inside the program is written anew.";

/// Prints the path of NVRTC in the environment that runs it.
const FIND: &str = "import glob, nvidia; print(*glob.glob(list(nvidia.__path__)[0] + '/*/lib/libnvrtc.so.*'))";

/// Runs the command.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    match arguments {
        [] => {
            let checks = ["test", "-q", "-p", "ijepa-tensor", "--test", "it", "cuda", "--", "--nocapture"];
            with_nvrtc("cuda", &checks, "IJEPA_REQUIRE_CUDA_CHECKS")?;
            let whole = ["test", "-q", "-p", "ijepa", "--test", "it", "gpu", "--", "--nocapture"];
            with_nvrtc("cuda", &whole, "IJEPA_REQUIRE_CUDA_CHECKS")
        }
        ["--write"] => with_nvrtc(
            "ptx",
            &["test", "-q", "-p", "ijepa-tensor", "--test", "it", "compiles_to_ptx"],
            "IJEPA_WRITE_PTX",
        ),
        _ => bail!("{USAGE}"),
    }
}

/// Runs cargo with the NVRTC that a folder of `peers/` requires, and a variable set to 1.
fn with_nvrtc(peers: &str, arguments: &[&str], variable: &str) -> Result<()> {
    let python = interop::environment(peers)?;
    let output = Command::new(&python).args(["-c", FIND]).output().context("the environment's Python starts")?;
    let path = String::from_utf8(output.stdout).context("the path of NVRTC is UTF-8")?;
    ensure!(output.status.success() && !path.trim().is_empty(), "NVRTC is not in {}", python.display());
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    interop::call(Command::new(cargo).args(arguments).env("IJEPA_NVRTC", path.trim()).env(variable, "1"))
}
