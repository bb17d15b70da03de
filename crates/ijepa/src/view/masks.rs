//! Which patches does the model see, and which must it predict?

use std::path::{Path, PathBuf};

use anyhow::Result;
use ijepa_data::{
    EvalTransform, Filter, Fit, IndexSet, KeepRates, MaskConfig, Masks, Normalisation, Sample, Split, Storage,
    keep_rates,
};

use super::canvas::{Canvas, Rect, Rgb, heat};
use crate::cli::MasksArgs;
use crate::config::{self, Choice, Config, TruncateOver};
use crate::exit::{Exit, Failure};
use crate::opening;
use crate::output;
use crate::run::mask_failure;

/// Images in the picture.
const ROWS: usize = 4;
/// Pixels between tiles.
const GAP: usize = 8;
const PAPER: Rgb = [255, 255, 255];
const HIDDEN: Rgb = [38, 38, 42];
/// Frames of target blocks, told apart with any eyesight (Okabe and Ito).
const FRAMES: [Rgb; 6] = [[230, 159, 0], [86, 180, 233], [0, 158, 115], [204, 121, 167], [240, 228, 66], [213, 94, 0]];

/// The JSON of `view masks`.
#[derive(serde::Serialize)]
struct Shown {
    grid: [usize; 2],
    batch: usize,
    context_mean: f64,
    target_mean: f64,
    context_keep: Vec<Vec<f64>>,
    target_keep: Vec<Vec<f64>>,
}

/// Runs `view masks`.
pub(crate) fn run(args: &MasksArgs) -> Result<Exit> {
    let (config, _) = config::load(args.config.as_deref(), &args.set)?;
    let masks = config::mask_config(&config);
    masks.validate().map_err(|error| mask_failure(&error))?;
    let seed = args.seed.unwrap_or(config.meta.seed);
    let batch = args.batch.unwrap_or(match config.mask.truncate_over {
        TruncateOver::Rank => config.data.batch_size,
        TruncateOver::Global => config.data.batch_size * config.optimization.accumulate,
    });

    let rates = keep_rates(&masks, seed, batch, args.batches).map_err(|error| mask_failure(&error))?;
    let out = args.out.clone().or_else(|| (!args.json).then(|| PathBuf::from("masks.png")));
    if let Some(out) = &out {
        let sample = masks.sample(seed, 0, batch).map_err(|error| mask_failure(&error))?;
        let images = images(args.data.as_deref(), &config, ROWS.min(batch), seed)?;
        picture(&masks, &sample, &rates, &images, config.data.crop_size).save(out)?;
    }
    if args.json {
        output::json(&Shown {
            grid: [rates.grid.0, rates.grid.1],
            batch,
            context_mean: rates.context_mean,
            target_mean: rates.target_mean,
            context_keep: rows(&rates.context_keep, rates.grid.1),
            target_keep: rows(&rates.target_keep, rates.grid.1),
        })?;
    } else {
        output::result(&table(&config, &rates, args.batches, out.as_deref()))?;
    }
    Ok(Exit::Done)
}

fn rows(cells: &[f64], columns: usize) -> Vec<Vec<f64>> {
    cells.chunks(columns).map(<[f64]>::to_vec).collect()
}

/// The numbers in words, and both maps in per cent.
fn table(config: &Config, rates: &KeepRates, batches: usize, picture: Option<&Path>) -> String {
    let (height, width) = rates.grid;
    let cells = (height * width) as f64;
    let share = |mean: f64| format!("{mean:.1} of {cells} patches ({:.1} %)", 100.0 * mean / cells);
    let mut text = format!(
        "grid {height}×{width}, sampler {}, mean over {batches} batches of {}\n\
         context  {}\n\
         target   {}, {} blocks",
        config.mask.sampler.name(),
        rates.batch,
        share(rates.context_mean),
        share(rates.target_mean),
        config.mask.num_pred_masks
    );
    // Four characters a cell, two maps: what fits a terminal.
    if width <= 16 {
        let line = |keep: &[f64]| keep.iter().map(|share| format!("{:4.0}", 100.0 * share)).collect::<String>();
        text.push_str(&format!("\n\nkept, in per cent\n{:<1$}   target", "  context", 4 * width));
        for (context, target) in rates.context_keep.chunks(width).zip(rates.target_keep.chunks(width)) {
            text.push_str(&format!("\n{}   {}", line(context), line(target)));
        }
    }
    if let Some(picture) = picture {
        let most = 100.0 * most_kept(rates);
        text.push_str(&format!(
            "\n\nwrote {} (maps: dark blue is never kept, yellow is {most:.0} %)",
            picture.display()
        ));
    }
    text
}

/// Images to draw on, values 0..255, (s, s, 3) each: from the data, or plain grey.
fn images(data: Option<&str>, config: &Config, count: usize, seed: u64) -> Result<Vec<Vec<u8>>> {
    let side = config.data.crop_size;
    let Some(data) = data else {
        return Ok(vec![vec![170; side * side * 3]; count]);
    };
    let dataset = opening::open(data, Split::Train, seed, Storage::default())?;
    // Spread over the data set, so that images of several classes are seen.
    let stride = (dataset.len() / count).max(1);
    let mut images = Vec::new();
    for index in (0..dataset.len()).step_by(stride).take(count) {
        match dataset.sample(index) {
            Ok(sample) => images.push(pixels(&sample, config, data)?),
            Err(error) => output::warning(&format!("left out: {error}")),
        }
    }
    if images.is_empty() {
        return Err(Failure::new(Exit::Data, format!("{data}: none of {count} images could be read"))
            .remedy("the warnings above name them; mend or remove them")
            .into());
    }
    Ok(images)
}

