//! Loops of many linear heads that learn at once from the same rows: the loss of their scores, and what the columns of a batch are.
//!
//! A row holds the scores of all heads side by side, (heads·c). For each head: loss = log Σ_c e^(s_c) − s_label, and the scores become
//! scale·(softmax(s) − onehot(label)). Sixteen rows are turned, so that everything runs along them, however few classes a head has.

use crate::gemm::transpose;
use crate::vector::{exp, vectorised};

/// Rows that are turned at a time.
pub const ROWS: usize = 16;

/// Scores of a few rows, and what they add to.
pub struct Block<'a> {
    /// (rows, heads·c) without their biases; they become slopes. At most [`ROWS`] rows.
    pub scores: &'a mut [f32],
    /// (heads·c).
    pub bias: &'a [f32],
    /// (rows) classes.
    pub labels: &'a [u32],
    /// c.
    pub classes: usize,
    /// Weight of a row.
    pub scale: f32,
    /// (heads) to which the losses of the rows are added.
    pub losses: &'a mut [f64],
    /// (heads·c) to which the slopes are added.
    pub columns: &'a mut [f32],
    /// Room.
    pub turned: &'a mut Vec<f32>,
}

/// Turns scores into slopes and adds up.
///
/// # Panics
/// When lengths do not fit each other.
pub fn residuals(block: Block) {
    let Block { scores, bias, labels, classes, scale, losses, columns, turned } = block;
    let (rows, all) = (labels.len(), bias.len());
    assert!(rows <= ROWS && scores.len() == rows * all && all == classes * losses.len() && columns.len() == all);
    turned.resize(all * ROWS, 0.0);
    transpose(turned, ROWS, scores, all, rows, all);
    for (head, loss) in losses.iter_mut().enumerate() {
        let part = head * classes..(head + 1) * classes;
        let own = &mut turned[part.start * ROWS..part.end * ROWS];
        let mut sums = [0.0; ROWS];
        let mut tops = [0.0; ROWS];
        let bias = &bias[part];
        // The score of the label, before it is gone.
        let of_label = |own: &[f32], row: usize| own[labels[row] as usize * ROWS + row] + bias[labels[row] as usize];
        let mut said = [0.0; ROWS];
        said.iter_mut().enumerate().take(rows).for_each(|(row, said)| *said = of_label(own, row));
        shares(own, bias, scale, &mut tops, &mut sums);
        // Σ log is the log of the product, which 16 sums of even a million classes leave within double precision.
        let product: f64 = sums[..rows].iter().map(|&sum| f64::from(sum)).product();
        let margins: f64 = (0..rows).map(|row| f64::from(said[row] - tops[row])).sum();
        *loss += product.ln() - margins;
        for (row, &label) in labels.iter().enumerate() {
            own[label as usize * ROWS + row] -= scale;
        }
    }
    transpose(scores, all, turned, ROWS, all, rows);
    for row in scores.chunks_exact(all) {
        add(columns, row);
    }
}

vectorised! {
    /// Scores (c, ROWS) of a head become `scale` times their softmax over c; `tops` are their largest, `sums` those of the exponentials.
    fn shares(scores: &mut [f32], bias: &[f32], scale: f32, tops: &mut [f32; ROWS], sums: &mut [f32; ROWS]) {
        let mut top = [f32::NEG_INFINITY; ROWS];
        for (scores, bias) in scores.as_chunks_mut::<ROWS>().0.iter_mut().zip(bias) {
            for (score, top) in scores.iter_mut().zip(&mut top) {
                *score += bias;
                *top = if *score > *top { *score } else { *top };
            }
        }
        let mut sum = [0.0; ROWS];
        for scores in scores.as_chunks_mut::<ROWS>().0 {
            for ((score, top), sum) in scores.iter_mut().zip(&top).zip(&mut sum) {
                *score = exp(*score - top);
                *sum += *score;
            }
        }
        let share = sum.map(|sum| scale / sum);
        for scores in scores.as_chunks_mut::<ROWS>().0 {
            scores.iter_mut().zip(&share).for_each(|(score, share)| *score *= share);
        }
        (*tops, *sums) = (top, sum);
    }
}

vectorised! {
    /// sums += values.
    pub fn add(sums: &mut [f32], values: &[f32]) {
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    }
}

vectorised! {
    /// sums += values − centre, or its square, of some columns (from `first` on) of rows of `width`.
    pub fn add_off(sums: &mut [f32], rows: &[f32], width: usize, first: usize, centre: &[f32], squared: bool) {
        for row in rows.chunks_exact(width) {
            let columns = sums.iter_mut().zip(&row[first..]).zip(centre);
            if squared {
                columns.for_each(|((sum, value), centre)| *sum += (value - centre) * (value - centre));
            } else {
                columns.for_each(|((sum, value), centre)| *sum += value - centre);
            }
        }
    }
}

/// How SGD with momentum moves values: g = (slope + decay·value)·share, m = momentum·m + g, value −= rate·m, or
/// rate·(g + momentum·m) when it looks ahead.
#[derive(Clone, Copy, Debug)]
pub struct Move {
    /// Learning rate.
    pub rate: f32,
    /// Weight decay.
    pub decay: f32,
    /// Factor of the gradient.
    pub share: f32,
    /// Share of the momentum that stays.
    pub momentum: f32,
    /// Nesterov's.
    pub ahead: bool,
}

