//! Where are features that were computed before? In a folder of the user's cache, under a hash of all that they depend on.
//!
//! An entry is a folder with `features.npy` (n, d) f32, `images.npy` (n) u32, which image of the data each row belongs to, and
//! `about.json` for whoever looks into it. Until it is complete its name ends in `.part`; it grows by a batch at a time, and an
//! evaluation that was stopped goes on where it was. Nothing is ever removed: an entry is a folder that may be deleted.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ijepa_tensor::Values;
use sha2::{Digest, Sha256};

use crate::cli::CacheArgs;
use crate::embed::write::npy;
use crate::exit::{Exit, Failure};
use crate::output;

const FEATURES: &str = "features.npy";
const IMAGES: &str = "images.npy";
const ABOUT: &str = "about.json";

/// Counts up when the same weights and pictures give other features than before.
const VERSION: u32 = 1;

/// A place for entries, or none.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    folder: Option<PathBuf>,
}

/// A hash of what features depend on.
#[derive(Clone)]
pub(crate) struct Key(Sha256);

/// Rows of features, and which image each one belongs to. Those of an entry stay in its file, which may be larger than memory.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Rows {
    pub(crate) values: Values,   // (n, d)
    pub(crate) images: Vec<u32>, // (n)
}

impl Key {
    /// A key of what is added to it.
    pub(crate) fn new() -> Key {
        Key(Sha256::new()).with(&VERSION.to_le_bytes())
    }

    /// Adds something, set apart from what comes before and after.
    pub(crate) fn with(mut self, bytes: &[u8]) -> Key {
        self.add(bytes);
        self
    }

    /// The same, in place.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn name(self) -> String {
        // Half of the hash tells entries apart as well.
        self.0.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Store {
    /// No place: everything is computed anew.
    pub(crate) const NONE: Store = Store { folder: None };

    /// As the command line has it.
    pub(crate) fn of(args: &CacheArgs) -> Store {
        if args.no_cache { Store::NONE } else { Store::at(args.cache.as_deref()) }
    }

    /// The folder, or that of the user's cache.
    pub(crate) fn at(folder: Option<&Path>) -> Store {
        let users = || crate::hub::caches().join("ijepa").join("features");
        Store { folder: Some(folder.map_or_else(users, Path::to_owned)) }
    }

    /// The rows of a complete entry, d wide.
    pub(crate) fn find(&self, key: &Key, width: usize) -> Result<Option<Rows>> {
        let Some(entry) = self.entry(key) else { return Ok(None) };
        if !entry.is_dir() {
            return Ok(None);
        }
        match Rows::read(&entry, width) {
            Ok(rows) => Ok(Some(rows)),
            Err(error) => {
                output::warning(&format!("{} is damaged and is made anew: {error}", entry.display()));
                fs::remove_dir_all(&entry).with_context(|| format!("cannot remove {}", entry.display()))?;
                Ok(None)
            }
        }
    }

    /// An entry to be filled, with what an earlier try left in it; nothing where nothing is kept, or another process fills it.
    pub(crate) fn begin(&self, key: &Key, width: usize, about: &serde_json::Value) -> Result<Option<Part>> {
        let Some(entry) = self.entry(key) else { return Ok(None) };
        Part::open(entry.clone(), width, about).map_err(|error| unwritable(&entry, error).into())
    }

    fn entry(&self, key: &Key) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(key.clone().name()))
    }
}

fn unwritable(entry: &Path, error: io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("{}: features cannot be kept there: {error}", entry.display()))
        .remedy("make room, name another folder with --cache FOLDER, or keep nothing with --no-cache")
}

impl Rows {
    fn read(entry: &Path, width: usize) -> io::Result<Rows> {
        let (features, rows) = array(&entry.join(FEATURES), "<f4", Some(width))?;
        let (mut images, count) = array(&entry.join(IMAGES), "<u4", None)?;
        if rows != count {
            let problem = format!("{rows} rows of features for {count} images");
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        let values = Values::map(&features, npy::HEADER as u64, rows * width)?;
        let images = numbers(&mut images, count)?;
        Ok(Rows { values, images })
    }
}

/// An array of 4-byte values that this module wrote, at its first value, and its number of rows of `width` or of one value.
fn array(path: &Path, dtype: &str, width: Option<usize>) -> io::Result<(File, usize)> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len() as usize;
    let mut header = [0; npy::HEADER];
    file.read_exact(&mut header)?;
    let row = 4 * width.unwrap_or(1);
    let rows = bytes.saturating_sub(npy::HEADER) / row;
    let shape = [Some(rows), width].into_iter().flatten().collect::<Vec<_>>();
    if header != npy::header(dtype, &shape) || bytes != npy::HEADER + rows * row {
        let problem = format!("{} is not what was written", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    Ok((file, rows))
}

/// The next `count` numbers of a file.
fn numbers(file: &mut File, count: usize) -> io::Result<Vec<u32>> {
    let mut bytes = vec![0; 4 * count];
    file.read_exact(&mut bytes)?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|&bytes| u32::from_le_bytes(bytes)).collect())
}

/// An entry that is being filled. Dropped, it stays for the next try.
pub(crate) struct Part {
    entry: PathBuf,
    folder: PathBuf,
    features: File,
    images: File,
    width: usize,
    /// The images that are in it.
    held: Vec<u32>,
    /// Held while the entry is filled.
    _lock: File,
}

