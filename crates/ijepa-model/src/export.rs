//! Checkpoints for other programs: what the reference, Hugging Face's `transformers` and timm load and train on from.

use std::path::Path;

use serde_json::json;

use crate::checkpoint::{
    CONFIG, CheckpointError, HEADS, IMAGE, Meta, Network, Object, Source, View, hugging_face, write_json, write_torch,
    write_views,
};
use crate::jepa::{Jepa, State};
use crate::optimiser::{BETAS, EPS};
use crate::params::{Entry, Layout};
use crate::saved::{bare, view};
use crate::variants::VitConfig;
use crate::vit::{NORM_EPS, Vit};
use ijepa_tensor::Buf;

/// A lone encoder: where its parameters lie, its sizes, and their values.
#[derive(Clone, Copy)]
pub struct Encoder<'a> {
    /// Of `params`.
    pub layout: &'a Layout,
    /// Its sizes.
    pub vit: &'a Vit,
    /// The values.
    pub params: &'a Buf,
}

/// What a GradScaler begins with: the reference's loader asks for one where it computes in bf16.
const SCALER: [(&str, f64); 3] = [("scale", 65536.0), ("growth_factor", 2.0), ("backoff_factor", 0.5)];

/// Writes a state as the reference's own checkpoint: three networks with names prefixed `module.`, AdamW's state, epoch and the
/// rest of what its loader looks for.
///
/// `lr`, `weight_decay`, `loss`, `batch_size` and `world_size` are taken from `meta.other`; the reference sets the first two anew in
/// every step and only prints the others. It goes on at the beginning of epoch `meta.epoch`.
///
/// # Errors
/// When the disk refuses; an older file of that name is then untouched.
pub fn write_reference(path: &Path, model: &Jepa, state: &State, meta: &Meta) -> Result<(), CheckpointError> {
    let other = |key: &str| meta.other.get(key);
    let float = |key: &str| other(key).and_then(|text| text.parse::<f64>().ok());
    let int = |key: &str, default| other(key).and_then(|text| text.parse::<i64>().ok()).unwrap_or(default);
    let (encoder, predictor): (Vec<&Entry>, Vec<&Entry>) =
        model.layout.entries.iter().partition(|entry| entry.slot.offset < model.encoder_len);
    let network = |entries: &[&Entry], blob, prefix: &str| {
        Object::Dict(entries.iter().map(|entry| tensor_pair(entry, blob, prefix)).collect())
    };
    let scaler = SCALER.map(|(key, value)| (key, Object::Float(float(&format!("scaler.{key}")).unwrap_or(value))));
    let counters = [("growth_interval", 2000), ("_growth_tracker", 0)]
        .map(|(key, value)| (key, Object::Int(int(&format!("scaler.{key}"), value))));
    let step = [state.step as f32];
    let object = [
        ("encoder", network(&encoder, &state.params, "encoder.")),
        ("predictor", network(&predictor, &state.params, "predictor.")),
        ("opt", optimizer(&[&encoder, &predictor], state, &step, (float("lr"), float("weight_decay")))),
        ("scaler", Object::dict(scaler.into_iter().chain(counters))),
        ("target_encoder", network(&encoder, &state.target, "encoder.")),
        ("epoch", Object::Int(meta.epoch.unwrap_or(0) as i64)),
        ("loss", float("loss").map_or(Object::None, Object::Float)),
        ("batch_size", Object::Int(int("batch_size", 0))),
        ("world_size", Object::Int(int("world_size", 1))),
        ("lr", float("lr").map_or(Object::None, Object::Float)),
    ];
    // Keys that the reference does not look at.
    write_torch(path, &Object::dict(object.into_iter().chain(own_keys(&described(model.encoder.config, meta)))))
}

/// What neither shapes nor the reference's keys tell.
fn own_keys<'a>(meta: &Meta) -> Vec<(&'static str, Object<'a>)> {
    let heads = meta.heads.map(|heads| (HEADS, Object::Int(heads as i64)));
    let image = meta.image.map(|(height, width)| (IMAGE, Object::Text(format!("{height}x{width}"))));
    let config = meta.config.clone().map(|config| (CONFIG, Object::Text(config)));
    [heads, image, config].into_iter().flatten().collect()
}

