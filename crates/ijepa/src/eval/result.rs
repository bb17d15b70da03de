//! What came out of an evaluation, as JSON, as a table, and as a page.

use std::path::Path;

use anyhow::{Context, Result};
use ijepa_eval::metrics::Estimate;
use serde::Serialize;

use super::heads::Trial;
use crate::cli::EvalSource;
use crate::output;
use crate::report::bars::{Bar, Bars};
use crate::report::{Block, Section, render};

/// One number.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What was judged: `trained`, `untrained` or `pixels`.
    pub(crate) features: &'static str,
    /// By what.
    pub(crate) head: String,
    /// What was chosen on held-out training images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) setting: Option<String>,
    pub(crate) metric: &'static str,
    pub(crate) value: f64,
    /// Of the images that were judged; of several draws, that of their mean. NaN, and null in JSON, where it is not known.
    pub(crate) standard_error: f64,
    pub(crate) n_train: usize,
    pub(crate) n_val: usize,
    /// Numbers that stand for an image.
    pub(crate) width: usize,
    /// The values of several draws of labelled images; `value` is their mean.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) draws: Vec<f64>,
    /// The heads that were compared, where one of many was taken.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) heads: Vec<Trial>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Results<'r> {
    protocol: &'r str,
    results: &'r [Row],
}

impl Row {
    /// Whether the value is a share.
    fn is_share(&self) -> bool {
        self.metric == "accuracy"
    }

    /// Value and error as a table has them; some values have no error.
    pub(crate) fn said(&self) -> (String, String) {
        if !self.standard_error.is_finite() {
            (format!("{:.2}", self.value), "–".to_owned())
        } else if self.is_share() {
            (format!("{:.2} %", 100.0 * self.value), format!("{:.2}", 100.0 * self.standard_error))
        } else {
            (format!("{:.4}", self.value), format!("{:.4}", self.standard_error))
        }
    }

    /// Value and error in one.
    pub(crate) fn shown(&self) -> String {
        let (value, error) = self.said();
        if self.standard_error.is_finite() { format!("{value} ± {error}") } else { value }
    }

    /// A line of narration.
    pub(crate) fn note(&self) -> String {
        let value = self.shown();
        let setting = self.setting.as_ref().map_or_else(String::new, |setting| format!(" ({setting})"));
        format!("{}: {}{setting}: {} {value}", self.features, self.head, self.metric)
    }
}

/// The rows of several draws, each judged alike, as their means. The error of a mean is the spread between draws over the root of
/// their number.
pub(crate) fn mean(draws: Vec<Vec<Row>>) -> Vec<Row> {
    let count = draws.len() as f64;
    let mut draws = draws.into_iter();
    let Some(mut first) = draws.next() else { return Vec::new() };
    let rest: Vec<Vec<Row>> = draws.collect();
    if rest.is_empty() {
        return first;
    }
    for (at, row) in first.iter_mut().enumerate() {
        row.draws = std::iter::once(row.value).chain(rest.iter().map(|rows| rows[at].value)).collect();
        let Estimate { value, standard_error } = Estimate::of(row.draws.iter().copied());
        row.value = value;
        // The variance between few draws has one degree of freedom less than draws.
        row.standard_error = standard_error * (count / (count - 1.0)).sqrt();
        row.setting = None;
        row.heads = Vec::new();
    }
    first
}

/// What a page says of its results beside the numbers.
pub(crate) struct Page<'a> {
    pub(crate) protocol: &'a str,
    pub(crate) checkpoint: &'a Path,
    /// Further settings by name.
    pub(crate) settings: Vec<(&'static str, String)>,
}

/// Prints the results, and writes the page where one is wanted.
pub(crate) fn show(protocol: &str, results: &[Row], source: &EvalSource) -> Result<()> {
    let EvalSource { checkpoint, train, val, seed, .. } = source;
    let settings = vec![("learnt from", train.clone()), ("judged on", val.clone()), ("seed", seed.to_string())];
    let page = Page { protocol, checkpoint, settings };
    show_as(&page, results, source.report.as_deref(), source.json)
}

/// The same of any results.
pub(crate) fn show_as(page: &Page, results: &[Row], report: Option<&Path>, json: bool) -> Result<()> {
    let protocol = page.protocol;
    page.write(results, report)?;
    if json { output::json(&Results { protocol, results }) } else { Ok(output::result(&table(protocol, results))?) }
}

