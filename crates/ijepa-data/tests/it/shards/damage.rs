//! Damage: tars that are cut off, that lie, or that were spoilt anywhere.

use std::fs;
use std::path::{Path, PathBuf};

use ijepa_data::Storage;
use proptest::prelude::*;

use super::{files, gzip, labelled, member, open, storage, tar};

/// Opens `bytes` as a shard between two good ones; the error, if there is one, has to name it.
fn in_the_middle(root: &Path, name: &str, bytes: &[u8]) -> Result<usize, String> {
    for (good, number) in [("0.tar", 900), ("2.tar", 901)] {
        if !root.join(good).exists() {
            fs::write(root.join(good), tar(&labelled(number..number + 1))).expect("written");
        }
    }
    fs::write(root.join(name), bytes).expect("written");
    let spec = format!("{0}/{{0.tar,{name},2.tar}}", root.display());
    let limits = Storage { download_bytes: Some(16 << 20), downloads: Some(root.join("copies")), ..Storage::default() };
    open(&spec, &limits).map(|data| data.len()).map_err(|error| {
        let error = error.to_string();
        assert!(error.contains(name), "{error}");
        error
    })
}

#[test]
fn a_tar_cut_off_at_any_byte_is_an_error_that_says_so() {
    let root = tempfile::tempdir().expect("a scratch folder");
    let whole = tar(&[member("a.cls", "1"), member("a.png", [7; 700]), member("b.png", "bb")]);
    let mark = whole.len() - 1024;
    for length in 0..mark + 512 {
        let error = in_the_middle(root.path(), "1.tar", &whole[..length]).expect_err("it is cut off");
        let hint = if length == 0 { "empty" } else { "truncated" };
        assert!(error.contains(hint), "{length}: {error}");
    }
    for length in mark + 512..=whole.len() {
        assert_eq!(in_the_middle(root.path(), "1.tar", &whole[..length]), Ok(4));
    }
    let packed = gzip(&whole);
    for length in 0..packed.len() {
        in_the_middle(root.path(), "1.tgz", &packed[..length]).expect_err("it is cut off");
    }
    assert_eq!(in_the_middle(root.path(), "1.tgz", &packed), Ok(4));
    assert_eq!(files(&root.path().join("copies"), "part"), Vec::<PathBuf>::new());
}

#[test]
fn tars_that_lie_are_refused() {
    let root = tempfile::tempdir().expect("a scratch folder");
    let good = tar(&[member("a.png", "a"), member("b.png", "b")]);
    let refused = |name: &str, bytes: &[u8], hint: &str| {
        let error = in_the_middle(root.path(), name, bytes).expect_err(hint);
        assert!(error.contains(hint), "{hint}: {error}");
    };
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] ^= byte;
        bytes
    };
    refused("1.tar", &with(0, 1), "not a tar: its first header has a wrong checksum");
    refused("1.tar", &with(1024, 1), "after a.png: the next header has a wrong checksum");
    refused("1.tar", &tar(&[]), "nothing in it");
    refused("1.tar", &tar(&[member("a.cls", "1"), member("notes.txt", "x")]), "no image in it");
    refused("1.tar", &[good.clone(), good.clone()].concat(), "more data after the end mark");
    refused("1.tar", &[good.clone(), vec![0; 2 << 20]].concat(), "bytes of zeros");
    refused("1.tar", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull");
    refused("1.tar", b"<!DOCTYPE html><title>Sign in</title>", "a web page");
    refused("1.tar", b"\x28\xb5\x2f\xfd0123", "zstd");
    refused("1.tgz", &gzip(&gzip(&good)), "gzip twice");

    let header = |name: &str, size: u64, kind| {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).expect("short");
        header.set_size(size);
        header.set_entry_type(kind);
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    let regular = tar::EntryType::Regular;
    let huge = [header("huge.png", 100 << 30, regular), vec![1; 5000]].concat();
    refused("1.tar", &huge, "after huge.png, in the middle of a member");
    refused("1.tgz", &gzip(&huge), "over the limit");
    refused("1.tar", &header("huge.png", u64::MAX, regular), "a member of 18446744073709551615 bytes");
    refused("1.tar", &header("long", 1 << 40, tar::EntryType::GNULongName), "bytes of text");
    refused("1.tar", &header("s.png", 0, tar::EntryType::GNUSparse), "--sparse");
    let name_alone = [header("long", 3, tar::EntryType::GNULongName), vec![b'x'; 512], vec![0; 1024]].concat();
    refused("1.tar", &name_alone, "a name without its member");
    // 40 MiB of zeros in 200 kB: the limit of the copies is 16 MiB.
    let bomb = [header("zeros.png", 40 << 20, regular), vec![0; 40 << 20], good.clone()].concat();
    refused("1.tgz", &gzip(&bomb), "the limit of downloads is 16777216");
    refused("1.tgz", &gzip(&[good.clone(), vec![0; 40 << 20]].concat()), "bytes of zeros");
    assert_eq!(files(&root.path().join("copies"), "part"), Vec::<PathBuf>::new());
    // A link is no image, whatever its name.
    let link = [header("l.png", 0, tar::EntryType::Symlink), good.clone()].concat();
    assert_eq!(in_the_middle(root.path(), "1.tar", &link), Ok(4));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damage_anywhere_is_an_error_or_leaves_samples_that_can_be_read(
        damage in prop::collection::vec((0usize..7000, any::<u8>()), 1..4),
        packed: bool,
    ) {
        let root = tempfile::tempdir().expect("a scratch folder");
        let mut bytes = tar(&labelled(0..3));
        for (at, byte) in damage {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let name = if packed { "1.tgz" } else { "1.tar" };
        let bytes = if packed { gzip(&bytes) } else { bytes };
        fs::write(root.path().join(name), &bytes).expect("written");
        let spec = root.path().join(name);
        if let Ok(data) = open(spec.to_str().expect("UTF-8"), &storage(root.path())) {
            for index in 0..data.len() {
                prop_assert!(data.read(index).is_ok());
            }
        }
    }
}
