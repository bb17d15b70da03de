//! What does a target do with files that should be a data set? What a training run does: it opens the set and reads its samples.

use std::path::Path;

use ijepa_data::{DataError, Dataset, Sample, Split, Storage, Stored};

/// Samples that are read of a set.
const READ: usize = 32;

/// A folder without anything in it.
pub fn folder(name: &str) -> std::path::PathBuf {
    let folder = crate::scratch().join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder).expect("a scratch folder");
    folder
}

/// Opens the set at `path`, of either split, and reads from it. Copies of shards go into `folder`, which the errors of the set name.
pub fn open(path: &Path, folder: &Path) {
    let storage = Storage {
        downloads: Some(folder.join("copies")),
        download_bytes: Some(16 << 20),
        ..Storage::default()
    };
    for split in [Split::Train, Split::Val] {
        match Dataset::open_with(path.to_str().expect("UTF-8"), split, 0, &storage) {
            Ok(data) => read(&data),
            Err(error) => names_a_file(&error, folder),
        }
    }
}

fn read(data: &Dataset) {
    assert!(data.len() > 0, "an empty set cannot be opened");
    let labels = data.labels();
    assert!(labels.is_none_or(|labels| labels.len() == data.len()), "every sample has a label or none has");
    for index in (0..data.len()).take(READ) {
        assert!(!data.name(index).is_empty());
        match data.read(index) {
            Ok(Stored::Ready(Sample::Picture(picture))) => {
                assert_eq!(picture.rgb.len(), picture.width * picture.height * 3);
            }
            Ok(Stored::Ready(Sample::Normalised { size, values })) => {
                assert_eq!(values.len(), 3 * size.0 * size.1);
            }
            Ok(Stored::Encoded(_)) => (),
            // It names the file that it is about, which a list may have anywhere.
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// An error says which file it is about.
fn names_a_file(error: &DataError, folder: &Path) {
    let message = error.to_string();
    assert!(message.contains(&folder.display().to_string()), "{} in: {message}", folder.display());
}
