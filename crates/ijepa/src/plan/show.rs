//! A plan in words, with everything that it assumes.

use super::device::Device;
use super::time::{CPU_BFLOAT16, CPU_SLOWER, IMAGE_SECONDS, LINK_SHARE, Share};
use super::{Plan, Variation};
use crate::config::{Bfloat16, Choice, Config, Recompute, TruncateOver};
use crate::inspect;

/// What the figures rest on, one line each.
pub(super) fn assumptions(config: &Config, device: &Device, share: Share) -> Vec<String> {
    let mut lines = Vec::new();
    let said = match share {
        Share::ByWidth => format!(
            "products take {:.2} + {:.0}/width times as long as at that peak: measured by us for widths of 48 to 1280 on Zen 4 (docs/LOG.md)",
            CPU_SLOWER.0, CPU_SLOWER.1
        ),
        Share::Assumed(share) => format!(
            "{:.0} % of that peak in products: assumed; published trainings of transformers reach 29 to 50 % (--share changes it)",
            100.0 * share
        ),
        Share::Given(share) => format!("{:.0} % of that peak in products: --share", 100.0 * share),
    };
    match device {
        Device::Cpu(cpu) => {
            lines.push(format!(
                "peak {:.0} GFLOP/s of f32 multiply-adds and {:.1} GB/s of memory, both measured now on {} threads",
                cpu.peak_gflops, cpu.bandwidth, cpu.threads
            ));
            lines.push(said);
            if config.meta.bfloat16_on_cpu != Bfloat16::None {
                lines.push(format!(
                    "meta.bfloat16_on_cpu: {}, and networks in bfloat16 take {:.0} % of their time: measured by us on Zen 4",
                    config.meta.bfloat16_on_cpu.name(),
                    100.0 * CPU_BFLOAT16
                ));
            }
            lines.push(
                "nothing else runs on these cores, now or then: a machine at work measures a low peak".to_owned(),
            );
        }
        Device::Gpus(gpus) => {
            let card = gpus.card;
            lines.push(format!(
                "nothing here is measured: this program has not run on such a card yet; {:.0} TFLOP/s of dense bf16, {:.0} GB, {:.0} GB/s ({})",
                card.peak_tflops, card.memory_gb, card.bandwidth, card.source
            ));
            lines.push(said);
            if device.count() > 1 {
                let held = match config.distributed.shard_optimizer {
                    true => {
                        "every device holds all weights, and the moments of its shards (distributed.shard_optimizer)"
                    }
                    false => "every device holds all weights and moments",
                };
                lines.push(held.to_owned());
                lines.push(format!(
                    "links: NVLink {:.0} GB/s in one direction, {:.0} GB/s between nodes of eight cards, {:.0} % of it reached; \
                     gradients go to their owners in f32 while the way back goes on, parameters or sums come back when it is over",
                    card.link, card.network, 100.0 * LINK_SHARE
                ));
            }
            lines.push("activations and a copy of the weights in bf16, weights, gradients, moments and average in f32; 1.5 GB for CUDA and its libraries".to_owned());
        }
    }
    lines.push(format!(
        "an image costs a core {:.0} µs and {:.0} ns for each pixel of its crop: JPEG photos with 3.7 times as many pixels, measured by us on Zen 4",
        1e6 * IMAGE_SECONDS.0,
        1e9 * IMAGE_SECONDS.1
    ));
    lines.push(format!(
        "data.batch_size {} is that of one device, as in the reference; masks are cut to the shortest of its images",
        config.data.batch_size
    ));
    if config.mask.truncate_over == TruncateOver::Global {
        lines.push("mask.truncate_over: global cuts them a little shorter, which is not counted".to_owned());
    }
    if config.optimization.accumulate > 1 {
        lines.push(format!("optimization.accumulate: {} such batches a step", config.optimization.accumulate));
    }
    if config.meta.recompute == Recompute::Blocks {
        lines.push("meta.recompute: blocks, one more forward pass of encoder and predictor".to_owned());
    }
    lines
}

/// The plan for people.
pub(super) fn text(plan: &Plan, device: &Device) -> String {
    let mut lines = vec![match device {
        Device::Cpu(cpu) => format!("on this CPU: {}, {} threads", plan.device, cpu.threads),
        Device::Gpus(_) => format!(
            "on {} × {} in {} ({}): a prediction from published peaks, not measured",
            plan.devices,
            plan.device,
            if device.nodes() == 1 { "one node".to_owned() } else { format!("{} nodes", device.nodes()) },
            inspect::bytes(device.memory().unwrap_or_default() as u64)
        ),
    }];
    lines.push(format!("networks: {}", plan.networks));
    let millions = |count: usize| count as f64 / 1e6;
    lines.push(format!(
        "parameters: encoder {:.1} M, predictor {:.1} M, target encoder {:.1} M (not learnt)",
        millions(plan.parameters.encoder),
        millions(plan.parameters.predictor),
        millions(plan.parameters.target_encoder)
    ));
    lines.push(String::new());
    work(plan, &mut lines);
    memory(plan, &mut lines);
    time(plan, device, &mut lines);
    lines.push("what moves it".to_owned());
    lines.extend(plan.settings.iter().map(variation));
    lines.push(String::new());
    lines.push("assumed".to_owned());
    lines.extend(plan.assumptions.iter().map(|line| format!("  {line}")));
    lines.join("\n")
}

