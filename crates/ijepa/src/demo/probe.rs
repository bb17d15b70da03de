//! How much does a linear probe read from features of fresh scenes?

use std::sync::Arc;

use anyhow::Result;
use ijepa_data::dataset::{SCENE_CLASSES, distance_bin};
use ijepa_data::{Dataset, Fit, Picture, Sample, Split};
use ijepa_eval::Features;
use ijepa_eval::knn;
use ijepa_eval::linear::{self, Logistic};
use ijepa_eval::metrics::Estimate;
use serde::Serialize;

use crate::cli::Pool;
use crate::extract::{Encoder, PIXELS_SIDE, Wanted, pixels};
use crate::output;
use crate::store::Store;

/// Fresh scenes that the probes learn from, and that they are judged on.
const PROBE_TRAIN: usize = 8000;
const PROBE_VAL: usize = 4000;

/// Images at a time when features are extracted.
const BATCH: usize = 128;

/// Rows of the page of nearest neighbours, and neighbours in a row.
const QUERIES: usize = 8;
const NEIGHBOURS: usize = 6;

/// What is asked about a scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Task {
    /// Shape of the largest object.
    Class,
    /// Number of objects.
    Count,
    /// Which quarter of the range the nearest object's distance lies in.
    Distance,
}

impl Task {
    pub(crate) const ALL: [Task; 3] = [Task::Class, Task::Count, Task::Distance];

    /// In a word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Task::Class => "class",
            Task::Count => "count",
            Task::Distance => "distance",
        }
    }

    /// In words, with its number of answers.
    pub(crate) fn question(self) -> String {
        match self {
            Task::Class => format!("shape of the largest ({})", SCENE_CLASSES.len()),
            Task::Count => "number of objects (5)".to_owned(),
            Task::Distance => "distance of the nearest (4)".to_owned(),
        }
    }

    fn label(self, scenes: &Dataset, index: usize) -> u32 {
        let labels = scenes.scene_labels(index).expect("the data are scenes");
        match self {
            Task::Class => labels.class,
            Task::Count => labels.count - 1,
            Task::Distance => distance_bin(labels.distance),
        }
    }
}

/// Accuracy of one kind of features on one task.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Score {
    pub(crate) features: &'static str,
    pub(crate) task: Task,
    metric: &'static str,
    pub(crate) value: f64,
    pub(crate) standard_error: f64,
    pub(crate) n_train: usize,
    pub(crate) n_val: usize,
}

/// A fresh scene and those most like it, by the trained encoder's features.
pub(crate) struct Neighbours {
    pub(crate) scene: Picture,
    pub(crate) nearest: Vec<(Picture, f32)>,
}

/// Fresh scenes: none of them was trained on.
pub(crate) struct Probe {
    train: Arc<Dataset>,
    val: Arc<Dataset>,
    seed: u64,
}

impl Probe {
    /// Scenes of another seed than the one that is trained on.
    pub(crate) fn new(seed: u64) -> Result<Probe> {
        let scenes =
            |count: usize, split| Dataset::open(&format!("scenes:{count}"), split, seed.wrapping_add(1)).map(Arc::new);
        Ok(Probe { train: scenes(PROBE_TRAIN, Split::Train)?, val: scenes(PROBE_VAL, Split::Val)?, seed })
    }

    /// Scores of all features on all tasks, and what the trained encoder takes for alike.
    pub(crate) fn run(&self, trained: &Encoder, untrained: &Encoder) -> Result<(Vec<Score>, Vec<Neighbours>)> {
        let store = Store::NONE; // every demo has an encoder of its own
        let wanted =
            |dataset| Wanted { dataset, images: None, fit: Fit::Cut, batch: BATCH, store: &store, narrated: true };
        let encoded = |encoder: &Encoder, scenes| {
            encoder.extract(&wanted(scenes), Pool::Last).map(|extracted| extracted.features)
        };
        let side = trained.vit.config.image.0;
        let raw = |scenes| {
            pixels(&wanted(scenes), (side, side), PIXELS_SIDE, trained.normalisation)
                .map(|extracted| extracted.features)
        };

        let (train, val) = (encoded(trained, &self.train)?, encoded(trained, &self.val)?);
        let neighbours = self.neighbours(&train, &val)?;
        let mut scores = self.judge("trained", train, val)?;
        scores.extend(self.judge("untrained", encoded(untrained, &self.train)?, encoded(untrained, &self.val)?)?);
        scores.extend(self.judge("pixels", raw(&self.train)?, raw(&self.val)?)?);
        Ok((scores, neighbours))
    }

    /// One linear probe for each task on the same features.
    fn judge(&self, features: &'static str, mut train: Features, mut val: Features) -> Result<Vec<Score>> {
        let mut scores = Vec::new();
        for task in Task::ALL {
            train.labels = (0..train.rows).map(|row| task.label(&self.train, row)).collect();
            val.labels = (0..val.rows).map(|row| task.label(&self.val, row)).collect();
            let Estimate { value, standard_error } =
                linear::evaluate(&train, &val, &Logistic::standard(self.seed))?.accuracy;
            output::note(&format!("{features}: {}: {:.1} %", task.question(), 100.0 * value));
            scores.push(Score {
                features,
                task,
                metric: "accuracy",
                value,
                standard_error,
                n_train: train.rows,
                n_val: val.rows,
            });
        }
        Ok(scores)
    }

    fn neighbours(&self, train: &Features, val: &Features) -> Result<Vec<Neighbours>> {
        let queries = Features {
            rows: QUERIES,
            values: val.values[..QUERIES * val.width].to_vec().into(),
            labels: Vec::new(),
            ..*val
        };
        let nearest = knn::nearest(train, &queries, NEIGHBOURS)?;
        let of = |(row, nearest): (usize, Vec<knn::Neighbour>)| {
            let nearest = nearest.iter().map(|near| (picture(&self.train, near.row), near.similarity)).collect();
            Neighbours { scene: picture(&self.val, row), nearest }
        };
        Ok(nearest.into_iter().enumerate().map(of).collect())
    }
}

/// A scene as it was rendered.
pub(crate) fn picture(scenes: &Dataset, index: usize) -> Picture {
    match scenes.sample(index) {
        Ok(Sample::Picture(picture)) => picture,
        _ => unreachable!("scenes are rendered, never read"),
    }
}
