//! `convert`: formats of other programs, written and read by the program itself. `peers/interop` asks those programs.

use std::path::Path;

use ijepa_model::checkpoint;

use super::{Said, ijepa, scratch};

const USAGE: i32 = 2;
const CHECKPOINT: i32 = 4;
const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../goldens");

fn golden(name: &str) -> String {
    format!("{GOLDENS}/{name}")
}

fn convert(folder: &Path, arguments: &[&str]) {
    let said = ijepa(folder, &[&["convert"], arguments].concat());
    assert_eq!(said.code, Some(0), "{arguments:?}: {said:?}");
}

fn embed(folder: &Path, checkpoint: &str, more: &[&str]) -> Said {
    let arguments = ["embed", "--checkpoint", checkpoint, "--data", "scenes:3", "--out", "out.safetensors", "--tokens"];
    ijepa(folder, &[&arguments, more].concat())
}

fn tokens(folder: &Path, checkpoint: &str, more: &[&str]) -> (Vec<usize>, Vec<f32>) {
    let said = embed(folder, checkpoint, more);
    assert_eq!(said.code, Some(0), "{said:?}");
    let tokens = checkpoint::read(&folder.join("out.safetensors")).expect("it was written").tensors.remove("tokens");
    let tokens = tokens.expect("tokens were asked for");
    (tokens.shape, tokens.values)
}

#[test]
fn a_checkpoint_of_the_reference_comes_back_with_every_bit() {
    let dir = scratch();
    let original = golden("reference_tiny/init.pth.tar");
    convert(dir.path(), &[&original, "ours.safetensors"]);
    convert(dir.path(), &["ours.safetensors", "back.pth.tar"]);
    let [a, b] =
        [Path::new(&original), &dir.path().join("back.pth.tar")].map(|path| checkpoint::read(path).expect("read"));
    assert!(a.tensors == b.tensors);
    assert_eq!((a.meta.source, a.meta.epoch), (b.meta.source, b.meta.epoch));
}

#[test]
fn each_encoder_keeps_its_name_and_its_tokens_through_every_format() {
    let dir = scratch();
    let original = golden("reference_tiny/init.pth.tar");
    let mut both = Vec::new();
    for network in ["target", "context"] {
        let expected = tokens(dir.path(), &original, &["--network", network]);
        assert_eq!(expected.0, [3, 64, 192]);
        let hf = format!("{network}-hf");
        let timm = format!("{network}-timm.safetensors");
        let lone = format!("{network}.pth.tar");
        convert(dir.path(), &[&original, &hf, "--to", "hf", "--network", network]);
        convert(dir.path(), &[&hf, &timm, "--to", "timm"]);
        convert(dir.path(), &[&timm, &lone]);
        for file in [&hf, &timm, &lone] {
            assert_eq!(
                ijepa(dir.path(), &["inspect", file, "--json"]).json()["holds"].as_str().map(|s| s.contains(network)),
                Some(true)
            );
            assert!(tokens(dir.path(), file, &[]) == expected, "{file}");
            let other = if network == "target" { "context" } else { "target" };
            embed(dir.path(), file, &["--network", other]).refused(CHECKPOINT, &[&format!("not the {other} encoder")]);
        }
        both.push(expected);
    }
    assert!(both[0] != both[1]);
}

