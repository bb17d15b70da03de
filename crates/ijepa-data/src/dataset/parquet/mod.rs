//! Which images does a Parquet data set of the Hugging Face Hub hold, and how are they reached?
//!
//! One file or a folder of shards; an image column of structs {bytes, path} or of plain bytes; perhaps a column of classes, whose
//! names the library left in the file. A group of rows (some hundred images, some 10 MB) is unpacked as a whole and kept for the
//! others of its rows, within a bound: see [`CACHE_BYTES`]. So reading in order, or shuffled within a window of a few groups,
//! unpacks each group once. Memory: that bound, and a group more for each thread that is unpacking one.

mod cache;
mod columns;
mod group;
mod shards;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::basic::{Compression, Type as Physical};
use ::parquet::data_type::{ByteArrayType, DataType, Int32Type, Int64Type};
use ::parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};

use cache::Cache;
use columns::{Columns, Features};
use group::{Cell, Column, Pages, Unpacked, guarded, said};

use super::Split;
use crate::decode::read_file;
use crate::error::DataError;

/// Bytes of unpacked groups that are kept: the groups of a window of 4096 photos of 110 kB.
const CACHE_BYTES: u64 = 512 << 20;
/// Largest group of rows that is unpacked, in bytes.
const GROUP_BYTES_MAX: u64 = 2 << 30;
/// A class that a file leaves open: test sets without classes are written so.
const UNKNOWN: i64 = -1;

/// Images in the rows of Parquet files.
#[derive(Debug)]
pub struct Parquet {
    files: Vec<PathBuf>,
    groups: Vec<Group>,
    len: usize,
    labels: Option<Vec<u32>>,
    classes: Option<Vec<String>>,
    cache: Cache<Unpacked>,
}

/// Rows that are unpacked together.
#[derive(Debug)]
struct Group {
    /// Which file.
    file: usize,
    /// Which group of the file.
    number: usize,
    /// The first sample, and the first row in the file.
    first: (usize, usize),
    rows: usize,
    bytes: ColumnChunkMetaData,
    paths: Option<ColumnChunkMetaData>,
}

fn wrong(path: &Path, problem: impl Into<String>) -> DataError {
    DataError::Content { path: path.to_owned(), problem: problem.into() }
}

impl Parquet {
    /// Opens one file.
    pub fn open(path: &Path) -> Result<Parquet, DataError> {
        Parquet::of(vec![path.to_owned()], CACHE_BYTES)
    }

    /// Opens the shards of a split in a folder; nothing if the folder has no Parquet files, or such as hold no images: features
    /// that were written beside pictures.
    pub fn open_folder(folder: &Path, split: Split) -> Result<Option<Parquet>, DataError> {
        let files = shards::all(folder)?;
        let Some(first) = files.first() else { return Ok(None) };
        let metadata = footer(first)?;
        let schema = metadata.file_metadata().schema_descr();
        if Columns::find(schema, &Features::of(metadata.file_metadata())).is_err() {
            return Ok(None);
        }
        Parquet::of(shards::of_split(folder, files, split)?, CACHE_BYTES).map(Some)
    }

    /// Another bound on the unpacked groups that are kept, in bytes.
    #[must_use]
    pub fn with_cache_bytes(mut self, bytes: u64) -> Parquet {
        self.cache = Cache::new(bytes);
        self
    }

    fn of(files: Vec<PathBuf>, cache_bytes: u64) -> Result<Parquet, DataError> {
        let (mut groups, mut len, mut labels, mut names) = (Vec::new(), 0, Labels::default(), None);
        let mut labelled = None;
        for (number, path) in files.iter().enumerate() {
            let metadata = footer(path)?;
            let features = Features::of(metadata.file_metadata());
            let schema = metadata.file_metadata().schema_descr();
            let columns = Columns::find(schema, &features).map_err(|problem| wrong(path, problem))?;
            let label_column = columns.label.map(|at| schema.column(at).path().string());
            let first_label = labelled.get_or_insert_with(|| label_column.clone());
            if *first_label != label_column {
                let of = |column: &Option<String>| column.clone().unwrap_or_else(|| "no class column".into());
                let problem = format!("has {}, but {} has {}", of(&label_column), files[0].display(), of(first_label));
                return Err(wrong(path, format!("{problem}; the shards of a data set have the same columns")));
            }
            names = names.or_else(|| label_column.as_ref().and_then(|column| features.classes(column)));
            let file_bytes =
                std::fs::metadata(path).map_err(|source| DataError::Io { path: path.clone(), source })?.len();
            let mut row = 0;
            for (group_number, group) in metadata.row_groups().iter().enumerate() {
                let in_group = |problem| wrong(path, format!("row group {group_number}: {problem}"));
                let rows = check(group, &columns, file_bytes).map_err(in_group)?;
                if let Some(at) = columns.label {
                    guarded(|| labels.read(path, group.column(at), rows)).map_err(in_group)?;
                }
                if rows > 0 {
                    groups.push(Group {
                        file: number,
                        number: group_number,
                        first: (len, row),
                        rows,
                        bytes: group.column(columns.bytes).clone(),
                        paths: columns.path.map(|at| group.column(at).clone()),
                    });
                }
                (len, row) = (len + rows, row + rows);
            }
        }
        let first = files.first().map_or(Path::new(""), PathBuf::as_path);
        if len == 0 || u32::try_from(len).is_err() {
            return Err(wrong(first, format!("{len} rows in {} files; 1 to 2³²−1 are expected", files.len())));
        }
        let mut parquet = Parquet { files, groups, len, labels: None, classes: None, cache: Cache::new(cache_bytes) };
        if labelled.flatten().is_some() {
            (parquet.labels, parquet.classes) = labels.finish(names).map_err(|(at, problem)| {
                let (path, row) = parquet.place(at.unwrap_or(0));
                wrong(path, at.map_or(problem.clone(), |_| format!("row {row}: {problem}")))
            })?;
        }
        Ok(parquet)
    }

