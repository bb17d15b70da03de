//! How does a GPU compute?
//!
//! The kernels are CUDA C++ beside the ops (`ops/*.cu`), over two headers ([`HEADERS`]); [`calls`] says for each how many
//! blocks and threads it wants and what it is handed. [`device`] starts them on a GPU, with memory that goes round ([`array`]); matrix products are
//! cuBLASLt's ([`blas`]). All libraries are opened when they are needed ([`driver`], [`nvrtc`]): a build needs no toolkit.

mod array;
mod blas;
pub mod calls;
pub mod code;
pub mod communicator;
mod device;
pub mod driver;
pub mod launch;
mod library;
pub mod nccl;
pub mod nvrtc;
mod stream;
mod upload;

pub(crate) use array::{Array, Kind, narrow};
pub use array::{Slice, rounded};
pub(crate) use blas::{Out, Product};
pub use device::{Device, guarded};
use std::fmt;
pub use upload::Uploads;

/// Why a GPU cannot be used, or why it has stopped.
#[derive(Clone, Debug)]
pub enum Error {
    /// The driver says so.
    Driver(driver::Error),
    /// cuBLASLt says so.
    Blas(blas::Error),
    /// The GPU is older than the kernels.
    Old {
        /// Its generation.
        capability: (i32, i32),
    },
    /// There is no code that the driver takes.
    Code {
        /// What it said of the program's own.
        refused: driver::Error,
        /// Why there is no other.
        error: nvrtc::Error,
    },
}

impl From<driver::Error> for Error {
    fn from(error: driver::Error) -> Error {
        Error::Driver(error)
    }
}

impl From<blas::Error> for Error {
    fn from(error: blas::Error) -> Error {
        Error::Blas(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::Driver(error) => error.fmt(f),
            Error::Blas(error) => error.fmt(f),
            Error::Old { capability: (major, minor) } => {
                write!(
                    f,
                    "the GPU is of compute capability {major}.{minor}, kernels need 8.0 (A100) or later; compute with --device cpu"
                )
            }
            Error::Code { refused, error } => {
                write!(
                    f,
                    "the driver does not take the program's kernels ({refused}), and they cannot be compiled: {error}"
                )
            }
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// Whether something that is needed is not on this machine; the words say how to get it.
    pub fn is_absent(&self) -> bool {
        use {blas::Error as Blas, driver::Error as Driver};
        let driver =
            |error: &Driver| matches!(error, Driver::Absent { .. } | Driver::Function { .. } | Driver::Device { .. });
        match self {
            Error::Driver(error) => driver(error),
            Error::Blas(error) => matches!(error, Blas::Absent { .. } | Blas::Function { .. }),
            Error::Code { .. } | Error::Old { .. } => true,
        }
    }

    /// Whether the GPU has too little memory.
    pub fn is_memory(&self) -> bool {
        matches!(self, Error::Driver(error) if error.is_memory())
    }
}

/// Files that kernels include, by name.
pub const HEADERS: [(&str, &str); 2] =
    [("device.cuh", include_str!("device.cuh")), ("tiles.cuh", include_str!("tiles.cuh"))];

/// A file of kernels.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Its name without `.cu`.
    pub name: &'static str,
    /// CUDA C++.
    pub text: &'static str,
    /// Names of its kernels.
    pub kernels: &'static [&'static str],
}

/// All files of kernels.
pub const SOURCES: [Source; 16] = [
    Source { name: "adamw", text: include_str!("../ops/adamw.cu"), kernels: &["adamw", "follow"] },
    Source { name: "add", text: include_str!("../ops/add.cu"), kernels: &["add_forward"] },
    Source {
        name: "assemble",
        text: include_str!("../ops/assemble.cu"),
        kernels: &["assemble_forward", "assemble_backward_context"],
    },
    Source {
        name: "attention",
        text: include_str!("../ops/attention.cu"),
        kernels: &[
            "attention_forward_16",
            "attention_forward_32",
            "attention_forward_48",
            "attention_forward_64",
            "attention_forward_80",
            "attention_forward_96",
            "attention_backward_queries_16",
            "attention_backward_queries_32",
            "attention_backward_queries_48",
            "attention_backward_queries_64",
            "attention_backward_queries_80",
            "attention_backward_queries_96",
            "attention_backward_keys_16",
            "attention_backward_keys_32",
            "attention_backward_keys_48",
            "attention_backward_keys_64",
            "attention_backward_keys_80",
            "attention_backward_keys_96",
        ],
    },
    Source { name: "cast", text: include_str!("cast.cu"), kernels: &["cast_to_bf16", "fill_f32"] },
    Source {
        name: "cross_entropy",
        text: include_str!("../ops/cross_entropy.cu"),
        kernels: &["cross_entropy_forward", "cross_entropy_backward"],
    },
    Source { name: "drop_path", text: include_str!("../ops/drop_path.cu"), kernels: &["drop_path"] },
    Source { name: "gather", text: include_str!("../ops/gather.cu"), kernels: &["gather_forward", "gather_backward"] },
    Source { name: "gelu", text: include_str!("../ops/gelu.cu"), kernels: &["gelu_forward", "gelu_backward"] },
    Source {
        name: "layer_norm",
        text: include_str!("../ops/layer_norm.cu"),
        kernels: &["layer_norm_forward", "layer_norm_backward"],
    },
    Source { name: "linear", text: include_str!("../ops/linear.cu"), kernels: &["column_parts", "add_parts"] },
    Source {
        name: "mean_tokens",
        text: include_str!("../ops/mean_tokens.cu"),
        kernels: &["mean_tokens_forward", "mean_tokens_backward"],
    },
    Source { name: "patchify", text: include_str!("../ops/patchify.cu"), kernels: &["patchify"] },
    Source { name: "position", text: include_str!("../ops/position.cu"), kernels: &["position_forward"] },
    Source {
        name: "smooth_l1",
        text: include_str!("../ops/smooth_l1.cu"),
        kernels: &["smooth_l1_forward", "smooth_l1_backward"],
    },
    Source {
        name: "statistics",
        text: include_str!("../ops/statistics.cu"),
        kernels: &["square_parts", "sum_parts", "sum_values", "column_deviations"],
    },
];
