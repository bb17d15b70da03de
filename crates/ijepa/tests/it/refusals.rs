//! Bad input: each ends with a message that says what to do, the right exit code, and earlier results untouched.

use std::path::Path;

use super::{ijepa, ijepa_in, scratch};

/// Exit codes, as users know them.
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const DATA: i32 = 3;
const CHECKPOINT: i32 = 4;
const DEVICE: i32 = 5;

fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().expect("it has a folder")).expect("a folder can be made");
    std::fs::write(path, content).expect("it can be written");
}

#[test]
fn a_misspelt_key_is_named_with_its_line_and_the_right_one() {
    let dir = scratch();
    write(dir.path(), "a.yaml", "optimization:\n  epochs: 2\n  warm_up: 1\n");
    let said = ijepa(dir.path(), &["pretrain", "a.yaml", "--data", "scenes:100"]);
    said.refused(USAGE, &["optimization.warm_up (a.yaml:3) is not a key", "did you mean optimization.warmup?"]);
    let said = ijepa(dir.path(), &["view", "masks", "--set", "mask.patchsize=4"]);
    said.refused(USAGE, &["mask.patchsize (--set)", "did you mean mask.patch_size?"]);
}

#[test]
fn a_file_that_is_not_yaml_or_not_there_is_named() {
    let dir = scratch();
    write(dir.path(), "a.yaml", "data:\n  crop_scale: [0.3,\n");
    ijepa(dir.path(), &["pretrain", "a.yaml"]).refused(USAGE, &["a.yaml:"]);
    ijepa(dir.path(), &["pretrain", "none.yaml"]).refused(USAGE, &["none.yaml", "try: "]);
}

#[test]
fn masks_that_cannot_be_met_are_refused_before_anything_is_written() {
    let dir = scratch();
    let said = ijepa(
        dir.path(),
        &["pretrain", "small.yaml", "--data", "scenes:100", "--out", "run", "--set", "mask.min_keep=63"],
    );
    said.refused(USAGE, &["63", "try: "]);
    ijepa(dir.path(), &["view", "masks", "small.yaml", "--set", "mask.min_keep=63"]).refused(USAGE, &["63"]);
    assert!(!dir.path().join("run").exists());
}

#[test]
fn bfloat16_is_refused_where_the_cpu_has_no_such_products() {
    let dir = scratch();
    let portable = [("IJEPA_CPU", "portable")];
    let run = ["pretrain", "small.yaml", "--data", "scenes:100", "--out", "run"];
    let said = ijepa_in(dir.path(), &portable, &[&run[..], &["--set", "meta.bfloat16_on_cpu=all"]].concat());
    said.refused(DEVICE, &["meta.bfloat16_on_cpu", "AVX512-BF16", "try: "]);
    assert!(!dir.path().join("run").exists());
    ijepa_in(dir.path(), &portable, &["bench", "embed", "--bf16"]).refused(DEVICE, &["--bf16", "try: "]);
}

#[test]
fn data_that_is_missing_empty_or_not_named_is_told_apart() {
    let dir = scratch();
    write(dir.path(), "empty/notes.txt", "no image");
    let pretrain = |data: &[&str]| ijepa(dir.path(), &[&["pretrain", "small.yaml", "--out", "run"], data].concat());
    pretrain(&[]).refused(USAGE, &["no data is named", "--data"]);
    pretrain(&["--data", "empty"]).refused(DATA, &["empty"]);
    pretrain(&["--data", "nowhere"]).refused(DATA, &["nowhere"]);
    pretrain(&["--data", "scenes:many"]).refused(DATA, &["scenes:many"]);
    pretrain(&["--data", "scenes:5"]).refused(DATA, &["5 images", "data.batch_size", "try: "]);
    assert!(!dir.path().join("run").exists());
}

#[test]
fn a_checkpoint_that_is_none_is_refused() {
    let dir = scratch();
    write(dir.path(), "text.pth.tar", "this is not a checkpoint");
    let whole = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../goldens/torch_files/adamw.pth.tar"))
        .expect("the golden is there");
    write(dir.path(), "torn.pth.tar", &whole[..whole.len() / 2]);
    ijepa(dir.path(), &["inspect", "text.pth.tar"]).refused(CHECKPOINT, &["text.pth.tar"]);
    ijepa(dir.path(), &["inspect", "torn.pth.tar"]).refused(CHECKPOINT, &["torn.pth.tar"]);
    ijepa(dir.path(), &["inspect", "none.pth.tar"]).refused(CHECKPOINT, &["none.pth.tar"]);
    let init = ["pretrain", "small.yaml", "--data", "scenes:100", "--out", "run", "--init", "torn.pth.tar"];
    ijepa(dir.path(), &init).refused(CHECKPOINT, &["torn.pth.tar"]);
    assert!(!dir.path().join("run").exists());
}

