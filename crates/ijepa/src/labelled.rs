//! Which images have which classes? For all that learns from labels or is judged by them.

use std::sync::Arc;

use anyhow::Result;
use ijepa_data::{Dataset, Split, Storage};

use crate::exit::{Exit, Failure};
use crate::opening;

/// Images with a class each.
pub(crate) struct Labelled {
    pub(crate) dataset: Arc<Dataset>,
    pub(crate) labels: Vec<u32>, // (n)
}

/// Images to learn from and images to be judged on, with their classes numbered 0, 1, 2, … in the order of the training images' own: a
/// file may number its classes by anything. A class that training does not have comes after all others, so that no prediction is right
/// about it.
pub(crate) fn pair(train: &str, val: &str, seed: u64) -> Result<(Labelled, Labelled)> {
    let mut learnt = open(train, Split::Train, seed)?;
    let mut judged = open(val, Split::Val, seed)?;
    if learnt.dataset.classes() != judged.dataset.classes() {
        let names = |of: &Labelled| {
            of.dataset.classes().map_or_else(
                || "none".to_owned(),
                |names| format!("{} ({}, …)", names.len(), names.first().map_or("", String::as_str)),
            )
        };
        let (has, other) = (names(&learnt), names(&judged));
        let problem = format!(
            "images to learn from and to be judged on must have the same classes: {train} has {has}, {val} has {other}"
        );
        return Err(Failure::new(Exit::Data, problem).remedy("class folders of the same names on both sides").into());
    }
    number(&mut learnt.labels, &mut judged.labels);
    Ok((learnt, judged))
}

/// Numbers the labels of both from 0 by the classes of the first.
pub(crate) fn number(train: &mut [u32], val: &mut [u32]) {
    let mut classes = train.to_vec();
    classes.sort_unstable();
    classes.dedup();
    for label in train.iter_mut().chain(val) {
        *label = classes.binary_search(label).unwrap_or(classes.len()) as u32;
    }
}

fn open(spec: &str, split: Split, seed: u64) -> Result<Labelled> {
    let dataset = opening::open(spec, split, seed, Storage::default())?;
    let Some(labels) = dataset.labels() else {
        let problem = format!("{spec}: expected labelled images, got {} without classes", dataset.len());
        let remedy = "a folder with one sub-folder for each class, or a .safetensors with `labels`";
        return Err(Failure::new(Exit::Data, problem).remedy(remedy).into());
    };
    Ok(Labelled { dataset: Arc::new(dataset), labels })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_numbered_from_0_by_the_classes_of_training() {
        let (mut train, mut val) = ([7, 3_000_000_000, 7, 2], [2, 5, 3_000_000_000]);
        number(&mut train, &mut val);
        assert_eq!((train, val), ([1, 2, 1, 0], [0, 3, 2]));
    }
}
