//! Where are pictures and labels in IDX files, those of MNIST, Fashion-MNIST, KMNIST and EMNIST?
//!
//! After the page of MNIST (<https://yann.lecun.org/exdb/mnist/>): two zero bytes, the type of a value (8: unsigned bytes), the number
//! of dimensions, every dimension as a big-endian u32, then the values. A gzipped file is unpacked into memory.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::{Arrays, Content, Format, Order, Part, check_count, io, labels_beside, wrong};
use crate::dataset::Split;
use crate::dataset::at::At;
use crate::error::DataError;

const IMAGES: [u8; 4] = [0, 0, 8, 3];
const LABELS: [u8; 4] = [0, 0, 8, 1];
const TRAIN: [&str; 2] = ["train-images-idx3-ubyte", "train-images.idx3-ubyte"];
const VAL: [&str; 2] = ["t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte"];
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Deflate makes a byte of no more than so many.
const DEFLATE_RATIO: u64 = 1032;

/// The places of the files under a folder, as they are downloaded and as torchvision puts them.
const FOLDERS: [&str; 2] = ["", "raw"];

/// Opens the standard files of a split, if there are any.
pub(super) fn find(folder: &Path, split: Split) -> Result<Option<Arrays>, DataError> {
    let (wanted, other) = match split {
        Split::Train => (&TRAIN, &VAL),
        Split::Val => (&VAL, &TRAIN),
    };
    let present = |names: &[&str]| {
        let paths = FOLDERS.iter().flat_map(|sub| names.iter().map(move |name| folder.join(sub).join(name)));
        paths.filter_map(with_or_without_gz).next()
    };
    match (present(wanted), present(other)) {
        (Some(images), _) => open(&images).map(Some),
        (None, None) => Ok(None),
        (None, Some(found)) => {
            let wanted = wanted.join(" or ");
            Err(wrong(folder, format!("there is {} but no {wanted}, with or without .gz; add it", found.display())))
        }
    }
}

/// By the first bytes, of a gzipped file also by its name: what is in it cannot be told without unpacking it.
pub(super) fn reads(path: &Path) -> bool {
    let mut magic = [0; 4];
    if !path.is_file() || File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_err() {
        return false;
    }
    let named = || path.file_name().is_some_and(|name| name.to_string_lossy().contains("ubyte"));
    magic == IMAGES || magic == LABELS || magic[..2] == GZIP && named()
}

/// Opens a file of pictures, and that of their labels beside it.
pub(super) fn open(path: &Path) -> Result<Arrays, DataError> {
    let (content, [count, height, width]) = read::<3>(path, IMAGES, "images (n,h,w)")?;
    let format = Format { size: (height, width), order: Order::Grey };
    format.check(path)?;
    if count == 0 {
        return Err(wrong(path, "holds no images".into()));
    }
    let beside = labels_beside(path).and_then(|path| {
        let name = path.file_name()?.to_str()?.replace("idx3", "idx1");
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        with_or_without_gz(path.with_file_name(name))
    });
    let labels = match beside {
        None => None,
        Some(beside) => {
            let (labels, [declared]) = read::<1>(&beside, LABELS, "labels (n)")?;
            check_count(&beside, declared, path, count)?;
            let mut bytes = vec![0; count];
            let part = Part { path: beside, content: labels, first: 0, stride: 1, count };
            part.read(&mut bytes, header_bytes(1))?;
            Some(bytes.into_iter().map(u32::from).collect())
        }
    };
    let (first, stride) = (header_bytes(3), format.bytes() as u64);
    let part = Part { path: path.to_owned(), content, first, stride, count };
    Ok(Arrays { parts: vec![part], format, labels, classes: None })
}

fn header_bytes(dimensions: usize) -> u64 {
    4 + 4 * dimensions as u64
}

fn with_or_without_gz(path: PathBuf) -> Option<PathBuf> {
    let mut packed = path.clone().into_os_string();
    packed.push(".gz");
    [path, packed.into()].into_iter().find(|path| path.is_file())
}

/// The content of a file, header and all, and its dimensions, which its length was held against.
fn read<const D: usize>(path: &Path, magic: [u8; 4], wanted: &str) -> Result<(Content, [usize; D]), DataError> {
    let file = At::open(path).map_err(|source| io(path, source))?;
    let not_idx = || wrong(path, format!("does not begin as an IDX file of {wanted} of unsigned bytes does"));
    let header_bytes = header_bytes(D);
    let mut header = [0; 16];
    let header = &mut header[..header_bytes as usize];
    let mut start = [0; 2];
    let packed = file.read(&mut start, 0).is_ok() && start == GZIP;
    let mut decoder = None;
    if packed {
        let file = File::open(path).map_err(|source| io(path, source))?;
        decoder.insert(MultiGzDecoder::new(file)).read_exact(header).map_err(|_| not_idx())?;
    } else {
        file.read(header, 0).map_err(|_| not_idx())?;
    }
    if header[..4] != magic {
        return Err(not_idx());
    }
    let mut sizes = [0; D];
    for (size, bytes) in sizes.iter_mut().zip(header[4..].chunks_exact(4)) {
        *size = u32::from_be_bytes(bytes.try_into().expect("a chunk has 4 bytes")) as usize;
    }
    let values = sizes.iter().try_fold(1u64, |product, &size| product.checked_mul(size as u64));
    let wrong_length =
        |got: String| wrong(path, format!("declares {wanted} of {sizes:?}, but {got}: truncated or damaged"));
    let Some(bytes) = values.and_then(|values| values.checked_add(header_bytes)) else {
        return Err(wrong_length("no file can hold that".into()));
    };
    let Some(decoder) = decoder else {
        let same = file.len() == bytes;
        return if same {
            Ok((Content::File(file), sizes))
        } else {
            Err(wrong_length(format!("has {} bytes", file.len())))
        };
    };
    if bytes > file.len().saturating_mul(DEFLATE_RATIO) {
        return Err(wrong_length(format!("has only {} gzipped bytes", file.len())));
    }
    let mut content = header.to_vec();
    // One byte more than there should be: so the decoder comes to the end, and checks the sum there.
    let rest = decoder.take(bytes - header_bytes + 1).read_to_end(&mut content);
    match rest {
        Ok(_) if content.len() as u64 == bytes => Ok((Content::Memory(content), sizes)),
        Ok(_) => Err(wrong_length(format!("unpacks to another number of bytes than {bytes}"))),
        Err(error) => Err(wrong_length(format!("does not unpack: {error}"))),
    }
}
