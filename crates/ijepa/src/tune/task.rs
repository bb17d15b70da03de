//! What is to be learnt, and how well was it? Labelled images on both sides, and the share that a network names rightly.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use ijepa_data::{Dataset, EvalConfig, EvalLoader, EvalTransform, Filter, Fit, Normalisation, Split};
use ijepa_eval::metrics::{Estimate, accuracy};
use ijepa_model::Classifier;
use ijepa_tensor::{Buf, Pool, View};

use crate::cli::TuneArgs;
use crate::eval::subset::{Choice, choose};
use crate::exit::{Exit, Failure};
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
        let (train, train_labels) = labelled(&args.train, Split::Train, args.seed)?;
        let (val, val_labels) = labelled(&args.val, Split::Val, args.seed)?;
        if train.classes() != val.classes() {
            let problem =
                format!("--train and --val must have the same classes: {} and {} have others", args.train, args.val);
            return Err(Failure::new(Exit::Data, problem)
                .remedy("class folders of the same names on both sides")
                .into());
        }
        let mut classes = train_labels.clone();
        classes.sort_unstable();
        classes.dedup();
        if classes.len() < 2 {
            let problem = format!("{}: at least two classes are expected, got {}", args.train, classes.len());
            return Err(Failure::new(Exit::Data, problem).remedy("images of several classes").into());
        }
        // A class that training does not have is one that no prediction is right about.
        let number = |label: &u32| classes.binary_search(label).unwrap_or(classes.len()) as u32;
        Ok(Task {
            train_labels: train_labels.iter().map(number).collect(),
            val_labels: val_labels.iter().map(number).collect(),
            classes: classes.len(),
            train,
            val,
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
        let memory = Pool::new();
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

fn labelled(spec: &str, split: Split, seed: u64) -> Result<(Arc<Dataset>, Vec<u32>)> {
    let dataset = Dataset::open(spec, split, seed)?;
    let Some(labels) = dataset.labels() else {
        let problem = format!("{spec}: expected labelled images, got {} without classes", dataset.len());
        let remedy = "a folder with one sub-folder for each class, or a .safetensors with `labels`";
        return Err(Failure::new(Exit::Data, problem).remedy(remedy).into());
    };
    Ok((Arc::new(dataset), labels))
}
