//! Pixels and indices: what does a training step see?
//!
//! Reading order: [`key`] (every random number is named by four integers) → [`masks`] (which patches are context, which
//! are targets) → [`dataset`] and [`decode`](mod@decode) (where pictures come from) → [`transform`] (how they are cut and
//! normalised) → [`loader`] (how batches reach the step, in order, from any number of threads).
//!
//! Letters in shapes: `b` images, `n` patches, `h` and `w` pixels high and wide, `s` the side of a square crop.
//! Nothing here knows tensors, devices or models.

pub mod dataset;
pub mod decode;
pub mod error;
pub mod key;
pub mod loader;
pub mod masks;
pub mod picture;
pub mod transform;

pub use dataset::{Dataset, Sample, Split, Storage, Stored};
pub use error::{DataError, DecodeError, MaskError};
pub use key::{Key, Purpose};
pub use loader::{
    Batch, EvalBatch, EvalConfig, EvalLoader, LoaderConfig, Spent, StreamBatch, StreamConfig, StreamLoader,
    TrainLoader, TruncateOver, Unreadable, batches_per_epoch,
};
pub use masks::{IndexSet, KeepRates, MaskConfig, Masks, Sampler, keep_rates};
pub use picture::Picture;
pub use transform::{EvalTransform, Filter, Fit, Normalisation, TrainTransform, TuneTransform};
