//! The report of the demo.

use anyhow::{Context, Result};
use ijepa_data::{Dataset, Split};

use super::probe::{Neighbours, Score, Task, picture};
use crate::log::{Row, rows};
use crate::report::plot::{Plot, Series};
use crate::report::table::{Column, Line, Results};
use crate::report::tiles::{self, Overlay, Tile};
use crate::report::{Block, Report, Section};
use crate::run::Run;

/// Scenes whose masks are shown.
const MASKED: usize = 4;

/// The page: what was learnt, how training went, what it was asked, what it takes for alike.
pub(super) fn page(run: &Run, scores: &[Score], neighbours: &[Neighbours], seconds: f64) -> Result<Report> {
    let rows = rows(&run.folder)?;
    let summary = vec![
        format!(
            "An encoder of {} × {} learnt from {} rendered scenes without a label, {} steps of {}, in {:.0} s with everything around it.",
            run.encoder.width,
            run.encoder.depth,
            run.steps * run.config.data.batch_size as u64,
            run.steps,
            run.config.data.batch_size,
            seconds
        ),
        "What it learnt is judged by linear probes on scenes it has never seen, beside an untrained encoder and the raw pixels.".to_owned(),
    ];
    let sections = vec![
        Section {
            heading: "What was learnt".to_owned(),
            blocks: vec![Block::Results(results(scores)), Block::Text(protocol(scores))],
        },
        Section {
            heading: "Training".to_owned(),
            blocks: vec![Block::Plots(plots(&rows)), Block::Text(TRAINING.to_owned())],
        },
        Section {
            heading: "What it was asked".to_owned(),
            blocks: vec![Block::Text(MASKS.to_owned()), Block::Tiles(masks(run)?)],
        },
        Section {
            heading: "What it takes for alike".to_owned(),
            blocks: vec![Block::Text(ALIKE.to_owned()), Block::Tiles(alike(neighbours))],
        },
        Section { heading: "Settings".to_owned(), blocks: vec![Block::KeyValues(settings(run))] },
    ];
    Ok(Report { title: "I-JEPA on rendered scenes".to_owned(), summary, sections })
}

const TRAINING: &str = "A falling loss alone shows nothing: it also falls when the target encoder says the same about every patch. \
    The spread of the targets (over patches, averaged over dimensions) would then go to 0.";
const MASKS: &str = "Left: a scene. Then what the context encoder sees, and the four blocks whose features the predictor must guess \
    from it; the slowly moving target encoder, which sees everything, says what is right.";
const ALIKE: &str = "Left: a fresh scene. Right: the scenes whose average features are nearest to its own, by cosine.";

fn results(scores: &[Score]) -> Results {
    let columns = Task::ALL.iter().map(|task| Column { name: task.name().to_owned(), note: task.question() }).collect();
    let of = |features: &str| {
        let score = |task: &Task| scores.iter().find(|score| score.features == features && score.task == *task);
        Task::ALL.iter().map(|task| score(task).map(|score| (score.value, score.standard_error))).collect()
    };
    let line = |name: &str| Line { name: name.to_owned(), scores: of(name) };
    Results { corner: "features".to_owned(), columns, lines: ["trained", "untrained", "pixels"].map(line).into() }
}

fn protocol(scores: &[Score]) -> String {
    let (train, val) = scores.first().map_or((0, 0), |score| (score.n_train, score.n_val));
    format!(
        "Accuracy of multinomial logistic regression on {train} labelled scenes, judged on {val} others; features are standardised, \
         the strength of the L2 penalty is chosen on a tenth of the training scenes. Encoders: average of the last layer's tokens."
    )
}

fn plots(rows: &[Row]) -> Vec<Plot> {
    let plot = |title: &str, is_log: bool, is_noisy: bool, value: fn(&Row) -> f64| {
        let points = rows.iter().map(|row| (row.step as f64, value(row))).collect();
        Plot {
            title: title.to_owned(),
            x: "step".to_owned(),
            is_log,
            is_noisy,
            series: vec![Series { name: title.to_owned(), points }],
        }
    };
    vec![
        plot("loss", true, true, |row| row.loss),
        plot("spread of the targets", false, true, |row| row.target_std),
        plot("learning rate", false, false, |row| row.lr),
        plot("images per second", false, true, |row| row.img_per_s),
    ]
}

fn masks(run: &Run) -> Result<Vec<tiles::Row>> {
    let seed = run.config.meta.seed;
    let scenes = Dataset::open(&format!("scenes:{MASKED}"), Split::Train, seed)?;
    let masks = run.masks.sample(seed, 0, run.config.data.batch_size).context("the masks of the first step")?;
    let (grid, patches) = (run.masks.grid, run.encoder.patches() as u32);
    let row = |image: usize| {
        let picture = picture(&scenes, image);
        let of = |set: &ijepa_data::IndexSet| set.indices[image * set.per_image..][..set.per_image].to_vec();
        let context = of(&masks.context[0]);
        let hidden = (0..patches).filter(|patch| !context.contains(patch)).collect();
        let tile = |caption: &str, overlay| Tile { picture: picture.clone(), caption: caption.to_owned(), overlay };
        let blocks = masks.targets.iter().map(of).collect();
        tiles::Row {
            first: vec![tile("scene", None)],
            rest: vec![
                tile("context", Some(Overlay { grid, hidden, blocks: Vec::new() })),
                tile("targets", Some(Overlay { grid, hidden: Vec::new(), blocks })),
            ],
        }
    };
    Ok((0..MASKED.min(masks.batch)).map(row).collect())
}

fn alike(neighbours: &[Neighbours]) -> Vec<tiles::Row> {
    let tile =
        |picture: &ijepa_data::Picture, caption: String| Tile { picture: picture.clone(), caption, overlay: None };
    let row = |query: &Neighbours| tiles::Row {
        first: vec![tile(&query.scene, "scene".to_owned())],
        rest: query.nearest.iter().map(|(picture, similarity)| tile(picture, format!("{similarity:.3}"))).collect(),
    };
    neighbours.iter().map(row).collect()
}

fn settings(run: &Run) -> Vec<(String, String)> {
    let optimization = &run.config.optimization;
    let pairs = [
        (
            "encoder",
            format!("{} × {} × {} (width, blocks, heads)", run.encoder.width, run.encoder.depth, run.encoder.heads),
        ),
        ("predictor", format!("{} × {}", run.predictor.width, run.predictor.depth)),
        ("image, patch", format!("{}, {}", run.encoder.image.0, run.encoder.patch)),
        ("batch, steps", format!("{}, {}", run.config.data.batch_size, run.steps)),
        ("learning rate", format!("{} → {} → {}", optimization.start_lr, optimization.lr, optimization.final_lr)),
        ("EMA momentum", format!("{} → {}", optimization.ema[0], optimization.ema[1])),
        ("weight decay", format!("{} → {}", optimization.weight_decay, optimization.final_weight_decay)),
        ("seed", run.config.meta.seed.to_string()),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value)).into()
}
