//! `ijepa bench step|embed|ops|data`: how fast is this machine, and how much of it is used?

mod data;
mod embed;
mod ops;
pub(crate) mod shapes;
mod step;

use std::time::Instant;

use anyhow::Result;

use crate::cli::BenchCommand;
use crate::exit::Exit;

/// Runs the command.
pub(crate) fn run(command: &BenchCommand) -> Result<Exit> {
    match command {
        BenchCommand::Step(args) => step::run(args),
        BenchCommand::Embed(args) => embed::run(args),
        BenchCommand::Ops(args) => ops::run(args),
        BenchCommand::Data(args) => data::run(args),
    }
}

/// Median milliseconds of `count` calls, after two that do not count.
fn median_ms(count: usize, mut call: impl FnMut()) -> f64 {
    call();
    call();
    let mut times: Vec<f64> = (0..count)
        .map(|_| {
            let began = Instant::now();
            call();
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// The most memory that this process has held, in bytes; absent where the system does not say.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Values between −1 and 1 that are the same in every run.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}
