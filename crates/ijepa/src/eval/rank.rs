//! What do features say of themselves, without labels? How many directions they use, and which of these tell pictures apart.

use std::sync::Arc;

use anyhow::Result;
use ijepa_data::{Dataset, Filter, Fit, Normalisation, Split, Storage, StreamConfig, StreamLoader, TuneTransform};
use ijepa_eval::Features;
use ijepa_eval::metrics::{effective_rank, rank_me, spread};
use ijepa_eval::ranks::{ALPHA_RANKS, alpha_req, lidar};
use ijepa_tensor::Pool as Memory;

use super::result::{Page, Row, show_as};
use crate::cli::RankArgs;
use crate::exit::Failure;
use crate::extract::{Encoder, Wanted, pixels};
use crate::log::progress::Progress;
use crate::opening;
use crate::output;
use crate::store::Store;

/// What LiDAR adds to the variance of views; the authors' value.
const DELTA: f64 = 1e-4;
/// Side of the pictures that stand for raw pixels: the cost grows with the square of their number of values.
const PIXELS_SIDE: usize = 16;
/// Smallest share of a picture's area in a view, as in pretraining.
const CROP_SCALE: (f64, f64) = (0.3, 1.0);

/// Runs `eval rank`.
pub(super) fn run(args: &RankArgs) -> Result<()> {
    if args.views == 1 {
        return Err(Failure::usage("--views 1: LiDAR compares views of a picture")
            .remedy("--views 2, or 0 for none")
            .into());
    }
    let encoder = Encoder::load_for(&args.checkpoint, &args.encoder, args.encoder.pool)?;
    let dataset = Arc::new(opening::open(&args.data, Split::Train, args.seed, Storage::default())?);
    let ranking = Ranking { args, dataset: &dataset, store: Store::of(&args.cache) };
    let mut rows = ranking.of_encoder("trained", &encoder)?;
    if args.baselines {
        rows.extend(ranking.of_encoder("untrained", &encoder.untrained(args.seed))?);
        rows.extend(ranking.of_pixels(encoder.vit.config.image, encoder.normalisation)?);
    }
    let settings = vec![
        ("images", args.data.clone()),
        ("views of a picture", args.views.to_string()),
        ("seed", args.seed.to_string()),
    ];
    let page = Page { protocol: "rank", checkpoint: &args.checkpoint, settings };
    show_as(&page, &rows, args.report.as_deref(), args.json)
}

/// What is looked at.
struct Ranking<'a> {
    args: &'a RankArgs,
    dataset: &'a Arc<Dataset>,
    store: Store,
}

