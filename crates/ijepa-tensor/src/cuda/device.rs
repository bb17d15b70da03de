//! How do ops run on a GPU? A [`Device`] has the kernels, cuBLASLt and memory that goes round, and does one thing after the other.
//!
//! An op has no way to fail, a GPU has: whatever it says is thrown as an [`Error`] up to [`guarded`], which stands around all work on a GPU.

use super::blas::{self, Blas, Product};
use super::driver::{Driver, Function, Gpu, Memory, Pinned};
use super::launch::{Launch, Pointer};
use super::{Error, code};
use bytemuck::Pod;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::rc::Rc;

/// Bytes that pinned memory begins with: indices of a step.
const STAGING_BYTES: usize = 16 << 20;
/// And has at most.
const MOST_STAGING_BYTES: usize = 512 << 20;
/// Where copies begin in pinned memory.
const ALIGNED: usize = 256;

/// Does work on a GPU.
///
/// # Errors
/// What a driver or a library says in the midst of it.
pub fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, Error> {
    // Whoever meets the error drops all that was on the GPU, so nothing half done is seen.
    catch_unwind(AssertUnwindSafe(work)).map_err(|thrown| match thrown.downcast::<Error>() {
        Ok(error) => *error,
        Err(other) => resume_unwind(other),
    })
}

/// The result, or the way up to [`guarded`].
pub(super) fn or_throw<T, E: Into<Error>>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| resume_unwind(Box::new(error.into())))
}

/// A GPU with all that ops need.
pub struct Device {
    gpu: Rc<Gpu>,
    functions: HashMap<&'static str, Function>,
    blas: Blas,
    workspace: Memory,
    /// Memory that waits for its next use, by its length in bytes.
    free: RefCell<BTreeMap<usize, Vec<Memory>>>,
    staging: RefCell<Staging>,
    allocated: Cell<usize>,
    allocations: Cell<usize>,
}

/// Pinned memory, and how much of it the GPU may still read.
struct Staging {
    pinned: Pinned,
    used: usize,
}

/// Memory of a device that goes back when it is dropped. Ops that were asked for before may still use it, and those that get it next come after
/// them; another stream must wait for them.
pub(crate) struct Loan {
    memory: Option<Memory>,
    device: Rc<Device>,
}

impl Device {
    /// Begins to use GPU number `number` of this machine.
    ///
    /// # Errors
    /// When there is no driver, no such GPU, no cuBLASLt, or no code for it.
    pub fn open(number: usize) -> Result<Rc<Device>, Error> {
        let gpu = Gpu::open(&Driver::open()?, number)?;
        Device::of(gpu, Blas::open()?)
    }

    /// Begins to use the first GPU of a library that has the functions of the driver and of cuBLASLt.
    ///
    /// # Errors
    /// When it lacks one, or one fails.
    ///
    /// # Safety
    /// Its functions do what NVIDIA's do.
    pub unsafe fn open_at(library: &Path) -> Result<Rc<Device>, Error> {
        // SAFETY: the caller's.
        let (driver, blas) = unsafe { (Driver::open_at(library)?, Blas::open_at(library)?) };
        Device::of(Gpu::open(&driver, 0)?, blas)
    }

    fn of(gpu: Rc<Gpu>, blas: Blas) -> Result<Rc<Device>, Error> {
        let functions = code::load(&gpu)?;
        let workspace = gpu.memory(blas::WORKSPACE_BYTES)?;
        let staging = RefCell::new(Staging { pinned: gpu.pinned(STAGING_BYTES)?, used: 0 });
        let free = RefCell::default();
        let (allocated, allocations) = (Cell::new(0), Cell::new(0));
        Ok(Rc::new(Device { gpu, functions, blas, workspace, free, staging, allocated, allocations }))
    }

    /// The GPU.
    pub fn gpu(&self) -> &Rc<Gpu> {
        &self.gpu
    }

    /// Bytes that this process has of the GPU for buffers.
    pub fn allocated_bytes(&self) -> usize {
        self.allocated.get()
    }

    /// How often they were.
    pub(crate) fn allocations(&self) -> usize {
        self.allocations.get()
    }

    /// Memory for `bytes` bytes, of unspecified content: the smallest that is free and not twice as long, or new.
    pub(crate) fn take(self: &Rc<Device>, bytes: usize) -> Loan {
        let least = bytes.next_multiple_of(ALIGNED).max(ALIGNED);
        let mut free = self.free.borrow_mut();
        let found = free.range_mut(least..=2 * least).find_map(|(_, waiting)| waiting.pop());
        let memory = found.unwrap_or_else(|| {
            // Context lengths differ from batch to batch: room for an eighth more lets memory serve again.
            self.allocate(&mut free, (least + least / 8).next_multiple_of(ALIGNED))
        });
        Loan { memory: Some(memory), device: Rc::clone(self) }
    }

    /// Memory of exactly `bytes` bytes, for what stays.
    pub(crate) fn keep(self: &Rc<Device>, bytes: usize) -> Loan {
        let mut free = self.free.borrow_mut();
        let found = free.get_mut(&bytes).and_then(Vec::pop);
        let memory = found.unwrap_or_else(|| self.allocate(&mut free, bytes));
        Loan { memory: Some(memory), device: Rc::clone(self) }
    }

