//! `embed`: features of images in files that other tools read.

use super::{ijepa, scratch};

/// A scratch folder with a checkpoint of one step.
pub(crate) fn trained() -> tempfile::TempDir {
    let dir = scratch();
    let arguments = ["-q", "pretrain", "small.yaml", "--data", "scenes:16", "--out", "run", "--steps", "1"];
    assert_eq!(ijepa(dir.path(), &arguments).code, Some(0));
    dir
}

const EMBED: [&str; 4] = ["-q", "embed", "--checkpoint", "run/checkpoints/latest.safetensors"];

/// Shape and values of an f32 tensor.
pub(crate) fn tensor(path: &std::path::Path, name: &str) -> (Vec<usize>, Vec<f32>) {
    let bytes = std::fs::read(path).expect("it was written");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("it is safetensors");
    let tensor = file.tensor(name).expect("it is there");
    let values =
        tensor.data().chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    (tensor.shape().to_vec(), values.collect())
}

#[test]
fn pooled_features_are_the_means_of_the_tokens_whatever_the_batch() {
    let dir = trained();
    let embed = |out: &str, options: &[&str]| {
        ijepa(dir.path(), &[&EMBED[..], &["--data", "scenes:10", "--out", out, "--tokens", "--json"], options].concat())
            .json()
    };
    let written = embed("a.safetensors", &["--batch", "4"]);
    assert_eq!(
        (&written["images"], &written["width"], &written["tokens"]),
        (&10.into(), &48.into(), &serde_json::json!([64, 48]))
    );
    assert_eq!(written["files"], serde_json::json!(["a.safetensors", "a.paths.txt"]));
    let (shape, pooled) = tensor(&dir.path().join("a.safetensors"), "pooled");
    let (tokens_shape, tokens) = tensor(&dir.path().join("a.safetensors"), "tokens");
    assert_eq!((shape, tokens_shape), (vec![10, 48], vec![10, 64, 48]));
    for (image, pooled) in tokens.chunks_exact(64 * 48).zip(pooled.chunks_exact(48)) {
        for (d, pooled) in pooled.iter().enumerate() {
            let mean = image.iter().skip(d).step_by(48).sum::<f32>() / 64.0;
            assert!((mean - pooled).abs() < 1e-5, "{mean} is not {pooled}");
        }
    }
    embed("b.safetensors", &["--batch", "3"]);
    assert_eq!(tensor(&dir.path().join("b.safetensors"), "pooled").1, pooled);
    embed("c.safetensors", &["--network", "context"]);
    assert_ne!(tensor(&dir.path().join("c.safetensors"), "pooled").1, pooled);
}

#[test]
fn an_image_that_cannot_be_read_is_left_out_and_named() {
    let dir = trained();
    for (class, name) in [("cats", "a.png"), ("cats", "c.png"), ("dogs", "d.png")] {
        let folder = dir.path().join("photos").join(class);
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        image::RgbImage::from_pixel(40, 40, image::Rgb([9, 90, 200]))
            .save(folder.join(name))
            .expect("it can be written");
    }
    std::fs::write(dir.path().join("photos/cats/b.png"), "not an image").expect("it can be written");
    let said = ijepa(dir.path(), &[&EMBED[..], &["--data", "photos", "--out", "a.npy", "--json"]].concat());
    let written = said.json();
    assert_eq!((&written["images"], &written["labelled"]), (&3.into(), &true.into()));
    assert!(written["unreadable"][0].as_str().is_some_and(|name| name.ends_with("b.png")), "{written}");
    assert!(said.stderr.contains("b.png"), "{}", said.stderr);
    let paths = std::fs::read_to_string(dir.path().join("a.paths.txt")).expect("it was written");
    assert_eq!(paths.lines().count(), 3);
    let labels = std::fs::read(dir.path().join("a.labels.npy")).expect("it was written");
    assert_eq!(labels[labels.len() - 24..], [0i64, 0, 1].map(i64::to_le_bytes).concat());
}

#[test]
fn nothing_of_an_earlier_call_is_left_beside_the_new_features() {
    let dir = trained();
    std::fs::create_dir(dir.path().join("plain")).expect("a folder can be made");
    let picture = image::RgbImage::from_pixel(40, 40, image::Rgb([9, 90, 200]));
    picture.save(dir.path().join("plain/a.png")).expect("it can be written");
    let embed = |options: &[&str]| ijepa(dir.path(), &[&EMBED[..], &["--out", "a.npy"], options].concat()).code;
    let (labels, tokens) = (dir.path().join("a.labels.npy"), dir.path().join("a.tokens.npy"));
    assert_eq!(embed(&["--data", "scenes:4", "--tokens"]), Some(0));
    assert!(labels.exists() && tokens.exists());
    assert_eq!(embed(&["--data", "plain"]), Some(0));
    assert!(!labels.exists() && !tokens.exists());
}

#[test]
fn an_encoder_of_other_than_three_channels_is_refused() {
    let dir = scratch();
    let bytes = vec![0; 48 * 4 * 4 * 4 * 4];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![48, 4, 4, 4], &bytes).expect("fits");
    let tensors = [("target_encoder.patch_embed.proj.weight", view)];
    safetensors::serialize_to_file(tensors, None, &dir.path().join("a.safetensors")).expect("it can be written");
    ijepa(dir.path(), &["embed", "--checkpoint", "a.safetensors", "--data", "scenes:4", "--out", "a.npy"])
        .refused(4, &["a.safetensors", "(d, 3, p, p)"]);
}

#[test]
fn what_cannot_be_embedded_is_refused_and_leaves_nothing() {
    let dir = trained();
    let before = std::fs::read_dir(dir.path()).expect("it is there").count();
    let embed = |data: &str, out: &str| ijepa(dir.path(), &[&EMBED[..], &["--data", data, "--out", out]].concat());
    embed("scenes:4", "a.csv").refused(2, &["a.csv", ".npy, .safetensors or .parquet"]);
    embed("nowhere", "a.npy").refused(3, &["nowhere"]);
    embed("scenes:4", "none/a.npy").refused(1, &["none/a.npy"]);
    assert_eq!(std::fs::read_dir(dir.path()).expect("it is there").count(), before);
}