#[test]
fn another_size_of_image_is_taken_and_can_be_written_into_the_file() {
    let dir = scratch();
    let original = golden("reference_tiny/init.pth.tar");
    let expected = tokens(dir.path(), &original, &["--image-size", "40x48"]);
    assert_eq!(expected.0, [3, 120, 192]);
    convert(dir.path(), &[&original, "hf", "--to", "hf", "--image-size", "40x48"]);
    assert!(tokens(dir.path(), "hf", &[]) == expected);
    // The size that was typed counts, not that of the configuration in the file.
    let config = ["--config", "tiny.yaml"];
    std::fs::write(dir.path().join("tiny.yaml"), TINY).expect("it can be written");
    convert(dir.path(), &[&[original.as_str(), "whole.safetensors"][..], &config].concat());
    convert(dir.path(), &["whole.safetensors", "wide.safetensors", "--network", "target", "--image-size", "16x64"]);
    assert!(
        tokens(dir.path(), "wide.safetensors", &["--image-size", "16x64"])
            == tokens(dir.path(), "wide.safetensors", &[])
    );
    embed(dir.path(), &original, &["--image-size", "30"]).refused(USAGE, &["--image-size", "30×30", "4×4"]);
    embed(dir.path(), &original, &["--image-size", "0x9"]).refused(USAGE, &["--image-size"]);
}

const TINY: &str = "\
data: {crop_size: 32, mean: [0.5, 0.5, 0.5]}
mask: {patch_size: 4, min_keep: 4}
meta: {model_name: vit_tiny, enc_depth: 2, pred_depth: 2, pred_emb_dim: 96}
optimization: {epochs: 2, warmup: 1}
";

#[test]
fn the_configuration_goes_along_and_must_be_of_the_encoder() {
    let dir = scratch();
    std::fs::write(dir.path().join("tiny.yaml"), TINY).expect("it can be written");
    let original = golden("reference_tiny/init.pth.tar");
    let lone = ["--network", "target", "--config", "tiny.yaml"];
    convert(dir.path(), &[&[original.as_str(), "hf", "--to", "hf"][..], &lone].concat());
    let said = embed(dir.path(), "hf", &[]);
    assert!(said.code == Some(0) && !said.stderr.contains("preprocessor_config.json"), "{said:?}");
    let config = ijepa(dir.path(), &["inspect", "hf", "--json"]).json();
    assert!(config["config"].as_str().is_some_and(|text| text.contains("mean: [0.5, 0.5, 0.5]")), "{config}");
    embed(dir.path(), &original, &["--config", "small.yaml"]).refused(USAGE, &["small.yaml", "48 wide"]);
    embed(dir.path(), &original, &["--heads", "5"]).refused(USAGE, &["--heads 5", "192"]);
}

#[test]
fn nothing_is_left_out_without_a_word() {
    let dir = scratch();
    let original = golden("reference_tiny/init.pth.tar");
    let resized = ["convert", &original, "a.safetensors", "--image-size", "40"];
    ijepa(dir.path(), &resized).refused(USAGE, &["--image-size", "--network"]);
    // Without moments no state of the optimiser is made up.
    let written = ijepa(dir.path(), &["convert", &original, "a.safetensors", "--json"]).json();
    assert_eq!(written["holds"], "three networks");
    let shown = ijepa(dir.path(), &["inspect", "a.safetensors", "--json"]).json();
    assert_eq!(shown["optimizer_step"], serde_json::Value::Null);
}

#[test]
fn an_encoder_of_another_kind_is_refused_by_the_name_of_what_it_has() {
    let dir = scratch();
    let file = checkpoint::read(Path::new(&golden("interop/timm.pth"))).expect("read");
    let mut tensors = file.tensors.clone();
    for (name, tensor) in file.tensors {
        tensors.remove(&name);
        tensors.insert(name.trim_start_matches("encoder.").to_owned(), tensor);
    }
    tensors.insert("reg_token".to_owned(), checkpoint::Tensor { shape: vec![1, 1, 32], values: vec![0.5; 32] });
    let views: Vec<_> = tensors
        .iter()
        .map(|(name, tensor)| checkpoint::View { name: name.clone(), shape: &tensor.shape, values: &tensor.values })
        .collect();
    let meta = checkpoint::Meta { source: checkpoint::Source::Other, ..Default::default() };
    checkpoint::write_views(&dir.path().join("a.safetensors"), &meta, None, &views).expect("it can be written");
    embed(dir.path(), "a.safetensors", &["--heads", "4"]).refused(CHECKPOINT, &["reg_token"]);
}

