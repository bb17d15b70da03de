//! What do linear layers multiply in?

use anyhow::Result;
use ijepa_tensor::Precision;

use crate::config::Bfloat16;
use crate::exit::{Exit, Failure};

/// What the target encoder multiplies in, and what encoder and predictor do. `asked` names the key or option.
///
/// # Errors
/// When this CPU has no such instructions.
pub(crate) fn of_networks(networks: Bfloat16, asked: &str) -> Result<(Precision, Precision)> {
    Ok((bf16(networks != Bfloat16::None, asked)?, bf16(networks == Bfloat16::All, asked)?))
}

/// bfloat16 if it is `wanted`, else f32.
///
/// # Errors
/// When this CPU has no such instructions.
pub(crate) fn bf16(wanted: bool, asked: &str) -> Result<Precision> {
    let precision = if wanted { Precision::Bf16 } else { Precision::F32 };
    if precision.available() {
        return Ok(precision);
    }
    Err(Failure::new(Exit::Device, format!("{asked}: this CPU has no AVX512-BF16, or IJEPA_CPU leaves it out"))
        .remedy("compute in f32, which every CPU does: leave it away")
        .into())
}
