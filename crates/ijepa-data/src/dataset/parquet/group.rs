//! What does a group of rows hold? Its columns, unpacked as a whole.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use ::parquet::column::reader::{ColumnReaderImpl, get_column_reader, get_typed_column_reader};
use ::parquet::data_type::{ByteArray, ByteArrayType, DataType};
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::ColumnChunkMetaData;
use ::parquet::file::reader::{ChunkReader, Length};
use ::parquet::file::serialized_reader::SerializedPageReader;
use bytes::Bytes;

/// Rows that are read at a time: if the file is damaged, those before are still good.
const ROWS: usize = 64;

/// Largest page that is unpacked, in bytes. Writers begin a new one at about 1 MB; an image larger than that has one of its own.
const PAGE_BYTES_MAX: u64 = 512 << 20;

/// An image of a group.
#[derive(Debug)]
pub(super) enum Cell {
    /// The bytes of its file.
    Bytes(ByteArray),
    /// Where its file is.
    Path(String),
    /// Neither.
    Null,
}

/// The images of a group of rows, as far as they can be read.
#[derive(Debug, Default)]
pub(super) struct Unpacked {
    pub(super) cells: Vec<Cell>,
    /// Why there are no more.
    pub(super) failure: Option<String>,
}

impl Unpacked {
    /// The images of a group of `rows` rows in the file at `path`, from the column of bytes and that of paths.
    pub(super) fn read(
        path: &Path,
        rows: usize,
        bytes: &ColumnChunkMetaData,
        paths: Option<&ColumnChunkMetaData>,
    ) -> Unpacked {
        let mut unpacked = Unpacked::default();
        let filled = guarded(|| unpacked.fill(path, rows, bytes, paths));
        unpacked.failure = filled.err();
        unpacked
    }

    /// Bytes that are held.
    pub(super) fn bytes(&self) -> u64 {
        let held = |cell: &Cell| match cell {
            Cell::Bytes(bytes) => bytes.len(),
            Cell::Path(path) => path.len(),
            Cell::Null => 0,
        };
        self.cells.iter().map(|cell| (held(cell) + size_of::<Cell>()) as u64).sum()
    }

    fn fill(
        &mut self,
        path: &Path,
        rows: usize,
        bytes: &ColumnChunkMetaData,
        paths: Option<&ColumnChunkMetaData>,
    ) -> Result<(), String> {
        let file = Pages::open(path)?;
        let mut column = Column::<ByteArrayType>::open(&file, bytes, rows)?;
        while self.cells.len() < rows {
            let values = column.next(ROWS.min(rows - self.cells.len()))?;
            self.cells.extend(values.into_iter().map(|value| value.map_or(Cell::Null, Cell::Bytes)));
        }
        let Some(paths) = paths.filter(|_| self.cells.iter().any(|cell| matches!(cell, Cell::Null))) else {
            return Ok(());
        };
        let paths = Column::<ByteArrayType>::open(&file, paths, rows)?.all(rows)?;
        for (cell, path) in self.cells.iter_mut().zip(paths) {
            if let (Cell::Null, Some(path)) = (&cell, path) {
                *cell = Cell::Path(String::from_utf8_lossy(path.data()).into_owned());
            }
        }
        Ok(())
    }
}

/// The pages of a file. Memory for a page is asked for as its header declares, so that is looked at before the reader does it.
#[derive(Debug)]
pub(super) struct Pages(File);

impl Pages {
    /// To be opened by each thread for itself: handles of one file share their position.
    pub(super) fn open(path: &Path) -> Result<Arc<Pages>, String> {
        Ok(Arc::new(Pages(File::open(path).map_err(|error| error.to_string())?)))
    }
}

impl Length for Pages {
    fn len(&self) -> u64 {
        Length::len(&self.0)
    }
}

impl ChunkReader for Pages {
    type T = BufReader<File>;

    /// The header of the page that begins at `start`.
    fn get_read(&self, start: u64) -> Result<BufReader<File>, ParquetError> {
        let mut file = self.0.try_clone()?;
        file.seek(SeekFrom::Start(start))?;
        let mut reader = BufReader::new(file);
        match declared_bytes(reader.fill_buf()?) {
            Some(bytes) if bytes > PAGE_BYTES_MAX => Err(ParquetError::General(format!(
                "a page declares {bytes} bytes, at most {PAGE_BYTES_MAX} are unpacked"
            ))),
            _ => Ok(reader),
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        self.0.get_bytes(start, length)
    }
}

/// The unpacked size in the header of a page: its second number, after the page's type, in Thrift's compact form (a byte for
/// "the next field, a number", then seven bits a byte, then the sign in the lowest bit). Other headers are left to the reader.
fn declared_bytes(header: &[u8]) -> Option<u64> {
    let mut bytes = header.iter();
    let mut number = || {
        bytes.next().filter(|&&byte| byte == 0x15)?;
        let mut number = 0;
        for shift in (0..35).step_by(7) {
            let byte = bytes.next()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number >> 1);
            }
        }
        None
    };
    number()?;
    number()
}

/// A column of a group of rows, on the way from its first to its last.
pub(super) struct Column<T: DataType> {
    reader: ColumnReaderImpl<T>,
    /// Definition level of a value that is there; others are null.
    there: i16,
}

impl<T: DataType> Column<T> {
    pub(super) fn open(file: &Arc<Pages>, chunk: &ColumnChunkMetaData, rows: usize) -> Result<Column<T>, String> {
        let pages = SerializedPageReader::new(Arc::clone(file), chunk, rows, None).map_err(said)?;
        let reader = get_column_reader(chunk.column_descr_ptr(), Box::new(pages));
        Ok(Column { reader: get_typed_column_reader::<T>(reader), there: chunk.column_descr().max_def_level() })
    }

    /// The next `count` rows, `None` where they are null.
    pub(super) fn next(&mut self, count: usize) -> Result<Vec<Option<T::T>>, String> {
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let (rows, ..) = self.reader.read_records(count, Some(&mut levels), None, &mut values).map_err(said)?;
        if rows != count {
            return Err(format!("the column ends early: expected {count} more rows, got {rows}"));
        }
        if self.there == 0 {
            return Ok(values.into_iter().map(Some).collect());
        }
        let mut values = values.into_iter();
        Ok(levels.iter().map(|&level| if level == self.there { values.next() } else { None }).collect())
    }

    /// All `rows` rows.
    pub(super) fn all(&mut self, rows: usize) -> Result<Vec<Option<T::T>>, String> {
        let mut all = Vec::new();
        while all.len() < rows {
            all.extend(self.next(ROWS.min(rows - all.len()))?);
        }
        Ok(all)
    }
}

/// Readers that panic on hostile input count as broken input.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("the Parquet reader gave up on this content".into()))
}

/// The message without the kind of error in front of it.
pub(super) fn said(error: ParquetError) -> String {
    match error {
        ParquetError::General(text) | ParquetError::EOF(text) | ParquetError::NYI(text) => text,
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_page_stands_in_its_header() {
        // Page type 0, 300 bytes, then the packed size.
        assert_eq!(declared_bytes(&[0x15, 0x00, 0x15, 0xd8, 0x04, 0x15, 0x02]), Some(300));
        assert_eq!(declared_bytes(&[0x15, 0x04, 0x15, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0]), Some(i32::MAX as u64));
        for other in
            [&[][..], &[0x15], &[0x15, 0x00, 0x15], &[0x15, 0x00, 0x16, 0x02], &[0x15, 0xff, 0xff, 0xff, 0xff, 0xff]]
        {
            assert_eq!(declared_bytes(other), None);
        }
    }
}
