//! Do the values make sense, each alone and together?
//!
//! Masks that a grid cannot give are the sampler's own business (`MaskConfig::validate` of ijepa-data); everything else is here.

use ijepa_model::variants::PATCHES_MAX;

use super::{Config, Origins, encoder_config};

/// Widest network, of tokens: several times the widest that anyone has trained.
const WIDTH_MAX: usize = 16_384;
/// Deepest network, of blocks.
const DEPTH_MAX: usize = 1000;

/// One line a problem, with the numbers and where they came from; empty when all is well.
pub(super) fn problems(config: &Config, origins: &Origins) -> Vec<String> {
    let mut problems = Vec::new();
    counts(config, origins, &mut problems);
    // Sums and products of sizes that are out of range need not fit a number.
    if problems.is_empty() {
        model(config, origins, &mut problems);
    }
    ranges(config, origins, &mut problems);
    schedules(config, origins, &mut problems);
    problems
}

fn counts(config: &Config, origins: &Origins, problems: &mut Vec<String>) {
    for (key, count, most) in [
        ("data.batch_size", config.data.batch_size, 1_000_000),
        ("data.crop_size", config.data.crop_size, 8192),
        ("eval.images", config.eval.images, 10_000_000),
        ("mask.num_enc_masks", config.mask.num_enc_masks, 1000),
        ("mask.num_pred_masks", config.mask.num_pred_masks, 1000),
        ("mask.patch_size", config.mask.patch_size, 8192),
        ("meta.pred_depth", config.meta.pred_depth, DEPTH_MAX),
        ("meta.pred_emb_dim", config.meta.pred_emb_dim, WIDTH_MAX),
        ("meta.enc_depth", config.meta.enc_depth.unwrap_or(1), DEPTH_MAX),
        ("meta.enc_emb_dim", config.meta.enc_emb_dim.unwrap_or(1), WIDTH_MAX),
        ("meta.enc_heads", config.meta.enc_heads.unwrap_or(1), WIDTH_MAX),
        ("optimization.accumulate", config.optimization.accumulate, 1_000_000),
        ("optimization.epochs", config.optimization.epochs, 1_000_000_000),
    ] {
        if !(1..=most).contains(&count) {
            problems.push(format!("{}: expected at least 1 and at most {most}, got {count}", origins.of(key)));
        }
    }
}

fn ranges(config: &Config, origins: &Origins, problems: &mut Vec<String>) {
    for (key, given, other) in
        [("eval.train", &config.eval.train, &config.eval.val), ("eval.val", &config.eval.val, &config.eval.train)]
    {
        if given.is_some() && other.is_none() {
            problems.push(format!(
                "{}: images to learn from and to judge are expected, got one of the two",
                origins.of(key)
            ));
        }
    }
    if config.logging.write_tag.is_empty() || config.logging.write_tag.contains(['/', '\\']) {
        let tag = &config.logging.write_tag;
        problems
            .push(format!("{}: expected the first part of a file name, got `{tag}`", origins.of("logging.write_tag")));
    }
    // Shares of an image: more than nothing, at most all of it.
    for (key, pair, most) in [
        ("data.crop_scale", config.data.crop_scale, 1.0),
        ("mask.enc_mask_scale", config.mask.enc_mask_scale, 1.0),
        ("mask.pred_mask_scale", config.mask.pred_mask_scale, 1.0),
        ("mask.aspect_ratio", config.mask.aspect_ratio, f64::INFINITY),
    ] {
        let [least, greatest] = pair;
        if least <= 0.0 || least > greatest || greatest > most {
            let bound = if most.is_finite() { " and at most 1" } else { "" };
            problems.push(format!(
                "{}: expected [least, most], above 0{bound}, least first, got [{least}, {greatest}]",
                origins.of(key)
            ));
        }
    }
    // Outside of these the values of an image are infinite or nothing in f32.
    if let Some(std) = config.data.std.iter().find(|std| !(1e-30..=1e30).contains(*std)) {
        problems
            .push(format!("{}: expected three numbers above 0, 1e-30 to 1e30, got {std:e}", origins.of("data.std")));
    }
    if let Some(mean) = config.data.mean.iter().find(|mean| mean.abs() > 1e30) {
        problems.push(format!("{}: expected three numbers, -1e30 to 1e30, got {mean:e}", origins.of("data.mean")));
    }
    if config.data.download_gb < 0.0 {
        problems.push(format!(
            "{}: expected gigabytes, or 0 for as many as there are, got {}",
            origins.of("data.download_gb"),
            config.data.download_gb
        ));
    }
    // MPI counts the values of a bucket in 31 bits.
    if !(config.distributed.bucket_mb >= 0.01 && config.distributed.bucket_mb <= 8000.0) {
        problems.push(format!(
            "{}: expected megabytes, 0.01 to 8000, got {}",
            origins.of("distributed.bucket_mb"),
            config.distributed.bucket_mb
        ));
    }
    // A hundred years; a time that a clock can count.
    if !(config.distributed.timeout_minutes > 0.0 && config.distributed.timeout_minutes <= 5e7) {
        problems.push(format!(
            "{}: expected minutes, more than 0 and at most 50000000, got {}",
            origins.of("distributed.timeout_minutes"),
            config.distributed.timeout_minutes
        ));
    }
    if config.meta.init_std <= 0.0 {
        problems.push(format!(
            "{}: expected a number above 0, got {}",
            origins.of("meta.init_std"),
            config.meta.init_std
        ));
    }
    // At 2.5 the hue already turns by the whole circle.
    if !(0.0..=2.5).contains(&config.data.color_jitter_strength) {
        let strength = config.data.color_jitter_strength;
        problems.push(format!("{}: expected 0 to 2.5, got {strength}", origins.of("data.color_jitter_strength")));
    }
}

