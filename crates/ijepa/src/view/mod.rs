//! Pictures of what the method does.

mod canvas;
pub(crate) mod masks;
