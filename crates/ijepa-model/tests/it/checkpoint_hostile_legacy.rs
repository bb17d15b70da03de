//! Files from before PyTorch 1.6 that lie. Each test tells one lie and asks for the error that names it.

use ijepa_model::checkpoint::{self, CheckpointError};

use crate::checkpoint_hostile::{malformed, refused};
use crate::checkpoint_pickle::{
    Claim, Code, HONEST, dict, int, list, named, pickle, scratch, six, tensor, tensor_with, text, tuple,
};

const LITTLE: &[u8] = b"\x88";

/// What such a file consists of, after the magic number and the version.
struct File {
    machine: Code,
    objects: Code,
    keys: Code,
    /// Numbers of elements, and elements.
    storages: Vec<(i64, Vec<u8>)>,
    behind: &'static [u8],
}

fn honest() -> File {
    let whole = tensor_with(&HONEST(), &[b"N".to_vec()]);
    File {
        machine: named(&[("protocol_version", int(1001)), ("little_endian", LITTLE.to_vec())]),
        objects: named(&[("module.weight", whole)]),
        keys: list(&[text("0")]),
        storages: vec![(6, six())],
        behind: b"",
    }
}

fn written(file: &File) -> Vec<u8> {
    // The number 0x1950a86a20f9469cfc6c and the version 1001.
    let magic = pickle(b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19");
    let version = pickle(b"M\xe9\x03");
    let mut bytes = [magic, version, pickle(&file.machine), pickle(&file.objects), pickle(&file.keys)].concat();
    for (elements, values) in &file.storages {
        bytes.extend(elements.to_le_bytes());
        bytes.extend(values);
    }
    bytes.extend(file.behind);
    bytes
}

fn lying(change: impl FnOnce(&mut File)) -> Vec<u8> {
    let mut file = honest();
    change(&mut file);
    written(&file)
}

#[test]
fn the_honest_file_that_the_lies_start_from_is_read() {
    let file = scratch(&written(&honest()));
    let read = checkpoint::read(&file.path).expect("honest");
    assert_eq!(read.tensors["weight"].shape, [2, 3]);
    assert_eq!(read.tensors["weight"].values, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(checkpoint::list(&file.path).expect("honest").format, "PyTorch file from before 1.6");
}

#[test]
fn storages_are_found_in_the_order_of_their_keys() {
    let claim = |key| Claim { key, elements: 1, shape: vec![1], strides: vec![1], ..HONEST() };
    let bytes = lying(|file| {
        file.objects = named(&[("a", tensor(&claim("7"))), ("b", tensor(&claim("3")))]);
        file.keys = list(&[text("3"), text("7")]);
        file.storages = [30.0f32, 70.0].map(|value| (1, value.to_le_bytes().to_vec())).to_vec();
    });
    let read = checkpoint::read(&scratch(&bytes).path).expect("honest");
    assert_eq!((read.tensors["a"].values[0], read.tensors["b"].values[0]), (70.0, 30.0));
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = written(&honest());
    for len in 0..whole.len() {
        let error = refused(&whole[..len]);
        let told = match len {
            0..21 => matches!(error, CheckpointError::Unrecognised { .. }),
            _ => matches!(error, CheckpointError::Malformed { .. }),
        };
        assert!(told, "cut at {len}: {error:?}");
    }
}

#[test]
fn a_file_with_any_byte_changed_never_panics() {
    let whole = written(&honest());
    let file = scratch(&whole);
    for at in 0..whole.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut changed = whole.clone();
            changed[at] ^= flip;
            std::fs::write(&file.path, &changed).expect("a scratch file");
            // Some bytes do not matter, such as those of the numbers.
            let _ = checkpoint::read(&file.path);
            let _ = checkpoint::list(&file.path);
        }
    }
}

#[test]
fn bytes_behind_the_last_storage_are_refused() {
    malformed(&lying(|file| file.behind = b"\0"), &["storages", "the end of the file after"]);
}

#[test]
fn a_count_of_elements_other_than_the_tensors_is_refused() {
    for count in [-1, 0, 5, 7, 1 << 61, i64::MIN, i64::MAX] {
        let got = count.to_string();
        malformed(&lying(|file| file.storages[0].0 = count), &["storage 0", "6 elements, as its tensors say", &got]);
    }
}

