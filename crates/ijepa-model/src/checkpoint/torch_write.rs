//! How is a file written that `torch.load` reads?
//!
//! A zip archive of uncompressed records: `archive/data.pkl` (protocol 2), `archive/data/N` (the numbers of tensor N, at a multiple of
//! 64 bytes so that they can be mapped into memory), `archive/byteorder` and `archive/version`. The pickle names the same few Python
//! objects that reading allows, so that `torch.load(…, weights_only=True)` takes it.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::CheckpointError;
use super::safetensors::write_values;
use super::write::write_whole;

/// A Python object.
#[derive(Debug, Clone)]
pub enum Object<'a> {
    /// `None`
    None,
    /// `True` or `False`
    Bool(bool),
    /// `int`
    Int(i64),
    /// `float`
    Float(f64),
    /// `str`
    Text(String),
    /// `list`
    List(Vec<Object<'a>>),
    /// `tuple`
    Tuple(Vec<Object<'a>>),
    /// `dict`, in this order
    Dict(Vec<(Object<'a>, Object<'a>)>),
    /// `torch.Tensor` of f32: extents and values, row-major.
    Tensor(Vec<usize>, &'a [f32]),
}

impl<'a> Object<'a> {
    /// A dictionary whose keys are texts.
    pub fn dict<'k>(pairs: impl IntoIterator<Item = (&'k str, Object<'a>)>) -> Object<'a> {
        Object::Dict(pairs.into_iter().map(|(key, value)| (Object::Text(key.to_string()), value)).collect())
    }
}

/// Writes an object as `torch.save` would: under a temporary name, synced, renamed.
///
/// # Errors
/// When the disk refuses; an older file of that name is then untouched.
pub fn write_torch(path: &Path, object: &Object) -> Result<(), CheckpointError> {
    let mut pickle = Pickle { bytes: vec![0x80, 2], storages: Vec::new() };
    pickle.put(object);
    pickle.bytes.push(b'.');
    let Pickle { bytes, storages } = pickle;
    write_whole(path, |file| {
        let mut archive = ZipWriter::new(BufWriter::new(file));
        let options = |len: usize| {
            SimpleFileOptions::default()
                .compression_method(CompressionMethod::Stored)
                .with_alignment(64)
                .large_file(len >= u32::MAX as usize)
        };
        let mut record = |name: &str, bytes: &[u8]| -> io::Result<()> {
            archive.start_file(format!("archive/{name}"), options(bytes.len()))?;
            archive.write_all(bytes)
        };
        record("data.pkl", &bytes)?;
        record("byteorder", b"little")?;
        for (number, values) in storages.iter().enumerate() {
            archive.start_file(format!("archive/data/{number}"), options(size_of_val(*values)))?;
            write_values(&mut archive, values)?;
        }
        archive.start_file("archive/version", options(2))?;
        archive.write_all(b"3\n")?;
        archive.finish()?.flush()
    })
}

struct Pickle<'a> {
    bytes: Vec<u8>,
    storages: Vec<&'a [f32]>,
}

impl<'a> Pickle<'a> {
    fn put(&mut self, object: &Object<'a>) {
        match object {
            Object::None => self.bytes.push(b'N'),
            Object::Bool(value) => self.bytes.push(if *value { 0x88 } else { 0x89 }),
            Object::Int(value) => self.int(*value),
            Object::Float(value) => {
                self.bytes.push(b'G');
                self.bytes.extend(value.to_be_bytes());
            }
            Object::Text(text) => self.text(text),
            Object::List(items) => {
                self.bytes.extend(b"](");
                items.iter().for_each(|item| self.put(item));
                self.bytes.push(b'e');
            }
            Object::Tuple(items) => {
                self.bytes.push(b'(');
                items.iter().for_each(|item| self.put(item));
                self.bytes.push(b't');
            }
            Object::Dict(pairs) => {
                self.bytes.extend(b"}(");
                for (key, value) in pairs {
                    self.put(key);
                    self.put(value);
                }
                self.bytes.push(b'u');
            }
            Object::Tensor(shape, values) => self.tensor(shape, values),
        }
    }

    fn int(&mut self, value: i64) {
        match i32::try_from(value) {
            Ok(value) => {
                self.bytes.push(b'J');
                self.bytes.extend(value.to_le_bytes());
            }
            Err(_) => {
                self.bytes.extend([0x8a, 8]);
                self.bytes.extend(value.to_le_bytes());
            }
        }
    }

    fn text(&mut self, text: &str) {
        let len = u32::try_from(text.len()).expect("names and settings are short");
        self.bytes.push(b'X');
        self.bytes.extend(len.to_le_bytes());
        self.bytes.extend(text.as_bytes());
    }

    /// `torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())`
    fn tensor(&mut self, shape: &[usize], values: &'a [f32]) {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "a tensor of shape {shape:?}");
        let key = self.storages.len().to_string();
        self.storages.push(values);
        self.bytes.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        self.text("storage");
        self.bytes.extend(b"ctorch\nFloatStorage\n");
        self.text(&key);
        self.text("cpu");
        self.int(values.len() as i64);
        self.bytes.extend(b"tQ");
        self.int(0);
        let strides: Vec<usize> = (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect();
        for extents in [shape, &strides] {
            self.bytes.push(b'(');
            extents.iter().for_each(|&extent| self.int(extent as i64));
            self.bytes.push(b't');
        }
        self.bytes.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
}
