//! How do the GPUs of several processes work together?
//!
//! Ranks share out a blob of values, each a part (a *shard*), and the last parts may be shorter. NCCL's own reduce-scatter and
//! all-gather want parts of one length; they are used where the memory behind the blob has room for as much, and a group of
//! reductions or broadcasts, one a shard, takes their place where it has not. As many bytes travel either way.
//!
//! **Beside the ops.** NCCL's work has a stream of its own, and begins when all that ops were asked for before is done. So
//! gradients are summed while ops compute others: what is begun here is done when [`Communicator::finish`] returns.
//!
//! **Waiting.** NCCL puts its work on the stream and returns, and that work waits for the other ranks without an end. So
//! whoever waits here asks NCCL again and again whether a rank is lost, and looks at the clock.
//! After an error, or [`Communicator::set_patience`]'s time, it takes the work off the GPU (`ncclCommAbort`), fails, and the
//! communicator is of no more use. What this cannot see is NCCL itself not returning, while ranks connect, or the driver, which may wait
//! for all streams when it frees memory: the caller must guard [`Communicator::join`] and the first calls with a clock of its own.
//!
//! **Order.** NCCL sums in an order that depends on how GPUs are connected, on the number of values and on its version, and on
//! nothing else as long as the switch does not sum (`NCCL_NVLS_ENABLE=0`).

use super::driver::{Gpu, Memory};
use super::launch::Pointer;
use super::nccl::{Error, FLOAT32, FLOAT64, Handle, IN_PROGRESS, Id, Nccl, SUM};
use super::stream::{Event, Stream};
use crate::buf::ViewMut;
use std::cell::{Cell, RefCell};
use std::ffi::c_int;
use std::marker::PhantomData;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Values that [`Communicator::gather`] takes at most.
pub const MOST_GATHERED: usize = 16;
/// Between two looks at work that is not done: at first, and at most.
const PAUSE: [Duration; 2] = [Duration::from_micros(10), Duration::from_micros(200)];

/// f32 values on a GPU that ranks share out.
pub struct Blob<'a> {
    start: Pointer<f32>,
    room: usize,
    gpu: &'a Gpu,
    memory: PhantomData<&'a mut Memory>,
}

