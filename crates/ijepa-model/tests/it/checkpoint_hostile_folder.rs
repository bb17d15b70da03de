//! Folders of models that lie. Each test tells one lie and asks for the error that names it.

use ijepa_model::checkpoint::{self, CheckpointError};
use serde_json::{Value, json};

use crate::checkpoint_folder::{KEY, NORM, PATCHES, QUERY, VALUE, Weight, config, folder, index, text, weights};
use crate::checkpoint_hostile_safetensors::safetensors;
use crate::checkpoint_pickle::{HONEST, archive, named, six, tensor};

const INDEX: &str = "model.safetensors.index.json";

/// The error of reading a folder of these files, which names the folder.
fn refused(files: &[(&str, Vec<u8>)]) -> CheckpointError {
    let folder = folder(files);
    let error = checkpoint::read(folder.path()).map(drop).expect_err("the folder lies");
    let message = error.to_string();
    assert!(message.contains(&folder.path().display().to_string()), "names the folder: {message}");
    error
}

/// Asserts that reading fails as malformed and that the message contains every word, and is no longer than one can read.
fn malformed(files: &[(&str, Vec<u8>)], words: &[&str]) {
    let error = refused(files);
    assert!(matches!(error, CheckpointError::Malformed { .. }), "{error:?}");
    let message = error.to_string();
    for word in words {
        assert!(message.contains(word), "{word:?} in: {message}");
    }
    assert!(message.len() < 1000, "{message}");
}

fn whole() -> (&'static str, Vec<u8>) {
    ("model.safetensors", weights(&[PATCHES, QUERY, KEY, VALUE, NORM]))
}

fn malformed_config(change: impl FnOnce(&mut Value), words: &[&str]) {
    let mut config = config();
    change(&mut config);
    malformed(&[whole(), ("config.json", text(&config))], words);
}

#[test]
fn a_folder_of_other_things_is_refused_with_what_is_looked_for() {
    for files in [&[][..], &[("config.json", text(&config()))], &[("latest.safetensors", weights(&[NORM]))]] {
        let error = refused(files);
        assert!(matches!(error, CheckpointError::NotAModelFolder { .. }), "{error:?}");
        assert!(error.to_string().contains("model.safetensors.index.json"), "{error}");
    }
}

#[test]
fn a_damaged_file_within_a_folder_is_named() {
    let (name, bytes) = whole();
    for len in 0..bytes.len() {
        let error = refused(&[(name, bytes[..len].to_vec())]);
        assert!(error.to_string().contains("model.safetensors: "), "cut at {len}: {error}");
    }
}

#[test]
fn a_list_of_shards_that_names_a_missing_file_is_refused() {
    let error = refused(&[(INDEX, index(&[(NORM, "gone.safetensors")]))]);
    assert!(matches!(error, CheckpointError::Read { .. }), "{error:?}");
    assert!(error.to_string().contains("gone.safetensors"), "{error}");
}

#[test]
fn a_list_of_shards_that_leads_out_of_its_folder_is_refused() {
    let outside = tempfile::tempdir().expect("a scratch folder");
    let path = outside.path().join("x.safetensors");
    std::fs::write(&path, weights(&[NORM])).expect("a scratch file");
    let absolute = path.to_str().expect("UTF-8");
    let expected = "the name of a file in this folder";
    for name in ["../x.safetensors", absolute, "./x.safetensors", "a/../x", "x/", "..", ".", ""] {
        malformed(&[(INDEX, index(&[(NORM, name)]))], &["weight_map, layernorm.weight", expected]);
    }
    for value in [json!(3), json!(null), json!(["a.safetensors"]), json!({})] {
        let list = json!({"weight_map": {"layernorm.weight": value}});
        malformed(&[(INDEX, text(&list))], &["weight_map, layernorm.weight", expected]);
    }
}

#[test]
fn a_shard_that_is_a_folder_itself_is_refused() {
    let folder = folder(&[(INDEX, index(&[(NORM, "inner")]))]);
    std::fs::create_dir(folder.path().join("inner")).expect("a scratch folder");
    std::fs::write(folder.path().join("inner/model.safetensors"), weights(&[NORM])).expect("a scratch file");
    let error = checkpoint::read(folder.path()).expect_err("a folder as a shard");
    assert!(error.to_string().contains("the name of a file in this folder"), "{error}");
}

