//! How many objects are in a picture, and how far is the nearest? The answers of rendered scenes, of CLEVR, and of any folder with a table.
//!
//! CLEVR (Johnson et al. 2017) as the paper's low-level tasks have it: the number of objects is the class (3 to 10); the nearest object's
//! distance falls into one of six classes (VTAB, Zhai et al. 2019, as VISSL reads it).

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use ijepa_data::dataset::DISTANCE_EDGES;
use ijepa_data::{Dataset, Split};
use serde::Deserialize;

use super::features::Asked;
use crate::cli::TaskArgs;
use crate::exit::{Exit, Failure};
use crate::labelled::number;

/// Bounds of VTAB's distance classes; what is at a bound belongs below it.
const CLEVR_EDGES: [f64; 5] = [8.0, 8.5, 9.0, 9.5, 10.0];
/// Equally frequent classes where no bounds are known; as many as CLEVR has.
const BINS: usize = 6;
/// The table that lies beside pictures.
const TABLE: &str = "labels.csv";

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    Count,
    Distance,
}

/// Where answers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Scenes,
    Clevr,
    Table,
}

/// Images to learn from and to be judged on, with their answers as classes and as numbers, and the number of classes.
pub(super) fn asked(args: &TaskArgs, question: Question) -> Result<(Asked, Asked, usize)> {
    let source = &args.source;
    let open = |spec: &str, split| answers(spec, split, source.seed, question, args.column.as_deref());
    let (train, train_values, kind) = open(&source.train, Split::Train)?;
    let (val, val_values, _) = open(&source.val, Split::Val)?;
    let edges = match (&args.edges[..], question, kind) {
        ([], Question::Count, _) => None,
        ([], Question::Distance, Kind::Clevr) => Some(CLEVR_EDGES.to_vec()),
        ([], Question::Distance, Kind::Scenes) => Some(DISTANCE_EDGES.map(f64::from).to_vec()),
        ([], Question::Distance, Kind::Table) => Some(quantiles(&train_values)),
        (edges, ..) if edges.windows(2).all(|pair| pair[0] < pair[1]) && edges.iter().all(|edge| edge.is_finite()) => {
            Some(edges.to_vec())
        }
        (edges, ..) => return Err(Failure::usage(format!("--edges {edges:?}: ascending numbers are expected")).into()),
    };
    let class = |value: &f64| match &edges {
        // Numbers of objects are small; what is below 0 or no whole number was refused.
        None => *value as u32,
        Some(edges) => edges.iter().filter(|edge| *edge < value).count() as u32,
    };
    let (mut train_labels, mut val_labels): (Vec<u32>, Vec<u32>) =
        (train_values.iter().map(class).collect(), val_values.iter().map(class).collect());
    number(&mut train_labels, &mut val_labels);
    let classes = train_labels.iter().max().map_or(0, |&label| label as usize + 1);
    let asked = |dataset, labels, values: Vec<f64>| Asked {
        dataset,
        labels,
        values: values.into_iter().map(|value| value as f32).collect(),
    };
    Ok((asked(train, train_labels, train_values), asked(val, val_labels, val_values), classes))
}

/// Bounds between equally frequent classes.
fn quantiles(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let mut edges: Vec<f64> = (1..BINS).map(|bin| sorted[(bin * sorted.len() / BINS).min(sorted.len() - 1)]).collect();
    edges.dedup();
    edges
}

