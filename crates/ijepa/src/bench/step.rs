//! One training step: target encoder, encoder, predictor, backward, AdamW, moving average; of a table's sizes or a run file's.

use anyhow::Result;
use ijepa_data::Masks;
use ijepa_model::jepa::{Batch, Jepa};
use ijepa_model::optimiser;
use ijepa_model::schedule::Schedule;
use ijepa_tensor::ops::adamw;
use ijepa_tensor::{Buf, Pool, Precision, View, instruction_set, roof, threads};
use serde::Serialize;

use super::shapes::Shape;
use super::{median_ms, noise, peak_bytes};
use crate::cli::BenchStepArgs;
use crate::config::{self, Bfloat16};
use crate::exit::Exit;
use crate::plan::{self, Cpu, Drawn, Manner, Sizes, Work};
use crate::{output, precision};

#[derive(Serialize)]
struct Report {
    /// Of the table, or a run file.
    shape: String,
    recompute: bool,
    ms: f64,
    img_per_s: f64,
    gflops: f64,
    /// Of what encoder and predictor multiply in.
    peak_gflops: f64,
    peak_share: f64,
    peak_bytes: Option<u64>,
    /// As `plan` has it, from the peak and the bandwidth of this moment.
    planned_ms: f64,
    planned_bytes: f64,
    threads: usize,
    instructions: &'static str,
}

/// What is timed.
struct Subject {
    name: String,
    /// On average, and the greatest.
    sizes: (Sizes, Sizes),
    /// Of the steps, in turn.
    masks: Vec<Masks>,
    manner: Manner,
}

/// Runs the command.
pub(super) fn run(args: &BenchStepArgs) -> Result<Exit> {
    let subject = subject(args)?;
    let asked = if args.bf16.is_some() { "--bf16" } else { "meta.bfloat16_on_cpu" };
    let precisions = precision::of_networks(subject.manner.bfloat16, asked)?;
    let ms = step_ms(&subject, args.steps, precisions);
    let peak_bytes = peak_bytes();
    let threads = threads::count();
    let gflops = Work::of(&subject.sizes.0).total() / ms / 1e6;
    let cpu = Cpu::measure();
    let peak_gflops =
        if precisions.1 == Precision::F32 { cpu.peak_gflops } else { roof::peak_gflops(precisions.1, threads) };
    let (planned_seconds, planned_bytes) = plan::of_step(subject.sizes, subject.manner, cpu);
    let report = Report {
        shape: subject.name,
        recompute: subject.manner.recompute,
        ms,
        img_per_s: subject.sizes.0.batch as f64 / ms * 1e3,
        gflops,
        peak_gflops,
        peak_share: gflops / peak_gflops,
        peak_bytes,
        planned_ms: 1e3 * planned_seconds,
        planned_bytes,
        threads,
        instructions: instruction_set().unwrap_or("unknown"),
    };
    if args.json {
        output::json(&report)?;
    } else {
        let memory = report.peak_bytes.map_or("unknown".to_owned(), crate::inspect::bytes);
        output::result(&format!(
            "{}: {:.1} ms a step, {:.0} images/s, {:.0} GFLOP/s: {:.0} % of {:.0}, {memory} at most, {threads} threads, {}; planned {:.1} ms, {}",
            report.shape,
            ms,
            report.img_per_s,
            gflops,
            100.0 * report.peak_share,
            peak_gflops,
            report.instructions,
            report.planned_ms,
            crate::inspect::bytes(report.planned_bytes as u64)
        ))?;
    }
    Ok(Exit::Done)
}

fn subject(args: &BenchStepArgs) -> Result<Subject> {
    if args.config.is_none() && args.set.is_empty() {
        let shape = Shape::of(args.shape);
        let (name, masks) = (format!("{:?}", args.shape), vec![shape.masks()]);
        let manner = Manner { recompute: args.recompute, bfloat16: args.bf16.unwrap_or(Bfloat16::None), accumulate: 1 };
        return Ok(Subject { name, sizes: (shape.sizes(), shape.sizes()), masks, manner });
    }
    let (config, _) = config::load(args.config.as_deref(), &args.set)?;
    let Drawn { masks, mean, longest } = plan::drawn(&config)?;
    let of_run = Manner::of(&config);
    Ok(Subject {
        name: args.config.as_ref().map_or("the reference's values".to_owned(), |path| path.display().to_string()),
        sizes: (mean, longest),
        masks,
        manner: Manner {
            recompute: args.recompute || of_run.recompute,
            bfloat16: args.bf16.unwrap_or(of_run.bfloat16),
            accumulate: 1,
        },
    })
}

fn step_ms(subject: &Subject, steps: usize, precisions: (Precision, Precision)) -> f64 {
    let Subject { sizes: (sizes, _), manner, .. } = *subject;
    let mut model = Jepa { recompute: manner.recompute, ..Jepa::new(sizes.encoder, sizes.predictor) };
    (model.target_precision, model.precision) = precisions;
    let mut state = model.init(0, 0.02);
    let mut grads = Buf::zeros(model.layout.len);
    let (height, width) = sizes.encoder.image;
    let images = noise(sizes.batch * sizes.encoder.channels * height * width, 1);
    let mut masks = subject.masks.iter().cycle();
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
        let masks = masks.next().expect("there are masks, again and again");
        let batch = Batch { images: View::Cpu(&images), masks };
        let targets = model.targets(&pool, state.target.view(), batch);
        adamw::clear(grads.view_mut());
        model.loss_and_gradients(&pool, (&state.params, &mut grads), batch, &targets, 1.0);
        optimiser::step(&model, &mut state, &grads, &schedule);
    })
}
