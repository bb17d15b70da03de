//! What can go wrong with a checkpoint file, said so that the reader knows what to do next.

use std::io;
use std::path::PathBuf;

/// Everything that reading, listing, comparing or writing a checkpoint can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The operating system refused to open or read the file.
    #[error("{}: cannot {action}: {source}; check that the path is right and that you may read it", .path.display())]
    Read {
        /// The checkpoint.
        path: PathBuf,
        /// What was being done, as a verb phrase.
        action: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The path names a pipe or a device.
    #[error("{}: expected a checkpoint, got a pipe or device; name a file or a folder", .path.display())]
    NotAFile {
        /// The path as given.
        path: PathBuf,
    },
    /// A folder that no library saved a model in.
    #[error(
        "{}: expected model.safetensors, model.safetensors.index.json or pytorch_model.bin in the folder of a model, got {found}; \
         name the checkpoint itself (a run keeps its own in checkpoints/latest.safetensors)", .path.display()
    )]
    NotAModelFolder {
        /// The folder.
        path: PathBuf,
        /// What it is instead.
        found: String,
    },
    /// The content is none of the formats that are read.
    #[error(
        "{}: expected a safetensors file or a PyTorch checkpoint (told by content, not by name), got {found}; \
         check that this is the checkpoint and that its download is complete", .path.display()
    )]
    Unrecognised {
        /// The file.
        path: PathBuf,
        /// How the file begins.
        found: String,
    },
    /// The file contradicts its format or itself.
    #[error(
        "{}: {place}: expected {expected}, got {got}; the file is damaged or was not written as a checkpoint: \
         copy or download it again, or use an earlier one", .path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        place: String,
        /// What the format asks for.
        expected: String,
        /// What the file says.
        got: String,
    },
    /// The pickle asks for a Python object that no checkpoint needs. Nothing was executed.
    #[error(
        "{}: {place}: the pickle asks for the Python object `{global}`, which is not one of the few that tensors need; \
         nothing was executed. If you trust the file, load it with PyTorch and save only its tensors and numbers", .path.display()
    )]
    Forbidden {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        place: String,
        /// `module.name` as the pickle has it.
        global: String,
    },
    /// Well formed, but not something this reader handles.
    #[error("{}: {place}: {found} is not supported, only {supported}; convert it with PyTorch first", .path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        place: String,
        /// What was met.
        found: String,
        /// What is handled.
        supported: &'static str,
    },
    /// The machine has not enough memory for a tensor.
    #[error(
        "{}: tensor {tensor} needs {bytes} bytes of memory, which this machine does not give; use one with more", .path.display()
    )]
    Memory {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Its size as f32.
        bytes: u64,
    },
    /// The tensors are not those of the model.
    #[error("{0}")]
    Mismatch(Box<Mismatch>),
    /// Writing failed. The temporary file is removed; under the name stands what stood there before, or (when only the folder
    /// could not be synced) the whole new file.
    #[error("{}: cannot {action}: {source}; what stands under this name, if anything, is still whole{}", .path.display(), advice(.source))]
    Write {
        /// The checkpoint that was to be written.
        path: PathBuf,
        /// What was being done, as a verb phrase.
        action: String,
        /// What the operating system said.
        source: io::Error,
    },
}

/// The difference between the tensors of a checkpoint and those that a model expects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mismatch {
    /// The file, when the checkpoint came from one.
    pub path: Option<PathBuf>,
    /// Expected, but not in the checkpoint.
    pub missing: Vec<String>,
    /// In the checkpoint under one of the expected networks, but not expected.
    pub surplus: Vec<String>,
    /// Name, expected shape, shape in the checkpoint.
    pub differing: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN: usize = 5;
        match &self.path {
            Some(path) => write!(f, "{}: ", path.display())?,
            None => write!(f, "checkpoint: ")?,
        }
        write!(f, "the tensors are not those of this model")?;
        let differing: Vec<String> = self
            .differing
            .iter()
            .map(|(name, expected, got)| format!("{name} expected {expected:?} got {got:?}"))
            .collect();
        for (label, names) in [("of another shape", &differing), ("missing", &self.missing), ("surplus", &self.surplus)]
        {
            if names.is_empty() {
                continue;
            }
            let shown = names[..names.len().min(SHOWN)].join(", ");
            let more = if names.len() > SHOWN { ", …" } else { "" };
            write!(f, "; {} {label}: {shown}{more}", names.len())?;
        }
        write!(
            f,
            "; use the configuration that the checkpoint was trained with (`ijepa inspect` lists its tensors), or another checkpoint"
        )
    }
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space on that disk or choose another folder"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; choose a folder that you may write to"
        }
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => "; create the folder first or choose another",
        _ => "; check the disk, or choose another folder",
    }
}