#[test]
fn a_checkpoint_of_another_shape_is_refused() {
    let dir = scratch();
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../../goldens/reference_tiny/init.pth.tar");
    let said = ijepa(dir.path(), &["pretrain", "small.yaml", "--data", "scenes:100", "--out", "run", "--init", golden]);
    said.refused(CHECKPOINT, &["init.pth.tar", "192", "48"]);
    assert!(!dir.path().join("run").exists());
}

#[test]
fn a_run_folder_that_cannot_be_written_or_holds_a_run_is_refused() {
    let dir = scratch();
    write(dir.path(), "file", "x");
    let pretrain = |out: &str| {
        ijepa(dir.path(), &["-q", "pretrain", "small.yaml", "--data", "scenes:16", "--out", out, "--steps", "1"])
    };
    pretrain("file/run").refused(FAILED, &["cannot write the run folder", "file/run", "--out"]);
    assert_eq!(pretrain("run").code, Some(0));
    let before = std::fs::read(dir.path().join("run/jepa_r0.csv")).expect("the run left a log");
    pretrain("run").refused(USAGE, &["run holds a run already", "--resume"]);
    let rehearse =
        |out: &str| ijepa(dir.path(), &["pretrain", "small.yaml", "--data", "scenes:16", "--out", out, "--dry-run"]);
    rehearse("run").refused(USAGE, &["run holds a run already"]);
    rehearse("file/run").refused(FAILED, &["cannot write the run folder", "file/run"]);
    assert_eq!(std::fs::read(dir.path().join("run/jepa_r0.csv")).expect("the log is there"), before);
}

#[test]
fn a_refused_start_leaves_the_folder_free_for_the_next() {
    let dir = scratch();
    let pixels = vec![0; 16 * 3 * 16 * 16 * 4];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![16, 3, 16, 16], &pixels);
    let path = dir.path().join("a.safetensors");
    safetensors::serialize_to_file([("images", view.expect("fits"))], None, &path).expect("it can be written");
    for (data, options, code, part) in [
        ("a.safetensors", &[][..], DATA, "16×16"),
        ("a.safetensors", &["--dry-run"], DATA, "16×16"),
        ("scenes:16", &["--set", "data.color_jitter_strength=3"], USAGE, "0 to 2.5"),
        ("scenes:16", &["--set", "data.std=[1, 1, 1e-300]"], USAGE, "data.std"),
        ("scenes:16", &["--set", "meta.enc_emb_dim=4000000000000"], USAGE, "at most"),
        ("scenes:16", &["--steps", "0"], USAGE, "at least 1"),
    ] {
        let start = ["pretrain", "small.yaml", "--data", data, "--out", "run"];
        ijepa(dir.path(), &[&start, options].concat()).refused(code, &[part]);
        assert!(!dir.path().join("run").exists());
    }
    ijepa(dir.path(), &["demo", "--steps", "0"]).refused(USAGE, &["at least 1"]);
}

#[test]
fn what_is_out_of_range_says_the_numbers() {
    let dir = scratch();
    let said = ijepa(
        dir.path(),
        &[
            "pretrain",
            "small.yaml",
            "--data",
            "scenes:100",
            "--set",
            "data.crop_size=33",
            "--set",
            "meta.pred_emb_dim=25",
        ],
    );
    said.refused(USAGE, &["2 problems", "data.crop_size (--set) is 33", "32 or 36", "25 wide"]);
}

#[test]
fn options_that_exclude_each_other_are_refused() {
    let dir = scratch();
    ijepa(dir.path(), &["pretrain", "--resume", "--init", "a.safetensors"]).refused(USAGE, &["--resume", "--init"]);
    ijepa(dir.path(), &["inspect"]).refused(USAGE, &["<FILE>"]);
    ijepa(dir.path(), &["pretend"]).refused(USAGE, &["pretrain"]);
}

#[test]
fn a_device_that_is_not_here_is_refused() {
    let dir = scratch();
    let pretrain = |device| {
        ijepa(dir.path(), &["pretrain", "small.yaml", "--data", "scenes:100", "--dry-run", "--device", device])
    };
    // More than any machine has; most have none.
    let refused = pretrain("cuda:99");
    assert_eq!(refused.code, Some(DEVICE), "{refused:?}");
    assert!(refused.stderr.contains("no NVIDIA driver") || refused.stderr.contains("GPU 99"), "{}", refused.stderr);
    pretrain("tpu").refused(USAGE, &["auto, cpu, cuda or cuda:N", "tpu"]);
    assert_eq!(pretrain("cpu").code, Some(0));
}
