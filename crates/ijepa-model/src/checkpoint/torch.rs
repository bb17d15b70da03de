//! Where do the tensors of a `torch.save` archive lie?
//!
//! The archive is a zip: `<name>/data.pkl`, a pickle that describes everything but numbers, and `<name>/data/<key>`, one record of raw
//! numbers per storage, stored uncompressed and little-endian (`<name>/byteorder`). A tensor is a first element, a shape and strides
//! over a storage. Every claim is held against the size of the record and the file before memory is asked for.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;

use zip::read::ZipFile;
use zip::{CompressionMethod, ZipArchive};

use super::index::{Container, Entry, Index, Place};
use super::pickle::{Storage, TensorRef};
use super::unpickle::unpickle;
use super::{CheckpointError, reference};

/// The longest `data.pkl`. That of the largest reference model with optimiser state has about half a megabyte.
pub(super) const PICKLE_MAX: u64 = 1 << 24;

/// Compressed records may inflate to this many times the file's length, and a little. Weights hardly compress at all.
const INFLATION_MAX: u64 = 16;

/// Tensors may use each number this many times on average, as networks that share weights do.
const SHARING_MAX: u64 = 4;

/// Tensors that a pickle may name, so that a short one cannot describe many large shapes. The largest reference model has some
/// five thousand with its optimiser's state.
const TENSORS_MAX: usize = 1 << 16;

/// The records of an archive, and the tensors resolved over them so far.
pub(super) struct Records {
    pub(super) container: Container,
    /// By full name.
    places: HashMap<String, Place>,
    /// What stands before `data.pkl` and `data/`: a folder with its slash.
    prefix: String,
    /// Bytes that the tensors still to come may span together.
    budget: u64,
    /// Tensors resolved so far.
    resolved: usize,
}

impl Records {
    /// Storages by their keys, wherever they lie in the file.
    pub(super) fn of_storages(container: Container, storages: HashMap<String, Place>) -> Records {
        let data: u64 = storages.values().map(|place| place.len()).sum();
        let places = storages.into_iter().map(|(key, place)| (format!("data/{key}"), place)).collect();
        Records { container, places, prefix: String::new(), budget: data.saturating_mul(SHARING_MAX), resolved: 0 }
    }
}

/// Lists the tensors of a PyTorch archive.
pub(super) fn open(container: Container) -> Result<Index, CheckpointError> {
    let mut records = open_records(container)?;
    check_byte_order(&mut records)?;
    let name = format!("{}data.pkl", records.prefix);
    let place = records.places[&name];
    let len = place.len();
    if len > PICKLE_MAX {
        let expected = format!("at most {PICKLE_MAX} bytes");
        return Err(records.container.malformed(name, expected, format!("{len} bytes")));
    }
    let bytes = records.container.record(place, &name)?;
    let (pickle, _) = unpickle(&bytes, &records.container.path, &name)?;
    reference::interpret(&pickle, records, "PyTorch zip archive")
}

