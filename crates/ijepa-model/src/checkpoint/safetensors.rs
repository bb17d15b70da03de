//! How does a safetensors file list its tensors, and how is ours written?
//!
//! Format: 8 bytes of header length (little-endian), a JSON header `{"__metadata__": {text: text}, name: {"dtype", "shape",
//! "data_offsets": [begin, end]}}`, then the data, which the offsets tile without gap or overlap
//! (<https://huggingface.co/docs/safetensors>). Writing streams from the caller's slices through one small buffer.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use safetensors::Dtype;
use serde_json::{Map, Value, json};

use super::index::{Container, Entry, Index, Place};
use super::write::write_whole;
use super::{CheckpointError, EXP_AVG, EXP_AVG_SQ, Meta, Network, Source};

/// The longest header that the format allows.
const HEADER_MAX: u64 = 100_000_000;

/// Bytes handed to the operating system at once when writing.
const BUFFER: usize = 1 << 18;

/// Metadata keys that are fields of [`Meta`] or belong to the format.
const RESERVED: [&str; 11] =
    ["format", "ijepa.version", "step", "epoch", "method", "seed", "config", "optimizer.step", HEADS, IMAGE, NETWORK];
/// Keys of what shapes do not tell, in the metadata of safetensors files and the dictionaries of PyTorch's.
pub const HEADS: &str = "ijepa.heads";
/// Height x width.
pub const IMAGE: &str = "ijepa.image";
const NETWORK: &str = "ijepa.network";

/// A named tensor somewhere in memory, to be written.
#[derive(Debug, Clone)]
pub struct View<'a> {
    /// Full name, `encoder.…` or `optimizer.exp_avg.encoder.…`.
    pub name: String,
    /// Extents, outermost first.
    pub shape: &'a [usize],
    /// As many as the product of `shape`.
    pub values: &'a [f32],
}

/// Lists the tensors of a safetensors file.
pub(super) fn open(mut container: Container) -> Result<Index, CheckpointError> {
    let (header, data_start) = read_header(&mut container)?;
    let mut entries = Vec::with_capacity(header.len());
    let mut texts = BTreeMap::new();
    for (name, value) in header {
        if name == "__metadata__" {
            texts = metadata(&container, value)?;
        } else {
            entries.push(entry(&container, name, &value, data_start)?);
        }
    }
    check_tiling(&container, &mut entries, data_start)?;

    let ours = texts.contains_key("ijepa.version");
    let (meta, optimizer_step) = if ours {
        our_meta(&container, texts)?
    } else {
        for entry in &mut entries {
            entry.name = without_prefix(&entry.name).to_string();
        }
        (other_meta(&container, texts)?, None)
    };
    check_names(&container, &entries)?;
    if ours {
        check_moments(&container, &entries, optimizer_step)?;
    }
    Ok(Index {
        format: "safetensors",
        entries,
        optimizer_step,
        optimizer_problem: None,
        meta: Meta { path: Some(container.path.clone()), ..meta },
        notes: Vec::new(),
        containers: vec![container],
    })
}

/// The JSON header, and the position of the first byte of data.
fn read_header(container: &mut Container) -> Result<(Map<String, Value>, u64), CheckpointError> {
    let mut length = [0; 8];
    container.read_at(&mut length, 0, "the header's length")?;
    let length = u64::from_le_bytes(length);
    let room = HEADER_MAX.min(container.len - 8);
    if length > room {
        let expected = format!("a header length of at most {room} bytes");
        return Err(container.malformed("first 8 bytes", expected, length.to_string()));
    }
    let mut text = vec![0; length as usize];
    container.read_at(&mut text, 8, "the header")?;
    match serde_json::from_slice(&text) {
        Ok(Value::Object(header)) => Ok((header, 8 + length)),
        Ok(_) => Err(container.malformed("header", "a JSON object", "other JSON")),
        Err(e) => Err(container.malformed("header", "a JSON object", e.to_string())),
    }
}