fn work(plan: &Plan, lines: &mut Vec<String>) {
    lines.push(format!(
        "a step: {} images a device{}, {:.1} context patches, {:.1} of a target block",
        plan.batch,
        if plan.global_batch > plan.batch { format!(", {} in all", plan.global_batch) } else { String::new() },
        plan.context_patches,
        plan.target_patches
    ));
    let total = plan.flop_total;
    let mut part = |name: &str, flop: f64| {
        lines.push(row(name, &flops(flop), &format!("{:>3.0} %", 100.0 * flop / total)));
    };
    part("target encoder", plan.flop.target_encoder);
    part("encoder", plan.flop.encoder);
    part("predictor", plan.flop.predictor);
    part("all products", total);
    lines.push(String::new());
}

fn memory(plan: &Plan, lines: &mut Vec<String>) {
    let bytes = |bytes: f64| inspect::bytes(bytes as u64);
    let of = plan.memory_of_device_bytes.map_or(String::new(), |of| format!(" of {}", bytes(of)));
    let verdict = match plan.fits {
        Some(false) => format!("DOES NOT FIT: {} are needed{of}", bytes(plan.memory_total_bytes)),
        _ => format!("{} at most{of}", bytes(plan.memory_total_bytes)),
    };
    lines.push(format!("memory of a device: {verdict}"));
    let memory = &plan.memory;
    for (name, part, what) in [
        ("weights", memory.weights, "encoder and predictor"),
        ("gradients", memory.gradients, ""),
        ("moments", memory.moments, "AdamW's two"),
        ("target encoder", memory.target_encoder, ""),
        ("activations", memory.activations, "kept for the way back"),
        ("workspace", memory.workspace, "comes and goes"),
        ("images", memory.images, "batches on their way"),
        ("program", memory.program, "and libraries"),
    ] {
        lines.push(row(name, &bytes(part), what));
    }
    lines.push(String::new());
}

fn time(plan: &Plan, device: &Device, lines: &mut Vec<String>) {
    let ms = |seconds: f64| if seconds < 10.0 { format!("{:.1} ms", 1e3 * seconds) } else { format!("{seconds:.1} s") };
    lines.push(format!("time: {} a step, {} images/s", ms(plan.step_seconds), rate(plan.img_per_s)));
    lines.push(row("products", &ms(plan.seconds.products), &format!("{:.0} % of the peak", 100.0 * plan.peak_share)));
    lines.push(row("optimiser", &ms(plan.seconds.optimiser), "and moving average, bound by memory"));
    match device {
        Device::Cpu(_) => lines.push(row("images", &ms(plan.seconds.images), "decoded on the same cores")),
        Device::Gpus(_) => {
            let cores = format!(
                "cores of the host for each device decode {:.0} images/s",
                plan.img_per_s / plan.devices as f64
            );
            lines.push(row("images", &format!("{:.1}", plan.loader_cores), &cores));
        }
    }
    if plan.devices > 1 {
        lines.push(row("network", &ms(plan.seconds.exchange), "that the way back does not hide"));
        lines.push(row(
            "  traffic",
            &inspect::bytes(plan.traffic.bytes as u64),
            &format!("into each device and out of it, in {}", ms(plan.traffic.seconds)),
        ));
    }
    lines.push(format!(
        "the run: {} images ({}), {} steps an epoch, {} epochs: {}",
        plan.images,
        plan.images_from,
        plan.steps_per_epoch,
        plan.epochs,
        duration(plan.hours)
    ));
    lines.push(String::new());
}

fn variation(variation: &Variation) -> String {
    let Variation { setting, memory_total_bytes, img_per_s, fits } = variation;
    let verdict = if *fits == Some(false) { ", does not fit" } else { "" };
    format!("  {setting}: {}{verdict}, {} images/s", inspect::bytes(*memory_total_bytes as u64), rate(*img_per_s))
}

fn row(name: &str, figure: &str, what: &str) -> String {
    format!("  {name:<16}{figure:>12}  {what}").trim_end().to_owned()
}

/// Images a second with as many digits as mean something.
fn rate(img_per_s: f64) -> String {
    if img_per_s < 10.0 { format!("{img_per_s:.2}") } else { format!("{img_per_s:.0}") }
}

fn flops(flop: f64) -> String {
    if flop >= 1e12 { format!("{:.1} TFLOP", flop / 1e12) } else { format!("{:.1} GFLOP", flop / 1e9) }
}

/// Hours in the unit that suits them.
fn duration(hours: f64) -> String {
    match hours {
        _ if hours < 1.0 => format!("{:.0} minutes", 60.0 * hours),
        _ if hours < 72.0 => format!("{hours:.1} hours"),
        _ => format!("{:.1} days", hours / 24.0),
    }
}
