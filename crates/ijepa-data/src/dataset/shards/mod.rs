//! How are samples of WebDataset shards read in any order? Every shard is indexed once; a sample is then one read at its place.
//!
//! Plain tars on this machine are read where they lie. Those packed with gzip, and those at an address, are fetched into a folder of
//! copies within a limit ([`Storage::downloads`](super::Storage)); for them the loader keeps to few shards at a time.
//!
//! Opening reads every shard that was not indexed before: the headers of a plain tar, all of a packed one, and what lies at an address
//! has to be downloaded. So an index folder ([`Storage::index`](super::Storage)) pays off; for copies it is their own folder when none
//! is given. A shard that is damaged ends the opening: a set that lost a part in silence would be another set.

mod copies;
mod index;
mod names;
mod samples;
mod tape;
mod web;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use copies::{Copied, Copies, Origin};
use index::Version;
use names::Place;
use samples::Index;
use web::{Patience, Web};

use super::versions::version;
use super::{Space, Split, Storage};
use crate::error::DataError;

/// Files of plain shards that are kept open; systems allow a process 256 to 1024 of them.
const OPEN_MAX: usize = 64;
/// Shards that are downloaded at a time while a set is opened.
const DOWNLOADS: usize = 8;

/// Samples in tars.
#[derive(Debug)]
pub struct Shards {
    shards: Vec<Shard>,
    /// The number of the first sample of each shard, and at the end that of all samples.
    firsts: Vec<usize>,
    classes: Option<Vec<String>>,
    copies: Copies,
    /// Files of plain shards, the one used last in front.
    open: Mutex<VecDeque<(usize, Arc<File>)>>,
}

#[derive(Debug)]
struct Shard {
    /// What to call it: its path, or its address without the query.
    name: String,
    source: Source,
    index: Index,
}

#[derive(Debug)]
enum Source {
    /// Read where it lies.
    Plain(PathBuf),
    /// Fetched first.
    Copied(Copied),
}

impl Shards {
    /// Opens the shards that `spec` names, or nothing when it names something else.
    pub(super) fn find(spec: &str, split: Split, storage: &Storage) -> Result<Option<Shards>, DataError> {
        let Some(places) = names::find(spec, split)? else { return Ok(None) };
        Shards::open(&places, storage, Patience::default()).map(Some)
    }

    fn open(places: &[Place], storage: &Storage, patience: Patience) -> Result<Shards, DataError> {
        let folder = storage.downloads.clone().unwrap_or_else(cache);
        let copies = Copies::new(folder, storage.download_bytes, Web::new(patience));
        let done = AtomicU64::new(0);
        let shards = all(places, |place| {
            let shard = Shard::open(place, &copies, storage.index.as_deref())?;
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if let Some(opened) = &storage.opened {
                opened(done, places.len() as u64);
            }
            Ok(shard)
        })?;
        let mut firsts = vec![0];
        for shard in &shards {
            firsts.push(firsts.last().unwrap_or(&0) + shard.index.entries.len());
        }
        let shards = Shards { classes: None, shards, firsts, copies, open: Mutex::default() };
        let classes = shards.class_names()?;
        Ok(Shards { classes, ..shards })
    }

    /// Number of samples.
    #[expect(clippy::len_without_is_empty, reason = "shards without samples cannot be opened")]
    pub fn len(&self) -> usize {
        self.firsts[self.shards.len()]
    }

    /// The class of every sample, if every sample has one.
    pub fn labels(&self) -> Option<Vec<u32>> {
        self.shards.iter().flat_map(|shard| &shard.index.entries).map(|entry| entry.label).collect()
    }

    /// Names of the classes, by label: the lines of a `classes.txt` in one of the shards, or beside the first one.
    pub fn classes(&self) -> Option<&[String]> {
        self.classes.as_deref()
    }

    /// Samples without an image; they were passed over.
    pub fn without_image(&self) -> u64 {
        self.shards.iter().map(|shard| shard.index.without_image).sum()
    }

    /// Images that are no samples because another image has the same key. Many of them mean that dots in file names cut keys short.
    pub fn images_beside(&self) -> u64 {
        self.shards.iter().map(|shard| shard.index.beside).sum()
    }

    /// Downloads and unpackings since the data was opened. More than [`Shards::copied`] has shards mean that the limit of downloads made
    /// some go that were needed again.
    pub fn fetched(&self) -> u64 {
        self.copies.fetched()
    }

    /// What identifies each shard and changes when it does.
    pub(super) fn versions(&self) -> Vec<String> {
        let of = |shard: &Shard| match &shard.source {
            Source::Plain(path) | Source::Copied(Copied { origin: Origin::Packed(path), .. }) => {
                version(path, &path.file_name().unwrap_or_default().to_string_lossy())
            }
            Source::Copied(Copied { origin: Origin::Web(_, facts), .. }) => format!("{} {}", shard.name, facts.stamp()),
        };
        self.shards.iter().map(of).collect()
    }

