//! What does an encoder or a predictor look like as an ONNX model?
//!
//! ONNX is what other runtimes read: onnxruntime, TensorRT, OpenVINO, browsers. Opset 17, the first with `LayerNormalization`.
//! Nodes and weights carry the checkpoint's names without the network: `blocks.3.attn.qkv.weight`.
//!
//! Reading order: this file (inputs, outputs and the way from one to the other) → `graph` (layers as nodes) → `file`
//! (weights on the disk) → [`proto`] (the messages).

mod file;
mod graph;
pub mod proto;

use std::path::{Path, PathBuf};

use ijepa_data::Normalisation;
use ijepa_tensor::Buf;

use self::file::Weight;
use self::graph::{Graph, int, ints};
use self::proto::{
    DimensionProto, Extent, FLOAT, GraphProto, INT64, ModelProto, OperatorSetIdProto, StringStringEntryProto,
    TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use crate::checkpoint::CheckpointError;
use crate::jepa::Jepa;
use crate::params::Layout;
use crate::saved::CONTEXT;
use crate::variants::VitConfig;

/// Weights of at most this many bytes together stand inside the model's file: half of what protobuf can hold.
pub const INLINE_BYTES: u64 = 1 << 30;

/// Version of the format: the one of the time of opset 17 and 18, which runtimes since 2022 read.
const IR_VERSION: i64 = 8;
/// Version of the operators.
const OPSET: i64 = 17;

/// What a model's file says about its encoder beside the graph (`metadata_props`).
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// `network`: which encoder it is, `target` or `context`.
    pub network: Option<&'a str>,
    /// `image_mean` and `image_std`: how the images that it was trained on were normalised.
    pub normalisation: Option<Normalisation>,
}

/// Writes an encoder as [`crate::saved::encoder`] lays it out: `images` (b, 3, h, w) → `tokens` (b, n, d) after the final norm and
/// `pooled` (b, d), their mean; b is free. Returns the file of weights beside it, if it has one.
///
/// # Errors
/// When the disk refuses; older files of these names are then untouched.
///
/// # Panics
/// When the blob is not one of the layout.
pub fn write_encoder(
    path: &Path,
    config: VitConfig,
    layout: &Layout,
    params: &Buf,
    about: About,
) -> Result<Option<PathBuf>, CheckpointError> {
    write_encoder_within(path, config, layout, params, about, INLINE_BYTES)
}

/// As [`write_encoder`], with weights of more than `inline_bytes` bytes in a file of their own.
///
/// # Errors
/// As [`write_encoder`].
///
/// # Panics
/// As [`write_encoder`].
pub fn write_encoder_within(
    path: &Path,
    config: VitConfig,
    layout: &Layout,
    params: &Buf,
    about: About,
    inline_bytes: u64,
) -> Result<Option<PathBuf>, CheckpointError> {
    assert_eq!(params.len(), layout.len, "the weights of an encoder of these sizes");
    let weights: Vec<Weight> = layout.entries.iter().map(|entry| Weight::new(entry, CONTEXT, params)).collect();
    file::write(path, encoder(config, about), &weights, inline_bytes)
}

/// Writes the predictor: `context` (b, c, d), an encoder's tokens of the patches `context_patches` (b, c), and `target_patches` (b, t)
/// → `predictions` (b, t, d) of what the target encoder says there. Patches are numbered row by row from 0; b, c and t are
/// free. Each target block of an image is a row of its own. Returns the file of weights beside it, if it has one.
///
/// # Errors
/// When the disk refuses; older files of these names are then untouched.
///
/// # Panics
/// When the blob is not one of the layout.
pub fn write_predictor(path: &Path, jepa: &Jepa, params: &Buf) -> Result<Option<PathBuf>, CheckpointError> {
    assert_eq!(params.len(), jepa.layout.len, "the weights of an encoder and a predictor of these sizes");
    let entries = jepa.layout.entries.iter().filter(|entry| entry.slot.offset >= jepa.encoder_len);
    let weights: Vec<Weight> = entries.map(|entry| Weight::new(entry, "predictor.", params)).collect();
    file::write(path, predictor(jepa), &weights, INLINE_BYTES)
}

