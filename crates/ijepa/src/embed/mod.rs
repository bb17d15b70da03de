//! `ijepa embed`: images to features, in a file that other tools read.

pub(crate) mod write;

use std::sync::Arc;

use anyhow::Result;
use ijepa_data::{EvalConfig, EvalLoader, Fit, Split, Storage};
use serde::Serialize;

use crate::cli::EmbedArgs;
use crate::exit::{Exit, Failure};
use crate::extract::Encoder;
use crate::log::progress::Progress;
use crate::opening;
use crate::{output, precision};
use write::{Batch, Layout};

/// Batches made ahead of the one that the encoder works on.
const QUEUE: usize = 4;

/// What `--json` prints.
#[derive(Serialize)]
struct Written {
    files: Vec<String>,
    images: usize,
    /// Width of a pooled feature.
    width: usize,
    /// Tokens of an image and their width, where they are written.
    tokens: Option<(usize, usize)>,
    labelled: bool,
    unreadable: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(args: &EmbedArgs) -> Result<Exit> {
    let precision = precision::bf16(args.bf16, "--bf16")?;
    let mut encoder = Encoder::load_for(&args.checkpoint, &args.encoder, args.encoder.pool)?;
    encoder.precision = precision;
    let dataset = Arc::new(opening::open(&args.data, Split::Train, 0, Storage::default())?);
    let labels = dataset.labels();
    let sizes = encoder.vit.config;
    let layout = Layout {
        width: encoder.width(args.encoder.pool),
        tokens: args.tokens.then(|| (sizes.patches(), sizes.width)),
        labelled: labels.is_some(),
    };
    let mut writer = write::create(&args.out, layout)?;
    let config = EvalConfig {
        batch_size: args.encoder.batch,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        queue: QUEUE,
        transform: encoder.transform(Fit::Cut),
    };
    let mut loader = EvalLoader::start(Arc::clone(&dataset), config)?;
    let memory = ijepa_tensor::Pool::on(encoder.params.device());
    let mut progress = Progress::start(dataset.len() as u64, 0);
    let (mut images, mut unreadable) = (0, Vec::new());
    while let Some(batch) = loader.next()? {
        for image in batch.unreadable {
            progress.warning(&format!("left out: {}", image.error));
            unreadable.push(dataset.name(image.index));
        }
        let count = batch.indices.len();
        if count == 0 {
            continue;
        }
        let (pooled, tokens) = encoder.forward(&memory, &batch.images, count, args.encoder.pool);
        let paths: Vec<String> = batch.indices.iter().map(|&index| dataset.name(index)).collect();
        let label = |labels: &Vec<u32>| batch.indices.iter().map(|&i| i64::from(labels[i])).collect();
        let labels: Vec<i64> = labels.as_ref().map_or_else(Vec::new, label);
        let tokens = if args.tokens { tokens.to_vec() } else { Vec::new() };
        writer.write(layout, Batch { paths: &paths, labels: &labels, pooled: &pooled, tokens: &tokens })?;
        images += count;
        progress.advance((images + unreadable.len()) as u64, "images");
    }
    progress.finish();
    if images == 0 {
        return Err(Failure::new(Exit::Data, format!("{}: no image could be read", args.data))
            .remedy("the warnings above name them; mend or remove them")
            .into());
    }
    let files = writer.finish()?;
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    if args.json {
        let labelled = layout.labelled;
        let (width, tokens) = (layout.width, layout.tokens);
        output::json(&Written { files, images, width, tokens, labelled, unreadable })?;
    } else {
        let left_out = match unreadable.len() {
            0 => String::new(),
            count => format!(", {count} left out"),
        };
        let shape = format!("{images} images × {} numbers{left_out}", layout.width);
        output::result(&format!("{shape}, in {}", files.join(", ")))?;
    }
    Ok(Exit::Done)
}
