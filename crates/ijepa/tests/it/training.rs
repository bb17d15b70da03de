//! Training through the program: the reference's numbers, killing and resuming, damaged images, a loss that is not finite.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::{ijepa, scratch};

pub(crate) fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/reference_tiny").join(name);
    path.to_str().expect("the path is UTF-8").to_owned()
}

/// The configuration that the golden numbers were made with.
pub(crate) const TINY: &str = "\
data: {batch_size: 8, crop_size: 32}
mask: {patch_size: 4, min_keep: 4}
meta: {model_name: vit_tiny, enc_depth: 2, pred_depth: 2, pred_emb_dim: 96}
optimization: {epochs: 2, warmup: 1, ipe_scale: 1.25, start_lr: 0.0002, lr: 0.001, final_lr: 1.0e-06, weight_decay: 0.04,
  final_weight_decay: 0.4, ema: [0.996, 1.0]}
";

pub(crate) fn latest(run: &Path) -> PathBuf {
    run.join("checkpoints/latest.safetensors")
}

pub(crate) fn metrics(run: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).expect("the run has metrics");
    text.lines().map(|line| serde_json::from_str(line).expect("a line is an object")).collect()
}

#[test]
fn a_replay_gives_the_losses_schedules_and_weights_of_the_reference() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    std::fs::write(dir.path().join("tiny.yaml"), TINY).expect("it can be written");
    let (init, replay) = (golden("init.pth.tar"), golden("replay.safetensors"));
    let said = ijepa(dir.path(), &["pretrain", "tiny.yaml", "--init", &init, "--replay", &replay, "--out", "run"]);
    assert_eq!(said.code, Some(0), "{said:?}");

    let expected = std::fs::read_to_string(golden("expected.json")).expect("the golden numbers read");
    let expected: serde_json::Value = serde_json::from_str(&expected).expect("they are JSON");
    let rows = metrics(&dir.path().join("run"));
    assert_eq!(rows.len(), 10);
    for (i, (row, step)) in rows.iter().zip(expected["steps"].as_array().expect("a list")).enumerate() {
        for (key, tolerance) in
            [("lr", 1e-12), ("wd", 1e-12), ("ema", 1e-12), ("loss", if i < 3 { 1e-5 } else { 1e-4 })]
        {
            let (got, expected) = (row[key].as_f64().expect("a number"), step[key].as_f64().expect("a number"));
            assert!((got / expected - 1.0).abs() < tolerance, "step {i}: {key} is {got}, expected {expected}");
        }
    }

    let bytes = std::fs::read(latest(&dir.path().join("run"))).expect("the run left a checkpoint");
    let file = SafeTensors::deserialize(&bytes).expect("it is a safetensors file");
    for (name, numbers) in expected["final"].as_object().expect("a table") {
        let tensor = file.tensor(name).unwrap_or_else(|_| panic!("{name} is missing"));
        let values = tensor.data().chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        let norm = values.map(|value| value * value).sum::<f64>().sqrt();
        let expected = numbers["norm"].as_f64().expect("a number");
        assert!((norm - expected).abs() <= 1e-4 * expected.max(1e-6), "{name}: norm {norm}, expected {expected}");
    }
}

#[test]
fn a_replay_in_bfloat16_stays_near_the_losses_of_the_reference_and_is_not_in_f32() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    std::fs::write(dir.path().join("tiny.yaml"), TINY).expect("it can be written");
    let (init, replay) = (golden("init.pth.tar"), golden("replay.safetensors"));
    let half = "meta.bfloat16_on_cpu=all";
    let said = ijepa(
        dir.path(),
        &["pretrain", "tiny.yaml", "--init", &init, "--replay", &replay, "--out", "run", "--set", half],
    );
    if said.stderr.contains("AVX512-BF16") {
        eprintln!("skipped: this CPU has no AVX512-BF16, or IJEPA_CPU leaves it out");
        return;
    }
    assert_eq!(said.code, Some(0), "{said:?}");
    let expected = std::fs::read_to_string(golden("expected.json")).expect("the golden numbers read");
    let expected: serde_json::Value = serde_json::from_str(&expected).expect("they are JSON");
    let steps = expected["steps"].as_array().expect("a list");
    let errors = metrics(&dir.path().join("run")).into_iter().zip(steps).map(|(row, step)| {
        let (got, expected) = (row["loss"].as_f64().expect("a number"), step["loss"].as_f64().expect("a number"));
        (got / expected - 1.0).abs()
    });
    let errors: Vec<f64> = errors.collect();
    let largest = errors.iter().copied().fold(0.0, f64::max);
    assert!(errors.len() == 10 && largest > 1e-5 && largest < 1e-2, "{errors:?}");
}