    /// Shards that have to be fetched or unpacked, and the bytes of all their copies together.
    pub fn copied(&self) -> (u64, u64) {
        let copied = self.shards.iter().filter(|shard| matches!(shard.source, Source::Copied(_)));
        copied.fold((0, 0), |(count, bytes), shard| (count + 1, bytes + shard.index.bytes))
    }

    /// Samples of each shard where one of them has to be fetched or unpacked.
    pub(super) fn chunks(&self) -> Vec<usize> {
        if self.shards.iter().all(|shard| matches!(shard.source, Source::Plain(_))) {
            return Vec::new();
        }
        self.shards.iter().map(|shard| shard.index.entries.len()).collect()
    }

    /// What the shards need that are fetched or unpacked; nothing where all are read in their place.
    pub(super) fn space(&self) -> Option<Space> {
        let copied = |shard: &Shard| matches!(shard.source, Source::Copied(_));
        if !self.shards.iter().any(copied) {
            return None;
        }
        let bytes = self.shards.iter().map(|shard| if copied(shard) { shard.index.bytes } else { 0 }).collect();
        let packed = self.shards.iter().filter_map(|shard| match &shard.source {
            Source::Copied(copy) => Some(self.copies.beside(copy)),
            Source::Plain(_) => None,
        });
        let limit = self.copies.limit().map_or(u64::MAX, |limit| limit.saturating_sub(packed.max().unwrap_or(0)));
        Some(Space { bytes, limit })
    }

    /// Makes sure that a shard is there, and that those `beside` are not the ones that go for it.
    pub(super) fn prepare(&self, shard: usize, beside: &[usize], stop: &AtomicBool) {
        for &other in beside {
            if let Shard { source: Source::Copied(copy), index, .. } = &self.shards[other] {
                self.copies.held(copy, index);
            }
        }
        if let Shard { source: Source::Copied(copy), index, .. } = &self.shards[shard] {
            // Whoever reads from it meets the same error.
            let _ = self.copies.open_unless(stop, copy, index);
        }
    }

    pub(super) fn name(&self, index: usize) -> String {
        let (shard, sample) = self.place(index);
        let Shard { name, index, .. } = &self.shards[shard];
        format!("{name}: {}", index.name(sample))
    }

    /// The bytes of an image.
    pub(super) fn read(&self, index: usize) -> Result<Vec<u8>, DataError> {
        let (shard, sample) = self.place(index);
        let Shard { name, source, index } = &self.shards[shard];
        let wrong = |problem| DataError::Shard { shard: name.clone(), problem };
        let file = match source {
            Source::Plain(path) => self.plain(shard, path)?,
            Source::Copied(copy) => Arc::new(self.copies.open(copy, index).map_err(wrong)?),
        };
        let entry = index.entries[sample];
        let mut bytes = vec![0; entry.bytes as usize];
        read_at(&file, &mut bytes, entry.offset).map_err(|error| {
            wrong(format!("{} cannot be read: {error}; if the shard changed, open the data again", index.name(sample)))
        })?;
        Ok(bytes)
    }

    /// Which shard a sample is in, and its number there.
    fn place(&self, index: usize) -> (usize, usize) {
        assert!(index < self.len(), "sample {index} of {}", self.len());
        let shard = self.firsts.partition_point(|&first| first <= index) - 1;
        (shard, index - self.firsts[shard])
    }

    /// The open file of a plain shard.
    fn plain(&self, shard: usize, path: &Path) -> Result<Arc<File>, DataError> {
        // Whatever a thread was doing when it died, the files are open.
        let lock = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut open = lock();
        if let Some(at) = open.iter().position(|(of, _)| *of == shard) {
            let (of, file) = open.remove(at).expect("a position that was found");
            open.push_front((of, Arc::clone(&file)));
            return Ok(file);
        }
        drop(open);
        let file = File::open(path).map_err(|error| DataError::Shard {
            shard: path.display().to_string(),
            problem: format!("cannot be opened any more: {error}"),
        })?;
        let file = Arc::new(file);
        let mut open = lock();
        open.push_front((shard, Arc::clone(&file)));
        open.truncate(OPEN_MAX);
        Ok(file)
    }

