//! Every op's backward against the exact derivative of its reference.
//!
//! The adjoint test: for a direction v of one input and a direction u of the output, u·(J·v) from dual
//! numbers must equal (backward of u)·v. There is no step size, and a missing or doubled term shows.

use crate::{inputs, run, values};
use ijepa_tensor::cases::cases;
use ijepa_tensor::ops::linear::Linear;
use ijepa_tensor::scalar::Dual;
use ijepa_tensor::{Buf, Pool, Slot, Tape};

#[test]
fn every_backward_is_the_adjoint_of_its_forward() {
    for case in cases() {
        let inputs = inputs(&case);
        let out = run(&case, &inputs, None, 1).output.len();
        let u = values(out, 99);
        let outcome = run(&case, &inputs, Some(&u), 1);
        for (i, gradient) in outcome.gradients.iter().enumerate() {
            if !case.has_gradient(i) {
                continue;
            }
            let gradient = gradient.as_ref().unwrap_or_else(|| panic!("{case:?}: input {i} got no gradient"));
            // Several directions, so that no term hides behind a chance zero.
            for seed in 0..4 {
                let v = values(inputs[i].len(), 1000 + seed);
                let duals: Vec<Vec<Dual>> = inputs
                    .iter()
                    .enumerate()
                    .map(|(j, x)| {
                        let slope = |at: usize| if i == j { f64::from(v[at]) } else { 0.0 };
                        x.iter().enumerate().map(|(at, &x)| Dual { value: f64::from(x), slope: slope(at) }).collect()
                    })
                    .collect();
                let forward = case.reference(&duals);
                let exact: f64 = forward.iter().zip(&u).map(|(y, u)| y.slope * f64::from(*u)).sum();
                let terms: Vec<f64> = gradient.iter().zip(&v).map(|(g, v)| f64::from(*g) * f64::from(*v)).collect();
                let size = terms.iter().map(|t| t * t).sum::<f64>().sqrt().max(1e-3);
                let error = (terms.iter().sum::<f64>() - exact).abs() / size;
                assert!(
                    error < 2e-5,
                    "{case:?}, input {i}: error {error:e} ({} against {exact})",
                    terms.iter().sum::<f64>()
                );
            }
        }
    }
}

#[test]
fn gradients_add_up_over_calls() {
    for case in cases() {
        let inputs = inputs(&case);
        let u = values(run(&case, &inputs, None, 1).output.len(), 99);
        let once = run(&case, &inputs, Some(&u), 1);
        let twice = run(&case, &inputs, Some(&u), 2);
        for (i, (once, twice)) in once.gradients.iter().zip(&twice.gradients).enumerate() {
            let (Some(once), Some(twice)) = (once, twice) else {
                assert!(!case.has_gradient(i), "{case:?}: input {i} got no gradient");
                continue;
            };
            let size = once.iter().fold(1e-6_f32, |size, x| size.max(x.abs()));
            for (once, twice) in once.iter().zip(twice) {
                assert!((2.0 * once - twice).abs() <= 2e-5 * size, "{case:?}, input {i}: {once} once, {twice} twice");
            }
        }
    }
}

#[test]
fn fixed_tables_get_no_gradient() {
    for case in cases() {
        let inputs = inputs(&case);
        let u = values(run(&case, &inputs, None, 1).output.len(), 99);
        let outcome = run(&case, &inputs, Some(&u), 1);
        for (i, gradient) in outcome.gradients.iter().enumerate().filter(|(i, _)| !case.has_gradient(*i)) {
            assert!(gradient.iter().flatten().all(|&g| g == 0.0), "{case:?}: input {i}");
        }
    }
}

/// Weights (4, 4) and biases (4) of two layers, the second bias `overlap` values before its place.
fn layers(overlap: usize) -> [Linear; 2] {
    let slot = |offset, len| Slot { offset, len };
    [Linear { weight: slot(0, 16), bias: slot(16, 4) }, Linear { weight: slot(32, 16), bias: slot(48 - overlap, 4) }]
}

/// One step over these layers on gradients that hold `held`; what they hold then.
fn step(layers: &[Linear], held: &[f32], replace: bool) -> Vec<f32> {
    let (pool, params) = (Pool::new(), Buf::from_slice(&values(64, 1)));
    let mut grads = Buf::from_slice(held);
    let mut tape = Tape::training(&pool, params.view(), grads.view_mut()).replacing(replace);
    let mut y = tape.input(&values(12, 2), 3, 4);
    for &layer in layers {
        y = tape.linear(&y, layer);
    }
    tape.backward(&y);
    drop((y, tape));
    grads.to_vec()
}

#[test]
fn a_tape_that_replaces_leaves_nothing_of_the_last_step_and_one_that_adds_all_of_it() {
    let layers = layers(0);
    let both = step(&layers, &[0.0; 64], false);
    assert_eq!(step(&layers, &[f32::NAN; 64], true), both);
    let added = step(&layers, &[0.5; 64], false);
    assert!(added.iter().zip(&both).all(|(added, new)| (added - new - 0.5).abs() < 1e-6));
    // The second layer has no part in the next step, and the first one two.
    let next = step(&[layers[0], layers[0]], &both, true);
    assert_eq!(next, step(&[layers[0], layers[0]], &[0.0; 64], false));
    assert!(next[20..].iter().all(|gradient| *gradient == 0.0));
}

#[test]
#[should_panic(expected = "on a tape that replaces what was there")]
fn gradients_of_parts_that_overlap_are_refused_where_a_tape_replaces() {
    step(&layers(1), &[0.0; 64], true);
}
