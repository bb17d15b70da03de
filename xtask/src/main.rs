//! Developer commands: `cargo xtask ci | tidy | goldens | cuda | interop | peers`.
#![expect(clippy::print_stdout, reason = "printing is what these commands do")]

mod ci;
mod cuda;
mod goldens;
mod interop;
mod peers;
mod pictures;
mod probes;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  ci        everything a change must pass, in order, with the time of each step
  tidy      the rules of the code base that a machine can hold (also a test)
  goldens   how the files in goldens/ were made, and whether they are still those
  cuda      the CUDA kernels, compiled for three generations of cards and run on the CPU
  interop   our checkpoints in PyTorch, transformers, timm and onnxruntime, and theirs here (--python PYTHON)
  peers     our training step and PyTorch's, in turn on this machine (--python PYTHON, --shapes, --modes, --rounds, --avx2)
  peers transforms   our transforms against the bytes of Pillow, torchvision and timm (--photos FOLDER, --python PYTHON)
  peers data         images a second of our loader and of PyTorch's, in turn (--photos FOLDER, --python PYTHON)
  peers eval         our probes against scikit-learn's and faiss's, and many heads against one (--python PYTHON)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["ci"] => ci::run(),
        ["tidy"] => tidy::run(),
        ["goldens"] => goldens::run(),
        ["cuda", arguments @ ..] => cuda::run(arguments),
        ["interop", arguments @ ..] => interop::run(arguments),
        ["peers", "transforms", arguments @ ..] => pictures::transforms(arguments),
        ["peers", "data", arguments @ ..] => pictures::data(arguments),
        ["peers", "eval", arguments @ ..] => probes::run(arguments),
        ["peers", arguments @ ..] => peers::run(arguments),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the repository").to_owned()
}
