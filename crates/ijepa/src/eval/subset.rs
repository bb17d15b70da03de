//! Which of the training images have labels?

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, Result};
use ijepa_data::key::{Key, Purpose, shuffle};

use crate::cli::LabelArgs;
use crate::exit::{Exit, Failure};

/// How labelled images are chosen.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Choice {
    /// All of them.
    All,
    /// A share of each class, rounded, at least one.
    Fraction(f64),
    /// So many of each class, or all where there are fewer.
    PerClass(usize),
    /// Those whose file names are in this set.
    Named(HashSet<String>),
}

impl Choice {
    /// What was asked for.
    pub(crate) fn of(args: &LabelArgs) -> Result<Choice> {
        match args {
            LabelArgs { fraction: Some(fraction), .. } if !(*fraction > 0.0 && *fraction <= 1.0) => {
                Err(Failure::usage(format!("--fraction {fraction}: a number above 0 and up to 1 is expected")).into())
            }
            LabelArgs { fraction: Some(fraction), .. } => Ok(Choice::Fraction(*fraction)),
            LabelArgs { per_class: Some(count), .. } => Ok(Choice::PerClass(*count)),
            LabelArgs { labelled: Some(file), .. } => names(file).map(Choice::Named),
            _ => Ok(Choice::All),
        }
    }

    /// Whether a draw differs from the next one.
    pub(crate) fn is_drawn(&self) -> bool {
        matches!(self, Choice::Fraction(_) | Choice::PerClass(_))
    }
}

/// The file names that a list holds: the last part of what stands first in each line.
fn names(file: &Path) -> Result<HashSet<String>> {
    let unreadable = || format!("--labelled {}", file.display());
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::new(Exit::Data, format!("{}: {error}", unreadable())).remedy("check the path"))?;
    let name = |line: &str| {
        line.split([',', '\t']).next().and_then(|path| path.trim().rsplit(['/', '\\']).next().map(str::to_owned))
    };
    let names: HashSet<String> = text.lines().filter_map(name).filter(|name| !name.is_empty()).collect();
    if names.is_empty() {
        return Err(Failure::new(Exit::Data, format!("{}: it names no image", unreadable())).into());
    }
    Ok(names)
}

/// The numbers of the images with labels, ascending: for the same labels, choice, seed and draw always the same. `name` gives the file name
/// of an image.
pub(crate) fn choose(
    labels: &[u32],
    how: &Choice,
    (seed, draw): (u64, u64),
    name: impl Fn(usize) -> String,
) -> Result<Vec<u32>> {
    let per_class = |count_of: &dyn Fn(usize) -> usize| {
        let mut classes: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (image, &label) in (0..).zip(labels) {
            classes.entry(label).or_default().push(image);
        }
        let mut chosen = Vec::new();
        for (class, mut images) in classes {
            shuffle(&mut Key::new(seed, Purpose::Probe, draw, u64::from(class)).rng(), &mut images);
            images.truncate(count_of(images.len()));
            chosen.extend(images);
        }
        chosen.sort_unstable();
        chosen
    };
    match how {
        Choice::All => Ok((0..labels.len() as u32).collect()),
        Choice::Fraction(share) => Ok(per_class(&|count| ((count as f64 * share).round() as usize).max(1))),
        Choice::PerClass(count) => Ok(per_class(&|_| *count)),
        Choice::Named(names) => {
            let chosen: Vec<u32> =
                (0..labels.len()).filter(|&image| names.contains(&name(image))).map(|image| image as u32).collect();
            if chosen.len() == names.len() {
                return Ok(chosen);
            }
            let found: HashSet<String> = chosen.iter().map(|&image| name(image as usize)).collect();
            let missing =
                names.iter().filter(|name| !found.contains(*name)).min().context("a name that was not found")?;
            Err(Failure::new(
                Exit::Data,
                format!(
                    "--labelled names {} images, {} of them are in --train; {missing} is not",
                    names.len(),
                    found.len()
                ),
            )
            .remedy(
                "the list and the images must be of the same data set; images in several folders must not share names",
            )
            .into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(labels: &[u32], how: &Choice, draw: u64) -> Vec<u32> {
        choose(labels, how, (3, draw), |image| format!("{image}.jpg")).expect("valid")
    }

    #[test]
    fn every_class_gets_its_share_and_at_least_one() {
        let labels: Vec<u32> = (0..1000).map(|i| u32::from(i >= 900) + u32::from(i >= 997)).collect();
        let chosen = drawn(&labels, &Choice::Fraction(0.01), 0);
        let of = |class| chosen.iter().filter(|&&image| labels[image as usize] == class).count();
        assert_eq!([of(0), of(1), of(2)], [9, 1, 1]);
        let chosen = drawn(&labels, &Choice::PerClass(5), 0);
        let of = |class| chosen.iter().filter(|&&image| labels[image as usize] == class).count();
        assert_eq!([of(0), of(1), of(2)], [5, 5, 3]);
    }

    #[test]
    fn draws_differ_and_each_is_always_the_same() {
        let labels: Vec<u32> = (0..400).map(|i| i % 4).collect();
        let of = |draw| drawn(&labels, &Choice::Fraction(0.1), draw);
        assert_eq!(of(0), of(0));
        assert_ne!(of(0), of(1));
        assert!(of(0).windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn a_list_chooses_what_it_names_and_a_name_that_is_not_there_is_an_error() {
        let labels = [0, 1, 0, 1];
        let named = |names: &[&str]| Choice::Named(names.iter().map(|&name| name.to_owned()).collect());
        assert_eq!(drawn(&labels, &named(&["3.jpg", "1.jpg"]), 0), [1, 3]);
        let error = choose(&labels, &named(&["3.jpg", "9.jpg"]), (0, 0), |image| format!("{image}.jpg"));
        assert!(error.is_err_and(|error| error.to_string().contains("9.jpg")));
    }
}
