//! Where do shards lie that cannot be read where they are? As plain tars in a folder, each fetched once, within a limit.
//!
//! A copy's name holds a hash of the shard's address and version, so folders may be shared by data sets, runs and processes, and a
//! shard that changed is another one. Threads of a process wait for each other's fetches, processes too where the file system has
//! locks. When a fetch needs room, the copies that were read longest ago are removed; a reader that has one open keeps it until it
//! is done, on Unix and on Windows alike. What is under way counts towards the limit from the moment it is begun; what other
//! processes and other data sets of this one have under way comes on top.
//!
//! No two fetches can wait for each other: a download asks for all of its room before it begins, and of those that learn their
//! size only while they unpack, one is at work at a time.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use flate2::read::MultiGzDecoder;

use super::index::Version;
use super::samples::Index;
use super::tape::{self, Tape};
use super::web::{Facts, Web};

/// Lock files, shared by all copies of a folder, so that they do not become as many as the shards.
const LOCKS: u64 = 64;
/// How long a failed fetch speaks for those who wait for the same shard.
const FAILURE_HOLDS: Duration = Duration::from_secs(10);
/// Most room that unpacking asks for at a time.
const STEP: u64 = 16 << 20;
/// Age from which an unfinished download of nobody's is taken for abandoned.
const ABANDONED: Duration = Duration::from_secs(3600);
/// Longest wait for other fetches before the folder is looked at again: other processes do not wake us.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The folder of the copies.
#[derive(Debug)]
pub(super) struct Copies {
    folder: PathBuf,
    limit: Option<u64>,
    web: Web,
    /// Bytes promised to fetches that are under way.
    promised: Mutex<u64>,
    freed: Condvar,
    /// Held by the one that unpacks within a limit.
    unpacking: Mutex<()>,
    fetched: AtomicU64,
}

/// A shard that has to be fetched or unpacked.
#[derive(Debug)]
pub(super) struct Copied {
    name: String,
    pub(super) origin: Origin,
    /// Held by the one that fetches; the last failure.
    fetching: Mutex<Option<(Instant, String)>>,
}

/// Where a copy comes from.
#[derive(Debug)]
pub(super) enum Origin {
    /// A file packed with gzip.
    Packed(PathBuf),
    /// An address.
    Web(String, Facts),
}

impl Copied {
    /// The copy of `version`.
    pub(super) fn new(version: &Version, origin: Origin) -> Copied {
        let base = version.of.rsplit(['/', '\\']).next().unwrap_or_default();
        let base = base.split(['?', '#']).next().unwrap_or_default();
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
        let stem: String = base.split('.').next().unwrap_or_default().chars().filter(|&c| plain(c)).take(64).collect();
        Copied { name: format!("{}-{stem}", version.name()), origin, fetching: Mutex::new(None) }
    }
}

