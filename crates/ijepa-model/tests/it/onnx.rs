//! ONNX models, read back with the structs that wrote them, and computed by onnxruntime where there is one.
//!
//! `IJEPA_PYTHON` names a Python with numpy, onnx, onnxruntime and safetensors; without it the last tests only say that they were
//! skipped, which `IJEPA_REQUIRE_PEERS=1` makes a failure. Tolerance: both sides compute in f32 with sums in another order, and
//! values are of size 1 to 10, so that 2e-5 is a few units in the last place.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ijepa_data::key::{Key, Purpose, normal};
use ijepa_data::{IndexSet, Normalisation};
use ijepa_model::onnx::proto::{EXTERNAL, Extent, FLOAT, INT64, ModelProto, TensorProto, ValueInfoProto};
use ijepa_model::onnx::{About, INLINE_BYTES, write_encoder, write_encoder_within, write_predictor};
use ijepa_model::params::{Init, Layout};
use ijepa_model::vit::{Patches, all_patches};
use ijepa_model::{Jepa, PredictorConfig, VitConfig, saved};
use ijepa_tensor::{Buf, Pool, Tape, View};
use prost::Message;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;

const TOLERANCE: f64 = 2e-5;

const NOTHING: About = About { network: None, normalisation: None };

/// 4 × 6 patches.
const OBLONG: VitConfig =
    VitConfig { image: (32, 48), patch: 8, channels: 3, width: 48, depth: 3, heads: 4, hidden: 160 };
/// As `vit_tiny`, on 6 × 6 patches.
const TINY: VitConfig =
    VitConfig { image: (96, 96), patch: 16, channels: 3, width: 192, depth: 12, heads: 3, hidden: 768 };

fn normals(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = Key::new(seed, Purpose::Probe, 0, 0).rng();
    (0..count).map(|_| normal(&mut rng) as f32).collect()
}

/// Weights that are nowhere what they begin as, biases and norms included.
fn trained(layout: &Layout) -> Buf {
    let mut params = layout.init(5, 0.06);
    for (number, entry) in layout.entries.iter().enumerate() {
        if matches!(entry.init, Init::Zero | Init::One) {
            let values = &mut params.as_mut_slice()[entry.slot.range()];
            for (value, noise) in values.iter_mut().zip(normals(entry.slot.len, number as u64)) {
                *value += 0.1 * noise;
            }
        }
    }
    params
}

fn jepa() -> (Jepa, Buf) {
    let jepa = Jepa::new(OBLONG, PredictorConfig { width: 32, depth: 2 });
    let params = trained(&jepa.layout);
    (jepa, params)
}

fn read(path: &Path) -> ModelProto {
    ModelProto::decode(&fs::read(path).expect("the model was written")[..]).expect("the model is protobuf")
}

/// An encoder and the predictor, both small, with the weights inside.
fn models(folder: &Path) -> [ModelProto; 2] {
    let (encoder, predictor) = (folder.join("encoder.onnx"), folder.join("predictor.onnx"));
    let (layout, _) = saved::encoder(OBLONG);
    assert_eq!(write_encoder(&encoder, OBLONG, &layout, &trained(&layout), NOTHING).expect("writes"), None);
    let (jepa, params) = jepa();
    assert_eq!(write_predictor(&predictor, &jepa, &params).expect("writes"), None);
    [read(&encoder), read(&predictor)]
}

fn tensors(model: &ModelProto) -> BTreeMap<&str, &TensorProto> {
    let graph = model.graph.as_ref().expect("a model has a graph");
    graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// The parameters of a network as the model should hold them: name → extents and values.
fn expected(layout: &Layout, params: &Buf, network: &str) -> BTreeMap<String, (Vec<i64>, Vec<f32>)> {
    let mut expected = BTreeMap::new();
    for entry in &layout.entries {
        let Some(name) = entry.name.strip_prefix(network) else { continue };
        let values = &params.as_slice()[entry.slot.range()];
        let held = match entry.shape[..] {
            [outputs, inputs] => {
                let at = |i: usize, o: usize| values[o * inputs + i];
                let transposed = (0..inputs).flat_map(|i| (0..outputs).map(move |o| at(i, o))).collect();
                (vec![inputs, outputs], transposed)
            }
            [1, n, d] if name.ends_with("pos_embed") => (vec![n, d], values.to_vec()),
            ref shape => (shape.to_vec(), values.to_vec()),
        };
        expected.insert(name.to_owned(), (held.0.iter().map(|&extent| extent as i64).collect(), held.1));
    }
    assert!(!expected.is_empty());
    expected
}

/// Every parameter is there under its name, in its shape, bit for bit; `bytes` finds a tensor's values.
fn assert_holds(
    model: &ModelProto,
    expected: &BTreeMap<String, (Vec<i64>, Vec<f32>)>,
    bytes: impl Fn(&TensorProto) -> Vec<u8>,
) {
    let held = tensors(model);
    for (name, (dims, values)) in expected {
        let tensor = held.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not in the file"));
        assert_eq!((&tensor.dims, tensor.data_type), (dims, FLOAT), "{name}");
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&floats(&bytes(tensor))), bits(values), "{name}");
    }
}

