//! Which image files are there, and what are their classes? Those of a folder, or those that a list names.
//!
//! Of a folder: images at any depth, found by their endings in any case. When all of them lie in sub-folders of the root (or of the
//! split folder), those sub-folders, in lexicographic order, are the classes, as torchvision's `ImageFolder` has it; when any lies
//! beside them, there are no labels. Names that begin with a dot are passed over. Of a list: see [`list`].

mod index;
mod list;
mod paths;
mod walk;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use paths::{Paths, as_path};

use super::Split;
use crate::error::DataError;

/// Those of torchvision, GIF and AVIF.
pub(super) const ENDINGS: [&str; 11] =
    ["jpg", "jpeg", "png", "webp", "avif", "gif", "bmp", "tif", "tiff", "ppm", "pgm"];
const TRAIN: [&str; 1] = ["train"];
const VAL: [&str; 3] = ["val", "validation", "test"];

/// Images from which on the list of a folder is kept: finding fewer again takes no time worth saving.
const INDEX_FROM: usize = 10_000;

/// Image files: of a folder in the order of their paths, of a list in that of its lines.
#[derive(Debug)]
pub struct Files {
    root: PathBuf,
    paths: Paths, // relative to the root, or absolute
    labels: Option<Vec<u32>>,
    classes: Option<Vec<String>>,
    broken_links: usize,
    index: Index,
}

/// Whether a folder had to be searched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Index {
    /// It was searched, and what was found is not kept: few images, no place for it, or a folder that changed only now.
    Without,
    /// It was not searched: nothing changed since what was found was kept.
    Used,
    /// It was searched, and what was found is kept.
    Written,
    /// It was searched, and what was found could not be kept, for this reason.
    Unwritten(String),
}

impl Files {
    /// Finds the images of a split of the tree at `path`, or of all of it when it has no splits. What was found in a large tree is
    /// kept in the folder `index`, and is used while no folder of the tree changes.
    pub fn open(path: &Path, split: Split, index: Option<&Path>) -> Result<Files, DataError> {
        Files::find(split_folder(path, split)?, index, INDEX_FROM)
    }

    /// Reads a list of images.
    ///
    /// A line is a path, relative to the list's folder or absolute; then perhaps a tab, comma or space and a label: a class number, or
    /// a class name. Empty lines and those that begin with `#` count for nothing. When the first path is not there, it is looked for
    /// in the folder of `split` beside the list, and in the class folder that its name begins with, as in the published subsets of
    /// ImageNet: `n01440764_10026.JPEG` is `n01440764/n01440764_10026.JPEG` there, of class `n01440764`. All others lie likewise.
    pub fn open_list(path: &Path, split: Split) -> Result<Files, DataError> {
        let list = list::read(path, split)?;
        let list::List { root, paths, labels, classes } = list;
        Ok(Files { root, paths, labels, classes, broken_links: 0, index: Index::Without })
    }

    fn find(root: PathBuf, store: Option<&Path>, index_from: usize) -> Result<Files, DataError> {
        let kept = store.and_then(|store| index::read(store, &root));
        let (found, index) = match (kept, store) {
            (Some(found), _) => (found, Index::Used),
            (None, None) => (walk::walk(&root)?, Index::Without),
            (None, Some(store)) => {
                let found = walk::walk(&root)?;
                let few = found.images.len() < index_from;
                let written = if few { Ok(false) } else { index::write(store, &root, &found, SystemTime::now()) };
                let index = match written {
                    Ok(false) => Index::Without,
                    Ok(true) => Index::Written,
                    Err(error) => Index::Unwritten(format!("{}: {error}", store.display())),
                };
                (found, index)
            }
        };
        let broken_links = found.broken_links.len();
        if found.images.len() == 0 {
            let note = match (found.other_files, broken_links) {
                (0, 0) => " and found no files at all".to_owned(),
                (others, 0) => format!(" and found {others} other files"),
                (others, broken) => {
                    format!(" and found {others} other files and {broken} broken links")
                }
            };
            return Err(DataError::NoImages { path: root, looked_for: ENDINGS.join(", "), note });
        }
        let (classes, labels) = classes(&found.images).unzip();
        Ok(Files { root, paths: found.images, labels, classes, broken_links, index })
    }

    /// The folder that was searched, the split folder where there is one; of a list, the folder that its paths are relative to.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Number of images.
    #[expect(clippy::len_without_is_empty, reason = "a data set without images cannot be opened")]
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// The file of an image.
    ///
    /// # Panics
    /// When there are not that many.
    pub fn path(&self, index: usize) -> PathBuf {
        self.root.join(as_path(self.paths.get(index)).expect("made of names that can be kept"))
    }

    /// The path of an image relative to the root, or absolute where a list has it so.
    pub(super) fn name(&self, index: usize) -> String {
        String::from_utf8_lossy(self.paths.get(index)).into_owned()
    }

    /// The class of every image.
    pub fn labels(&self) -> Option<&[u32]> {
        self.labels.as_deref()
    }

    /// Names of the classes, by label; nothing when a list gives only their numbers.
    pub fn classes(&self) -> Option<&[String]> {
        self.classes.as_deref()
    }

    /// Links that lead nowhere; they were passed over.
    pub fn broken_links(&self) -> usize {
        self.broken_links
    }

    /// Whether the folder had to be searched.
    pub fn index(&self) -> &Index {
        &self.index
    }
}

/// The folders that hold a split, the first one that is there before the others.
fn split_names(split: Split) -> &'static [&'static str] {
    match split {
        Split::Train => &TRAIN,
        Split::Val => &VAL,
    }
}

pub(super) fn split_folder(path: &Path, split: Split) -> Result<PathBuf, DataError> {
    let present = |names: &[&'static str]| names.iter().copied().find(|name| path.join(name).is_dir());
    let wanted = split_names(split);
    let other: &[&'static str] = match split {
        Split::Train => &VAL[..2], // a lone `test` may be a class
        Split::Val => &TRAIN,
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

pub(super) fn has_image_ending(name: &[u8]) -> bool {
    let Some(dot) = memchr::memrchr(b'.', name) else { return false };
    // As `Path::extension` has it: `.jpg` is a hidden file without an ending.
    let stem = dot > 0 && name[dot - 1] != b'/';
    stem && ENDINGS.iter().any(|ending| name[dot + 1..].eq_ignore_ascii_case(ending.as_bytes()))
}

/// Class names and the label of every image, if all images lie in folders. Those of a class follow one upon the other.
fn classes(images: &Paths) -> Option<(Vec<String>, Vec<u32>)> {
    let mut names = Vec::new();
    let mut labels = Vec::with_capacity(images.len());
    let mut last: Option<&[u8]> = None;
    for path in images.iter() {
        let folder = &path[..memchr::memchr(b'/', path)?];
        if last != Some(folder) {
            names.push(String::from_utf8_lossy(folder).into_owned());
            last = Some(folder);
        }
        labels.push(names.len() as u32 - 1);
    }
    Some((names, labels))
}

#[cfg(test)]
mod tests;
