//! Collectives over MPI. One thread calls them all: the one that trains.
//!
//! Sums are ours and not `MPI_Allreduce`'s: values are sent to the rank that owns them and added there in the order of the ranks, so that
//! a run has the same bits each time, whatever algorithm the library would choose. As many bytes travel as with a ring.

use std::cell::RefCell;
use std::convert::Infallible;
use std::ops::Range;
use std::time::Duration;

use ijepa_tensor::ops::add;
use ijepa_tensor::{View, ViewMut};
use mpi::Threading;
use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Root};

use super::watchman::{self, Watchman};

/// The ranks of `MPI_COMM_WORLD`.
pub(super) struct Mpi {
    /// Not dropped where a run fails: `MPI_Finalize` would wait for ranks that never come.
    universe: Option<Universe>,
    ranks: SimpleCommunicator,
    received: RefCell<Vec<f32>>,
    watchman: Watchman,
}

impl Mpi {
    /// Joins the others; nothing where this process has done so before.
    pub(super) fn join() -> Option<Mpi> {
        let (universe, _) = mpi::initialize_with_threading(Threading::Funneled)?;
        let ranks = universe.world();
        let neighbours = watchman::neighbours(|own| Ok::<_, Infallible>(gather(&ranks, &own)));
        let watchman = Watchman::start(ranks.rank() as usize, neighbours.unwrap_or_else(|never| match never {}));
        Some(Mpi { universe: Some(universe), ranks, received: RefCell::default(), watchman })
    }

    pub(super) fn rank(&self) -> usize {
        self.ranks.rank() as usize
    }

    pub(super) fn size(&self) -> usize {
        self.ranks.size() as usize
    }

    /// Waits no longer than that for the others, from now on.
    pub(super) fn set_patience(&self, patience: Duration) {
        self.watchman.set_patience(patience);
    }

    /// The values of all ranks, in their order.
    pub(super) fn gather(&self, own: &[f64]) -> Vec<f64> {
        self.watchman.waiting(|| gather(&self.ranks, own))
    }

    /// In this rank's shard of a part of a blob, the sums over all ranks; the rest of the part keeps what it held.
    pub(super) fn reduce_scatter(&self, shards: &[Range<usize>], part: ViewMut) {
        let part = part.cpu();
        let own = shards[self.rank()].clone();
        let mut received = self.received.borrow_mut();
        received.resize(shards.len() * own.len(), 0.0);
        let from: Vec<Range<usize>> = (0..shards.len()).map(|rank| rank * own.len()..(rank + 1) * own.len()).collect();
        let sent = Partition::new(&*part, counts(shards), starts(shards));
        let mut places = PartitionMut::new(&mut received[..], counts(&from), starts(&from));
        self.watchman.waiting(|| self.ranks.all_to_all_varcount_into(&sent, &mut places));
        let sum = &mut part[own];
        sum.copy_from_slice(&received[from[0].clone()]);
        for from in &from[1..] {
            add::forward(ViewMut::Cpu(sum), View::Cpu(&received[from.clone()]));
        }
    }

    /// Every rank's shard of the part, on all ranks.
    pub(super) fn all_gather(&self, shards: &[Range<usize>], part: ViewMut) {
        let part = part.cpu();
        let own = part[shards[self.rank()].clone()].to_vec();
        let mut places = PartitionMut::new(part, counts(shards), starts(shards));
        self.watchman.waiting(|| self.ranks.all_gather_varcount_into(&own[..], &mut places));
    }

    /// Every rank's shard of the part, on the first rank.
    pub(super) fn gather_shards(&self, shards: &[Range<usize>], part: ViewMut) {
        let part = part.cpu();
        let own = &part[shards[self.rank()].clone()];
        let first = self.ranks.process_at_rank(0);
        if self.rank() > 0 {
            return self.watchman.waiting(|| first.gather_varcount_into(own));
        }
        let own = own.to_vec();
        let mut places = PartitionMut::new(part, counts(shards), starts(shards));
        self.watchman.waiting(|| first.gather_varcount_into_root(&own[..], &mut places));
    }

    /// Ends all ranks, this one with `code`.
    pub(super) fn abort(&self, code: i32) -> ! {
        self.ranks.abort(code)
    }

    /// Leaves together with the others.
    pub(super) fn leave(mut self) {
        self.watchman.end();
        self.ranks.barrier();
        drop(self.universe.take());
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        std::mem::forget(self.universe.take());
    }
}

fn gather(ranks: &SimpleCommunicator, own: &[f64]) -> Vec<f64> {
    let mut all = vec![0.0; own.len() * ranks.size() as usize];
    ranks.all_gather_into(own, &mut all[..]);
    all
}

/// Lengths as MPI counts them: buckets are short enough (`distributed.bucket_mb`).
fn counts(parts: &[Range<usize>]) -> Vec<i32> {
    parts.iter().map(|part| part.len() as i32).collect()
}

fn starts(parts: &[Range<usize>]) -> Vec<i32> {
    parts.iter().map(|part| part.start as i32).collect()
}