#[test]
fn a_tensor_that_is_not_in_the_shard_named_for_it_is_refused() {
    let files = [
        (INDEX, index(&[(NORM, "a.safetensors"), (PATCHES, "b.safetensors")])),
        ("a.safetensors", weights(&[PATCHES])),
        ("b.safetensors", weights(&[NORM])),
    ];
    malformed(&files, &[INDEX, "weight_map, layernorm.weight", "it in a.safetensors", "no such tensor"]);
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let files = [
        (INDEX, index(&[(NORM, "a.safetensors"), (PATCHES, "b.safetensors")])),
        ("a.safetensors", weights(&[NORM])),
        ("b.safetensors", weights(&[PATCHES, NORM])),
    ];
    malformed(&files, &["layernorm.weight twice"]);
    // Nor may a wrapper's prefix hide it.
    let hidden: Weight = ("module.layernorm.weight", NORM.1, NORM.2);
    let files = [files[0].clone(), files[1].clone(), ("b.safetensors", weights(&[PATCHES, hidden]))];
    malformed(&files, &["layernorm.weight twice"]);
}

#[test]
fn a_training_among_the_shards_is_refused() {
    let training = named(&[("encoder", named(&[("layernorm.weight", tensor(&HONEST()))]))]);
    let files = [
        (INDEX, index(&[(PATCHES, "a.safetensors"), (("encoder.layernorm.weight", &[], 0.0), "b.bin")])),
        ("a.safetensors", weights(&[PATCHES])),
        ("b.bin", archive(&training, &six())),
    ];
    malformed(&files, &["b.bin", "tensors of one model", "a checkpoint of a whole training"]);
}

#[test]
fn a_list_of_shards_without_a_map_is_refused() {
    for (list, got) in [
        (json!({}), "got none"),
        (json!({"weight_map": null}), "got null"),
        (json!({"weight_map": ["a.safetensors"]}), "got [\"a.safetensors\"]"),
        (json!({"weight_map": "x".repeat(5000)}), "got \"xxx"),
    ] {
        malformed(&[(INDEX, text(&list))], &[INDEX, "weight_map", "an object from tensors to files", got]);
    }
    malformed(&[(INDEX, text(&json!({"weight_map": {}})))], &["1 to 1000 files", "got 0"]);
}

#[test]
fn ten_thousand_shards_are_refused_before_any_is_opened() {
    let map: serde_json::Map<String, Value> =
        (0..10_000).map(|number| (format!("tensor{number}"), json!(format!("{number}.safetensors")))).collect();
    malformed(&[(INDEX, text(&json!({"weight_map": map})))], &["1 to 1000 files", "got 10000"]);
}

#[test]
fn json_that_is_none_or_nested_or_endless_is_refused() {
    let deep = format!("{{\"weight_map\":{}", "[".repeat(1_000_000));
    let deep_object = "{\"a\":".repeat(500_000);
    for name in [INDEX, "config.json", "preprocessor_config.json"] {
        let files = |content: &[u8]| match name {
            INDEX => vec![(name, content.to_vec())],
            _ => vec![whole(), (name, content.to_vec())],
        };
        for content in ["", "{", "[]", "3", "{}x", "\u{feff}{}", &deep, &deep_object] {
            malformed(&files(content.as_bytes()), &[name, "a JSON object"]);
        }
        malformed(&files(b"{\"a\": \"\xff\"}"), &[name, "a JSON object"]);
        // A sparse file: nothing of it may be read.
        let folder = folder(&files(b"{}"));
        let file = std::fs::OpenOptions::new().write(true).open(folder.path().join(name)).expect("a scratch file");
        file.set_len(1 << 36).expect("sparse files work here");
        let error = checkpoint::read(folder.path()).expect_err("64 GiB of JSON");
        assert!(error.to_string().contains("at most 4194304 bytes"), "{error}");
    }
}

#[test]
fn a_model_of_another_type_is_refused() {
    for kind in [json!("vit"), json!("I-JEPA"), json!(null), json!(["ijepa"])] {
        malformed_config(|config| config["model_type"] = kind, &["config.json", "model_type", "\"ijepa\""]);
    }
}

#[test]
fn heads_that_are_no_sensible_number_are_refused() {
    for heads in [json!(0), json!(-1), json!(2.0), json!(1.5), json!("2"), json!(u64::MAX), json!(1e300), json!(null)] {
        let got = heads.to_string();
        malformed_config(
            |config| config["num_attention_heads"] = heads,
            &["config.json", "num_attention_heads", "a number from 1 to 1048576", &got],
        );
    }
    let huge = format!("{{\"num_attention_heads\": 1{}}}", "0".repeat(400));
    malformed(&[whole(), ("config.json", huge.into_bytes())], &["config.json"]);
}