#[test]
fn a_file_that_does_not_say_which_encoder_it_holds_is_not_given_a_name() {
    let dir = scratch();
    let unnamed = golden("interop/timm.pth");
    let arguments = ["convert", &unnamed, "hf", "--to", "hf", "--heads", "4"];
    ijepa(dir.path(), &arguments).refused(USAGE, &["does not say which", "--network context"]);
    convert(dir.path(), &[&arguments[1..], &["--network", "context"]].concat());
    assert_eq!(ijepa(dir.path(), &["inspect", "hf", "--json"]).json()["network"], "context");
    let said = embed(dir.path(), &golden("interop/transformers"), &[]);
    assert!(said.code == Some(0) && said.stderr.contains("does not say which"), "{said:?}");
    assert!(said.stderr.contains("preprocessor_config.json"), "the wrong normalisation is pointed out: {said:?}");
    embed(dir.path(), &unnamed, &[]).refused(CHECKPOINT, &["attention heads", "--heads"]);
}

#[test]
fn a_file_is_not_written_over_itself_nor_without_a_format() {
    let dir = scratch();
    let original = golden("reference_tiny/init.pth.tar");
    convert(dir.path(), &[&original, "a.safetensors"]);
    let before = std::fs::read(dir.path().join("a.safetensors")).expect("it was written");
    ijepa(dir.path(), &["convert", "a.safetensors", "./a.safetensors"]).refused(USAGE, &["over itself"]);
    assert!(std::fs::read(dir.path().join("a.safetensors")).expect("it is there") == before);
    convert(dir.path(), &["a.safetensors", "hf", "--to", "hf"]);
    ijepa(dir.path(), &["convert", "hf", "hf/model.safetensors"]).refused(USAGE, &["over itself"]);
    ijepa(dir.path(), &["convert", "hf/model.safetensors", "hf", "--to", "hf"]).refused(USAGE, &["over itself"]);
    ijepa(dir.path(), &["convert", "a.safetensors", "b"]).refused(USAGE, &["--to"]);
    ijepa(dir.path(), &["convert", "a.safetensors", "b", "--to", "hf", "--predictor"]).refused(USAGE, &["--predictor"]);
    ijepa(dir.path(), &["convert", "nothing.pth", "b.onnx"]).refused(CHECKPOINT, &["nothing.pth"]);
}

#[test]
fn onnx_models_of_encoder_and_predictor_are_written() {
    let dir = scratch();
    let original = golden("reference_tiny/init.pth.tar");
    let written = ijepa(dir.path(), &["convert", &original, "encoder.onnx", "--json"]).json();
    assert_eq!((&written["format"], &written["holds"]), (&"onnx".into(), &"the target encoder".into()));
    convert(dir.path(), &[&original, "predictor.onnx", "--predictor"]);
    assert!(dir.path().join("predictor.onnx").exists());
    ijepa(dir.path(), &["convert", &golden("interop/transformers"), "p.onnx", "--predictor", "--heads", "4"])
        .refused(CHECKPOINT, &["predictor"]);
}

/// A folder as a run of the reference leaves it after one epoch of 16 scenes, made from a run of ours.
fn run_of_the_reference(folder: &Path) {
    let begin = ["-q", "pretrain", "small.yaml", "--data", "scenes:16"];
    assert_eq!(ijepa(folder, &[&begin[..], &["--out", "whole"]].concat()).code, Some(0));
    assert_eq!(ijepa(folder, &[&begin[..], &["--out", "part", "--steps", "2"]].concat()).code, Some(0));
    std::fs::create_dir(folder.join("theirs")).expect("a folder");
    convert(folder, &["part/checkpoints/latest.safetensors", "theirs/jepa-latest.pth.tar"]);
    std::fs::copy(folder.join("small.yaml"), folder.join("theirs/params-ijepa.yaml")).expect("it can be copied");
}

