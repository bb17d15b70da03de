//! Where do the tensors of a file from before PyTorch 1.6 lie?
//!
//! Five parts follow each other: three small pickles (a magic number, the version 1001, a dictionary about the machine), the pickle of
//! the objects, the pickle of a list of storage keys; then, for each key in that order, the number of elements (i64) and the elements.
//! `torch.save(…, _use_new_zipfile_serialization=False)` still writes it.

use std::collections::HashMap;

use safetensors::Dtype;

use super::index::{Container, Index, Place};
use super::pickle::{Pickle, Storage, Value};
use super::torch::{PICKLE_MAX, Records};
use super::unpickle::unpickle;
use super::{CheckpointError, reference};

/// The pickles of the magic number 0x1950a86a20f9469cfc6c and of the version, byte for byte as protocol 2 has them.
const BEGINNING: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";

/// Whether a file begins like one.
pub(super) fn is(head: &[u8]) -> bool {
    head.starts_with(BEGINNING)
}

/// Lists the tensors of a file that begins like one.
pub(super) fn open(mut container: Container) -> Result<Index, CheckpointError> {
    let mut bytes = vec![0; container.len.min(PICKLE_MAX) as usize];
    container.read_at(&mut bytes, 0, "the pickles")?;
    let mut at = BEGINNING.len();
    let mut next = |place: &str| -> Result<Pickle, CheckpointError> {
        let (pickle, len) = unpickle(&bytes[at..], &container.path, place)?;
        at += len;
        Ok(pickle)
    };
    let machine = next("pickle of the machine")?;
    let objects = next("pickle of the objects")?;
    let keys = next("pickle of the storage keys")?;
    match machine.lookup(machine.root(), "little_endian") {
        Some(Value::Bool(true)) => {}
        Some(Value::Bool(false)) => {
            return Err(CheckpointError::Unsupported {
                path: container.path.clone(),
                place: "pickle of the machine".to_string(),
                found: "big-endian numbers".to_string(),
                supported: "little-endian ones",
            });
        }
        other => {
            let got = other.map_or("none".to_string(), Value::describe);
            return Err(container.malformed("pickle of the machine", "little_endian, true or false", got));
        }
    }
    let storages = storages(&mut container, &objects, &keys, at as u64)?;
    reference::interpret(&objects, Records::of_storages(container, storages), "PyTorch file from before 1.6")
}

/// Where the elements of each storage lie, from byte `at` on.
fn storages(
    container: &mut Container,
    objects: &Pickle,
    keys: &Pickle,
    mut at: u64,
) -> Result<HashMap<String, Place>, CheckpointError> {
    let mut known: HashMap<&str, (Dtype, i64)> = HashMap::new();
    for (key, storage) in objects.values.iter().filter_map(storage) {
        let first = *known.entry(key).or_insert(storage);
        if first != storage {
            let said = |(dtype, elements): (Dtype, i64)| format!("{elements} elements of {dtype}");
            return Err(container.malformed(format!("storage {key}"), said(first), said(storage)));
        }
    }
    let Value::List(list) = keys.root() else {
        let got = keys.root().describe();
        return Err(container.malformed("pickle of the storage keys", "a list of texts", got));
    };
    // Not with room for the whole list, which may name one key many million times.
    let mut places = HashMap::with_capacity(list.len().min(known.len()));
    for key in list {
        let known = match keys.get(*key) {
            Value::Text(key) => known.get(&**key).map(|storage| (key, *storage)),
            _ => None,
        };
        let Some((key, (dtype, elements))) = known else {
            let expected = "the key of a storage that the objects name";
            return Err(container.malformed("pickle of the storage keys", expected, keys.get(*key).describe()));
        };
        let place = format!("storage {key}");
        let mut count = [0; 8];
        if at.checked_add(8).is_none_or(|end| end > container.len) {
            return Err(container.malformed(place, "its number of elements", "the end of the file"));
        }
        container.read_at(&mut count, at, &place)?;
        if i64::from_le_bytes(count) != elements {
            let got = i64::from_le_bytes(count).to_string();
            return Err(container.malformed(place, format!("{elements} elements, as its tensors say"), got));
        }
        at += 8;
        let len = u64::try_from(elements).ok().and_then(|n| n.checked_mul(dtype.bitsize() as u64 / 8));
        let Some(len) = len.filter(|len| *len <= container.len - at) else {
            let got = format!("{} bytes to the end of the file", container.len - at);
            return Err(container.malformed(place, format!("{elements} elements of {dtype}"), got));
        };
        if places.insert(key.to_string(), Place::Plain { at, len }).is_some() {
            return Err(container.malformed("pickle of the storage keys", "each key once", format!("{key} twice")));
        }
        at += len;
    }
    if at != container.len {
        let expected = format!("the end of the file after {at} bytes");
        return Err(container.malformed("storages", expected, format!("{} bytes", container.len)));
    }
    Ok(places)
}

fn storage(value: &Value) -> Option<(&str, (Dtype, i64))> {
    let Storage { dtype, key, elements } = match value {
        Value::Storage(storage) => storage,
        Value::Tensor(tensor) => &tensor.storage,
        _ => return None,
    };
    Some((key, (*dtype, *elements)))
}
