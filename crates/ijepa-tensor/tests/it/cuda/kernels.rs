//! Kernels that have no row in the op table, and what the fused ones do beyond it.

use super::machine::{Half, Machine, Memory, machines, narrow, rounded, widen};
use crate::optimiser::segments;
use crate::values;
use ijepa_tensor::View;
use ijepa_tensor::cuda::calls::{self, Blobs};
use ijepa_tensor::ops::{adamw, gelu, patchify, statistics};
use ijepa_tensor::scalar::Dual;

/// One rounding to bf16, and the noise of f32.
#[track_caller]
fn assert_rounded(what: &str, got: &[f32], expected: &[f64]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*got) - expected).abs();
        assert!(error <= 1.01 / 256.0 * expected.abs() + 1e-6, "{what}, value {at}: {got} against {expected}");
    }
}

#[test]
fn gelu_is_the_exact_form_far_into_its_tail() {
    for machine in machines() {
        for (rows, width) in [(3, 7), (9, 264)] {
            // From −6 to 6: at −3 the tanh form is 10 % off.
            let x = rounded(&values(rows * width, 1).iter().map(|x| 3.0 * x).collect::<Vec<f32>>());
            let dy = rounded(&values(rows * width, 3));
            let (x_at, dy_at) = (machine.bf16(&x), machine.bf16(&dy));
            let [y, again, dx] = [(); 3].map(|()| machine.empty_bf16(rows * width));
            machine.run([
                calls::gelu_forward(y.at(), x_at.at(), (rows, width)),
                calls::gelu_backward(dx.at(), again.at(), dy_at.at(), x_at.at(), (rows, width)),
            ]);
            let duals: Vec<Dual> = x.iter().map(|x| Dual { value: f64::from(*x), slope: 1.0 }).collect();
            let mut expected = duals.clone();
            gelu::reference::forward(&mut expected, &duals);
            let values: Vec<f64> = expected.iter().map(|y| y.value).collect();
            let slopes: Vec<f64> = expected.iter().zip(&dy).map(|(y, dy)| y.slope * f64::from(*dy)).collect();
            assert_rounded("gelu", &y.floats(), &values);
            assert_rounded("gelu′", &dx.floats(), &slopes);
            assert_eq!(again.read(), y.read());
        }
    }
}

/// What the optimiser's kernel moves.
pub(super) struct State {
    params: Memory<f32>,
    moments: [Memory<f32>; 2],
    average: Memory<f32>,
    params_bf16: Memory<Half>,
    average_bf16: Memory<Half>,
    averaged: usize,
}

impl State {
    pub(super) fn new(machine: &Machine, params: &[f32], moments: usize, averaged: usize) -> State {
        let average = &params[..averaged];
        State {
            params: machine.buffer(params),
            moments: [(); 2].map(|()| machine.buffer(&vec![0.0; moments])),
            average: machine.buffer(average),
            params_bf16: machine.bf16(params),
            average_bf16: machine.bf16(average),
            averaged,
        }
    }

    pub(super) fn blobs(&self) -> Blobs {
        let [m, v] = self.moments.each_ref().map(Memory::at);
        Blobs {
            params: self.params.at(),
            m,
            v,
            average: self.average.at(),
            params_bf16: self.params_bf16.at(),
            average_bf16: self.average_bf16.at(),
            averaged: self.averaged,
        }
    }
}

#[test]
fn adamw_follows_its_statement_for_ten_steps_and_leaves_the_copies_that_products_read() {
    for machine in machines() {
        let (len, averaged, segments) = segments();
        let start = values(len, 1);
        let state = State::new(&machine, &start, len - 50, averaged);
        let (pieces, count) = (calls::pieces(&segments), calls::pieces(&segments).len());
        let pieces = machine.buffer(&pieces);
        let mut exact: Vec<_> = start.iter().map(|&p| (f64::from(p), 0.0, 0.0, f64::from(p))).collect();
        for number in 1..=10 {
            let grads = values(len, 100 + number);
            let learning_rate = 1e-2 / number as f64;
            let step = adamw::Step { number, learning_rate, beta1: 0.9, beta2: 0.999, eps: 1e-8, momentum: 0.9 };
            let grads_at = machine.buffer(&grads);
            machine.run([calls::adamw(state.blobs(), grads_at.at(), (pieces.at(), count), step)]);
            for segment in segments {
                for i in segment.slot.range() {
                    let g = f64::from(grads[i]);
                    exact[i] = adamw::reference::forward(exact[i], g, (segment.weight_decay, segment.rate), step);
                }
            }
        }
        let (moved, before) = (state.params.read(), state.average.read());
        // As after an exchange: the copies are stale.
        let stale = machine.bf16(&vec![0.0; len]);
        let average_at = (state.average.at(), state.average_bf16.at(), averaged);
        machine.run([calls::follow(average_at, (state.params.at(), stale.at()), (pieces.at(), count), 0.75)]);
        let (stale, followed) = (stale.floats(), state.average.read());
        for i in segments.iter().flat_map(|segment| segment.slot.range()) {
            assert_eq!(stale[i], rounded(&moved[i..=i])[0]);
            if i < averaged {
                assert_eq!(followed[i], before[i] * 0.75 + moved[i] * 0.25);
            }
        }
        assert_eq!((&stale[100..150], &followed[100..150]), (&[0.0; 50][..], &before[100..150]));
        assert_eq!(state.average_bf16.floats(), rounded(&followed));

        let (params, average) = (moved, before);
        for (i, exact) in exact.iter().enumerate() {
            assert!((f64::from(params[i]) - exact.0).abs() < 2e-6, "parameter {i}: {} against {}", params[i], exact.0);
            if let Some(&got) = average.get(i) {
                assert!((f64::from(got) - exact.3).abs() < 2e-6, "average {i}: {got} against {}", exact.3);
            }
        }
        assert_eq!(params[100..150], start[100..150]);
        assert_eq!(state.params_bf16.floats(), rounded(&params));
    }
}