fn inline(tensor: &TensorProto) -> Vec<u8> {
    tensor.raw_data.clone().unwrap_or_else(|| panic!("{} has its values inside", tensor.name))
}

#[test]
fn every_parameter_is_in_the_file_bit_for_bit() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let [encoder, predictor] = models(folder.path());
    let (layout, _) = saved::encoder(OBLONG);
    assert_holds(&encoder, &expected(&layout, &trained(&layout), "encoder."), inline);
    let (jepa, params) = jepa();
    assert_holds(&predictor, &expected(&jepa.layout, &params, "predictor."), inline);
}

/// Name, element type, extents.
fn described(values: &[ValueInfoProto]) -> Vec<(String, i32, String)> {
    let extent = |extent: &Option<Extent>| match extent {
        Some(Extent::Fixed(extent)) => extent.to_string(),
        Some(Extent::Named(name)) => name.clone(),
        None => "none".to_owned(),
    };
    let describe = |value: &ValueInfoProto| {
        let tensor = value.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()).expect("a value is a tensor");
        let dims = &tensor.shape.as_ref().expect("a value has a shape").dim;
        let extents: Vec<String> = dims.iter().map(|dim| extent(&dim.value)).collect();
        (value.name.clone(), tensor.elem_type, extents.join(" "))
    };
    values.iter().map(describe).collect()
}

#[test]
fn inputs_and_outputs_have_their_names_and_types_and_a_free_batch() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let [encoder, predictor] = models(folder.path()).map(|model| model.graph.expect("a model has a graph"));
    let value = |name: &str, element: i32, extents: &str| (name.to_owned(), element, extents.to_owned());
    assert_eq!(described(&encoder.input), [value("images", FLOAT, "batch 3 32 48")]);
    let outputs = [value("tokens", FLOAT, "batch 24 48"), value("pooled", FLOAT, "batch 48")];
    assert_eq!(described(&encoder.output), outputs);
    let inputs = [
        value("context", FLOAT, "batch context 48"),
        value("context_patches", INT64, "batch context"),
        value("target_patches", INT64, "batch target"),
    ];
    assert_eq!(described(&predictor.input), inputs);
    assert_eq!(described(&predictor.output), [value("predictions", FLOAT, "batch target 48")]);
}

#[test]
fn every_value_is_computed_once_and_before_it_is_read_and_no_weight_is_idle() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    for model in models(folder.path()) {
        let graph = model.graph.expect("a model has a graph");
        let mut known: BTreeSet<&str> = BTreeSet::new();
        let given = graph.input.iter().map(|value| &value.name);
        for name in given.chain(graph.initializer.iter().map(|tensor| &tensor.name)) {
            assert!(known.insert(name), "{name} is there twice");
        }
        let (mut read, mut names) = (BTreeSet::new(), BTreeSet::new());
        for node in &graph.node {
            assert!(names.insert(&node.name), "two nodes are called {}", node.name);
            for input in &node.input {
                assert!(known.contains(input.as_str()), "{} reads {input}, which is not there yet", node.name);
                read.insert(input.as_str());
            }
            for output in &node.output {
                assert!(known.insert(output), "{output} is there twice");
            }
        }
        read.extend(graph.output.iter().map(|value| value.name.as_str()));
        let idle: Vec<_> = known.difference(&read).collect();
        assert!(idle.is_empty() && read.is_subset(&known), "nobody reads {idle:?}");
    }
}

#[test]
fn a_model_says_who_wrote_it_and_how_its_images_were_normalised() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("encoder.onnx");
    let (layout, _) = saved::encoder(OBLONG);
    let about = About { network: Some("target"), normalisation: Some(Normalisation::default()) };
    write_encoder(&path, OBLONG, &layout, &trained(&layout), about).expect("writes");
    let model = read(&path);
    assert_eq!((model.ir_version, model.producer_name.as_str()), (8, "ijepa"));
    assert_eq!(model.producer_version, env!("CARGO_PKG_VERSION"));
    assert_eq!(model.opset_import.iter().map(|set| (set.domain.as_str(), set.version)).collect::<Vec<_>>(), [("", 17)]);
    let metadata: Vec<_> = model.metadata_props.iter().map(|p| (p.key.as_str(), p.value.as_str())).collect();
    let expected =
        [("network", "target"), ("image_mean", "[0.485, 0.456, 0.406]"), ("image_std", "[0.229, 0.224, 0.225]")];
    assert_eq!(metadata, expected);
    assert!(models(folder.path()).iter().all(|model| model.metadata_props.is_empty()));
}

