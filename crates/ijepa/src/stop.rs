//! Has someone asked the run to stop?
//!
//! SIGTERM (schedulers, `kill`), SIGINT (Ctrl-C) and SIGUSR1 (SLURM's `--signal`, ahead of the end of a job) set a flag; the training
//! loop looks at it after every step, saves, and ends with code 75. A second SIGINT ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// The flag.
#[derive(Clone, Debug)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Watches for signals from now on.
    pub(crate) fn on_signals() -> Result<Stop> {
        let asked = Arc::new(AtomicBool::new(false));
        // Registered first, so that it acts only when the flag is up already: at the second Ctrl-C.
        flag::register_conditional_shutdown(SIGINT, 130, Arc::clone(&asked)).context("cannot watch for SIGINT")?;
        let mut signals = vec![SIGINT, SIGTERM];
        #[cfg(unix)]
        signals.push(signal_hook::consts::SIGUSR1);
        for signal in signals {
            flag::register(signal, Arc::clone(&asked)).with_context(|| format!("cannot watch for signal {signal}"))?;
        }
        Ok(Stop(asked))
    }

    /// Whether a signal came.
    pub(crate) fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn a_signal_sets_the_flag_and_the_process_lives() {
        let stop = Stop::on_signals().expect("signals can be watched");
        assert!(!stop.asked());
        signal_hook::low_level::raise(signal_hook::consts::SIGUSR1).expect("a signal can be raised");
        assert!(stop.asked());
    }
}
