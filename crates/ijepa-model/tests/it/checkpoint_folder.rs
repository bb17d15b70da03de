//! Folders of Hugging Face's libraries: every tensor arrives under our name, wherever it lies.

use std::path::Path;

use ijepa_model::checkpoint::{self, Reader, Source};
use serde_json::{Value, json};

use crate::checkpoint_hostile_safetensors::safetensors;
use crate::checkpoint_pickle::{Claim, HONEST, archive, f32s, named, tensor};

/// A name, a shape, and the first of its values, which count up from it.
pub(crate) type Weight<'a> = (&'a str, &'a [usize], f32);

/// A safetensors file of these.
pub(crate) fn weights(weights: &[Weight]) -> Vec<u8> {
    weights_with(weights, json!({}))
}

/// The same with texts beside them.
pub(crate) fn weights_with(weights: &[Weight], texts: Value) -> Vec<u8> {
    let mut header = json!({"__metadata__": texts});
    let mut data = Vec::new();
    for (name, shape, first) in weights {
        let begin = data.len();
        let elements: usize = shape.iter().product();
        data.extend(f32s(&(0..elements).map(|i| first + i as f32).collect::<Vec<_>>()));
        header[*name] = json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()]});
    }
    safetensors(&header.to_string(), &data)
}

/// A scratch folder with these files.
pub(crate) fn folder(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a scratch folder");
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).expect("a scratch file");
    }
    folder
}

pub(crate) fn text(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

pub(crate) fn config() -> Value {
    json!({"model_type": "ijepa", "num_attention_heads": 2, "image_size": 4, "layer_norm_eps": 1e-6})
}

pub(crate) const PATCHES: Weight = ("embeddings.patch_embeddings.projection.weight", &[2, 3, 1, 1], 0.0);
pub(crate) const QUERY: Weight = ("encoder.layer.0.attention.attention.query.weight", &[2, 2], 10.0);
pub(crate) const KEY: Weight = ("encoder.layer.0.attention.attention.key.weight", &[2, 2], 20.0);
pub(crate) const VALUE: Weight = ("encoder.layer.0.attention.attention.value.weight", &[2, 2], 30.0);
pub(crate) const NORM: Weight = ("layernorm.weight", &[2], 40.0);

/// A list of shards that puts these weights into these files.
pub(crate) fn index(weights: &[(Weight, &str)]) -> Vec<u8> {
    let map: serde_json::Map<String, Value> =
        weights.iter().map(|((name, ..), file)| (name.to_string(), json!(file))).collect();
    text(&json!({"metadata": {"total_size": 80}, "weight_map": map}))
}

/// What all honest folders of these five weights are read as.
fn is_read(path: &Path) {
    let read = checkpoint::read(path).expect("honest");
    let names: Vec<&str> = read.tensors.keys().map(String::as_str).collect();
    let qkv = "encoder.blocks.0.attn.qkv.weight";
    assert_eq!(names, [qkv, "encoder.norm.weight", "encoder.patch_embed.proj.weight"]);
    assert_eq!(read.tensors[qkv].shape, [6, 2], "query, key and value one below the other");
    let rows = [10.0, 11.0, 12.0, 13.0, 20.0, 21.0, 22.0, 23.0, 30.0, 31.0, 32.0, 33.0];
    assert_eq!(read.tensors[qkv].values, rows);
    assert_eq!(read.tensors["encoder.norm.weight"].values, [40.0, 41.0]);
    assert_eq!(read.tensors["encoder.patch_embed.proj.weight"].shape, [2, 3, 1, 1]);
    assert_eq!((read.meta.source, read.meta.lone), (Source::Other, true));
    assert_eq!(read.meta.path.as_deref(), Some(path));
}

#[test]
fn a_folder_with_one_file_is_read_with_what_stands_beside_it() {
    let preprocessor = json!({"image_mean": [0.5, 0.25, 0], "image_std": [0.5, 1, 2], "crop_size": {"height": 4}});
    let folder = folder(&[
        ("model.safetensors", weights(&[PATCHES, QUERY, KEY, VALUE, NORM])),
        ("config.json", text(&config())),
        ("preprocessor_config.json", text(&preprocessor)),
    ]);
    is_read(folder.path());
    let summary = checkpoint::list(folder.path()).expect("honest");
    assert_eq!(summary.format, "folder of a model");
    assert_eq!((summary.meta.heads, summary.meta.image), (Some(2), Some((4, 4))));
    assert_eq!(summary.meta.mean_std, Some(([0.5, 0.25, 0.0], [0.5, 1.0, 2.0])));
    assert_eq!(summary.notes, Vec::<String>::new());
    assert_eq!((summary.parts.len(), summary.parts[0].tensors, summary.parts[0].parameters), (1, 5, 6 + 3 * 4 + 2));
}

#[test]
fn two_shards_are_read_as_one_and_query_key_and_value_may_lie_in_both() {
    let (a, b) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    let places = [(PATCHES, a), (QUERY, b), (KEY, a), (VALUE, b), (NORM, b)];
    let folder = folder(&[
        ("model.safetensors.index.json", index(&places)),
        (a, weights(&[PATCHES, KEY])),
        (b, weights(&[NORM, VALUE, QUERY])),
        ("config.json", text(&config())),
    ]);
    is_read(folder.path());
    let lengths = [a, b].map(|name| std::fs::metadata(folder.path().join(name)).expect("a shard").len());
    assert_eq!(checkpoint::list(folder.path()).expect("honest").file_bytes, lengths.iter().sum::<u64>());
}

#[test]
fn a_folder_with_a_pickle_is_read() {
    let claims: Vec<(&str, Claim)> = [PATCHES, QUERY, KEY, VALUE, NORM]
        .iter()
        .map(|(name, shape, first)| {
            let shape: Vec<i64> = shape.iter().map(|&extent| extent as i64).collect();
            let strides = (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect();
            (*name, Claim { elements: 64, first: *first as i64, shape, strides, ..HONEST() })
        })
        .collect();
    let pairs: Vec<_> = claims.iter().map(|(name, claim)| (*name, tensor(claim))).collect();
    let values: Vec<f32> = (0..64).map(|i| i as f32).collect();
    let folder = folder(&[("pytorch_model.bin", archive(&named(&pairs), &f32s(&values)))]);
    is_read(folder.path());
}

#[test]
fn height_and_width_of_images_may_differ_and_another_epsilon_is_noted() {
    let mut config = config();
    config["image_size"] = json!([4, 6]);
    config["layer_norm_eps"] = json!(1e-12);
    let folder = folder(&[("model.safetensors", weights(&[PATCHES])), ("config.json", text(&config))]);
    let reader = Reader::open(folder.path()).expect("honest");
    assert_eq!(reader.meta().image, Some((4, 6)));
    let notes = reader.notes();
    assert!(notes.len() == 1 && notes[0].contains("layer_norm_eps"), "{notes:?}");
}

#[test]
fn a_folder_without_any_configuration_says_nothing_of_heads_and_images() {
    let folder = folder(&[("model.safetensors", weights(&[PATCHES]))]);
    let reader = Reader::open(folder.path()).expect("honest");
    assert_eq!((reader.meta().heads, reader.meta().image, reader.meta().mean_std), (None, None, None));
}
