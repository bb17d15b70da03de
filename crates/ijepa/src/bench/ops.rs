//! Each op alone, against the ceiling that binds it: multiply-adds for products, memory for the rest.

use anyhow::Result;
use ijepa_tensor::gemm::{Gemm, Layout, gemm};
use ijepa_tensor::ops::{adamw, attention, layer_norm, linear};
use ijepa_tensor::{Buf, Precision, Slot, View, roof, threads};
use serde::Serialize;

use super::shapes::Shape;
use super::{median_ms, noise};
use crate::cli::{BenchOpsArgs, BenchShape};
use crate::exit::Exit;
use crate::output;

#[derive(Serialize)]
struct Report {
    threads: usize,
    peak_gflops: f64,
    bandwidth_gb: f64,
    ops: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    group: String,
    op: String,
    ms: f64,
    /// GFLOP/s, or GB/s for ops that memory binds.
    rate: f64,
    unit: &'static str,
    /// Share of the ceiling.
    share: f64,
}

struct Bench {
    rows: Vec<Row>,
    repeat: usize,
    peak: f64,
    bandwidth: f64,
}

/// Runs the command.
pub(super) fn run(args: &BenchOpsArgs) -> Result<Exit> {
    let peak = roof::peak_gflops(Precision::F32, threads::count());
    let bandwidth = roof::bandwidth(256 << 20);
    let mut bench = Bench { rows: Vec::new(), repeat: args.repeat, peak, bandwidth };
    for side in [512, 1024, 2048] {
        bench.product("squares", &format!("{side}³"), (side, side, side), (Layout::Plain, Layout::Plain));
    }
    let shapes = match args.shape {
        Some(shape) => vec![shape],
        None => vec![BenchShape::S1, BenchShape::S2, BenchShape::S3],
    };
    for shape in shapes {
        bench.shape(&format!("{shape:?}"), &Shape::of(shape));
    }
    let report = Report { threads: threads::count(), peak_gflops: peak, bandwidth_gb: bandwidth, ops: bench.rows };
    if args.json {
        output::json(&report)?;
    } else {
        output::result(&table(&report))?;
    }
    Ok(Exit::Done)
}

impl Bench {
    fn push(&mut self, group: &str, op: String, work: f64, bound: Bound, call: impl FnMut()) {
        let ms = median_ms(self.repeat, call);
        let rate = work / ms * 1e3 / 1e9;
        let (unit, roof) = match bound {
            Bound::Compute => ("GFLOP/s", self.peak),
            Bound::Memory => ("GB/s", self.bandwidth),
        };
        self.rows.push(Row { group: group.to_owned(), op, ms, rate, unit, share: rate / roof });
    }

    fn product(&mut self, group: &str, name: &str, (m, n, k): (usize, usize, usize), (a, b): (Layout, Layout)) {
        let (left, right) = (noise(m * k, 1), noise(k * n, 2));
        let mut c = vec![0.0; m * n];
        let shape = Gemm { m, n, k, a, b, accumulate: false };
        self.push(group, format!("{name} ({m}, {n}, {k})"), 2.0 * (m * n * k) as f64, Bound::Compute, || {
            gemm(&mut c, &left, &right, shape);
        });
    }

    /// The products of one layer: forward, and backward if it learns.
    fn layer(&mut self, group: &str, name: &str, (rows, inputs, outputs): (usize, usize, usize), learns: bool) {
        use Layout::{Plain, Transposed};
        self.product(group, name, (rows, outputs, inputs), (Plain, Transposed));
        if learns {
            self.product(group, &format!("{name} dx"), (rows, inputs, outputs), (Plain, Plain));
            self.product(group, &format!("{name} dw"), (outputs, inputs, rows), (Transposed, Plain));
        }
    }

    fn block(&mut self, group: &str, name: &str, rows: usize, width: usize, learns: bool) {
        let mut layer = |op: &str, inputs, outputs| {
            self.layer(group, &format!("{name} {op}"), (rows, inputs, outputs), learns);
        };
        layer("qkv", width, 3 * width);
        layer("proj", width, width);
        layer("fc1", width, 4 * width);
        layer("fc2", 4 * width, width);
    }

    fn shape(&mut self, group: &str, shape: &Shape) {
        let (width, batch, (blocks, target)) = (shape.encoder.width, shape.batch, shape.targets);
        let tokens = shape.context + target;
        self.block(group, "target", batch * shape.encoder.patches(), width, false);
        self.block(group, "encoder", batch * shape.context, width, true);
        self.block(group, "predictor", batch * blocks * tokens, shape.predictor.width, true);
        let group = format!("{group} other");
        self.attention(&group, "target", (batch, shape.encoder.patches(), shape.encoder.heads, width));
        self.attention(&group, "encoder", (batch, shape.context, shape.encoder.heads, width));
        self.attention(&group, "predictor", (batch * blocks, tokens, shape.encoder.heads, shape.predictor.width));
        self.norm(&group, batch * blocks * tokens, shape.predictor.width);
        self.fused(&group, batch * blocks * tokens, shape.predictor.width);
        self.optimiser(&group, 12 * 12 * width * width);
    }

