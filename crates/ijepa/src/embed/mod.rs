//! Images to features, in a file.

pub(crate) mod write;
