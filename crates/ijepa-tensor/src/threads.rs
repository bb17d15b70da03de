//! The threads of an op. Work is cut into pieces whose number and borders depend on the shape alone, so
//! that results do not depend on the number of threads.

use rayon::prelude::*;
use std::num::NonZeroUsize;

/// As much as a main thread usually has.
const STACK_BYTES: usize = 8 << 20;

/// Starts the threads of all ops, one for each core unless `count` says otherwise. Works once, before the first op runs.
///
/// # Errors
/// When the threads are already running.
pub fn start(count: Option<NonZeroUsize>) -> Result<(), String> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(count.map_or(0, NonZeroUsize::get))
        .stack_size(STACK_BYTES)
        .build_global()
        .map_err(|error| format!("the threads cannot be started: {error}"))
}

/// Does `work` on one of the threads of the ops: an op that is called from there begins without waking another thread first.
pub fn run<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| work())
}

/// Number of threads that ops use.
pub fn count() -> usize {
    rayon::current_num_threads()
}

/// Values below which starting threads costs more than it brings.
const SERIAL_LEN: usize = 1 << 14;

/// Calls `work(first_row, rows)` on consecutive pieces of `out`, which has rows of `width` values.
pub fn for_rows(out: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    if out.len() <= SERIAL_LEN {
        return work(0, out);
    }
    let rows = piece(out.len() / width, width);
    out.par_chunks_mut(rows * width).enumerate().for_each(|(piece, part)| work(piece * rows, part));
}

/// As [`for_rows`], with two outputs of the same number of rows.
pub fn for_rows2(
    out: &mut [f32],
    width: usize,
    second: &mut [f32],
    second_width: usize,
    work: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    if out.len() <= SERIAL_LEN {
        return work(0, out, second);
    }
    let rows = piece(out.len() / width, width);
    out.par_chunks_mut(rows * width)
        .zip(second.par_chunks_mut(rows * second_width))
        .enumerate()
        .for_each(|(piece, (part, second))| work(piece * rows, part, second));
}

/// Rows of a piece of (rows, width) values.
pub fn piece(rows: usize, width: usize) -> usize {
    // Pieces of about 64 KiB, but at most 256 of them.
    (SERIAL_LEN / width).max(rows.div_ceil(256)).max(1)
}