/// The middle of a sample as bytes (s, s, 3).
fn pixels(sample: &Sample, config: &Config, data: &str) -> Result<Vec<u8>> {
    let side = config.data.crop_size;
    let Normalisation { mean, std } = config::normalisation(config);
    let values = match sample {
        Sample::Picture(picture) => {
            let plain = Normalisation { mean: [0.0; 3], std: [1.0; 3] };
            let mut values = vec![0.0; 3 * side * side];
            EvalTransform { crop: (side, side), filter: Filter::Bilinear, fit: Fit::Cut, normalisation: plain }
                .apply(&mut values, picture);
            values
        }
        Sample::Normalised { size, values } => {
            if *size != (side, side) {
                return Err(Failure::usage(format!(
                    "{data} has images of {}×{} pixels, data.crop_size is {side}",
                    size.0, size.1
                ))
                .remedy(format!("--set data.crop_size={}", size.0))
                .into());
            }
            values
                .iter()
                .enumerate()
                .map(|(at, value)| value * std[at / (side * side)] + mean[at / (side * side)])
                .collect()
        }
    };
    let byte = |at: usize| (values[at % 3 * side * side + at / 3] * 255.0).round().clamp(0.0, 255.0) as u8;
    Ok((0..3 * side * side).map(byte).collect())
}

/// Rows: image, contexts, targets. Below: how often each patch is kept.
fn picture(config: &MaskConfig, masks: &Masks, rates: &KeepRates, images: &[Vec<u8>], side: usize) -> Canvas {
    let scale = (192 / side).max(1);
    let tile = side * scale;
    let columns = 1 + masks.context.len() + masks.targets.len();
    let step = tile + GAP;
    let width = GAP + columns.max(2) * step;
    let height = GAP + (images.len() + 1) * step + GAP;
    let mut canvas = Canvas::new(width, height, PAPER);
    let patch = tile / config.grid.1;
    let place = |row: usize, column: usize| (GAP + column * step, GAP + row * step);

    for (row, image) in images.iter().enumerate() {
        let show = |canvas: &mut Canvas, column: usize, light: &dyn Fn(usize) -> bool, dark: Rgb| {
            let (left, top) = place(row, column);
            for y in 0..tile {
                for x in 0..tile {
                    let cell = y / patch * config.grid.1 + x / patch;
                    let at = (y / scale * side + x / scale) * 3;
                    let colour = [image[at], image[at + 1], image[at + 2]];
                    canvas.put(left + x, top + y, if light(cell) { colour } else { mix(colour, dark) });
                }
            }
        };
        show(&mut canvas, 0, &|_| true, HIDDEN);
        for (k, context) in masks.context.iter().enumerate() {
            let visible = of_image(context, row);
            show(&mut canvas, 1 + k, &|cell| visible.contains(&(cell as u32)), HIDDEN);
        }
        for (j, target) in masks.targets.iter().enumerate() {
            let block = of_image(target, row);
            let column = 1 + masks.context.len() + j;
            show(&mut canvas, column, &|cell| block.contains(&(cell as u32)), PAPER);
            let (left, top) = place(row, column);
            let (first, last) = corners(block, config.grid.1);
            let frame = Rect {
                left: left + first.1 * patch,
                top: top + first.0 * patch,
                width: (last.1 - first.1 + 1) * patch,
                height: (last.0 - first.0 + 1) * patch,
            };
            canvas.frame(frame, (tile / 64).max(2), FRAMES[j % FRAMES.len()]);
        }
    }
    let most = most_kept(rates);
    for (column, keep) in [&rates.context_keep, &rates.target_keep].into_iter().enumerate() {
        let (left, top) = place(images.len(), column);
        for (cell, keep) in keep.iter().enumerate() {
            let (row, col) = (cell / config.grid.1, cell % config.grid.1);
            canvas.fill(
                Rect { left: left + col * patch, top: top + GAP + row * patch, width: patch, height: patch },
                heat(keep / most),
            );
        }
    }
    canvas
}

/// The greatest share of both maps: what their brightest colour stands for.
fn most_kept(rates: &KeepRates) -> f64 {
    rates.context_keep.iter().chain(&rates.target_keep).fold(f64::MIN_POSITIVE, |most, keep| most.max(*keep))
}

/// The patches of image `row` in a mask.
fn of_image(set: &IndexSet, row: usize) -> &[u32] {
    &set.indices[row * set.per_image..(row + 1) * set.per_image]
}

/// First and last (row, column) of a block.
fn corners(block: &[u32], columns: usize) -> ((usize, usize), (usize, usize)) {
    block.iter().fold(((usize::MAX, usize::MAX), (0, 0)), |(first, last), &patch| {
        let (row, column) = (patch as usize / columns, patch as usize % columns);
        ((first.0.min(row), first.1.min(column)), (last.0.max(row), last.1.max(column)))
    })
}

/// One part of `colour` in five.
fn mix(colour: Rgb, over: Rgb) -> Rgb {
    std::array::from_fn(|c| ((u16::from(colour[c]) + 4 * u16::from(over[c])) / 5) as u8)
}
