//! `config show`, `validate` and `diff`.

use super::{ijepa, scratch};

const USAGE: i32 = 2;

/// A run file with the reference's keys, sections in its order and lists in its style.
const REFERENCE_KEYS: &str = "\
data:
  batch_size: 16
  color_jitter_strength: 0.0
  crop_scale:
  - 0.3
  - 1.0
  crop_size: 448
  image_folder: images/
  num_workers: 10
  pin_mem: true
  root_path: $replace_this_with_a_path
  use_color_distortion: false
  use_gaussian_blur: false
  use_horizontal_flip: false
logging:
  folder: $replace_this_with_a_path/run/
  write_tag: jepa
mask:
  allow_overlap: false
  aspect_ratio:
  - 0.75
  - 1.5
  enc_mask_scale:
  - 0.85
  - 1.0
  min_keep: 10
  num_enc_masks: 1
  num_pred_masks: 4
  patch_size: 16
  pred_mask_scale:
  - 0.15
  - 0.2
meta:
  copy_data: false
  load_checkpoint: false
  model_name: vit_giant
  pred_depth: 16
  pred_emb_dim: 384
  read_checkpoint: null
  use_bfloat16: true
optimization:
  ema:
  - 0.996
  - 1.0
  epochs: 44
  final_lr: 1.0e-06
  final_weight_decay: 0.4
  ipe_scale: 1.0
  lr: 0.001
  start_lr: 0.0002
  warmup: 3
  weight_decay: 0.04
";

#[test]
fn every_key_of_the_reference_is_known_and_what_is_shown_reads_back_the_same() {
    let dir = scratch();
    std::fs::write(dir.path().join("theirs.yaml"), REFERENCE_KEYS).expect("it can be written");
    let shown = ijepa(dir.path(), &["config", "show", "theirs.yaml"]);
    assert_eq!((shown.code, shown.stderr.as_str()), (Some(0), ""));
    std::fs::write(dir.path().join("shown.yaml"), &shown.stdout).expect("it can be written");
    let differences = ijepa(dir.path(), &["config", "diff", "theirs.yaml", "shown.yaml", "--json"]).json();
    assert_eq!(differences["differences"], serde_json::json!([]));
    let values = ijepa(dir.path(), &["config", "show", "theirs.yaml", "--set", "data.batch_size=4", "--json"]).json();
    assert_eq!(values["meta.model_name"], serde_json::json!({"value": "vit_giant", "origin": "theirs.yaml:36"}));
    assert_eq!(values["data.batch_size"], serde_json::json!({"value": "4", "origin": "--set"}));
    assert_eq!(values["mask.sampler"], serde_json::json!({"value": "reference", "origin": "default"}));
}

/// Model, blocks of the predictor, side of image and patch, images of a process, epochs and warm-up of the four published runs.
const PUBLISHED: [[&str; 7]; 4] = [
    ["vit_huge", "12", "224", "14", "128", "300", "40"],
    ["vit_huge", "12", "448", "16", "16", "300", "40"],
    ["vit_huge", "12", "224", "14", "32", "66", "3"],
    ["vit_giant", "16", "224", "16", "16", "44", "3"],
];

#[test]
fn all_four_published_runs_of_the_reference_can_be_run() {
    let dir = scratch();
    for [model, depth, image, patch, batch, epochs, warmup] in PUBLISHED {
        let text = REFERENCE_KEYS
            .replace("vit_giant", model)
            .replace("pred_depth: 16", &format!("pred_depth: {depth}"))
            .replace("crop_size: 448", &format!("crop_size: {image}"))
            .replace("patch_size: 16", &format!("patch_size: {patch}"))
            .replace("batch_size: 16", &format!("batch_size: {batch}"))
            .replace("epochs: 44", &format!("epochs: {epochs}"))
            .replace("warmup: 3", &format!("warmup: {warmup}"));
        std::fs::write(dir.path().join("theirs.yaml"), text).expect("it can be written");
        assert_eq!(ijepa(dir.path(), &["config", "validate", "theirs.yaml"]).code, Some(0));
        let values = ijepa(dir.path(), &["config", "show", "theirs.yaml", "--json"]).json();
        assert_eq!(
            (&values["meta.model_name"]["value"], &values["data.crop_size"]["value"]),
            (&model.into(), &image.into())
        );
    }
}

#[test]
fn validating_says_of_every_file_what_is_wrong_with_it() {
    let dir = scratch();
    std::fs::write(dir.path().join("theirs.yaml"), REFERENCE_KEYS).expect("it can be written");
    std::fs::write(dir.path().join("key.yaml"), "data: {batch_sise: 3}\n").expect("it can be written");
    std::fs::write(dir.path().join("masks.yaml"), "data: {crop_size: 32}\nmask: {patch_size: 16}\n")
        .expect("it can be written");
    assert_eq!(ijepa(dir.path(), &["config", "validate", "small.yaml", "theirs.yaml"]).code, Some(0));
    let said = ijepa(dir.path(), &["config", "validate", "small.yaml", "key.yaml", "masks.yaml"]);
    assert_eq!(said.code, Some(USAGE));
    for part in ["small.yaml: valid", "did you mean data.batch_size", "masks.yaml: "] {
        assert!(said.stdout.contains(part), "{part}: {said:?}");
    }
}

#[test]
fn a_difference_is_shown_with_both_values() {
    let dir = scratch();
    std::fs::write(dir.path().join("theirs.yaml"), REFERENCE_KEYS).expect("it can be written");
    let said = ijepa(dir.path(), &["config", "diff", "small.yaml", "theirs.yaml"]);
    let line = said.stdout.lines().find(|line| line.starts_with("optimization.epochs")).expect("it differs");
    assert!(line.ends_with("2 → 44"), "{line}");
    assert!(!said.stdout.contains("optimization.lr "), "{}", said.stdout);
}
