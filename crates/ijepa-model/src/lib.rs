//! What is predicted, and how does it learn?
//!
//! Reading order: [`variants`] (sizes) → [`params`] (named views into flat blobs) → [`positions`] → [`vit`] and [`predictor`]
//! (forward only; the tape does the rest) → [`jepa`] (one training step, in the paper's words) → [`schedule`] and
//! [`optimiser`] → [`classifier`] (an encoder and a head, trained on
//! labels) → [`checkpoint`] (files) and [`saved`] (which tensor of a file is which parameter) → [`export`] and [`onnx`] (files
//! for other programs).
//!
//! Parameter names are the reference checkpoints' names. Letters: b images, n patches of an image, c context patches,
//! t patches of a target block, m target blocks, k context masks, d width.

pub mod checkpoint;
pub mod classifier;
pub mod export;
pub mod jepa;
pub mod onnx;
pub mod optimiser;
pub mod params;
pub mod positions;
pub mod predictor;
pub mod saved;
pub mod schedule;
pub mod variants;
pub mod vit;

pub use classifier::Classifier;
pub use jepa::{Jepa, State};
pub use variants::{PredictorConfig, VitConfig};
