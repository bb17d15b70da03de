//! The checks on kernels find what they are there for, and only that.

use super::machine::{Machine, machine, machine_of};
use crate::values;
use ijepa_tensor::cuda::launch::{Argument, Launch};
use ijepa_tensor::cuda::{calls, code};
use ijepa_tensor::ops::attention;

const THREADS: usize = 64;

#[test]
fn every_fault_of_a_kernel_is_reported_and_the_kernel_without_it_passes() {
    let Some(mut machine) = machine().filter(Machine::watches) else { return };
    for (kernel, report) in [
        ("neighbour_without_barrier", "since the last barrier"),
        ("read_before_write", "which no thread has written"),
        ("barrier_for_some", "some threads wait"),
        ("shuffle_for_some", "while others of its warp are at"),
        ("beyond_the_buffer", "writes byte 256 of a buffer of 256"),
        ("before_the_buffer", "reads byte -4 of a buffer of 256"),
        ("beyond_shared_memory", "shared memory at byte 256 of 256"),
        ("warp_barrier_between_warps", "since the last barrier"),
        ("copy_not_waited_for", "without having waited"),
        ("copy_over_what_others_read", "since the last barrier"),
    ] {
        for seed in 0..3 {
            machine.seed = seed;
            let y = machine.empty_f32(THREADS);
            let run = |fault| {
                let arguments = vec![y.at().into(), Argument { bits: fault, kind: b'i' }];
                let (threads, shared) = (THREADS as u32, 4 * THREADS as u32);
                let launch = Launch { kernel: kernel.into(), grid: [2, 1, 1], threads, shared, arguments };
                machine.try_run(&launch)
            };
            run(0).unwrap_or_else(|problem| panic!("{kernel}, seed {seed}: {problem}"));
            let problem = run(1).expect_err(kernel).to_string();
            assert!(problem.contains(report), "{kernel}, seed {seed}: {problem}");
        }
    }
}

#[test]
fn a_launch_that_does_not_fit_the_text_is_refused() {
    let Some(machine) = machine().filter(Machine::watches) else { return };
    let y = machine.empty_f32(THREADS);
    let launch = |kernel: &str, arguments: Vec<Argument>| {
        let launch = Launch { kernel: kernel.into(), grid: [1; 3], threads: 64, shared: 0, arguments };
        machine.try_run(&launch).expect_err("it does not fit").to_string()
    };
    assert!(launch("add_parts", vec![y.at().into()]).contains("takes FiFiii, is given F"));
    assert!(launch("no_such_kernel", vec![]).contains("has no kernel no_such_kernel"));
}

#[test]
fn ptx_that_was_changed_computes_something_else_or_is_refused() {
    let shape = attention::Shape { batch: 1, queries: 70, tokens: 70, heads: 1, width: 16 };
    let qkv = values(3 * 70 * 16, 1);
    let compute = |from: &str, to: &str| -> Option<Result<Vec<f32>, String>> {
        let mut changed = 0;
        let change = |part: Vec<u8>| {
            let text = String::from_utf8(part).expect("PTX is text");
            changed += text.matches(from).count();
            text.replace(from, to).into_bytes()
        };
        let ptx = code::embedded().1.into_iter().map(change).collect();
        assert!(changed > 0, "{from:?} is nowhere");
        let machine = match machine_of(ptx)? {
            Ok(machine) => machine,
            Err(error) => return Some(Err(error.to_string())),
        };
        let (qkv, out) = (machine.bf16(&qkv), machine.empty_bf16(70 * 16));
        let sums = machine.empty_f32(70);
        let launch = calls::attention_forward(out.at(), sums.at(), calls::joint(qkv.at(), 16), shape);
        Some(machine.try_run(&launch).map(|()| out.floats()).map_err(|error| error.to_string()))
    };
    let Some(right) = compute("bar.sync", "bar.sync") else { return };
    let right = right.expect("as it is, it runs");
    for (from, to) in [
        ("x4.trans.shared", "x4.shared"),
        ("bar.sync \t0;", ""),
        ("cp.async.wait_all;", ""),
        ("shfl.sync.bfly", "shfl.sync.down"),
        ("m16n8k16.row.col", "m16n8k16.row.row"),
        (".param .u32 attention_forward_16_param_8", ".param .u64 attention_forward_16_param_8"),
    ] {
        let got = compute(from, to).expect("there was a machine");
        assert!(got.as_ref().is_err() || got.as_ref().is_ok_and(|got| bits(got) != bits(&right)), "{from:?} to {to:?}");
        eprintln!("{from:?} to {to:?}: {}", got.err().unwrap_or_else(|| "other values".to_owned()));
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
