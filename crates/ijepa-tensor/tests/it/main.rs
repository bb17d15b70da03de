//! The op table against its references, its gradients, and the number of threads.

mod bfloat16;
mod cuda;
mod gradients;
mod instruction_sets;
mod optimiser;
mod parity;
mod threads;

pub(crate) use ijepa_tensor::judge::{Outcome, error, inputs, run, run_in, run_on, values};
