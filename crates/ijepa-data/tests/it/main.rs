//! Claims about what the crate delivers, one file a room.

mod arrays;
#[cfg(feature = "avif")]
mod avif;
mod dataset;
mod decode;
mod files;
mod loader;
mod masks;
mod odd_images;
mod parquet;
mod peers;
mod scenes;
mod server;
mod shards;
mod stream;
mod transform;
