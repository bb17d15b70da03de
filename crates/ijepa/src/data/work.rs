//! How are many images gone through with all cores? Threads take the next number and hand in what they found, in any order.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

/// Results that may wait for their taker, for each thread.
const WAITING: usize = 4;

/// Does `work` for every number in `0..count` on `threads` threads, and hands the results to `take` as they come, with their number.
pub(super) fn in_any_order<T: Send>(
    count: usize,
    threads: usize,
    work: impl Fn(usize) -> T + Sync,
    mut take: impl FnMut(usize, T),
) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (send, receive) = sync_channel(WAITING * threads.max(1));
        for _ in 0..threads.max(1) {
            let (send, next, work) = (send.clone(), &next, &work);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    // The taker is gone when it has panicked.
                    if number >= count || send.send((number, work(number))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        receive.iter().for_each(|(number, result)| take(number, result));
    });
}

/// The same for a few numbers, in order.
pub(super) fn in_order<T: Send>(numbers: &[usize], threads: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let mut results: Vec<Option<T>> = numbers.iter().map(|_| None).collect();
    in_any_order(numbers.len(), threads, |at| work(numbers[at]), |at, result| results[at] = Some(result));
    results.into_iter().map(|result| result.expect("every number has its result")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_comes_once_from_any_number_of_threads() {
        for threads in [0, 1, 3] {
            let mut seen = vec![0; 100];
            in_any_order(
                100,
                threads,
                |number| number * 2,
                |number, result| {
                    assert_eq!(result, number * 2);
                    seen[number] += 1;
                },
            );
            assert!(seen.iter().all(|&times| times == 1));
            assert_eq!(in_order(&[5, 1, 3], threads, |number| number + 1), [6, 2, 4]);
        }
    }
}
