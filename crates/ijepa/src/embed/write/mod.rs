//! How do features reach a file that other tools read?
//!
//! Batches are written as they come, so that a set larger than memory can be embedded. A file appears under its name when it is
//! complete, not before.
//!
//! | ending | pooled (n,d) f32 | tokens (n,l,d) f32 | labels (n) i64 | paths |
//! |---|---|---|---|---|
//! | `.npy` | F.npy | F.tokens.npy | F.labels.npy | F.paths.txt |
//! | `.safetensors` | `pooled` | `tokens` | `labels` | F.paths.txt |
//! | `.parquet` | column `pooled`, a list | column `tokens`, a list of lists | column `label` | column `path` |

pub(crate) mod npy;
mod parquet;
mod partial;
mod safetensors;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::exit::Failure;

/// What every batch has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Width of a pooled feature, d.
    pub(crate) width: usize,
    /// Tokens of an image and their width, (l, d), where tokens are written.
    pub(crate) tokens: Option<(usize, usize)>,
    /// Whether images have labels.
    pub(crate) labelled: bool,
}

/// Features of some images, in the order of the data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch<'b> {
    /// Names of the images; their number is b.
    pub(crate) paths: &'b [String],
    /// Labels, (b) where the layout is labelled, else empty.
    pub(crate) labels: &'b [i64],
    /// Pooled features, (b, d).
    pub(crate) pooled: &'b [f32],
    /// Tokens, (b, l, d) where the layout has them, else empty.
    pub(crate) tokens: &'b [f32],
}

/// An open file of embeddings.
pub(crate) enum Writer {
    /// NumPy arrays.
    Npy(npy::Npy),
    /// One safetensors file.
    Safetensors(safetensors::Safetensors),
    /// One Parquet file.
    Parquet(parquet::Parquet),
}

/// Opens `path` by its ending.
pub(crate) fn create(path: &Path, layout: Layout) -> Result<Writer> {
    let open = || -> Result<Writer> {
        Ok(match path.extension().and_then(|ending| ending.to_str()) {
            Some("npy") => Writer::Npy(npy::Npy::create(path, layout)?),
            Some("safetensors") => Writer::Safetensors(safetensors::Safetensors::create(path, layout)?),
            Some("parquet") => Writer::Parquet(parquet::Parquet::create(path, layout)?),
            _ => return Err(Failure::usage("expected a name that ends in .npy, .safetensors or .parquet").into()),
        })
    };
    open().with_context(|| format!("cannot write embeddings to {}", path.display()))
}

impl Writer {
    /// Appends a batch.
    pub(crate) fn write(&mut self, layout: Layout, batch: Batch<'_>) -> Result<()> {
        let images = batch.paths.len();
        let tokens = layout.tokens.map_or(0, |(tokens, width)| tokens * width);
        assert_eq!(batch.pooled.len(), images * layout.width, "pooled is (b, d)");
        assert_eq!(batch.tokens.len(), images * tokens, "tokens are (b, l, d)");
        assert_eq!(batch.labels.len(), if layout.labelled { images } else { 0 }, "labels are (b)");
        match self {
            Writer::Npy(npy) => npy.write(batch),
            Writer::Safetensors(safetensors) => safetensors.write(batch),
            Writer::Parquet(parquet) => parquet.write(batch),
        }
        .context("cannot write embeddings")
    }

    /// Completes the files and says which they are.
    pub(crate) fn finish(self) -> Result<Vec<PathBuf>> {
        match self {
            Writer::Npy(npy) => npy.finish(),
            Writer::Safetensors(safetensors) => safetensors.finish(),
            Writer::Parquet(parquet) => parquet.finish(),
        }
        .context("cannot complete the embeddings")
    }
}

/// One line an image; a line break in a name is written `\n`.
fn path_lines(paths: &[String]) -> String {
    paths.iter().map(|path| path.replace('\n', "\\n") + "\n").collect()
}

/// f32 as little-endian bytes.
fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// i64 as little-endian bytes.
fn i64_bytes(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests;