    fn attention(&mut self, group: &str, name: &str, (batch, tokens, heads, width): (usize, usize, usize, usize)) {
        let shape = attention::Shape { batch, queries: tokens, tokens, heads, width };
        let rows = batch * tokens;
        let (qkv, dout) = (noise(rows * 3 * width, 1), noise(rows * width, 2));
        let (mut out, mut sums, mut dqkv) =
            (Buf::zeros(rows * width), Buf::zeros(rows * heads), Buf::zeros(rows * 3 * width));
        let flop = (4 * batch * tokens * tokens * width) as f64;
        self.push(group, format!("attention {name} {batch}×{tokens}×{width}"), flop, Bound::Compute, || {
            attention::forward(out.view_mut(), sums.view_mut(), attention::joint(View::Cpu(&qkv), width), shape);
        });
        // Five products where the forward pass has two.
        self.push(group, format!("attention {name} backward"), 2.5 * flop, Bound::Compute, || {
            let (gradients, parts) =
                (attention::Gradients::Joint(dqkv.view_mut()), attention::joint(View::Cpu(&qkv), width));
            attention::backward(gradients, View::Cpu(&dout), out.view(), parts, sums.view(), shape);
        });
    }

    fn norm(&mut self, group: &str, rows: usize, width: usize) {
        let shape = layer_norm::Shape { rows, width, eps: 1e-6 };
        let (x, dy, weight) = (noise(rows * width, 1), noise(rows * width, 2), noise(width, 3));
        let (mut stats, mut dx, mut sums) = (Buf::zeros(2 * rows), Buf::zeros(rows * width), Buf::zeros(2 * width));
        let bytes = (4 * rows * width) as f64;
        self.push(group, format!("layer norm statistics ({rows}, {width})"), bytes, Bound::Memory, || {
            layer_norm::statistics(stats.view_mut(), View::Cpu(&x), shape);
        });
        self.push(group, format!("layer norm backward ({rows}, {width})"), 4.0 * bytes, Bound::Memory, || {
            let (dx, sums) = (dx.view_mut(), sums.view_mut());
            layer_norm::backward(
                dx,
                true,
                sums,
                View::Cpu(&dy),
                View::Cpu(&x),
                stats.view(),
                Some(View::Cpu(&weight)),
                shape,
            );
        });
    }

    /// The MLP's second layer with the GELU before it.
    fn fused(&mut self, group: &str, rows: usize, width: usize) {
        let shape = linear::Shape { rows, inputs: 4 * width, outputs: width };
        let (x, dy) = (noise(rows * 4 * width, 1), noise(rows * width, 2));
        let (weight, bias) = (noise(4 * width * width, 3), noise(width, 4));
        let (mut y, mut dx, mut dweight) =
            (Buf::zeros(rows * width), Buf::zeros(rows * 4 * width), Buf::zeros(4 * width * width));
        let flop = (8 * rows * width * width) as f64;
        let input = linear::Input::Gelu(View::Cpu(&x));
        let residual = View::Cpu(&dy);
        self.push(group, "gelu, fc2, residual".to_owned(), flop, Bound::Compute, || {
            linear::forward(
                y.view_mut(),
                input,
                View::Cpu(&weight),
                View::Cpu(&bias),
                Some(residual),
                shape,
                Precision::F32,
            );
        });
        let mut hidden = Buf::from_slice(&x);
        self.push(group, "gelu, fc2 dx".to_owned(), flop, Bound::Compute, || {
            let hidden = Some(hidden.view_mut());
            linear::backward_input(dx.view_mut(), View::Cpu(&dy), View::Cpu(&weight), hidden, shape, Precision::F32);
        });
        self.push(group, "fc2 dw".to_owned(), flop, Bound::Compute, || {
            let x = linear::Input::Plain(View::Cpu(&x));
            linear::backward_weight((dweight.view_mut(), true), View::Cpu(&dy), x, shape, Precision::F32);
        });
    }

    fn optimiser(&mut self, group: &str, len: usize) {
        let (mut params, mut m, mut v) = (Buf::zeros(len), Buf::zeros(len), Buf::zeros(len));
        let (grads, mut average) = (noise(len, 1), Buf::zeros(len));
        let segments = [adamw::Segment::of(Slot { offset: 0, len }, 0.04)];
        let step = adamw::Step { number: 1, learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, momentum: 0.99 };
        self.push(group, format!("adamw and moving average of {len}"), (9 * 4 * len) as f64, Bound::Memory, || {
            let blobs = adamw::Blobs {
                params: params.view_mut(),
                m: m.view_mut(),
                v: v.view_mut(),
                average: average.view_mut(),
            };
            adamw::forward(blobs, View::Cpu(&grads), &segments, step);
        });
    }
}

#[derive(Clone, Copy)]
enum Bound {
    Compute,
    Memory,
}

fn table(report: &Report) -> String {
    let mut lines = vec![format!(
        "{} threads, at most {:.0} GFLOP/s and {:.1} GB/s",
        report.threads, report.peak_gflops, report.bandwidth_gb
    )];
    let mut rows = report.ops.as_slice();
    while let Some(first) = rows.first() {
        let len = rows.iter().take_while(|row| row.group == first.group).count();
        let (group, rest) = rows.split_at(len);
        lines.push(format!("\n{:<44} {:>10} {:>10}          of roof", first.group, "ms", "rate"));
        lines.extend(group.iter().map(|row| {
            format!("{:<44} {:>10.3} {:>10.1} {:<8} {:>4.0} %", row.op, row.ms, row.rate, row.unit, 100.0 * row.share)
        }));
        if group.iter().all(|row| row.unit == "GFLOP/s") {
            let ms: f64 = group.iter().map(|row| row.ms).sum();
            let rate = group.iter().map(|row| row.rate * row.ms).sum::<f64>() / ms;
            lines.push(format!(
                "{:<44} {ms:>10.3} {rate:>10.1} {:<8} {:>4.0} %",
                "all",
                "GFLOP/s",
                100.0 * rate / report.peak_gflops
            ));
        }
        rows = rest;
    }
    lines.join("\n")
}
