//! Binary data sets: pictures and labels come out as they went in, and files that lie are refused.

use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use ijepa_data::{Dataset, Picture, Sample, Split};
use proptest::prelude::*;

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a scratch folder")
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().expect("has a folder")).expect("created");
    std::fs::write(path, bytes).expect("written");
}

fn open(path: &Path, split: Split) -> Result<Dataset, String> {
    Dataset::open(path.to_str().expect("UTF-8"), split, 0).map_err(|error| error.to_string())
}

fn picture(dataset: &Dataset, index: usize) -> Picture {
    match dataset.sample(index).expect("readable") {
        Sample::Picture(picture) => picture,
        other => panic!("a picture is expected, not {other:?}"),
    }
}

/// Bytes that differ from their neighbours.
fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at * 31 + at / 251) as u8).collect()
}

/// Refused by an error that names the file and holds the hint.
fn refused(path: &Path, split: Split, hint: &str) {
    let error = open(path, split).map(drop).expect_err(hint);
    assert!(error.contains(hint), "{hint}: {error}");
}

/// Every beginning of the file is refused, and so is the file with one byte more.
fn refused_at_any_length(file: &Path, source: &Path, split: Split) {
    let good = std::fs::read(file).expect("readable");
    assert!(open(source, split).is_ok());
    for length in (0..good.len()).chain([good.len() + 1]) {
        write(file, &[good.as_slice(), b"x"].concat()[..length]);
        assert!(open(source, split).is_err(), "{} bytes of {}", length, good.len());
    }
    write(file, &good);
}

/// Records of a label each, of so many bytes, and 3072 pixels.
fn cifar(labels: &[&[u8]]) -> Vec<u8> {
    let pixels = bytes(3072);
    labels.iter().enumerate().flat_map(|(turn, label)| [label, &pixels[turn..], &pixels[..turn]].concat()).collect()
}

fn cifar_10(folder: &Path) {
    for batch in 1..=5 {
        write(&folder.join(format!("data_batch_{batch}.bin")), &cifar(&[&[batch], &[9]]));
    }
    write(&folder.join("test_batch.bin"), &cifar(&[&[0], &[3], &[5]]));
    write(&folder.join("batches.meta.txt"), b"a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n\n");
}

#[test]
fn cifar_10_is_read_from_its_folder_and_from_the_one_above() {
    let root = scratch();
    let folder = root.path().join("cifar-10-batches-bin");
    cifar_10(&folder);
    for path in [root.path(), &folder] {
        let (train, val) = (open(path, Split::Train).expect("train"), open(path, Split::Val).expect("test"));
        assert_eq!(train.labels(), Some(vec![1, 9, 2, 9, 3, 9, 4, 9, 5, 9]));
        assert_eq!(val.labels(), Some(vec![0, 3, 5]));
        assert_eq!(train.classes().map(<[String]>::concat).as_deref(), Some("abcdefghij"));
        assert!(train.name(3).ends_with("data_batch_2.bin image 1"), "{}", train.name(3));
        assert_eq!(train.normalised_size(), None);
        let pixels = bytes(3072);
        let (first, second) = (picture(&train, 0), picture(&train, 9));
        assert_eq!((first.width, first.height), (32, 32));
        for at in [0, 1, 33, 1023] {
            assert_eq!(first.rgb[3 * at..][..3], [pixels[at], pixels[1024 + at], pixels[2048 + at]]);
            assert_eq!(second.rgb[3 * at..][..3], [pixels[at + 1], pixels[1025 + at], pixels[(2049 + at) % 3072]]);
        }
    }
}

#[test]
fn cifar_100_has_fine_labels() {
    let root = scratch();
    write(&root.path().join("train.bin"), &cifar(&[&[7, 99], &[0, 41]]));
    write(&root.path().join("test.bin"), &cifar(&[&[19, 0]]));
    let names: String = (0..100).map(|label| format!("class{label}\n")).collect();
    write(&root.path().join("fine_label_names.txt"), names.as_bytes());
    let (train, val) = (open(root.path(), Split::Train).expect("train"), open(root.path(), Split::Val).expect("test"));
    assert_eq!((train.labels(), val.labels()), (Some(vec![99, 41]), Some(vec![0])));
    assert_eq!(train.classes().map(|names| names[99].as_str()), Some("class99"));
    assert_eq!(picture(&val, 0).rgb[..3], [bytes(3072)[0], bytes(3072)[1024], bytes(3072)[2048]]);
}