fn model(config: &Config, origins: &Origins, problems: &mut Vec<String>) {
    let (size, patch) = (config.data.crop_size, config.mask.patch_size);
    if size % patch != 0 {
        problems.push(format!(
            "{} is {size}, which {} of {patch} does not divide; the nearest that fit are {}",
            origins.of("data.crop_size"),
            origins.of("mask.patch_size"),
            fitting(size, patch)
        ));
    }
    let encoder = encoder_config(config);
    if encoder.patches() > PATCHES_MAX {
        problems.push(format!(
            "{} is {size} and {} is {patch}: expected at most {PATCHES_MAX} patches of an image, got {}",
            origins.of("data.crop_size"),
            origins.of("mask.patch_size"),
            encoder.patches()
        ));
    }
    let encoder_origin = |key: &str, own: bool| origins.of(if own { key } else { "meta.model_name" });
    let heads_origin = encoder_origin("meta.enc_heads", config.meta.enc_heads.is_some());
    let widths = [
        ("encoder", encoder.width, encoder_origin("meta.enc_emb_dim", config.meta.enc_emb_dim.is_some())),
        ("predictor", config.meta.pred_emb_dim, origins.of("meta.pred_emb_dim")),
    ];
    for (network, width, origin) in widths {
        if width % encoder.heads != 0 || width % 4 != 0 {
            // The least number that both the heads and 4 divide.
            let step =
                (1..=4).map(|times| times * encoder.heads).find(|step| step % 4 == 0).expect("four times anything");
            problems.push(format!(
                "{origin}: the {network} is {width} wide; expected a multiple of the {} heads (the encoder's, {heads_origin}) and of 4 \
                 (for the sine and cosine positions of rows and columns), such as {}",
                encoder.heads,
                fitting(width, step)
            ));
        }
    }
}

/// The multiples of `step` around `value`: "208 or 224".
fn fitting(value: usize, step: usize) -> String {
    let below = value / step * step;
    if below == 0 { step.to_string() } else { format!("{below} or {}", below + step) }
}

fn schedules(config: &Config, origins: &Origins, problems: &mut Vec<String>) {
    let optimization = &config.optimization;
    for (key, value) in [
        ("optimization.start_lr", optimization.start_lr),
        ("optimization.lr", optimization.lr),
        ("optimization.final_lr", optimization.final_lr),
        ("optimization.weight_decay", optimization.weight_decay),
        ("optimization.final_weight_decay", optimization.final_weight_decay),
        ("optimization.warmup", optimization.warmup),
    ] {
        if value < 0.0 {
            problems.push(format!("{}: expected 0 or more, got {value}", origins.of(key)));
        }
    }
    let [first, last] = optimization.ema;
    if !(0.0..=1.0).contains(&first) || !(0.0..=1.0).contains(&last) || first > last {
        problems.push(format!(
            "{}: expected [first, last], between 0 and 1, not falling, got [{first}, {last}]",
            origins.of("optimization.ema")
        ));
    }
    if optimization.ipe_scale < 1.0 {
        // A shorter schedule would end before the run does: the momentum would pass its last value.
        problems.push(format!(
            "{}: expected 1 or more, got {}",
            origins.of("optimization.ipe_scale"),
            optimization.ipe_scale
        ));
    }
    if optimization.epochs > 0 && optimization.warmup >= optimization.epochs as f64 {
        problems.push(format!(
            "{} is {} epochs; expected fewer than {}, which is {}",
            origins.of("optimization.warmup"),
            optimization.warmup,
            origins.of("optimization.epochs"),
            optimization.epochs
        ));
    }
}
