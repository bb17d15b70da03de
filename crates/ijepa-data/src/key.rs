//! Which random number is this? Every draw of a run is named by four integers: seed, purpose, step and item.
//!
//! The four numbers, little-endian, *are* the 256-bit key of a ChaCha generator with 8 rounds (Bernstein 2008), so two
//! different keys give unrelated streams and no draw depends on threads, ranks, timing or on what was drawn before.
//! Nothing is hashed and nothing is carried over: resuming at a step needs that step's number only.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What a stream is for; a part of its key, so streams of two purposes never meet.
#[repr(u64)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The order of an epoch: step = epoch.
    Order = 1,
    /// Crop, flip, colour and blur of one sample: step = epoch, item = index in the dataset.
    Augment = 2,
    /// Block sizes shared by a batch: step = training step.
    MaskSize = 3,
    /// Block positions of one image: step = training step, item = row in the batch.
    MaskPosition = 4,
    /// One rendered scene: step = split, item = index.
    Scene = 5,
    /// Initial weights.
    Init = 6,
    /// The image that stands in for an unreadable one: step = epoch, item = index of the unreadable one.
    Replacement = 7,
    /// Splits and draws of the probes.
    Probe = 8,
    /// How a batch is mixed: step = training step.
    Mix = 9,
    /// Which residual branches are dropped: step = training step, item = branch and image.
    DropPath = 10,
    /// Which images of a batch are mixed by confidence: step = training step.
    Pairs = 11,
}

/// The full name of one stream of random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The run's seed.
    pub seed: u64,
    /// What the stream is for.
    pub purpose: Purpose,
    /// Training step, epoch or split: see [`Purpose`].
    pub step: u64,
    /// Sample, row or tensor: see [`Purpose`].
    pub item: u64,
}

impl Key {
    /// Names a stream.
    pub fn new(seed: u64, purpose: Purpose, step: u64, item: u64) -> Key {
        Key { seed, purpose, step, item }
    }

    /// The generator at the beginning of this stream.
    pub fn rng(self) -> ChaCha8Rng {
        let mut key = [0u8; 32];
        for (bytes, number) in key.chunks_exact_mut(8).zip([self.seed, self.purpose as u64, self.step, self.item]) {
            bytes.copy_from_slice(&number.to_le_bytes());
        }
        ChaCha8Rng::from_seed(key)
    }
}

/// A number in [0, 1), a multiple of 2⁻⁵³.
pub fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// A number in [low, high); `low` where both are equal.
pub fn between(rng: &mut ChaCha8Rng, (low, high): (f64, f64)) -> f64 {
    low + (high - low) * uniform(rng)
}

/// A whole number in 0..n without bias (Lemire 2019, <https://arxiv.org/abs/1805.10941>). Panics when n = 0.
pub fn below(rng: &mut ChaCha8Rng, n: u64) -> u64 {
    assert!(n > 0, "below(0): there is no number below 0");
    let rejected = n.wrapping_neg() % n; // 2⁶⁴ mod n
    loop {
        let product = u128::from(rng.next_u64()) * u128::from(n);
        if product as u64 >= rejected {
            return (product >> 64) as u64;
        }
    }
}

/// A standard normal number (Box and Muller 1958; the second of the pair is not used).
pub fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let radius = (-2.0 * (1.0 - uniform(rng)).ln()).sqrt();
    radius * (std::f64::consts::TAU * uniform(rng)).cos()
}

/// A number in [0, 1] of the distribution Beta(alpha, alpha). Panics unless `alpha` is positive.
pub fn beta(rng: &mut ChaCha8Rng, alpha: f64) -> f64 {
    assert!(alpha > 0.0, "Beta({alpha}, {alpha})");
    let (one, other) = (ln_gamma_distributed(rng, alpha), ln_gamma_distributed(rng, alpha));
    1.0 / (1.0 + (other - one).exp())
}

/// The logarithm of a number of the Gamma distribution (Marsaglia and Tsang 2000). Below shape 1 it is one of shape + 1 times
/// u^(1/shape), which may be too small for anything but its logarithm.
fn ln_gamma_distributed(rng: &mut ChaCha8Rng, shape: f64) -> f64 {
    if shape < 1.0 {
        let smaller = (1.0 - uniform(rng)).ln() / shape;
        return smaller + ln_gamma_distributed(rng, shape + 1.0);
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = normal(rng);
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && (1.0 - uniform(rng)).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d.ln() + v.ln();
        }
    }
}

/// Puts `items` in an order drawn from all orders alike (Fisher and Yates).
pub fn shuffle<T>(rng: &mut ChaCha8Rng, items: &mut [T]) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(rng, last as u64 + 1) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_numbers_are_the_chacha_key() {
        let mut key = [0u8; 32];
        key[0] = 7;
        key[8] = 2;
        key[16] = 3;
        key[24] = 4;
        let mut expected = ChaCha8Rng::from_seed(key);
        let mut rng = Key::new(7, Purpose::Augment, 3, 4).rng();
        assert_eq!(rng.next_u64(), expected.next_u64());
    }

    #[test]
    fn changing_any_one_number_changes_the_stream() {
        let base = Key::new(1, Purpose::Order, 2, 3);
        let others = [
            Key { seed: 2, ..base },
            Key { purpose: Purpose::Probe, ..base },
            Key { step: 3, ..base },
            Key { item: 2, ..base },
        ];
        let first = base.rng().next_u64();
        assert!(others.iter().all(|other| other.rng().next_u64() != first));
    }

    #[test]
    fn below_is_uniform_and_never_reaches_its_bound() {
        let mut rng = Key::new(0, Purpose::Probe, 0, 0).rng();
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[below(&mut rng, 7) as usize] += 1;
        }
        // The standard deviation of a count is 93.
        assert!(counts.iter().all(|&count| (9_500..10_500).contains(&count)), "{counts:?}");
    }

    #[test]
    fn normal_has_mean_zero_and_variance_one() {
        let mut rng = Key::new(0, Purpose::Init, 0, 0).rng();
        let draws: Vec<f64> = (0..100_000).map(|_| normal(&mut rng)).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| x * x).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.02, "{mean}");
        assert!((variance - 1.0).abs() < 0.03, "{variance}");
    }

    #[test]
    fn beta_has_its_mean_and_variance() {
        for alpha in [0.1, 0.8, 1.0, 5.0] {
            let mut rng = Key::new(0, Purpose::Mix, 0, 0).rng();
            let draws: Vec<f64> = (0..50_000).map(|_| beta(&mut rng, alpha)).collect();
            assert!(draws.iter().all(|x| (0.0..=1.0).contains(x)));
            let mean = draws.iter().sum::<f64>() / draws.len() as f64;
            let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
            let expected = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            assert!((mean - 0.5).abs() < 0.01, "{alpha}: {mean}");
            assert!((variance / expected - 1.0).abs() < 0.03, "{alpha}: {variance} for {expected}");
        }
    }

    #[test]
    fn shuffle_is_a_permutation_and_every_place_is_reachable() {
        let mut reached = [[false; 5]; 5];
        for item in 0..500 {
            let mut items = [0usize, 1, 2, 3, 4];
            shuffle(&mut Key::new(0, Purpose::Order, 0, item).rng(), &mut items);
            let mut sorted = items;
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4]);
            for (place, &value) in items.iter().enumerate() {
                reached[place][value] = true;
            }
        }
        assert!(reached.iter().flatten().all(|&yes| yes));
    }
}