/// The bytes that a model says its tensor has in the file of weights.
fn outside(tensor: &TensorProto, name: &str, data: &[u8]) -> Vec<u8> {
    assert_eq!((tensor.data_location, &tensor.raw_data), (EXTERNAL, &None), "{}", tensor.name);
    let places: BTreeMap<_, _> = tensor.external_data.iter().map(|p| (p.key.as_str(), p.value.as_str())).collect();
    assert_eq!(places["location"], name);
    let number = |key: &str| places[key].parse::<usize>().expect("a whole number");
    assert_eq!(number("offset") % 4096, 0, "{}", tensor.name);
    data[number("offset")..][..number("length")].to_vec()
}

#[test]
fn weights_in_a_second_file_are_where_the_model_says() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("encoder.onnx");
    let (layout, _) = saved::encoder(OBLONG);
    let params = trained(&layout);
    let bytes: usize = layout.entries.iter().map(|entry| 4 * entry.slot.len).sum();

    let just_fits = write_encoder_within(&path, OBLONG, &layout, &params, NOTHING, bytes as u64);
    assert_eq!(just_fits.expect("writes"), None);
    let one_less = write_encoder_within(&path, OBLONG, &layout, &params, NOTHING, bytes as u64 - 1);
    let data_path = folder.path().join("encoder.onnx.data");
    assert_eq!(one_less.expect("writes"), Some(data_path.clone()));
    assert!(fs::metadata(&path).expect("the model is there").len() < 64 << 10);

    let data = fs::read(data_path).expect("the weights are there");
    let model = read(&path);
    assert_holds(&model, &expected(&layout, &params, "encoder."), |tensor| outside(tensor, "encoder.onnx.data", &data));
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for tensor in tensors(&model).values().filter(|tensor| tensor.data_location == EXTERNAL) {
        let number = |at: usize| tensor.external_data[at].value.parse::<usize>().expect("a whole number");
        ranges.push((number(1), number(1) + number(2)));
    }
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "weights overlap: {ranges:?}");
    assert_eq!(ranges.last().expect("there are weights").1, data.len());
}

#[test]
fn what_cannot_be_written_leaves_the_older_files_as_they_were() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let (layout, _) = saved::encoder(OBLONG);
    let params = trained(&layout);
    let nowhere = folder.path().join("nowhere/encoder.onnx");
    let error = write_encoder(&nowhere, OBLONG, &layout, &params, NOTHING).expect_err("there is no such folder");
    assert!(error.to_string().contains("create the folder first"), "{error}");

    let path = folder.path().join("encoder.onnx");
    fs::write(&path, "older").expect("writes");
    fs::create_dir(folder.path().join("encoder.onnx.data")).expect("makes a folder in the way");
    let error = write_encoder_within(&path, OBLONG, &layout, &params, NOTHING, 0).expect_err("a folder is in the way");
    assert!(error.to_string().contains("encoder.onnx.data: cannot"), "{error}");
    assert_eq!(fs::read(&path).expect("the older file is there"), b"older");
    assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 2, "a temporary file was left");
}

/// The report of `onnx_check.py`, or nothing where there is no Python for it.
fn onnxruntime(kind: &str, model: &Path, cases: &[PathBuf]) -> Option<Value> {
    let Some(python) = std::env::var_os("IJEPA_PYTHON") else {
        let skipped = "skipped: IJEPA_PYTHON names no Python with onnxruntime";
        assert!(std::env::var_os("IJEPA_REQUIRE_PEERS").is_none_or(|required| required != "1"), "{skipped}");
        eprintln!("{skipped}");
        return None;
    };
    let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../peers/interop/onnx_check.py");
    let output = Command::new(python).arg(program).arg(kind).arg(model).args(cases).output().expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = serde_json::from_slice(&output.stdout).expect("the report is JSON");
    eprintln!("{kind}, {}: {report}", model.display());
    Some(report)
}

fn assert_close(report: &Value, output: &str) {
    let difference = report[output].as_f64().expect("the report has a number for each output");
    assert!(difference <= TOLERANCE, "{output} differ by {difference:e}: {report}");
}

