//! Claims about what the crate delivers, one file a room.

mod dataset;
mod decode;
mod loader;
mod masks;
mod scenes;
mod server;
mod shards;
mod transform;