fn metadata(container: &Container, value: Value) -> Result<BTreeMap<String, String>, CheckpointError> {
    let Value::Object(map) = value else {
        return Err(container.malformed("header, __metadata__", "an object of texts", value.to_string()));
    };
    map.into_iter()
        .map(|(key, value)| match value {
            Value::String(text) => Ok((key, text)),
            other => Err(container.malformed(format!("header, __metadata__, {key}"), "a text", other.to_string())),
        })
        .collect()
}

/// One tensor of the header: its type is known, its shape fits its offsets, and these lie in the file.
fn entry(container: &Container, name: String, value: &Value, data_start: u64) -> Result<Entry, CheckpointError> {
    let bad = |expected: &str, key: &str| {
        let got = value.get(key).map_or("nothing".to_string(), Value::to_string);
        container.malformed(format!("header, tensor {name:?}, {key}"), expected, shorten(got))
    };
    let numbers = |key: &str| -> Option<Vec<usize>> {
        let list = value.get(key)?.as_array()?;
        list.iter().map(|n| usize::try_from(n.as_u64()?).ok()).collect()
    };
    let dtype = value.get("dtype").cloned().unwrap_or_default();
    let Ok(dtype) = serde_json::from_value::<Dtype>(dtype) else {
        return Err(bad("an element type of the safetensors format", "dtype"));
    };
    let shape = numbers("shape");
    let bits = shape.as_ref().and_then(|shape| {
        let elements = shape.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent))?;
        elements.checked_mul(dtype.bitsize())
    });
    let (Some(shape), Some(bits)) = (shape, bits) else {
        return Err(bad("a list of extents whose product fits 64 bits", "shape"));
    };
    let room = container.len - data_start;
    let (begin, end) = match numbers("data_offsets").as_deref() {
        Some(&[begin, end]) if begin <= end && end as u64 <= room => (begin, end),
        _ => {
            let expected = format!("[begin, end] within the {room} bytes of data in the file");
            return Err(bad(&expected, "data_offsets"));
        }
    };
    if !bits.is_multiple_of(8) || end - begin != bits / 8 {
        let expected = format!("{} bytes for {dtype} of shape {shape:?}", bits.div_ceil(8));
        return Err(bad(&expected, "data_offsets"));
    }
    Ok(Entry {
        name,
        dtype,
        shape,
        strides: None,
        first: 0,
        container: 0,
        place: Place::Plain { at: data_start + begin as u64, len: (end - begin) as u64 },
    })
}

/// The data belongs to exactly one tensor each, up to the end of the file.
fn check_tiling(container: &Container, entries: &mut [Entry], data_start: u64) -> Result<(), CheckpointError> {
    entries.sort_by_key(|entry| entry.place);
    let mut next = data_start;
    for entry in entries {
        let Place::Plain { at, len } = entry.place else {
            unreachable!("safetensors entries are plain stretches of the file");
        };
        if at != next {
            return Err(container.malformed(
                format!("header, tensor {:?}, data_offsets", entry.name),
                format!("data from byte {} on, without gap or overlap", next - data_start),
                format!("byte {}", at - data_start),
            ));
        }
        next += len;
    }
    if next != container.len {
        return Err(container.malformed(
            "end of the file",
            format!("{next} bytes, where the last tensor ends"),
            format!("{} bytes", container.len),
        ));
    }
    Ok(())
}

/// The metadata of a file of ours, and the optimiser's step.
fn our_meta(
    container: &Container,
    mut texts: BTreeMap<String, String>,
) -> Result<(Meta, Option<u64>), CheckpointError> {
    let mut number = |key: &str| match texts.remove(key) {
        None => Ok(None),
        Some(text) => text.parse::<u64>().map(Some).map_err(|_| {
            let place = format!("header, __metadata__, {key}");
            container.malformed(place, "a natural number", format!("{text:?}"))
        }),
    };
    let (step, epoch, seed) = (number("step")?, number("epoch")?, number("seed")?);
    let optimizer_step = number("optimizer.step")?;
    let (version, method) = (texts.remove("ijepa.version"), texts.remove("method"));
    let meta = Meta { source: Source::Ours, version, step, epoch, method, seed, ..other_meta(container, texts)? };
    Ok((meta, optimizer_step))
}

