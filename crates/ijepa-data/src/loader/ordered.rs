//! How do several threads deliver in order? A window over the job numbers: threads take the next number inside the window,
//! the taker waits for the number that is due, and every number taken moves the window on by one. So at most `window`
//! results exist at a time, however slow one of them is.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::error::DataError;

/// Results of numbered jobs, in order. Dropping it stops the threads after the job that each is at.
pub(super) struct Ordered<T> {
    shared: Arc<Shared<T>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    next_job: u64,
    due: u64,
    end: u64,
    window: u64,
    ready: BTreeMap<u64, T>,
    stopped: bool,
    panicked: bool,
}

impl<T: Send + 'static> Ordered<T> {
    /// Runs `make` for every number in `jobs` on `threads` threads, at most `window` ahead.
    pub(super) fn start(
        jobs: Range<u64>,
        threads: usize,
        window: usize,
        make: impl Fn(u64) -> T + Send + Sync + 'static,
    ) -> Ordered<T> {
        let state = State {
            next_job: jobs.start,
            due: jobs.start,
            end: jobs.end,
            window: window.max(1) as u64,
            ready: BTreeMap::new(),
            stopped: false,
            panicked: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let make = Arc::new(make);
        let threads = (0..threads.max(1))
            .map(|_| {
                let (shared, make) = (Arc::clone(&shared), Arc::clone(&make));
                std::thread::spawn(move || {
                    // A panic must reach the taker, or it would wait for ever.
                    if catch_unwind(AssertUnwindSafe(|| shared.work(|job| make(job)))).is_err() {
                        shared.lock().panicked = true;
                        shared.changed.notify_all();
                    }
                })
            })
            .collect();
        Ordered { shared, threads }
    }

    /// Whether [`Ordered::next`] would not wait.
    pub(super) fn is_ready(&self) -> bool {
        let state = self.shared.lock();
        state.due >= state.end || state.panicked || state.ready.contains_key(&state.due)
    }

    /// The result of the next job, or nothing after the last. Waits for it.
    pub(super) fn next(&mut self) -> Result<Option<T>, DataError> {
        let mut state = self.shared.lock();
        loop {
            if state.due >= state.end {
                return Ok(None);
            }
            let due = state.due;
            if let Some(result) = state.ready.remove(&due) {
                state.due += 1;
                self.shared.changed.notify_all();
                return Ok(Some(result));
            }
            if state.panicked {
                return Err(DataError::LoaderPanicked);
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<T> Shared<T> {
    /// No code panics while it holds the lock, so a poisoned lock would still guard a sound state.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, mut make: impl FnMut(u64) -> T) {
        let mut state = self.lock();
        loop {
            if state.stopped || state.panicked || state.next_job >= state.end {
                return;
            }
            if state.next_job >= state.due + state.window {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let job = state.next_job;
            state.next_job += 1;
            drop(state);
            let result = make(job);
            state = self.lock();
            state.ready.insert(job, result);
            self.changed.notify_all();
        }
    }
}

impl<T> Drop for Ordered<T> {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // Panics were already caught in the thread.
            let _ = thread.join();
        }
    }
}

impl<T> fmt::Debug for Ordered<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ordered").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn results_come_in_order_from_any_number_of_threads() {
        for threads in [0, 1, 2, 7] {
            let mut squares = Ordered::start(3..40, threads, 4, |job| {
                if job % 5 == 0 {
                    std::thread::sleep(Duration::from_millis(2));
                }
                job * job
            });
            for job in 3..40 {
                assert_eq!(squares.next().expect("no panic"), Some(job * job));
            }
            assert_eq!(squares.next().expect("no panic"), None);
        }
    }

    #[test]
    fn no_more_jobs_are_begun_than_the_window_allows() {
        let begun = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&begun);
        let mut jobs = Ordered::start(0..1000, 4, 3, move |job| {
            counter.fetch_add(1, Ordering::SeqCst);
            job
        });
        for taken in 1..=20 {
            jobs.next().expect("no panic");
            assert!(begun.load(Ordering::SeqCst) <= taken + 3);
        }
        drop(jobs);
        assert!(begun.load(Ordering::SeqCst) <= 23);
    }

    #[test]
    fn dropping_early_ends_all_threads() {
        let alive = Arc::new(());
        let held = Arc::clone(&alive);
        let jobs = Ordered::start(0..u64::MAX, 3, 2, move |job| (job, Arc::strong_count(&held)));
        drop(jobs);
        assert_eq!(Arc::strong_count(&alive), 1);
    }

    #[test]
    fn it_is_ready_when_the_next_job_is_done_and_after_the_last() {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let mut jobs =
            Ordered::start(0..1, 1, 1, move |_| wait.lock().map(|wait| wait.recv().is_ok()).unwrap_or(false));
        assert!(!jobs.is_ready(), "the job waits for a word");
        go.send(()).expect("the thread listens");
        while !jobs.is_ready() {
            std::thread::yield_now();
        }
        assert_eq!((jobs.next().expect("no panic"), jobs.is_ready()), (Some(true), true));
    }

    #[test]
    fn a_panic_in_a_thread_is_an_error_and_not_a_wait() {
        let mut jobs = Ordered::start(0..10, 2, 2, |job| assert_ne!(job, 4, "job 4 is meant to panic"));
        let error = (0..10).find_map(|_| jobs.next().err());
        assert!(matches!(error, Some(DataError::LoaderPanicked)));
    }
}