impl Ranking<'_> {
    fn of_encoder(&self, kind: &'static str, encoder: &Encoder) -> Result<Vec<Row>> {
        let pool = self.args.encoder.pool;
        let images = self.spread_out(self.args.images);
        let features = encoder.extract(&self.wanted(&images), pool)?.features;
        let memory = Memory::on(encoder.params.device());
        let size = encoder.vit.config.image;
        let of = |images: &[f32], count: usize| encoder.forward(&memory, images, count, pool).0;
        let views = self.views(size, encoder.normalisation, encoder.width(pool), of)?;
        Ok(rows(kind, &features, views.as_ref(), self.args.views))
    }

    fn of_pixels(&self, (height, width): (usize, usize), normalisation: Normalisation) -> Result<Vec<Row>> {
        let images = self.spread_out(self.args.images);
        let features = pixels(&self.wanted(&images), (height, width), PIXELS_SIDE, normalisation)?.features;
        let cut = (height.min(PIXELS_SIDE), width.min(PIXELS_SIDE));
        let size = self.dataset.normalised_size().unwrap_or(cut);
        let views = self.views(size, normalisation, 3 * size.0 * size.1, |images, _| images.to_vec())?;
        Ok(rows("pixels", &features, views.as_ref(), self.args.views))
    }

    /// So many images at most, evenly spread over the data: their numbers.
    fn spread_out(&self, most: usize) -> Vec<u32> {
        let (count, all) = (most.min(self.dataset.len()), self.dataset.len());
        (0..count).map(|k| (k * all / count) as u32).collect()
    }

    fn wanted<'w>(&'w self, images: &'w [u32]) -> Wanted<'w> {
        let (dataset, batch, store) = (self.dataset, self.args.encoder.batch, &self.store);
        // All images have the entry that other evaluations keep.
        let images = (images.len() < dataset.len()).then_some(images);
        Wanted { dataset, images, fit: Fit::Cut, batch, store, narrated: true }
    }

    /// Features of several crops of some pictures, views of a picture one after the other; none where none are asked for.
    fn views(
        &self,
        size: (usize, usize),
        normalisation: Normalisation,
        width: usize,
        features_of: impl Fn(&[f32], usize) -> Vec<f32>,
    ) -> Result<Option<Features>> {
        let (views, samples) = (self.args.views, self.spread_out(self.args.pictures));
        if views == 0 {
            return Ok(None);
        }
        let view = TuneTransform {
            size,
            crop_scale: CROP_SCALE,
            filter: Filter::Bilinear,
            horizontal_flip: true,
            rand_augment: None,
            erasing: None,
            normalisation,
        };
        let count = samples.len() as u64;
        let config = StreamConfig {
            seed: self.args.seed,
            samples,
            batch_size: 1,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            queue: 4,
            start_step: 0,
            stop_step: count,
            views: vec![view; views],
        };
        let mut loader = StreamLoader::start(Arc::clone(self.dataset), config)?;
        let mut progress = Progress::start(count, 0);
        let mut values = Vec::new();
        while let Some(batch) = loader.next()? {
            batch.unreadable.iter().for_each(|image| progress.warning(&format!("another stands in: {}", image.error)));
            for part in batch.views.chunks(self.args.encoder.batch) {
                values.extend(features_of(&part.concat(), part.len()));
            }
            progress.advance(batch.step + 1, "pictures in several views");
        }
        Ok(Some(Features { rows: values.len() / width, width, values: values.into(), labels: Vec::new() }))
    }
}

/// All figures of one kind of features; what cannot be computed is named and left out.
fn rows(kind: &'static str, features: &Features, views: Option<&Features>, views_each: usize) -> Vec<Row> {
    let whole = "all images".to_owned();
    let mut found = vec![
        ("rank_me", whole.clone(), rank_me(features)),
        ("effective_rank", whole.clone(), effective_rank(features)),
        ("alpha_req", whole.clone(), alpha_req(features, ALPHA_RANKS)),
        ("feature_std", whole, spread(features)),
    ];
    if let Some(views) = views {
        let head = format!("{} × {views_each} views", views.rows / views_each);
        found.push(("lidar", head, lidar(views, views_each, DELTA)));
    }
    let mut rows = Vec::new();
    for (metric, head, value) in found {
        let of = if metric == "lidar" { views.unwrap_or(features) } else { features };
        match value {
            Ok(value) => rows.push(Row {
                features: kind,
                head,
                setting: None,
                metric,
                value,
                standard_error: f64::NAN,
                n_train: 0,
                n_val: of.rows,
                width: of.width,
                draws: Vec::new(),
                heads: Vec::new(),
            }),
            Err(error) => output::warning(&format!("{kind}: no {metric}: {error}")),
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_computed_is_left_out_and_the_rest_stays() {
        // Two columns have no ranks from 12 on, over which a power law could be fitted.
        let values = (0..40).map(|k| ((k * 37) % 17) as f32).collect();
        let features = Features { rows: 20, width: 2, values, labels: vec![] };
        let metrics: Vec<_> = rows("trained", &features, Some(&features), 2).iter().map(|row| row.metric).collect();
        assert_eq!(metrics, ["rank_me", "effective_rank", "feature_std", "lidar"]);
    }
}
