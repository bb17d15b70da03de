//! What is in a folder as Hugging Face's libraries save a model?
//!
//! `config.json` (sizes), the weights in `model.safetensors`, in shards that `model.safetensors.index.json` lists, or in
//! `pytorch_model.bin`, and perhaps `preprocessor_config.json` (how images were normalised). timm's folders hold the same files with
//! another `config.json`.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::Path;

use serde_json::Value;

use super::index::Index;
use super::write::write_whole;
use super::{CheckpointError, Source};

/// The longest JSON file that is read; the index of the largest published model has a few hundred kilobytes. In memory it may be
/// thirty times as large.
const JSON_MAX: u64 = 1 << 22;
/// Shards of one model.
const SHARDS_MAX: usize = 1000;

const CONFIG: &str = "config.json";
const PREPROCESSOR: &str = "preprocessor_config.json";
const WEIGHTS: &str = "model.safetensors";
const SHARDS: &str = "model.safetensors.index.json";
const PICKLED: &str = "pytorch_model.bin";

/// Lists the tensors of a folder.
pub(super) fn open(folder: &Path) -> Result<Index, CheckpointError> {
    let mut index = if folder.join(WEIGHTS).is_file() {
        Index::open_file(&folder.join(WEIGHTS))?
    } else if folder.join(SHARDS).is_file() {
        shards(folder)?
    } else if folder.join(PICKLED).is_file() {
        Index::open_file(&folder.join(PICKLED))?
    } else {
        let found = "a folder without any of them";
        return Err(CheckpointError::NotAModelFolder { path: folder.to_path_buf(), found: found.to_string() });
    };
    if index.meta.source == Source::Other {
        index.format = "folder of a model";
    }
    describe(folder, &mut index)?;
    index.meta.path = Some(folder.to_path_buf());
    Ok(index)
}

/// Opens every file that the list of shards names; the tensors that it names in each must be there.
fn shards(folder: &Path) -> Result<Index, CheckpointError> {
    let path = folder.join(SHARDS);
    let list = json(&path)?;
    let Some(map) = list.get("weight_map").and_then(Value::as_object) else {
        let got = list.get("weight_map").map_or("none".to_string(), Value::to_string);
        return Err(malformed(&path, "weight_map", "an object from tensors to files", &got));
    };
    let mut files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, file) in map {
        match file.as_str() {
            // A plain name: the list must not lead out of its folder.
            Some(name)
                if Path::new(name).file_name().is_some_and(|last| last == name) && !folder.join(name).is_dir() =>
            {
                files.entry(name).or_default().push(tensor);
            }
            _ => {
                let place = format!("weight_map, {tensor}");
                return Err(malformed(&path, &place, "the name of a file in this folder", &file.to_string()));
            }
        }
    }
    if files.is_empty() || files.len() > SHARDS_MAX {
        let expected = format!("1 to {SHARDS_MAX} files");
        return Err(malformed(&path, "weight_map", &expected, &files.len().to_string()));
    }
    let mut whole: Option<Index> = None;
    for (name, tensors) in files {
        let mut shard = Index::open_file(&folder.join(name))?;
        if shard.meta.source != Source::Other {
            let got = "a checkpoint of a whole training";
            return Err(malformed(
                &folder.join(name),
                "the file",
                "tensors of one model, since it is one of its shards",
                got,
            ));
        }
        let held: HashSet<&str> = shard.entries.iter().map(|entry| entry.name.as_str()).collect();
        for tensor in tensors {
            let tensor = super::safetensors::without_prefix(tensor);
            if !held.contains(tensor) {
                return Err(malformed(
                    &path,
                    &format!("weight_map, {tensor}"),
                    &format!("it in {name}"),
                    "no such tensor",
                ));
            }
        }
        match &mut whole {
            None => whole = Some(shard),
            Some(whole) => {
                for entry in &mut shard.entries {
                    entry.container += whole.containers.len();
                }
                whole.entries.append(&mut shard.entries);
                whole.containers.append(&mut shard.containers);
                whole.notes.append(&mut shard.notes);
            }
        }
    }
    let whole = whole.expect("there is at least one file");
    super::safetensors::check_names(&whole.containers[0], &whole.entries)?;
    Ok(whole)
}

