//! `metrics.jsonl`: everything that is measured, in full precision, one JSON object a line, each with its `step`.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// An open `metrics.jsonl`.
pub(super) struct Metrics {
    file: File,
}

impl Metrics {
    /// Opens `path` for a run that is about to do step `start_step`: lines of that step and later, and a torn last line, are dropped.
    pub(super) fn open(path: &Path, start_step: u64) -> io::Result<Metrics> {
        let step_of = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?.get("step")?.as_u64();
        let lines = super::csv::kept(path, start_step, step_of)?;
        Ok(Metrics { file: super::csv::rewritten(path, &lines)? })
    }

    /// Appends what has a `step`.
    pub(super) fn row(&mut self, row: &impl serde::Serialize) -> io::Result<()> {
        let mut line = serde_json::to_string(row)?;
        line.push('\n');
        self.file.write_all(line.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Row;
    use crate::log::tests::row;

    #[test]
    fn rows_read_back_bit_for_bit_and_later_ones_are_dropped_on_resume() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let path = dir.path().join("metrics.jsonl");
        let mut metrics = Metrics::open(&path, 0).expect("it can be written");
        (0..6).for_each(|step| metrics.row(&row(step, 4)).expect("it can be written"));
        drop(metrics);
        drop(Metrics::open(&path, 4).expect("it can be written"));
        let text = std::fs::read_to_string(&path).expect("it was written");
        let losses: Vec<f64> =
            text.lines().map(|line| serde_json::from_str::<Row>(line).expect("it is a row").loss).collect();
        assert_eq!(losses, (0..4).map(|step| row(step, 4).loss).collect::<Vec<_>>());
    }
}