/// Starts a run, kills it with SIGKILL once `step` steps are logged, and waits for its end.
fn killed_after(folder: &Path, arguments: &[&str], run: &str, step: usize) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ijepa"))
        .args(arguments)
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let began = Instant::now();
    let log = folder.join(run).join("metrics.jsonl");
    while std::fs::read_to_string(&log).map_or(0, |text| text.lines().count()) < step {
        assert!(began.elapsed() < Duration::from_secs(120), "the run does not get to step {step}");
        assert!(child.try_wait().expect("the child is ours").is_none(), "the run ended before it was killed");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().expect("it can be killed");
    child.wait().expect("it ends");
}

#[test]
fn a_run_that_is_killed_and_resumed_ends_with_the_same_bits_for_any_number_of_threads() {
    let dir = scratch();
    let run = |name: &'static str, threads: &'static str, workers: &'static str| {
        vec![
            "pretrain",
            "small.yaml",
            "--data",
            "scenes:100",
            "--out",
            name,
            "--threads",
            threads,
            "--set",
            workers,
            "--set",
            "optimization.epochs=5",
            "--set",
            "logging.save_every=7 steps",
        ]
    };
    let whole = ijepa(dir.path(), &run("whole", "2", "data.num_workers=2"));
    assert_eq!(whole.code, Some(0), "{whole:?}");
    let expected = std::fs::read(latest(&dir.path().join("whole"))).expect("the run left a checkpoint");
    let numbers = |run: &Path| -> Vec<(u64, f64)> {
        let rows = metrics(run);
        rows.iter()
            .map(|row| (row["step"].as_u64().expect("a number"), row["loss"].as_f64().expect("a number")))
            .collect()
    };
    let expected_losses = numbers(&dir.path().join("whole"));
    assert_eq!(expected_losses.len(), 60);

    for (name, threads, workers) in [("one", "1", "data.num_workers=1"), ("two", "2", "data.num_workers=2")] {
        let mut arguments = run(name, threads, workers);
        killed_after(dir.path(), &arguments, name, 17);
        arguments.push("--resume");
        let said = ijepa(dir.path(), &arguments);
        assert_eq!(said.code, Some(0), "{said:?}");
        let path = dir.path().join(name);
        assert_eq!(numbers(&path), expected_losses, "each step stands once in the log of `{name}`");
        let got = std::fs::read(latest(&path)).expect("the run left a checkpoint");
        let (got, expected) = (
            SafeTensors::deserialize(&got).expect("it parses"),
            SafeTensors::deserialize(&expected).expect("it parses"),
        );
        assert_eq!(got.len(), expected.len());
        for (tensor, view) in expected.iter() {
            assert!(got.tensor(tensor).expect("it is there").data() == view.data(), "`{name}`: {tensor} differs");
        }
    }
}

#[cfg(unix)]
#[test]
fn a_signal_saves_and_ends_with_75() {
    let dir = scratch();
    let said = stopped(dir.path(), &["--data", "scenes:100", "--out", "run", "--set", "optimization.epochs=2000"]);
    assert!(said.contains("--resume --out run"), "{said}");
    assert!(latest(&dir.path().join("run")).exists());
}