/// Writes a file of f32 and i64 tensors: name, shape, values.
fn write_case(path: &Path, floats: &[(&str, &[usize], &[f32])], integers: &[(&str, &[usize], &[u32])]) {
    let mut tensors: Vec<(&str, Dtype, &[usize], Vec<u8>)> = Vec::new();
    for (name, shape, values) in floats {
        tensors.push((name, Dtype::F32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect()));
    }
    for (name, shape, values) in integers {
        tensors.push((name, Dtype::I64, shape, values.iter().flat_map(|v| i64::from(*v).to_le_bytes()).collect()));
    }
    let views: HashMap<String, TensorView> = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            let view = TensorView::new(*dtype, shape.to_vec(), bytes).expect("as many values as the shape says");
            (name.to_string(), view)
        })
        .collect();
    safetensors::serialize_to_file(views, None, path).expect("the case is written");
}

/// Checks an encoder of these sizes on several batch sizes through one session.
fn check_encoder(config: VitConfig, inline_bytes: u64) {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let model = folder.path().join("encoder.onnx");
    let (layout, vit) = saved::encoder(config);
    let params = trained(&layout);
    write_encoder_within(&model, config, &layout, &params, NOTHING, inline_bytes).expect("writes");

    let (n, d, pool) = (config.patches(), config.width, Pool::new());
    let mut cases = Vec::new();
    for batch in [3, 1, 5] {
        let shape = [batch, config.channels, config.image.0, config.image.1];
        let images = normals(shape.iter().product(), 40 + batch as u64);
        let mut tape = Tape::inference(&pool, params.view());
        let index = all_patches(batch, n);
        let patches = Patches { images: View::Cpu(&images), batch, index: &index, kept: n };
        let tokens = vit.forward(&mut tape, patches);
        let pooled = tape.mean_tokens(&tokens, n);
        let case = folder.path().join(format!("batch{batch}.safetensors"));
        let outputs = [
            ("images", &shape[..], &images[..]),
            ("tokens", &[batch, n, d], tokens.as_slice()),
            ("pooled", &[batch, d], pooled.as_slice()),
        ];
        write_case(&case, &outputs, &[]);
        cases.push(case);
    }
    if let Some(report) = onnxruntime("encoder", &model, &cases) {
        assert_close(&report, "tokens");
        assert_close(&report, "pooled");
    }
}

/// Checks the predictor of these sizes on several batches, contexts and targets through one session.
fn check_predictor(config: VitConfig, predictor: PredictorConfig) {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let model = folder.path().join("predictor.onnx");
    let jepa = Jepa::new(config, predictor);
    let params = trained(&jepa.layout);
    write_predictor(&model, &jepa, &params).expect("writes");

    let (n, d, pool) = (config.patches(), config.width, Pool::new());
    let mut cases = Vec::new();
    for (batch, c, t) in [(1, 7, 4), (3, 5, 9), (2, 1, 1)] {
        let context = normals(batch * c * d, 60 + batch as u64);
        // Steps of 5 and 7 do not divide n, so that an image's patches all differ.
        let set = |count: usize, step: usize| IndexSet {
            per_image: count,
            indices: (0..batch * count).map(|i| ((i / count + i % count * step) % n) as u32).collect(),
        };
        let (seen, hidden) = (set(c, 5), set(t, 7));
        let mut tape = Tape::inference(&pool, params.view());
        let x = tape.constant(&context, batch * c, d);
        let (contexts, targets) = (std::slice::from_ref(&seen), std::slice::from_ref(&hidden));
        let predictions = jepa.predictor.forward(&mut tape, &x, contexts, targets, batch);
        let case = folder.path().join(format!("batch{batch}.safetensors"));
        let floats = [
            ("context", &[batch, c, d][..], &context[..]),
            ("predictions", &[batch, t, d][..], predictions.as_slice()),
        ];
        let integers = [
            ("context_patches", &[batch, c][..], &seen.indices[..]),
            ("target_patches", &[batch, t][..], &hidden.indices[..]),
        ];
        write_case(&case, &floats, &integers);
        cases.push(case);
    }
    if let Some(report) = onnxruntime("predictor", &model, &cases) {
        assert_close(&report, "predictions");
    }
}

#[test]
fn onnxruntime_computes_the_same_tokens_for_oblong_images() {
    check_encoder(OBLONG, INLINE_BYTES);
}

#[test]
fn onnxruntime_computes_the_same_tokens_with_weights_in_a_second_file() {
    check_encoder(OBLONG, 0);
}

#[test]
fn onnxruntime_computes_the_same_tokens_after_twelve_blocks() {
    check_encoder(TINY, INLINE_BYTES);
}

#[test]
fn onnxruntime_computes_the_same_predictions() {
    check_predictor(OBLONG, PredictorConfig { width: 32, depth: 2 });
    check_predictor(TINY, PredictorConfig { width: 96, depth: 6 });
}
