//! `ijepa plan`: what would a run take, in computing, memory, traffic and hours, on this machine or on cards that are not here?

mod device;
mod memory;
mod show;
#[cfg(test)]
mod tests;
mod time;
mod work;

use anyhow::Result;
use ijepa_data::{Masks, Split, batches_per_epoch};
use ijepa_model::Jepa;
use serde::Serialize;

use crate::cli::PlanArgs;
use crate::config::{self, Bfloat16, Config, Recompute};
use crate::exit::{Exit, Failure};
use crate::opening;
use crate::output;
use crate::pretrain::QUEUE;
use crate::run::{self, mask_failure};

use device::Device;
pub(crate) use device::{Cpu, Gpus};
use memory::{Memory, Precision, Setting};
use time::{GPU_SHARE, Share, Time, Traffic};
pub(crate) use work::{Sizes, Work, forward_flop};

/// Training images of ImageNet-1k (ILSVRC 2012).
const IMAGENET: usize = 1_281_167;

/// Batches of masks that are drawn.
const MASK_BATCHES: u64 = 24;

/// What is printed; the JSON of `plan`.
#[derive(Serialize)]
struct Plan {
    device: String,
    devices: usize,
    /// Whether it is a prediction from published figures alone.
    predicted_from_published_figures: bool,
    peak_flops: f64,
    peak_share: f64,
    memory_of_device_bytes: Option<f64>,
    /// Images of one device's step, and of all.
    batch: usize,
    global_batch: usize,
    context_patches: f64,
    target_patches: f64,
    parameters: Parameters,
    flop: Work,
    flop_total: f64,
    memory: Memory,
    memory_total_bytes: f64,
    fits: Option<bool>,
    traffic: Traffic,
    seconds: Time,
    step_seconds: f64,
    img_per_s: f64,
    /// Cores that prepare images for one device; on a CPU they are those that compute.
    loader_cores: f64,
    images: usize,
    images_from: String,
    steps_per_epoch: u64,
    epochs: usize,
    hours: f64,
    /// What moves memory and time, and how far.
    settings: Vec<Variation>,
    assumptions: Vec<String>,
    #[serde(skip)]
    networks: String,
}

/// Learnt values.
#[derive(Serialize)]
struct Parameters {
    encoder: usize,
    predictor: usize,
    target_encoder: usize,
}

/// A run with one setting changed.
#[derive(Serialize)]
struct Variation {
    setting: String,
    memory_total_bytes: f64,
    img_per_s: f64,
    fits: Option<bool>,
}

/// What follows from a configuration on a device.
struct Estimate {
    sizes: Sizes,
    model: Jepa,
    work: Work,
    memory: Memory,
    time: Time,
}

/// How a configuration is to be run.
#[derive(Clone, Copy)]
struct How<'a> {
    device: &'a Device,
    share: Share,
}

/// How the steps of a run are computed.
#[derive(Clone, Copy)]
pub(crate) struct Manner {
    /// Whether blocks are computed once more on the way back.
    pub(crate) recompute: bool,
    /// Networks in bfloat16, on a CPU.
    pub(crate) bfloat16: Bfloat16,
    /// Batches of a device in a step.
    pub(crate) accumulate: usize,
    /// Whether each of several devices moves its part of the parameters alone.
    pub(crate) shard_optimizer: bool,
    /// Bytes of gradients that are summed over devices at a time.
    pub(crate) bucket_bytes: f64,
}