impl Part {
    fn open(entry: PathBuf, width: usize, about: &serde_json::Value) -> io::Result<Option<Part>> {
        let folder = entry.with_extension("part");
        fs::create_dir_all(&folder)?;
        let lock = File::create(folder.join("lock"))?;
        if lock.try_lock().is_err() {
            output::note(&format!("{} is being filled by another process; this one keeps nothing", folder.display()));
            return Ok(None);
        }
        fs::write(folder.join(ABOUT), format!("{about:#}\n"))?;
        let open = |name| File::options().read(true).write(true).create(true).truncate(false).open(folder.join(name));
        let (mut features, mut images) = (open(FEATURES)?, open(IMAGES)?);
        // Whole rows that are in both; a crash may have left more in one of them.
        let held = |file: &File, row: usize| -> io::Result<usize> {
            Ok((file.metadata()?.len() as usize).saturating_sub(npy::HEADER) / row)
        };
        let count = held(&features, 4 * width)?.min(held(&images, 4)?);
        for (file, row) in [(&features, 4 * width), (&images, 4)] {
            file.set_len((npy::HEADER + count * row) as u64)?;
        }
        features.seek(SeekFrom::End(0))?;
        images.seek(SeekFrom::Start(npy::HEADER as u64))?;
        let held = numbers(&mut images, count)?;
        Ok(Some(Part { entry, folder, features, images, width, held, _lock: lock }))
    }

    /// The images whose features an earlier try left.
    pub(crate) fn held(&self) -> &[u32] {
        &self.held
    }

    /// Appends the features (b, d) of some images (b).
    pub(crate) fn add(&mut self, values: &[f32], images: &[u32]) -> Result<()> {
        assert_eq!(values.len(), images.len() * self.width, "features are (b, d)");
        let bytes = |images: &[u32]| images.iter().flat_map(|image| image.to_le_bytes()).collect::<Vec<_>>();
        let values: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let written = self.features.write_all(&values).and_then(|()| self.images.write_all(&bytes(images)));
        written.map_err(|error| unwritable(&self.folder, error).into())
    }

    /// Completes the entry, in which its rows are found from then on.
    pub(crate) fn finish(mut self) -> Result<Rows> {
        let mut complete = || -> io::Result<()> {
            let count = (self.images.metadata()?.len() as usize - npy::HEADER) / 4;
            let header = |file: &mut File, dtype, shape: &[usize]| -> io::Result<()> {
                file.seek(SeekFrom::Start(0))?;
                file.write_all(&npy::header(dtype, shape))?;
                file.sync_all()
            };
            header(&mut self.features, "<f4", &[count, self.width])?;
            header(&mut self.images, "<u4", &[count])?;
            fs::remove_file(self.folder.join("lock"))?;
            fs::rename(&self.folder, &self.entry)
        };
        complete().map_err(|error| unwritable(&self.entry, error))?;
        Rows::read(&self.entry, self.width).with_context(|| format!("cannot read {} again", self.entry.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::new().with(text.as_bytes())
    }

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let store = Store::at(Some(folder.path()));
        (folder, store)
    }

    fn begin(store: &Store, name: &str) -> Part {
        store.begin(&key(name), 2, &serde_json::json!({})).expect("it can be written").expect("nobody else fills it")
    }

    #[test]
    fn what_was_kept_is_found_under_its_own_key_and_no_other() {
        let (_folder, store) = store();
        let mut part = begin(&store, "a");
        part.add(&[1.0, 2.0, 3.0, 4.0], &[5, 7]).expect("it can be written");
        assert_eq!(store.find(&key("a"), 2).expect("readable"), None, "not before it is complete");
        part.finish().expect("it can be completed");
        let rows = Rows { values: vec![1.0, 2.0, 3.0, 4.0].into(), images: vec![5, 7] };
        assert_eq!(store.find(&key("a"), 2).expect("readable"), Some(rows));
        assert_eq!(store.find(&key("b"), 2).expect("readable"), None);
        assert_eq!(Store::NONE.find(&key("a"), 2).expect("readable"), None);
    }

    #[test]
    fn pieces_of_a_key_are_told_apart() {
        assert_ne!(Key::new().with(b"ab").with(b"c").name(), Key::new().with(b"a").with(b"bc").name());
    }

    #[test]
    fn a_try_that_was_cut_off_is_taken_up_at_its_last_whole_row() {
        let (folder, store) = store();
        let mut part = begin(&store, "a");
        part.add(&[1.0, 2.0, 3.0, 4.0], &[0, 1]).expect("it can be written");
        // As a crash leaves it: the values of a row without its number.
        part.features.write_all(&[0; 5]).expect("it can be written");
        drop(part);
        let mut part = begin(&store, "a");
        assert_eq!(part.held(), [0, 1]);
        part.add(&[5.0, 6.0], &[2]).expect("it can be written");
        part.finish().expect("it can be completed");
        let rows = store.find(&key("a"), 2).expect("readable").expect("it is there");
        assert_eq!(rows, Rows { values: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0].into(), images: vec![0, 1, 2] });
        assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 1);
    }

    #[test]
    fn two_do_not_fill_one_entry() {
        let (_folder, store) = store();
        let _first = begin(&store, "a");
        assert!(store.begin(&key("a"), 2, &serde_json::json!({})).expect("no failure").is_none());
    }

    #[test]
    fn a_damaged_entry_is_removed_and_not_believed() {
        let (folder, store) = store();
        let mut part = begin(&store, "a");
        part.add(&[1.0, 2.0], &[0]).expect("it can be written");
        part.finish().expect("it can be completed");
        let entry = folder.path().join(key("a").name());
        let file = File::options().write(true).open(entry.join(FEATURES)).expect("it is there");
        file.set_len(npy::HEADER as u64 + 4).expect("it can be cut");
        assert_eq!(store.find(&key("a"), 2).expect("no failure"), None);
        assert!(!entry.exists());
    }
}