#[test]
fn a_run_that_the_reference_began_goes_on_as_if_it_had_begun_here() {
    let dir = scratch();
    run_of_the_reference(dir.path());
    let resume = ["-q", "pretrain", "--resume", "--out", "theirs", "--data", "scenes:16"];
    assert_eq!(ijepa(dir.path(), &resume).code, Some(0));
    let [a, b] = ["whole", "theirs"].map(|run| {
        checkpoint::read(&dir.path().join(run).join("checkpoints/latest.safetensors")).expect("it was written")
    });
    assert!(a.tensors == b.tensors && a.moments == b.moments && a.meta.step == b.meta.step);
}

#[test]
fn the_newer_of_two_checkpoints_is_gone_on_from_and_another_tag_is_pointed_out() {
    let dir = scratch();
    run_of_the_reference(dir.path());
    let resume = ["pretrain", "--resume", "--out", "theirs", "--data", "scenes:16"];
    assert_eq!(ijepa(dir.path(), &[&resume[..], &["--steps", "3"]].concat()).code, Some(0));
    // Theirs is at step 2, ours at 3; then theirs goes on to 4.
    let said = ijepa(dir.path(), &[&resume[..], &["--steps", "3"]].concat());
    assert!(said.stderr.contains("has done all its 3 steps"), "{said:?}");
    convert(dir.path(), &["whole/checkpoints/latest.safetensors", "theirs/jepa-latest.pth.tar"]);
    let said = ijepa(dir.path(), &resume);
    assert!(said.stderr.contains("jepa-latest.pth.tar, after 4 steps"), "{said:?}");
    std::fs::create_dir(dir.path().join("tagged")).expect("a folder");
    std::fs::copy(dir.path().join("small.yaml"), dir.path().join("tagged/params-ijepa.yaml"))
        .expect("it can be copied");
    std::fs::copy(dir.path().join("theirs/jepa-latest.pth.tar"), dir.path().join("tagged/photo-latest.pth.tar"))
        .expect("it can be copied");
    ijepa(dir.path(), &["pretrain", "--resume", "--out", "tagged", "--data", "scenes:16"])
        .refused(USAGE, &["photo-latest.pth.tar", "logging.write_tag"]);
}

#[test]
fn a_run_of_the_reference_does_not_go_on_with_another_number_of_steps_an_epoch() {
    let dir = scratch();
    run_of_the_reference(dir.path());
    let resume = ["-q", "pretrain", "--resume", "--out", "theirs", "--data", "scenes:80"];
    ijepa(dir.path(), &resume).refused(USAGE, &["1 epochs and 2 steps", "10 steps", "data.batch_size=8"]);
    assert!(!dir.path().join("theirs/checkpoints").exists());
}

#[test]
fn training_begins_with_an_encoder_alone_and_with_another_size_of_image() {
    let dir = scratch();
    let original = golden("reference_tiny/init.pth.tar");
    convert(dir.path(), &[&original, "hf", "--to", "hf"]);
    let tiny = [
        "--set",
        "meta.enc_emb_dim=192",
        "--set",
        "meta.enc_depth=2",
        "--set",
        "meta.pred_emb_dim=96",
        "--set",
        "meta.pred_depth=2",
    ];
    let begin = ["pretrain", "small.yaml", "--data", "scenes:16", "--steps", "1"];
    let said = ijepa(dir.path(), &[&begin[..], &tiny, &["--init", "hf", "--out", "alone"]].concat());
    assert!(said.code == Some(0) && said.stderr.contains("the predictor with fresh weights"), "{said:?}");
    let larger = ["--set", "data.crop_size=48", "--init", &original, "--out", "larger"];
    let said = ijepa(dir.path(), &[&begin[..], &tiny, &larger].concat());
    assert!(said.code == Some(0) && said.stderr.contains("interpolated"), "{said:?}");
}
