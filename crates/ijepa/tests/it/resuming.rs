//! Going on with a run: with the same data, from the newest checkpoint, of a run that is there.

use std::path::Path;

use super::{Said, ijepa, scratch};

const USAGE: i32 = 2;

/// `pretrain small.yaml --out run` for 16 scenes, two steps an epoch.
fn pretrain(folder: &Path, options: &[&str]) -> Said {
    ijepa(folder, &[&["-q", "pretrain", "small.yaml", "--data", "scenes:16", "--out", "run"], options].concat())
}

#[test]
fn a_run_does_not_go_on_with_more_or_fewer_images() {
    let dir = scratch();
    assert_eq!(pretrain(dir.path(), &["--steps", "1"]).code, Some(0));
    for data in ["scenes:17", "scenes:100"] {
        let resume = ["-q", "pretrain", "--resume", "--out", "run", "--data", data];
        let images = data.trim_start_matches("scenes:");
        ijepa(dir.path(), &resume).refused(USAGE, &["began with 16 images", &format!("has {images}"), "--data"]);
    }
    assert_eq!(ijepa(dir.path(), &["-q", "pretrain", "--resume", "--out", "run"]).code, Some(0));
}

#[test]
fn a_misspelt_run_is_not_begun_instead() {
    let dir = scratch();
    pretrain(dir.path(), &["--resume"]).refused(USAGE, &["run holds no run", "--out"]);
    assert!(!dir.path().join("run").exists());
}

#[test]
fn an_older_checkpoint_does_not_replace_a_newer_one() {
    let dir = scratch();
    let (latest, first) = (dir.path().join("run/checkpoints/latest.safetensors"), dir.path().join("run/first"));
    assert_eq!(pretrain(dir.path(), &["--steps", "1"]).code, Some(0));
    std::fs::copy(&latest, first).expect("it can be copied");
    let from = ["--set", "meta.load_checkpoint=true", "--set", "meta.read_checkpoint=first"];
    let changed = pretrain(dir.path(), &[&from[..], &["--set", "optimization.lr=0.5"]].concat());
    changed.refused(USAGE, &["optimization.lr was 0.001, now 0.5"]);
    assert_eq!(pretrain(dir.path(), &[&from[..], &["--steps", "2"]].concat()).code, Some(0));
    let saved = std::fs::read(&latest).expect("it is there");
    pretrain(dir.path(), &from).refused(USAGE, &["names step 1", "at step 2", "latest.safetensors"]);
    assert!(std::fs::read(&latest).expect("it is there") == saved);
}

#[test]
fn what_a_run_began_with_must_be_readable() {
    let dir = scratch();
    let params = dir.path().join("run/params-ijepa.yaml");
    assert_eq!(pretrain(dir.path(), &["--steps", "1"]).code, Some(0));
    std::fs::remove_file(&params).expect("it is there");
    std::fs::create_dir(&params).expect("a folder in its place");
    pretrain(dir.path(), &["--resume"]).refused(USAGE, &["params-ijepa.yaml"]);
}