#[test]
fn cifar_files_that_lie_are_refused() {
    let root = scratch();
    cifar_10(root.path());
    let test = root.path().join("test_batch.bin");
    let good = std::fs::read(&test).expect("readable");
    for length in [0, 1, 3072, 3074, good.len() - 1] {
        write(&test, &good[..length]);
        refused(root.path(), Split::Val, "multiple of 3073");
    }
    write(&test, &cifar(&[&[0], &[10]]));
    refused(root.path(), Split::Val, "image 1 has label 10");
    write(&root.path().join("batches.meta.txt"), b"one\n");
    refused(root.path(), Split::Train, "1 names");
    std::fs::remove_file(root.path().join("data_batch_3.bin")).expect("removed");
    refused(root.path(), Split::Train, "data_batch_3.bin");
    let pickles = scratch();
    write(&pickles.path().join("cifar-10-batches-py/data_batch_1"), b"pickle");
    refused(pickles.path(), Split::Train, "cifar-10-binary.tar.gz");
}

fn idx(shape: &[u32], values: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, 8, shape.len() as u8];
    shape.iter().for_each(|side| file.extend(side.to_be_bytes()));
    file.extend(values);
    file
}

type Pack = fn(&[u8]) -> Vec<u8>;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("packed");
    encoder.finish().expect("packed")
}

#[test]
fn idx_is_read_plain_and_gzipped_from_a_folder_and_by_file() {
    let (images, labels) = (idx(&[3, 2, 5], &bytes(30)), idx(&[3], &[7, 0, 255]));
    let cases: [(&str, &str, Pack); 3] = [("", "", <[u8]>::to_vec), ("", ".gz", gzip), ("raw/", "", <[u8]>::to_vec)];
    for (sub, ending, pack) in cases {
        let root = scratch();
        let file = root.path().join(format!("{sub}train-images-idx3-ubyte{ending}"));
        write(&file, &pack(&images));
        write(&root.path().join(format!("{sub}train-labels-idx1-ubyte{ending}")), &pack(&labels));
        for path in [root.path(), &file] {
            let dataset = open(path, Split::Train).expect("IDX");
            assert_eq!((dataset.len(), dataset.labels()), (3, Some(vec![7, 0, 255])));
            let second = picture(&dataset, 1);
            assert_eq!((second.width, second.height), (5, 2));
            assert!(second.rgb.iter().copied().eq(bytes(30)[10..20].iter().flat_map(|&grey| [grey; 3])));
        }
        refused(root.path(), Split::Val, "t10k-images");
    }
}

#[test]
fn idx_labels_may_be_packed_when_images_are_not_and_may_be_missing() {
    let root = scratch();
    let images = root.path().join("emnist-letters-test-images-idx3-ubyte");
    write(&images, &idx(&[1, 1, 1], &[9]));
    assert_eq!(open(&images, Split::Val).expect("IDX").labels(), None);
    write(&root.path().join("emnist-letters-test-labels-idx1-ubyte.gz"), &gzip(&idx(&[1], &[4])));
    assert_eq!(open(&images, Split::Val).expect("IDX").labels(), Some(vec![4]));
}