/// AdamW's state: four groups, each of encoder and predictor with weight decay, then each without, parameters numbered through them.
/// Tables of positions are numbered, and have no moments.
fn optimizer<'a>(
    networks: &[&[&Entry]; 2],
    state: &'a State,
    step: &'a [f32; 1],
    (lr, weight_decay): (Option<f64>, Option<f64>),
) -> Object<'a> {
    let (mut states, mut groups, mut number) = (Vec::new(), Vec::new(), 0);
    for decays in [true, false] {
        for network in networks {
            let mut members = Vec::new();
            for entry in network.iter().filter(|entry| entry.decays() == decays) {
                if entry.learnt() && state.step > 0 {
                    let moment = |blob: &'a Buf| tensor(entry, blob);
                    let moments = Object::dict([
                        ("step", Object::Tensor(Vec::new(), step)),
                        ("exp_avg", moment(&state.exp_avg)),
                        ("exp_avg_sq", moment(&state.exp_avg_sq)),
                    ]);
                    states.push((Object::Int(number), moments));
                }
                members.push(Object::Int(number));
                number += 1;
            }
            let decay = if decays { weight_decay.unwrap_or(0.0) } else { 0.0 };
            let mut group = vec![
                ("lr", Object::Float(lr.unwrap_or(0.0))),
                ("betas", Object::Tuple(vec![Object::Float(BETAS.0), Object::Float(BETAS.1)])),
                ("eps", Object::Float(EPS)),
                ("weight_decay", Object::Float(decay)),
                ("amsgrad", Object::Bool(false)),
                ("foreach", Object::None),
                ("maximize", Object::Bool(false)),
                ("capturable", Object::Bool(false)),
                ("differentiable", Object::Bool(false)),
                ("fused", Object::None),
                ("params", Object::List(members)),
            ];
            if !decays {
                group.push(("WD_exclude", Object::Bool(true)));
            }
            groups.push(Object::dict(group));
        }
    }
    Object::dict([("state", Object::Dict(states)), ("param_groups", Object::List(groups))])
}

/// Writes one encoder as the reference's `.pth.tar` has it, under the name of its network, and nothing else.
///
/// # Errors
/// When the disk refuses.
pub fn write_torch_encoder(
    path: &Path,
    encoder: Encoder,
    network: Network,
    meta: &Meta,
) -> Result<(), CheckpointError> {
    let pairs = encoder.layout.entries.iter().map(|entry| tensor_pair(entry, encoder.params, "encoder."));
    let key = network.prefix().trim_end_matches('.');
    let epoch = meta.epoch.map(|epoch| ("epoch", Object::Int(epoch as i64)));
    let object = [(key, Object::Dict(pairs.collect()))].into_iter().chain(epoch);
    write_torch(path, &Object::dict(object.chain(own_keys(&described(encoder.vit.config, meta)))))
}

/// Writes one encoder as a checkpoint of ours.
///
/// # Errors
/// When the disk refuses.
pub fn write_encoder(path: &Path, encoder: Encoder, network: Network, meta: &Meta) -> Result<(), CheckpointError> {
    let meta = Meta { source: Source::Ours, network: Some(network), ..described(encoder.vit.config, meta) };
    let prefix = network.prefix();
    write_views(path, &meta, None, &views(encoder, |name| format!("{prefix}{name}")))
}

/// Writes one encoder under timm's names, which are the reference's without a network.
///
/// # Errors
/// When the disk refuses.
pub fn write_timm(path: &Path, encoder: Encoder, network: Network, meta: &Meta) -> Result<(), CheckpointError> {
    let meta = Meta { source: Source::Other, network: Some(network), ..described(encoder.vit.config, meta) };
    write_views(path, &meta, None, &views(encoder, str::to_owned))
}

