//! Images a second from a data set to the batches that a training step takes.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use ijepa_data::{Dataset, LoaderConfig, Spent, Split, TrainLoader, TruncateOver};
use ijepa_tensor::threads;
use serde::Serialize;

use crate::cli::BenchDataArgs;
use crate::config::{self, Config};
use crate::exit::Exit;
use crate::opening;
use crate::output;
use crate::run::storage_of;

/// Batches ahead of the one that is taken, as in pretraining.
const QUEUE: usize = 4;

#[derive(Serialize)]
struct Report {
    images: usize,
    seconds: f64,
    img_per_s: f64,
    threads: usize,
    img_per_s_per_thread: f64,
    /// Of one image, on one thread.
    read_ms: f64,
    decode_ms: f64,
    transform_ms: f64,
    /// Until a batch was there, for one of its images.
    wait_ms: f64,
    crop: usize,
    batch: usize,
    /// Unreadable images that others stood in for.
    skipped: u64,
}

/// Runs the command.
pub(super) fn run(args: &BenchDataArgs) -> Result<Exit> {
    let config = configuration(args)?;
    let dataset = Arc::new(opening::open(&args.data, Split::Train, config.meta.seed, storage_of(&config))?);
    let report = measure(&dataset, &config, args.images)?;
    if args.json {
        output::json(&report)?;
    } else {
        output::result(&table(&report))?;
    }
    Ok(Exit::Done)
}

/// The run file's values. A crop that is given with `--crop` brings masks along that suit it: they cost next to nothing, but they need
/// a grid.
fn configuration(args: &BenchDataArgs) -> Result<Config> {
    let Some(crop) = args.crop else { return Ok(config::load(args.config.as_deref(), &args.set)?.0) };
    let (config, _) = config::load(args.config.as_deref(), &args.set)?;
    let patches = [config.mask.patch_size, 16, 14, 8, 7, 6, 5, 4];
    let patch = patches.into_iter().find(|patch| crop.is_multiple_of(*patch) && crop / patch > 5);
    let mut sets = vec!["mask.sampler=fixed".to_owned(), "mask.min_keep=4".to_owned()];
    sets.extend_from_slice(&args.set);
    sets.extend(patch.map(|patch| format!("mask.patch_size={patch}")));
    sets.push(format!("data.crop_size={crop}"));
    Ok(config::load(args.config.as_deref(), &sets)?.0)
}

fn measure(dataset: &Arc<Dataset>, config: &Config, images: usize) -> Result<Report> {
    let batch = config.data.batch_size.min(dataset.len());
    let loader = LoaderConfig {
        seed: config.meta.seed,
        batch_size: batch,
        rank: 0,
        world: 1,
        accumulate: 1,
        truncate_over: TruncateOver::Rank,
        drop_last: true,
        shuffle_window: config.data.shuffle_window,
        threads: threads::count(),
        queue: QUEUE,
        start_step: 0,
        stop_step: u64::MAX, // the threads are as busy at the end as before
        transform: config::train_transform(config),
        masks: config::mask_config(config),
        skip_limit: config.data.skip_limit as u64,
    };
    let mut loader = TrainLoader::start(Arc::clone(dataset), loader)?;
    let mut skipped = 0;
    // What is taken first was made while nobody took anything.
    for _ in 0..QUEUE {
        if let Some(batch) = loader.next()? {
            loader.recycle(batch.images);
        }
    }
    let (began, before) = (Instant::now(), loader.spent());
    let batches = images.div_ceil(batch);
    for _ in 0..batches {
        if let Some(batch) = loader.next()? {
            skipped = batch.skipped;
            loader.recycle(batch.images);
        }
    }
    let (seconds, after) = (began.elapsed().as_secs_f64(), loader.spent());
    let images = batches * batch;
    let ms = |of: fn(&Spent) -> std::time::Duration| (of(&after) - of(&before)).as_secs_f64() * 1e3 / images as f64;
    let img_per_s = images as f64 / seconds;
    Ok(Report {
        images,
        seconds,
        img_per_s,
        threads: threads::count(),
        img_per_s_per_thread: img_per_s / threads::count() as f64,
        read_ms: ms(|spent| spent.read),
        decode_ms: ms(|spent| spent.decode),
        transform_ms: ms(|spent| spent.transform),
        wait_ms: ms(|spent| spent.wait),
        crop: config.data.crop_size,
        batch,
        skipped,
    })
}

fn table(report: &Report) -> String {
    let Report { images, seconds, img_per_s, threads, img_per_s_per_thread, .. } = report;
    let mut lines = vec![format!(
        "{img_per_s:.0} images/s on {threads} threads, {img_per_s_per_thread:.0} on each: {images} images in {seconds:.1} s, crops of {}, batches of {}",
        report.crop, report.batch
    )];
    let worked = report.read_ms + report.decode_ms + report.transform_ms;
    for (stage, ms) in [("read", report.read_ms), ("decode", report.decode_ms), ("transform", report.transform_ms)] {
        lines
            .push(format!("  {stage:<10} {ms:>8.3} ms an image {:>4.0} %", 100.0 * ms / worked.max(f64::MIN_POSITIVE)));
    }
    if report.skipped > 0 {
        lines.push(format!("  {} unreadable images were passed over: ijepa data check names them", report.skipped));
    }
    lines.join("\n")
}
