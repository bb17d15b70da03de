//! Is this data sound? Every image is decoded in full; what cannot be read, what is there twice, and how the classes are filled.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use ijepa_data::Dataset;
use serde::Serialize;

use super::facts::Facts;
use super::work::in_any_order;
use super::{Part, classes, parts};
use crate::cli::DataCheckArgs;
use crate::exit::Exit;
use crate::inspect::bytes;
use crate::log::progress::Progress;
use crate::output;

/// Lines of a list that are shown to people; `--json` has all.
const SHOWN: usize = 20;

/// What `--json` prints.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// Unreadable ones included.
    images: usize,
    /// Images of each part, where there is more than one or it has a name.
    splits: BTreeMap<&'static str, usize>,
    unreadable: Vec<Unreadable>,
    /// Groups of equal files.
    duplicates: Vec<Vec<String>>,
    /// How many of these groups lie in both splits, or in more than one class.
    duplicates_across_splits: usize,
    duplicates_across_classes: usize,
    /// Images of every class, by name, or by number where the classes have no names.
    classes: BTreeMap<String, usize>,
    empty_classes: usize,
    formats: BTreeMap<&'static str, usize>,
    modes: BTreeMap<&'static str, usize>,
    /// Columns and rows of the images of fewest, middle and most pixels.
    smallest: Option<(usize, usize)>,
    median: Option<(usize, usize)>,
    largest: Option<(usize, usize)>,
    /// Of all readable images together.
    pixels: u64,
    bytes: u64,
    /// Links that lead nowhere, where the source counts them.
    broken_links: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Unreadable {
    path: String,
    error: String,
}

/// An image of one of the parts.
#[derive(Clone, Copy)]
struct Place {
    part: usize,
    index: usize,
}

/// Runs the command; the report is printed before anything that is unreadable ends it with the code for data.
pub(super) fn run(args: &DataCheckArgs) -> Result<Exit> {
    let parts = parts(&args.path)?;
    let report = report(&parts);
    if args.json {
        output::json(&report)?;
    } else {
        output::result(&text(&args.path, &report))?;
    }
    Ok(if report.unreadable.is_empty() { Exit::Done } else { Exit::Data })
}

fn report(parts: &[Part]) -> Report {
    let total: usize = parts.iter().map(|part| part.dataset.len()).sum();
    let mut progress = Progress::start(total as u64, 0);
    let (mut done, mut broken) = (0, 0);
    let mut facts: Vec<Vec<Option<Facts>>> = Vec::new();
    let mut report = Report { images: total, ..Report::default() };
    for part in parts {
        let dataset = &part.dataset;
        let mut found = vec![None; dataset.len()];
        let mut unreadable = Vec::new();
        let look = |index| Facts::of(dataset, index);
        in_any_order(dataset.len(), ijepa_tensor::threads::count(), look, |index, facts| {
            match facts {
                Ok(facts) => found[index] = Some(facts),
                Err(error) => {
                    broken += 1;
                    unreadable.push((index, error));
                }
            }
            done += 1;
            progress
                .advance(done, &if broken == 0 { "images".to_owned() } else { format!("images, {broken} unreadable") });
        });
        unreadable.sort_by_key(|(index, _)| *index);
        let named = |(index, error): (usize, String)| {
            let path = dataset.name(index);
            // Errors of files begin with their names.
            let error = error.strip_prefix(&format!("{path}: ")).map(str::to_owned).unwrap_or(error);
            Unreadable { path, error }
        };
        report.unreadable.extend(unreadable.into_iter().map(named));
        if parts.len() > 1 || part.name != "all" {
            report.splits.insert(part.name, dataset.len());
        }
        if let Some(links) = broken_links(dataset) {
            report.broken_links = Some(report.broken_links.unwrap_or(0) + links);
        }
        facts.push(found);
    }
    progress.finish();
    let labels = count_classes(&mut report, parts);
    sizes(&mut report, &facts);
    duplicates(&mut report, parts, &facts, &labels);
    report
}

fn broken_links(dataset: &Dataset) -> Option<usize> {
    match dataset {
        Dataset::Files(files) => Some(files.broken_links()),
        _ => None,
    }
}

/// Counts the images of every class; the class of every image of every part, where they are known.
fn count_classes(report: &mut Report, parts: &[Part]) -> Vec<Option<Vec<u32>>> {
    let (names, numbers) = classes(parts);
    report.classes = names.iter().map(|name| (name.clone(), 0)).collect();
    let mut of_parts = Vec::new();
    for (part, numbers) in parts.iter().zip(&numbers) {
        let labels = part.dataset.labels();
        let labels = labels.map(|labels| -> Vec<u32> {
            labels.iter().map(|&label| numbers.get(label as usize).copied().unwrap_or(label)).collect()
        });
        for &label in labels.iter().flatten() {
            let name = names.get(label as usize).cloned().unwrap_or_else(|| label.to_string());
            *report.classes.entry(name).or_insert(0) += 1;
        }
        of_parts.push(labels);
    }
    report.empty_classes = report.classes.values().filter(|&&count| count == 0).count();
    of_parts
}