/// Sizes and normalisation from the JSON files beside the weights.
fn describe(folder: &Path, index: &mut Index) -> Result<(), CheckpointError> {
    let path = folder.join(CONFIG);
    if path.is_file() {
        let config = json(&path)?;
        if let Some(kind) = config.get("model_type").filter(|kind| *kind != "ijepa") {
            return Err(malformed(&path, "model_type", "\"ijepa\"", &kind.to_string()));
        }
        if let Some(heads) = config.get("num_attention_heads") {
            index.meta.heads = Some(count(&path, "num_attention_heads", heads)?);
        }
        if let Some(size) = config.get("image_size") {
            index.meta.image = Some(image(&path, size)?);
        }
        if let Some(eps) = config.get("layer_norm_eps").and_then(Value::as_f64).filter(|eps| *eps != 1e-6) {
            index.notes.push(format!("{CONFIG} says layer_norm_eps {eps}; I-JEPA's is 1e-6, which is computed with"));
        }
    }
    let path = folder.join(PREPROCESSOR);
    if path.is_file() {
        let preprocessor = json(&path)?;
        let mean = three(&path, &preprocessor, "image_mean", "a number", &|_| true)?;
        // Images are divided by it.
        let deviation = three(&path, &preprocessor, "image_std", "a number above 0", &|x| x > 0.0)?;
        index.meta.mean_std = mean.zip(deviation);
    }
    Ok(())
}

/// A number for each channel, if there is anything under that key.
fn three(
    path: &Path,
    preprocessor: &Value,
    key: &str,
    expected: &str,
    accepts: &dyn Fn(f32) -> bool,
) -> Result<Option<[f32; 3]>, CheckpointError> {
    let Some(value) = preprocessor.get(key).filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let number = |value: &Value| value.as_f64().map(|x| x as f32).filter(|x| x.is_finite() && accepts(*x));
    let numbers: Option<Vec<f32>> = value.as_array().and_then(|list| list.iter().map(number).collect());
    match numbers.and_then(|numbers| numbers.try_into().ok()) {
        Some(three) => Ok(Some(three)),
        None => Err(malformed(path, key, &format!("{expected} for each of three channels"), &value.to_string())),
    }
}

/// One number for both sides, or height and width.
fn image(path: &Path, value: &Value) -> Result<(usize, usize), CheckpointError> {
    match value.as_array().map(Vec::as_slice) {
        None => count(path, "image_size", value).map(|side| (side, side)),
        Some([height, width]) => Ok((count(path, "image_size", height)?, count(path, "image_size", width)?)),
        Some(_) => Err(malformed(path, "image_size", "one number or two", &value.to_string())),
    }
}

fn count(path: &Path, key: &str, value: &Value) -> Result<usize, CheckpointError> {
    let count = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=1 << 20).contains(n));
    count.ok_or_else(|| malformed(path, key, "a number from 1 to 1048576", &value.to_string()))
}

/// Writes a JSON file of such a folder, whole or not at all.
///
/// # Errors
/// When the disk refuses.
pub fn write_json(path: &Path, value: &Value) -> Result<(), CheckpointError> {
    write_whole(path, |file| writeln!(file, "{value:#}"))
}

fn json(path: &Path) -> Result<Value, CheckpointError> {
    let read_error = |source| CheckpointError::Read { path: path.to_path_buf(), action: "read it".to_string(), source };
    let len = std::fs::metadata(path).map_err(read_error)?.len();
    if len > JSON_MAX {
        return Err(malformed(path, "the file", &format!("at most {JSON_MAX} bytes"), &len.to_string()));
    }
    let text = std::fs::read(path).map_err(read_error)?;
    match serde_json::from_slice(&text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(malformed(path, "the file", "a JSON object", "other JSON")),
        Err(error) => Err(malformed(path, "the file", "a JSON object", &error.to_string())),
    }
}

fn malformed(path: &Path, place: &str, expected: &str, got: &str) -> CheckpointError {
    CheckpointError::Malformed {
        path: path.to_path_buf(),
        place: place.to_string(),
        expected: expected.to_string(),
        got: got.chars().take(100).collect(),
    }
}