/// What a file may say of an encoder: its sizes where shapes do not tell them, and which one it is.
fn other_meta(container: &Container, mut texts: BTreeMap<String, String>) -> Result<Meta, CheckpointError> {
    texts.remove("format");
    let mut read = |key: &str, expected: &str, accepts: &dyn Fn(&str) -> bool| match texts.remove(key) {
        Some(text) if !accepts(&text) => {
            let place = format!("header, __metadata__, {key}");
            Err(container.malformed(place, expected, shorten(format!("{text:?}"))))
        }
        text => Ok(text),
    };
    let positive = |text: &str| text.parse::<usize>().ok().filter(|n| *n > 0);
    let heads = read(HEADS, "a number above 0", &|text| positive(text).is_some())?;
    let size = read(IMAGE, "height x width, as in 224x224", &|text| image_size(text).is_some())?;
    let network = read(NETWORK, "target or context", &|text| Network::named(text).is_some())?;
    // Others may mean something else by these words: what is no number stays as it is.
    let mut number = |key: &str| {
        let number = texts.get(key)?.parse::<u64>().ok()?;
        texts.remove(key);
        Some(number)
    };
    let (step, epoch, seed) = (number("step"), number("epoch"), number("seed"));
    Ok(Meta {
        source: Source::Other,
        step,
        epoch,
        seed,
        method: texts.remove("method"),
        heads: heads.as_deref().and_then(positive),
        image: size.as_deref().and_then(image_size),
        network: network.as_deref().and_then(Network::named),
        config: texts.remove("config"),
        other: texts,
        ..Meta::default()
    })
}

/// Height and width from `224x336`.
pub(super) fn image_size(text: &str) -> Option<(usize, usize)> {
    let side = |text: &str| text.parse().ok().filter(|side| (1..=1 << 20).contains(side));
    let (height, width) = text.split_once('x')?;
    Some((side(height)?, side(width)?))
}

/// A name without what wrappers put before it: `module.` of DataParallel and DDP, `backbone.` of V-JEPA.
pub(super) fn without_prefix(mut name: &str) -> &str {
    while let Some(rest) = name.strip_prefix("module.").or_else(|| name.strip_prefix("backbone.")) {
        name = rest;
    }
    name
}

/// Dropping `module.` may have made two names one.
pub(super) fn check_names(container: &Container, entries: &[Entry]) -> Result<(), CheckpointError> {
    let mut names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => Err(container.malformed("tensor names", "each name once", format!("{} twice", pair[0]))),
    }
}

/// Both moments of a parameter are there or neither, in its shape, and the step that they belong to is known.
fn check_moments(container: &Container, entries: &[Entry], optimizer_step: Option<u64>) -> Result<(), CheckpointError> {
    let shapes: BTreeMap<&str, &[usize]> =
        entries.iter().map(|entry| (entry.name.as_str(), entry.shape.as_slice())).collect();
    for (&name, &shape) in &shapes {
        let parameter = match (name.strip_prefix(EXP_AVG), name.strip_prefix(EXP_AVG_SQ)) {
            (Some(parameter), _) | (_, Some(parameter)) => parameter,
            _ => continue,
        };
        for owner in [parameter.to_string(), format!("{EXP_AVG}{parameter}"), format!("{EXP_AVG_SQ}{parameter}")] {
            if shapes.get(owner.as_str()) != Some(&shape) {
                let got = shapes.get(owner.as_str()).map_or("none".to_string(), |shape| format!("shape {shape:?}"));
                let expected = format!("a tensor {owner} of shape {shape:?}");
                return Err(container.malformed(format!("tensor {name}"), expected, got));
            }
        }
        if optimizer_step.is_none() {
            let expected = "the optimiser's step, since there are moments";
            return Err(container.malformed("header, __metadata__, optimizer.step", expected, "none"));
        }
    }
    Ok(())
}

