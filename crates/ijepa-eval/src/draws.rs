//! What is left to chance in a probe, and how is it keyed?
//!
//! Streams are named by (seed, purpose, step, item), whose four little-endian numbers are the key of ChaCha with 8 rounds,
//! as everywhere in this program; the purpose of probes is 8. Step 0 holds rows out, step 1 draws a sketch, step 2 the order of an
//! epoch, step 3 first weights.

use crate::EvalError;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

const PROBE: u64 = 8;

/// Fewest rows from which some can be held out.
pub(crate) const FEWEST_ROWS: usize = 10;

fn stream(seed: u64, step: u64, item: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    for (bytes, number) in key.chunks_exact_mut(8).zip([seed, PROBE, step, item]) {
        bytes.copy_from_slice(&number.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// Rows to fit on and rows to choose the penalty on.
pub(crate) struct HeldOut {
    /// About nine tenths, ascending.
    pub(crate) fit: Vec<u32>,
    /// About one tenth, ascending.
    pub(crate) held: Vec<u32>,
}

/// Holds a tenth of the rows out, about a tenth of each class.
///
/// Each class is shuffled by its rows' keys, the classes are laid end to end, and every tenth place is held out: classes
/// with fewer than ten rows take their turn, none is favoured.
pub(crate) fn held_out(labels: &[u32], rows: usize, seed: u64) -> Result<HeldOut, EvalError> {
    if rows < FEWEST_ROWS {
        return Err(EvalError::TooFewRows { rows, needed: FEWEST_ROWS });
    }
    let mut order: Vec<(u32, u64, u32)> = (0..rows as u32)
        .map(|row| (labels.get(row as usize).copied().unwrap_or(0), stream(seed, 0, u64::from(row)).next_u64(), row))
        .collect();
    order.sort_unstable();
    let (mut fit, mut held) = (Vec::new(), Vec::new());
    for (place, &(_, _, row)) in order.iter().enumerate() {
        if place % 10 == 5 { held.push(row) } else { fit.push(row) }
    }
    fit.sort_unstable();
    held.sort_unstable();
    Ok(HeldOut { fit, held })
}

/// Independent signs ±1, (rows, width).
pub(crate) fn signs(rows: usize, width: usize, seed: u64) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows * width);
    for row in 0..rows {
        let mut rng = stream(seed, 1, row as u64);
        let (mut bits, mut left) = (0, 0);
        for _ in 0..width {
            if left == 0 {
                (bits, left) = (rng.next_u64(), 64);
            }
            out.push(if bits & 1 == 1 { 1.0 } else { -1.0 });
            (bits, left) = (bits >> 1, left - 1);
        }
    }
    out
}

/// The rows of an epoch in their order.
pub(crate) fn permutation(rows: usize, seed: u64, epoch: usize) -> Vec<u32> {
    let mut rng = stream(seed, 2, epoch as u64);
    let mut order: Vec<u32> = (0..rows as u32).collect();
    for left in (2..=rows).rev() {
        // The high half of a product; its bias is below rows / 2⁶⁴.
        let place = (u128::from(rng.next_u64()) * left as u128) >> 64;
        order.swap(left - 1, place as usize);
    }
    order
}

/// `count` normal numbers, mean 0 and deviation 1, for an item (Box & Muller 1958).
pub(crate) fn bells(count: usize, seed: u64, item: usize) -> Vec<f64> {
    let mut rng = stream(seed, 3, item as u64);
    // Above 0 and at most 1.
    let mut uniform = || ((rng.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
    let mut out = Vec::with_capacity(count + 1);
    while out.len() < count {
        let (length, angle) = ((-2.0 * uniform().ln()).sqrt(), std::f64::consts::TAU * uniform());
        out.extend([length * angle.cos(), length * angle.sin()]);
    }
    out.truncate(count);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_every_class_is_held_out_and_no_row_is_in_both() {
        let labels: Vec<u32> = (0..1000).map(|row| row % 4).collect();
        let split = held_out(&labels, 1000, 7).expect("enough rows");
        for class in 0..4 {
            assert_eq!(split.held.iter().filter(|&&row| labels[row as usize] == class).count(), 25);
        }
        let mut all = [split.fit, split.held].concat();
        all.sort_unstable();
        assert_eq!(all, (0..1000).collect::<Vec<u32>>());
    }

    #[test]
    fn another_seed_holds_out_other_rows_and_the_same_seed_the_same() {
        let labels = vec![0; 500];
        let held = |seed| held_out(&labels, 500, seed).expect("enough rows").held;
        assert_eq!(held(1), held(1));
        assert_ne!(held(1), held(2));
    }

    #[test]
    fn an_epoch_holds_every_row_once_in_an_order_of_its_own() {
        let mut order = permutation(500, 3, 0);
        assert_ne!(order, permutation(500, 3, 1));
        assert_ne!(order, permutation(500, 4, 0));
        let moved = order.iter().enumerate().filter(|(place, row)| *place != **row as usize).count();
        assert!(moved > 490, "{moved}");
        order.sort_unstable();
        assert_eq!(order, (0..500).collect::<Vec<u32>>());
    }

    #[test]
    fn bells_have_the_moments_of_a_normal_distribution() {
        let bells = bells(20_001, 5, 0);
        let moment = |power| bells.iter().map(|x| x.powi(power)).sum::<f64>() / bells.len() as f64;
        assert!(moment(1).abs() < 0.04 && (moment(2) - 1.0).abs() < 0.05, "{} {}", moment(1), moment(2));
        assert!(moment(3).abs() < 0.1 && (moment(4) - 3.0).abs() < 0.4, "{} {}", moment(3), moment(4));
    }

    #[test]
    fn signs_are_balanced() {
        let sum: f32 = signs(100, 100, 3).iter().sum();
        assert!(sum.abs() < 500.0, "{sum}");
    }
}
