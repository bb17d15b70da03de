//! The ops. Each file holds one: its maths, its call on the tape, `forward` and `backward` on views, and a
//! plain `reference` that judges them. Outputs come first, inputs next, the shape last. Gradients are `d` +
//! name; a comment says whether they are written (`=`) or added to (`+=`).

pub mod adamw;
pub mod add;
pub mod assemble;
pub mod attention;
pub mod cross_entropy;
pub mod drop_path;
pub mod gather;
pub mod gelu;
pub mod layer_norm;
pub mod linear;
pub mod mean_tokens;
pub mod patchify;
pub mod position;
pub mod smooth_l1;
pub mod statistics;