impl Manner {
    pub(crate) fn of(config: &Config) -> Manner {
        Manner {
            recompute: config.meta.recompute == Recompute::Blocks,
            bfloat16: config.meta.bfloat16_on_cpu,
            accumulate: config.optimization.accumulate,
            shard_optimizer: config.distributed.shard_optimizer,
            bucket_bytes: 1e6 * config.distributed.bucket_mb,
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &PlanArgs) -> Result<Exit> {
    let (mut config, _) = config::load(args.config.as_deref(), &args.set)?;
    if let Some(data) = &args.data {
        config.data.path = Some(data.clone());
    }
    let (images, images_from) = images(args, &config)?;
    let (device, share) = match args.gpus {
        Some(gpus) => (Device::Gpus(gpus), Share::Assumed(GPU_SHARE)),
        None => (Device::Cpu(Cpu::measure()), Share::ByWidth),
    };
    let how = How { device: &device, share: args.share.map_or(share, Share::Given) };
    let plan = plan(&config, how, (images, images_from))?;
    if args.json {
        output::json(&plan)?;
    } else {
        output::result(&show::text(&plan, &device))?;
    }
    Ok(Exit::Done)
}

/// How many images, and who says so.
fn images(args: &PlanArgs, config: &Config) -> Result<(usize, String)> {
    if let Some(images) = args.images {
        return Ok((images, "--images".to_owned()));
    }
    let open = |spec: &str| opening::open(spec, Split::Train, config.meta.seed, run::storage_of(config));
    if let Some(spec) = &args.data {
        return Ok((open(spec)?.len(), spec.clone()));
    }
    let remote = |spec: &str| spec.starts_with("http://") || spec.starts_with("https://");
    let assumed = |why: String| (IMAGENET, format!("ImageNet-1k's training images are assumed: {why}"));
    if let Ok(spec) = run::data_of(config)
        && remote(&spec)
    {
        return Ok(assumed(format!("{spec} would have to be fetched; --images N, or --data {spec} to fetch it")));
    }
    Ok(match run::data_of(config).map(|spec| (open(&spec), spec)) {
        Ok((Ok(dataset), spec)) => (dataset.len(), spec),
        Ok((Err(error), _)) => assumed(format!("{error:#}")),
        Err(_) => assumed("no data is named; --data PATH or --images N say more".to_owned()),
    })
}

/// A run's first masks, as a device's step sees them, and what follows from their lengths.
pub(crate) struct Drawn {
    pub(crate) masks: Vec<Masks>,
    /// With the mean lengths, which decide the time.
    pub(crate) mean: Sizes,
    /// With the greatest lengths, which decide the memory.
    pub(crate) longest: Sizes,
}

/// Draws masks as a run does.
pub(crate) fn drawn(config: &Config) -> Result<Drawn> {
    let of_run = config::mask_config(config);
    of_run.validate().map_err(|error| mask_failure(&error))?;
    let batch = config.data.batch_size;
    let masks = (0..MASK_BATCHES).map(|step| of_run.sample(config.meta.seed, step, batch));
    let masks: Vec<Masks> = masks.collect::<Result<_, _>>().map_err(|error| mask_failure(&error))?;
    let lengths = |of: fn(&Masks) -> usize| {
        let lengths = masks.iter().map(of);
        (lengths.clone().sum::<usize>() as f64 / masks.len() as f64, lengths.max().unwrap_or_default() as f64)
    };
    let (context, target) = (lengths(|masks| masks.context[0].per_image), lengths(|masks| masks.targets[0].per_image));
    let sizes = |context, target| Sizes {
        encoder: config::encoder_config(config),
        predictor: config::predictor_config(config),
        batch,
        contexts: of_run.num_enc_masks,
        context,
        blocks: of_run.num_pred_masks,
        target,
    };
    let (mean, longest) = (sizes(context.0, target.0), sizes(context.1, target.1));
    Ok(Drawn { masks, mean, longest })
}

fn estimate(config: &Config, how: How) -> Result<Estimate> {
    // Batches ahead, the one that is used and the one that is handed back; on a card one is used while the next is copied.
    let batches = if matches!(how.device, Device::Cpu(_)) { QUEUE + 2 } else { 2 };
    let Drawn { mean, longest, .. } = drawn(config)?;
    Ok(estimate_of((mean, longest), Manner::of(config), how, batches))
}

fn estimate_of((sizes, longest): (Sizes, Sizes), manner: Manner, how: How, batches: usize) -> Estimate {
    let model = Jepa::new(sizes.encoder, sizes.predictor);
    let work = Work::of(&sizes);
    let (precision, threads) = match how.device {
        Device::Cpu(cpu) => (Precision::F32, cpu.threads),
        Device::Gpus(_) => (Precision::Mixed, 0),
    };
    let varying = sizes != longest;
    let shards = if manner.shard_optimizer { how.device.count() } else { 1 };
    let setting = Setting { precision, recompute: manner.recompute, shards, batches, varying, threads };
    let memory = Memory::of(&longest, &model, &setting);
    let time = Time::of(&sizes, &work, &model, how, manner);
    Estimate { sizes, model, work, memory, time }
}

/// Seconds and bytes of steps of mean and greatest sizes on one batch that is there already: what `bench step` holds against its
/// measurement.
pub(crate) fn of_step(sizes: (Sizes, Sizes), manner: Manner, cpu: Cpu) -> (f64, f64) {
    let how = How { device: &Device::Cpu(cpu), share: Share::ByWidth };
    let Estimate { memory, time, .. } = estimate_of(sizes, manner, how, 1);
    (time.total() - time.images, memory.total())
}

fn plan(config: &Config, how: How, (images, images_from): (usize, String)) -> Result<Plan> {
    let Estimate { sizes, model, work, memory, time } = estimate(config, how)?;
    let (devices, batch, accumulate) = (how.device.count(), sizes.batch, config.optimization.accumulate);
    let global_batch = batch * devices * accumulate;
    let steps_per_epoch = batches_per_epoch(images, global_batch, config.data.drop_last);
    if steps_per_epoch == 0 {
        return Err(Failure::usage(format!(
            "{images} images ({images_from}) are less than one step: data.batch_size is {batch} for each of {devices} devices, \
             optimization.accumulate {accumulate}"
        ))
        .remedy("--set data.batch_size=…, fewer devices, or more images")
        .into());
    }
    let fits = |total: f64| how.device.memory().map(|memory| total <= memory);
    let learnt = |encoder: bool| {
        let entries = model.layout.entries.iter().filter(|entry| entry.learnt());
        entries.filter(|entry| entry.name.starts_with("encoder.") == encoder).map(|entry| entry.slot.len).sum::<usize>()
    };
    let step_seconds = time.total();
    let again =
        if config.meta.recompute == Recompute::Blocks { work.encoder_again + work.predictor_again } else { 0.0 };
    let peak_share = (work.total() + again) * accumulate as f64 / time.products / how.device.peak();
    let epochs = config.optimization.epochs;
    Ok(Plan {
        device: match how.device {
            Device::Cpu(cpu) => cpu.name.clone(),
            Device::Gpus(gpus) => gpus.card.name.to_owned(),
        },
        devices,
        predicted_from_published_figures: matches!(how.device, Device::Gpus(_)),
        peak_flops: how.device.peak(),
        peak_share,
        memory_of_device_bytes: how.device.memory(),
        batch,
        global_batch,
        context_patches: sizes.context,
        target_patches: sizes.target,
        parameters: Parameters { encoder: learnt(true), predictor: learnt(false), target_encoder: learnt(true) },
        flop: work,
        flop_total: work.total(),
        memory,
        memory_total_bytes: memory.total(),
        fits: fits(memory.total()),
        traffic: Traffic::of(&model, how.device),
        seconds: time,
        step_seconds,
        img_per_s: global_batch as f64 / step_seconds,
        loader_cores: (batch * accumulate) as f64 / step_seconds * time::image_seconds(&sizes),
        images,
        images_from,
        steps_per_epoch,
        epochs,
        hours: step_seconds * steps_per_epoch as f64 * epochs as f64 / 3600.0,
        settings: variations(config, how, fits(memory.total()) == Some(false))?,
        assumptions: show::assumptions(config, how.device, how.share),
        networks: networks(&sizes),
    })
}

fn networks(sizes: &Sizes) -> String {
    let (encoder, predictor) = (&sizes.encoder, &sizes.predictor);
    let (rows, columns) = encoder.grid();
    format!(
        "encoder {}×{}×{} on {rows}×{columns} patches of {}, predictor {}×{}",
        encoder.width, encoder.depth, encoder.heads, encoder.patch, predictor.width, predictor.depth
    )
}

/// The same run with one setting changed, those that save memory; the largest batch that fits, where it does not.
fn variations(config: &Config, how: How, too_large: bool) -> Result<Vec<Variation>> {
    let changed = |setting: String, config: &Config| -> Result<Variation> {
        let Estimate { memory, time, sizes, .. } = estimate(config, how)?;
        let total = memory.total();
        let img_per_s = (sizes.batch * how.device.count() * config.optimization.accumulate) as f64 / time.total();
        let fits = how.device.memory().map(|memory| total <= memory);
        Ok(Variation { setting, memory_total_bytes: total, img_per_s, fits })
    };
    let with = |batch: usize, recompute: Recompute| {
        let mut config = config.clone();
        (config.data.batch_size, config.meta.recompute) = (batch, recompute);
        config
    };
    let (batch, recompute) = (config.data.batch_size, config.meta.recompute);
    let mut settings = Vec::new();
    if recompute == Recompute::Nothing {
        settings.push(changed("meta.recompute=blocks".to_owned(), &with(batch, Recompute::Blocks))?);
    }
    if batch > 1 {
        let half = format!("data.batch_size={}", batch / 2);
        settings.push(changed(half, &with(batch / 2, recompute))?);
    }
    if how.device.count() > 1 {
        let mut other = config.clone();
        other.distributed.shard_optimizer = !config.distributed.shard_optimizer;
        let name = format!("distributed.shard_optimizer={}", other.distributed.shard_optimizer);
        settings.push(changed(name, &other)?);
    }
    for recompute in [recompute, Recompute::Blocks].into_iter().take(if too_large { 2 } else { 0 }) {
        let (mut fits, mut too_many) = (0, batch);
        while too_many - fits > 1 {
            let middle = fits.midpoint(too_many);
            let memory = estimate(&with(middle, recompute), how)?.memory.total();
            match how.device.memory().is_some_and(|most| memory <= most) {
                true => fits = middle,
                false => too_many = middle,
            }
        }
        if fits > 0 && fits < batch - 1 {
            let also = if recompute == config.meta.recompute { "" } else { " meta.recompute=blocks" };
            settings.push(changed(format!("data.batch_size={fits}{also}"), &with(fits, recompute))?);
        }
    }
    settings.dedup_by(|a, b| a.setting == b.setting);
    Ok(settings)
}
