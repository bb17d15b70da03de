//! Which files of a folder are the shards of a split? Data sets of the Hugging Face Hub lie as `data/train-00000-of-00257.parquet`,
//! or as `default/train/0000.parquet`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::dataset::Split;
use crate::error::DataError;

/// Sub-folders that are looked into: a data set has one or a few, a tree of image classes soon has more.
const FOLDERS_MAX: usize = 8;
/// Levels of sub-folders that are looked into.
const DEPTH_MAX: usize = 2;

const TRAIN: [&str; 1] = ["train"];
const VAL: [&str; 5] = ["validation", "val", "valid", "dev", "test"];

/// Whether a name ends as a Parquet file's.
pub(super) fn is_named_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("parquet"))
}

/// Parquet files in `folder`, or where it has none itself, in the few folders below it, in the order of their paths.
pub(super) fn all(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut files = Vec::new();
    collect(folder, DEPTH_MAX, &mut files)?;
    files.sort();
    Ok(files)
}

fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), DataError> {
    let io = |source| DataError::Io { path: folder.to_owned(), source };
    let (before, mut folders) = (files.len(), Vec::new());
    for entry in fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        let mut kind = entry.file_type().map_err(io)?;
        if kind.is_symlink() {
            // Links count as what they lead to; broken ones are nothing.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            kind = metadata.file_type();
        }
        if kind.is_dir() {
            folders.push(path);
        } else if kind.is_file() && is_named_parquet(&path) {
            files.push(path);
        }
    }
    if files.len() == before && depth > 0 && folders.len() <= FOLDERS_MAX {
        for folder in folders {
            collect(&folder, depth - 1, files)?;
        }
    }
    Ok(())
}

/// Those of `files`, which were found under `folder`, that belong to a split: by the beginning of their names or by their folders.
/// Where nothing names a split, all of them.
pub(super) fn of_split(folder: &Path, files: Vec<PathBuf>, split: Split) -> Result<Vec<PathBuf>, DataError> {
    let of = |names: &[&str]| -> Vec<PathBuf> {
        let named = |name: &&str| {
            let found: Vec<_> = files.iter().filter(|file| is_of(folder, file, name)).cloned().collect();
            (!found.is_empty()).then_some(found)
        };
        names.iter().find_map(named).unwrap_or_default()
    };
    let (wanted, other): (&[&str], &[&str]) = match split {
        Split::Train => (&TRAIN, &VAL),
        Split::Val => (&VAL, &TRAIN),
    };
    let (found, others) = (of(wanted), of(other));
    match (found.is_empty(), others.first()) {
        (false, _) => Ok(found),
        (true, None) => Ok(files),
        (true, Some(file)) => {
            let names: Vec<_> = wanted.iter().map(|name| format!("{name}-*.parquet")).collect();
            let found = file.strip_prefix(folder).unwrap_or(file).display().to_string();
            Err(DataError::NoSplit { path: folder.to_owned(), found, wanted: names.join(", ") })
        }
    }
}

/// Whether a file's name, or that of a folder between it and `folder`, is `split` or begins with it as a word.
fn is_of(folder: &Path, file: &Path, split: &str) -> bool {
    let below = file.strip_prefix(folder).unwrap_or(file);
    below.iter().any(|part| {
        let rest = part.to_str().and_then(|part| part.strip_prefix(split));
        rest.is_some_and(|rest| !rest.starts_with(char::is_alphabetic))
    })
}
