//! Which images lie under a folder, and what are their classes?
//!
//! Images at any depth, found by their endings in any case. When all of them lie in sub-folders of the root (or of the split
//! folder), those sub-folders, in lexicographic order, are the classes, as torchvision's `ImageFolder` has it; when any lies
//! beside them, the tree has no labels. Names that begin with a dot are passed over.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::Split;
use crate::error::DataError;

const ENDINGS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"];
const TRAIN: [&str; 1] = ["train"];
const VAL: [&str; 3] = ["val", "validation", "test"];

/// Image files under a folder, in the order of their paths.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    files: Vec<PathBuf>,
    classes: Option<(Vec<String>, Vec<u32>)>,
    broken_links: usize,
}

impl Tree {
    /// Lists the images of a split of the tree at `path`, or of all of it when it has no splits.
    pub fn open(path: &Path, split: Split) -> Result<Tree, DataError> {
        let root = split_folder(path, split)?;
        let mut found = Found { files: Vec::new(), other_files: 0, broken_links: 0 };
        walk(&root, &mut Vec::new(), &mut found)?;
        if found.files.is_empty() {
            let note = match (found.other_files, found.broken_links) {
                (0, 0) => " and found no files at all".to_owned(),
                (others, 0) => format!(" and found {others} other files"),
                (others, broken) => {
                    format!(" and found {others} other files and {broken} broken links")
                }
            };
            return Err(DataError::NoImages { path: root, looked_for: ENDINGS.join(", "), note });
        }
        found.files.sort();
        let classes = classes(&root, &found.files);
        Ok(Tree { root, files: found.files, classes, broken_links: found.broken_links })
    }

    /// The folder that was searched: the split folder where there is one.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The images, in the order of their paths.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The class of every image.
    pub fn labels(&self) -> Option<Vec<u32>> {
        self.classes.as_ref().map(|(_, labels)| labels.clone())
    }

    /// Names of the classes, by label.
    pub fn classes(&self) -> Option<&[String]> {
        self.classes.as_ref().map(|(names, _)| names.as_slice())
    }

    /// Links that lead nowhere; they were passed over.
    pub fn broken_links(&self) -> usize {
        self.broken_links
    }
}

pub(super) fn split_folder(path: &Path, split: Split) -> Result<PathBuf, DataError> {
    let present = |names: &[&'static str]| names.iter().copied().find(|name| path.join(name).is_dir());
    let (wanted, other): (&[&'static str], &[&'static str]) = match split {
        Split::Train => (&TRAIN, &VAL[..2]), // a lone `test` may be a class
        Split::Val => (&VAL, &TRAIN),
    };
    match (present(wanted), present(other)) {
        (Some(name), _) => Ok(path.join(name)),
        (None, None) => Ok(path.to_owned()),
        (None, Some(found)) => Err(DataError::NoSplit {
            path: path.to_owned(),
            found: found.into(),
            wanted: wanted.iter().map(|name| format!("{name}/")).collect::<Vec<_>>().join(", "),
        }),
    }
}

struct Found {
    files: Vec<PathBuf>,
    other_files: usize,
    broken_links: usize,
}

/// Collects images below `folder`. `above` holds the real paths of the folders on the way down, against links in a circle.
fn walk(folder: &Path, above: &mut Vec<PathBuf>, found: &mut Found) -> Result<(), DataError> {
    let io = |source| DataError::Io { path: folder.to_owned(), source };
    let real = fs::canonicalize(folder).map_err(io)?;
    if above.contains(&real) {
        return Ok(());
    }
    above.push(real);
    for entry in fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        let mut kind = entry.file_type().map_err(io)?;
        if kind.is_symlink() {
            match fs::metadata(&path) {
                Ok(metadata) => kind = metadata.file_type(),
                Err(_) => {
                    found.broken_links += 1;
                    continue;
                }
            }
        }
        if kind.is_dir() {
            walk(&path, above, found)?;
        } else if kind.is_file() && has_image_ending(&path) {
            found.files.push(path);
        } else {
            found.other_files += 1;
        }
    }
    above.pop();
    Ok(())
}

pub(super) fn has_image_ending(path: &Path) -> bool {
    path.extension().is_some_and(|found| ENDINGS.iter().any(|ending| found.eq_ignore_ascii_case(ending)))
}

/// Class names and the label of every file, if all files lie in sub-folders of `root`.
fn classes(root: &Path, files: &[PathBuf]) -> Option<(Vec<String>, Vec<u32>)> {
    let folder_of = |file: &PathBuf| {
        let mut parts = file.strip_prefix(root).ok()?.components();
        let first = parts.next()?.as_os_str().to_string_lossy().into_owned();
        parts.next().map(|_| first)
    };
    let folders: Vec<String> = files.iter().map(folder_of).collect::<Option<_>>()?;
    let names: Vec<String> = folders.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
    let label = |folder: &String| names.binary_search(folder).expect("every folder is among the names") as u32;
    let labels = folders.iter().map(label).collect();
    Some((names, labels))
}
