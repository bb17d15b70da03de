//! Features of images by ViT-B/16 at 224 pixels.

use anyhow::Result;
use ijepa_model::saved;
use ijepa_model::vit::{Patches, all_patches};
use ijepa_tensor::{Pool, Precision, Tape, View, instruction_set, roof, threads};
use serde::Serialize;

use super::shapes::Shape;
use super::{median_ms, noise, peak_bytes};
use crate::cli::{BenchEmbedArgs, BenchShape};
use crate::exit::Exit;
use crate::{output, plan, precision};

#[derive(Serialize)]
struct Report {
    ms: f64,
    img_per_s: f64,
    gflops: f64,
    peak_gflops: f64,
    peak_share: f64,
    peak_bytes: Option<u64>,
    threads: usize,
    instructions: &'static str,
    /// Of tokens in bfloat16: the norm of the difference from f32 over the norm.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<f64>,
}

/// Runs the command.
pub(super) fn run(args: &BenchEmbedArgs) -> Result<Exit> {
    let config = Shape::of(BenchShape::S3).encoder;
    let (batch, n) = (args.batch, config.patches());
    let (layout, vit) = saved::encoder(config);
    let params = layout.init(0, 0.02);
    let images = noise(batch * config.channels * config.image.0 * config.image.1, 1);
    let index = all_patches(batch, n);
    let pool = Pool::new();
    let precision = precision::bf16(args.bf16, "--bf16")?;
    let tokens = |precision| {
        let mut tape = Tape::inference(&pool, params.view()).in_precision(precision);
        let patches = Patches { images: View::Cpu(&images), batch, index: &index, kept: n };
        let tokens = vit.forward(&mut tape, patches);
        tape.mean_tokens(&tokens, n);
        tokens
    };
    let ms = median_ms(args.repeat, || drop(tokens(precision)));
    let peak_bytes = peak_bytes();
    let error = args.bf16.then(|| relative_error(tokens(precision).as_slice(), tokens(Precision::F32).as_slice()));
    let gflop = plan::forward_flop(&config, batch) / 1e9;
    let (gflops, peak_gflops) = (gflop / ms * 1e3, roof::peak_gflops(precision, threads::count()));
    let report = Report {
        ms,
        img_per_s: batch as f64 / ms * 1e3,
        gflops,
        peak_gflops,
        peak_share: gflops / peak_gflops,
        peak_bytes,
        threads: threads::count(),
        instructions: instruction_set().unwrap_or("unknown"),
        error,
    };
    if args.json {
        output::json(&report)?;
    } else {
        output::result(&format!(
            "ViT-B/16 at 224: {ms:.1} ms for {batch} images, {:.1} images/s, {gflops:.0} GFLOP/s: {:.0} % of {peak_gflops:.0}{}",
            report.img_per_s,
            100.0 * report.peak_share,
            error.map_or(String::new(), |error| format!(", tokens {:.2} % from those in f32", 100.0 * error))
        ))?;
    }
    Ok(Exit::Done)
}

fn relative_error(got: &[f32], exact: &[f32]) -> f64 {
    let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>();
    let difference = squares(&mut got.iter().zip(exact).map(|(got, exact)| got - exact));
    (difference / squares(&mut exact.iter().copied())).sqrt()
}
