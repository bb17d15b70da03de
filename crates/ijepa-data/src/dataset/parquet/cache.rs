//! How do several threads share what is costly to make? Each thing is made once, and kept until the room is needed: what was
//! used longest ago goes first.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Things by their numbers, together at most about `limit` bytes: what is in the making counts with its estimate, and the newest
/// is kept whatever its size.
pub(super) struct Cache<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    limit: u64,
}

struct State<T> {
    slots: HashMap<usize, Slot<T>>,
    bytes: u64,
    /// Counts the uses.
    clock: u64,
    made: u64,
}

struct Slot<T> {
    /// Nothing while it is in the making.
    content: Option<Arc<T>>,
    bytes: u64,
    used: u64,
}

impl<T> Cache<T> {
    pub(super) fn new(limit: u64) -> Cache<T> {
        let state = State { slots: HashMap::new(), bytes: 0, clock: 0, made: 0 };
        Cache { state: Mutex::new(state), changed: Condvar::new(), limit }
    }

    /// How often something was made.
    pub(super) fn made(&self) -> u64 {
        self.lock().made
    }

    /// Thing `number`; if it is not there, `make` makes it and says how many bytes it has, of which `estimate` is the guess. Waits
    /// for another thread that is making it.
    pub(super) fn get(&self, number: usize, estimate: u64, make: impl FnOnce() -> (T, u64)) -> Arc<T> {
        let mut state = self.lock();
        state.clock += 1;
        let now = state.clock;
        loop {
            match state.slots.get_mut(&number) {
                Some(Slot { content: Some(content), used, .. }) => {
                    *used = now;
                    return Arc::clone(content);
                }
                Some(Slot { content: None, .. }) => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                None => break,
            }
        }
        state.slots.insert(number, Slot { content: None, bytes: estimate, used: now });
        state.bytes = state.bytes.saturating_add(estimate);
        state.made += 1;
        state.make_room(self.limit, number);
        drop(state);

        let unfinished = Unfinished { cache: self, number };
        let (content, bytes) = make();
        std::mem::forget(unfinished);
        let content = Arc::new(content);
        let mut state = self.lock();
        state.remove(number);
        state.slots.insert(number, Slot { content: Some(Arc::clone(&content)), bytes, used: now });
        state.bytes = state.bytes.saturating_add(bytes);
        state.make_room(self.limit, number);
        self.changed.notify_all();
        content
    }

    /// No code panics while it holds the lock, so a poisoned lock would still guard a sound state.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn remove(&mut self, number: usize) {
        if let Some(slot) = self.slots.remove(&number) {
            self.bytes = self.bytes.saturating_sub(slot.bytes);
        }
    }

    /// Drops what was used longest ago, but neither `number` nor what is in the making.
    fn make_room(&mut self, limit: u64, number: usize) {
        while self.bytes > limit {
            let idle = self.slots.iter().filter(|(other, slot)| **other != number && slot.content.is_some());
            let Some((&oldest, _)) = idle.min_by_key(|(_, slot)| slot.used) else { return };
            self.remove(oldest);
        }
    }
}

/// Gives up a slot whose making panicked: others would wait for it for ever.
struct Unfinished<'a, T> {
    cache: &'a Cache<T>,
    number: usize,
}

impl<T> Drop for Unfinished<'_, T> {
    fn drop(&mut self) {
        self.cache.lock().remove(self.number);
        self.cache.changed.notify_all();
    }
}

impl<T> fmt::Debug for Cache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("limit", &self.limit).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    fn take(cache: &Cache<usize>, number: usize) -> usize {
        *cache.get(number, 10, || (number * number, 10))
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let cache = Cache::new(30);
        for number in [1, 2, 3, 1] {
            assert_eq!(take(&cache, number), number * number);
        }
        assert_eq!(cache.made(), 3);
        take(&cache, 4); // 2 has to go
        for number in [1, 3, 4] {
            take(&cache, number);
        }
        assert_eq!(cache.made(), 4);
        take(&cache, 2);
        assert_eq!(cache.made(), 5);
    }

    #[test]
    fn what_is_larger_than_the_limit_is_kept_until_the_next() {
        let cache = Cache::new(5);
        for number in [7, 7, 7, 8, 7] {
            take(&cache, number);
        }
        assert_eq!(cache.made(), 3);
        assert_eq!(cache.lock().bytes, 10);
    }

    #[test]
    fn threads_that_want_the_same_wait_for_the_one_that_makes_it() {
        let (cache, makers) = (Cache::new(100), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let slow = || {
                        makers.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(20));
                        (3usize, 1)
                    };
                    assert_eq!(*cache.get(0, 1, slow), 3);
                });
            }
        });
        assert_eq!(makers.into_inner(), 1);
    }

    #[test]
    fn a_panic_in_the_making_leaves_the_slot_to_the_next() {
        let cache: Cache<usize> = Cache::new(100);
        let panicked = catch_unwind(AssertUnwindSafe(|| cache.get(1, 10, || panic!("this is meant to panic"))));
        assert!(panicked.is_err());
        assert_eq!(take(&cache, 1), 1);
        assert_eq!(cache.lock().bytes, 10);
    }
}