/// Writes one encoder as a folder that `transformers.IJepaModel.from_pretrained` loads: weights, `config.json`, and a
/// `preprocessor_config.json` that cuts and normalises images as in training and in the evaluation of the paper.
///
/// # Errors
/// When the disk refuses.
pub fn write_hugging_face(
    folder: &Path,
    encoder: Encoder,
    network: Network,
    meta: &Meta,
    (mean, std): ([f32; 3], [f32; 3]),
) -> Result<(), CheckpointError> {
    std::fs::create_dir_all(folder).map_err(|source| CheckpointError::Write {
        path: folder.to_path_buf(),
        action: "create the folder".to_string(),
        source,
    })?;
    let sizes = encoder.vit.config;
    let mut parts: Vec<(String, Vec<usize>, &[f32])> = Vec::new();
    for entry in &encoder.layout.entries {
        let names = hugging_face(bare(entry)).expect("every parameter of an encoder has a name there");
        let values = &encoder.params.as_slice()[entry.slot.range()];
        let mut shape = entry.shape.clone();
        shape[0] /= names.len();
        let each = values.chunks_exact(values.len() / names.len());
        parts.extend(names.into_iter().zip(each).map(|(name, values)| (name, shape.clone(), values)));
    }
    let views: Vec<View> =
        parts.iter().map(|(name, shape, values)| View { name: name.clone(), shape, values }).collect();
    let meta = Meta { source: Source::Other, network: Some(network), ..described(encoder.vit.config, meta) };
    write_views(&folder.join("model.safetensors"), &meta, None, &views)?;
    let (height, width) = sizes.image;
    let image_size = if height == width { json!(height) } else { json!([height, width]) };
    let config = json!({
        "architectures": ["IJepaModel"],
        "model_type": "ijepa",
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.hidden,
        "mlp_ratio": sizes.hidden as f64 / sizes.width as f64,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "layer_norm_eps": NORM_EPS_F64,
        "image_size": image_size,
        "patch_size": sizes.patch,
        "num_channels": sizes.channels,
        "qkv_bias": true,
        "torch_dtype": "float32",
    });
    write_json(&folder.join("config.json"), &config)?;
    // A picture whose shorter side is as long as the crop's longer one covers it; a shorter one would be padded with black.
    let side = height.max(width);
    let preprocessor = json!({
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": true,
        "do_resize": true,
        "size": {"shortest_edge": side * 256 / 224},
        "resample": BILINEAR,
        "do_center_crop": true,
        "crop_size": {"height": height, "width": width},
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": mean.map(decimal),
        "image_std": std.map(decimal),
    });
    write_json(&folder.join("preprocessor_config.json"), &preprocessor)
}

/// Pillow's number of the filter.
const BILINEAR: u8 = 2;
const NORM_EPS_F64: f64 = 1e-6;
const _: () = assert!(NORM_EPS_F64 as f32 == NORM_EPS);

/// The shortest decimal that is this f32, as an f64: 0.485 instead of 0.48500001430511475.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// With what others cannot know from the tensors.
fn described(sizes: VitConfig, meta: &Meta) -> Meta {
    Meta { heads: Some(sizes.heads), image: Some(sizes.image), ..meta.clone() }
}

fn views<'a>(encoder: Encoder<'a>, name: impl Fn(&str) -> String) -> Vec<View<'a>> {
    encoder.layout.entries.iter().map(|entry| view(name(bare(entry)), entry, encoder.params)).collect()
}

fn tensor<'a>(entry: &Entry, blob: &'a Buf) -> Object<'a> {
    Object::Tensor(entry.shape.clone(), &blob.as_slice()[entry.slot.range()])
}

/// `module.NAME` and the tensor, as DDP names it.
fn tensor_pair<'a>(entry: &Entry, blob: &'a Buf, prefix: &str) -> (Object<'a>, Object<'a>) {
    let name = entry.name.strip_prefix(prefix).unwrap_or(&entry.name);
    (Object::Text(format!("module.{name}")), tensor(entry, blob))
}