fn table(protocol: &str, results: &[Row]) -> String {
    let heads = results.iter().map(|row| row.head.chars().count()).max().unwrap_or(0).max(20);
    let line = |features: &str, head: &str, [metric, value, error, train, val]: [&str; 5], rest: &str| {
        let line =
            format!("{features:<10} {head:<heads$} {metric:<9} {value:>9} {error:>7} {train:>8} {val:>7}  {rest}");
        line.trim_end().to_owned()
    };
    let mut lines = vec![line(protocol, "head", ["metric", "value", "±", "n_train", "n_val"], "")];
    lines.extend(results.iter().map(|row| {
        let (value, error) = row.said();
        let (train, val) = (row.n_train.to_string(), row.n_val.to_string());
        let rest = match row.draws.len() {
            0 => row.setting.clone().unwrap_or_default(),
            draws => format!("mean of {draws} draws"),
        };
        line(row.features, &row.head, [row.metric, &value, &error, &train, &val], &rest)
    }));
    lines.join("\n")
}

impl Page<'_> {
    /// Writes the page to a file, where one is wanted.
    pub(crate) fn write(&self, results: &[Row], to: Option<&Path>) -> Result<()> {
        let Some(path) = to else { return Ok(()) };
        std::fs::write(path, page(self, results))
            .with_context(|| format!("cannot write the report {}", path.display()))?;
        output::note(&format!("wrote {}", path.display()));
        Ok(())
    }
}

fn page(page: &Page, results: &[Row]) -> String {
    let mut metrics: Vec<&str> = results.iter().map(|row| row.metric).collect();
    metrics.sort_unstable();
    metrics.dedup();
    let bars = |metric: &&str| {
        let of = results.iter().filter(|row| row.metric == *metric);
        let bar = |row: &Row| Bar {
            name: format!("{}, {}", row.features, row.head),
            value: row.value,
            error: row.standard_error,
            shown: row.shown(),
        };
        Bars { title: (*metric).to_owned(), bars: of.map(bar).collect() }
    };
    let checkpoint = page.checkpoint.display().to_string();
    let first = std::iter::once(("checkpoint", checkpoint.clone()));
    let last = std::iter::once(("ijepa", env!("CARGO_PKG_VERSION").to_owned()));
    let all = first.chain(page.settings.iter().cloned()).chain(last);
    let settings = all.map(|(name, value)| (name.to_owned(), value)).collect();
    let rows: Vec<(String, String)> = results
        .iter()
        .map(|row| {
            let said = format!("{} ({} to learn from, {} to judge)", row.shown(), row.n_train, row.n_val);
            (format!("{}, {}, {}", row.features, row.head, row.metric), said)
        })
        .collect();
    let heads = results.iter().flat_map(|row| row.heads.iter().map(move |head| (row.features, head)));
    let heads: Vec<(String, String)> = heads
        .map(|(features, head)| (format!("{features}, {}", head.said()), format!("{:.2} %", 100.0 * head.accuracy)))
        .collect();
    let section = |heading: &str, blocks| Section { heading: heading.to_owned(), blocks };
    render(&crate::report::Report {
        title: format!("ijepa eval {}", page.protocol),
        summary: vec![format!("{checkpoint}, ± is one standard error.")],
        sections: [
            Some(section("Results", metrics.iter().map(bars).map(Block::Bars).collect())),
            Some(section("In numbers", vec![Block::KeyValues(rows)])),
            (!heads.is_empty()).then(|| section("Heads that were compared", vec![Block::KeyValues(heads)])),
            Some(section("Settings", vec![Block::KeyValues(settings)])),
        ]
        .into_iter()
        .flatten()
        .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(value: f64) -> Row {
        let (n_train, n_val, width) = (10, 10, 4);
        let head = "knn k=1".to_owned();
        Row {
            features: "trained",
            head,
            setting: Some("x".into()),
            metric: "accuracy",
            value,
            standard_error: 0.5,
            n_train,
            n_val,
            width,
            draws: vec![],
            heads: vec![],
        }
    }

    #[test]
    fn several_draws_become_their_mean_and_its_error() {
        let mean = mean(vec![vec![row(0.2)], vec![row(0.4)], vec![row(0.6)]]);
        assert_eq!(mean[0].draws, [0.2, 0.4, 0.6]);
        assert!((mean[0].value - 0.4).abs() < 1e-12);
        // s = 0.2 between the three, over √3.
        assert!((mean[0].standard_error - 0.2 / 3f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn one_draw_stays_as_it_is() {
        let one = mean(vec![vec![row(0.25)]]);
        assert_eq!((one[0].value, one[0].standard_error, one[0].draws.len()), (0.25, 0.5, 0));
    }
}
