//! NumPy's array format, version 1.0: `\x93NUMPY`, version, length of the header (u16), a Python dictionary padded with
//! spaces to a multiple of 64 bytes, then the values. The header holds the number of rows, which is known at the end: its place is
//! kept free and filled in last.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::partial::Partial;
use super::{Batch, Layout, f32_bytes, i64_bytes, path_lines};

/// Magic, version, length and dictionary: room for three dimensions of 20 digits.
pub(crate) const HEADER: usize = 192;

/// Endings of the files beside F.npy, instead of its own.
const TOKENS: &str = "tokens.npy";
const LABELS: &str = "labels.npy";

/// `.npy` files side by side.
pub(crate) struct Npy {
    pooled: Partial,
    tokens: Option<Partial>,
    labels: Option<Partial>,
    paths: Partial,
    path: PathBuf,
    layout: Layout,
    rows: usize,
}

impl Npy {
    pub(super) fn create(path: &Path, layout: Layout) -> Result<Npy> {
        let array = |path: &Path| -> Result<Partial> {
            let mut file = Partial::create(path)?;
            file.write_all(&[0; HEADER])?;
            Ok(file)
        };
        Ok(Npy {
            pooled: array(path)?,
            tokens: layout.tokens.map(|_| array(&path.with_extension(TOKENS))).transpose()?,
            labels: layout.labelled.then(|| array(&path.with_extension(LABELS))).transpose()?,
            paths: Partial::create(&path.with_extension("paths.txt"))?,
            path: path.to_owned(),
            layout,
            rows: 0,
        })
    }

    pub(super) fn write(&mut self, batch: Batch<'_>) -> Result<()> {
        self.pooled.write_all(&f32_bytes(batch.pooled))?;
        if let Some(tokens) = &mut self.tokens {
            tokens.write_all(&f32_bytes(batch.tokens))?;
        }
        if let Some(labels) = &mut self.labels {
            labels.write_all(&i64_bytes(batch.labels))?;
        }
        self.paths.write_all(path_lines(batch.paths).as_bytes())?;
        self.rows += batch.paths.len();
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Vec<PathBuf>> {
        // What an earlier call left beside these must not be taken for theirs.
        for (written, ending) in [(self.tokens.is_some(), TOKENS), (self.labels.is_some(), LABELS)] {
            let stale = self.path.with_extension(ending);
            if !written && stale.exists() {
                std::fs::remove_file(&stale).with_context(|| format!("cannot remove {}", stale.display()))?;
            }
        }
        let rows = self.rows;
        let complete = |mut file: Partial, dtype: &str, shape: &[usize]| -> Result<PathBuf> {
            file.rewound()?.write_all(&header(dtype, shape))?;
            Ok(file.finish()?)
        };
        let mut files = vec![complete(self.pooled, "<f4", &[rows, self.layout.width])?];
        if let (Some(tokens), Some((count, width))) = (self.tokens, self.layout.tokens) {
            files.push(complete(tokens, "<f4", &[rows, count, width])?);
        }
        if let Some(labels) = self.labels {
            files.push(complete(labels, "<i8", &[rows])?);
        }
        files.push(self.paths.finish()?);
        Ok(files)
    }
}

/// The header of an array; the values of `dtype` follow, row after row.
pub(crate) fn header(dtype: &str, shape: &[usize]) -> [u8; HEADER] {
    // A tuple of one has a comma in Python.
    let shape: String = shape.iter().map(|extent| format!("{extent},")).collect();
    let dictionary = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({shape}), }}");
    let mut header = [b' '; HEADER];
    header[..8].copy_from_slice(b"\x93NUMPY\x01\x00");
    header[8..10].copy_from_slice(&((HEADER - 10) as u16).to_le_bytes());
    header[10..10 + dictionary.len()].copy_from_slice(dictionary.as_bytes());
    header[HEADER - 1] = b'\n';
    header
}
