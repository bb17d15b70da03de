//! Collectives over NCCL, between GPUs. One thread calls them all: the one that trains.

use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, ensure};
use ijepa_tensor::cuda::Device;
use ijepa_tensor::cuda::communicator::{Begun, Blob, Communicator};
use ijepa_tensor::cuda::nccl::{self, Id, Nccl};
use ijepa_tensor::{Buf, ViewMut};

use super::launch::Launched;
use super::rendezvous::Meeting;
use super::watchman::{self, Watchman};
use crate::device;
use crate::exit::{Exit, Failure};

/// How long ranks may take to come together: they start at nearly the same time, and load libraries.
const TOGETHER: Duration = Duration::from_secs(600);
/// How long they may take to part.
const FAREWELL: Duration = Duration::from_secs(60);
/// How much earlier than the watchman a call gives up: it can say more.
const EARLIER: f64 = 0.95;

/// The ranks of a run, each with a GPU.
pub(super) struct Gpus {
    communicator: Communicator,
    watchman: Watchman,
}

impl Gpus {
    /// Joins the others.
    pub(super) fn join(launched: Launched, device: &Rc<Device>) -> Result<Gpus> {
        let Launched { rank, size, .. } = launched;
        let nccl = Nccl::open().map_err(failure)?;
        let id = Meeting::told(rank, size)?.share(TOGETHER, || Ok(nccl.id().map_err(failure)?.0))?;
        // Whom it must look after is known only when all are there.
        let alone = Watchman::start(rank, Vec::new());
        alone.set_patience(TOGETHER);
        let joined = alone.waiting(|| {
            let communicator = Communicator::join(&nccl, device.gpu(), Id(id), rank, size)?;
            let neighbours = watchman::neighbours(|own| communicator.gather(&own))?;
            Ok((communicator, neighbours))
        });
        let (communicator, neighbours) = joined.map_err(failure)?;
        Ok(Gpus { communicator, watchman: Watchman::start(rank, neighbours) })
    }

    /// Waits no longer than that for the others, from now on.
    pub(super) fn set_patience(&self, patience: Duration) {
        self.communicator.set_patience(patience.mul_f64(EARLIER));
        self.watchman.set_patience(patience);
    }

    /// The values of all ranks, in their order.
    pub(super) fn gather(&self, own: &[f64]) -> Result<Vec<f64>> {
        Ok(self.watchman.waiting(|| self.communicator.gather(own)).map_err(failure)?)
    }

    /// Begins to put the sums over all ranks into this rank's shard of a part of a blob; the rest of the part is unspecified then.
    pub(super) fn begin_reduce_scatter(&self, shards: &[Range<usize>], part: ViewMut) -> Result<()> {
        let begin = || self.communicator.begin_reduce_scatter(shards, Blob::of_view(part));
        Ok(self.watchman.waiting(begin).map_err(failure)?)
    }

    /// Begins to put every rank's shard into the part, on all ranks; what is given back tells when it is there.
    pub(super) fn begin_all_gather(&self, shards: &[Range<usize>], part: ViewMut) -> Result<Begun> {
        let begin = || self.communicator.begin_all_gather(shards, Blob::of_view(part));
        Ok(self.watchman.waiting(begin).map_err(failure)?)
    }

    /// Ops that are asked for from now on come after it.
    pub(super) fn before_ops(&self, begun: &Begun) -> Result<()> {
        Ok(self.communicator.before_ops(begun).map_err(failure)?)
    }

    /// Waits for all that was begun.
    pub(super) fn finish(&self) -> Result<()> {
        Ok(self.watchman.waiting(|| self.communicator.finish()).map_err(failure)?)
    }

    /// Every rank's shard of the part, on the first rank.
    pub(super) fn gather_shards(&self, shards: &[Range<usize>], part: ViewMut) -> Result<()> {
        let gather = || self.communicator.gather_shards(shards, Blob::of_view(part));
        Ok(self.watchman.waiting(gather).map_err(failure)?)
    }

    /// Leaves together with the others.
    pub(super) fn leave(self) -> Result<()> {
        // Ranks may go from now on, but NCCL waits for those of this machine.
        self.watchman.end();
        let clock = Watchman::start(self.communicator.rank(), Vec::new());
        clock.set_patience(FAREWELL);
        Ok(clock.waiting(|| self.communicator.leave()).map_err(failure)?)
    }
}

/// Whether the library can be opened.
pub(super) fn is_there() -> Result<()> {
    Nccl::open().map_err(failure)?;
    Ok(())
}

/// Sums on one GPU as several would, and gives the version of NCCL that did it.
pub(crate) fn tried(device: &Rc<Device>) -> Result<(i32, i32, i32)> {
    let nccl = Nccl::open().map_err(failure)?;
    let values = [1.0, -2.5, 3.0];
    let whole = 0..values.len();
    let shards = std::slice::from_ref(&whole);
    let summed = device::guarded(|| {
        let mut blob = Buf::on(device, &values);
        let sum = |blob: &mut Buf| {
            let alone = Communicator::join(&nccl, device.gpu(), nccl.id()?, 0, 1)?;
            alone.set_patience(FAREWELL);
            alone.begin_reduce_scatter(shards, Blob::of_view(blob.view_mut()))?;
            alone.begin_all_gather(shards, Blob::of_view(blob.view_mut()))?;
            alone.finish()?;
            alone.leave()
        };
        sum(&mut blob).map_err(failure)?;
        Ok(blob.to_vec())
    })?;
    ensure!(summed == values, "NCCL {:?} makes {summed:?} of {values:?}", nccl.version());
    Ok(nccl.version())
}

fn failure(error: nccl::Error) -> Failure {
    use nccl::Error;
    match error {
        // What an op did wrong may show here first.
        Error::Gpu(error) => device::failure(error.into()),
        // They say how to get it.
        Error::Absent { .. } | Error::Function { .. } | Error::Version { .. } => {
            Failure::new(Exit::Device, error.to_string())
        }
        Error::Call { .. } | Error::Waited { .. } | Error::Ended { .. } => {
            Failure::new(Exit::Device, format!("NCCL: {error}"))
                .remedy("the output of the other ranks may say more, and NCCL_DEBUG=INFO makes NCCL say more; go on from the last checkpoint with --resume")
        }
    }
}
