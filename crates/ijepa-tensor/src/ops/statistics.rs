//! What a step reports about its values. Sums are in f64 over fixed pieces, so they do not depend on threads.

use crate::buf::View;
use crate::cuda::calls;
use crate::vector::{sum, vectorised};
use rayon::prelude::*;
use std::ops::Range;

/// Values summed in f32 before they are added in f64.
const PIECE: usize = 1024;

/// √Σx² over parts of x.
pub fn norm(x: View, parts: &[Range<usize>]) -> f64 {
    let parts = parts.iter().map(|part| x.range(part.clone()));
    if let Some(device) = x.device() {
        let count: usize = parts.clone().map(|part| calls::square_parts(part.len())).sum();
        let (sum, sums) = (device.take(size_of::<f64>()), device.take(count * size_of::<f64>()));
        let mut first = 0;
        for part in parts {
            device.run(calls::sums_of_squares(sums.at().bytes(first * size_of::<f64>()), part.f32(), part.len()));
            first += calls::square_parts(part.len());
        }
        device.run(calls::sum_parts(sum.at(), sums.at(), count));
        return device.read::<f64>(&sum, 1)[0].sqrt();
    }
    let of_part = |x: &[f32]| {
        let sums: Vec<f64> =
            x.par_chunks(64 * PIECE).map(|x| x.chunks(PIECE).map(|x| f64::from(squares(x))).sum()).collect();
        sums.iter().sum::<f64>()
    };
    parts.map(|part| of_part(part.cpu())).sum::<f64>().sqrt()
}

vectorised! {
    fn squares(x: &[f32]) -> f32 {
        sum(x.len(), |i| x[i] * x[i])
    }
}

/// The standard deviation of each column of x (rows, width) over the rows, averaged over the columns.
pub fn mean_column_deviation(x: View, width: usize) -> f64 {
    if let Some(device) = x.device() {
        let deviations = device.take(width * size_of::<f32>());
        device.run(calls::column_deviations(deviations.at(), x.bf16(), (x.len() / width.max(1), width)));
        let deviations = device.read::<f32>(&deviations, width);
        return deviations.iter().map(|&deviation| f64::from(deviation)).sum::<f64>() / width.max(1) as f64;
    }
    let x = x.cpu();
    let rows = (x.len() / width.max(1)).max(1) as f64;
    let (mut sums, mut squares) = (vec![0.0f64; width], vec![0.0f64; width]);
    for x in x.chunks_exact(width) {
        for ((sum, square), &x) in sums.iter_mut().zip(&mut squares).zip(x) {
            *sum += f64::from(x);
            *square += f64::from(x) * f64::from(x);
        }
    }
    let deviations =
        sums.iter().zip(&squares).map(|(sum, square)| (square / rows - (sum / rows).powi(2)).max(0.0).sqrt());
    deviations.sum::<f64>() / width.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norm_and_deviation_agree_with_plain_sums() {
        let x: Vec<f32> = (0..200_000).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
        let plain = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        assert!((norm(View::Cpu(&x), &[0..99, 99..200_000]) - plain).abs() < 1e-3);
        assert!((mean_column_deviation(View::Cpu(&[1.0, 5.0, 3.0, 5.0]), 2) - 0.5).abs() < 1e-12);
        assert_eq!(mean_column_deviation(View::Cpu(&[2.0; 30]), 3), 0.0);
    }
}
