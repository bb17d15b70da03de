//! How do several processes train one model?
//!
//! Each rank holds all parameters and takes its share of the images of every step; gradients are summed over the ranks, and all ranks
//! move alike. A [`World`] of one rank, which is what every build has without a launcher, does nothing of this and costs nothing. The way in
//! which ranks talk is a variant of [`Link`]: NCCL between GPUs, else MPI, where it is built in (feature `mpi`).
//!
//! Nothing that one rank alone meets may leave the others waiting. What can fail is either followed by [`World::agree`], after which all
//! ranks know of it and end together, or ends the process at once, and with it all others ([`World::leave`]). A rank that is lost is found by
//! `watchman.rs` or by the launcher.

mod buckets;
mod launch;
#[cfg(feature = "mpi")]
mod mpi;
mod nccl;
mod rendezvous;
#[cfg(unix)]
pub(crate) mod spawn;
mod watchman;

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Error, Result};
use ijepa_tensor::cuda::Device;
use ijepa_tensor::{Buf, ViewMut};

use crate::device::{self, Place};
use crate::exit::{self, Exit, Failure};
use crate::output;
pub(crate) use buckets::Buckets;
use launch::Launched;
pub(crate) use launch::threads;
pub(crate) use nccl::tried as try_nccl;

/// Whether this program can train with several processes on CPUs, and how.
pub(crate) const BUILT_IN: Option<&str> = if cfg!(feature = "mpi") { Some("mpi") } else { None };

/// How ranks talk.
enum Link {
    /// There is one.
    Alone,
    /// Over NCCL, each with a GPU.
    Nccl(nccl::Gpus),
    /// Over MPI.
    #[cfg(feature = "mpi")]
    Mpi(mpi::Mpi),
}

/// The processes that train together, as one of them sees them.
pub(crate) struct World {
    /// Which of them this is, from 0.
    pub(crate) rank: usize,
    /// How many there are.
    pub(crate) size: usize,
    /// Before the device: memory is freed when NCCL no longer uses it.
    link: Link,
    /// What this rank computes on, if not the CPU.
    pub(crate) device: Option<Rc<Device>>,
    /// The rank that says why all have ended, once they have.
    ended: Cell<Option<usize>>,
    exchanged: Cell<Exchanged>,
}

/// What a rank has exchanged with the others.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Exchanged {
    /// Bytes of blobs that it took in; as many went out.
    pub(crate) bytes: u64,
    /// How long it was waited for, with nothing else to do.
    pub(crate) waited: Duration,
}

/// Gradients that are summed over the ranks while others are still computed, where a GPU computes them.
pub(crate) struct Reduction<'w> {
    world: &'w World,
    /// Those that are not being summed yet, from the beginning of the blob.
    rest: Vec<Range<usize>>,
    buckets: &'w Buckets,
}

/// Runs a command that several processes may do together.
pub(crate) fn run(place: Place, work: impl FnOnce(&World) -> Result<Exit>) -> Result<Exit> {
    if let Some(failure) = without_link(place) {
        return failure;
    }
    let world = World::join(place)?;
    let done = work(&world);
    world.leave(done)
}

/// Runs a command that one process does alone.
pub(crate) fn run_alone(command: &str, work: impl FnOnce(&World) -> Result<Exit>) -> Result<Exit> {
    match launch::launched() {
        None => work(&World::alone()),
        Some(launched) if launched.rank > 0 => Ok(Exit::Device),
        Some(launched) => Err(Failure::new(
            Exit::Device,
            format!("ijepa {command} was started as {} processes ({}); they would do the same work and write the same files", launched.size, launched.variable),
        )
        .remedy("start it once, without mpirun, srun or torchrun")
        .into()),
    }
}

/// Refuses to be one of several processes that know nothing of each other. The first of them speaks.
fn without_link(place: Place) -> Option<Result<Exit>> {
    let launched = launch::launched().filter(|_| BUILT_IN.is_none() && place == Place::Cpu)?;
    if launched.rank > 0 {
        return Some(Ok(Exit::Device));
    }
    let problem = format!(
        "started as {} processes ({}), but this build cannot train with several: each would do all of the work, into the same folder",
        launched.size, launched.variable
    );
    let remedy = "build with `cargo build --release --features mpi` (docs/ranks.md), give each a GPU (--device cuda), or start one process";
    Some(Err(Failure::new(Exit::Device, problem).remedy(remedy).into()))
}

