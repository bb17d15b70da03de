//! How good are these features?
//!
//! A feature matrix goes in, one row an image, with a class a row; out come predictions and figures with their standard
//! errors. This crate knows neither images nor models: whoever has features from elsewhere can use it alone.
//!
//! * [`knn`]: votes of the nearest neighbours by cosine, and the neighbours themselves.
//! * [`linear`]: multinomial logistic regression with the strength of its penalty chosen on held-out rows.
//! * [`heads`]: many linear heads, with or without BatchNorm, trained at once by SGD or LARS as in others' protocols.
//! * [`attentive`]: a head that chooses which tokens of a picture to look at.
//! * [`ridge`]: least squares in closed form, for quick comparisons; [`quantity`]: and for quantities instead of classes.
//! * [`metrics`]: accuracy, paired differences, spread and rank of features; [`ranks`]: more that needs no labels.
//!
//! Nothing is fitted on the rows that are judged. Results are the same for any number of threads: work is cut by shape
//! alone and partial sums are added in a fixed order. Whatever is drawn (the held-out tenth, a sketch) is keyed by a seed.
//!
//! Letters: n rows, d width of a feature, c classes, k neighbours or the length of a sum.

pub mod affine;
pub mod attentive;
mod curvature;
mod draws;
pub mod error;
pub mod features;
pub mod heads;
pub mod knn;
mod lbfgs;
pub mod linear;
mod lower;
pub mod metrics;
pub mod quantity;
pub mod ranks;
pub mod ridge;
pub mod spectrum;
mod standard;

pub use error::EvalError;
pub use features::Features;
pub use metrics::Estimate;
