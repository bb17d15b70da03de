//! Has this tree been listed before, and is the list still right?
//!
//! A list is kept in one `.safetensors` file for each root. It is right while every folder still has the times that it had: those move
//! when an entry comes, goes or is renamed. Links that led nowhere are tried again. A list that is damaged, of another version or no
//! longer right is as good as none. What it does not notice: a file that becomes a folder behind an unchanged link.
//!
//! An entry may come within the same tick of the file system's clock in which the folder was read; so no list is kept while any
//! folder is younger than [`YOUNG`], by the clock of this machine.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crc32c::{crc32c, crc32c_append};
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorView};

use super::paths::{Paths, as_bytes, as_path};
use super::walk::{Found, Stamp, nanoseconds, readers};

/// Of what is kept and of the rules by which images are found: a list of another version counts for nothing.
const VERSION: &str = "1";

/// Nanoseconds: FAT keeps times of modification to 2 s, all others are finer.
const YOUNG: i64 = 2_000_000_000;

/// Longest header that is read, in bytes; a whole one has about 800.
const HEADER_BYTES_MAX: u64 = 64 << 10;

/// The order in which the checksum goes over them.
const NAMES: [&str; 8] = [
    "root",
    "images",
    "image_ends",
    "folders",
    "folder_ends",
    "folder_times", // (folders, 2): modified, changed
    "broken_links",
    "broken_link_ends",
];

/// The list of the tree at `root`, when it is in `store` and still right.
pub(super) fn read(store: &Path, root: &Path) -> Option<Found> {
    let root = fs::canonicalize(root).ok()?;
    let found = load(&file_of(store, &root)?, &root)?;
    let unchanged = |number: usize| {
        let folder = as_path(found.folders.get(number)).map(|folder| root.join(folder));
        folder.and_then(|folder| Stamp::of(&folder).ok()) == Some(found.stamps[number])
    };
    let broken = |number: usize| {
        as_path(found.broken_links.get(number)).is_some_and(|link| fs::metadata(root.join(link)).is_err())
    };
    let right = readers(&root).ok()?.install(|| {
        (0..found.folders.len()).into_par_iter().all(unchanged)
            && (0..found.broken_links.len()).into_par_iter().all(broken)
    });
    right.then_some(found)
}

/// Keeps what was found under `root` in `store`; `false` when that is too young to be kept, at this time.
pub(super) fn write(store: &Path, root: &Path, found: &Found, now: SystemTime) -> io::Result<bool> {
    let young = nanoseconds(now).saturating_sub(YOUNG);
    if found.stamps.iter().any(|stamp| stamp.latest() > young) {
        return Ok(false);
    }
    let root = fs::canonicalize(root)?;
    let unnameable = || io::Error::other("the folder's name is not Unicode");
    let path = file_of(store, &root).ok_or_else(unnameable)?;
    fs::create_dir_all(store)?;
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let own = format!("{}-{}.partial", std::process::id(), WRITTEN.fetch_add(1, Ordering::Relaxed));
    let partial = path.with_extension(own);
    let written = save(&partial, &root, found).and_then(|()| fs::rename(&partial, &path));
    if written.is_err() {
        // What went wrong is reported; a leftover does no harm.
        let _ = fs::remove_file(&partial);
    }
    written.map(|()| true)
}

/// Named by a checksum of the root. Two roots may share a name: then each finds the other's list, which says so, and makes its own.
fn file_of(store: &Path, root: &Path) -> Option<PathBuf> {
    Some(store.join(format!("images-{:08x}.safetensors", crc32c(as_bytes(root.as_os_str())?))))
}

fn checksum<'a>(tensors: impl IntoIterator<Item = &'a [u8]>) -> String {
    format!("{:08x}", tensors.into_iter().fold(0, crc32c_append))
}

