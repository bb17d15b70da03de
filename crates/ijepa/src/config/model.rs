//! Which networks, masks and crops does a configuration mean?

use ijepa_data::{MaskConfig, Normalisation, TrainTransform};
use ijepa_model::variants::variant;
use ijepa_model::{PredictorConfig, VitConfig};

use super::{Choice, Config, Sampler, TruncateOver};

/// The encoder: `meta.model_name`'s sizes, each of which `meta.enc_*` may replace. Another width keeps the shape of the MLP.
pub(crate) fn encoder_config(config: &Config) -> VitConfig {
    let named = variant(config.meta.model_name.name()).expect("every name of a run file is a variant's");
    let width = config.meta.enc_emb_dim.unwrap_or(named.width);
    VitConfig {
        image: (config.data.crop_size, config.data.crop_size),
        patch: config.mask.patch_size,
        channels: 3,
        width,
        depth: config.meta.enc_depth.unwrap_or(named.depth),
        heads: config.meta.enc_heads.unwrap_or(named.heads),
        hidden: width * named.hidden / named.width,
    }
}

/// The predictor.
pub(crate) fn predictor_config(config: &Config) -> PredictorConfig {
    PredictorConfig { width: config.meta.pred_emb_dim, depth: config.meta.pred_depth }
}

/// The masks, on the encoder's grid.
pub(crate) fn mask_config(config: &Config) -> MaskConfig {
    let mask = &config.mask;
    let pair = |[least, most]: [f64; 2]| (least, most);
    MaskConfig {
        grid: encoder_config(config).grid(),
        sampler: match mask.sampler {
            Sampler::Reference => ijepa_data::Sampler::Reference,
            Sampler::Fixed => ijepa_data::Sampler::Fixed,
        },
        pred_mask_scale: pair(mask.pred_mask_scale),
        enc_mask_scale: pair(mask.enc_mask_scale),
        aspect_ratio: pair(mask.aspect_ratio),
        num_pred_masks: mask.num_pred_masks,
        num_enc_masks: mask.num_enc_masks,
        min_keep: mask.min_keep,
        allow_overlap: mask.allow_overlap,
    }
}

/// Over which images masks are cut to equal length.
pub(crate) fn truncate_over(config: &Config) -> ijepa_data::TruncateOver {
    match config.mask.truncate_over {
        TruncateOver::Rank => ijepa_data::TruncateOver::Rank,
        TruncateOver::Global => ijepa_data::TruncateOver::Global,
    }
}

/// What happens to a training image.
pub(crate) fn train_transform(config: &Config) -> TrainTransform {
    let data = &config.data;
    TrainTransform {
        crop_size: data.crop_size,
        crop_scale: (data.crop_scale[0] as f32, data.crop_scale[1] as f32),
        horizontal_flip: data.use_horizontal_flip,
        color_distortion: data.use_color_distortion,
        color_jitter_strength: data.color_jitter_strength as f32,
        gaussian_blur: data.use_gaussian_blur,
        scaled_decoding: data.scaled_decoding,
        normalisation: normalisation(config),
    }
}

/// From bytes to values.
pub(crate) fn normalisation(config: &Config) -> Normalisation {
    Normalisation { mean: config.data.mean.map(|x| x as f32), std: config.data.std.map(|x| x as f32) }
}
