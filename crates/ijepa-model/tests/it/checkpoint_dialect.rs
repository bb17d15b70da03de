//! Others' names for an encoder's tensors: all of them mean ours, each tensor once.

use ijepa_model::checkpoint::{self, Network, Reader, hugging_face};
use ijepa_model::saved::{Hints, encoder_sizes};
use serde_json::{Value, json};

use crate::checkpoint_folder::{Weight, weights, weights_with};
use crate::checkpoint_hostile::malformed;
use crate::checkpoint_hostile_safetensors::safetensors;
use crate::checkpoint_pickle::scratch;

const WIDTH: usize = 2;

/// From our name of a tensor to a library's: one, or query, key and value.
type Dialect<'a> = dyn Fn(&str) -> Vec<String> + 'a;

/// Our names of an encoder with two blocks, and shapes.
fn ours() -> Vec<(String, Vec<usize>)> {
    let d = WIDTH;
    let mut names = vec![
        ("pos_embed".to_string(), vec![1, 4, d]),
        ("patch_embed.proj.weight".to_string(), vec![d, 3, 1, 1]),
        ("patch_embed.proj.bias".to_string(), vec![d]),
        ("norm.weight".to_string(), vec![d]),
        ("norm.bias".to_string(), vec![d]),
    ];
    for block in 0..2 {
        for (name, shape) in [
            ("norm1.weight", vec![d]),
            ("norm1.bias", vec![d]),
            ("attn.qkv.weight", vec![3 * d, d]),
            ("attn.qkv.bias", vec![3 * d]),
            ("attn.proj.weight", vec![d, d]),
            ("attn.proj.bias", vec![d]),
            ("norm2.weight", vec![d]),
            ("norm2.bias", vec![d]),
            ("mlp.fc1.weight", vec![4 * d, d]),
            ("mlp.fc1.bias", vec![4 * d]),
            ("mlp.fc2.weight", vec![d, 4 * d]),
            ("mlp.fc2.bias", vec![d]),
        ] {
            names.push((format!("blocks.{block}.{name}"), shape));
        }
    }
    names
}

/// The names of `transformers` 5 for those that it published before.
fn newer(published: &str) -> String {
    [
        ("encoder.layer.", "layers."),
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    ]
    .iter()
    .fold(published.to_string(), |name, (old, new)| name.replace(old, new))
}

/// A file of the encoder under other names, with further tensors of shape (2).
fn file(names: &Dialect, further: &[&str]) -> Vec<u8> {
    let mut parts: Vec<(String, Vec<usize>, f32)> = Vec::new();
    for (number, (name, shape)) in ours().into_iter().enumerate() {
        let names = names(&name);
        let mut part = shape;
        part[0] /= names.len();
        let elements: usize = part.iter().product();
        for (place, name) in names.into_iter().enumerate() {
            parts.push((name, part.clone(), (100 * number + place * elements) as f32));
        }
    }
    parts.extend(further.iter().map(|name| (name.to_string(), vec![2], -1.0)));
    let list: Vec<Weight> =
        parts.iter().map(|(name, shape, first)| (name.as_str(), shape.as_slice(), *first)).collect();
    weights(&list)
}

fn published(name: &str) -> Vec<String> {
    hugging_face(name).expect("every parameter has a name there")
}

/// Reads a file and holds it against the encoder; returns its notes.
fn is_the_encoder(bytes: &[u8]) -> Vec<String> {
    let file = scratch(bytes);
    let read = checkpoint::read(&file.path).expect("honest");
    assert_eq!(read.tensors.len(), ours().len());
    for (number, (name, shape)) in ours().into_iter().enumerate() {
        let tensor = &read.tensors[&format!("encoder.{name}")];
        let elements: usize = shape.iter().product();
        let values: Vec<f32> = (0..elements).map(|i| (100 * number + i) as f32).collect();
        assert_eq!((&tensor.shape, &tensor.values), (&shape, &values), "{name}");
    }
    assert!(read.meta.lone);
    checkpoint::list(&file.path).expect("honest").notes
}

