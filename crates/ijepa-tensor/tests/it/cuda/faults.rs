//! The checks on kernels find what they are there for, and only that.

use super::machine::{Machine, machine};
use ijepa_tensor::cuda::launch::{Argument, Launch};

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