pub(super) fn save(path: &Path, root: &Path, found: &Found) -> io::Result<()> {
    let root = as_bytes(root.as_os_str()).unwrap_or_default();
    let ends = |paths: &Paths| paths.ends().iter().flat_map(|end| end.to_le_bytes()).collect::<Vec<u8>>();
    let (image_ends, folder_ends, link_ends) = (ends(&found.images), ends(&found.folders), ends(&found.broken_links));
    let times = found.stamps.iter().flat_map(|stamp| [stamp.modified, stamp.changed]);
    let times: Vec<u8> = times.flat_map(i64::to_le_bytes).collect();
    let data: [(Dtype, &[u8]); NAMES.len()] = [
        (Dtype::U8, root),
        (Dtype::U8, found.images.bytes()),
        (Dtype::U64, &image_ends),
        (Dtype::U8, found.folders.bytes()),
        (Dtype::U64, &folder_ends),
        (Dtype::I64, &times),
        (Dtype::U8, found.broken_links.bytes()),
        (Dtype::U64, &link_ends),
    ];
    let metadata = HashMap::from([
        ("format".to_owned(), "images of a folder".to_owned()),
        ("version".to_owned(), VERSION.to_owned()),
        ("checksum".to_owned(), checksum(data.iter().map(|(_, bytes)| *bytes))),
    ]);
    let mut tensors = Vec::with_capacity(NAMES.len());
    for (name, (dtype, bytes)) in NAMES.into_iter().zip(data) {
        let len = bytes.len() / (dtype.bitsize() / 8);
        let shape = if name == "folder_times" { vec![len / 2, 2] } else { vec![len] };
        tensors.push((name, TensorView::new(dtype, shape, bytes).map_err(io::Error::other)?));
    }
    safetensors::serialize_to_file(tensors, Some(metadata), path).map_err(io::Error::other)?;
    File::options().write(true).open(path)?.sync_all()
}

/// What the file at `path` keeps, when it is whole and about `root`.
pub(super) fn load(path: &Path, root: &Path) -> Option<Found> {
    let mut file = File::open(path).ok()?;
    let file_bytes = file.metadata().ok().filter(fs::Metadata::is_file)?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let header_bytes = u64::from_le_bytes(length);
    if header_bytes > HEADER_BYTES_MAX || header_bytes > file_bytes - 8 {
        return None;
    }
    let mut header = vec![0; header_bytes as usize];
    file.read_exact(&mut header).ok()?;
    // Parsing makes sure that the tensors follow one upon the other from 0, each as long as its shape says.
    let metadata: Metadata = serde_json::from_slice(&header).ok()?;
    let notes = metadata.metadata().as_ref()?;
    if metadata.data_len() as u64 != file_bytes - 8 - header_bytes || notes.get("version")? != VERSION {
        return None;
    }
    let mut tensors: HashMap<String, Vec<u8>> = HashMap::new();
    for name in metadata.offset_keys() {
        let (start, end) = metadata.info(&name)?.data_offsets;
        let mut bytes = vec![0; end - start];
        file.read_exact(&mut bytes).ok()?;
        tensors.insert(name, bytes);
    }
    let parts: Vec<&[u8]> = NAMES.iter().map(|&name| tensors.get(name).map(Vec::as_slice)).collect::<Option<_>>()?;
    if *notes.get("checksum")? != checksum(parts) || tensors.get("root")? != as_bytes(root.as_os_str())? {
        return None;
    }
    let mut paths = |name: &str, ends: &str| {
        let ends = tensors.remove(ends)?.chunks_exact(8).map(number).map(|end| end as u64).collect();
        Paths::from_parts(tensors.remove(name)?, ends)
    };
    let (images, folders) = (paths("images", "image_ends")?, paths("folders", "folder_ends")?);
    let broken_links = paths("broken_links", "broken_link_ends")?;
    let stamp = |bytes: &[u8]| Stamp { modified: number(&bytes[..8]), changed: number(&bytes[8..]) };
    let stamps: Vec<Stamp> = tensors.get("folder_times")?.chunks_exact(16).map(stamp).collect();
    (stamps.len() == folders.len()).then_some(Found { images, folders, stamps, broken_links, other_files: 0 })
}

fn number(bytes: &[u8]) -> i64 {
    i64::from_le_bytes(bytes.try_into().expect("a chunk has 8 bytes"))
}
