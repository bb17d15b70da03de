//! What is to be learnt, and how well was it? Labelled images on both sides, and the share that a network names rightly.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use ijepa_data::{Dataset, EvalConfig, EvalLoader, EvalTransform, Filter, Fit, Normalisation};
use ijepa_eval::metrics::{Estimate, accuracy};
use ijepa_model::Classifier;
use ijepa_tensor::{Buf, Pool, View};

use crate::cli::TuneArgs;
use crate::eval::subset::{Choice, choose};
use crate::exit::{Exit, Failure};
use crate::labelled;
use crate::output;

/// Images and their classes, numbered from 0.
pub(crate) struct Task {
    pub(crate) train: Arc<Dataset>,
    /// Of all images of `train`, also of those whose labels are not shown to a training.
    pub(crate) train_labels: Vec<u32>,
    val: Arc<Dataset>,
    val_labels: Vec<u32>,
    pub(crate) classes: usize,
    /// Height and width of what the network takes.
    pub(crate) size: (usize, usize),
    pub(crate) normalisation: Normalisation,
    choice: Choice,
    seed: u64,
}

impl Task {
    pub(crate) fn open(args: &TuneArgs, size: (usize, usize), normalisation: Normalisation) -> Result<Task> {
        let (train, val) = labelled::pair(&args.train, &args.val, args.seed)?;
        let classes = train.labels.iter().max().map_or(0, |&label| label as usize + 1);
        if classes < 2 {
            let problem = format!("{}: at least two classes are expected, got {classes}", args.train);
            return Err(Failure::new(Exit::Data, problem).remedy("images of several classes").into());
        }
        Ok(Task {
            train: train.dataset,
            train_labels: train.labels,
            val: val.dataset,
            val_labels: val.labels,
            classes,
            size,
            normalisation,
            choice: Choice::of(&args.labels)?,
            seed: args.seed,
        })
    }

    /// The images whose labels a training is shown: ascending numbers.
    pub(crate) fn choose(&self, draw: u64) -> Result<Vec<u32>> {
        let name = |image: usize| {
            let name = self.train.name(image);
            Path::new(&name).file_name().map_or(name.clone(), |name| name.to_string_lossy().into_owned())
        };
        choose(&self.train_labels, &self.choice, (self.seed, draw), name)
    }

    /// The images that are in no list: ascending numbers.
    pub(crate) fn others(&self, labelled: &[u32]) -> Vec<u32> {
        (0..self.train_labels.len() as u32).filter(|image| labelled.binary_search(image).is_err()).collect()
    }

    /// Whether draws of labelled images differ.
    pub(crate) fn is_drawn(&self) -> bool {
        self.choice.is_drawn()
    }

    /// Labels of images of `train`.
    pub(crate) fn labels(&self, images: &[usize]) -> Vec<u32> {
        images.iter().map(|&image| self.train_labels[image]).collect()
    }

    /// The share of the images of `val` that weights name rightly, and how many images that were.
    pub(crate) fn judge(&self, model: &Classifier, params: &Buf, at_once: usize) -> Result<(Estimate, usize)> {
        let memory = Pool::on(params.device());
        let transform = EvalTransform {
            crop: self.size,
            filter: Filter::Bicubic,
            fit: Fit::Cut,
            normalisation: self.normalisation,
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let config = EvalConfig { batch_size: at_once, threads, queue: 4, transform };
        let mut loader = EvalLoader::start(Arc::clone(&self.val), config)?;
        let (mut predictions, mut labels) = (Vec::new(), Vec::new());
        while let Some(images) = loader.next()? {
            let probabilities = model.probabilities(&memory, params.view(), View::Cpu(&images.images), at_once);
            predictions.extend(probabilities.chunks_exact(self.classes).map(|row| most(row).0));
            labels.extend(images.indices.iter().map(|&image| self.val_labels[image]));
            images.unreadable.iter().for_each(|image| output::warning(&format!("left out: {}", image.error)));
        }
        Ok((accuracy(&predictions, &labels)?, labels.len()))
    }
}

/// The most probable class, the first of equals, and its probability.
pub(crate) fn most(probabilities: &[f32]) -> (u32, f32) {
    let better = |best: (u32, f32), (class, &p): (usize, &f32)| if p > best.1 { (class as u32, p) } else { best };
    probabilities.iter().enumerate().fold((0, f32::NEG_INFINITY), better)
}
