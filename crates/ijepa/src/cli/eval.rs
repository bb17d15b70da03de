//! With how many labels?

use std::path::PathBuf;

use clap::Args;

use super::at_least_one;

/// How many of the training images have labels.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct LabelArgs {
    /// Learn from this share of each class, at least one image.
    #[arg(long, value_name = "0..1", conflicts_with_all = ["per_class", "labelled"])]
    pub(crate) fraction: Option<f64>,
    /// Learn from this many images of each class.
    #[arg(long, value_name = "N", conflicts_with = "labelled", value_parser = at_least_one::<usize>)]
    pub(crate) per_class: Option<usize>,
    /// Learn from the images that a file names, one a line, such as the published 1 % of ImageNet.
    #[arg(long, value_name = "FILE")]
    pub(crate) labelled: Option<PathBuf>,
    /// Draw that often with --fraction or --per-class; mean and spread are reported.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one::<usize>)]
    pub(crate) draws: usize,
}
