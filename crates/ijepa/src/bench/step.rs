//! One training step: target encoder, encoder, predictor, backward, AdamW, moving average.

use anyhow::Result;
use ijepa_model::jepa::{Batch, Jepa};
use ijepa_model::optimiser;
use ijepa_model::schedule::Schedule;
use ijepa_tensor::ops::adamw;
use ijepa_tensor::{Buf, Pool, Precision, View, instruction_set, roof, threads};
use serde::Serialize;

use super::shapes::Shape;
use super::{median_ms, noise, peak_bytes};
use crate::cli::BenchStepArgs;
use crate::exit::Exit;
use crate::{output, precision};

#[derive(Serialize)]
struct Report {
    shape: String,
    ms: f64,
    img_per_s: f64,
    gflops: f64,
    /// Of what encoder and predictor multiply in.
    peak_gflops: f64,
    peak_share: f64,
    peak_bytes: Option<u64>,
    threads: usize,
    instructions: &'static str,
}

/// Runs the command.
pub(super) fn run(args: &BenchStepArgs) -> Result<Exit> {
    let shape = Shape::of(args.shape);
    let precisions = precision::of_networks(args.bf16, "--bf16")?;
    let ms = step_ms(&shape, args.steps, precisions);
    let peak_bytes = peak_bytes();
    let threads = threads::count();
    let gflops = shape.gflop() / ms * 1e3;
    let peak_gflops = roof::peak_gflops(precisions.1, threads);
    let report = Report {
        shape: format!("{:?}", args.shape),
        ms,
        img_per_s: shape.batch as f64 / ms * 1e3,
        gflops,
        peak_gflops,
        peak_share: gflops / peak_gflops,
        peak_bytes,
        threads,
        instructions: instruction_set().unwrap_or("unknown"),
    };
    if args.json {
        output::json(&report)?;
    } else {
        let memory = report.peak_bytes.map_or("unknown".to_owned(), crate::inspect::bytes);
        output::result(&format!(
            "{}: {:.1} ms a step, {:.0} images/s, {:.0} GFLOP/s: {:.0} % of {:.0}, {memory} at most, {threads} threads, {}",
            report.shape,
            ms,
            report.img_per_s,
            gflops,
            100.0 * report.peak_share,
            peak_gflops,
            report.instructions
        ))?;
    }
    Ok(Exit::Done)
}

fn step_ms(shape: &Shape, steps: usize, precisions: (Precision, Precision)) -> f64 {
    let mut model = Jepa::new(shape.encoder, shape.predictor);
    (model.target_precision, model.precision) = precisions;
    let mut state = model.init(0, 0.02);
    let mut grads = Buf::zeros(model.layout.len);
    let (height, width) = shape.encoder.image;
    let images = noise(shape.batch * shape.encoder.channels * height * width, 1);
    let masks = shape.masks();
    let schedule = Schedule {
        warmup_steps: 0,
        cosine_steps: 1000,
        ema_steps: 1000.0,
        start_lr: 1e-4,
        lr: 1e-3,
        final_lr: 1e-6,
        weight_decay: 0.04,
        final_weight_decay: 0.4,
        ema: (0.996, 1.0),
    };
    let pool = Pool::new();
    median_ms(steps, || {
        let batch = Batch { images: View::Cpu(&images), masks: &masks };
        let targets = model.targets(&pool, state.target.view(), batch);
        adamw::clear(grads.view_mut());
        model.loss_and_gradients(&pool, &state.params, &mut grads, batch, &targets);
        optimiser::step(&model, &mut state, &grads, &schedule);
    })
}