fn answers(
    spec: &str,
    split: Split,
    seed: u64,
    question: Question,
    column: Option<&str>,
) -> Result<(Arc<Dataset>, Vec<f64>, Kind)> {
    let folder = Path::new(spec);
    let (images, answers, kind) = if spec.starts_with("scenes:") {
        let dataset = Dataset::open(spec, split, seed)?;
        let answer = |index| {
            let labels = dataset.scene_labels(index).expect("the data are scenes");
            match question {
                Question::Count => f64::from(labels.count),
                Question::Distance => f64::from(labels.distance),
            }
        };
        let values = (0..dataset.len()).map(answer).collect();
        return Ok((Arc::new(dataset), values, Kind::Scenes));
    } else if folder.join("scenes").is_dir() && folder.join("images").is_dir() {
        (folder.join("images"), clevr(&folder.join("scenes"), split, question)?, Kind::Clevr)
    } else if folder.join(TABLE).is_file() {
        (folder.to_owned(), table(&folder.join(TABLE), question, column)?, Kind::Table)
    } else {
        let problem = format!(
            "{spec}: expected scenes:N, CLEVR's folder (images/ and scenes/), or a folder with images and {TABLE}"
        );
        return Err(Failure::new(Exit::Data, problem).remedy("see ijepa eval count --help").into());
    };
    let dataset = Dataset::open(&images.to_string_lossy(), split, seed)?;
    let Dataset::Files(files) = &dataset else {
        let problem = format!("{}: expected image files that {} speaks of", images.display(), answers.from.display());
        return Err(Failure::new(Exit::Data, problem).into());
    };
    let of = |index: usize| {
        let path = files.path(index);
        let name = match kind {
            Kind::Clevr => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            _ => path.strip_prefix(&images).unwrap_or(&path).to_string_lossy().replace('\\', "/"),
        };
        answers.by_name.get(&name).copied().ok_or_else(|| {
            let problem = format!("{name}: no answer in {}, one for every image is expected", answers.from.display());
            Failure::new(Exit::Data, problem).remedy("add it there, or take the image away")
        })
    };
    let values = (0..dataset.len()).map(of).collect::<Result<Vec<_>, _>>()?;
    Ok((Arc::new(dataset), values, kind))
}

/// Numbers by the names of images.
struct Answers {
    by_name: HashMap<String, f64>,
    /// The file or folder that they were read from.
    from: PathBuf,
}

fn wrong(path: &Path, problem: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Data, format!("{}: {problem}", path.display()))
}

/// A table with a header: the first column is the image's path, relative to the table.
fn table(path: &Path, question: Question, column: Option<&str>) -> Result<Answers> {
    let mut table = csv::Reader::from_path(path).map_err(|error| wrong(path, error))?;
    let header = table.headers().map_err(|error| wrong(path, error))?.clone();
    let usual: &[&str] = match question {
        Question::Count => &["n_objects", "count"],
        Question::Distance => &["near_m", "distance"],
    };
    let wanted = column.map_or(usual.to_vec(), |column| vec![column]);
    let Some(at) = header.iter().position(|name| wanted.contains(&name)) else {
        let columns = header.iter().skip(1).collect::<Vec<_>>().join(", ");
        let problem = format!("no column {}; there are {columns}", wanted.join(" or "));
        return Err(wrong(path, problem).remedy("name one of them with --column").into());
    };
    let mut by_name = HashMap::new();
    for record in table.records() {
        let record = record.map_err(|error| wrong(path, error))?;
        let line = record.position().map_or(0, csv::Position::line);
        let (name, cell) = (record.get(0).unwrap_or_default(), record.get(at).unwrap_or_default());
        let value = cell.trim().parse().ok().filter(|value: &f64| value.is_finite());
        let value = value.filter(|value| question == Question::Distance || (*value >= 0.0 && value.fract() == 0.0));
        let expected = if question == Question::Count { "a whole number" } else { "a number" };
        let value = value.ok_or_else(|| {
            wrong(path, format!("line {line}: {expected} is expected in {}, got {cell:?}", &header[at]))
        })?;
        if by_name.insert(name.replace('\\', "/"), value).is_some() {
            return Err(wrong(path, format!("line {line}: {name} has an answer already")).into());
        }
    }
    Ok(Answers { by_name, from: path.to_owned() })
}

/// One picture of CLEVR.
#[derive(Deserialize)]
struct Scene {
    image_filename: String,
    objects: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    /// Column, row and distance from the camera.
    pixel_coords: [f64; 3],
}

/// A file of scenes: all of a split as published, or one as the generator writes it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scenes {
    Many { scenes: Vec<Scene> },
    One(Scene),
}