/// The GPU of one of several processes, if they have some.
fn gpu_of(place: Place, Launched { size, variable, .. }: Launched) -> Result<Option<Rc<Device>>> {
    match (place, launch::local_rank()) {
        (Place::Cpu, _) => Ok(None),
        // Some launchers show each process its own GPU alone.
        (Place::Cuda(0), Some(_)) if device::count() == 1 => Place::Cuda(0).open(),
        (Place::Cuda(0), Some(local)) => Place::Cuda(local).open(),
        (Place::Cuda(number), Some(_)) => {
            let problem = format!("--device cuda:{number} for each of {size} processes ({variable})");
            Err(Failure::usage(problem).remedy("--device cuda: each takes the GPU of its local rank").into())
        }
        (Place::Cuda(_), None) => {
            let problem = format!("started as {size} processes ({variable}), and nothing says which GPU is whose");
            let remedy = "start with torchrun, srun or mpirun, which set LOCAL_RANK or a variable like it, or set it";
            Err(Failure::new(Exit::Device, problem).remedy(remedy).into())
        }
    }
}

impl World {
    /// One process.
    pub(crate) fn alone() -> World {
        World { rank: 0, size: 1, device: None, link: Link::Alone, ended: Cell::new(None), exchanged: Cell::default() }
    }

    /// The processes that a launcher started; without one, no library is called.
    fn join(place: Place) -> Result<World> {
        let Some(launched) = launch::launched() else {
            return Ok(World { device: place.open()?, ..World::alone() });
        };
        let Some(device) = gpu_of(place, launched)? else { return World::join_cpus(launched) };
        let Launched { rank, size, .. } = launched;
        if rank > 0 {
            output::set_verbosity(-1);
        }
        let gpus = nccl::Gpus::join(launched, &device)?;
        Ok(World {
            rank,
            size,
            device: Some(device),
            link: Link::Nccl(gpus),
            ended: Cell::new(None),
            exchanged: Cell::default(),
        })
    }

    #[cfg(not(feature = "mpi"))]
    fn join_cpus(_: Launched) -> Result<World> {
        unreachable!("several processes without a link were refused")
    }

    #[cfg(feature = "mpi")]
    fn join_cpus(launched: Launched) -> Result<World> {
        let mpi = mpi::Mpi::join().ok_or_else(|| Failure::new(Exit::Device, "MPI was started before"))?;
        let (rank, size) = (mpi.rank(), mpi.size());
        if size != launched.size {
            let problem =
                format!("started as {} processes ({}), but MPI knows of {size}", launched.size, launched.variable);
            let remedy = "start with the mpirun of the MPI that this program was built with, or with srun --mpi=pmix (docs/ranks.md)";
            mpi.leave();
            return Err(Failure::new(Exit::Device, problem).remedy(remedy).into());
        }
        if rank > 0 {
            output::set_verbosity(-1);
        }
        Ok(World { rank, size, device: None, link: Link::Mpi(mpi), ended: Cell::new(None), exchanged: Cell::default() })
    }

    /// Whether there are no others.
    pub(crate) fn is_alone(&self) -> bool {
        self.size == 1
    }

    /// Whether this is the rank that writes and narrates.
    pub(crate) fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// Waits no longer than that for the others, from now on.
    pub(crate) fn set_patience(&self, patience: Duration) {
        match &self.link {
            Link::Alone => {}
            Link::Nccl(gpus) => gpus.set_patience(patience),
            #[cfg(feature = "mpi")]
            Link::Mpi(mpi) => mpi.set_patience(patience),
        }
    }

    /// The values of all ranks, in their order. All ranks must call it.
    pub(crate) fn gather<const N: usize>(&self, own: [f64; N]) -> Vec<[f64; N]> {
        let all = match &self.link {
            Link::Alone => return vec![own],
            Link::Nccl(gpus) => self.or_end(gpus.gather(&own)),
            #[cfg(feature = "mpi")]
            Link::Mpi(mpi) => mpi.gather(&own),
        };
        all.chunks_exact(N).map(|values| values.try_into().expect("N values of each rank")).collect()
    }

    /// Whether all ranks have succeeded: then each has its own result, else all have an error. All ranks must call it.
    pub(crate) fn agree<T>(&self, own: Result<T>) -> Result<T> {
        if self.is_alone() || self.ended.get().is_some() {
            return own;
        }
        let code = own.as_ref().err().map_or(Exit::Done, exit::code);
        let codes = self.gather([f64::from(code as u8)]);
        let Some(first) = codes.iter().position(|[code]| *code != 0.0) else { return own };
        self.ended.set(Some(first));
        let failed = codes.iter().filter(|[code]| *code != 0.0).count();
        match own {
            Err(error) if first == self.rank && failed < self.size => {
                Err(error.context(format!("rank {first} of {} has failed, and with it the run", self.size)))
            }
            Err(error) if first == self.rank => Err(error),
            _ => Err(Failure::new(Exit::of(codes[first][0] as u8), format!("rank {first} has failed")).into()),
        }
    }