#[cfg(unix)]
#[test]
fn a_replay_that_is_stopped_goes_on_with_the_same_file_only() {
    let dir = scratch();
    let images = vec![0; 3 * 32 * 32 * 4];
    let patches: Vec<u8> = (0..8i64).flat_map(i64::to_le_bytes).collect();
    let view = |dtype, shape, bytes| TensorView::new(dtype, shape, bytes).expect("the shape fits");
    let tensors = (0..2000).flat_map(|step| {
        [
            (format!("step{step}.images"), view(Dtype::F32, vec![1, 3, 32, 32], &images)),
            (format!("step{step}.context0"), view(Dtype::I64, vec![1, 8], &patches)),
            (format!("step{step}.target0"), view(Dtype::I64, vec![1, 8], &patches)),
        ]
    });
    safetensors::serialize_to_file(tensors, None, &dir.path().join("a.safetensors")).expect("it can be written");
    let said = stopped(dir.path(), &["--replay", "a.safetensors", "--out", "run"]);
    assert!(said.contains("--resume --out run --replay a.safetensors"), "{said}");
    let on = ["pretrain", "--resume", "--out", "run"];
    ijepa(dir.path(), &[&on[..], &["--data", "scenes:16"]].concat()).refused(2, &["began with a replay"]);
    let said = ijepa(dir.path(), &[&on[..], &["--replay", "a.safetensors", "--steps", "1"]].concat());
    assert!(said.code == Some(0) && said.stderr.contains("has done all"), "{said:?}");
}

/// Starts `pretrain small.yaml` into `run`, sends SIGTERM after a few steps, and returns what it said.
#[cfg(unix)]
fn stopped(folder: &Path, options: &[&str]) -> String {
    let child = Command::new(env!("CARGO_BIN_EXE_ijepa"))
        .args(["pretrain", "small.yaml"])
        .args(options)
        .current_dir(folder)
        .stderr(Stdio::piped())
        .spawn();
    let child = child.expect("the program starts");
    let log = folder.join("run/metrics.jsonl");
    let began = Instant::now();
    while std::fs::read_to_string(&log).map_or(0, |text| text.lines().count()) < 5 {
        assert!(began.elapsed() < Duration::from_secs(120), "the run does not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill runs");
    assert!(killed.success());
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(75), "{said}");
    said
}

