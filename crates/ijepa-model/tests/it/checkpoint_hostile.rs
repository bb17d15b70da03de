//! Files that lie. Each test tells one lie and asks for the error that names it; none may panic, hang or ask for much memory.

use ijepa_model::checkpoint::{self, CheckpointError};
use zip::CompressionMethod;

use crate::checkpoint_pickle::{Claim, HONEST, archive, dict, named, pickle, scratch, six, tensor, text, zip};

/// The error of reading these bytes, which names the file.
pub(crate) fn refused(bytes: &[u8]) -> CheckpointError {
    let file = scratch(bytes);
    let error = checkpoint::read(&file.path).map(drop).expect_err("the file lies");
    let message = error.to_string();
    assert!(message.contains("file.bin"), "names the file: {message}");
    error
}

/// Asserts that reading fails as malformed and that the message contains every word.
pub(crate) fn malformed(bytes: &[u8], words: &[&str]) {
    let error = refused(bytes);
    assert!(matches!(error, CheckpointError::Malformed { .. }), "{error:?}");
    let message = error.to_string();
    for word in words {
        assert!(message.contains(word), "{word:?} in: {message}");
    }
}

fn lying(change: impl FnOnce(&mut Claim)) -> Vec<u8> {
    let mut claim = HONEST();
    change(&mut claim);
    archive(&named(&[("weight", tensor(&claim))]), &six())
}

#[test]
fn the_honest_archive_that_the_lies_start_from_is_read() {
    let file = scratch(&archive(&named(&[("module.weight", tensor(&HONEST()))]), &six()));
    let read = checkpoint::read(&file.path).expect("honest");
    assert_eq!(read.tensors["weight"].shape, [2, 3]);
    assert_eq!(read.tensors["weight"].values, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[test]
fn an_empty_file_is_named_as_such() {
    let error = refused(b"");
    assert!(matches!(error, CheckpointError::Unrecognised { .. }));
    assert!(error.to_string().contains("an empty file"), "{error}");
}

#[test]
fn a_folder_is_named_as_such() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let error = checkpoint::read(folder.path()).expect_err("a folder");
    assert!(matches!(error, CheckpointError::NotAModelFolder { .. }));
    assert!(error.to_string().contains("a folder"), "{error}");
}

#[test]
fn a_missing_file_is_a_read_error_with_its_path() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let error = checkpoint::read(&folder.path().join("nothing.pth.tar")).expect_err("missing");
    assert!(matches!(error, CheckpointError::Read { .. }));
    assert!(error.to_string().contains("nothing.pth.tar"), "{error}");
}

#[test]
fn a_text_file_is_shown_by_its_beginning() {
    let error = refused(b"epoch,itr,loss\n1,0,0.5\n");
    assert!(matches!(error, CheckpointError::Unrecognised { .. }));
    assert!(error.to_string().contains("epoch,itr,loss"), "{error}");
}

#[test]
fn a_git_lfs_pointer_says_what_to_do() {
    let error = refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n");
    assert!(error.to_string().contains("git lfs pull"), "{error}");
}

#[test]
fn wrong_magic_is_shown() {
    let error = refused(b"\x00\x01\x02\x03 no checkpoint");
    assert!(matches!(error, CheckpointError::Unrecognised { .. }));
    assert!(error.to_string().contains(r"\x00\x01\x02\x03"), "{error}");
}

#[test]
fn a_bare_pickle_is_refused_with_the_way_to_convert_it() {
    let error = refused(&pickle(&dict(&[])));
    assert!(matches!(error, CheckpointError::Unrecognised { .. }), "{error:?}");
    assert!(error.to_string().contains("torch.save"), "{error}");
}

#[test]
fn an_archive_cut_anywhere_is_refused() {
    let whole = archive(&named(&[("weight", tensor(&HONEST()))]), &six());
    for len in 4..whole.len() {
        let error = refused(&whole[..len]);
        assert!(matches!(error, CheckpointError::Malformed { .. }), "cut at {len}: {error:?}");
    }
}

#[test]
fn an_archive_with_any_byte_changed_never_panics() {
    let whole = archive(&named(&[("weight", tensor(&HONEST()))]), &six());
    let file = scratch(&whole);
    for at in 0..whole.len() {
        for flip in [0x01, 0xff] {
            let mut changed = whole.clone();
            changed[at] ^= flip;
            std::fs::write(&file.path, &changed).expect("a scratch file");
            // Some bytes do not matter, such as times and checksums.
            let _ = checkpoint::read(&file.path);
            let _ = checkpoint::list(&file.path);
        }
    }
}

#[test]
fn an_archive_without_data_pkl_is_refused() {
    malformed(&zip(CompressionMethod::Stored, &[("archive/version", b"3\n")]), &["data.pkl", "1 records"]);
    malformed(&zip(CompressionMethod::Stored, &[]), &["data.pkl"]);
}

#[test]
fn two_data_pkl_are_refused() {
    let body = pickle(&dict(&[]));
    let bytes = zip(CompressionMethod::Stored, &[("a/data.pkl", &body), ("b/data.pkl", &body)]);
    malformed(&bytes, &["one record data.pkl", "a/", "b/"]);
}

#[test]
fn big_endian_archives_are_refused() {
    let body = pickle(&dict(&[]));
    let error = refused(&zip(CompressionMethod::Stored, &[("a/data.pkl", &body), ("a/byteorder", b"big")]));
    assert!(matches!(error, CheckpointError::Unsupported { .. }), "{error:?}");
}

