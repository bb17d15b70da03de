//! Learning rate, weight decay and EMA momentum as pure functions of the step, counted from 0.
//!
//! As in the reference, rate and decay are advanced before a step uses them, so step i uses its formula at i + 1.

use std::f64::consts::PI;

/// Everything the schedules need, durations in steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// Steps over which the cosines run, warm-up included.
    pub cosine_steps: u64,
    /// Steps over which the momentum runs to its end; a fraction when `ipe_scale` makes it one.
    pub ema_steps: f64,
    /// Learning rate before the first step.
    pub start_lr: f64,
    /// Learning rate after warm-up.
    pub lr: f64,
    /// Learning rate at the end.
    pub final_lr: f64,
    /// Weight decay at the start.
    pub weight_decay: f64,
    /// Weight decay at the end.
    pub final_weight_decay: f64,
    /// EMA momentum at the start and at the end.
    pub ema: (f64, f64),
}

fn cosine(from: f64, to: f64, progress: f64) -> f64 {
    to + (from - to) * 0.5 * (1.0 + (PI * progress).cos())
}

impl Schedule {
    /// Learning rate of step `step`.
    pub fn lr(&self, step: u64) -> f64 {
        let k = step + 1;
        if k < self.warmup_steps {
            return self.start_lr + k as f64 / self.warmup_steps as f64 * (self.lr - self.start_lr);
        }
        let length = self.cosine_steps.saturating_sub(self.warmup_steps).max(1);
        let progress = (k - self.warmup_steps) as f64 / length as f64;
        cosine(self.lr, self.final_lr, progress.min(1.0)).max(self.final_lr)
    }

    /// Weight decay of step `step`.
    pub fn weight_decay(&self, step: u64) -> f64 {
        let progress = (step + 1) as f64 / self.cosine_steps.max(1) as f64;
        cosine(self.weight_decay, self.final_weight_decay, progress.min(1.0))
    }

    /// Momentum of the target encoder after step `step`.
    pub fn momentum(&self, step: u64) -> f64 {
        let (start, end) = self.ema;
        start + (end - start) * (step as f64 / self.ema_steps).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule() -> Schedule {
        Schedule {
            warmup_steps: 10,
            cosine_steps: 110,
            ema_steps: 100.0,
            start_lr: 1e-4,
            lr: 1e-3,
            final_lr: 1e-6,
            weight_decay: 0.04,
            final_weight_decay: 0.4,
            ema: (0.996, 1.0),
        }
    }

    #[test]
    fn the_rate_rises_in_a_line_meets_its_peak_and_ends_at_its_final_value() {
        let s = schedule();
        assert!((s.lr(0) - (1e-4 + 0.1 * 9e-4)).abs() < 1e-12);
        assert!((s.lr(9) - 1e-3).abs() < 1e-12, "warm-up ends at the peak");
        assert!((s.lr(109) - 1e-6).abs() < 1e-12);
        assert!((s.lr(5000) - 1e-6).abs() < 1e-12, "after its end the schedule stays");
        assert!((1..120).all(|i| (s.lr(i) - s.lr(i - 1)).abs() < 1e-4), "without jumps");
    }

    #[test]
    fn decay_rises_and_momentum_reaches_its_end() {
        let s = schedule();
        assert!((0..109).all(|i| s.weight_decay(i) < s.weight_decay(i + 1)));
        assert!((s.weight_decay(109) - 0.4).abs() < 1e-12);
        assert_eq!(s.momentum(0), 0.996);
        assert!((s.momentum(50) - 0.998).abs() < 1e-12);
        assert_eq!(s.momentum(200), 1.0);
    }
}
