//! How does a model get to the disk: weights inside the file, or in a second one beside it?
//!
//! Protobuf holds at most 2 GiB, so that larger models keep their weights in another file
//! (<https://github.com/onnx/onnx/blob/main/docs/ExternalData.md>). Either way weights stream from the blob through one small
//! buffer: a message is its fields one after the other, so the graph's weights are simply written after its other fields.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use ijepa_tensor::Buf;
use prost::Message;

use super::proto::{EXTERNAL, FLOAT, ModelProto, StringStringEntryProto, TensorProto};
use crate::checkpoint::{CheckpointError, write_values, write_whole};
use crate::params::Entry;

/// Values that are put in order at a time.
const BUFFER: usize = 1 << 18;

/// External values begin at multiples of this, one page, so that readers can map them.
const ALIGNMENT: u64 = 4096;

/// A parameter, as it is stored.
///
/// A linear layer's weight, (outputs, inputs) in checkpoints, is stored transposed, as `MatMul` takes it. With `Transpose` nodes
/// instead, onnxruntime computes the same numbers as fast once its optimiser has folded them, but needs a quarter more memory
/// to start, and a quarter more time for an image where the optimiser is off. Positions are (n, d), without the 1 of checkpoints.
pub(super) struct Weight<'a> {
    name: String,
    dims: Vec<usize>,
    values: &'a [f32],
    transposed: bool,
}

impl<'a> Weight<'a> {
    /// A parameter of a blob, without the name of its network.
    pub(super) fn new(entry: &Entry, network: &str, blob: &'a Buf) -> Weight<'a> {
        let name = entry.name.strip_prefix(network).unwrap_or(&entry.name).to_owned();
        let values = &blob.as_slice()[entry.slot.range()];
        let (dims, transposed) = match entry.shape[..] {
            [outputs, inputs] => (vec![inputs, outputs], true),
            [1, n, d] if name.ends_with("pos_embed") => (vec![n, d], false),
            ref shape => (shape.to_vec(), false),
        };
        Weight { name, dims, values, transposed }
    }

    fn bytes(&self) -> u64 {
        size_of_val(self.values) as u64
    }

    /// The message that describes it, values excepted.
    fn head(&self) -> TensorProto {
        TensorProto {
            name: self.name.clone(),
            dims: self.dims.iter().map(|&extent| extent as i64).collect(),
            data_type: FLOAT,
            ..TensorProto::default()
        }
    }

    /// Its values in the order of `dims`, little-endian.
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        if !self.transposed {
            return self.values.chunks(BUFFER).try_for_each(|values| write_values(out, values));
        }
        let (inputs, outputs) = (self.dims[0], self.dims[1]);
        let rows = (BUFFER / outputs).clamp(1, inputs);
        let mut block = vec![0.0; rows * outputs];
        for first in (0..inputs).step_by(rows) {
            let rows = rows.min(inputs - first);
            for (output, row) in self.values.chunks_exact(inputs).enumerate() {
                for (input, value) in row[first..first + rows].iter().enumerate() {
                    block[input * outputs + output] = *value;
                }
            }
            write_values(out, &block[..rows * outputs])?;
        }
        Ok(())
    }
}

/// Writes a model whose graph lacks `weights` yet: inside the file when they have at most `inline_bytes` bytes together, else
/// in `<name>.data` beside it, which is then returned.
///
/// Files appear whole or not at all. Of two files the second is renamed while the first is complete and only waits to be: what a
/// crash can leave between the two is an older graph beside new weights.
pub(super) fn write(
    path: &Path,
    mut model: ModelProto,
    weights: &[Weight],
    inline_bytes: u64,
) -> Result<Option<PathBuf>, CheckpointError> {
    if weights.iter().map(Weight::bytes).sum::<u64>() <= inline_bytes {
        write_whole(path, |file| write_inline(&mut BufWriter::new(file), model, weights))?;
        return Ok(None);
    }
    let location = data_name(path)?;
    let data = path.with_file_name(&location);
    let offsets = offsets(weights);
    let graph = model.graph.get_or_insert_default();
    graph.initializer.extend(weights.iter().zip(&offsets).map(|(weight, offset)| external(weight, &location, *offset)));

    let mut refused = None;
    let written = write_whole(path, |file| {
        file.write_all(&model.encode_to_vec())?;
        write_whole(&data, |file| write_external(&mut BufWriter::new(file), weights, &offsets)).map_err(|error| {
            let said = io::Error::other(error.to_string());
            refused = Some(error);
            said
        })
    });
    match refused {
        Some(error) => Err(error),
        None => written.map(|()| Some(data)),
    }
}

/// The name of the file of weights, which the model holds as UTF-8.
fn data_name(path: &Path) -> Result<String, CheckpointError> {
    let name = path.file_name().unwrap_or_default().to_str().map(|name| format!("{name}.data"));
    name.ok_or_else(|| CheckpointError::Write {
        path: path.to_path_buf(),
        action: "name a file of weights beside it".to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidInput, "expected a file name in UTF-8"),
    })
}

/// The model with its weights as the last fields of its graph, and the graph as the last field of the model.
fn write_inline(out: &mut impl Write, mut model: ModelProto, weights: &[Weight]) -> io::Result<()> {
    // A field is its number and kind (2, length-delimited), its length, its content.
    let field = |number: u8, content: u64| {
        let mut head = vec![(number << 3) | 2];
        prost::encode_length_delimiter(content as usize, &mut head).expect("a vector grows");
        head
    };
    let (graph_number, initializer_number, raw_data_number) = (7, 5, 9);

    let graph = model.graph.take().unwrap_or_default().encode_to_vec();
    let mut graph_bytes = graph.len() as u64;
    let mut heads = Vec::with_capacity(weights.len());
    for weight in weights {
        let mut content = weight.head().encode_to_vec();
        content.extend(field(raw_data_number, weight.bytes()));
        let content_bytes = content.len() as u64 + weight.bytes();
        let mut head = field(initializer_number, content_bytes);
        head.extend(content);
        graph_bytes += head.len() as u64 + weight.bytes();
        heads.push(head);
    }
    out.write_all(&model.encode_to_vec())?;
    out.write_all(&field(graph_number, graph_bytes))?;
    out.write_all(&graph)?;
    for (head, weight) in heads.iter().zip(weights) {
        out.write_all(head)?;
        weight.write(out)?;
    }
    out.flush()
}

/// Where each weight begins in the file of weights.
fn offsets(weights: &[Weight]) -> Vec<u64> {
    let mut end = 0u64;
    let place = |weight: &Weight| {
        let offset = end.next_multiple_of(ALIGNMENT);
        end = offset + weight.bytes();
        offset
    };
    weights.iter().map(place).collect()
}

/// The message that says where a weight lies.
fn external(weight: &Weight, location: &str, offset: u64) -> TensorProto {
    let entry = |(key, value): (&str, String)| StringStringEntryProto { key: key.to_owned(), value };
    let place =
        [("location", location.to_owned()), ("offset", offset.to_string()), ("length", weight.bytes().to_string())];
    TensorProto { external_data: place.map(entry).to_vec(), data_location: EXTERNAL, ..weight.head() }
}

fn write_external(out: &mut impl Write, weights: &[Weight], offsets: &[u64]) -> io::Result<()> {
    let mut end = 0;
    for (weight, offset) in weights.iter().zip(offsets) {
        out.write_all(&vec![0; (offset - end) as usize])?;
        weight.write(out)?;
        end = offset + weight.bytes();
    }
    out.flush()
}
