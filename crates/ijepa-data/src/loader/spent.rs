//! Where does the time of a loader go? Added up over its threads, so that the first three may exceed the time that has passed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Time that a loader has spent since it was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Getting bytes, or rendering.
    pub read: Duration,
    /// From bytes to pixels.
    pub decode: Duration,
    /// Resizing, distorting, normalising.
    pub transform: Duration,
    /// The taker's time, until a batch was ready.
    pub wait: Duration,
}

/// What the threads of a loader add to, in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Clock {
    read: AtomicU64,
    decode: AtomicU64,
    transform: AtomicU64,
}

/// A stage in the making of a sample.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stage {
    Read,
    Decode,
    Transform,
}

impl Clock {
    /// Does `work` and adds its time to a stage.
    pub(super) fn time<T>(&self, stage: Stage, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let result = work();
        let sum = match stage {
            Stage::Read => &self.read,
            Stage::Decode => &self.decode,
            Stage::Transform => &self.transform,
        };
        sum.fetch_add(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
        result
    }

    pub(super) fn spent(&self, wait: Duration) -> Spent {
        let of = |sum: &AtomicU64| Duration::from_nanos(sum.load(Ordering::Relaxed));
        Spent { read: of(&self.read), decode: of(&self.decode), transform: of(&self.transform), wait }
    }
}
