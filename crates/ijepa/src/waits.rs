//! How long did a run wait for its data, and what would make it wait less?

use std::time::{Duration, Instant};

use ijepa_data::Spent;

use crate::distributed::Exchanged;
use crate::inspect::bytes;
use crate::log::progress::duration;

/// Share of the time below which nothing is to be gained.
const HARMLESS: f64 = 0.02;

/// The waits of a run.
pub(crate) struct Waits {
    began: Instant,
    /// That for the first batch, which nothing can be done ahead of.
    first: Option<Duration>,
    others: Duration,
}

impl Waits {
    /// The run begins.
    pub(crate) fn begin() -> Waits {
        Waits { began: Instant::now(), first: None, others: Duration::ZERO }
    }

    /// The run has waited for a batch.
    pub(crate) fn add(&mut self, wait: Duration) {
        match self.first {
            None => self.first = Some(wait),
            Some(_) => self.others += wait,
        }
    }

    /// A line at the end of a run of `steps` steps with several ranks.
    pub(crate) fn exchanged(&self, exchanged: Exchanged, steps: u64) -> Option<String> {
        let each = exchanged.bytes.checked_div(steps).filter(|bytes| *bytes > 0)?;
        let share = exchanged.waited.as_secs_f64() / self.began.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
        Some(format!(
            "ranks: {} a step into each and out of it; in all {} in which nothing else was done ({:.1} %)",
            bytes(each),
            short(exchanged.waited),
            100.0 * share
        ))
    }

    /// A line at the end of a run, whose loader has `threads` threads and `spent` its time so.
    pub(crate) fn said(&self, spent: Option<Spent>, threads: usize) -> String {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        said(self.began.elapsed(), self.first.unwrap_or_default(), self.others, spent, (threads, cores))
    }
}

fn said(
    whole: Duration,
    first: Duration,
    others: Duration,
    spent: Option<Spent>,
    (threads, cores): (usize, usize),
) -> String {
    let share = others.as_secs_f64() / whole.as_secs_f64().max(f64::MIN_POSITIVE);
    let waited = format!(
        "waited for data: {} for the first batch, then {} ({:.1} % of {})",
        short(first),
        short(others),
        100.0 * share,
        duration(whole)
    );
    let Some(spent) = spent.filter(|_| share > HARMLESS) else { return waited };
    let worked = (spent.read + spent.decode + spent.transform).as_secs_f64().max(f64::MIN_POSITIVE);
    let part = |time: Duration| time.as_secs_f64() / worked;
    let (read, decode, transform) = (part(spent.read), part(spent.decode), part(spent.transform));
    let remedy = if threads < cores {
        format!("--set data.num_workers={cores} (one a core; it changes no result)")
    } else if spent.decode.is_zero() {
        // Rendered or ready-made: there are no files that could be stored otherwise.
        return format!("{waited}; its {threads} loader threads leave no core free");
    } else if read >= decode.max(transform) {
        "a faster disk, or shards that are read in order: ijepa data pack --help".to_owned()
    } else if decode >= transform {
        "images stored at a smaller size, twice the crop is plenty; ijepa bench data measures without the model"
            .to_owned()
    } else {
        "fewer distortions (data.use_gaussian_blur, data.use_color_distortion), or smaller images".to_owned()
    };
    format!(
        "{waited}; the loader's {threads} threads spent {:.0} % reading, {:.0} % decoding, {:.0} % transforming\n  try: {remedy}",
        100.0 * read,
        100.0 * decode,
        100.0 * transform
    )
}

/// What to say of shards that were fetched `fetched` times with a limit of `limit_gb`, if there are fewer: how many, and of how many bytes.
pub(crate) fn fetched_again(fetched: u64, (shards, shard_bytes): (u64, u64), limit_gb: f64) -> Option<String> {
    if fetched <= shards || limit_gb <= 0.0 {
        return None;
    }
    let all = bytes(shard_bytes);
    Some(format!(
        "shards were fetched {fetched} times, there are {shards}: data.download_gb = {limit_gb} does not hold all of their {all}\n  \
         try: --set data.download_gb={} (all of them), or 0 (no limit); a limit that holds two windows (data.shuffle_window) fetches each once an epoch",
        (shard_bytes as f64 / 1e9 * 10.0).ceil() / 10.0
    ))
}

/// Waits are often shorter than a second.
fn short(time: Duration) -> String {
    if time < Duration::from_secs(10) { format!("{:.1} s", time.as_secs_f64()) } else { duration(time) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_run_that_hardly_waits_gets_no_advice() {
        let spent = Some(Spent { decode: seconds(9.0), ..Spent::default() });
        let text = said(seconds(100.0), seconds(3.0), seconds(1.5), spent, (1, 8));
        assert_eq!(text, "waited for data: 3.0 s for the first batch, then 1.5 s (1.5 % of 1 min 40 s)");
    }

    #[test]
    fn shards_that_come_again_and_again_are_told_with_a_limit_that_ends_it() {
        assert_eq!(fetched_again(12, (12, 3_210_000_000), 1.5), None);
        assert_eq!(fetched_again(13, (12, 3_210_000_000), 0.0), None, "there is no limit to raise");
        let said = fetched_again(13, (12, 3_210_000_000), 1.5).expect("one came twice");
        assert!(said.contains("13 times, there are 12") && said.contains("= 1.5 does not hold"), "{said}");
        assert!(said.contains("3.2 GB") && said.contains("data.download_gb=3.3"), "{said}");
    }

    #[test]
    fn the_advice_is_about_what_takes_the_time() {
        let said = |read, decode, transform, threads| {
            let spent = Spent {
                read: seconds(read),
                decode: seconds(decode),
                transform: seconds(transform),
                ..Spent::default()
            };
            said(seconds(100.0), seconds(0.0), seconds(25.0), Some(spent), threads)
        };
        let text = said(1.0, 7.0, 2.0, (2, 8));
        assert!(text.contains("25.0 %") && text.contains("10 % reading, 70 % decoding, 20 % transforming"), "{text}");
        assert!(text.contains("data.num_workers=8"), "{text}");
        assert!(said(8.0, 7.0, 2.0, (8, 8)).contains("data pack"));
        assert!(said(1.0, 7.0, 2.0, (8, 8)).contains("smaller size"));
        assert!(said(1.0, 2.0, 7.0, (8, 8)).contains("data.use_gaussian_blur"));
    }
}
