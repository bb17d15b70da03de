//! One Parquet file, columns `path`, `label`, `pooled` and `tokens`, uncompressed: random floats do not shrink.
//!
//! A list's values stand in one column with two numbers each: how deep the value is (all are there, so always full depth) and at
//! which level a list goes on (0 = a new row, 1 = a new element of the outer list, 2 = of the inner list).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int64Type};
use ::parquet::file::properties::{EnabledStatistics, WriterProperties};
use ::parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use ::parquet::schema::parser::parse_message_type;
use anyhow::{Context, Result};

use super::partial::Partial;
use super::{Batch, Layout};

/// Bytes of floats in a row group: bounds the memory of writer and reader.
const GROUP: usize = 64 << 20;

/// A Parquet file in the making.
pub(crate) struct Parquet {
    writer: SerializedFileWriter<Partial>,
    layout: Layout,
    paths: Vec<ByteArray>,
    labels: Vec<i64>,
    pooled: Vec<f32>, // (rows, d)
    tokens: Vec<f32>, // (rows, l, d)
}

impl Parquet {
    pub(super) fn create(path: &Path, layout: Layout) -> Result<Parquet> {
        let label = if layout.labelled { "required int64 label;" } else { "" };
        let tokens = if layout.tokens.is_some() {
            "required group tokens (LIST) { repeated group list { required group element (LIST) { repeated group list { required float element; } } } }"
        } else {
            ""
        };
        let schema = format!(
            "message embeddings {{ required binary path (STRING); {label} \
             required group pooled (LIST) {{ repeated group list {{ required float element; }} }} {tokens} }}"
        );
        let schema = Arc::new(parse_message_type(&schema).context("the schema is not understood")?);
        let properties = WriterProperties::builder()
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::None)
            .build();
        let writer = SerializedFileWriter::new(Partial::create(path)?, schema, Arc::new(properties))?;
        Ok(Parquet { writer, layout, paths: Vec::new(), labels: Vec::new(), pooled: Vec::new(), tokens: Vec::new() })
    }

    pub(super) fn write(&mut self, batch: Batch<'_>) -> Result<()> {
        self.paths.extend(batch.paths.iter().map(|path| ByteArray::from(path.as_str())));
        self.labels.extend(batch.labels);
        self.pooled.extend(batch.pooled);
        self.tokens.extend(batch.tokens);
        if (self.pooled.len() + self.tokens.len()) * size_of::<f32>() >= GROUP { self.group() } else { Ok(()) }
    }

    /// Writes what was collected as one row group.
    fn group(&mut self) -> Result<()> {
        if self.paths.is_empty() {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        column::<ByteArrayType>(&mut group, &self.paths, None)?;
        if self.layout.labelled {
            column::<Int64Type>(&mut group, &self.labels, None)?;
        }
        column::<FloatType>(&mut group, &self.pooled, Some(List { depth: 1, outer: 1, inner: self.layout.width }))?;
        if let Some((count, width)) = self.layout.tokens {
            column::<FloatType>(&mut group, &self.tokens, Some(List { depth: 2, outer: count, inner: width }))?;
        }
        group.close()?;
        self.paths.clear();
        self.labels.clear();
        self.pooled.clear();
        self.tokens.clear();
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Vec<PathBuf>> {
        self.group()?;
        Ok(vec![self.writer.into_inner()?.finish()?])
    }
}

/// The list of a row: `outer` lists of `inner` values, or with depth 1 just `inner` values.
#[derive(Clone, Copy)]
struct List {
    depth: i16,
    outer: usize,
    inner: usize,
}

/// Writes the next column.
fn column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, Partial>,
    values: &[T::T],
    list: Option<List>,
) -> Result<()> {
    let mut column = group.next_column()?.context("the schema has fewer columns than there are values for")?;
    let levels = list.map(|List { depth, outer, inner }| {
        let goes_on_at = |at: usize| match at % (outer * inner) {
            0 => 0,
            at if at % inner == 0 => 1,
            _ => depth,
        };
        (vec![depth; values.len()], (0..values.len()).map(goes_on_at).collect::<Vec<i16>>())
    });
    let (definition, repetition) = levels.unzip();
    column.typed::<T>().write_batch(values, definition.as_deref(), repetition.as_deref())?;
    column.close()?;
    Ok(())
}