#[test]
fn idx_files_that_lie_are_refused() {
    let packs: [Pack; 2] = [<[u8]>::to_vec, gzip];
    for pack in packs {
        let root = scratch();
        let (images, labels) = (root.path().join("images-ubyte"), root.path().join("labels-ubyte"));
        write(&images, &pack(&idx(&[2, 3, 4], &bytes(24))));
        write(&labels, &pack(&idx(&[2], &[1, 2])));
        refused_at_any_length(&images, &images, Split::Train);
        refused_at_any_length(&labels, &images, Split::Train);
        for (shape, hint) in [
            ([u32::MAX; 3], "truncated"),
            ([3, 3, 4], "truncated"),
            ([1, 3, 4], "truncated"),
            ([0, 3, 4], ""),
            ([2, 0, 4], "pixels"),
            ([1, 20_000, 20_000], "truncated"),
        ] {
            write(&images, &pack(&idx(&shape, &bytes(if shape.contains(&0) { 0 } else { 24 }))));
            refused(&images, Split::Train, hint);
        }
        write(&images, &pack(&idx(&[2, 3, 4], &bytes(24))));
        write(&labels, &pack(&idx(&[3], &[1, 2, 3])));
        refused(&images, Split::Train, "3 labels for the 2 images");
        write(&labels, &pack(&idx(&[2, 1], &[1, 2])));
        refused(&images, Split::Train, "labels (n)");
    }
}

fn npy(kind: &str, shape: &str, values: &[u8]) -> Vec<u8> {
    npy_of(&format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"), values)
}

fn npy_of(header: &str, values: &[u8]) -> Vec<u8> {
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16 + 1).to_le_bytes());
    file.extend(header.as_bytes());
    file.push(b'\n');
    file.extend(values);
    file
}

#[test]
fn npy_of_bytes_are_pictures_in_any_of_three_orders() {
    let (root, values) = (scratch(), bytes(2 * 3 * 4 * 5));
    let path = root.path().join("data.NPY");
    let expected = |pixel: &dyn Fn(usize, usize) -> usize| {
        (0..20).flat_map(|at| [0, 1, 2].map(|channel| values[pixel(at, channel)])).collect::<Vec<u8>>()
    };
    for (shape, expected) in [
        ("(2, 4, 5, 3)", expected(&|at, channel| 60 + at * 3 + channel)),
        ("(2, 3, 4, 5)", expected(&|at, channel| 60 + channel * 20 + at)),
        ("(6, 4, 5)", expected(&|at, _| 20 + at)),
    ] {
        write(&path, &npy("|u1", shape, &values));
        let dataset = open(&path, Split::Train).expect(shape);
        let second = picture(&dataset, 1);
        assert_eq!((second.width, second.height, second.rgb), (5, 4, expected), "{shape}");
        assert_eq!(dataset.labels(), None);
    }
}

#[test]
fn npy_of_floats_are_used_as_they_are() {
    let root = scratch();
    let path = root.path().join("data.npy");
    let values: Vec<f32> = (0..36).map(|value| value as f32 - 7.5).collect();
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3, 2, 3), }";
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    // Version 2 has a longer length.
    let file =
        [b"\x93NUMPY\x02\x00", (header.len() as u32).to_le_bytes().as_slice(), header.as_bytes(), &bytes].concat();
    write(&path, &file);
    let dataset = open(&path, Split::Train).expect("an array");
    assert_eq!(dataset.normalised_size(), Some((2, 3)));
    assert_eq!(dataset.sample(1).expect("there"), Sample::Normalised { size: (2, 3), values: values[18..].to_vec() });
}

#[test]
fn npy_labels_lie_beside_in_any_type_of_integers() {
    let i64s: Vec<u8> = [3i64, 70_000].iter().flat_map(|label| label.to_le_bytes()).collect();
    let i32s: Vec<u8> = [3i32, 70_000].iter().flat_map(|label| label.to_le_bytes()).collect();
    for (name, kind, shape, labels, expected) in [
        ("train_images_labels.npy", "<i8", "(2,)", i64s.as_slice(), vec![3, 70_000]),
        ("train_labels.npy", "<i4", "(2, 1)", &i32s, vec![3, 70_000]),
        ("labels.npy", "|u1", "(2,)", &[3, 255], vec![3, 255]),
    ] {
        let root = scratch();
        let images = root.path().join("train_images.npy");
        write(&images, &npy("|u1", "(2, 1, 1)", &[1, 2]));
        write(&root.path().join(name), &npy(kind, shape, labels));
        assert_eq!(open(&images, Split::Train).expect(name).labels(), Some(expected));
    }
}

