//! Which features are judged? Those of the checkpoint's encoder, and with `--baselines` of an untrained one and the pixels, of the
//! training and validation images, kept from one evaluation to the next.

use std::sync::Arc;

use anyhow::Result;
use ijepa_data::{Dataset, Fit};
use ijepa_eval::Features;

use super::result::{Row, mean};
use super::subset::{Choice, choose};
use crate::cli::{EvalSource, LabelArgs, Pool};
use crate::exit::Failure;
use crate::extract::{Encoder, Extracted, Wanted, pixels};
use crate::labelled::Labelled;
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

impl From<Labelled> for Asked {
    /// Images that are asked for their class alone.
    fn from(Labelled { dataset, labels }: Labelled) -> Asked {
        Asked { dataset, labels, values: Vec::new() }
    }
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
        let encoder = Encoder::load_for(&source.checkpoint, &source.encoder)?;
        let store = if source.no_cache { Store::none() } else { Store::at(source.cache.as_deref()) };
        let choice = Choice::of(self.labels)?;
        if self.labels.draws > 1 && !choice.is_drawn() {
            let problem = format!("--draws {}: every draw would have the same labelled images", self.labels.draws);
            return Err(Failure::usage(problem)
                .remedy("--fraction or --per-class, of which there is something to draw")
                .into());
        }
        let name = |image: usize| {
            let name = self.train.dataset.name(image);
            name.rsplit(['/', '\\']).next().unwrap_or_default().to_owned()
        };
        let chosen = |draw: usize| choose(&self.train.labels, &choice, (source.seed, draw as u64), name);
        let chosen = (0..self.labels.draws).map(chosen).collect::<Result<Vec<_>>>()?;

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
            results.extend(mean(draws));
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