#[test]
fn every_dialect_and_wrapper_is_read_as_the_same_encoder() {
    let timm = |name: &str| vec![name.to_string()];
    let newer = |name: &str| published(name).iter().map(|name| newer(name)).collect();
    let dialects: [&Dialect; 3] = [&timm, &published, &newer];
    for names in dialects {
        for wrapper in ["", "module.", "backbone.", "module.backbone.", "ijepa.", "module.ijepa."] {
            let wrapped = |name: &str| names(name).iter().map(|name| format!("{wrapper}{name}")).collect();
            assert_eq!(is_the_encoder(&file(&wrapped, &[])), Vec::<String>::new(), "{wrapper}{:?}", names("norm.bias"));
        }
    }
}

#[test]
fn names_of_all_three_libraries_are_those_that_they_write() {
    assert_eq!(published("blocks.7.attn.qkv.bias")[1], "encoder.layer.7.attention.attention.key.bias");
    let newer: Vec<String> = published("blocks.7.attn.qkv.bias").iter().map(|name| newer(name)).collect();
    assert_eq!(newer, ["q", "k", "v"].map(|part| format!("layers.7.attention.{part}_proj.bias")));
    for name in ["head.weight", "blocks.7.attn.bias", "blocks.7.ls1.gamma", "cls_token"] {
        assert_eq!(hugging_face(name), None);
    }
}