    /// Does something on the first rank and then, if that has succeeded, on all others. All ranks must call it.
    pub(crate) fn first_alone<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.is_first() {
            return self.agree(work());
        }
        self.agree(Ok(()))?;
        work()
    }

    /// How ranks share out a blob of `len` values, in buckets of so many bytes.
    pub(crate) fn buckets(&self, len: usize, bytes: f64) -> Buckets {
        let values = if self.is_alone() { len } else { (bytes / size_of::<f32>() as f64) as usize };
        Buckets::of(len, values, self.rank, self.size)
    }

    /// Begins to sum a blob over the ranks. All ranks must do so.
    pub(crate) fn reduction<'w>(&'w self, buckets: &'w Buckets) -> Reduction<'w> {
        let rest = if self.is_alone() { Vec::new() } else { buckets.all().collect() };
        Reduction { world: self, rest, buckets }
    }

    /// Puts a blob together from every rank's shards, on all ranks, and calls `then` for each bucket that is there: on a GPU for ops that are asked
    /// for once it is, while others come. All ranks must call it.
    pub(crate) fn all_gather(&self, blob: &mut Buf, buckets: &Buckets, mut then: impl FnMut(&Buf, Range<usize>)) {
        if let (false, Some(device)) = (self.is_alone(), &self.device) {
            device.wait(); // What ops do until then is not waiting.
        }
        let gathered = |bucket: &Range<usize>| {
            let shards = buckets.shards(bucket);
            self.took_in(bucket.len() - shards[self.rank].len());
            shards
        };
        self.timed(|| match &self.link {
            Link::Alone => buckets.all().for_each(|bucket| then(blob, bucket)),
            Link::Nccl(gpus) => {
                let begin = |bucket: Range<usize>| {
                    let shards = gathered(&bucket);
                    let there = self.or_end(gpus.begin_all_gather(&shards, blob.view_mut().part(bucket.clone())));
                    (bucket, there)
                };
                let begun: Vec<_> = buckets.all().map(begin).collect();
                for (bucket, there) in begun {
                    self.or_end(gpus.before_ops(&there));
                    then(blob, bucket);
                }
                self.or_end(gpus.finish());
            }
            #[cfg(feature = "mpi")]
            Link::Mpi(mpi) => {
                for bucket in buckets.all() {
                    mpi.all_gather(&gathered(&bucket), blob.view_mut().part(bucket.clone()));
                    then(blob, bucket);
                }
            }
        });
    }

    /// Puts a blob together on the first rank, in main memory, of which each has what it owns alone. All ranks must call it.
    pub(crate) fn gather_owned(&self, own: &Buf, buckets: &Buckets) -> Option<Buf> {
        let mut whole = self.is_first().then(|| Buf::zeros(buckets.len()));
        let mut room = own.zeros_beside(buckets.longest());
        let mut before = 0;
        for bucket in buckets.all() {
            let shards = buckets.shards(&bucket);
            let shard = shards[self.rank].clone();
            room.view_mut().part(shard.clone()).copy_from(own.view().range(before..before + shard.len()));
            before += shard.len();
            let part = room.view_mut().part(0..bucket.len());
            match &self.link {
                Link::Alone => {}
                Link::Nccl(gpus) => self.or_end(gpus.gather_shards(&shards, part)),
                #[cfg(feature = "mpi")]
                Link::Mpi(mpi) => mpi.gather_shards(&shards, part),
            }
            if let Some(whole) = &mut whole {
                room.read_first(&mut whole.as_mut_slice()[bucket]);
            }
        }
        whole
    }

    /// What this rank has exchanged until now, of blobs.
    pub(crate) fn exchanged(&self) -> Exchanged {
        self.exchanged.get()
    }

    fn took_in(&self, values: usize) {
        let Exchanged { bytes, waited } = self.exchanged.get();
        self.exchanged.set(Exchanged { bytes: bytes + (values * size_of::<f32>()) as u64, waited });
    }

    fn timed(&self, work: impl FnOnce()) {
        let began = Instant::now();
        work();
        let Exchanged { bytes, waited } = self.exchanged.get();
        self.exchanged.set(Exchanged { bytes, waited: waited + began.elapsed() });
    }

    /// Ends this rank's part. A failure that the others do not know of ends them too.
    fn leave(self, done: Result<Exit>) -> Result<Exit> {
        let done = match (done, self.ended.get()) {
            (Err(error), None) if !self.is_alone() => self.fail(&error),
            // One rank says why, before any goes: the launcher ends all when it sees the first code that is not 0.
            (Err(error), Some(speaker)) if speaker == self.rank => Ok(exit::report(&error)),
            (Err(error), Some(_)) => Ok(exit::code(&error)),
            (done, _) => done,
        };
        match self.link {
            Link::Alone => {}
            Link::Nccl(gpus) => gpus.leave()?,
            #[cfg(feature = "mpi")]
            Link::Mpi(mpi) => mpi.leave(),
        }
        done
    }

    /// What went well; a link that fails ends this rank, and with it all others.
    fn or_end<T>(&self, result: Result<T>) -> T {
        result.unwrap_or_else(|error| self.fail(&error))
    }

    /// Says what has failed on this rank alone, and ends all ranks.
    fn fail(&self, error: &Error) -> ! {
        output::error(&format!("rank {} of {}: {}", self.rank, self.size, exit::describe(error)));
        let code = exit::code(error) as i32;
        match &self.link {
            Link::Alone => std::process::exit(code),
            // At once, as libraries that are taken down wait for work that never ends. The others see that this process is gone, or their
            // launcher does.
            Link::Nccl(_) => signal_hook::low_level::exit(code),
            #[cfg(feature = "mpi")]
            Link::Mpi(mpi) => mpi.abort(code),
        }
    }
}

