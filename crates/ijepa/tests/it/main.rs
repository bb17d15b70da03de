//! The program as its users meet it: the real binary, its output, its exit codes.

mod convert;
mod data;
mod embed;
mod evaluate;
mod gpu;
mod help;
mod hub;
mod large;
mod looking;
mod masks;
mod plan;
mod ranks;
mod refusals;
mod resuming;
mod run_files;
mod training;
mod tune;

use std::path::Path;
use std::process::Command;

/// How the program ended and what it said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs the program in `folder`.
fn ijepa(folder: &Path, arguments: &[&str]) -> Said {
    ijepa_in(folder, &[], arguments)
}

/// The same, with variables of the environment.
fn ijepa_in(folder: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_ijepa"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("COLUMNS")
        .env("NO_COLOR", "1")
        .env("XDG_CACHE_HOME", folder.join("cache"))
        .envs(variables.iter().copied())
        .output()
        .expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it speaks UTF-8");
    Said { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

impl Said {
    /// The one JSON object on stdout.
    fn json(&self) -> serde_json::Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }

    /// Asserts an exit code and that stderr holds all of `parts`; nothing may stand on stdout.
    #[track_caller]
    fn refused(&self, code: i32, parts: &[&str]) {
        assert_eq!((self.code, self.stdout.as_str()), (Some(code), ""), "{}", self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in:\n{}", self.stderr);
        }
    }
}

/// A scratch folder with a run file for a model that trains in no time.
fn scratch() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a scratch folder");
    std::fs::write(dir.path().join("small.yaml"), SMALL).expect("it can be written");
    dir
}

const SMALL: &str = "\
data: {batch_size: 8, crop_size: 32, num_workers: 2}
mask: {patch_size: 4, min_keep: 4}
meta: {model_name: vit_tiny, enc_depth: 1, enc_emb_dim: 48, enc_heads: 3, pred_depth: 1, pred_emb_dim: 24}
optimization: {epochs: 2, warmup: 1}
";
