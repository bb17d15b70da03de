//! `eval finetune` and `eval semi`: what they print, what they refuse, and that a stopped training goes on to the same bits.

use std::path::Path;

use serde_json::Value;

use super::{ijepa, scratch};

/// A scratch folder with a checkpoint of one step.
fn trained() -> tempfile::TempDir {
    let dir = scratch();
    let arguments = ["-q", "pretrain", "small.yaml", "--data", "scenes:16", "--out", "run", "--steps", "1"];
    assert_eq!(ijepa(dir.path(), &arguments).code, Some(0));
    dir
}

const SOURCE: [&str; 8] = [
    "--checkpoint",
    "run/checkpoints/latest.safetensors",
    "--train",
    "scenes:60",
    "--val",
    "scenes:30",
    "--epochs",
    "1",
];

fn eval(folder: &Path, protocol: &str, options: &[&str]) -> super::Said {
    ijepa(folder, &[&["-q", "eval", protocol], &SOURCE[..], options].concat())
}

fn rows(shown: &Value) -> Vec<(String, String, u64, u64)> {
    let text = |row: &Value, key: &str| row[key].as_str().expect("a text").to_owned();
    let number = |row: &Value, key: &str| row[key].as_u64().expect("a count");
    let rows = shown["results"].as_array().expect("a list");
    for row in rows {
        assert_eq!(row["metric"], "accuracy");
        assert!(row["value"].as_f64().is_some_and(|value| (0.0..=1.0).contains(&value)), "{row}");
        assert!(row["standard_error"].is_f64() && row["loss"].is_f64() && row["seconds"].is_f64(), "{row}");
    }
    rows.iter()
        .map(|row| (text(row, "features"), text(row, "head"), number(row, "n_train"), number(row, "n_val")))
        .collect()
}

#[test]
fn finetune_tells_a_checkpoint_from_random_weights_over_draws_of_labels() {
    let dir = trained();
    let options = [
        "--baselines",
        "--per-class",
        "2",
        "--draws",
        "2",
        "--mixup",
        "0.8",
        "--erase",
        "0.5",
        "--drop-path",
        "0.2",
        "--json",
    ];
    let shown = eval(dir.path(), "finetune", &options).json();
    assert_eq!(shown["protocol"], "finetune");
    let row = |features: &str| (features.to_owned(), "finetune".to_owned(), 12, 30);
    assert_eq!(rows(&shown), [row("trained"), row("untrained")]);
    assert_eq!(shown["results"][0]["draws"].as_array().map(Vec::len), Some(2));
    assert_eq!(shown["recipe"]["mixup"], 0.8);
}

#[test]
fn semi_shows_what_the_images_without_labels_add_and_begins_with_a_network_that_was_tuned() {
    let dir = trained();
    let few = ["--per-class", "3", "--semi-epochs", "1", "--threshold", "0.1", "--json"];
    let shown = eval(dir.path(), "semi", &[&few[..], &["--out", "semi", "--report", "page.html"]].concat()).json();
    let row = |head: &str| ("trained".to_owned(), head.to_owned(), 18, 30);
    assert_eq!(rows(&shown), [row("finetune"), row("semi")]);
    let page = std::fs::read_to_string(dir.path().join("page.html")).expect("it was written");
    assert!(page.contains("ijepa eval semi") && page.contains("trained, finetune") && page.contains("threshold"));
    assert!(shown["results"][1]["sure"].as_f64().is_some_and(|sure| sure > 0.0), "{shown}");

    let tuned = ["--init", "semi/finetune/checkpoints/latest.safetensors"];
    let again = eval(dir.path(), "semi", &[&few[..], &tuned].concat()).json();
    for (at, row) in again["results"].as_array().expect("a list").iter().enumerate() {
        assert_eq!(row["value"], shown["results"][at]["value"], "the same network, the same draws");
    }

    // What is left is a checkpoint like any other.
    let knn = [
        "-q",
        "eval",
        "knn",
        "--checkpoint",
        "semi/checkpoints/latest.safetensors",
        "--train",
        "scenes:60",
        "--val",
        "scenes:30",
        "--json",
    ];
    assert_eq!(ijepa(dir.path(), &knn).json()["results"][0]["n_val"], 30);
}