/// A lock that guards nothing which a panic could leave half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Copies {
    pub(super) fn new(folder: PathBuf, limit: Option<u64>, web: Web) -> Copies {
        let (promised, freed, unpacking) = (Mutex::new(0), Condvar::new(), Mutex::new(()));
        Copies { folder, limit, web, promised, freed, unpacking, fetched: AtomicU64::new(0) }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn web(&self) -> &Web {
        &self.web
    }

    /// Most bytes that are kept.
    pub(super) fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Bytes that are needed beside a copy while it is fetched.
    pub(super) fn beside(&self, copy: &Copied) -> u64 {
        let step = self.limit.map_or(0, in_advance);
        match &copy.origin {
            Origin::Packed(_) => step,
            Origin::Web(_, facts) if facts.gzip => facts.bytes + step,
            Origin::Web(..) => 0,
        }
    }

    /// Fetches until now.
    pub(super) fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// What a shard holds, from the copy that is there or from a new one.
    pub(super) fn index(&self, copy: &Copied) -> Result<Index, String> {
        let alone = lock(&copy.fetching);
        if let Ok(file) = File::open(self.whole(copy)) {
            touch(&file);
            if let Ok(index) = Index::of(file) {
                return Ok(index);
            }
            // Damaged since it was fetched.
            let _ = fs::remove_file(self.whole(copy));
        }
        let fetched = self.fetch(&NEVER, copy, None).map(|(_, index)| index);
        drop(alone);
        fetched
    }

    /// An open copy of a shard that holds what `expected` says.
    pub(super) fn open(&self, copy: &Copied, expected: &Index) -> Result<File, String> {
        self.open_unless(&NEVER, copy, expected)
    }

    /// As [`Copies::open`]; soon after `stop` is set it is an error instead, and what has come so far is taken up again the next time.
    pub(super) fn open_unless(&self, stop: &AtomicBool, copy: &Copied, expected: &Index) -> Result<File, String> {
        if let Some(file) = self.held(copy, expected) {
            return Ok(file);
        }
        let mut failure = lock(&copy.fetching);
        if let Some(file) = self.held(copy, expected) {
            return Ok(file);
        }
        if let Some((_, problem)) = failure.as_ref().filter(|(at, _)| at.elapsed() < FAILURE_HOLDS) {
            return Err(problem.clone());
        }
        let fetched = self.fetch(stop, copy, Some(expected)).map(|(file, _)| file);
        // Stopped is not failed.
        if !stop.load(Ordering::Relaxed) {
            *failure = fetched.as_ref().err().map(|problem| (Instant::now(), problem.clone()));
        }
        fetched
    }

    fn whole(&self, copy: &Copied) -> PathBuf {
        self.folder.join(format!("{}.tar", copy.name))
    }

    /// The copy if it is there, marked as read now.
    pub(super) fn held(&self, copy: &Copied, expected: &Index) -> Option<File> {
        let file = File::open(self.whole(copy)).ok()?;
        if file.metadata().ok()?.len() != expected.bytes {
            return None;
        }
        touch(&file);
        Some(file)
    }

    fn fetch(&self, stop: &AtomicBool, copy: &Copied, expected: Option<&Index>) -> Result<(File, Index), String> {
        go_on(stop)?;
        let folder = &self.folder;
        let unwritable =
            |error: io::Error| format!("cannot write to {}: {error}; give another folder", folder.display());
        fs::create_dir_all(folder).map_err(unwritable)?;
        let _between_processes = self.process_lock(copy);
        let whole = self.whole(copy);
        // Another process may have been quicker.
        if let Ok(file) = File::open(&whole)
            && let Ok(index) = Index::of(file)
            && expected.is_none_or(|expected| *expected == index)
            && let Ok(file) = File::open(&whole)
        {
            return Ok((file, index));
        }
        let part = folder.join(format!("{}.part", copy.name));
        let mut room = Room { copies: self, bytes: 0, stop };
        let index = self.fetch_part(copy, &part, &mut room).and_then(|index| match expected {
            Some(expected) if *expected != index => Err(CHANGED.into()),
            _ => Ok(index),
        });
        let index = match (index, &copy.origin) {
            (Ok(index), _) => index,
            // What came of a download is taken up again; the rest is of no use.
            (Err(problem), Origin::Web(..)) if problem != CHANGED => return Err(problem),
            (Err(problem), _) => {
                let _ = fs::remove_file(&part);
                return Err(problem);
            }
        };
        // Opened before it gets its name: from then on it may be removed again.
        let file = File::open(&part).map_err(unwritable)?;
        touch(&file);
        fs::rename(&part, &whole).map_err(unwritable)?;
        self.fetched.fetch_add(1, Ordering::Relaxed);
        Ok((file, index))
    }

    /// Makes the plain tar at `part`.
    fn fetch_part(&self, copy: &Copied, part: &Path, room: &mut Room) -> Result<Index, String> {
        let unreadable = |path: &Path, error| format!("{} cannot be read: {error}", path.display());
        match &copy.origin {
            Origin::Packed(path) => {
                let _alone = self.limit.map(|_| lock(&self.unpacking));
                unpack(File::open(path).map_err(|error| unreadable(path, error))?, part, room)
            }
            Origin::Web(address, facts) if facts.gzip => {
                let _alone = self.limit.map(|_| lock(&self.unpacking));
                room.grow(facts.bytes)?;
                let packed = part.with_extension("gz.part");
                self.web.download(room.stop, address, facts, &packed)?;
                let unpacked = unpack(File::open(&packed).map_err(|error| unreadable(&packed, error))?, part, room);
                let _ = fs::remove_file(&packed);
                if unpacked.is_err() {
                    let _ = fs::remove_file(part);
                }
                unpacked
            }
            Origin::Web(address, facts) => {
                room.grow(facts.bytes)?;
                self.web.download(room.stop, address, facts, part)?;
                let index = Index::of(File::open(part).map_err(|error| unreadable(part, error))?);
                if index.is_err() {
                    let _ = fs::remove_file(part);
                }
                index
            }
        }
    }

    /// Held while a copy is fetched, so that no other process fetches it too. Without locks in the file system two of them do the
    /// work twice, and the second rename replaces the first.
    fn process_lock(&self, copy: &Copied) -> Option<File> {
        let number = copy.name.bytes().fold(0, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % LOCKS;
        let file = File::create(self.folder.join(format!("lock-{number:02}"))).ok()?;
        file.lock().ok().map(|()| file)
    }

    /// Removes the copies that were read longest ago until at most `most` bytes of them are left; how many are left.
    fn shrink(&self, most: u64) -> Result<u64, String> {
        let mut copies = BTreeSet::new();
        let mut held = 0;
        let unreadable = |error| format!("{} cannot be read: {error}", self.folder.display());
        for entry in fs::read_dir(&self.folder).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let Some(ending) = ours(&path) else { continue };
            // Another process may just have removed it.
            let Ok(metadata) = path.metadata() else { continue };
            let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            if ending == "tar" {
                held += metadata.len();
                copies.insert((used, path, metadata.len()));
            } else if used.elapsed().is_ok_and(|age| age > ABANDONED) {
                let _ = fs::remove_file(path);
            }
        }
        for (_, path, bytes) in copies {
            if held <= most {
                break;
            }
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(format!("{} cannot be removed to make room: {error}", path.display()));
                }
                _ => held -= bytes,
            }
        }
        Ok(held)
    }
}

