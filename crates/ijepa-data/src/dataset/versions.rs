//! Is this the data that it was? Everything that changes when a picture changes, without reading a picture.
//!
//! Of files their names, sizes and times of change; of shards at an address what the server says of them; of scenes what they are drawn
//! from. Names are relative where a data set has them so, so that a folder may be moved. What is computed from pictures can be kept
//! under a hash of this.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rayon::prelude::*;

use super::{Dataset, Split};

/// Counts up when scenes are drawn differently.
const SCENES: u64 = 1;

impl Dataset {
    /// Hands over what identifies the pictures and their order, in pieces, always the same for the same data.
    pub fn versions(&self, mut piece: impl FnMut(&[u8])) {
        let mut text = |text: String| {
            piece(text.as_bytes());
            piece(b"\n");
        };
        match self {
            Dataset::Files(files) => {
                text(format!("files {}", files.len()));
                let of = |index: usize| version(&files.path(index), &files.name(index));
                (0..files.len()).into_par_iter().map(of).collect::<Vec<_>>().into_iter().for_each(text);
            }
            Dataset::Shards(shards) => shards.versions().into_iter().for_each(text),
            Dataset::Parquet(parquet) => parquet.files().iter().map(|path| named(path)).for_each(text),
            Dataset::Arrays(arrays) => arrays.files().into_iter().map(|path| named(&path)).for_each(text),
            Dataset::Tensors(tensors) => text(named(tensors.path())),
            Dataset::Scenes(scenes) => {
                let split = match scenes.split() {
                    Split::Train => "train",
                    Split::Val => "val",
                };
                text(format!("scenes {SCENES} {} {split} {}", scenes.len(), scenes.seed()));
            }
        }
    }
}

/// A file by its last name.
fn named(path: &Path) -> String {
    version(path, &path.file_name().map(PathBuf::from).unwrap_or_default().display().to_string())
}

/// Size and time of change of what lies at `path`, under `name`.
pub(super) fn version(path: &Path, name: &str) -> String {
    let Ok(metadata) = fs::metadata(path) else { return format!("{name} missing") };
    let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    format!("{name} {} {}", metadata.len(), changed.unwrap_or_default().as_nanos())
}