/// Writes a checkpoint from values that lie anywhere, as [`super::write()`] does; `optimizer_step` goes with moments, and only then.
///
/// [`Source::Other`] in `meta` makes a file that does not claim to be a checkpoint of ours: bare names, as timm reads them.
///
/// # Panics
/// When a view has not as many values as its shape says, a name occurs twice, or moments come without their step.
pub fn write_views(
    path: &Path,
    meta: &Meta,
    optimizer_step: Option<u64>,
    tensors: &[View<'_>],
) -> Result<(), CheckpointError> {
    let header = header(meta, optimizer_step, tensors);
    write_whole(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        tensors.iter().try_for_each(|tensor| write_values(file, tensor.values))
    })
}

/// Values as little-endian bytes, through one small buffer.
pub(crate) fn write_values(to: &mut impl Write, values: &[f32]) -> std::io::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER.min(size_of_val(values)));
    for values in values.chunks(BUFFER / size_of::<f32>()) {
        buffer.clear();
        buffer.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        to.write_all(&buffer)?;
    }
    Ok(())
}

/// The metadata of a file.
fn texts(meta: &Meta, optimizer_step: Option<u64>) -> Map<String, Value> {
    let others = meta.other.iter().filter(|(key, _)| !RESERVED.contains(&key.as_str()));
    let mut texts: Map<String, Value> = others.map(|(key, text)| (key.clone(), json!(text))).collect();
    let number = |n: Option<u64>| n.map(|n| n.to_string());
    for (key, text) in [
        ("format", Some("pt".to_string())),
        ("ijepa.version", (meta.source != Source::Other).then(|| env!("CARGO_PKG_VERSION").to_string())),
        ("step", number(meta.step)),
        ("epoch", number(meta.epoch)),
        ("method", meta.method.clone()),
        ("seed", number(meta.seed)),
        ("config", meta.config.clone()),
        ("optimizer.step", number(optimizer_step)),
        (HEADS, meta.heads.map(|heads| heads.to_string())),
        (IMAGE, meta.image.map(|(height, width)| format!("{height}x{width}"))),
        (NETWORK, meta.network.map(|network| network.name().to_string())),
    ] {
        if let Some(text) = text {
            texts.insert(key.to_string(), json!(text));
        }
    }
    texts
}

/// The JSON header, padded with spaces so that the data starts at a multiple of 8.
fn header(meta: &Meta, optimizer_step: Option<u64>, tensors: &[View<'_>]) -> String {
    let mut map = Map::new();
    map.insert("__metadata__".to_string(), Value::Object(texts(meta, optimizer_step)));
    let mut begin = 0;
    for tensor in tensors {
        let elements: usize = tensor.shape.iter().product();
        assert_eq!(elements, tensor.values.len(), "tensor {} has shape {:?}", tensor.name, tensor.shape);
        assert!(
            optimizer_step.is_some() || !tensor.name.starts_with("optimizer."),
            "{} comes without the optimiser's step",
            tensor.name
        );
        let end = begin + elements * size_of::<f32>();
        let entry = json!({"dtype": "F32", "shape": tensor.shape, "data_offsets": [begin, end]});
        let before = map.insert(tensor.name.clone(), entry);
        assert!(before.is_none(), "tensor {} is given twice", tensor.name);
        begin = end;
    }
    let mut text = Value::Object(map).to_string();
    text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
    text
}

fn shorten(mut text: String) -> String {
    const SHOWN: usize = 80;
    if let Some((cut, _)) = text.char_indices().nth(SHOWN) {
        text.truncate(cut);
        text.push('…');
    }
    text
}