    /// Number of images.
    #[expect(clippy::len_without_is_empty, reason = "files without rows cannot be opened")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The class of every image.
    pub fn labels(&self) -> Option<&[u32]> {
        self.labels.as_deref()
    }

    /// Names of the classes, by label.
    pub fn classes(&self) -> Option<&[String]> {
        self.classes.as_deref()
    }

    /// The files, in the order of their paths.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// How often a group of rows was unpacked since the files were opened.
    pub fn unpacked(&self) -> u64 {
        self.cache.made()
    }

    /// Rows of every group.
    pub(super) fn chunks(&self) -> Vec<usize> {
        self.groups.iter().map(|group| group.rows).collect()
    }

    pub(super) fn name(&self, index: usize) -> String {
        let (path, row) = self.place(index);
        format!("{} row {row}", path.display())
    }

    /// The bytes of an image file.
    pub(super) fn read(&self, index: usize) -> Result<Vec<u8>, DataError> {
        let at = self.group_of(index);
        let group = &self.groups[at];
        let path = &self.files[group.file];
        let estimate = u64::try_from(group.bytes.uncompressed_size()).unwrap_or(0);
        let unpacked = self.cache.get(at, estimate, || {
            let unpacked = Unpacked::read(path, group.rows, &group.bytes, group.paths.as_ref());
            let bytes = unpacked.bytes();
            (unpacked, bytes)
        });
        let row = index - group.first.0;
        let problem = match unpacked.cells.get(row) {
            Some(Cell::Bytes(bytes)) => return Ok(bytes.data().to_vec()),
            // Relative to the file, as the library has it.
            Some(Cell::Path(relative)) => match read_file(&path.parent().unwrap_or(Path::new("")).join(relative)) {
                Ok(bytes) => return Ok(bytes),
                Err(error) => format!("it holds no bytes but the path {relative:?}: {error}"),
            },
            Some(Cell::Null) => "it holds no image: neither bytes nor a path".to_owned(),
            None => {
                let failure = unpacked.failure.as_deref().unwrap_or("it ends early");
                format!("cannot be read from row {} of the group on: {failure}", unpacked.cells.len())
            }
        };
        Err(wrong(path, format!("row {} (row group {}): {problem}", group.first.1 + row, group.number)))
    }

    /// The group of a sample.
    fn group_of(&self, index: usize) -> usize {
        assert!(index < self.len, "image {index} of {}", self.len);
        self.groups.partition_point(|group| group.first.0 + group.rows <= index)
    }

    /// The file and the row of a sample.
    fn place(&self, index: usize) -> (&Path, usize) {
        let group = &self.groups[self.group_of(index)];
        (&self.files[group.file], group.first.1 + index - group.first.0)
    }
}

/// What a file says of its content. Only the end of the file is read.
fn footer(path: &Path) -> Result<ParquetMetaData, DataError> {
    let file = File::open(path).map_err(|source| DataError::Io { path: path.to_owned(), source })?;
    let parsed = guarded(|| ParquetMetaDataReader::new().parse_and_finish(&file).map_err(said));
    parsed.map_err(|problem| {
        wrong(path, format!("not a Parquet file, or a truncated one: {problem}; fetch it again or remove it"))
    })
}