    fn class_names(&self) -> Result<Option<Vec<String>>, DataError> {
        let inside = self.shards.iter().find_map(|shard| Some((shard.name.clone(), shard.index.classes.clone()?)));
        let beside = || {
            let path = match &self.shards[0].source {
                Source::Plain(path) | Source::Copied(Copied { origin: Origin::Packed(path), .. }) => path,
                Source::Copied(Copied { origin: Origin::Web(..), .. }) => return None,
            };
            let path = path.with_file_name("classes.txt");
            Some((path.display().to_string(), fs::read_to_string(path).ok()?))
        };
        let Some((place, text)) = inside.or_else(beside) else { return Ok(None) };
        let names: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
        let labels = self.shards.iter().flat_map(|shard| &shard.index.entries).map(|entry| entry.label);
        // Names without labels name nothing.
        let Some(most) = labels.max().flatten().filter(|_| self.labels().is_some()) else { return Ok(None) };
        if most as usize >= names.len() {
            let problem = format!(
                "classes.txt has {} names, and there is a label {most}; one name a line is expected, for label 0 first",
                names.len()
            );
            return Err(DataError::Shard { shard: place, problem });
        }
        Ok(Some(names))
    }
}

impl Shard {
    fn open(place: &Place, copies: &Copies, kept: Option<&Path>) -> Result<Shard, DataError> {
        match place {
            Place::File(path) => Shard::open_file(path, copies, kept),
            Place::Web(address) => {
                let name = names::path_of(address).to_owned();
                let wrong = |problem| DataError::Shard { shard: name.clone(), problem };
                let facts = copies.web().facts(address).map_err(wrong)?;
                let version = Version { of: name.clone(), stamp: facts.stamp() };
                let copy = Copied::new(&version, Origin::Web(address.clone(), facts));
                Shard::copied(name, &version, copy, copies, kept)
            }
        }
    }

    fn open_file(path: &Path, copies: &Copies, kept: Option<&Path>) -> Result<Shard, DataError> {
        let io = |source| DataError::Io { path: path.to_owned(), source };
        let name = path.display().to_string();
        let metadata = fs::metadata(path).map_err(io)?;
        if !metadata.is_file() {
            let problem = "is no regular file; a shard is read at many places, copy it into one".into();
            return Err(DataError::Shard { shard: name, problem });
        }
        let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let stamp = format!("{} {}", metadata.len(), changed.unwrap_or_default().as_nanos());
        let real = fs::canonicalize(path).map_err(io)?;
        let version = Version { of: real.to_string_lossy().into_owned(), stamp };

        let mut first = [0; 2];
        tape::fill(&mut File::open(path).map_err(io)?, &mut first).map_err(io)?;
        if web::is_gzip(&first) {
            let copy = Copied::new(&version, Origin::Packed(path.to_owned()));
            return Shard::copied(name, &version, copy, copies, kept);
        }
        let index = match kept.and_then(|folder| version.load(folder)) {
            Some(index) => index,
            None => {
                let index = Index::of(File::open(path).map_err(io)?);
                let index = index.map_err(|problem| DataError::Shard { shard: name.clone(), problem })?;
                kept.map_or(Ok(()), |folder| version.keep(&index, folder))?;
                index
            }
        };
        Ok(Shard { name, source: Source::Plain(path.to_owned()), index })
    }

    /// One that is fetched, now if it is not known what it holds.
    fn copied(
        name: String,
        version: &Version,
        copy: Copied,
        copies: &Copies,
        kept: Option<&Path>,
    ) -> Result<Shard, DataError> {
        let folder = kept.unwrap_or(copies.folder());
        let index = match version.load(folder) {
            Some(index) => index,
            None => {
                let index = copies.index(&copy);
                let index = index.map_err(|problem| DataError::Shard { shard: name.clone(), problem })?;
                version.keep(&index, folder)?;
                index
            }
        };
        Ok(Shard { name, source: Source::Copied(copy), index })
    }
}

/// Opens all shards on several threads. Of several errors that of the first shard that was met is told.
fn all(places: &[Place], open: impl Fn(&Place) -> Result<Shard, DataError> + Sync) -> Result<Vec<Shard>, DataError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let far = places.iter().any(|place| matches!(place, Place::Web(_)));
    let threads = if far { cores.max(DOWNLOADS) } else { cores }.min(places.len());
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || {
        let mut opened = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(place) = places.get(number) else { break };
            let shard = open(place);
            failed.fetch_or(shard.is_err(), Ordering::Relaxed);
            opened.push((number, shard));
        }
        opened
    };
    let mut opened = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let done = threads.into_iter().flat_map(|thread| match thread.join() {
            Ok(opened) => opened,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        done.collect::<Vec<_>>()
    });
    opened.sort_by_key(|(number, _)| *number);
    opened.into_iter().map(|(_, shard)| shard).collect()
}

/// The user's cache: `$XDG_CACHE_HOME/ijepa/shards`, else `~/.cache/ijepa/shards`.
fn cache() -> PathBuf {
    let given = std::env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    given.unwrap_or_else(|| std::env::home_dir().unwrap_or_default().join(".cache")).join("ijepa").join("shards")
}

#[cfg(unix)]
fn read_at(file: &File, out: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(windows)]
fn read_at(file: &File, mut out: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !out.is_empty() {
        let count = std::os::windows::fs::FileExt::seek_read(file, out, offset)?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        out = &mut out[count..];
        offset += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
