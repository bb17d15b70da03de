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
use crate::extract::{Encoder, Extracted, PATCH_WIDTH, PIXELS_SIDE, Wanted, pixel_patches, pixels};
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
    /// Length of a token, of which a row holds one or more.
    pub(super) token_width: usize,
}

/// What is seen of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// One vector.
    Pooled(Pool),
    /// All tokens of the last layer, side by side, by so many queries.
    Tokens { queries: usize },
}

impl From<Labelled> for Asked {
    /// Images that are asked for their class alone.
    fn from(Labelled { dataset, labels }: Labelled) -> Asked {
        Asked { dataset, labels, values: Vec::new() }
    }
}

impl Asked {
    fn answered(&self, extracted: Extracted, token_width: Option<usize>) -> Answered {
        let pick = |image: &u32| self.values[*image as usize];
        let values = if self.values.is_empty() { Vec::new() } else { extracted.images.iter().map(pick).collect() };
        let features = extracted.labelled(&self.labels);
        Answered { values, token_width: token_width.unwrap_or(features.width), features }
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
    pub(super) seen: Seen,
}

impl Judging<'_> {
    /// Calls `judge` with all kinds of features, and with every draw of labelled images; the rows of several draws become means.
    pub(super) fn run(
        &self,
        judge: impl Fn(&'static str, &Answered, &Answered) -> Result<Vec<Row>>,
    ) -> Result<Vec<Row>> {
        let source = self.source;
        let pool = match self.seen {
            Seen::Pooled(pool) => pool,
            Seen::Tokens { .. } => Pool::Last,
        };
        let encoder = Encoder::load_for(&source.checkpoint, &source.encoder, pool)?;
        self.check_queries(encoder.vit.config.width)?;
        let store = Store::of(&source.cache);
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
        let mut each =
            |kind: &'static str, features: &dyn Fn(&Wanted) -> Result<Extracted>, token: usize| -> Result<()> {
                let token = matches!(self.seen, Seen::Tokens { .. }).then_some(token);
                let wanted = |dataset, images| Wanted {
                    dataset,
                    images,
                    fit: self.fit,
                    batch: source.encoder.batch,
                    store: &store,
                    narrated: true,
                };
                let val = self.val.answered(features(&wanted(&self.val.dataset, None))?, token);
                let mut draws = Vec::new();
                for chosen in &chosen {
                    let images = (choice != Choice::All).then_some(&chosen[..]);
                    let train = self.train.answered(features(&wanted(&self.train.dataset, images))?, token);
                    let rows = judge(kind, &train, &val)?;
                    rows.iter().for_each(|row| output::note(&row.note()));
                    draws.push(rows);
                }
                results.extend(mean(draws));
                Ok(())
            };
        let of = |encoder: &Encoder, wanted: &Wanted| match self.seen {
            Seen::Pooled(pool) => encoder.extract(wanted, pool),
            Seen::Tokens { .. } => encoder.extract_tokens(wanted),
        };
        let width = encoder.vit.config.width;
        each("trained", &|wanted| of(&encoder, wanted), width)?;
        if source.baselines {
            let untrained = encoder.untrained(source.seed);
            each("untrained", &|wanted| of(&untrained, wanted), width)?;
            let size = encoder.vit.config.image;
            let of = |wanted: &Wanted| match self.seen {
                Seen::Pooled(_) => pixels(wanted, size, PIXELS_SIDE, encoder.normalisation),
                Seen::Tokens { .. } => pixel_patches(wanted, size, encoder.normalisation),
            };
            each("pixels", &of, PATCH_WIDTH)?;
        }
        Ok(results)
    }

    /// Refuses queries that cannot share a token before anything is computed.
    fn check_queries(&self, width: usize) -> Result<()> {
        let Seen::Tokens { queries } = self.seen else { return Ok(()) };
        if self.source.encoder.pool != Pool::Last {
            return Err(Failure::usage("--pool: an attentive probe sees the tokens of the last layer")
                .remedy("leave --pool out")
                .into());
        }
        let pixels = self.source.baselines.then_some(("a patch of raw pixels (--baselines)", PATCH_WIDTH));
        for (what, width) in [Some(("a token", width)), pixels].into_iter().flatten() {
            if !width.is_multiple_of(queries) {
                let problem = format!("--queries {queries}: expected a divisor of the width of {what}, {width}");
                return Err(Failure::usage(problem).remedy("--queries 1, 2, 4 or another divisor").into());
            }
        }
        Ok(())
    }
}