fn sizes(report: &mut Report, facts: &[Vec<Option<Facts>>]) {
    let mut sizes = Vec::new();
    for facts in facts.iter().flatten().flatten() {
        *report.formats.entry(facts.format).or_insert(0) += 1;
        *report.modes.entry(facts.mode).or_insert(0) += 1;
        report.pixels += (facts.size.0 * facts.size.1) as u64;
        report.bytes += facts.bytes;
        sizes.push(facts.size);
    }
    sizes.sort_by_key(|&(width, height)| (width * height, width));
    report.smallest = sizes.first().copied();
    report.median = sizes.get(sizes.len() / 2).copied();
    report.largest = sizes.last().copied();
}

fn duplicates(report: &mut Report, parts: &[Part], facts: &[Vec<Option<Facts>>], labels: &[Option<Vec<u32>>]) {
    let mut of_content: HashMap<u128, Vec<Place>> = HashMap::new();
    for (part, facts) in facts.iter().enumerate() {
        for (index, facts) in facts.iter().enumerate() {
            if let Some(digest) = facts.and_then(|facts| facts.digest) {
                of_content.entry(digest).or_default().push(Place { part, index });
            }
        }
    }
    let mut groups: Vec<Vec<Place>> = of_content.into_values().filter(|group| group.len() > 1).collect();
    groups.sort_by_key(|group| (group[0].part, group[0].index));
    let label = |place: &Place| labels[place.part].as_ref().map(|labels| labels[place.index]);
    let differ =
        |group: &&Vec<Place>, same: &dyn Fn(&Place, &Place) -> bool| group.iter().any(|place| !same(place, &group[0]));
    report.duplicates_across_splits = groups.iter().filter(|group| differ(group, &|a, b| a.part == b.part)).count();
    report.duplicates_across_classes =
        groups.iter().filter(|group| differ(group, &|a, b| label(a) == label(b))).count();
    let name = |place: &Place| parts[place.part].dataset.name(place.index);
    report.duplicates = groups.iter().map(|group| group.iter().map(name).collect()).collect();
}

/// The report for people.
fn text(path: &str, report: &Report) -> String {
    let counted = |counts: &BTreeMap<&'static str, usize>| {
        counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
    };
    let files = if report.bytes > 0 { format!(", {}", bytes(report.bytes)) } else { String::new() };
    let mut lines = vec![format!("{path}: {} images{files}", report.images)];
    let mut line = |title: &str, text: String| lines.push(format!("  {title:<10}  {text}"));
    if !report.splits.is_empty() {
        line("splits", counted(&report.splits));
    }
    if let (Some(smallest), Some(median), Some(largest)) = (report.smallest, report.median, report.largest) {
        let size = |(width, height): (usize, usize)| format!("{width}×{height}");
        line("formats", counted(&report.formats));
        line("modes", counted(&report.modes));
        line("sizes", format!("{} smallest, {} median, {} largest", size(smallest), size(median), size(largest)));
        line("pixels", format!("{:.1} megapixels", report.pixels as f64 / 1e6));
    }
    line("classes", class_line(report));
    if let Some(links) = report.broken_links.filter(|&links| links > 0) {
        line("links", format!("{links} lead nowhere and were passed over"));
    }
    line("unreadable", report.unreadable.len().to_string());
    let unreadable = report.unreadable.iter().map(|image| format!("    {}: {}", image.path, image.error));
    lines.extend(shown(unreadable, report.unreadable.len()));
    let across = match (report.duplicates_across_splits, report.duplicates_across_classes) {
        (0, 0) => String::new(),
        (splits, classes) => format!("; {splits} groups lie in both splits, {classes} in more than one class"),
    };
    let more: usize = report.duplicates.iter().map(|group| group.len() - 1).sum();
    let said = match report.duplicates.len() {
        0 => "none".to_owned(),
        groups => format!("{more} files that another equals, in {groups} groups{across}"),
    };
    lines.push(format!("  {:<10}  {said}", "duplicates"));
    let duplicates = report.duplicates.iter().map(|group| format!("    {}", group.join(" = ")));
    lines.extend(shown(duplicates, report.duplicates.len()));
    lines.join("\n")
}

fn class_line(report: &Report) -> String {
    let most = report.classes.iter().max_by_key(|(_, count)| **count);
    let least = report.classes.iter().min_by_key(|(_, count)| **count);
    let (Some((most, most_count)), Some((least, least_count))) = (most, least) else {
        return "unknown: the images have no labels".to_owned();
    };
    let empty = match report.empty_classes {
        0 => "none empty".to_owned(),
        count => format!("{count} empty"),
    };
    format!("{}: most {most} ({most_count}), least {least} ({least_count}), {empty}", report.classes.len())
}

/// The first lines of a list of `count`.
fn shown(lines: impl Iterator<Item = String>, count: usize) -> Vec<String> {
    let mut shown: Vec<String> = lines.take(SHOWN).collect();
    if count > SHOWN {
        shown.push(format!("    … and {} more: --json lists all", count - SHOWN));
    }
    shown
}
