//! One training step: target encoder, encoder, predictor, backward, AdamW, moving average; of a table's sizes or a run file's.

use std::rc::Rc;

use anyhow::Result;
use ijepa_data::Masks;
use ijepa_model::jepa::{Batch, Jepa};
use ijepa_model::optimiser;
use ijepa_model::schedule::Schedule;
use ijepa_tensor::cuda::{Device, Uploads};
use ijepa_tensor::{Pool, Precision, View, instruction_set, roof, threads};
use serde::Serialize;

use super::shapes::Shape;
use super::{median_ms, noise, peak_bytes};
use crate::cli::BenchStepArgs;
use crate::config::{self, Bfloat16, Config};
use crate::device::{self, Place};
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
    /// As `plan` has it, from the peak and the bandwidth of this moment; absent for a GPU.
    planned_ms: Option<f64>,
    planned_bytes: Option<f64>,
    threads: usize,
    instructions: &'static str,
    /// The GPU's name, if one computed; peaks are its own, and the bytes those of its buffers.
    gpu: Option<String>,
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
    let timed = match Place::of(&args.device)?.open()? {
        Some(device) => on_gpu(&subject, args.steps, &device)?,
        None => on_cpu(&subject, args.steps, asked)?,
    };
    let Timed { ms, peak_bytes, peak_gflops, planned, gpu } = timed;
    let gflops = Work::of(&subject.sizes.0).total() / ms / 1e6;
    let report = Report {
        recompute: subject.manner.recompute,
        img_per_s: subject.sizes.0.batch as f64 / ms * 1e3,
        shape: subject.name,
        ms,
        gflops,
        peak_gflops,
        peak_share: gflops / peak_gflops,
        peak_bytes,
        planned_ms: planned.map(|(seconds, _)| 1e3 * seconds),
        planned_bytes: planned.map(|(_, bytes)| bytes),
        threads: threads::count(),
        instructions: instruction_set().unwrap_or("unknown"),
        gpu,
    };
    if args.json {
        output::json(&report)?;
    } else {
        output::result(&line(&report))?;
    }
    Ok(Exit::Done)
}

/// What a device gave.
struct Timed {
    ms: f64,
    peak_bytes: Option<u64>,
    peak_gflops: f64,
    /// Seconds and bytes, as `plan` has them.
    planned: Option<(f64, f64)>,
    gpu: Option<String>,
}

fn line(report: &Report) -> String {
    let memory = report.peak_bytes.map_or("unknown".to_owned(), crate::inspect::bytes);
    let Report { shape, ms, img_per_s, gflops, peak_gflops, threads, instructions, .. } = report;
    let share = 100.0 * report.peak_share;
    let speed = format!(
        "{shape}: {ms:.1} ms a step, {img_per_s:.0} images/s, {gflops:.0} GFLOP/s: {share:.0} % of {peak_gflops:.0}, {memory} at most"
    );
    match (&report.gpu, report.planned_ms.zip(report.planned_bytes)) {
        (Some(gpu), _) => format!("{speed}, {gpu}"),
        (None, Some((planned, bytes))) => {
            let bytes = crate::inspect::bytes(bytes as u64);
            format!("{speed}, {threads} threads, {instructions}; planned {planned:.1} ms, {bytes}")
        }
        (None, None) => format!("{speed}, {threads} threads, {instructions}"),
    }
}

fn on_gpu(subject: &Subject, steps: usize, device: &Rc<Device>) -> Result<Timed> {
    let sizes = &subject.sizes.0;
    device::check(&Jepa::new(sizes.encoder, sizes.predictor))?;
    let precisions = (Precision::F32, Precision::F32); // of a CPU's products
    let ms = device::guarded(|| Ok(step_ms(subject, steps, precisions, Some(device))))?;
    Ok(Timed {
        ms,
        peak_bytes: Some(device.allocated_bytes() as u64),
        peak_gflops: roof::product_gflops(device).map_err(device::failure)?,
        planned: None,
        gpu: Some(device.gpu().name().to_owned()),
    })
}

fn on_cpu(subject: &Subject, steps: usize, asked: &str) -> Result<Timed> {
    let precisions = precision::of_networks(subject.manner.bfloat16, asked)?;
    let ms = step_ms(subject, steps, precisions, None);
    let peak_bytes = peak_bytes();
    let cpu = Cpu::measure();
    let peak_gflops = match precisions.1 {
        Precision::F32 => cpu.peak_gflops,
        precision => roof::peak_gflops(precision, threads::count()),
    };
    let planned = Some(plan::of_step(subject.sizes, subject.manner, cpu));
    Ok(Timed { ms, peak_bytes, peak_gflops, planned, gpu: None })
}

fn subject(args: &BenchStepArgs) -> Result<Subject> {
    if args.config.is_none() && args.set.is_empty() {
        let shape = Shape::of(args.shape);
        let (name, masks) = (format!("{:?}", args.shape), vec![shape.masks()]);
        let bfloat16 = args.bf16.unwrap_or(Bfloat16::None);
        let manner = Manner { recompute: args.recompute, bfloat16, ..Manner::of(&Config::default()) };
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
            ..of_run
        },
    })
}

/// Median milliseconds; on a GPU with the images on their way to it, as in training.
fn step_ms(subject: &Subject, steps: usize, precisions: (Precision, Precision), device: Option<&Rc<Device>>) -> f64 {
    let Subject { sizes: (sizes, _), manner, .. } = *subject;
    let mut model = Jepa { recompute: manner.recompute, ..Jepa::new(sizes.encoder, sizes.predictor) };
    (model.target_precision, model.precision) = precisions;
    let mut state = model.init(0, 0.02);
    if let Some(device) = device {
        state = state.on(device);
    }
    let mut grads = state.params.zeros_beside(state.params.len());
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
    let pool = Pool::on(device);
    let mut uploads = device.map(Uploads::to);
    let upload = |uploads: &mut Option<Uploads>| uploads.iter_mut().for_each(|uploads| uploads.begin(&images));
    upload(&mut uploads);
    median_ms(steps, || {
        let masks = masks.next().expect("there are masks, again and again");
        let batch = Batch { images: uploads.as_ref().map_or(View::Cpu(&images), Uploads::view), masks };
        let targets = model.targets(&pool, state.target.view(), batch);
        let loss = model.loss_and_gradients(&pool, (&state.params, &mut grads, false), batch, &targets, 1.0, |_, _| {});
        upload(&mut uploads);
        loss.to_vec();
        optimiser::step(&model, &mut state, &grads, &schedule);
    })
}
