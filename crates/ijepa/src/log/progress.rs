//! What does the user see while a run goes on?
//!
//! A bar where stderr is a terminal; else a line now and then, so that a log file stays readable.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Row;
use crate::output;

/// Time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Progress of a run, or of any work that counts up to `total`.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    /// How a count is written in a plain line.
    shown: fn(u64) -> String,
    total: u64,
    first: u64,
    began: Instant,
    last_line: Option<Instant>,
    /// Mean of the loss since the last line, and of how many steps.
    loss: (f64, u64),
}

impl Progress {
    /// Begins to count at `first`, towards `total`.
    pub(crate) fn start(total: u64, first: u64) -> Progress {
        Progress::new(total, first, "{bar:30} {pos}/{len}  {elapsed} < {eta}  {msg}", |count| count.to_string())
    }

    /// Progress in bytes.
    pub(crate) fn bytes(total: u64, first: u64) -> Progress {
        let template = "{bar:30} {decimal_bytes}/{decimal_total_bytes}  {elapsed} < {eta}  {msg}";
        Progress::new(total, first, template, crate::inspect::bytes)
    }

    fn new(total: u64, first: u64, template: &str, shown: fn(u64) -> String) -> Progress {
        let bar = (output::wants(0) && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template(template).expect("the template is right");
            bar.set_style(style);
            bar.set_position(first);
            bar.reset_eta();
            bar
        });
        Progress { bar, shown, total, first, began: Instant::now(), last_line: None, loss: (0.0, 0) }
    }

    /// A step is done.
    pub(crate) fn step(&mut self, row: &Row) {
        self.loss = (self.loss.0 + row.loss, self.loss.1 + 1);
        let done = row.step + 1;
        if let Some(bar) = &self.bar {
            bar.set_message(format!("epoch {}  loss {:.4}  {:.0} img/s", row.epoch, row.loss, row.img_per_s));
            bar.set_position(done);
        } else if self.line_is_due(done) {
            let loss = self.loss.0 / self.loss.1 as f64;
            output::note(&format!(
                "step {done}/{}  epoch {}  loss {loss:.4}  {:.0} img/s  {} left",
                self.total,
                row.epoch,
                row.img_per_s,
                self.left(done)
            ));
            self.loss = (0.0, 0);
        }
    }

    /// `done` of the total are done; `message` says what else is known.
    pub(crate) fn advance(&mut self, done: u64, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(message.to_owned());
            bar.set_position(done);
        } else if self.line_is_due(done) {
            let shown = self.shown;
            output::note(&format!("{}/{}  {message}  {} left", shown(done), shown(self.total), self.left(done)));
        }
    }

    /// Narration that does not tear the bar.
    pub(crate) fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| output::note(text)),
            None => output::note(text),
        }
    }

    /// A warning that does not tear the bar.
    pub(crate) fn warning(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| output::warning(text)),
            None => output::warning(text),
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// The first line comes at once, the last at the end.
    fn line_is_due(&mut self, done: u64) -> bool {
        let due = done >= self.total || self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY);
        if due {
            self.last_line = Some(Instant::now());
        }
        due
    }

    fn left(&self, done: u64) -> String {
        let counted = done.saturating_sub(self.first).max(1) as f64;
        let remaining = self.total.saturating_sub(done) as f64;
        duration(Duration::from_secs_f64(self.began.elapsed().as_secs_f64() / counted * remaining))
    }
}

impl Drop for Progress {
    /// An error's message must not land behind a bar.
    fn drop(&mut self) {
        self.finish();
    }
}

/// `3 d 4 h`, `2 h 5 min`, `7 min 3 s`, `12 s`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if days > 0 => format!("{days} d {} h", hours % 24),
        () if hours > 0 => format!("{hours} h {} min", minutes % 60),
        () if minutes > 0 => format!("{minutes} min {} s", seconds % 60),
        () => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        let said = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!([said(12), said(423), said(7500), said(273_600)], ["12 s", "7 min 3 s", "2 h 5 min", "3 d 4 h"]);
    }
}
