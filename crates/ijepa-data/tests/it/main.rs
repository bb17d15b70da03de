//! Claims about what the crate delivers, one file a room.

mod decode;
mod dataset;
mod loader;
mod masks;
mod scenes;
mod transform;
