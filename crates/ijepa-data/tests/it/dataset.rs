//! Data sources: what is found, in which order, with which labels, and what is refused.

use std::path::Path;

use ijepa_data::{DataError, Dataset, Sample, Split};
use safetensors::tensor::{Dtype, TensorView};

/// A picture that is not decoded in these tests.
fn touch(root: &Path, names: &[&str]) {
    for name in names {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().expect("inside root")).expect("created");
        std::fs::write(path, "x").expect("written");
    }
}

fn open(root: &Path, split: Split) -> Result<Dataset, DataError> {
    Dataset::open(root.to_str().expect("a scratch path is UTF-8"), split, 0)
}

fn names(dataset: &Dataset, root: &Path) -> Vec<String> {
    let prefix = format!("{}/", root.display());
    (0..dataset.len()).map(|index| dataset.name(index).replace('\\', "/").replacen(&prefix, "", 1)).collect()
}

#[test]
fn class_folders_become_labels_in_lexicographic_order() {
    let root = tempfile::tempdir().expect("a scratch folder");
    touch(root.path(), &["zebra/a.JPG", "ant/deep/er/b.png", "ant/c.webp", "ant/.hidden.jpg", "empty/notes.txt"]);
    let dataset = open(root.path(), Split::Train).expect("images");
    assert_eq!(names(&dataset, root.path()), ["ant/c.webp", "ant/deep/er/b.png", "zebra/a.JPG"]);
    assert_eq!(dataset.labels(), Some(vec![0, 0, 1]));
    assert_eq!(dataset.classes(), Some(["ant".to_owned(), "zebra".to_owned()].as_slice()));
}

#[test]
fn images_beside_the_sub_folders_make_a_tree_without_labels() {
    let root = tempfile::tempdir().expect("a scratch folder");
    touch(root.path(), &["b.jpeg", "2019/a.tif", "a.Tiff", "c.bmp", "d.gif"]);
    let dataset = open(root.path(), Split::Train).expect("images");
    assert_eq!(names(&dataset, root.path()), ["2019/a.tif", "a.Tiff", "b.jpeg", "c.bmp", "d.gif"]);
    assert_eq!((dataset.labels(), dataset.classes()), (None, None));
}

#[test]
fn split_folders_are_found_and_a_missing_one_is_named() {
    let root = tempfile::tempdir().expect("a scratch folder");
    touch(root.path(), &["train/x/1.jpg", "train/y/2.jpg", "test/x/3.jpg"]);
    let (train, val) = (open(root.path(), Split::Train).expect("train"), open(root.path(), Split::Val).expect("test"));
    assert_eq!(names(&train, root.path()), ["train/x/1.jpg", "train/y/2.jpg"]);
    assert_eq!(train.labels(), Some(vec![0, 1]));
    assert_eq!(names(&val, root.path()), ["test/x/3.jpg"]);
    // A split folder itself is a tree without splits.
    assert_eq!(open(&root.path().join("train"), Split::Val).expect("train").len(), 2);

    std::fs::remove_dir_all(root.path().join("test")).expect("removed");
    let error = open(root.path(), Split::Val).expect_err("no val").to_string();
    assert!(error.contains("has train but") && error.contains("val/, validation/, test/"), "{error}");
}

#[test]
fn a_folder_without_images_is_an_error_that_says_what_was_looked_for() {
    let root = tempfile::tempdir().expect("a scratch folder");
    touch(root.path(), &["readme.txt", "sub/data.csv"]);
    let error = open(root.path(), Split::Train).expect_err("no images").to_string();
    assert!(error.contains("jpg, jpeg, png") && error.contains("2 other files"), "{error}");
    let error = open(&root.path().join("nowhere"), Split::Train).expect_err("no folder").to_string();
    assert!(error.contains("nowhere"), "{error}");
    assert!(open(&root.path().join("readme.txt"), Split::Train).is_err());
}

#[cfg(unix)]
#[test]
fn broken_links_are_counted_and_links_in_a_circle_end() {
    use std::os::unix::fs::symlink;
    let root = tempfile::tempdir().expect("a scratch folder");
    touch(root.path(), &["a/1.jpg", "folder.jpg/2.png"]);
    symlink(root.path().join("gone.jpg"), root.path().join("a/broken.jpg")).expect("linked");
    symlink(root.path(), root.path().join("a/circle")).expect("linked");
    symlink(root.path().join("a/1.jpg"), root.path().join("a/good.jpg")).expect("linked");
    let dataset = open(root.path(), Split::Train).expect("images");
    assert_eq!(names(&dataset, root.path()), ["a/1.jpg", "a/good.jpg", "folder.jpg/2.png"]);
    let Dataset::Files(files) = dataset else { panic!("a folder of files") };
    assert_eq!(files.broken_links(), 1);
}