/// The encoder's model, weights excepted.
fn encoder(config: VitConfig, about: About) -> ModelProto {
    let VitConfig { image, patch, channels, width, depth, heads, .. } = config;
    let (n, patch) = (config.patches(), patch as i64);
    let mut graph = Graph::new(width, heads);
    graph.integers("patch_embed.shape", &[0, width as i64, n as i64]);

    let inputs = ["images", "patch_embed.proj.weight", "patch_embed.proj.bias"];
    let sides = vec![ints("kernel_shape", &[patch, patch]), ints("strides", &[patch, patch])];
    let x = graph.node("patch_embed.proj", "Conv", &inputs, sides); // (b, d, rows, columns)
    let x = graph.node("patch_embed.rows", "Reshape", &[&x, "patch_embed.shape"], vec![]); // (b, d, n)
    let x = graph.node("patch_embed", "Transpose", &[&x], vec![ints("perm", &[0, 2, 1])]); // (b, n, d)
    let mut x = graph.node("placed", "Add", &[&x, "pos_embed"], vec![]);
    for i in 0..depth {
        x = graph.block(&x, &format!("blocks.{i}."));
    }
    let tokens = graph.norm("tokens", &x, "norm");
    graph.node("pooled", "ReduceMean", &[&tokens], vec![ints("axes", &[1]), int("keepdims", 0)]);

    let entry = |key: &str, value: String| StringStringEntryProto { key: key.to_owned(), value };
    let mut metadata: Vec<_> = about.network.map(|network| entry("network", network.to_owned())).into_iter().collect();
    if let Some(Normalisation { mean, std }) = about.normalisation {
        metadata.extend([entry("image_mean", format!("{mean:?}")), entry("image_std", format!("{std:?}"))]);
    }
    let fixed = |extent: usize| Extent::Fixed(extent as i64);
    let batch = || Extent::Named("batch".to_owned());
    model(
        "I-JEPA encoder: normalised images to the tokens of their patches, row by row, and to the mean of these.",
        GraphProto {
            name: "encoder".to_owned(),
            input: vec![value("images", FLOAT, [batch(), fixed(channels), fixed(image.0), fixed(image.1)])],
            output: vec![
                value("tokens", FLOAT, [batch(), fixed(n), fixed(width)]),
                value("pooled", FLOAT, [batch(), fixed(width)]),
            ],
            node: graph.nodes,
            initializer: graph.constants,
        },
        metadata,
    )
}

/// The predictor's model, weights excepted.
fn predictor(jepa: &Jepa) -> ModelProto {
    let (encoder, config) = (jepa.encoder.config, jepa.predictor.config);
    let mut graph = Graph::new(config.width, encoder.heads);
    graph.integers("axis_of_patches", &[1]);
    graph.integers("end", &[i64::MAX]);

    let rows = || vec![int("axis", 0)];
    let z = graph.linear("predictor_embed", "context"); // (b, c, p)
    let places = graph.node("context.places", "Gather", &["predictor_pos_embed", "context_patches"], rows());
    let z = graph.node("context.placed", "Add", &[&z, &places], vec![]);
    let places = graph.node("target.places", "Gather", &["predictor_pos_embed", "target_patches"], rows());
    let masked = graph.node("target.masked", "Add", &[&places, "mask_token"], vec![]); // (b, t, p)
    let mut y = graph.node("predictor_input", "Concat", &[&z, &masked], vec![int("axis", 1)]); // (b, c+t, p)
    for i in 0..config.depth {
        y = graph.block(&y, &format!("predictor_blocks.{i}."));
    }
    let c = graph.node("context.patches", "Shape", &["context_patches"], vec![int("start", 1), int("end", 2)]); // (1)
    let y = graph.node("target.tokens", "Slice", &[&y, &c, "end", "axis_of_patches"], vec![]); // (b, t, p)
    let y = graph.norm("predictor_norm", &y, "predictor_norm");
    graph.linear_as("predictions", &y, "predictor_proj");

    let named = |name: &str| Extent::Named(name.to_owned());
    let width = || Extent::Fixed(encoder.width as i64);
    model(
        "I-JEPA predictor: an encoder's tokens of context patches to what the target encoder says about target patches.",
        GraphProto {
            name: "predictor".to_owned(),
            input: vec![
                value("context", FLOAT, [named("batch"), named("context"), width()]),
                value("context_patches", INT64, [named("batch"), named("context")]),
                value("target_patches", INT64, [named("batch"), named("target")]),
            ],
            output: vec![value("predictions", FLOAT, [named("batch"), named("target"), width()])],
            node: graph.nodes,
            initializer: graph.constants,
        },
        Vec::new(),
    )
}

fn model(doc: &str, graph: GraphProto, metadata: Vec<StringStringEntryProto>) -> ModelProto {
    ModelProto {
        ir_version: IR_VERSION,
        producer_name: "ijepa".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        doc_string: doc.to_owned(),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        metadata_props: metadata,
    }
}

/// An input or output.
fn value<const AXES: usize>(name: &str, elem_type: i32, extents: [Extent; AXES]) -> ValueInfoProto {
    let dim = extents.map(|extent| DimensionProto { value: Some(extent) }).to_vec();
    let tensor = TensorTypeProto { elem_type, shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
}