vectorised! {
    /// One step of SGD.
    pub fn advance(values: &mut [f32], momenta: &mut [f32], slopes: &[f32], how: Move) {
        let Move { rate, decay, share, momentum: stays, ahead } = how;
        let (of_slope, of_momentum) = if ahead { (1.0, stays) } else { (0.0, 1.0) };
        for ((value, momentum), slope) in values.iter_mut().zip(momenta).zip(slopes) {
            let slope = (slope + decay * *value) * share;
            *momentum = stays * *momentum + slope;
            *value -= rate * (of_slope * slope + of_momentum * *momentum);
        }
    }
}

vectorised! {
    /// out = weights ⊙ scale; returns weights·shift.
    pub fn scaled(out: &mut [f32], weights: &[f32], scale: &[f32], shift: &[f32]) -> f32 {
        out.iter_mut().zip(weights).zip(scale).for_each(|((out, weight), scale)| *out = weight * scale);
        let len = weights.len().min(shift.len());
        let (weights, shift) = (&weights[..len], &shift[..len]);
        crate::vector::sum(len, |i| weights[i] * shift[i])
    }
}

vectorised! {
    /// The way back of [`scaled`]: adds weights ⊙ slopes to `to_scale` and weights·bias to `to_shift`, then slopes ← slopes ⊙ scale + bias·shift.
    pub fn unscale(
        slopes: &mut [f32], bias: f32, weights: &[f32], scale: &[f32], shift: &[f32], to_scale: &mut [f32], to_shift: &mut [f32],
    ) {
        let columns = slopes.iter_mut().zip(weights).zip(to_scale.iter_mut().zip(to_shift));
        for (((slope, weight), (to_scale, to_shift)), (scale, shift)) in columns.zip(scale.iter().zip(shift)) {
            *to_scale += weight * *slope;
            *to_shift += weight * bias;
            *slope = *slope * scale + bias * shift;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Losses, slopes and their sums in double precision.
    fn plain(scores: &[f32], bias: &[f32], labels: &[u32], classes: usize, scale: f64) -> (Vec<f64>, Vec<f64>) {
        let (all, heads) = (bias.len(), bias.len() / classes);
        let (mut losses, mut slopes) = (vec![0.0; heads], Vec::new());
        for (row, &label) in scores.chunks(all).zip(labels) {
            for head in 0..heads {
                let of = |c: usize| f64::from(row[head * classes + c]) + f64::from(bias[head * classes + c]);
                let sum: f64 = (0..classes).map(|c| of(c).exp()).sum();
                losses[head] += sum.ln() - of(label as usize);
                slopes.extend((0..classes).map(|c| scale * (of(c).exp() / sum - f64::from(c as u32 == label))));
            }
        }
        (losses, slopes)
    }

    #[test]
    fn losses_and_slopes_are_those_of_the_definition_for_any_number_of_rows() {
        for (rows, heads, classes) in [(1, 1, 2), (3, 2, 3), (15, 5, 10), (16, 16, 10), (16, 3, 17), (7, 1, 1000)] {
            let all = heads * classes;
            let value = |i: usize| ((i * 7919) % 2001) as f32 / 100.0 - 10.0;
            let mut scores: Vec<f32> = (0..rows * all).map(value).collect();
            let bias: Vec<f32> = (0..all).map(|i| value(i + 31) / 10.0).collect();
            let labels: Vec<u32> = (0..rows).map(|row| (row * 5 % classes) as u32).collect();
            let (expected, slopes) = plain(&scores, &bias, &labels, classes, 0.25);
            let (mut losses, mut columns, mut turned) = (vec![1.0; heads], vec![0.0; all], Vec::new());
            residuals(Block {
                scores: &mut scores,
                bias: &bias,
                labels: &labels,
                classes,
                scale: 0.25,
                losses: &mut losses,
                columns: &mut columns,
                turned: &mut turned,
            });
            for (loss, expected) in losses.iter().zip(&expected) {
                assert!((loss - 1.0 - expected).abs() < 1e-5 * (1.0 + expected), "{loss} {expected}");
            }
            for (slope, expected) in scores.iter().zip(&slopes) {
                assert!((f64::from(*slope) - expected).abs() < 1e-6, "{slope} {expected}");
            }
            for (column, sum) in columns.iter().enumerate() {
                let expected: f64 = slopes.chunks(all).map(|row| row[column]).sum();
                assert!((f64::from(*sum) - expected).abs() < 1e-5, "{sum} {expected}");
            }
        }
    }

    #[test]
    fn a_step_looks_ahead_where_it_is_told_to() {
        let how = Move { rate: 0.5, decay: 0.1, share: 2.0, momentum: 0.9, ahead: false };
        let (mut value, mut momentum) = ([1.0], [10.0]);
        advance(&mut value, &mut momentum, &[0.4], how);
        // g = (0.4 + 0.1)·2 = 1, m = 9 + 1 = 10.
        assert!((momentum[0] - 10.0).abs() < 1e-6 && (value[0] + 4.0).abs() < 1e-6);
        let (mut value, mut momentum) = ([1.0], [10.0]);
        advance(&mut value, &mut momentum, &[0.4], Move { ahead: true, ..how });
        assert!((momentum[0] - 10.0).abs() < 1e-6 && (value[0] - (1.0 - 0.5 * 10.0)).abs() < 1e-6);
    }
}