#[test]
fn damaged_images_are_left_out_and_named_until_there_are_too_many() {
    let dir = scratch();
    let images = dir.path().join("images");
    std::fs::create_dir(&images).expect("a folder");
    for i in 0..20u8 {
        let picture = image::RgbImage::from_fn(40, 40, |x, y| image::Rgb([x as u8 * 6, y as u8 * 6, i * 12]));
        picture.save(images.join(format!("{i:02}.png"))).expect("it can be written");
    }
    let photo = image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8]));
    photo.save(images.join("cut.jpg")).expect("it can be written");
    let whole = std::fs::read(images.join("cut.jpg")).expect("it reads");
    std::fs::write(images.join("cut.jpg"), &whole[..whole.len() / 2]).expect("it can be written");
    std::fs::write(images.join("text.jpg"), "not a picture").expect("it can be written");

    let said = ijepa(dir.path(), &["pretrain", "small.yaml", "--data", "images", "--out", "run"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let named = std::fs::read_to_string(dir.path().join("run/unreadable.txt")).expect("a list of what was left out");
    assert_eq!(named.lines().count(), 2, "{named}");
    assert!(named.contains("cut.jpg") && named.contains("text.jpg"), "{named}");
    assert!(said.stderr.contains("text.jpg"), "{}", said.stderr);

    let said = ijepa(
        dir.path(),
        &[
            "pretrain",
            "small.yaml",
            "--data",
            "images",
            "--out",
            "strict",
            "--set",
            "data.skip_limit=1",
            "--set",
            "optimization.epochs=4",
        ],
    );
    said.refused(3, &["limit"]);
    // The one that was too many is named as well, the steps before it are kept, and the run can go on.
    let names = || std::fs::read_to_string(dir.path().join("strict/unreadable.txt")).expect("a list");
    let named = names();
    assert!(named.contains("cut.jpg") && named.contains("text.jpg"), "{named}");
    let done = metrics(&dir.path().join("strict")).len();
    assert!(done % 2 == 1, "the run should end within an epoch, where nothing else saves");
    let saved = ijepa(dir.path(), &["inspect", "strict/checkpoints/latest.safetensors", "--json"]).json();
    assert_eq!(saved["step"], done);
    let on = ["-q", "pretrain", "--resume", "--out", "strict", "--set", "data.skip_limit=2"];
    assert_eq!(ijepa(dir.path(), &on).code, Some(0));
    assert_eq!(names(), named);
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run_with_6_and_keeps_what_was_saved() {
    let dir = scratch();
    // Eight batches' worth of images, of which the last epoch's cannot be learnt from: infinite pixels.
    let mut pixels = vec![0.25f32; 16 * 3 * 32 * 32];
    let write = |pixels: &[f32]| {
        let bytes: Vec<u8> = pixels.iter().flat_map(|value| value.to_le_bytes()).collect();
        let view = TensorView::new(Dtype::F32, vec![16, 3, 32, 32], &bytes).expect("the shape fits");
        safetensors::serialize_to_file([("images", view)], None, &dir.path().join("images.safetensors"))
            .expect("it can be written");
    };
    write(&pixels);
    let arguments = [
        "pretrain",
        "small.yaml",
        "--data",
        "images.safetensors",
        "--out",
        "run",
        "--set",
        "logging.save_every=1 steps",
    ];
    let first: Vec<&str> = arguments.iter().copied().chain(["--steps", "2"]).collect();
    assert_eq!(ijepa(dir.path(), &first).code, Some(0));
    let saved = std::fs::read(latest(&dir.path().join("run"))).expect("the run left a checkpoint");

    pixels.fill(f32::INFINITY);
    write(&pixels);
    let again: Vec<&str> = arguments.iter().copied().chain(["--resume"]).collect();
    ijepa(dir.path(), &again).refused(6, &["loss of step 2", "latest.safetensors", "optimization.lr"]);
    assert!(std::fs::read(latest(&dir.path().join("run"))).expect("it is still there") == saved);
}

#[test]
fn what_is_seen_of_the_features_is_logged_and_changes_nothing_of_the_run() {
    let dir = scratch();
    let run = |name: &'static str, sets: &[&'static str]| {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        let said =
            ijepa(dir.path(), &[&["pretrain", "small.yaml", "--data", "scenes:40", "--out", name], &sets[..]].concat());
        assert_eq!(said.code, Some(0), "{said:?}");
        said.stderr
    };
    run("plain", &[]);
    let watched = ["eval.every=3 steps", "eval.images=16", "eval.train=scenes:40", "eval.val=scenes:20"];
    let said = run("watched", &watched);
    assert!(said.contains("RankMe") && said.contains("kNN"), "{said}");
    let seen: Vec<_> =
        metrics(&dir.path().join("watched")).into_iter().filter(|row| row.get("rank_me").is_some()).collect();
    assert_eq!(seen.iter().map(|row| row["step"].as_u64().expect("a number")).collect::<Vec<_>>(), [2, 5, 8]);
    for row in &seen {
        for key in ["rank_me", "effective_rank", "feature_std", "target_std", "loss_of_mean", "loss", "knn"] {
            assert!(row[key].as_f64().is_some_and(f64::is_finite), "{key} of {row}");
        }
    }
    let weights = |name: &str| {
        let bytes = std::fs::read(latest(&dir.path().join(name))).expect("the run left a checkpoint");
        let file = SafeTensors::deserialize(&bytes).expect("it parses");
        file.tensors()
            .into_iter()
            .map(|(name, tensor)| (name, tensor.data().to_vec()))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    assert!(weights("plain") == weights("watched"));
    let one = ijepa(
        dir.path(),
        &["pretrain", "small.yaml", "--data", "scenes:40", "--out", "x", "--set", "eval.train=scenes:40"],
    );
    one.refused(2, &["eval.train", "got one of the two"]);
}
