//! `eval`: what it prints, and what it refuses.

use super::{ijepa, scratch};

/// A scratch folder with a checkpoint of one step.
fn trained() -> tempfile::TempDir {
    let dir = scratch();
    let arguments = ["-q", "pretrain", "small.yaml", "--data", "scenes:16", "--out", "run", "--steps", "1"];
    assert_eq!(ijepa(dir.path(), &arguments).code, Some(0));
    dir
}

const CHECKPOINT: [&str; 2] = ["--checkpoint", "run/checkpoints/latest.safetensors"];

#[test]
fn the_json_names_every_kind_of_features_and_what_was_measured() {
    let dir = trained();
    let data = ["--train", "scenes:60", "--val", "scenes:30", "--json"];
    let eval = |protocol: &str, options: &[&str]| {
        let shown = ijepa(dir.path(), &[&["-q", "eval", protocol], &CHECKPOINT[..], &data, options].concat()).json();
        assert_eq!(shown["protocol"], protocol);
        let results = shown["results"].as_array().expect("a list").clone();
        for row in &results {
            assert_eq!((&row["metric"], &row["n_train"], &row["n_val"]), (&"accuracy".into(), &60.into(), &30.into()));
            assert!(row["head"].is_string(), "{row}");
            assert!(row["value"].as_f64().is_some_and(|value| (0.0..=1.0).contains(&value)), "{row}");
        }
        results.iter().map(|row| row["features"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(eval("knn", &["--baselines", "--k", "5"]), ["trained", "untrained", "pixels"]);
    assert_eq!(eval("linear", &[]), ["trained"]);
}

#[test]
fn classes_may_have_any_numbers() {
    let dir = trained();
    let pixels: Vec<u8> = (0..20 * 3 * 32 * 32).flat_map(|k| ((k % 977) as f32 / 977.0).to_le_bytes()).collect();
    let labels: Vec<u8> = (0..20i64).flat_map(|k| (3_000_000_000 + k % 2).to_le_bytes()).collect();
    let view = |dtype, shape, bytes| safetensors::tensor::TensorView::new(dtype, shape, bytes).expect("the shape fits");
    let tensors = [
        ("images", view(safetensors::Dtype::F32, vec![20, 3, 32, 32], &pixels)),
        ("labels", view(safetensors::Dtype::I64, vec![20], &labels)),
    ];
    safetensors::serialize_to_file(tensors, None, &dir.path().join("a.safetensors")).expect("it can be written");
    for protocol in ["knn", "linear"] {
        let data = ["--train", "a.safetensors", "--val", "a.safetensors", "--json"];
        let shown = ijepa(dir.path(), &[&["-q", "eval", protocol], &CHECKPOINT[..], &data].concat()).json();
        assert_eq!(shown["results"][0]["n_val"], 20);
    }
}

#[test]
fn data_that_cannot_be_judged_and_blocks_that_are_not_there_are_told_apart() {
    let dir = trained();
    let eval = |options: &[&str]| ijepa(dir.path(), &[&["-q", "eval", "linear"], &CHECKPOINT[..], options].concat());
    eval(&["--train", "scenes:1", "--val", "scenes:4"]).refused(3, &["at least two classes"]);
    eval(&["--train", "scenes:60", "--val", "scenes:4", "--pool", "last4"]).refused(2, &["--pool last4", "has 1"]);
}