/// Whether what a group declares can be true and can be read; its rows.
fn check(group: &RowGroupMetaData, columns: &Columns, file_bytes: u64) -> Result<usize, String> {
    let rows = group.num_rows();
    // An image takes bytes; the number must be held against something before memory is asked for.
    let Some(rows) = u64::try_from(rows).ok().filter(|&rows| rows <= file_bytes) else {
        return Err(format!("declares {rows} rows in a file of {file_bytes} bytes"));
    };
    for at in [Some(columns.bytes), columns.path, columns.label].into_iter().flatten() {
        let chunk = group.column(at);
        let name = chunk.column_path().string();
        if u64::try_from(chunk.num_values()) != Ok(rows) {
            return Err(format!("column {name} declares {} values for {rows} rows", chunk.num_values()));
        }
        let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
        let range = u64::try_from(start).ok().zip(u64::try_from(chunk.compressed_size()).ok());
        if range.and_then(|(start, len)| start.checked_add(len)).is_none_or(|end| end > file_bytes) {
            return Err(format!(
                "column {name} is said to have {} bytes from {start} on, in a file of {file_bytes}: truncated?",
                chunk.compressed_size()
            ));
        }
        if !matches!(chunk.compression(), Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::ZSTD(_)) {
            return Err(format!(
                "column {name} is compressed with {:?}; Snappy, Zstandard and none can be read: write the file again with one of them",
                chunk.compression()
            ));
        }
        let unpacked = u64::try_from(chunk.uncompressed_size()).unwrap_or(u64::MAX);
        if unpacked > GROUP_BYTES_MAX {
            return Err(format!(
                "column {name} has {:.1} GB in one row group, which is unpacked as a whole; at most {:.1} GB can be: write the file again with some hundred rows a group (row_group_size=100)",
                unpacked as f64 / 1e9,
                GROUP_BYTES_MAX as f64 / 1e9
            ));
        }
    }
    usize::try_from(rows).map_err(|error| error.to_string())
}

/// Classes as they are met: numbers, or texts that are numbered later.
#[derive(Default)]
struct Labels {
    numbers: Vec<i64>,
    texts: Vec<String>,
    by_text: HashMap<String, i64>,
}

/// Labels, and names of the classes where there are any.
type Classes = (Option<Vec<u32>>, Option<Vec<String>>);

impl Labels {
    /// Adds those of a group.
    fn read(&mut self, path: &Path, chunk: &ColumnChunkMetaData, rows: usize) -> Result<(), String> {
        let file = Pages::open(path)?;
        match chunk.column_type() {
            Physical::INT32 => self.numbers.extend(numbers::<Int32Type>(&file, chunk, rows)?),
            Physical::INT64 => self.numbers.extend(numbers::<Int64Type>(&file, chunk, rows)?),
            _ => {
                for text in Column::<ByteArrayType>::open(&file, chunk, rows)?.all(rows)? {
                    let number = text.map_or(UNKNOWN, |text| self.number(&String::from_utf8_lossy(text.data())));
                    self.numbers.push(number);
                }
            }
        }
        Ok(())
    }

    fn number(&mut self, text: &str) -> i64 {
        if let Some(&number) = self.by_text.get(text) {
            return number;
        }
        let number = self.texts.len() as i64;
        self.texts.push(text.to_owned());
        self.by_text.insert(text.to_owned(), number);
        number
    }

    /// Labels and names; none if all are unknown. An error has the sample that it is about.
    fn finish(mut self, names: Option<Vec<String>>) -> Result<Classes, (Option<usize>, String)> {
        if self.numbers.iter().all(|&number| number == UNKNOWN) {
            return Ok((None, None));
        }
        let mut names = names;
        if !self.texts.is_empty() {
            // Texts become classes in lexicographic order, as folders do.
            let mut order: Vec<usize> = (0..self.texts.len()).collect();
            order.sort_by(|&a, &b| self.texts[a].cmp(&self.texts[b]));
            let mut rank = vec![0; order.len()];
            order.iter().enumerate().for_each(|(place, &text)| rank[text] = place as i64);
            for number in self.numbers.iter_mut().filter(|number| **number != UNKNOWN) {
                *number = rank[*number as usize];
            }
            names = Some(order.into_iter().map(|text| std::mem::take(&mut self.texts[text])).collect());
        }
        let label = |(at, number): (usize, i64)| {
            let label = u32::try_from(number).ok();
            let named = |label: &u32| names.as_ref().is_none_or(|names| (*label as usize) < names.len());
            label.filter(named).ok_or_else(|| {
                let classes = names.as_ref().map_or("from 0".into(), |names| format!("of {} classes", names.len()));
                let got = if number == UNKNOWN { "no class".into() } else { format!("class {number}") };
                (Some(at), format!("{got}, a number {classes} is expected; give all rows a class or drop the column"))
            })
        };
        let labels = self.numbers.iter().copied().enumerate().map(label).collect::<Result<_, _>>()?;
        Ok((Some(labels), names))
    }
}

fn numbers<T: DataType>(file: &Arc<Pages>, chunk: &ColumnChunkMetaData, rows: usize) -> Result<Vec<i64>, String>
where
    T::T: Into<i64>,
{
    let values = Column::<T>::open(file, chunk, rows)?.all(rows)?;
    Ok(values.into_iter().map(|value| value.map_or(UNKNOWN, Into::into)).collect())
}
