//! What does every target do with the bytes that it is given?
//!
//! They become files in memory, and the public reader does with them all that the program does with a checkpoint of a stranger: it
//! lists, describes and reads. It may refuse whatever it likes, in words that name the file; it may not panic, and not ask for much
//! memory.

pub mod data;

use std::path::{Path, PathBuf};

use ijepa_model::checkpoint::{self, CheckpointError, NETWORKS, Reader};
use ijepa_model::saved::{Hints, encoder_sizes, predictor_sizes};

/// Tensors of more elements are listed and not read: a file in memory is no place for large ones.
const ELEMENTS_MAX: usize = 1 << 20;

/// A folder of this process, in memory where the system has such a place.
pub fn scratch() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let top = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    let folder = top.join(format!("ijepa-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a scratch folder");
    folder
}

/// Reads one file of these bytes.
pub fn read_file(bytes: &[u8]) {
    let path = scratch().join("file.bin");
    std::fs::write(&path, bytes).expect("a scratch file");
    read(&path);
}

/// Reads a file or a folder as the program does.
pub fn read(path: &Path) {
    let reader = Reader::open(path);
    match checkpoint::list(path) {
        Ok(summary) => {
            assert!(reader.is_ok(), "what is listed can be opened");
            assert_eq!(summary.parts.iter().map(|part| part.tensors).sum::<usize>(), summary.tensors.len());
        }
        Err(error) => names_the_file(&error, path),
    }
    let mut reader = match reader {
        Ok(reader) => reader,
        Err(error) => return names_the_file(&error, path),
    };
    let small = |shape: &[usize]| shape.iter().product::<usize>() <= ELEMENTS_MAX;
    let names: Vec<String> =
        reader.shapes().filter(|(_, shape)| small(shape)).map(|(name, _)| name.to_owned()).collect();
    for name in names {
        match reader.read(&name) {
            Ok(tensor) => assert_eq!(tensor.values.len(), tensor.shape.iter().product::<usize>(), "{name}"),
            Err(error) => names_the_file(&error, path),
        }
    }
    if let Err(error) = reader.optimizer_step() {
        names_the_file(&error, path);
    }
    for network in NETWORKS {
        // What does not fit is a sentence, which may be any.
        let _ = encoder_sizes(&reader, &format!("{network}."), Hints::default(), Hints::default());
    }
    let _ = predictor_sizes(&reader);
}

/// An error says which file it is about, or one within the folder.
fn names_the_file(error: &CheckpointError, path: &Path) {
    let message = error.to_string();
    assert!(message.contains(&path.display().to_string()), "{} in: {message}", path.display());
}
