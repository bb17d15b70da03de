//! What would a GPU compute, and how is it started?
//!
//! The kernels are CUDA C++ beside the ops (`ops/*.cu`), over two headers ([`HEADERS`]); [`calls`] says for each how many
//! blocks and threads it wants and what it is handed, [`nvrtc`] compiles them at run time, without a toolkit. Nothing here
//! starts a GPU yet: tests compile every kernel for three generations of cards, and run every kernel on the CPU.

pub mod calls;
pub mod communicator;
pub mod driver;
pub mod launch;
pub mod nccl;
pub mod nvrtc;

/// Files that kernels include, by name.
pub const HEADERS: [(&str, &str); 2] =
    [("device.cuh", include_str!("device.cuh")), ("tiles.cuh", include_str!("tiles.cuh"))];

/// A file of kernels.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Its name without `.cu`.
    pub name: &'static str,
    /// CUDA C++.
    pub text: &'static str,
    /// Names of its kernels.
    pub kernels: &'static [&'static str],
}

/// All files of kernels.
pub const SOURCES: [Source; 16] = [
    Source { name: "adamw", text: include_str!("../ops/adamw.cu"), kernels: &["adamw"] },
    Source { name: "add", text: include_str!("../ops/add.cu"), kernels: &["add_forward"] },
    Source {
        name: "assemble",
        text: include_str!("../ops/assemble.cu"),
        kernels: &["assemble_forward", "assemble_backward_context"],
    },
    Source {
        name: "attention",
        text: include_str!("../ops/attention.cu"),
        kernels: &[
            "attention_means",
            "attention_forward_16",
            "attention_forward_32",
            "attention_forward_48",
            "attention_forward_64",
            "attention_forward_80",
            "attention_forward_96",
            "attention_backward_queries_16",
            "attention_backward_queries_32",
            "attention_backward_queries_48",
            "attention_backward_queries_64",
            "attention_backward_queries_80",
            "attention_backward_queries_96",
            "attention_backward_keys_16",
            "attention_backward_keys_32",
            "attention_backward_keys_48",
            "attention_backward_keys_64",
            "attention_backward_keys_80",
            "attention_backward_keys_96",
        ],
    },
    Source {
        name: "cast",
        text: include_str!("cast.cu"),
        kernels: &["cast_to_bf16", "cast_to_f32", "fill_f32", "fill_bf16"],
    },
    Source {
        name: "cross_entropy",
        text: include_str!("../ops/cross_entropy.cu"),
        kernels: &["cross_entropy_forward", "cross_entropy_backward"],
    },
    Source { name: "drop_path", text: include_str!("../ops/drop_path.cu"), kernels: &["drop_path"] },
    Source { name: "gather", text: include_str!("../ops/gather.cu"), kernels: &["gather_forward", "gather_backward"] },
    Source { name: "gelu", text: include_str!("../ops/gelu.cu"), kernels: &["gelu_forward", "gelu_backward"] },
    Source {
        name: "layer_norm",
        text: include_str!("../ops/layer_norm.cu"),
        kernels: &["layer_norm_forward", "layer_norm_backward"],
    },
    Source { name: "linear", text: include_str!("../ops/linear.cu"), kernels: &["column_parts", "add_parts"] },
    Source {
        name: "mean_tokens",
        text: include_str!("../ops/mean_tokens.cu"),
        kernels: &["mean_tokens_forward", "mean_tokens_backward"],
    },
    Source {
        name: "patchify",
        text: include_str!("../ops/patchify.cu"),
        kernels: &["patchify_floats", "patchify_bytes"],
    },
    Source { name: "position", text: include_str!("../ops/position.cu"), kernels: &["position_forward"] },
    Source {
        name: "smooth_l1",
        text: include_str!("../ops/smooth_l1.cu"),
        kernels: &["smooth_l1_forward", "smooth_l1_backward"],
    },
    Source {
        name: "statistics",
        text: include_str!("../ops/statistics.cu"),
        kernels: &["square_parts", "sum_parts", "sum_values", "column_deviations"],
    },
];