#[test]
fn a_deflated_archive_is_read() {
    let body = pickle(&named(&[("weight", tensor(&HONEST()))]));
    let bytes = zip(CompressionMethod::Deflated, &[("a/data.pkl", &body), ("a/data/0", &six())]);
    let file = scratch(&bytes);
    let read = checkpoint::read(&file.path).expect("deflated, but honest");
    assert_eq!(read.tensors["weight"].values[5], 5.0);
}

#[test]
fn a_zip_bomb_is_refused_before_it_is_inflated() {
    let zeros = vec![0; 40 << 20];
    let claim = Claim { elements: 10 << 20, shape: vec![10 << 20], strides: vec![1], ..HONEST() };
    let body = pickle(&named(&[("weight", tensor(&claim))]));
    let bytes = zip(CompressionMethod::Deflated, &[("a/data.pkl", &body), ("a/data/0", &zeros)]);
    assert!(bytes.len() < 100_000);
    malformed(&bytes, &["compressed records of at most", "got 4194"]);
}

/// Overwrites the uncompressed size of a record in the zip's central directory.
fn declare(bytes: &mut [u8], name: &str, size: u32) {
    let found = (0..bytes.len())
        .find(|&at| bytes[at..].starts_with(b"PK\x01\x02") && bytes[at + 46..].starts_with(name.as_bytes()));
    let at = found.expect("the record is in the directory");
    bytes[at + 24..at + 28].copy_from_slice(&size.to_le_bytes());
}

#[test]
fn a_deflated_record_that_holds_another_length_than_declared_is_refused() {
    let body = pickle(&named(&[("weight", tensor(&HONEST()))]));
    let record = [six(), vec![7; 5000]].concat();
    for (declared, got) in [(24, "larger"), (9000, "5024 bytes")] {
        let mut bytes = zip(CompressionMethod::Deflated, &[("a/data.pkl", &body), ("a/data/0", &record)]);
        declare(&mut bytes, "a/data/0", declared);
        malformed(&bytes, &[&format!("{declared} bytes once inflated"), got]);
    }
}

#[test]
fn a_stored_record_larger_than_the_file_is_refused() {
    let mut bytes = archive(&named(&[("weight", tensor(&HONEST()))]), &six());
    declare(&mut bytes, "archive/data/0", 0x7fff_0000);
    let error = refused(&bytes);
    assert!(error.to_string().contains("archive/data/0"), "{error}");
}

#[test]
fn a_pickle_of_absurd_length_is_refused() {
    let body = pickle(&text(&"x".repeat(17 << 20)));
    let bytes = zip(CompressionMethod::Stored, &[("a/data.pkl", &body)]);
    malformed(&bytes, &["data.pkl", "at most 16777216 bytes"]);
}

#[test]
fn a_record_shorter_than_its_storage_is_refused() {
    let bytes = archive(&named(&[("weight", tensor(&HONEST()))]), &six()[..20]);
    malformed(&bytes, &["tensor weight", "24 bytes in record archive/data/0", "20 bytes"]);
}

#[test]
fn a_storage_without_record_is_refused() {
    malformed(&lying(|claim| claim.key = "17"), &["tensor weight", "archive/data/17"]);
    malformed(&lying(|claim| claim.key = "../data.pkl"), &["tensor weight", "archive/data/../data.pkl"]);
}

#[test]
fn huge_storages_are_refused_without_asking_for_memory() {
    for elements in [1 << 40, 1 << 61, i64::MAX, -1, i64::MIN] {
        malformed(&lying(|claim| claim.elements = elements), &["tensor weight"]);
    }
}

#[test]
fn a_first_element_outside_the_storage_is_refused() {
    for first in [1, 6, i64::MAX, -1] {
        malformed(&lying(|claim| claim.first = first), &["tensor weight", "first element"]);
    }
}

#[test]
fn shapes_that_are_negative_or_overflow_are_refused() {
    for shape in
        [vec![-2, 3], vec![3, 3], vec![i64::MAX, i64::MAX], vec![1 << 32, 1 << 32], vec![i64::MAX, i64::MAX, 0]]
    {
        let strides = vec![1; shape.len()];
        malformed(&lying(|claim| (claim.shape, claim.strides) = (shape, strides)), &["tensor weight", "shape"]);
    }
}

#[test]
fn strides_that_are_negative_overflow_or_leave_the_storage_are_refused() {
    for strides in [vec![-3, 1], vec![4, 1], vec![i64::MAX, 1], vec![3, i64::MAX], vec![3]] {
        malformed(&lying(|claim| claim.strides = strides), &["tensor weight", "strides"]);
    }
}

#[test]
fn an_expanded_view_cannot_make_a_small_file_large() {
    let claim = |claim: &mut Claim| (claim.shape, claim.strides) = (vec![1 << 40], vec![0]);
    malformed(&lying(claim), &["tensor weight", "no expanded view"]);
}

#[test]
fn many_tensors_over_one_record_cannot_make_a_small_file_large() {
    let names: Vec<String> = (0..1000).map(|i| format!("weight{i}")).collect();
    let pairs: Vec<_> = names.iter().map(|name| (name.as_str(), tensor(&HONEST()))).collect();
    malformed(&archive(&named(&pairs), &six()), &["share their records at most 4 times"]);
}

#[test]
fn an_element_type_that_is_not_read_is_named_but_listed() {
    let claim = Claim { storage: "IntStorage", ..HONEST() };
    let bytes = archive(&named(&[("weight", tensor(&claim))]), &six());
    let error = refused(&bytes);
    assert!(matches!(error, CheckpointError::Unsupported { .. }), "{error:?}");
    assert!(error.to_string().contains("I32"), "{error}");
    let listed = checkpoint::list(&scratch(&bytes).path).expect("listing reads no values");
    assert_eq!(listed.tensors[0].dtype, checkpoint::Dtype::I32);
}