/// For those who need what they fetch.
pub(super) static NEVER: AtomicBool = AtomicBool::new(false);

/// An error when `stop` is set.
pub(super) fn go_on(stop: &AtomicBool) -> Result<(), String> {
    if stop.load(Ordering::Relaxed) { Err("nobody waits for it any more".into()) } else { Ok(()) }
}

/// Room that unpacking asks for at a time.
fn in_advance(limit: u64) -> u64 {
    STEP.min(limit / 64)
}

const CHANGED: &str = "holds something else than when the data was opened; open it again";

/// The ending of a file whose name is one that copies have: 32 digits before the first dash. Nothing else is ever removed.
fn ours(path: &Path) -> Option<&str> {
    let (digits, rest) = path.file_name()?.to_str()?.split_once('-')?;
    let hash = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let (_, ending) = rest.split_once('.')?;
    (hash && ["tar", "part", "gz.part"].contains(&ending)).then_some(ending)
}

/// Marks a copy as read now. That of another user cannot be marked, and goes earlier.
fn touch(file: &File) {
    let _ = file.set_modified(SystemTime::now());
}

/// Room that a fetch was promised; given back when it ends.
struct Room<'c> {
    copies: &'c Copies,
    bytes: u64,
    stop: &'c AtomicBool,
}

impl Room<'_> {
    /// Takes more room, waiting for other fetches where they have what is left beside the copies.
    fn grow(&mut self, more: u64) -> Result<(), String> {
        let Some(limit) = self.copies.limit else { return Ok(()) };
        let needed = self.bytes.saturating_add(more);
        if needed > limit {
            return Err(format!(
                "needs {needed} bytes or more at a time, the limit of downloads is {limit}; raise the limit, or make smaller shards"
            ));
        }
        let mut promised = lock(&self.copies.promised);
        loop {
            let left = limit.checked_sub(*promised + more);
            // Copies are removed only where that is enough.
            if let Some(left) = left
                && self.copies.shrink(left)? <= left
            {
                *promised += more;
                self.bytes = needed;
                return Ok(());
            }
            go_on(self.stop)?;
            let woken = self.copies.freed.wait_timeout(promised, LOOK_AGAIN);
            promised = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes `needed` bytes and some in advance, where the limit allows it; the number taken.
    fn grow_by_a_step(&mut self, needed: u64) -> Result<u64, String> {
        let limit = self.copies.limit.unwrap_or(u64::MAX);
        let step = needed.max(in_advance(limit).min(limit - self.bytes));
        self.grow(step).map(|()| step)
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        *lock(&self.copies.promised) -= self.bytes;
        self.copies.freed.notify_all();
    }
}

/// Unpacks a shard, and reads on the way what it holds: one that is no shard, or claims too much, is not unpacked to its end.
fn unpack(packed: File, part: &Path, room: &mut Room) -> Result<Index, String> {
    let unwritable = |error| format!("cannot write {}: {error}; make room or give another folder", part.display());
    let out = BufWriter::new(File::create(part).map_err(unwritable)?);
    let packed = MultiGzDecoder::new(BufReader::new(packed));
    let tape = Unpacking { packed, out, room, left: 0 };
    let (index, tape) = Index::read(tape)?;
    let file = tape.out.into_inner().map_err(|error| unwritable(error.into_error()))?;
    file.sync_all().map_err(unwritable)?;
    Ok(index)
}

/// A packed tar that is written to a file while it is read.
struct Unpacking<'r, 'c, R> {
    packed: R,
    out: BufWriter<File>,
    room: &'r mut Room<'c>,
    /// Bytes of the room that are still free.
    left: u64,
}

impl<R: Read> Tape for Unpacking<'_, '_, R> {
    fn fill(&mut self, out: &mut [u8]) -> io::Result<usize> {
        go_on(self.room.stop).map_err(io::Error::other)?;
        let count = tape::fill(&mut self.packed, out)?;
        if self.left < count as u64 {
            self.left += self.room.grow_by_a_step(count as u64 - self.left).map_err(io::Error::other)?;
        }
        self.left -= count as u64;
        self.out.write_all(&out[..count])?;
        Ok(count)
    }

    fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        let mut chunk = [0; 1 << 15];
        let mut passed = 0;
        while passed < bytes {
            let wanted = (bytes - passed).min(chunk.len() as u64) as usize;
            let count = self.fill(&mut chunk[..wanted])?;
            passed += count as u64;
            if count < wanted {
                break;
            }
        }
        Ok(passed)
    }

    fn streams(&self) -> bool {
        true
    }
}