fn tensor_file(path: &Path, shape: &[usize], labels: Option<&[i64]>) {
    let values: Vec<u8> = (0..shape.iter().product()).flat_map(|k: usize| (k as f32).to_le_bytes()).collect();
    let label_bytes: Vec<u8> = labels.iter().copied().flatten().flat_map(|label| label.to_le_bytes()).collect();
    let mut tensors = vec![("images", TensorView::new(Dtype::F32, shape.to_vec(), &values).expect("fits"))];
    if let Some(labels) = labels {
        tensors.push(("labels", TensorView::new(Dtype::I64, vec![labels.len()], &label_bytes).expect("fits")));
    }
    std::fs::write(path, safetensors::serialize(tensors, None).expect("serialises")).expect("written");
}

#[test]
fn tensors_are_read_back_as_they_are() {
    let root = tempfile::tempdir().expect("a scratch folder");
    let path = root.path().join("data.safetensors");
    tensor_file(&path, &[3, 3, 2, 5], Some(&[4, 0, 2]));
    let dataset = open(&path, Split::Train).expect("tensors");
    assert_eq!(dataset.len(), 3);
    assert_eq!(dataset.labels(), Some(vec![4, 0, 2]));
    for index in [2, 0, 1] {
        let Sample::Normalised { size, values } = dataset.sample(index).expect("there") else {
            panic!("tensors are normalised")
        };
        assert_eq!(size, (2, 5));
        let expected: Vec<f32> = (index * 30..index * 30 + 30).map(|k| k as f32).collect();
        assert_eq!(values, expected);
    }
}

#[test]
fn tensor_files_that_lie_are_refused() {
    let root = tempfile::tempdir().expect("a scratch folder");
    let path = root.path().join("data.safetensors");
    tensor_file(&path, &[2, 3, 4, 4], None);
    assert_eq!(open(&path, Split::Train).expect("good").labels(), None);
    let good = std::fs::read(&path).expect("read");

    let refused = |bytes: &[u8], hint: &str| {
        std::fs::write(&path, bytes).expect("written");
        let error = open(&path, Split::Train).expect_err(hint).to_string();
        assert!(error.contains(hint), "{error}");
    };
    refused(&good[..good.len() - 4], "truncated");
    refused(&good[..40], "truncated");
    refused(b"", "not a .safetensors file");
    refused(&[0xff; 64], "header");
    refused(&[b"\x10\0\0\0\0\0\0\0".as_slice(), &[b'x'; 16]].concat(), "parse");

    // 2⁶⁴ values and more, and an end before the beginning: neither number of bytes can be told.
    let header = br#"{"images":{"dtype":"F32","shape":[1099511627776,3,1048576,1048576],"data_offsets":[8,4]}}"#;
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(&path, [&length, header.as_slice(), &[0; 16]].concat()).expect("written");
    assert!(matches!(open(&path, Split::Train), Err(DataError::Tensors { .. })));

    for (shape, labels, hint) in [
        (vec![2, 1, 4, 4], None, "(n,3,h,w)"),
        (vec![2, 48], None, "(n,3,h,w)"),
        (vec![0, 3, 4, 4], None, "empty"),
        (vec![2, 3, 4, 4], Some([1, 2, 3].as_slice()), "labels"),
        (vec![2, 3, 4, 4], Some([1, -1].as_slice()), "-1"),
    ] {
        tensor_file(&path, &shape, labels);
        let error = open(&path, Split::Train).expect_err(hint).to_string();
        assert!(error.contains(hint), "{error}");
    }
}

#[test]
fn a_number_of_scenes_above_zero_is_asked_for() {
    assert_eq!(Dataset::open("scenes:17", Split::Train, 0).expect("scenes").len(), 17);
    for spec in ["scenes:", "scenes:0", "scenes:-3", "scenes:many"] {
        let error = Dataset::open(spec, Split::Train, 0).expect_err(spec).to_string();
        assert!(error.contains("scenes:20000"), "{error}");
    }
}