/// Reads the zip's directory.
fn open_records(mut container: Container) -> Result<Records, CheckpointError> {
    let broken = |container: &Container, e: zip::result::ZipError| {
        let got = format!("{e} (file of {} bytes)", container.len);
        container.malformed("zip directory", "a complete zip archive", got)
    };
    let handle = container.file.try_clone().map_err(|e| container.read_error("open the archive".to_string(), e))?;
    let mut archive = ZipArchive::new(BufReader::new(handle)).map_err(|e| broken(&container, e))?;
    if archive.has_duplicate_names() {
        return Err(container.malformed("zip directory", "each record once", "a name twice"));
    }
    let mut places = HashMap::with_capacity(archive.len());
    let (mut stored, mut inflated) = (0u64, 0u64);
    for record in 0..archive.len() {
        let file = archive.by_index_raw(record).map_err(|e| broken(&container, e))?;
        let name = file.name().map_err(|e| broken(&container, e))?.into_owned();
        let place = place(&container, record, &name, &file)?;
        match place {
            Place::Plain { len, .. } => stored = stored.saturating_add(len),
            Place::Deflated { len, .. } => inflated = inflated.saturating_add(len),
        }
        places.insert(name, place);
    }
    if stored > container.len {
        let expected = format!("records of at most {} bytes together, the file's length", container.len);
        return Err(container.malformed("zip directory", expected, format!("{stored} bytes")));
    }
    let room = container.len.saturating_mul(INFLATION_MAX).saturating_add(1 << 20);
    if inflated > room {
        let expected = format!("compressed records of at most {room} bytes together once inflated");
        return Err(container.malformed("zip directory", expected, format!("{inflated} bytes")));
    }
    let prefix = prefix(&container, &places)?;
    let numbers = format!("{prefix}data/");
    let data: u64 = places.iter().filter(|(name, _)| name.starts_with(&numbers)).map(|(_, place)| place.len()).sum();
    container.archive = Some(archive);
    Ok(Records { container, places, prefix, budget: data.saturating_mul(SHARING_MAX), resolved: 0 })
}

/// Where the bytes of a record lie.
fn place(
    container: &Container,
    record: usize,
    name: &str,
    file: &ZipFile<'_, BufReader<File>>,
) -> Result<Place, CheckpointError> {
    if file.encrypted() {
        return Err(container.malformed(name, "a plain record", "an encrypted one"));
    }
    let (len, packed) = (file.size(), file.compressed_size());
    match (file.compression(), file.data_start()) {
        (CompressionMethod::Stored, Some(at)) if packed == len => {
            if at.checked_add(len).is_none_or(|end| end > container.len) {
                let expected = format!("a record within the file's {} bytes", container.len);
                let got = format!("{len} bytes from byte {at} on");
                return Err(container.malformed(name, expected, got));
            }
            Ok(Place::Plain { at, len })
        }
        (CompressionMethod::Deflated, _) => Ok(Place::Deflated { record, len }),
        (method, _) => Err(CheckpointError::Unsupported {
            path: container.path.clone(),
            place: name.to_string(),
            found: format!("zip compression {method:?} with {packed} bytes for {len}"),
            supported: "stored and deflated records",
        }),
    }
}

/// The folder of the one `data.pkl` in the archive.
fn prefix(container: &Container, places: &HashMap<String, Place>) -> Result<String, CheckpointError> {
    let mut found: Vec<&str> = places
        .keys()
        .filter_map(|name| name.strip_suffix("data.pkl"))
        .filter(|prefix| prefix.is_empty() || prefix.ends_with('/'))
        .collect();
    found.sort_unstable();
    match found.as_slice() {
        [prefix] => Ok((*prefix).to_string()),
        [] => Err(container.malformed(
            "zip directory",
            "a record data.pkl, as torch.save writes it",
            format!("{} records, none of that name", places.len()),
        )),
        several => Err(container.malformed(
            "zip directory",
            "one record data.pkl",
            format!("{}, in {}", several.len(), several[..several.len().min(4)].join(", ")),
        )),
    }
}

fn check_byte_order(records: &mut Records) -> Result<(), CheckpointError> {
    let name = format!("{}byteorder", records.prefix);
    let Some(&place) = records.places.get(&name) else {
        // Older versions of PyTorch did not write it.
        return Ok(());
    };
    let len = place.len();
    let order = match len {
        0..=16 => records.container.record(place, &name)?,
        _ => Vec::new(),
    };
    if order.trim_ascii() == b"little" {
        return Ok(());
    }
    Err(CheckpointError::Unsupported {
        path: records.container.path.clone(),
        place: name,
        found: format!("byte order {:?}", order.escape_ascii().to_string()),
        supported: "little",
    })
}

