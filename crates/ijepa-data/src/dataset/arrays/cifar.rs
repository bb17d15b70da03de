//! Where are pictures and labels in the binary versions of CIFAR-10 and CIFAR-100?
//!
//! After <https://www.cs.toronto.edu/~kriz/cifar.html>: records of one label byte (of CIFAR-100 two: coarse, fine), then the red,
//! the green and the blue plane of 32×32 pixels. Of CIFAR-100 the fine labels are taken.

use std::path::Path;

use super::{Arrays, Content, Format, Order, Part, io, wrong};
use crate::dataset::Split;
use crate::dataset::at::At;
use crate::error::DataError;

const FORMAT: Format = Format { size: (32, 32), order: Order::Planes };

struct Kind {
    name: &'static str,
    /// What the archive unpacks to.
    folder: &'static str,
    /// Files that say that a folder is of this kind.
    marks: &'static [&'static str],
    train: &'static [&'static str],
    val: &'static [&'static str],
    class_names: &'static str,
    classes: usize,
    /// Bytes before the pixels; the last one is the label.
    label_bytes: u64,
}

const KINDS: [Kind; 2] = [
    Kind {
        name: "CIFAR-10",
        folder: "cifar-10-batches-bin",
        marks: &["data_batch_1.bin", "test_batch.bin"],
        train: &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"],
        val: &["test_batch.bin"],
        class_names: "batches.meta.txt",
        classes: 10,
        label_bytes: 1,
    },
    Kind {
        name: "CIFAR-100",
        folder: "cifar-100-binary",
        marks: &["fine_label_names.txt"], // `train.bin` may be anything
        train: &["train.bin"],
        val: &["test.bin"],
        class_names: "fine_label_names.txt",
        classes: 100,
        label_bytes: 2,
    },
];

/// What the archives for Python unpack to: their pickles are not read.
const PICKLES: [(&str, &str); 2] =
    [("cifar-10-batches-py", "cifar-10-binary.tar.gz"), ("cifar-100-python", "cifar-100-binary.tar.gz")];

pub(super) fn find(folder: &Path, split: Split) -> Result<Option<Arrays>, DataError> {
    for kind in &KINDS {
        let unpacked = folder.join(kind.folder);
        if unpacked.is_dir() {
            return open(kind, &unpacked, split).map(Some);
        }
        if kind.marks.iter().any(|mark| folder.join(mark).is_file()) {
            return open(kind, folder, split).map(Some);
        }
    }
    for (pickles, binary) in PICKLES {
        if folder.join(pickles).is_dir() || folder.ends_with(pickles) {
            return Err(wrong(
                folder,
                format!("{pickles} holds pickles of Python, which are not read; get {binary} and unpack it here"),
            ));
        }
    }
    Ok(None)
}

fn open(kind: &Kind, folder: &Path, split: Split) -> Result<Arrays, DataError> {
    let names = match split {
        Split::Train => kind.train,
        Split::Val => kind.val,
    };
    let record = kind.label_bytes + FORMAT.bytes() as u64;
    let (mut parts, mut labels) = (Vec::new(), Vec::new());
    for name in names {
        let path = folder.join(name);
        let file = At::open(&path).map_err(|source| io(&path, source))?;
        if file.len() == 0 || !file.len().is_multiple_of(record) {
            let problem =
                format!("{} bytes, a multiple of {record} is expected: truncated, or not of {}", file.len(), kind.name);
            return Err(wrong(&path, problem));
        }
        let count = (file.len() / record) as usize;
        let part = Part { path, content: Content::File(file), first: kind.label_bytes, stride: record, count };
        for place in 0..count {
            let mut label = [0];
            part.read(&mut label, (place as u64) * record + kind.label_bytes - 1)?;
            if usize::from(label[0]) >= kind.classes {
                let problem = format!(
                    "image {place} has label {}, less than {} is expected: damaged, or not {}",
                    label[0], kind.classes, kind.name
                );
                return Err(wrong(&part.path, problem));
            }
            labels.push(u32::from(label[0]));
        }
        parts.push(part);
    }
    Ok(Arrays { parts, format: FORMAT, labels: Some(labels), classes: class_names(kind, folder)? })
}

/// One name a line, in the order of the labels; nothing when the file is not there.
fn class_names(kind: &Kind, folder: &Path) -> Result<Option<Vec<String>>, DataError> {
    /// Bytes; the longest of both has 941.
    const LIMIT: u64 = 64 << 10;
    let path = folder.join(kind.class_names);
    if !path.is_file() {
        return Ok(None);
    }
    let file = At::open(&path).map_err(|source| io(&path, source))?;
    let mut text = vec![0; file.len().min(LIMIT) as usize];
    file.read(&mut text, 0).map_err(|source| io(&path, source))?;
    let text = String::from_utf8_lossy(&text);
    let names: Vec<String> = text.lines().map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if names.len() != kind.classes {
        return Err(wrong(&path, format!("{} names, {} are expected, one a line", names.len(), kind.classes)));
    }
    Ok(Some(names))
}
