//! What can go wrong with data, and what to do about it?

use std::path::PathBuf;

use crate::loader::Unreadable;

/// Data cannot be found, read or used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file that should be a picture cannot be decoded.
    #[error("{name}: {source}")]
    Decode {
        /// The picture.
        name: String,
        /// Why not.
        source: DecodeError,
    },
    /// A folder holds no picture.
    #[error(
        "no images under {}: looked at any depth for files ending in {looked_for} (any case){note}; give a folder that holds images, a list of them, or another data set",
        path.display()
    )]
    NoImages {
        /// The folder that was searched.
        path: PathBuf,
        /// The endings that count as images.
        looked_for: String,
        /// What was found instead, as the rest of a sentence; may be empty.
        note: String,
    },
    /// A folder has one split but not the one that is needed.
    #[error("{} has {found} but none of {wanted}; add that split, or give the folder of the images themselves", path.display())]
    NoSplit {
        /// The root of the tree.
        path: PathBuf,
        /// The split that is there.
        found: String,
        /// The splits that would do.
        wanted: String,
    },
    /// The text given as data source means nothing.
    #[error("data source {spec:?}: {problem}")]
    Source {
        /// What was given.
        spec: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A `.safetensors` file is not a data set.
    #[error("{}: {problem}", path.display())]
    Tensors {
        /// The file.
        path: PathBuf,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A file is not the list, the array or the table that it should be, or a row of it has no image.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The file, or the folder of files.
        path: PathBuf,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A shard cannot be had, or is not what it should be. Its samples are no unreadable images: no others may take their place.
    #[error("{shard}: {problem}")]
    Shard {
        /// Its path or address.
        shard: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Ready-made tensors of another size than the model takes.
    #[error(
        "{name} is {}×{} pixels, the run takes {}×{}: tensors are used as they are, so set the crop size to that of the file",
        got.0, got.1, expected.0, expected.1
    )]
    Size {
        /// The sample.
        name: String,
        /// Rows and columns that the run takes.
        expected: (usize, usize),
        /// Rows and columns of the sample.
        got: (usize, usize),
    },
    /// Settings that cannot work.
    #[error("{what} is {got}; {wanted}")]
    Setting {
        /// The setting's name.
        what: &'static str,
        /// Its value.
        got: String,
        /// What it must be.
        wanted: String,
    },
    /// More unreadable images than allowed.
    #[error(
        "{count} unreadable images, more than the limit of {limit}; the last is {last}; repair or remove them, or raise data.skip_limit"
    )]
    TooManyUnreadable {
        /// Different images found unreadable.
        count: u64,
        /// How many are allowed.
        limit: u64,
        /// The last one and its error.
        last: String,
        /// Those that were met for the first time in the batch that decided, to be named in a log.
        unreadable: Vec<Unreadable>,
    },
    /// So few images are readable that drawing others leads nowhere.
    #[error(
        "{tries} images drawn in a row are unreadable; the last is {last}; check that the data is what it should be, repair or remove what is damaged"
    )]
    NothingReadable {
        /// Images drawn, the same one perhaps more than once.
        tries: usize,
        /// The last one and its error.
        last: String,
        /// Those that were met for the first time, to be named in a log.
        unreadable: Vec<Unreadable>,
    },
    /// Masks that cannot be met.
    #[error(transparent)]
    Mask(#[from] MaskError),
    /// A loader thread died; its message went to stderr.
    #[error("a loader thread panicked: this is a bug; its message stands above on stderr")]
    LoaderPanicked,
}

impl DataError {
    /// The images that this error is the first to name.
    pub fn unreadable(&self) -> &[Unreadable] {
        match self {
            DataError::TooManyUnreadable { unreadable, .. } | DataError::NothingReadable { unreadable, .. } => {
                unreadable
            }
            _ => &[],
        }
    }
}

/// Bytes cannot be made into a picture.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The file is empty.
    #[error("the file is empty")]
    Empty,
    /// Larger than allowed, found before any pixel is decoded.
    #[error("{width}×{height} pixels is over the limit of {limit} pixels; downscale or remove it")]
    TooManyPixels {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
        /// Most pixels allowed.
        limit: u64,
    },
    /// A picture without pixels.
    #[error("{width}×{height} pixels: there is nothing in it")]
    NoPixels {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// Not a picture of a known format.
    #[error("not a JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF, PPM, TGA or ICO by its content; convert or remove it")]
    UnknownFormat,
    /// An AVIF, and a build without the feature `avif`.
    #[error(
        "an AVIF, which this build does not read; build with `cargo build --release --features avif`, or convert the file"
    )]
    AvifLeftOut,
    /// A JPEG whose end is missing, as an interrupted download leaves it.
    #[error("the JPEG ends before its end marker: truncated; fetch it again or remove it")]
    Truncated,
    /// A known format with broken or unsupported content.
    #[error("{0}; convert, repair or remove it")]
    Broken(String),
}

/// A mask configuration that cannot be met. The message holds the numbers and what to change.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{problem}; {remedy}")]
pub struct MaskError {
    /// What cannot be met, with the numbers.
    pub problem: String,
    /// What to change.
    pub remedy: String,
}