#[test]
fn norms_and_deviations_are_those_of_the_cpu() {
    for machine in machines() {
        for len in [1, 1000, 200_000] {
            let x = values(len, 1);
            let (x_at, parts, out) = (
                machine.buffer(&x),
                machine.buffer(&vec![f64::NAN; calls::square_parts(len)]),
                machine.buffer(&[f64::NAN]),
            );
            machine.run([
                calls::sums_of_squares(parts.at(), x_at.at(), len),
                calls::sum_parts(out.at(), parts.at(), calls::square_parts(len)),
            ]);
            let (got, expected) =
                (out.read()[0].sqrt(), statistics::norm(View::Cpu(&x), std::slice::from_ref(&(0..len))));
            assert!((got - expected).abs() < 1e-6 * expected, "{len}: {got} against {expected}");
        }
        for (rows, width) in [(1, 5), (40, 70)] {
            let x = rounded(&values(rows * width, 2));
            let (x_at, deviations, mean) = (machine.bf16(&x), machine.empty_f32(width), machine.empty_f32(1));
            machine.run([
                calls::column_deviations(deviations.at(), x_at.at(), (rows, width)),
                calls::sum_values(mean.at(), deviations.at(), width, 1.0 / width as f64),
            ]);
            let (got, expected) = (f64::from(mean.read()[0]), statistics::mean_column_deviation(View::Cpu(&x), width));
            assert!((got - expected).abs() < 1e-6, "{rows} rows: {got} against {expected}");
        }
    }
}

#[test]
fn patches_are_cut_as_the_reference_cuts_them() {
    for machine in machines() {
        for (size, patch) in [((8, 8), 4), ((6, 9), 3), ((4, 12), 4)] {
            let shape = patchify::Shape { batch: 3, channels: 3, size, patch, kept: 2 };
            let images = rounded(&values(3 * 3 * size.0 * size.1, 1)); // (b, 3, h, w)
            let index: Vec<u32> = (0..12).map(|i| (i * 5 % shape.patches()) as u32).collect();
            let mut expected = vec![0.0; index.len() * shape.width()];
            patchify::reference::forward(&mut expected, &images, &index, shape);
            let (images_at, index_at) = (machine.bf16(&images), machine.buffer(&index));
            let y = machine.empty_bf16(expected.len());
            machine.run([calls::patchify(y.at(), images_at.at(), index_at.at(), index.len(), shape)]);
            assert_eq!(y.floats(), expected, "{shape:?}");
        }
    }
}

#[test]
fn casts_round_to_nearest_even_and_reach_every_value() {
    for machine in machines() {
        let special = [
            0.0,
            -0.0,
            1.0,
            1.0 + 1.0 / 256.0,
            1.0 + 3.0 / 256.0,
            -1.0 - 3.0 / 256.0,
            3.4e38,
            f32::INFINITY,
            1e-40,
            f32::MIN_POSITIVE,
        ];
        for len in [1, 9, 1025, 3000] {
            let x: Vec<f32> = special.iter().copied().chain(values(len, 1)).take(len).collect();
            let (x_at, y, filled) = (machine.buffer(&x), machine.empty_bf16(len), machine.empty_f32(len));
            machine.run([calls::cast_to_bf16(y.at(), x_at.at(), len), calls::fill_f32(filled.at(), 0.3, len)]);
            let expected: Vec<f32> = x.iter().map(|&x| widen(narrow(x))).collect();
            assert_eq!(y.floats(), expected);
            assert_eq!(filled.read(), vec![0.3; len]);
        }
        // Halfway between two neighbours: the even one.
        assert_eq!([1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0].map(|x| narrow(x).0), [0x3f80, 0x3f82]);
    }
}

#[test]
fn sums_of_gradients_reach_every_value_and_no_other() {
    for machine in machines() {
        for len in [1, 8, 9, 2048, 2051] {
            let (a, b) = (rounded(&values(len, 1)), rounded(&values(len, 2)));
            let (sum, x) = (machine.bf16(&a), machine.bf16(&b));
            machine.run([calls::add_forward(sum.at(), x.at(), len)]);
            let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
            assert_eq!(sum.floats(), rounded(&expected));
        }
    }
}

#[test]
fn an_index_inverted_lists_for_each_row_who_picked_it_in_order() {
    let (starts, order) = calls::inverse(&[3, 0, 0, 2, 3, 0], 5);
    assert_eq!(starts, [0, 3, 3, 4, 6, 6]);
    assert_eq!(order, [1, 2, 5, 3, 0, 4]);
}
