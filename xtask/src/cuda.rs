//! Do all CUDA kernels compile, and compute right, without a GPU? Runs the tests that need a C++ compiler and NVRTC.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::interop;

const USAGE: &str = "\
usage: cargo xtask cuda [--write]

Runs the tests that need a C++ compiler and what NVIDIA has on PyPI: NVRTC, headers, the assembler, cuBLASLt, NCCL (1.3 GB), installed into target/cuda. With --write, the PTX inside the program is written anew.";

/// Prints the folder of NVIDIA's packages in the environment that runs it, and the path of NVRTC.
const FIND: &str = "import glob, nvidia; folder = list(nvidia.__path__)[0]; print(folder, *glob.glob(folder + '/*/lib/libnvrtc.so.*'), sep='\\n')";

/// Runs the command.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    match arguments {
        [] => {
            let checks = ["test", "-q", "-p", "ijepa-tensor", "--test", "it", "cuda", "--", "--nocapture"];
            with_packages("cuda", &checks, "IJEPA_REQUIRE_CUDA_CHECKS")?;
            let whole = ["test", "-q", "-p", "ijepa", "--test", "it", "gpu", "--", "--nocapture"];
            with_packages("cuda", &whole, "IJEPA_REQUIRE_CUDA_CHECKS")
        }
        ["--write"] => with_packages(
            "ptx",
            &["test", "-q", "-p", "ijepa-tensor", "--test", "it", "compiles_to_ptx"],
            "IJEPA_WRITE_PTX",
        ),
        _ => bail!("{USAGE}"),
    }
}

/// Runs cargo with NVIDIA's packages that a folder of `peers/` requires, and a variable set to 1.
fn with_packages(peers: &str, arguments: &[&str], variable: &str) -> Result<()> {
    let python = interop::environment(peers)?;
    let output = Command::new(&python).args(["-c", FIND]).output().context("the environment's Python starts")?;
    let paths = String::from_utf8(output.stdout).context("paths of packages are UTF-8")?;
    let [folder, nvrtc] = paths.lines().collect::<Vec<_>>()[..] else {
        bail!("NVRTC is not in {}", python.display());
    };
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut command = Command::new(cargo);
    interop::call(command.args(arguments).env("IJEPA_NVRTC", nvrtc).env("IJEPA_NVIDIA", folder).env(variable, "1"))
}
