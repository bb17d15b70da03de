//! Where does a run compute, and what does a GPU's failure mean for it?

use std::rc::Rc;

use anyhow::Result;
use ijepa_model::jepa::Jepa;
use ijepa_tensor::cuda::calls::{WIDEST_HEAD, WIDEST_ROW};
use ijepa_tensor::cuda::driver::Driver;
use ijepa_tensor::cuda::{self, Device};

use crate::cli::PretrainArgs;
use crate::exit::{Exit, Failure};

/// What `--device` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Place {
    /// The CPU.
    #[default]
    Cpu,
    /// A GPU, counted from 0.
    Cuda(usize),
}

impl Place {
    /// `auto` is the CPU until a GPU has shown that it trains as the CPU does.
    pub(crate) fn of(text: &str) -> Result<Place> {
        let number = text.strip_prefix("cuda:").map(str::parse::<usize>);
        match (text, number) {
            ("" | "auto" | "cpu", _) => Ok(Place::Cpu),
            ("cuda", _) => Ok(Place::Cuda(0)),
            (_, Some(Ok(number))) => Ok(Place::Cuda(number)),
            _ => Err(Failure::usage(format!("--device: expected auto, cpu, cuda or cuda:N, got {text}")).into()),
        }
    }

    /// What a run was asked to compute on. With a list of GPUs, each rank sees them as numbers from 0.
    pub(crate) fn asked(args: &PretrainArgs) -> Result<Place> {
        if args.gpus.is_some() { Ok(Place::Cuda(0)) } else { Place::of(&args.device) }
    }

    /// The GPU, where one is named.
    pub(crate) fn open(self) -> Result<Option<Rc<Device>>> {
        let Place::Cuda(number) = self else { return Ok(None) };
        Ok(Some(Device::open(number).map_err(failure)?))
    }
}

/// How many GPUs this process sees.
pub(crate) fn count() -> usize {
    Driver::open().and_then(|driver| driver.count()).unwrap_or_default()
}

/// Refuses a model that kernels cannot compute, before anything is begun.
pub(crate) fn check(model: &Jepa) -> Result<()> {
    let encoder = model.encoder.config;
    check_network("encoder", encoder.width, encoder.heads)?;
    check_network("predictor", model.predictor.config.width, encoder.heads)
}

/// Refuses a network that kernels cannot compute.
pub(crate) fn check_network(name: &str, width: usize, heads: usize) -> Result<()> {
    let head = width / heads;
    if head > WIDEST_HEAD {
        let problem = format!("attention: the heads of the {name} are {head} wide, kernels take at most {WIDEST_HEAD}");
        return Err(Failure::new(Exit::Device, problem)
            .remedy("--device cpu, or an encoder with more heads (meta.enc_heads)")
            .into());
    }
    if !width.is_multiple_of(8) || width > WIDEST_ROW {
        let problem =
            format!("layer_norm: the {name} is {width} wide, kernels take multiples of 8, up to {WIDEST_ROW}");
        return Err(Failure::new(Exit::Device, problem).remedy("--device cpu, or a network of another width").into());
    }
    Ok(())
}

/// Does work that may run on a GPU; what that says in the midst of it is an error.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    cuda::guarded(work).map_err(failure)?
}

pub(crate) fn failure(error: cuda::Error) -> Failure {
    if error.is_absent() {
        return Failure::new(Exit::Device, error.to_string());
    }
    let failure = Failure::new(Exit::Device, format!("the GPU: {error}"));
    if error.is_memory() {
        return failure.remedy("smaller batches (in training data.batch_size with a larger optimization.accumulate, or meta.recompute: blocks; for features --batch, for fine-tuning --at-once), or a GPU with more memory");
    }
    failure
        .remedy("`ijepa doctor --device cuda` tries the GPU; training goes on from its last checkpoint with --resume")
}