#[test]
fn what_cannot_be_done_is_refused_with_what_can() {
    let dir = trained();
    let refused = |protocol: &str, options: &[&str], code: i32, parts: &[&str]| {
        eval(dir.path(), protocol, options).refused(code, parts)
    };
    refused("finetune", &["--rand-augment", "rand-x9"], 2, &["rand-m9"]);
    refused("finetune", &["--drop-path", "1"], 2, &["--drop-path"]);
    refused("finetune", &["--out", "nowhere", "--resume"], 2, &["nowhere holds no run"]);
    refused("semi", &[], 2, &["all images of --train have labels", "--fraction"]);
    refused(
        "semi",
        &["--per-class", "2", "--init", "run/checkpoints/latest.safetensors"],
        4,
        &["no classifier", "eval finetune"],
    );
    refused("semi", &["--per-class", "2", "--init", "x", "--draws", "2"], 2, &["--init", "--draws"]);
    assert_eq!(eval(dir.path(), "finetune", &["--per-class", "1", "--out", "tuned"]).code, Some(0));
    refused("finetune", &["--per-class", "1", "--out", "tuned"], 2, &["holds a run already", "--resume"]);
    refused(
        "finetune",
        &["--per-class", "1", "--out", "tuned", "--resume", "--lr", "1"],
        2,
        &["it was begun otherwise"],
    );
}

#[cfg(unix)]
mod stopping {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    /// Starts a training, sends SIGTERM once `stage` has begun to step, and waits for its end.
    fn stopped(folder: &Path, arguments: &[&str], stage: &str) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ijepa"))
            .args(arguments)
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains(stage)), "{stage} begins");
        assert!(lines.any(|line| line.contains("steps  epoch")), "a step is taken");
        let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill runs");
        assert!(killed.success());
        lines.for_each(drop);
        assert_eq!(child.wait().expect("it ends").code(), Some(75));
    }

    fn tensors(path: &Path) -> Vec<(String, Vec<u8>)> {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("it parses");
        let mut all: Vec<_> = file.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())).collect();
        all.sort();
        all
    }

    #[test]
    fn a_training_that_is_stopped_and_resumed_ends_with_the_same_bits() {
        let dir = trained();
        let arguments = |out: &'static str| {
            let data = [
                "eval",
                "semi",
                "--checkpoint",
                "run/checkpoints/latest.safetensors",
                "--train",
                "scenes:400",
                "--val",
                "scenes:30",
            ];
            let labels = [
                "--per-class",
                "8",
                "--epochs",
                "60",
                "--semi-epochs",
                "6",
                "--threshold",
                "0.1",
                "--drop-path",
                "0.2",
            ];
            [&data[..], &labels, &["--batch", "8", "--semi-batch", "8", "--mixup", "0.8", "--json", "--out", out]]
                .concat()
        };
        let whole = ijepa(dir.path(), &arguments("whole"));
        let expected = whole.json();
        stopped(dir.path(), &arguments("parts"), "fine-tuning on");
        let resume = |threads: &'static str| [&arguments("parts")[..], &["--resume", "--threads", threads]].concat();
        stopped(dir.path(), &resume("1"), "semi-supervised on");
        let got = ijepa(dir.path(), &resume("2")).json();
        for checkpoint in ["finetune/checkpoints/latest.safetensors", "checkpoints/latest.safetensors"] {
            let of = |run: &str| tensors(&dir.path().join(run).join(checkpoint));
            assert!(of("whole") == of("parts"), "{checkpoint} differs");
        }
        for (at, row) in expected["results"].as_array().expect("a list").iter().enumerate() {
            for key in ["value", "loss", "sure", "right"] {
                assert_eq!(got["results"][at][key], row[key], "{key} of row {at}");
            }
        }
    }
}
