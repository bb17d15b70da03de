//! Claims about what the crate delivers, one file a room.

mod dataset;
mod decode;
mod loader;
mod masks;
mod peers;
mod scenes;
mod transform;