impl Records {
    /// Holds what the pickle says about the tensor `name` against its record, axis by axis.
    pub(super) fn resolve(&mut self, name: &str, tensor: &TensorRef) -> Result<Entry, CheckpointError> {
        let what = format!("tensor {name}");
        self.resolved += 1;
        if self.resolved > TENSORS_MAX {
            return Err(self.container.malformed(what, format!("at most {TENSORS_MAX} tensors"), "more"));
        }
        let (place, stored) = self.storage(&what, &tensor.storage)?;
        let bad = |expected: &str| {
            let got = format!("first element {}, shape {:?}, strides {:?}", tensor.first, tensor.shape, tensor.strides);
            self.container.malformed(what.as_str(), expected, got)
        };
        let natural =
            |numbers: &[i64]| -> Option<Vec<usize>> { numbers.iter().map(|&n| usize::try_from(n).ok()).collect() };
        let (Some(shape), Some(strides), Ok(first)) =
            (natural(&tensor.shape), natural(&tensor.strides), usize::try_from(tensor.first))
        else {
            return Err(bad("no negative number in the tensor's shape, strides and first element"));
        };
        if shape.len() != strides.len() {
            return Err(bad("as many strides as axes"));
        }
        let bits = tensor.storage.dtype.bitsize();
        let elements =
            shape.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent)).filter(|n| n.checked_mul(bits).is_some());
        let Some(elements) = elements else {
            return Err(bad("a shape whose size fits 64 bits"));
        };
        // The last element that is touched; a tensor without elements touches none.
        let last = shape
            .iter()
            .zip(&strides)
            .try_fold(first, |at, (&extent, &stride)| at.checked_add(extent.saturating_sub(1).checked_mul(stride)?));
        if elements > 0 && last.is_none_or(|last| last >= stored) {
            return Err(bad(&format!("elements within its storage of {stored}")));
        }
        if elements > stored {
            let expected = format!("at most the {stored} elements of its storage (no expanded view)");
            return Err(bad(&expected));
        }

        let entry = Entry {
            name: name.to_string(),
            dtype: tensor.storage.dtype,
            strides: (!dense(&shape, &strides)).then_some(strides),
            shape,
            first: if elements > 0 { first } else { 0 },
            container: 0,
            place,
        };
        let span = (entry.span() * bits / 8) as u64;
        match self.budget.checked_sub(span) {
            Some(left) => self.budget = left,
            None => {
                let expected = format!("tensors that share their records at most {SHARING_MAX} times");
                return Err(self.container.malformed(what, expected, "more"));
            }
        }
        Ok(entry)
    }

    /// The record of a storage, and how many elements the pickle says it has; the record is long enough for them.
    fn storage(&self, what: &str, storage: &Storage) -> Result<(Place, usize), CheckpointError> {
        let elements = usize::try_from(storage.elements).ok();
        let bits = elements.and_then(|n| n.checked_mul(storage.dtype.bitsize()));
        let (Some(elements), Some(bits)) = (elements, bits) else {
            let got = format!("{} elements", storage.elements);
            let expected = "a storage whose size fits 64 bits";
            return Err(self.container.malformed(what, expected, got));
        };
        let record = format!("{}data/{}", self.prefix, storage.key);
        let Some(&place) = self.places.get(&record) else {
            let expected = format!("a record {record:?} with its numbers");
            return Err(self.container.malformed(what, expected, "none"));
        };
        let (expected, len) = (bits / 8, place.len());
        if expected as u64 > len {
            let expected = format!("{expected} bytes in record {record} ({elements} of {})", storage.dtype);
            return Err(self.container.malformed(what, expected, format!("{len} bytes")));
        }
        Ok((place, elements))
    }
}

/// Row-major without gaps. The stride of an axis of extent 1 does not matter.
fn dense(shape: &[usize], strides: &[usize]) -> bool {
    if shape.contains(&0) {
        return true;
    }
    let mut expected = 1;
    for (&extent, &stride) in shape.iter().zip(strides).rev() {
        if extent != 1 && stride != expected {
            return false;
        }
        expected *= extent;
    }
    true
}