#[test]
fn counts_that_agree_but_leave_the_file_are_refused_without_asking_for_memory() {
    for elements in [-1, 7, 1 << 40, 1 << 61, i64::MIN, i64::MAX] {
        let bytes = lying(|file| {
            file.objects = named(&[("weight", tensor(&Claim { elements, ..HONEST() }))]);
            file.storages[0].0 = elements;
        });
        malformed(&bytes, &["storage 0", &format!("{elements} elements of F32"), "24 bytes to the end"]);
    }
    // Fewer than the tensor has leave the rest behind.
    let bytes = lying(|file| {
        file.objects = named(&[("weight", tensor(&Claim { elements: 5, ..HONEST() }))]);
        file.storages[0].0 = 5;
    });
    malformed(&bytes, &["storages", "the end of the file after"]);
}

#[test]
fn tensors_that_contradict_each_other_about_their_storage_are_refused() {
    let other = |change: fn(&mut Claim)| {
        let mut claim = HONEST();
        change(&mut claim);
        lying(|file| file.objects = named(&[("a", tensor(&HONEST())), ("b", tensor(&claim))]))
    };
    malformed(&other(|claim| claim.elements = 7), &["storage 0", "6 elements of F32", "7 elements of F32"]);
    malformed(&other(|claim| claim.storage = "LongStorage"), &["storage 0", "6 elements of F32", "6 elements of I64"]);
}

#[test]
fn keys_that_are_no_list_of_known_texts_are_refused() {
    for (keys, got) in [
        (text("0"), "the text \"0\""),
        (tuple(&[text("0")]), "a tuple of 1"),
        (dict(&[(text("0"), int(6))]), "a dictionary of 1"),
        (b"N".to_vec(), "None"),
        (list(&[int(0)]), "the number 0"),
        (list(&[text("17")]), "the text \"17\""),
        (list(&[text("0"), text("17")]), "the text \"17\""),
    ] {
        malformed(&lying(|file| file.keys = keys), &["pickle of the storage keys", got]);
    }
}

#[test]
fn a_key_that_stands_twice_is_refused_however_often_it_stands() {
    let twice = lying(|file| {
        file.keys = list(&[text("0"), text("0")]);
        file.storages.push((6, six()));
    });
    malformed(&twice, &["pickle of the storage keys", "each key once", "0 twice"]);
    let often = lying(|file| {
        file.keys = [b"](".as_slice(), &text("0"), b"q\x00", &b"h\x00".repeat(1 << 20), b"e"].concat();
        file.storages.push((6, six()));
    });
    malformed(&often, &["0 twice"]);
}

#[test]
fn a_storage_without_a_key_is_refused() {
    let none = lying(|file| {
        file.keys = list(&[]);
        file.storages.clear();
    });
    malformed(&none, &["tensor weight", "a record \"data/0\""]);
    let left = lying(|file| file.keys = list(&[]));
    malformed(&left, &["storages", "the end of the file after"]);
}

#[test]
fn big_endian_files_and_those_that_do_not_say_are_refused() {
    let machine = |pairs: &[(&str, Code)]| lying(|file| file.machine = named(pairs));
    let error = refused(&machine(&[("little_endian", b"\x89".to_vec())]));
    assert!(matches!(error, CheckpointError::Unsupported { .. }), "{error:?}");
    assert!(error.to_string().contains("big-endian numbers"), "{error}");
    malformed(&machine(&[("little_endian", int(1))]), &["pickle of the machine", "little_endian", "the number 1"]);
    malformed(&machine(&[]), &["pickle of the machine", "little_endian"]);
    malformed(&lying(|file| file.machine = int(1001)), &["pickle of the machine", "little_endian"]);
}

#[test]
fn a_view_of_a_larger_storage_is_refused_and_not_read_from_the_wrong_place() {
    let view = tuple(&[text("1"), int(2), int(6)]);
    let bytes = lying(|file| file.objects = named(&[("weight", tensor_with(&HONEST(), &[view]))]));
    malformed(&bytes, &["pickle of the objects", "no view of a larger storage"]);
}

#[test]
fn a_tensor_that_leaves_its_storage_is_refused() {
    for change in [
        (|claim: &mut Claim| claim.first = 1) as fn(&mut Claim),
        |claim| claim.first = -1,
        |claim| claim.shape = vec![3, 3],
        |claim| claim.strides = vec![i64::MAX, 1],
    ] {
        let mut claim = HONEST();
        change(&mut claim);
        malformed(&lying(|file| file.objects = named(&[("weight", tensor(&claim))])), &["tensor weight"]);
    }
}
