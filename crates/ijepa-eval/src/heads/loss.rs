//! What do the scores of many heads lose, and how do they push back?
//!
//! A row holds the scores of all heads side by side, (heads·c). For each head: loss = log Σ_c e^(s_c) − s_label, and the
//! scores become scale·(softmax(s) − onehot(label)). The exponentials run along the whole row, so that heads with few classes
//! fill vectors too.

use rayon::prelude::*;

/// Rows that one thread handles at a time; also the order of the sums.
const BLOCK: usize = 32;

/// Sums over rows.
pub(super) struct Sums {
    /// (heads) losses.
    pub(super) losses: Vec<f64>,
    /// (heads·c) slopes of the biases.
    pub(super) columns: Vec<f32>,
}

impl Sums {
    pub(super) fn zeros(heads: usize, columns: usize) -> Sums {
        Sums { losses: vec![0.0; heads], columns: vec![0.0; columns] }
    }

    fn add(&mut self, other: &Sums) {
        self.losses.iter_mut().zip(&other.losses).for_each(|(sum, value)| *sum += value);
        self.columns.iter_mut().zip(&other.columns).for_each(|(sum, value)| *sum += value);
    }
}

/// Turns scores without their biases, (rows, heads·c), into their slopes, and adds up.
pub(super) fn residuals(scores: &mut [f32], bias: &[f32], labels: &[u32], classes: usize, scale: f32, sums: &mut Sums) {
    let columns = bias.len();
    let parts: Vec<Sums> = scores
        .par_chunks_mut(BLOCK * columns)
        .zip(labels.par_chunks(BLOCK))
        .map(|(scores, labels)| {
            let mut sums = Sums::zeros(columns / classes, columns);
            for (row, &label) in scores.chunks_exact_mut(columns).zip(labels) {
                residual(row, bias, label as usize, classes, scale, &mut sums);
            }
            sums
        })
        .collect();
    parts.iter().for_each(|part| sums.add(part));
}

fn residual(row: &mut [f32], bias: &[f32], label: usize, classes: usize, scale: f32, sums: &mut Sums) {
    for ((scores, bias), loss) in row.chunks_exact_mut(classes).zip(bias.chunks_exact(classes)).zip(&mut sums.losses) {
        scores.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
        let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        scores.iter_mut().for_each(|score| *score -= top);
        *loss -= f64::from(scores[label]);
    }
    exponentials(row);
    for (scores, loss) in row.chunks_exact_mut(classes).zip(&mut sums.losses) {
        let sum = sum(scores);
        *loss += f64::from(sum).ln();
        let share = scale / sum;
        scores.iter_mut().for_each(|score| *score *= share);
        scores[label] -= scale;
    }
    sums.columns.iter_mut().zip(&*row).for_each(|(sum, slope)| *sum += slope);
}

/// Sum in eight lanes, which the compiler can keep in vectors.
fn sum(values: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    let chunks = values.chunks_exact(8);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, value)| *lane += value);
    }
    lanes.iter().sum::<f32>() + rest
}

/// Replaces each x ≤ 0 by eˣ, to 2 units in the last place down to e⁻⁸⁷, below which it stays; NaN stays NaN.
///
/// x = k ln 2 + r with |r| ≤ ln 2 / 2, and eʳ by its Taylor sum to r⁷, whose rest is below 6e-9. Plain arithmetic, so that
/// the compiler makes vector code of it, which it cannot of calls to the system's function.
#[expect(clippy::excessive_precision, reason = "ln 2 in two parts")]
fn exponentials(values: &mut [f32]) {
    // Adding 1.5·2²³ rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    for value in values {
        let x = if *value < -87.0 { -87.0 } else { *value };
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let k = shifted - ROUND;
        // The first part has few bits, so k times it is exact.
        let r = x - k * 0.693_359_375 - k * -2.121_944_4e-4;
        let mut y = 1.0 / 5040.0;
        for term in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            y = y * r + term;
        }
        *value = y * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_within_two_units_in_the_last_place() {
        let mut values: Vec<f32> = (0..86_000).map(|i| -(i as f32) / 1000.0).collect();
        let exact: Vec<f64> = values.iter().map(|&x| f64::from(x).exp()).collect();
        exponentials(&mut values);
        for (value, exact) in values.iter().zip(exact) {
            assert!((f64::from(*value) - exact).abs() < 2.4e-7 * exact, "{value} {exact}");
        }
        let mut odd = [f32::NEG_INFINITY, f32::NAN, 0.0];
        exponentials(&mut odd);
        assert!(odd[0] < 1e-37 && odd[1].is_nan() && odd[2] == 1.0, "{odd:?}");
    }

    #[test]
    fn each_head_has_its_own_softmax() {
        // Two heads of three classes: even scores, and scores that are sure of class 2.
        let mut scores = [5.0, 5.0, 5.0, 0.0, 0.0, 50.0];
        let mut sums = Sums::zeros(2, 6);
        residuals(&mut scores, &[0.0; 6], &[2], 3, 0.5, &mut sums);
        assert!((sums.losses[0] - 3f64.ln()).abs() < 1e-6 && sums.losses[1].abs() < 1e-6, "{:?}", sums.losses);
        for (slope, expected) in scores.iter().zip([1.0 / 6.0, 1.0 / 6.0, -1.0 / 3.0, 0.0, 0.0, 0.0]) {
            assert!((slope - expected).abs() < 1e-6, "{scores:?}");
        }
        assert_eq!(sums.columns, scores);
    }

    #[test]
    fn a_head_that_has_left_the_numbers_leaves_the_others_alone() {
        let mut scores = [f32::INFINITY, 0.0, 1.0, 1.0];
        let mut sums = Sums::zeros(2, 4);
        residuals(&mut scores, &[0.0; 4], &[0], 2, 1.0, &mut sums);
        assert!(sums.losses[0].is_nan());
        assert!((sums.losses[1] - 2f64.ln()).abs() < 1e-6);
    }
}