#[test]
fn a_classifier_beside_the_encoder_is_left_out_and_noted() {
    let classifier = |name: &str| published(name).iter().map(|name| format!("ijepa.{name}")).collect();
    assert_eq!(
        is_the_encoder(&file(&classifier, &["classifier.weight", "classifier.bias"])),
        ["not read, since no part of the encoder: classifier.weight, classifier.bias"]
    );
    let timm = |name: &str| vec![name.to_string()];
    assert_eq!(is_the_encoder(&file(&timm, &["head.weight"])), ["not read, since no part of the encoder: head.weight"]);
    let many: Vec<String> = (0..20).map(|number| format!("head.{number:02}.weight")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let notes = is_the_encoder(&file(&timm, &many));
    assert!(notes[0].ends_with("head.04.weight and 15 more"), "{notes:?}");
}

#[test]
fn what_would_change_the_tokens_is_refused_by_its_name() {
    let timm = |name: &str| vec![name.to_string()];
    for name in ["cls_token", "reg_token", "blocks.0.ls1.gamma", "blocks.0.attn.q_norm.weight", "decoder.0.weight"] {
        malformed(&file(&timm, &[name]), &[name, "an encoder of I-JEPA's kind"]);
    }
    malformed(&file(&timm, &["blocks.99999999999999999999999.norm1.weight"]), &["blocks.99999999999999999999999"]);
}

#[test]
fn two_tensors_with_one_meaning_are_refused() {
    let timm = |name: &str| vec![name.to_string()];
    for (further, meaning) in [
        ("encoder.layer.0.layernorm_before.weight", "blocks.0.norm1.weight"),
        ("layers.1.norm2.bias", "blocks.1.norm2.bias"),
        ("ijepa.norm.weight", "norm.weight"),
        ("layernorm.bias", "norm.bias"),
        ("encoder.layer.0.attention.attention.query.bias", "blocks.0.attn.qkv.bias"),
        // Numbers that are written in another way are the same numbers.
        ("blocks.00.norm1.weight", "blocks.0.norm1.weight"),
    ] {
        malformed(&file(&timm, &[further]), &[meaning, "one tensor for each part of an encoder", further]);
    }
    malformed(&file(&timm, &["module.norm.weight"]), &["tensor names", "norm.weight twice"]);
}

#[test]
fn the_network_that_a_file_names_is_the_one_that_it_is_read_as() {
    let tensors: [Weight; 2] = [("patch_embed.proj.weight", &[2, 3, 1, 1], 0.0), ("norm.weight", &[2], 0.0)];
    for (network, name) in [(Network::Target, "target_encoder.norm.weight"), (Network::Context, "encoder.norm.weight")]
    {
        let texts = json!({"ijepa.network": network.name(), "ijepa.heads": "3", "ijepa.image": "2x8"});
        let file = scratch(&weights_with(&tensors, texts));
        let reader = Reader::open(&file.path).expect("honest");
        assert_eq!(reader.shape(name), Some(&[2][..]));
        let meta = reader.meta();
        assert_eq!((meta.network, meta.heads, meta.image), (Some(network), Some(3), Some((2, 8))));
        assert!(meta.other.is_empty(), "{:?}", meta.other);
    }
}

#[test]
fn sizes_and_networks_that_a_file_cannot_mean_are_refused() {
    let tensors: [Weight; 1] = [("patch_embed.proj.weight", &[2, 3, 1, 1], 0.0)];
    for (key, expected, texts) in [
        ("ijepa.network", "target or context", &["teacher", "", "Target", "encoder"][..]),
        ("ijepa.heads", "a number above 0", &["0", "-1", "many", "", "1.5", "99999999999999999999"]),
        ("ijepa.image", "height x width, as in 224x224", &["224", "0x4", "4x", "x", "4x-4", "4x4x4", "axb", ""]),
    ] {
        for text in texts {
            for version in [None, Some("0.1.0")] {
                let mut all = json!({key: text});
                if let Some(version) = version {
                    all["ijepa.version"] = json!(version);
                }
                let place = format!("__metadata__, {key}");
                malformed(&weights_with(&tensors, all), &[&place, expected, &format!("got {text:?}")]);
            }
        }
    }
}

#[test]
fn sizes_that_no_image_or_encoder_has_are_not_computed_with() {
    let sizes = |bytes: &[u8]| {
        let file = scratch(bytes);
        encoder_sizes(
            &Reader::open(&file.path).expect("as far as the format goes"),
            "encoder.",
            Hints::default(),
            Hints::default(),
        )
    };
    let tensors: [Weight; 4] = [
        ("patch_embed.proj.weight", &[4, 3, 1, 1], 0.0),
        ("pos_embed", &[1, 4, 4], 0.0),
        ("blocks.0.norm1.weight", &[4], 0.0),
        ("blocks.0.mlp.fc1.weight", &[8, 4], 0.0),
    ];
    let image = |text: String| sizes(&weights_with(&tensors, json!({"ijepa.heads": "2", "ijepa.image": text})));
    assert_eq!(image("1x4".to_string()).expect("fits").image, (1, 4));
    let error = image("3x4".to_string()).expect_err("another number of patches");
    assert!(error.contains("3×4 pixels") && error.contains("4 patches"), "{error}");

    let empty = |shape: Value| json!({"dtype": "F32", "shape": shape, "data_offsets": [0, 0]});
    let header = json!({
        "patch_embed.proj.weight": empty(json!([0, 3, 1, 1])),
        "pos_embed": empty(json!([1, u64::MAX, 0])),
        "blocks.0.mlp.fc1.weight": empty(json!([8, 0])),
    });
    let problem = sizes(&safetensors(&header.to_string(), b"")).expect_err("an encoder without width");
    assert!(problem.contains("expected the shape (d, 3, p, p), got [0, 3, 1, 1]"), "{problem}");
}

#[test]
fn tensors_without_an_encoder_keep_their_names() {
    let tensors: [Weight; 2] = [("layernorm.weight", &[2], 0.0), ("head.weight", &[2], 0.0)];
    let read = checkpoint::read(&scratch(&weights(&tensors)).path).expect("honest");
    assert_eq!(read.tensors.keys().collect::<Vec<_>>(), ["head.weight", "layernorm.weight"]);
    assert!(!read.meta.lone);
}