#[test]
fn an_image_size_that_is_no_side_or_two_is_refused() {
    for size in [json!("224"), json!(0), json!([4, 0]), json!([4, "4"]), json!({"height": 4}), json!(1u64 << 40)] {
        malformed_config(|config| config["image_size"] = size, &["image_size", "a number from 1 to 1048576"]);
    }
    for size in [json!([]), json!([4]), json!([4, 4, 4]), json!(vec![4; 5000])] {
        malformed_config(|config| config["image_size"] = size, &["image_size", "one number or two"]);
    }
}

#[test]
fn a_normalisation_that_cannot_be_computed_with_is_refused() {
    let with = |preprocessor: Value| [whole(), ("preprocessor_config.json", text(&preprocessor))];
    for mean in [json!([0.5]), json!([0.5, 0.5]), json!("half"), json!([0, 0, "0"]), json!([0, 0, 1e300]), json!(0.5)] {
        malformed(
            &with(json!({"image_mean": mean, "image_std": [1, 1, 1]})),
            &["preprocessor_config.json", "image_mean", "a number for each of three channels"],
        );
    }
    for deviation in [json!([0.5, 0.5, 0]), json!([1, 1, -1]), json!([1, 1, 1e-300]), json!([1, 1, 1, 1])] {
        malformed(
            &with(json!({"image_mean": [0, 0, 0], "image_std": deviation})),
            &["preprocessor_config.json", "image_std", "a number above 0 for each of three channels"],
        );
    }
    let folder = folder(&with(json!({"image_mean": null, "image_std": [1, 1, 1]})));
    assert_eq!(checkpoint::list(folder.path()).expect("it says nothing").meta.mean_std, None);
}

#[test]
fn query_key_and_value_that_are_no_three_of_one_shape_are_refused() {
    let expected = "query, key and value of equal shape";
    let other: Weight = (KEY.0, &[2, 3], 0.0);
    let fused: Weight = ("blocks.0.attn.qkv.weight", &[2, 2], 0.0);
    for (weights, got) in [
        (vec![QUERY, other, VALUE], "[2, 3]"),
        (vec![QUERY], QUERY.0),
        (vec![KEY], KEY.0),
        (vec![QUERY, KEY], KEY.0),
        (vec![QUERY, VALUE], VALUE.0),
        (vec![KEY, VALUE], KEY.0),
        // All three at once must not be taken for a query with its key and value.
        (vec![fused, KEY, VALUE], fused.0),
        (vec![fused, KEY], KEY.0),
    ] {
        let weights = [&[PATCHES], weights.as_slice()].concat();
        let bytes = crate::checkpoint_folder::weights(&weights);
        malformed(&[("model.safetensors", bytes)], &["encoder.blocks.0.attn.qkv.weight", expected, got]);
    }
}

#[test]
fn query_key_and_value_whose_rows_cannot_be_added_are_refused() {
    let empty = |shape: Value| {
        let one = json!({"dtype": "F32", "shape": shape, "data_offsets": [0, 0]});
        let mut header = json!({});
        for name in [QUERY.0, KEY.0, VALUE.0] {
            header[name] = one.clone();
        }
        header[PATCHES.0] = json!({"dtype": "F32", "shape": [2, 3, 1, 1], "data_offsets": [0, 24]});
        [("model.safetensors", safetensors(&header.to_string(), &six()))]
    };
    // Without elements, so that the file need not be large.
    for shape in [json!([u64::MAX, 0]), json!([1u64 << 62, 2, 0])] {
        let expected = "query, key and value with rows, three times which fit 64 bits";
        malformed(&empty(shape), &["encoder.blocks.0.attn.qkv.weight", expected]);
    }
    let folder = folder(&empty(json!([5, 0])));
    assert_eq!(
        checkpoint::read(folder.path()).expect("fits").tensors["encoder.blocks.0.attn.qkv.weight"].shape,
        [15, 0]
    );

    let single = |name: &'static str| -> Weight { (name, &[], 1.0) };
    let singles = weights(&[PATCHES, single(QUERY.0), single(KEY.0), single(VALUE.0)]);
    malformed(&[("model.safetensors", singles)], &["query, key and value with rows"]);
}