#[test]
fn npy_files_that_lie_are_refused() {
    let root = scratch();
    let (path, labels) = (root.path().join("a.npy"), root.path().join("a_labels.npy"));
    write(&path, &npy("|u1", "(2, 3, 4)", &bytes(24)));
    write(&labels, &npy("<i8", "(2,)", &[0; 16]));
    refused_at_any_length(&path, &path, Split::Train);
    refused_at_any_length(&labels, &path, Split::Train);

    let fortran = "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3, 4), }";
    let record = "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }";
    for (file, hint) in [
        (npy("|u1", "(18446744073709551615, 18446744073709551615, 2)", &bytes(24)), "truncated"),
        (npy("|u1", "(18446744073709551616, 1, 2)", &bytes(24)), "not understood"),
        (npy("|u1", "(-2, 3, 4)", &bytes(24)), "not understood"),
        (npy("|u1", "(24,)", &bytes(24)), "(n,h,w)"),
        (npy("|u1", "()", &bytes(1)), "(n,h,w)"),
        (npy("|u1", "(0, 3, 4)", &[]), "no images"),
        (npy("|u1", "(2, 3, 0)", &[]), "pixels"),
        (npy("<f8", "(1, 3, 1, 1)", &bytes(24)), "already normalised"),
        (npy(">f4", "(1, 3, 1, 2)", &bytes(24)), "already normalised"),
        (npy("<f4", "(2, 1, 1, 3)", &bytes(24)), "already normalised"),
        (npy("<U2", "(3,)", &bytes(24)), "(n,h,w)"),
        (npy_of(fortran, &bytes(24)), "ascontiguousarray"),
        (npy_of(record, &bytes(8)), "not understood"),
        (npy_of("{}", &[]), "not understood"),
        (npy_of("{'descr': '|é', 'fortran_order': False, 'shape': (1,)}", &[]), "not understood"),
        ([b"\x93NUMPY\x09\x00".as_slice(), &[0; 40]].concat(), "version 9"),
        ([b"\x93NUMPY\x02\x00\xff\xff\xff\xff".as_slice(), &[0; 40]].concat(), "header of 4294967295 bytes"),
        (b"PK\x03\x04 an archive of arrays".to_vec(), "does not begin"),
    ] {
        write(&path, &file);
        refused(&path, Split::Train, hint);
    }

    write(&path, &npy("|u1", "(2, 3, 4)", &bytes(24)));
    for (file, hint) in [
        (npy("<i8", "(3,)", &[0; 24]), "3 labels for the 2 images"),
        (npy("<i8", "(1, 2)", &[0; 16]), "shape"),
        (npy("<f4", "(2,)", &[0; 8]), "integers"),
        (npy("<i4", "(2,)", &[0, 0, 0, 0, 255, 255, 255, 255]), "label -1"),
        (npy("<u8", "(2,)", &[255; 16]), "label 18446744073709551615"),
    ] {
        write(&labels, &file);
        refused(&path, Split::Train, hint);
    }
}

#[test]
fn a_file_of_another_kind_is_refused_with_what_is_expected() {
    let root = scratch();
    let path: PathBuf = root.path().join("data.zip");
    for content in [b"PK\x03\x04".as_slice(), b"", &gzip(b"a tar")] {
        write(&path, content);
        refused(&path, Split::Train, "scenes:N is expected");
    }
}

proptest! {
    #[test]
    fn no_change_of_a_file_makes_a_reader_panic(which in 0usize..3, at in 0usize..200, value: u8, gzipped: bool) {
        let root = scratch();
        let (name, mut file) = match which {
            0 => ("a-ubyte", idx(&[2, 3, 4], &bytes(24))),
            1 => ("a.npy", npy("|u1", "(2, 3, 4)", &bytes(24))),
            _ => ("a.npy", npy("<f4", "(1, 3, 1, 2)", &bytes(24))),
        };
        let at = at % file.len();
        file[at] = value;
        let path = root.path().join(name);
        write(&path, &if gzipped { gzip(&file) } else { file });
        if let Ok(dataset) = open(&path, Split::Train) {
            (0..dataset.len()).for_each(|index| drop(dataset.sample(index)));
        }
    }
}
