//! What does a run leave behind, and what does the user see while it runs?
//!
//! ```text
//! RUN/params-ijepa.yaml     every value of the configuration
//! RUN/{tag}_r0.csv          one row a step, as the reference writes it; of each other rank one of its own, {tag}_r1.csv, …
//! RUN/metrics.jsonl         one object a row, full precision
//! RUN/events.out.tfevents…  the same for TensorBoard
//! RUN/unreadable.txt        images that were left out, and why; of other ranks in unreadable_r1.txt, …
//! RUN/checkpoints/          checkpoints
//! ```
//!
//! A run that goes on from step s first drops the rows of steps s and later, so that after any number of interruptions the
//! files hold each step once, in order.

mod csv;
pub(crate) mod folder;
mod metrics;
pub(crate) mod progress;
mod tensorboard;

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ijepa_data::Unreadable;

use csv::Csv;
use metrics::Metrics;
use tensorboard::Events;

use crate::run::Run;
use progress::Progress;

/// The name of the file of rows.
const METRICS: &str = "metrics.jsonl";

/// What is known after a step. Step i, from 0, is the one that takes the weights from i updates to i + 1.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Row {
    /// Which step, from 0.
    pub(crate) step: u64,
    /// Its epoch, from 1.
    pub(crate) epoch: u64,
    /// The loss.
    pub(crate) loss: f64,
    /// Learning rate.
    pub(crate) lr: f64,
    /// Weight decay.
    pub(crate) wd: f64,
    /// Momentum of the target encoder.
    pub(crate) ema: f64,
    /// Patches of a context block.
    pub(crate) context_patches: f64,
    /// Patches of a target block.
    pub(crate) target_patches: f64,
    /// Norm of the gradient over all parameters.
    pub(crate) grad_norm: f64,
    /// Mean over dimensions of the targets' standard deviation over tokens; near 0 when the encoder collapses.
    pub(crate) target_std: f64,
    /// Time of the step in milliseconds, without waiting for data.
    pub(crate) step_ms: f64,
    /// Time that the step waited for data, in milliseconds.
    pub(crate) data_ms: f64,
    /// Images a second, waiting included.
    pub(crate) img_per_s: f64,
}

/// What was seen of the features after a step: see `watch.rs`. Its line of `metrics.jsonl` has the same `step` as the step's own.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Seen {
    /// The step that was the last, from 0.
    pub(crate) step: u64,
    /// Exponential of the entropy of the features' singular values.
    pub(crate) rank_me: f64,
    /// The same once their mean is taken off.
    pub(crate) effective_rank: f64,
    /// Mean over dimensions of the features' standard deviation over images.
    pub(crate) feature_std: f64,
    /// Mean over dimensions of the targets' standard deviation over tokens.
    pub(crate) target_std: f64,
    /// The loss of a predictor that always says the mean of the targets.
    pub(crate) loss_of_mean: f64,
    /// The predictor's.
    pub(crate) loss: f64,
    /// Accuracy of the nearest neighbours' vote, where labelled images were named.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) knn: Option<f64>,
}

/// The rows of a run's `metrics.jsonl`.
pub(crate) fn rows(folder: &Path) -> Result<Vec<Row>> {
    let path = folder.join(METRICS);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// All files and the progress display of a run.
pub(crate) struct Log {
    csv: Csv,
    /// Of the first rank alone.
    rows: Option<(Metrics, Events)>,
    unreadable: PathBuf,
    /// Lines of `unreadable.txt`: a run that goes on meets the same images again.
    named: HashSet<String>,
    log_every: u64,
    /// What the user sees.
    pub(crate) progress: Progress,
}

impl Log {
    /// Opens the files of `run`, which is about to do step `start_step`. The run folder is there already.
    pub(crate) fn open(run: &Run, start_step: u64) -> Result<Log> {
        let folder = &run.folder;
        let rank = run.shares.rank;
        let csv = folder.join(format!("{}_r{rank}.csv", run.config.logging.write_tag));
        let metrics = folder.join(METRICS);
        let unreadable =
            folder.join(if rank == 0 { "unreadable.txt".to_owned() } else { format!("unreadable_r{rank}.txt") });
        let named = std::fs::read(&unreadable).unwrap_or_default();
        let named = String::from_utf8_lossy(&named).lines().map(str::to_owned).collect();
        let rows = if rank == 0 {
            let metrics =
                Metrics::open(&metrics, start_step).with_context(|| format!("cannot write {}", metrics.display()))?;
            Some((metrics, Events::create(folder, start_step)?))
        } else {
            None
        };
        Ok(Log {
            rows,
            csv: Csv::open(&csv, run.steps_per_epoch, start_step)
                .with_context(|| format!("cannot write {}", csv.display()))?,
            unreadable,
            named,
            log_every: run.log_every,
            progress: Progress::start(run.steps, start_step),
        })
    }

    /// Takes the row of a step. Rows reach the disk's cache at once: a killed process loses none of them.
    pub(crate) fn step(&mut self, row: &Row) -> Result<()> {
        self.csv.row(row).context("cannot write the log of steps (.csv)")?;
        if let Some((metrics, events)) = self.rows.as_mut().filter(|_| row.step.is_multiple_of(self.log_every)) {
            metrics.row(row).context("cannot write metrics.jsonl")?;
            events.row(row).context("cannot write the TensorBoard events")?;
        }
        self.progress.step(row);
        Ok(())
    }

    /// Takes what was seen of the features after a step, and perhaps a warning.
    pub(crate) fn seen(&mut self, seen: &Seen, warning: Option<String>) -> Result<()> {
        if let Some((metrics, events)) = &mut self.rows {
            metrics.row(seen).context("cannot write metrics.jsonl")?;
            events.seen(seen).context("cannot write the TensorBoard events")?;
        }
        let knn = seen.knn.map_or_else(String::new, |knn| format!(", kNN {:.1} %", 100.0 * knn));
        self.progress.note(&format!(
            "after step {}: RankMe {:.1}, effective rank {:.1}, spread of features {:.3} and targets {:.3}, loss {:.4} (of the mean {:.4}){knn}",
            seen.step + 1,
            seen.rank_me,
            seen.effective_rank,
            seen.feature_std,
            seen.target_std,
            seen.loss,
            seen.loss_of_mean
        ));
        warning.iter().for_each(|words| self.progress.warning(words));
        Ok(())
    }

    /// Names images that could not be read: a warning, and a line each in `unreadable.txt`, unless it stands there already.
    pub(crate) fn unreadable(&mut self, images: &[Unreadable]) -> Result<()> {
        for image in images {
            self.progress.warning(&format!("left out: {}", image.error));
            let line = image.error.replace('\n', "\\n");
            if !self.named.insert(line.clone()) {
                continue;
            }
            let file = std::fs::OpenOptions::new().create(true).append(true).open(&self.unreadable);
            let written = file.and_then(|mut file| writeln!(file, "{line}"));
            written.with_context(|| format!("cannot write {}", self.unreadable.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Row;

    /// A row with values that differ by step.
    pub(super) fn row(step: u64, steps_per_epoch: u64) -> Row {
        Row {
            step,
            epoch: step / steps_per_epoch + 1,
            loss: 1.0 / (step + 1) as f64,
            lr: 1e-3,
            wd: 0.04,
            ema: 0.996,
            context_patches: 50.125,
            target_patches: 33.0,
            grad_norm: 0.5,
            target_std: 0.9,
            step_ms: 12.75,
            data_ms: 0.1,
            img_per_s: 100.0,
        }
    }
}
