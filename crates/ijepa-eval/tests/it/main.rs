//! Claims about the probes, from outside.

mod heads;
mod knn;
mod linear;
mod metrics;
mod quantity;
mod ranks;
mod ridge;
mod threads;

use ijepa_eval::Features;

/// A small generator for test data (SplitMix64), so that goldens made in Python use the same numbers.
pub(crate) struct Draws(pub(crate) u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// About normal, mean 0 and deviation 1: the sum of twelve uniforms less six.
    pub(crate) fn bell(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

/// `classes` clouds in turn, their centres `distance` apart or so, in correlated columns of different offsets and scales.
pub(crate) fn clouds(rows: usize, width: usize, classes: u32, distance: f64, seed: u64) -> Features {
    let mut centres = Draws(0);
    let centres: Vec<f64> = (0..classes as usize * width).map(|_| distance * centres.bell()).collect();
    let mut draws = Draws(seed);
    let mut values = Vec::new();
    let labels: Vec<u32> = (0..rows as u32).map(|row| row % classes).collect();
    for &label in &labels {
        let mut last = 0.0;
        for column in 0..width {
            last = 0.5 * last + draws.bell();
            let value = last + centres[label as usize * width + column];
            values.push((value * (1.0 + column as f64 % 5.0) + 3.0) as f32);
        }
    }
    Features { rows, width, values: values.into(), labels }
}

/// Features without rows or columns to spare for a message test.
pub(crate) fn tiny(values: &[f32], width: usize, labels: &[u32]) -> Features {
    Features { rows: values.len() / width, width, values: values.to_vec().into(), labels: labels.to_vec() }
}
