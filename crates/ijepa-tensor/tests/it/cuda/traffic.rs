//! In what order do kernels read and write? That is counted without a GPU, on rows as wide as ViT-H/14's.

use super::kernels::State;
use super::machine::{Machine, Traffic, machine};
use crate::values;
use ijepa_tensor::Slot;
use ijepa_tensor::cuda::calls::{self, Attended, Summed};
use ijepa_tensor::cuda::launch::Launch;
use ijepa_tensor::ops::{adamw, assemble, attention, layer_norm};
use std::collections::BTreeMap;

const ROWS: usize = 16;
const WIDTH: usize = 1280;

/// Bytes of moved sectors for each byte read and written, at most, and turns of shared memory for each that is needed.
type Bounds = [f64; 3];

/// Of kernels that are not named: whole sectors, and no turn too many.
const ORDERLY: Bounds = [1.05, 1.05, 1.0];

#[track_caller]
fn assert_orderly(
    machine: &Machine,
    launches: impl IntoIterator<Item = Launch>,
    others: &[(&str, Bounds)],
) -> BTreeMap<String, Traffic> {
    let kernels = machine.traffic(launches).expect("accesses are watched");
    for (name, _) in others {
        assert!(kernels.contains_key(*name), "{name} was not started");
    }
    for (kernel, traffic) in &kernels {
        eprintln!("{kernel:<34} {traffic:.2?}");
        let bounds = others.iter().find(|(name, _)| name == kernel).map_or(ORDERLY, |(_, bounds)| *bounds);
        let measured = [traffic.excess[0], traffic.excess[1], traffic.turns];
        let orderly = measured.iter().zip(bounds).all(|(&measured, bound)| measured <= bound);
        assert!(orderly && traffic.bytes[1] > 0, "{kernel}: {traffic:?}, at most {bounds:?}");
    }
    kernels
}

#[test]
fn kernels_over_rows_move_whole_sectors() {
    let Some(machine) = machine().filter(Machine::watches) else { return };
    let size = (ROWS, WIDTH);
    let [x, y] = [1, 2].map(|seed| machine.bf16(&values(ROWS * WIDTH, seed)));
    let table = machine.buffer(&values(ROWS * WIDTH, 3));
    let backwards: Vec<u32> = (0..ROWS as u32).rev().collect();
    let (starts, order) = calls::inverse(&backwards, ROWS);
    let [index, starts, order] = [&backwards, &starts, &order].map(|list| machine.buffer(list));
    let stats = machine.buffer(&[0.5f32; 2 * ROWS]);
    let (norm, summed) = (layer_norm::Shape { rows: ROWS, width: WIDTH, eps: 1e-6 }, Summed::all(ROWS, WIDTH));
    let parts = machine.empty_f32(calls::layer_norm_parts(norm).max(summed.parts()));
    let affine = (table.at(), table.at().bytes(4 * WIDTH));
    let shape = assemble::Shape { blocks: 2, batch: 2, context: 3, target: 1, width: WIDTH };
    let mut launches = vec![
        calls::layer_norm_forward(y.at(), stats.at(), x.at(), Some(affine), norm),
        calls::layer_norm_backward(y.at(), true, parts.at(), x.at(), x.at(), stats.at(), Some(affine.0), norm),
        calls::gelu_forward(y.at(), x.at(), size),
        calls::gelu_backward(y.at(), x.at(), y.at(), x.at(), size),
        calls::gather_forward(y.at(), x.at(), index.at(), size),
        calls::gather_backward(y.at(), true, x.at(), (starts.at(), order.at()), size),
        calls::position_forward(y.at(), x.at(), table.at(), index.at(), size),
        calls::assemble_forward(y.at(), x.at(), (table.at(), table.at()), index.at(), shape),
        calls::assemble_backward_context(y.at(), true, x.at(), shape),
        calls::smooth_l1_forward(stats.at(), y.at(), x.at(), size),
        calls::smooth_l1_backward(y.at(), stats.at(), y.at(), x.at(), size),
        calls::add_forward(y.at(), x.at(), ROWS * WIDTH),
    ];
    launches.extend(calls::column_sums((table.at(), true), parts.at(), x.at(), summed));
    // A lane has 8 values of a row; as f32 they take two requests, each of half sectors, whose other halves the cache has.
    let others = [
        ("assemble_forward", [2.0, 1.05, 1.0]),   // mask token and positions
        ("column_parts", [1.05, 2.0, 1.0]),       // sums
        ("layer_norm_backward", [1.2, 1.5, 1.0]), // the weight, and sums of its gradient
        ("layer_norm_forward", [1.6, 1.05, 1.0]), // weight and bias
        ("position_forward", [1.7, 1.05, 1.0]),
        ("smooth_l1_forward", [1.05, f64::INFINITY, 1.0]), // one value a row
    ];
    let kernels = assert_orderly(&machine, launches, &others);
    assert_eq!(kernels["smooth_l1_forward"].bytes[1], 4 * ROWS as u64);
}

#[test]
fn the_optimiser_moves_whole_sectors_and_each_value_once() {
    let Some(machine) = machine().filter(Machine::watches) else { return };
    let len = 40_000;
    let grads = machine.buffer(&vec![0.5f32; len]);
    let state = State::new(&machine, &vec![0.5; len], len, len);
    let segment = adamw::Segment { slot: Slot { offset: 0, len }, moments: 0, weight_decay: 0.05, rate: 1.0 };
    let pieces = calls::pieces(&[segment]);
    let list = machine.buffer(&pieces);
    let step = adamw::Step { number: 1, learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, momentum: 0.996 };
    let launch = calls::adamw(state.blobs(), grads.at(), (list.at(), pieces.len()), step);
    let [read, written] = assert_orderly(&machine, [launch], &[])["adamw"].bytes;
    let least = 20 * len as u64; // five values are read, four written, and two halves
    assert!(read < least + least / 50 && written == least, "{read} and {written} bytes, {least} are enough");
}

#[test]
fn attention_moves_whole_sectors_and_keeps_the_banks_of_shared_memory_busy() {
    let Some(machine) = machine().filter(Machine::watches) else { return };
    // Two of ViT-H/14's heads.
    let shape = attention::Shape { batch: 1, queries: 128, tokens: 128, heads: 2, width: 160 };
    let len = shape.tokens * shape.width;
    let [qkv, dqkv] = [1, 2].map(|seed| machine.bf16(&values(3 * len, seed)));
    let (out, dout) = (machine.empty_bf16(len), machine.bf16(&values(len, 3)));
    let [sums, means] = [(); 2].map(|()| machine.empty_f32(shape.heads * shape.queries));
    let (parts, gradients) = (calls::joint(qkv.at(), shape.width), calls::joint(dqkv.at(), shape.width));
    let attended = Attended { dout: dout.at(), out: out.at(), sums: sums.at(), means: means.at() };
    let mut launches = vec![calls::attention_forward(out.at(), sums.at(), parts, shape)];
    launches.extend(calls::attention_backward(gradients, attended, parts, shape));
    // The 160 bytes of a row are copied by ten lanes, which shifts banks from row to row.
    let others = ["attention_forward_80", "attention_backward_queries_80", "attention_backward_keys_80"];
    assert_orderly(&machine, launches, &others.map(|kernel| (kernel, [1.05, 1.05, 1.2])));
}
