//! How is a number computed?
//!
//! Everything here is a dense, row-major f32 array of shape (rows, width). A model is written forward
//! only, as calls on a [`Tape`]; each op's forward, backward and plain reference stand in one file of
//! [`ops`]. This crate knows no model, no image and no file.
//!
//! Reading order: [`buf`] (memory on a device), [`ops::layer_norm`] (the shape of every op), [`tape`]
//! (how backward calls are strung together), [`cases`] (the table that judges every op).
//!
//! Letters: b images, n patches of an image, c context patches, t patches of a target, d width, h heads.
#![allow(unsafe_code)]

pub mod buf;
pub mod cases;
pub mod cuda;
pub mod gemm;
pub mod heads;
pub mod judge;
pub mod ops;
pub mod roof;
pub mod scalar;
pub mod tape;
pub mod threads;
pub mod values;
mod vector;

pub use buf::{Buf, View, ViewMut};
pub use gemm::Precision;
pub use tape::{Index, Pool, Slot, Tape, Var};
pub use values::Values;
pub use vector::{instruction_set, instruction_sets};
