//! What lies under a folder? Every image at any depth, and all that is needed to tell later whether that is still so.
//!
//! Folders are read level by level, those of a level at the same time. That takes no recursion, so no stack that a deep tree could
//! exhaust, and what comes out does not depend on the threads. `rayon` does it because it is here already; `ignore` and `jwalk` would
//! bring their own threads, rules about hidden files and orders that would have to be undone.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rayon::prelude::*;

use super::has_image_ending;
use super::paths::{Paths, as_bytes, as_path};
use crate::error::DataError;

/// Folders that are read or checked at a time. They wait for a disk or for a network, not for a processor.
const READERS: usize = 16;

/// What lies under a folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Images, in the order of their paths, part by part: `a/b` comes before `a-b`.
    pub(super) images: Paths,
    /// Every folder that was read; the first one is the root, with an empty path.
    pub(super) folders: Paths,
    /// When each folder changed last, from before it was read.
    pub(super) stamps: Vec<Stamp>,
    /// Links that led nowhere.
    pub(super) broken_links: Paths,
    /// Files that are no images.
    pub(super) other_files: usize,
}

/// When a folder changed last, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Moves when an entry is added, removed or renamed, but can be set back, and unpackers do so.
    pub(super) modified: i64,
    /// Moves too, and cannot be set; 0 outside Unix.
    pub(super) changed: i64,
}

impl Stamp {
    pub(super) fn of(folder: &Path) -> io::Result<Stamp> {
        let metadata = fs::metadata(folder)?;
        if !metadata.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Stamp { modified: nanoseconds(metadata.modified()?), changed: changed(&metadata) })
    }

    /// The later of both times.
    pub(super) fn latest(self) -> i64 {
        self.modified.max(self.changed)
    }
}

#[cfg(unix)]
fn changed(metadata: &Metadata) -> i64 {
    use std::os::unix::fs::MetadataExt;
    metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec())
}

#[cfg(not(unix))]
fn changed(_metadata: &Metadata) -> i64 {
    0
}

/// Nanoseconds since 1970, before it less than 0, held within what 64 bits can tell (the years 1678 to 2262).
pub(super) fn nanoseconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanoseconds| -nanoseconds),
    }
}

/// Threads for reading folders.
pub(super) fn readers(root: &Path) -> Result<rayon::ThreadPool, DataError> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(READERS)
        .thread_name(|number| format!("folders {number}"))
        .build()
        .map_err(|error| DataError::Io { path: root.to_owned(), source: io::Error::other(error) })
}

/// A folder to be read.
struct Task {
    parent: Option<usize>,
    path: Vec<u8>, // relative to the root
    /// The path without links, unless it has to be found out.
    real: Option<PathBuf>,
}

/// A folder that was read.
struct Folder {
    parent: Option<usize>,
    path: Vec<u8>,
    real: PathBuf,
    stamp: Stamp,
    images: Paths,     // names, sorted
    below: Vec<usize>, // folders, sorted by their names
    broken_links: Paths,
    other_files: usize,
}

/// Finds all images under `root`. Names that begin with a dot are passed over, and folders that lead back to one on the way to them.
pub(super) fn walk(root: &Path) -> Result<Found, DataError> {
    let readers = readers(root)?;
    let mut folders: Vec<Folder> = Vec::new();
    let mut level = vec![Task { parent: None, path: Vec::new(), real: None }];
    while !level.is_empty() {
        let read: Vec<_> = readers.install(|| level.par_iter().map(|task| read_folder(root, &folders, task)).collect());
        level.clear();
        for result in read {
            let Some((folder, below)) = result? else { continue };
            let number = folders.len();
            level.extend(below.into_iter().map(|task| Task { parent: Some(number), ..task }));
            if let Some(parent) = folder.parent {
                folders[parent].below.push(number);
            }
            folders.push(folder);
        }
    }
    let mut found = Found { images: in_order(&folders), ..Found::default() };
    for folder in &folders {
        found.folders.push(b"", &folder.path);
        found.stamps.push(folder.stamp);
        found.other_files += folder.other_files;
        folder.broken_links.iter().for_each(|link| found.broken_links.push(&folder.path, link));
    }
    Ok(found)
}

/// Reads one folder and says which folders are to be read next; nothing when it is one of those above it.
fn read_folder(root: &Path, folders: &[Folder], task: &Task) -> Result<Option<(Folder, Vec<Task>)>, DataError> {
    let path = root.join(as_path(&task.path).expect("made of names that can be kept"));
    let io = |source| DataError::Io { path: path.clone(), source };
    let real = match &task.real {
        Some(real) => real.clone(),
        None => fs::canonicalize(&path).map_err(io)?,
    };
    let mut above = task.parent;
    while let Some(number) = above {
        if folders[number].real == real {
            return Ok(None);
        }
        above = folders[number].parent;
    }

    let stamp = Stamp::of(&path).map_err(io)?;
    let (mut images, mut broken_links, mut other_files) = (Paths::default(), Paths::default(), 0);
    let mut below: Vec<Task> = Vec::new();
    for entry in fs::read_dir(&path).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let Some(bytes) = as_bytes(&name) else {
            other_files += 1;
            continue;
        };
        let mut kind = entry.file_type().map_err(io)?;
        let link = kind.is_symlink();
        if link {
            let Ok(metadata) = fs::metadata(entry.path()) else {
                broken_links.push(b"", bytes);
                continue;
            };
            kind = metadata.file_type();
        }
        if kind.is_dir() {
            let path = [task.path.as_slice(), if task.path.is_empty() { b"" } else { b"/" }, bytes].concat();
            below.push(Task { parent: None, path, real: (!link).then(|| real.join(&name)) });
        } else if kind.is_file() && has_image_ending(bytes) {
            images.push(b"", bytes);
        } else {
            other_files += 1;
        }
    }
    below.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    let folder = Folder {
        parent: task.parent,
        path: task.path.clone(),
        real,
        stamp,
        images: images.sorted(),
        below: Vec::new(),
        broken_links: broken_links.sorted(),
        other_files,
    };
    Ok(Some((folder, below)))
}

/// The images of all folders, in the order of their paths.
fn in_order(folders: &[Folder]) -> Paths {
    let count = folders.iter().map(|folder| folder.images.len()).sum();
    let bytes =
        folders.iter().map(|folder| folder.images.bytes().len() + folder.images.len() * (folder.path.len() + 1)).sum();
    let mut images = Paths::with_capacity(count, bytes);
    let name = |number: usize| folders[number].path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let mut way = vec![(0, 0, 0)]; // a folder, its next image, its next folder
    while let Some((number, image, below)) = way.last_mut() {
        let folder = &folders[*number];
        let next_image = (*image < folder.images.len()).then(|| folder.images.get(*image));
        let next_below = folder.below.get(*below).copied();
        match (next_image, next_below) {
            (Some(found), next) if next.is_none_or(|next| found < name(next)) => {
                images.push(&folder.path, found);
                *image += 1;
            }
            (_, Some(next)) => {
                *below += 1;
                way.push((next, 0, 0));
            }
            (_, None) => {
                way.pop();
            }
        }
    }
    images
}
