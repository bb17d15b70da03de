//! How does the learning rate move over a training? A pure function of the step.

use crate::EvalError;
use std::f64::consts::PI;

/// How the rate falls.
#[derive(Debug, Clone, PartialEq)]
pub enum Decay {
    /// × `factor` when each of these epochs (from 0) begins.
    Multistep {
        /// Epochs, ascending.
        milestones: Vec<usize>,
        /// Usually 0.1.
        factor: f64,
    },
    /// Half a cosine from the rate at the end of the warm-up to `end` times it.
    Cosine {
        /// The last rate as a share of the first, 0 to 1.
        end: f64,
    },
}

/// The rate over a training, as a share of its reference.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// Epochs, not necessarily whole, over which the rate rises in a line from 0.
    pub warmup: f64,
    /// What follows.
    pub decay: Decay,
}

impl Schedule {
    /// Multistep by 0.1 without warm-up.
    pub fn multistep(milestones: &[usize]) -> Schedule {
        Schedule { warmup: 0.0, decay: Decay::Multistep { milestones: milestones.to_vec(), factor: 0.1 } }
    }

    /// A cosine without warm-up.
    pub fn cosine(end: f64) -> Schedule {
        Schedule { warmup: 0.0, decay: Decay::Cosine { end } }
    }

    /// The rate at a step (from 0) as a share of the reference rate.
    ///
    /// The cosine falls with every step, as in MAE's linear probing; VISSL holds it for an epoch.
    pub fn share(&self, step: usize, steps_per_epoch: usize, epochs: usize) -> f64 {
        let epoch = step as f64 / steps_per_epoch as f64;
        if epoch < self.warmup {
            return epoch / self.warmup;
        }
        match &self.decay {
            Decay::Multistep { milestones, factor } => {
                let passed = milestones.iter().filter(|&&milestone| milestone <= step / steps_per_epoch).count();
                factor.powi(passed as i32)
            }
            Decay::Cosine { end } => {
                let done = ((epoch - self.warmup) / (epochs as f64 - self.warmup)).min(1.0);
                end + (1.0 - end) * 0.5 * (1.0 + (PI * done).cos())
            }
        }
    }

    pub(super) fn check(&self, epochs: usize) -> Result<(), EvalError> {
        if !(self.warmup >= 0.0 && self.warmup < epochs as f64) {
            let expected = "from 0 to less than the number of epochs";
            return Err(EvalError::Setting { setting: "warm-up epochs", value: self.warmup, expected });
        }
        let (setting, value) = match self.decay {
            Decay::Multistep { factor, .. } => ("factor of the milestones", factor),
            Decay::Cosine { end } => ("end of the cosine", end),
        };
        if !(0.0..=1.0).contains(&value) {
            return Err(EvalError::Setting { setting, value, expected: "from 0 to 1" });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milestones_are_reached_when_their_epoch_begins() {
        let schedule = Schedule::multistep(&[2, 3]);
        let shares: Vec<f64> = [0, 9, 19, 20, 29, 30, 99].iter().map(|&step| schedule.share(step, 10, 10)).collect();
        for (share, expected) in shares.iter().zip([1.0, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01]) {
            assert!((share - expected).abs() < 1e-12, "{shares:?}");
        }
    }

    #[test]
    fn the_cosine_goes_from_the_end_of_the_warm_up_to_its_end() {
        let schedule = Schedule { warmup: 1.0, decay: Decay::Cosine { end: 0.01 } };
        let at = |step| schedule.share(step, 4, 5);
        assert_eq!(at(0), 0.0);
        assert_eq!(at(2), 0.5);
        assert_eq!(at(4), 1.0);
        assert!((at(12) - (0.01 + 0.99 * 0.5)).abs() < 1e-12, "the middle of four epochs");
        assert!((at(20) - 0.01).abs() < 1e-12);
        assert!((4..20).all(|step| at(step + 1) < at(step)));
    }
}
