//! Writes pickles and PyTorch archives byte by byte, honest or not, for the tests of the reader.

use std::io::{Cursor, Write};
use std::path::PathBuf;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// A pickle fragment that leaves one value on the stack.
pub(crate) type Code = Vec<u8>;

pub(crate) fn int(value: i64) -> Code {
    match i32::try_from(value) {
        Ok(small) => [&b"J"[..], &small.to_le_bytes()].concat(),
        Err(_) => [&b"\x8a\x08"[..], &value.to_le_bytes()].concat(),
    }
}

pub(crate) fn float(value: f64) -> Code {
    [&b"G"[..], &value.to_be_bytes()].concat()
}

pub(crate) fn text(value: &str) -> Code {
    let len = u32::try_from(value.len()).expect("short");
    [b"X", len.to_le_bytes().as_slice(), value.as_bytes()].concat()
}

pub(crate) fn tuple(items: &[Code]) -> Code {
    [b"(", items.concat().as_slice(), b"t"].concat()
}

pub(crate) fn list(items: &[Code]) -> Code {
    [b"](", items.concat().as_slice(), b"e"].concat()
}

pub(crate) fn dict(pairs: &[(Code, Code)]) -> Code {
    let body: Vec<u8> = pairs.iter().flat_map(|(k, v)| [k.clone(), v.clone()].concat()).collect();
    [b"}(", body.as_slice(), b"u"].concat()
}

/// A dictionary with text keys.
pub(crate) fn named(pairs: &[(&str, Code)]) -> Code {
    let pairs: Vec<(Code, Code)> = pairs.iter().map(|(k, v)| (text(k), v.clone())).collect();
    dict(&pairs)
}

pub(crate) fn global(module: &str, name: &str) -> Code {
    format!("c{module}\n{name}\n").into_bytes()
}

pub(crate) fn call(function: Code, arguments: &[Code]) -> Code {
    [function.as_slice(), &tuple(arguments), b"R"].concat()
}

/// A tensor as `torch.save` writes it; every number may be a lie.
#[derive(Clone)]
pub(crate) struct Claim {
    pub(crate) storage: &'static str,
    pub(crate) key: &'static str,
    pub(crate) elements: i64,
    pub(crate) first: i64,
    pub(crate) shape: Vec<i64>,
    pub(crate) strides: Vec<i64>,
}

/// An honest (2, 3) tensor over record `0` with six f32.
pub(crate) const HONEST: fn() -> Claim =
    || Claim { storage: "FloatStorage", key: "0", elements: 6, first: 0, shape: vec![2, 3], strides: vec![3, 1] };

pub(crate) fn tensor(claim: &Claim) -> Code {
    tensor_with(claim, &[])
}

/// With further parts of the storage's identity, of which files from before PyTorch 1.6 have one.
pub(crate) fn tensor_with(claim: &Claim, further: &[Code]) -> Code {
    let identity = [text("storage"), global("torch", claim.storage), text(claim.key), text("cpu"), int(claim.elements)];
    let storage = tuple(&[&identity, further].concat());
    let integers = |numbers: &[i64]| tuple(&numbers.iter().map(|&n| int(n)).collect::<Vec<_>>());
    call(
        global("torch._utils", "_rebuild_tensor_v2"),
        &[
            [storage.as_slice(), b"Q"].concat(),
            int(claim.first),
            integers(&claim.shape),
            integers(&claim.strides),
            b"\x89".to_vec(),
            call(global("collections", "OrderedDict"), &[]),
        ],
    )
}

pub(crate) fn pickle(body: &[u8]) -> Vec<u8> {
    [b"\x80\x02", body, b"."].concat()
}

pub(crate) fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Six f32, for [`HONEST`].
pub(crate) fn six() -> Vec<u8> {
    f32s(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
}

/// An archive with these records, all names given in full.
pub(crate) fn zip(method: CompressionMethod, records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method);
    for (name, bytes) in records {
        writer.start_file(*name, options).expect("in memory");
        writer.write_all(bytes).expect("in memory");
    }
    writer.finish().expect("in memory").into_inner()
}

/// An archive as `torch.save` lays it out, with one storage record `0`.
pub(crate) fn archive(body: &[u8], record: &[u8]) -> Vec<u8> {
    zip(
        CompressionMethod::Stored,
        &[
            ("archive/data.pkl", &pickle(body)),
            ("archive/byteorder", b"little"),
            ("archive/data/0", record),
            ("archive/version", b"3\n"),
        ],
    )
}

/// A scratch folder with one file in it.
pub(crate) struct Scratch {
    _folder: tempfile::TempDir,
    pub(crate) path: PathBuf,
}

/// Writes `bytes` under a name that says nothing about them.
pub(crate) fn scratch(bytes: &[u8]) -> Scratch {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("file.bin");
    std::fs::write(&path, bytes).expect("a scratch file");
    Scratch { _folder: folder, path }
}