impl Reduction<'_> {
    /// The gradients from `from` on are complete, or will be once the GPU has done what it was asked for.
    pub(crate) fn complete(&mut self, mut grads: ViewMut, from: usize) {
        let Link::Nccl(gpus) = &self.world.link else { return };
        while let Some(bucket) = self.rest.pop_if(|bucket| bucket.start >= from) {
            let shards = self.begun(&bucket);
            self.world.or_end(gpus.begin_reduce_scatter(&shards, grads.range(bucket)));
        }
    }

    /// Stays until each rank has the sums of what it owns; the rest of the blob is unspecified.
    pub(crate) fn finish(mut self, grads: &mut Buf) {
        let world = self.world;
        world.timed(|| {
            self.complete(grads.view_mut(), 0);
            match &world.link {
                Link::Alone => {}
                Link::Nccl(gpus) => world.or_end(gpus.finish()),
                #[cfg(feature = "mpi")]
                Link::Mpi(mpi) => {
                    for bucket in std::mem::take(&mut self.rest) {
                        mpi.reduce_scatter(&self.begun(&bucket), grads.view_mut().part(bucket));
                    }
                }
            }
        });
    }

    /// The shards of a bucket that is going to be summed; its traffic is counted.
    fn begun(&self, bucket: &Range<usize>) -> Vec<Range<usize>> {
        let shards = self.buckets.shards(bucket);
        self.world.took_in((self.world.size - 1) * shards[self.world.rank].len());
        shards
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_world_of_one_agrees_with_itself_and_changes_nothing() {
        let world = World::alone();
        let mut blob = Buf::from_slice(&[1.0, 2.0, 3.0]);
        let buckets = world.buckets(3, 1.0);
        let mut reduction = world.reduction(&buckets);
        reduction.complete(blob.view_mut(), 1);
        reduction.finish(&mut blob);
        let mut gathered = Vec::new();
        world.all_gather(&mut blob, &buckets, |_, bucket| gathered.push(bucket));
        assert_eq!(gathered, buckets.own());
        assert_eq!((blob.as_slice(), buckets.own()), (&[1.0, 2.0, 3.0][..], std::iter::once(0..3).collect()));
        let whole = world.gather_owned(&blob, &buckets).expect("it is the first");
        assert_eq!((whole.as_slice(), world.exchanged().bytes), (blob.as_slice(), 0));
        assert_eq!(world.agree(Ok(7)).expect("nobody has failed"), 7);
        let error = world.agree::<()>(Err(Failure::usage("so").into())).expect_err("it has failed");
        assert_eq!((exit::code(&error), error.to_string()), (Exit::Usage, "so".to_owned()));
        assert_eq!(world.gather([1.5, 2.0]), [[1.5, 2.0]]);
    }
}
