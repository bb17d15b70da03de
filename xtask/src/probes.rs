//! How do our probes compare with those of the Python ecosystem? `cargo xtask peers eval` times the search against faiss, holds
//! predictions to scikit-learn's, and says what many heads cost beside one.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::interop::call;
use crate::peers::report;
use crate::pictures::{built, options, python};

const USAGE: &str = "\
usage: cargo xtask peers eval [--python PYTHON] [--parts agree,knn,heads] [--train PREFIX --val PREFIX] [--rounds 3] [--k 20]
       cargo xtask peers eval --goldens [--python PYTHON]

PYTHON has what peers/eval/requirements.txt names; without it, an environment with them is made. PREFIX.npy and PREFIX.labels.npy are
what `ijepa embed` writes; without them, predictions are compared on clouds of points. Close everything else first for knn and
heads: times are medians of rounds, in turn. With --goldens, goldens/heads/cases.safetensors is written anew.";

/// Runs the command.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let goldens = arguments.contains(&"--goldens");
    let given: Vec<&str> = arguments.iter().copied().filter(|argument| *argument != "--goldens").collect();
    let options = options(&given, &["--python", "--parts", "--train", "--val", "--rounds", "--k"], USAGE)?;
    let peers = crate::root().join("peers/eval");
    if goldens {
        let out = crate::root().join("goldens/heads/cases.safetensors");
        return call(Command::new(python(&options, "eval")?).arg(peers.join("heads.py")).arg("--out").arg(out));
    }
    if options.contains_key("--train") != options.contains_key("--val") {
        bail!("--train and --val come together\n{USAGE}");
    }
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    call(Command::new(cargo).args(["build", "-q", "--release", "-p", "ijepa-eval", "--example", "probes"]))?;
    let ours = built("examples/probes");
    let folder = crate::root().join("target/peers-eval");
    for part in options.get("--parts").copied().unwrap_or("agree,knn,heads").split(',') {
        let (script, names) = match part {
            "heads" => {
                call(Command::new(&ours).arg("heads"))?;
                continue;
            }
            "agree" => ("sklearn_check.py", ["--train", "--val"]),
            "knn" => ("knn.py", ["--rounds", "--k"]),
            _ => bail!("--parts {part}: agree, knn or heads is expected\n{USAGE}"),
        };
        let mut command = Command::new(python(&options, "eval")?);
        command.arg(peers.join(script)).arg("--ours").arg(&ours).arg("--folder").arg(&folder);
        for name in names {
            command.args(options.get(name).map(|value| [name, *value]).into_iter().flatten());
        }
        let report = report(&mut command)?;
        for (name, value) in report.as_object().context("a report that is no object")? {
            println!("{part}  {name}: {value}");
        }
    }
    Ok(())
}
