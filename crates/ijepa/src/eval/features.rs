//! Which features are judged? Those of the checkpoint's encoder, and with `--baselines` of an untrained one and the pixels, of the
//! training and validation images, kept from one evaluation to the next.

use std::sync::Arc;

use anyhow::Result;
use ijepa_data::{Dataset, Fit, Storage};
use ijepa_eval::Features;

use super::result::Row;
use super::subset::{Choice, choose};
use crate::cli::{EvalSource, LabelArgs, Pool};
use crate::exit::{Exit, Failure};
use crate::extract::{Encoder, Extracted, Wanted, pixels};
use crate::opening;
use crate::output;
use crate::store::Store;

/// Images with an answer each.
pub(super) struct Asked {
    pub(super) dataset: Arc<Dataset>,
    /// (n) class of every image.
    pub(super) labels: Vec<u32>,
    /// (n) the number that was asked for, where it is one; else empty.
    pub(super) values: Vec<f32>,
}

/// Feature rows with their answers.
pub(super) struct Answered {
    /// With labels.
    pub(super) features: Features,
    /// (n), or empty.
    pub(super) values: Vec<f32>,
}

impl Asked {
    fn answered(&self, extracted: Extracted) -> Answered {
        let pick = |image: &u32| self.values[*image as usize];
        let values = if self.values.is_empty() { Vec::new() } else { extracted.images.iter().map(pick).collect() };
        Answered { features: extracted.labelled(&self.labels), values }
    }
}

/// What is to be judged.
pub(super) struct Judging<'a> {
    pub(super) source: &'a EvalSource,
    pub(super) labels: &'a LabelArgs,
    pub(super) train: Asked,
    pub(super) val: Asked,
    /// What becomes of pictures of another shape.
    pub(super) fit: Fit,
    pub(super) pool: Pool,
}

impl Judging<'_> {
    /// Calls `judge` with all kinds of features, and with every draw of labelled images; the rows of several draws become means.
    pub(super) fn run(
        &self,
        judge: impl Fn(&'static str, &Answered, &Answered) -> Result<Vec<Row>>,
    ) -> Result<Vec<Row>> {
        let source = self.source;
        let encoder = Encoder::load(&source.checkpoint, &source.encoder)?;
        let store = if source.no_cache { Store::none() } else { Store::at(source.cache.as_deref()) };
        let choice = Choice::of(self.labels)?;
        let draws = if choice.is_drawn() { self.labels.draws } else { 1 };
        let name = |image: usize| {
            let name = self.train.dataset.name(image);
            name.rsplit(['/', '\\']).next().unwrap_or_default().to_owned()
        };
        let chosen = |draw: usize| choose(&self.train.labels, &choice, (source.seed, draw as u64), name);
        let chosen = (0..draws).map(chosen).collect::<Result<Vec<_>>>()?;

        let mut results = Vec::new();
        let mut each = |kind: &'static str, features: &dyn Fn(&Wanted) -> Result<Extracted>| -> Result<()> {
            let wanted = |dataset, images| Wanted {
                dataset,
                images,
                fit: self.fit,
                batch: source.encoder.batch,
                store: &store,
                narrated: true,
            };
            let val = self.val.answered(features(&wanted(&self.val.dataset, None))?);
            let mut draws = Vec::new();
            for chosen in &chosen {
                let images = (choice != Choice::All).then_some(&chosen[..]);
                let train = self.train.answered(features(&wanted(&self.train.dataset, images))?);
                let rows = judge(kind, &train, &val)?;
                rows.iter().for_each(|row| output::note(&row.note()));
                draws.push(rows);
            }
            results.extend(super::result::mean(draws));
            Ok(())
        };
        each("trained", &|wanted| encoder.extract(wanted, self.pool))?;
        if source.baselines {
            let untrained = encoder.untrained(source.seed);
            each("untrained", &|wanted| untrained.extract(wanted, self.pool))?;
            let size = encoder.vit.config.image;
            each("pixels", &|wanted| pixels(wanted, size, encoder.normalisation))?;
        }
        Ok(results)
    }
}

/// The training and validation images with their classes, numbered 0, 1, 2, … in the order of the training images' own: a file may number
/// its classes by anything. A class that training does not have comes after all others, so that no prediction is right about it.
pub(super) fn classes(source: &EvalSource) -> Result<(Asked, Asked)> {
    use ijepa_data::Split;
    let train = labelled(&source.train, Split::Train, source.seed)?;
    let val = labelled(&source.val, Split::Val, source.seed)?;
    if train.0.classes() != val.0.classes() {
        let names = |classes: Option<&[String]>| {
            classes.map_or_else(
                || "none".to_owned(),
                |names| format!("{} ({}, …)", names.len(), names.first().map_or("", String::as_str)),
            )
        };
        let (train, val) = (names(train.0.classes()), names(val.0.classes()));
        return Err(Failure::new(
            Exit::Data,
            format!(
                "--train and --val must have the same classes: {} has {train}, {} has {val}",
                source.train, source.val
            ),
        )
        .remedy("class folders of the same names on both sides")
        .into());
    }
    let (train_labels, val_labels) = numbered(train.1, val.1);
    let asked = |dataset, labels| Asked { dataset, labels, values: Vec::new() };
    Ok((asked(train.0, train_labels), asked(val.0, val_labels)))
}

/// The labels of both numbered alike: see [`classes`].
pub(crate) fn numbered(mut train: Vec<u32>, mut val: Vec<u32>) -> (Vec<u32>, Vec<u32>) {
    let mut classes = train.clone();
    classes.sort_unstable();
    classes.dedup();
    for label in train.iter_mut().chain(&mut val) {
        *label = classes.binary_search(label).unwrap_or(classes.len()) as u32;
    }
    (train, val)
}

fn labelled(spec: &str, split: ijepa_data::Split, seed: u64) -> Result<(Arc<Dataset>, Vec<u32>)> {
    let dataset = opening::open(spec, split, seed, Storage::default())?;
    match dataset.labels() {
        Some(labels) => Ok((Arc::new(dataset), labels)),
        None => Err(Failure::new(
            Exit::Data,
            format!("{spec}: expected labelled images, got {} without classes", dataset.len()),
        )
        .remedy("a folder with one sub-folder for each class, or a .safetensors with `labels`")
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_numbered_from_0_by_the_classes_of_training() {
        let numbered = numbered(vec![7, 3_000_000_000, 7, 2], vec![2, 5, 3_000_000_000]);
        assert_eq!(numbered, (vec![1, 2, 1, 0], vec![0, 3, 2]));
    }
}
