//! One safetensors file: length of the header (u64), the header as JSON, then the tensors one after the other. Sizes are known at the
//! end, so each tensor is collected in a file of its own and copied behind the header then.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::partial::Partial;
use super::{Batch, Layout, f32_bytes, i64_bytes, path_lines};

/// A tensor in the making.
struct Tensor {
    name: &'static str,
    dtype: &'static str,
    /// Extents of a row.
    row: Vec<usize>,
    bytes: u64,
    values: Partial,
}

/// A safetensors file in the making.
pub(crate) struct Safetensors {
    file: Partial,
    /// Eight-byte values first, so that every tensor is aligned.
    tensors: Vec<Tensor>,
    paths: Partial,
    rows: usize,
}

impl Safetensors {
    pub(super) fn create(path: &Path, layout: Layout) -> Result<Safetensors> {
        let mut tensors = Vec::new();
        let mut tensor = |name, dtype, row| -> Result<()> {
            let values = Partial::create(&path.with_extension(format!("{name}.bytes")))?;
            tensors.push(Tensor { name, dtype, row, bytes: 0, values });
            Ok(())
        };
        if layout.labelled {
            tensor("labels", "I64", vec![])?;
        }
        tensor("pooled", "F32", vec![layout.width])?;
        if let Some((count, width)) = layout.tokens {
            tensor("tokens", "F32", vec![count, width])?;
        }
        Ok(Safetensors {
            file: Partial::create(path)?,
            tensors,
            paths: Partial::create(&path.with_extension("paths.txt"))?,
            rows: 0,
        })
    }

    pub(super) fn write(&mut self, batch: Batch<'_>) -> Result<()> {
        for tensor in &mut self.tensors {
            let bytes = match tensor.name {
                "labels" => i64_bytes(batch.labels),
                "pooled" => f32_bytes(batch.pooled),
                _ => f32_bytes(batch.tokens),
            };
            tensor.values.write_all(&bytes)?;
            tensor.bytes += bytes.len() as u64;
        }
        self.paths.write_all(path_lines(batch.paths).as_bytes())?;
        self.rows += batch.paths.len();
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Vec<PathBuf>> {
        let mut header = serde_json::Map::new();
        header.insert("__metadata__".into(), serde_json::json!({ "format": "pt" }));
        let mut offset = 0;
        for tensor in &self.tensors {
            let shape: Vec<usize> = std::iter::once(self.rows).chain(tensor.row.iter().copied()).collect();
            let entry = serde_json::json!({ "dtype": tensor.dtype, "shape": shape, "data_offsets": [offset, offset + tensor.bytes] });
            header.insert(tensor.name.into(), entry);
            offset += tensor.bytes;
        }
        let mut header = serde_json::to_vec(&header)?;
        header.resize(header.len().next_multiple_of(8), b' ');
        self.file.write_all(&(header.len() as u64).to_le_bytes())?;
        self.file.write_all(&header)?;
        for tensor in &mut self.tensors {
            io::copy(tensor.values.rewound()?, &mut self.file)?;
        }
        Ok(vec![self.file.finish()?, self.paths.finish()?])
    }
}