impl<'a> Blob<'a> {
    /// All of this memory. What shards do not reach is room.
    pub fn of(memory: &'a mut Memory) -> Blob<'a> {
        let (start, room) = (memory.at(0), memory.bytes() / size_of::<f32>());
        Blob { start, room, gpu: memory.gpu(), memory: PhantomData }
    }

    /// Values of a buffer on a GPU.
    ///
    /// # Panics
    /// When they are in main memory, or no f32 values.
    pub fn of_view(view: ViewMut<'a>) -> Blob<'a> {
        let slice = view.cuda();
        Blob { start: slice.f32(), room: slice.len(), gpu: slice.device().gpu(), memory: PhantomData }
    }

    fn at(&self, value: usize) -> Handle {
        self.start.bytes(value * size_of::<f32>()).raw()
    }
}

/// The end of something that was begun.
pub struct Begun(Event);

/// The processes that work together, as one of them sees them.
pub struct Communicator {
    nccl: Rc<Nccl>,
    gpu: Rc<Gpu>,
    stream: Stream,
    /// The end of what ops were asked for.
    ready: Event,
    /// The last call.
    begun: Cell<&'static str>,
    /// Null once it has ended.
    handle: Cell<Handle>,
    rank: usize,
    size: usize,
    patience: Cell<Duration>,
    /// Room for [`MOST_GATHERED`] values of each rank.
    gathered: RefCell<Memory>,
}

impl Communicator {
    /// Joins the ranks that were told the same id, each with a GPU of its own. Waits until all have come, without an end.
    ///
    /// # Errors
    /// When a rank cannot be reached, or NCCL or the GPU fails.
    ///
    /// # Panics
    /// When there is no such rank.
    pub fn join(nccl: &Rc<Nccl>, gpu: &Rc<Gpu>, id: Id, rank: usize, size: usize) -> Result<Communicator, Error> {
        assert!(rank < size, "rank {rank} of {size}");
        let gathered = gpu.memory(size * MOST_GATHERED * size_of::<f64>())?;
        let (stream, ready) = (gpu.stream_beside()?, gpu.event()?);
        let mut handle = std::ptr::null_mut();
        // SAFETY: the pointer is valid for the call; the GPU's context is this thread's.
        let code = unsafe { (nccl.functions.ncclCommInitRank)(&raw mut handle, size as c_int, id, rank as c_int) };
        nccl.check("ncclCommInitRank", code)?;
        let communicator = Communicator {
            nccl: Rc::clone(nccl),
            gpu: Rc::clone(gpu),
            stream,
            ready,
            begun: Cell::new("join"),
            handle: Cell::new(handle),
            rank,
            size,
            patience: Cell::new(Duration::MAX),
            gathered: RefCell::new(gathered),
        };
        communicator.wait()?;
        Ok(communicator)
    }

    /// Which rank this is, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// From now on no call waits longer than that for the others; what the GPU does before is part of it.
    pub fn set_patience(&self, patience: Duration) {
        self.patience.set(patience);
    }

    /// Begins to sum blobs over the ranks: each finds the sums in its own shard, once [`Communicator::finish`] has returned. Until then no op that
    /// is asked for may use the blob, and nobody may give its memory back. The rest of the blob is unspecified afterwards.
    ///
    /// # Errors
    /// When a rank is lost, or NCCL or the GPU fails; then the communicator has ended.
    ///
    /// # Panics
    /// When shards do not follow one another, one for each rank, within the blob.
    pub fn begin_reduce_scatter(&self, shards: &[Range<usize>], blob: Blob) -> Result<(), Error> {
        self.expect(shards, &blob);
        self.begin("reduce_scatter", |nccl, handle, stream| {
            if let Some(each) = length_of_each(shards, blob.room) {
                let own = blob.at(self.rank * each);
                // SAFETY: the blob has room for `each` values of every rank; in place, the result begins where the rank's part does.
                let code =
                    unsafe { (nccl.functions.ncclReduceScatter)(blob.at(0), own, each, FLOAT32, SUM, handle, stream) };
                return nccl.check("ncclReduceScatter", code);
            }
            for (root, shard) in shards.iter().enumerate().filter(|(_, shard)| !shard.is_empty()) {
                let at = blob.at(shard.start);
                // SAFETY: the shard is within the blob.
                let code = unsafe {
                    (nccl.functions.ncclReduce)(at, at, shard.len(), FLOAT32, SUM, root as c_int, handle, stream)
                };
                nccl.check("ncclReduce", code)?;
            }
            Ok(())
        })
    }

    /// Ops that are asked for from now on come after what was begun, although [`Communicator::finish`] has not returned. When that fails, what they did
    /// is void.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn before_ops(&self, begun: &Begun) -> Result<(), Error> {
        Ok(self.gpu.stream().wait_for(&begun.0)?)
    }

    /// Waits for all that was begun.
    ///
    /// # Errors
    /// As [`Communicator::begin_reduce_scatter`].
    pub fn finish(&self) -> Result<(), Error> {
        self.or_give_up(self.wait())
    }

    /// Begins to put a blob together from every rank's shard, on all ranks, as [`Communicator::begin_reduce_scatter`] does its work.
    ///
    /// # Errors
    /// As [`Communicator::begin_reduce_scatter`].
    ///
    /// # Panics
    /// As [`Communicator::begin_reduce_scatter`].
    pub fn begin_all_gather(&self, shards: &[Range<usize>], blob: Blob) -> Result<Begun, Error> {
        self.expect(shards, &blob);
        self.begin("all_gather", |nccl, handle, stream| {
            if let Some(each) = length_of_each(shards, blob.room) {
                let own = blob.at(self.rank * each);
                // SAFETY: the blob has room for `each` values of every rank; in place, the rank's part lies where it will.
                let code = unsafe { (nccl.functions.ncclAllGather)(own, blob.at(0), each, FLOAT32, handle, stream) };
                return nccl.check("ncclAllGather", code);
            }
            for (root, shard) in shards.iter().enumerate().filter(|(_, shard)| !shard.is_empty()) {
                let at = blob.at(shard.start);
                // SAFETY: the shard is within the blob.
                let code = unsafe {
                    (nccl.functions.ncclBroadcast)(at, at, shard.len(), FLOAT32, root as c_int, handle, stream)
                };
                nccl.check("ncclBroadcast", code)?;
            }
            Ok(())
        })?;
        let end = self.gpu.event()?;
        self.stream.record(&end)?;
        Ok(Begun(end))
    }

    /// Puts a blob together from every rank's shard, on the first rank.
    ///
    /// # Errors
    /// As [`Communicator::begin_reduce_scatter`].
    ///
    /// # Panics
    /// As [`Communicator::begin_reduce_scatter`].
    pub fn gather_shards(&self, shards: &[Range<usize>], blob: Blob) -> Result<(), Error> {
        self.expect(shards, &blob);
        self.begin("gather_shards", |nccl, handle, stream| {
            for (rank, shard) in shards.iter().enumerate().skip(1).filter(|(_, shard)| !shard.is_empty()) {
                let (at, len) = (blob.at(shard.start), shard.len());
                if self.rank == 0 {
                    // SAFETY: the shard is within the blob.
                    let code = unsafe { (nccl.functions.ncclRecv)(at, len, FLOAT32, rank as c_int, handle, stream) };
                    nccl.check("ncclRecv", code)?;
                } else if self.rank == rank {
                    // SAFETY: the shard is within the blob.
                    let code = unsafe { (nccl.functions.ncclSend)(at, len, FLOAT32, 0, handle, stream) };
                    nccl.check("ncclSend", code)?;
                }
            }
            Ok(())
        })?;
        self.finish()
    }

    /// The values of all ranks, in their order: as many of each.
    ///
    /// # Errors
    /// As [`Communicator::begin_reduce_scatter`].
    ///
    /// # Panics
    /// When there are more than [`MOST_GATHERED`].
    pub fn gather(&self, own: &[f64]) -> Result<Vec<f64>, Error> {
        assert!(own.len() <= MOST_GATHERED, "{} values, at most {MOST_GATHERED}", own.len());
        let mut memory = self.gathered.borrow_mut();
        let mut sent = vec![0.0; self.size * MOST_GATHERED];
        sent[self.rank * MOST_GATHERED..][..own.len()].copy_from_slice(own);
        memory.write(bytemuck::cast_slice(&sent))?;
        self.begin("gather", |nccl, handle, stream| {
            let all: Pointer<f64> = memory.at(0);
            let own = all.bytes(self.rank * MOST_GATHERED * size_of::<f64>());
            // SAFETY: the memory has room for all ranks' values; in place, the rank's part lies where it will.
            let code =
                unsafe { (nccl.functions.ncclAllGather)(own.raw(), all.raw(), MOST_GATHERED, FLOAT64, handle, stream) };
            nccl.check("ncclAllGather", code)
        })?;
        self.finish()?;
        let bytes = memory.read()?;
        let ranks = bytes.chunks_exact(MOST_GATHERED * size_of::<f64>());
        Ok(ranks.flat_map(|values| values.chunks_exact(8).take(own.len()).map(bytemuck::pod_read_unaligned)).collect())
    }

    /// Leaves together with the others: all have done their last call.
    ///
    /// # Errors
    /// When NCCL fails.
    pub fn leave(self) -> Result<(), Error> {
        let handle = self.handle.replace(std::ptr::null_mut());
        if handle.is_null() {
            return Ok(());
        }
        // SAFETY: the handle came from NCCL, and is not used again.
        self.nccl.check("ncclCommDestroy", unsafe { (self.nccl.functions.ncclCommDestroy)(handle) })
    }

    #[track_caller]
    fn expect(&self, shards: &[Range<usize>], blob: &Blob) {
        assert_eq!(shards.len(), self.size, "shards, one for each rank");
        let follow = shards.windows(2).all(|pair| pair[0].end == pair[1].start);
        let within = shards.iter().all(|shard| shard.start <= shard.end && shard.end <= blob.room);
        assert!(follow && within, "shards {shards:?} of a blob with room for {}", blob.room);
        assert!(std::ptr::eq(blob.gpu, &*self.gpu), "a blob of another GPU");
    }

    /// Makes calls that all ranks make, as one; what they start begins after all that ops were asked for.
    fn begin(
        &self,
        call: &'static str,
        calls: impl FnOnce(&Nccl, Handle, Handle) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (nccl, handle) = (&*self.nccl, self.handle.get());
        if handle.is_null() {
            return Err(Error::Ended { call });
        }
        self.begun.set(call);
        let begun = || {
            self.gpu.stream().record(&self.ready)?;
            self.stream.wait_for(&self.ready)?;
            // SAFETY: no conditions. A group that was begun is ended, whatever happens in between.
            nccl.check("ncclGroupStart", unsafe { (nccl.functions.ncclGroupStart)() })?;
            let called = calls(nccl, handle, self.stream.handle());
            // SAFETY: no conditions.
            let ended = nccl.check("ncclGroupEnd", unsafe { (nccl.functions.ncclGroupEnd)() });
            called.and(ended)?;
            // Until then NCCL takes no other call.
            self.wait_until(call, || self.is_well(call))
        };
        self.or_give_up(begun())
    }

    fn or_give_up(&self, done: Result<(), Error>) -> Result<(), Error> {
        if done.is_err() {
            self.give_up();
        }
        done
    }

    /// Waits for all that is on the stream.
    fn wait(&self) -> Result<(), Error> {
        let call = self.begun.get();
        if self.handle.get().is_null() {
            return Err(Error::Ended { call });
        }
        // Once before, so that the work is on the stream, and once after: work that ended because a rank was lost is no result.
        self.wait_until(call, || Ok(self.is_well(call)? && self.stream.is_done()? && self.is_well(call)?))
    }

    fn wait_until(&self, call: &'static str, done: impl Fn() -> Result<bool, Error>) -> Result<(), Error> {
        let began = Instant::now();
        let [mut pause, longest] = PAUSE;
        while !done()? {
            let waited = began.elapsed();
            if waited > self.patience.get() {
                return Err(Error::Waited { call, rank: self.rank, size: self.size, waited });
            }
            std::thread::sleep(pause);
            pause = longest.min(2 * pause);
        }
        Ok(())
    }

    /// Whether NCCL has put on the stream what it was asked for; an error where a rank is lost.
    fn is_well(&self, call: &'static str) -> Result<bool, Error> {
        let mut code = 0;
        // SAFETY: the communicator lives, and the pointer is valid for the call.
        let asked = unsafe { (self.nccl.functions.ncclCommGetAsyncError)(self.handle.get(), &raw mut code) };
        self.nccl.check("ncclCommGetAsyncError", asked)?;
        self.nccl.check(call, code)?;
        Ok(code != IN_PROGRESS)
    }

    /// Takes what waits for other ranks off the GPU.
    fn give_up(&self) {
        let handle = self.handle.replace(std::ptr::null_mut());
        if !handle.is_null() {
            // SAFETY: the handle came from NCCL, and is not used again.
            unsafe { (self.nccl.functions.ncclCommAbort)(handle) };
        }
    }
}

/// A communicator that is not left has failed: the others are not waited for.
impl Drop for Communicator {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// The length that every shard has, or would have if the last ones were longer, where there is room for as much.
fn length_of_each(shards: &[Range<usize>], room: usize) -> Option<usize> {
    let each = shards.first()?.len();
    let regular =
        |(rank, shard): (usize, &Range<usize>)| shard.is_empty() || shard.start == rank * each && shard.len() <= each;
    (each * shards.len() <= room && shards.iter().enumerate().all(regular)).then_some(each)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_of_one_length_where_the_last_ones_have_room_to_be_longer() {
        let (full, short) = (vec![0..32, 32..64], vec![0..32, 32..48, 48..48]);
        assert_eq!([length_of_each(&full, 64), length_of_each(&full, 63)], [Some(32), None]);
        assert_eq!([length_of_each(&short, 96), length_of_each(&short, 95)], [Some(32), None]);
        assert_eq!(length_of_each(&[0..16, 16..48], 99), None);
        assert_eq!(length_of_each(&[0..32, 32..48, 48..80], 99), None);
    }
}