/// The scenes in the JSON files of a folder: those with the split in their name, where any has one.
fn clevr(folder: &Path, split: Split, question: Question) -> Result<Answers> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(|error| wrong(folder, error))?;
    files.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
    files.sort();
    let names = |path: &PathBuf, part: &str| path.file_name().is_some_and(|name| name.to_string_lossy().contains(part));
    if files.iter().any(|path| names(path, "_train_") || names(path, "_val_")) {
        let part = if split == Split::Train { "_train_" } else { "_val_" };
        files.retain(|path| names(path, part));
    }
    if files.is_empty() {
        let problem =
            "no .json of scenes there; CLEVR has scenes/CLEVR_train_scenes.json and scenes/CLEVR_val_scenes.json";
        return Err(wrong(folder, problem).into());
    }
    let mut by_name = HashMap::new();
    for path in files {
        let text = fs::read(&path).map_err(|error| wrong(&path, error))?;
        let scenes = match serde_json::from_slice(&text) {
            Ok(Scenes::Many { scenes }) => scenes,
            Ok(Scenes::One(scene)) => vec![scene],
            Err(error) => return Err(wrong(&path, format!("no scenes as CLEVR has them: {error}")).into()),
        };
        for scene in scenes {
            let nearest = scene.objects.iter().map(|object| object.pixel_coords[2]).min_by(f64::total_cmp);
            let Some(nearest) = nearest else {
                return Err(wrong(&path, format!("{}: a scene without objects", scene.image_filename)).into());
            };
            let value = match question {
                Question::Count => scene.objects.len() as f64,
                Question::Distance => nearest,
            };
            by_name.insert(scene.image_filename, value);
        }
    }
    Ok(Answers { by_name, from: folder.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let path = folder.path().join(name);
        fs::write(&path, text).expect("it can be written");
        (folder, path)
    }

    #[test]
    fn a_table_answers_by_the_usual_column_or_the_one_that_is_named() {
        let (_folder, path) = written(TABLE, "file,n_objects,near_m\na/1.png,3,1.5\na/2.png,4,0.5\n");
        let count = table(&path, Question::Count, None).expect("a table");
        assert_eq!(count.by_name["a/2.png"], 4.0);
        let distance = table(&path, Question::Distance, None).expect("a table");
        assert_eq!(distance.by_name["a/1.png"], 1.5);
        let error = table(&path, Question::Count, Some("objects")).err().expect("no such column").to_string();
        assert!(error.contains("there are n_objects, near_m"), "{error}");
    }

    #[test]
    fn what_is_no_number_and_what_is_there_twice_is_refused_with_its_line() {
        for (row, expected) in
            [("b.png,x", "line 3"), ("b.png,", "line 3"), ("b.png,2.5", "a whole number"), ("a.png,3", "already")]
        {
            let (_folder, path) = written(TABLE, &format!("file,count\na.png,3\n{row}\n"));
            let error = table(&path, Question::Count, None).err().expect("refused").to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn clevr_counts_objects_and_takes_the_nearest_of_the_right_split() {
        let scene = |name: &str, distances: &[f64]| {
            let object = |d: &f64| serde_json::json!({"pixel_coords": [1, 2, d], "size": "small"});
            serde_json::json!({"image_filename": name, "objects": distances.iter().map(object).collect::<Vec<_>>()})
        };
        let (folder, path) = written("CLEVR_train_scenes.json", "");
        let write =
            |path: &Path, scenes| fs::write(path, serde_json::json!({"info": {}, "scenes": scenes}).to_string());
        write(&path, vec![scene("t.png", &[9.5, 8.25, 11.0])]).expect("it can be written");
        let val = folder.path().join("CLEVR_val_scenes.json");
        write(&val, vec![scene("v.png", &[10.5])]).expect("it can be written");
        let of = |split, question| clevr(folder.path(), split, question).expect("scenes").by_name;
        assert_eq!(of(Split::Train, Question::Count), HashMap::from([("t.png".to_owned(), 3.0)]));
        assert_eq!(of(Split::Train, Question::Distance), HashMap::from([("t.png".to_owned(), 8.25)]));
        assert_eq!(of(Split::Val, Question::Distance), HashMap::from([("v.png".to_owned(), 10.5)]));
    }

    #[test]
    fn bounds_of_equally_frequent_classes_divide_evenly() {
        let values: Vec<f64> = (0..60).map(f64::from).collect();
        assert_eq!(quantiles(&values), [10.0, 20.0, 30.0, 40.0, 50.0]);
        assert_eq!(quantiles(&[2.0; 9]), [2.0]);
    }
}
