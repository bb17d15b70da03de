//! Integration tests of the model crate, in one binary.

mod checkpoint;
mod checkpoint_dialect;
mod checkpoint_export;
mod checkpoint_folder;
mod checkpoint_hostile;
mod checkpoint_hostile_folder;
mod checkpoint_hostile_legacy;
mod checkpoint_hostile_pickle;
mod checkpoint_hostile_safetensors;
mod checkpoint_pickle;
mod checkpoint_torch;
mod classifier;
mod finetune;
mod interop;
mod onnx;
mod reference_tiny;
mod step;
