//! What can be asked of `plan`?

use std::path::PathBuf;

use clap::Args;

use super::at_least_one;
use crate::plan::Gpus;

/// Options of `plan`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Without --gpus the plan is for this machine's CPU, whose peak it measures for a second. With --gpus it is a
prediction from published peaks and an assumed share of them, which no card has confirmed yet.
data.batch_size is that of one device.

Example:
  ijepa plan configs/imagenette96.yaml --data photos/
  ijepa plan --gpus 16xH100
  ijepa plan in1k_vith14_ep300.yaml --gpus 8xA100-80 --set data.batch_size=64 --images 14200000 --json")]
pub(crate) struct PlanArgs {
    /// Run file [default: the reference's values].
    pub(crate) config: Option<PathBuf>,
    /// Change a value of the configuration; may be given many times.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Cards: A100-40, A100-80, H100, H200 or B200, eight in a node.
    #[arg(long, value_name = "NxCARD")]
    pub(crate) gpus: Option<Gpus>,
    /// Share of the peak that products reach, 0 to 1 [default: on this CPU by width, as measured; on cards 0.40, assumed].
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub(crate) share: Option<f64>,
    /// Training images [default: those of --data or the run file, if they are here, else ImageNet-1k's 1,281,167].
    #[arg(long, value_name = "N", value_parser = at_least_one::<usize>, conflicts_with = "data")]
    pub(crate) images: Option<usize>,
    /// Data whose images are counted, named as for pretrain.
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| "expected a share of the peak, more than 0 and at most 1".to_owned())
}
