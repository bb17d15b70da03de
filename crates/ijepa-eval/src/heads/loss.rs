//! What do the scores of many heads lose, and how do they push back? Sums over the rows of a batch.

use ijepa_tensor::heads::{self, Block};
use rayon::prelude::*;

/// Rows that one thread handles at a time; also the order of the sums.
const BLOCK: usize = 2 * heads::ROWS;

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
        heads::add(&mut self.columns, &other.columns);
    }
}

/// Turns scores without their biases, (rows, heads·c), into their slopes, and adds up.
pub(super) fn residuals(scores: &mut [f32], bias: &[f32], labels: &[u32], classes: usize, scale: f32, sums: &mut Sums) {
    let columns = bias.len();
    let parts: Vec<Sums> = scores
        .par_chunks_mut(BLOCK * columns)
        .zip(labels.par_chunks(BLOCK))
        .map_init(Vec::new, |turned, (scores, labels)| {
            let mut sums = Sums::zeros(columns / classes, columns);
            for (scores, labels) in scores.chunks_mut(heads::ROWS * columns).zip(labels.chunks(heads::ROWS)) {
                let Sums { losses, columns } = &mut sums;
                heads::residuals(Block { scores, bias, labels, classes, scale, losses, columns, turned });
            }
            sums
        })
        .collect();
    parts.iter().for_each(|part| sums.add(part));
}

#[cfg(test)]
mod tests {
    use super::*;

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