    fn allocate(&self, free: &mut BTreeMap<usize, Vec<Memory>>, bytes: usize) -> Memory {
        let memory = match self.gpu.memory(bytes) {
            Err(error) if error.is_memory() && !free.is_empty() => {
                // What waits is of other lengths: it may make room.
                let waiting: usize = free.values().flatten().map(Memory::bytes).sum();
                self.allocated.set(self.allocated.get() - waiting);
                free.clear();
                or_throw(self.gpu.memory(bytes))
            }
            memory => or_throw(memory),
        };
        self.allocated.set(self.allocated.get() + bytes);
        self.allocations.set(self.allocations.get() + 1);
        memory
    }

    /// A copy of values for the kernels that are asked for next.
    pub(crate) fn upload<T: Copy>(self: &Rc<Device>, values: &[T]) -> Loan {
        let loan = self.take(size_of_val(values));
        self.write(&loan, values);
        loan
    }

    /// Fills the beginning of memory; the values are copied aside, so the call does not wait for the GPU unless what is copied aside takes up its
    /// room.
    pub(crate) fn write<T: Copy>(&self, loan: &Loan, values: &[T]) {
        // SAFETY: values of numbers are bytes.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values)) };
        let mut staging = self.staging.borrow_mut();
        // A blob of parameters goes in pieces.
        let wanted = (2 * bytes.len()).min(MOST_STAGING_BYTES);
        if wanted > staging.pinned.bytes_mut().len() {
            or_throw(self.gpu.synchronise());
            *staging = Staging { pinned: or_throw(self.gpu.pinned(wanted)), used: 0 };
        }
        let room = staging.pinned.bytes_mut().len();
        for (number, piece) in bytes.chunks(room / 2).enumerate() {
            if staging.used + piece.len() > room {
                or_throw(self.gpu.synchronise());
                staging.used = 0;
            }
            let part = staging.used..staging.used + piece.len();
            // Nothing else is there: the GPU has read what was.
            staging.pinned.bytes_mut()[part.clone()].copy_from_slice(piece);
            or_throw(loan.memory().write_later(number * (room / 2), (&staging.pinned, part), self.gpu.stream()));
            staging.used = (staging.used + piece.len()).next_multiple_of(ALIGNED);
        }
    }

    /// The first `count` values, once all that was asked for is done.
    pub(crate) fn read<T: Pod>(&self, loan: &Loan, count: usize) -> Vec<T> {
        let mut values = vec![T::zeroed(); count];
        self.read_into(loan, &mut values);
        values
    }

    /// As [`Device::read`], into memory that is there.
    pub(crate) fn read_into<T: Pod>(&self, loan: &Loan, values: &mut [T]) {
        or_throw(loan.memory().read_part(bytemuck::cast_slice_mut(values)));
        self.staging.borrow_mut().used = 0;
    }

    /// Waits until all that was asked for is done.
    pub fn wait(&self) {
        or_throw(self.gpu.synchronise());
    }

    /// Whether all that was asked for is done.
    pub fn is_idle(&self) -> bool {
        or_throw(self.gpu.is_done())
    }

    /// Copies within the GPU.
    pub(crate) fn copy(&self, to: u64, from: u64, bytes: usize) {
        // SAFETY: addresses come from views of this device, which know their lengths.
        or_throw(unsafe { self.gpu.copy(to, from, bytes) });
    }

    /// Starts a kernel.
    pub(crate) fn run(&self, launch: Launch) {
        let function = self.functions.get(launch.kernel.as_str());
        let function = function.unwrap_or_else(|| panic!("there is no kernel {}", launch.kernel));
        if launch.grid.contains(&0) {
            return;
        }
        // SAFETY: tests compare the arguments of every launch in calls.rs with the kernel's text; pointers come from views that
        // the ops have asked for the lengths of.
        or_throw(unsafe { self.gpu.launch(function, &launch) });
    }

    /// Starts kernels one after the other.
    pub(crate) fn run_all(&self, launches: impl IntoIterator<Item = Launch>) {
        launches.into_iter().for_each(|launch| self.run(launch));
    }

    /// Asks for a product.
    pub(crate) fn multiply(&self, product: Product) {
        if product.shape.m == 0 || product.shape.n == 0 {
            return;
        }
        // SAFETY: pointers come from views that the ops have asked for the lengths of.
        or_throw(unsafe { self.blas.multiply(&self.gpu, self.workspace.at(0), product) });
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Pinned memory is freed next. A GPU that has failed reads no more.
        let _ = self.gpu.synchronise();
    }
}

impl Loan {
    pub(super) fn memory(&self) -> &Memory {
        self.memory.as_ref().expect("it goes back when it is dropped")
    }

    /// Where it begins.
    pub(crate) fn at<T>(&self) -> Pointer<T> {
        self.memory().at(0)
    }

    /// The device that it is on.
    pub(crate) fn device(&self) -> &Rc<Device> {
        &self.device
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let memory = self.memory.take().expect("it goes back once");
        self.device.free.borrow_mut().entry(memory.bytes()).or_default().push(memory);
    }
}
