//! Memory on a device: an owned buffer, and borrowed views of it.
//!
//! `View` and `ViewMut` are enums over the devices. An op that gets views of a GPU starts its kernels and is done; else its code for the
//! CPU follows.

use crate::cuda::launch::{Bf16, Pointer};
use crate::cuda::{Array, Device, Kind, Slice, calls};
use crate::threads;
use memmap2::MmapMut;
use std::ops::Range;
use std::rc::Rc;

/// Bytes that memory is asked for in multiples of.
const PAGE: usize = 4096;
/// Bytes of the large pages of x86-64, and of Arm with pages of 4096 bytes.
#[cfg(target_os = "linux")]
const LARGE_PAGE: usize = 2 << 20;

/// A buffer of values on a device, f32 but for activations on a GPU, which are bfloat16. Its content is unspecified until an op writes it,
/// unless made by [`Buf::zeros`] or from given values.
pub struct Buf {
    memory: Memory,
    len: usize,
}

enum Memory {
    /// Zeroed pages of the system's, not of an allocator's: those that are never written take no memory.
    Cpu(MmapMut),
    Cuda(Array),
}

/// Values that an op reads.
#[derive(Clone, Copy)]
pub enum View<'a> {
    /// In main memory.
    Cpu(&'a [f32]),
    /// On a GPU.
    Cuda(Slice<'a>),
}

/// Values that an op writes.
pub enum ViewMut<'a> {
    /// In main memory.
    Cpu(&'a mut [f32]),
    /// On a GPU.
    Cuda(Slice<'a>),
}

impl Buf {
    /// A buffer of `len` zeros in main memory.
    ///
    /// # Panics
    /// When there is no memory.
    pub fn zeros(len: usize) -> Buf {
        Buf::with_room(len, len)
    }

    /// A buffer of `len` zeros in main memory that can grow to `capacity` values.
    pub(crate) fn with_room(len: usize, capacity: usize) -> Buf {
        let bytes = (capacity * size_of::<f32>()).next_multiple_of(PAGE).max(PAGE);
        let pages = MmapMut::map_anon(bytes).unwrap_or_else(|error| panic!("no memory for {bytes} bytes: {error}"));
        // Fewer addresses to look up. Not where nothing may ever be written: a large page is there as soon as one of its values is.
        #[cfg(target_os = "linux")]
        if let large @ 1.. = len * size_of::<f32>() / LARGE_PAGE * LARGE_PAGE {
            // A system without large pages says no, and small ones do.
            let _ = pages.advise_range(memmap2::Advice::HugePage, 0, large);
        }
        Buf { memory: Memory::Cpu(pages), len }
    }

    /// A copy of `values` in main memory.
    pub fn from_slice(values: &[f32]) -> Buf {
        let mut buf = Buf::zeros(values.len());
        buf.as_mut_slice().copy_from_slice(values);
        buf
    }

    /// A copy of values on a GPU: of gradients or moments.
    pub fn on(device: &Rc<Device>, values: &[f32]) -> Buf {
        Buf::kept_on(device, values, false)
    }

    /// A copy of parameters on a GPU, where products read them rounded to bfloat16.
    pub fn parameters_on(device: &Rc<Device>, values: &[f32]) -> Buf {
        Buf::kept_on(device, values, true)
    }

    fn kept_on(device: &Rc<Device>, values: &[f32], parameters: bool) -> Buf {
        let mut array = Array::keep(device, values.len(), parameters);
        array.write(values);
        Buf { memory: Memory::Cuda(array), len: values.len() }
    }

    /// A buffer of `len` zeros on a GPU.
    pub fn zeros_on(device: &Rc<Device>, len: usize) -> Buf {
        let array = Array::keep(device, len, false);
        device.run(calls::fill_f32(array.slice(len).f32(), 0.0, len));
        Buf { memory: Memory::Cuda(array), len }
    }

    /// `len` zeros on the same device.
    pub fn zeros_beside(&self, len: usize) -> Buf {
        match self.device() {
            None => Buf::zeros(len),
            Some(device) => Buf::zeros_on(device, len),
        }
    }

    /// Memory of a GPU for a while: of activations (bfloat16), or of f32 values.
    pub(crate) fn lent_by(device: &Rc<Device>, len: usize, activations: bool) -> Buf {
        let kind = if activations { Kind::Bf16 } else { Kind::F32 };
        Buf { memory: Memory::Cuda(Array::take(device, kind, len)), len }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no value.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of values that fit in main memory without another allocation.
    pub fn capacity(&self) -> usize {
        match &self.memory {
            Memory::Cpu(pages) => pages.len() / size_of::<f32>(),
            Memory::Cuda(_) => self.len,
        }
    }

    /// Takes another length within the capacity; the content becomes unspecified.
    pub(crate) fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "length {len} exceeds the capacity {}", self.capacity());
        self.len = len;
    }

    /// The values, for an op to read.
    pub fn view(&self) -> View<'_> {
        match &self.memory {
            Memory::Cpu(pages) => View::Cpu(&bytemuck::cast_slice(pages)[..self.len]),
            Memory::Cuda(array) => View::Cuda(array.slice(self.len)),
        }
    }

    /// The values, for an op to write.
    pub fn view_mut(&mut self) -> ViewMut<'_> {
        match &mut self.memory {
            Memory::Cpu(pages) => ViewMut::Cpu(&mut bytemuck::cast_slice_mut(pages)[..self.len]),
            Memory::Cuda(array) => ViewMut::Cuda(array.slice(self.len)),
        }
    }

    /// The values in main memory.
    ///
    /// # Panics
    /// When they are on a GPU.
    pub fn as_slice(&self) -> &[f32] {
        self.view().cpu()
    }

    /// The values in main memory.
    ///
    /// # Panics
    /// When they are on a GPU.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        self.view_mut().cpu()
    }

    /// A copy of the values, wherever they are.
    pub fn to_vec(&self) -> Vec<f32> {
        match &self.memory {
            Memory::Cpu(_) => self.as_slice().to_vec(),
            Memory::Cuda(array) => {
                let mut values = vec![0.0; self.len];
                array.read_into(&mut values);
                values
            }
        }
    }

    /// A copy in main memory.
    pub fn to_main_memory(&self) -> Buf {
        match &self.memory {
            Memory::Cpu(_) => self.clone(),
            Memory::Cuda(_) => {
                let mut buf = Buf::zeros(self.len);
                self.read_first(buf.as_mut_slice());
                buf
            }
        }
    }

    /// Copies its first values into main memory, as many as fit there.
    ///
    /// # Panics
    /// When there are not as many.
    pub fn read_first(&self, values: &mut [f32]) {
        assert!(values.len() <= self.len, "{} values of {}", values.len(), self.len);
        match &self.memory {
            Memory::Cpu(_) => values.copy_from_slice(&self.as_slice()[..values.len()]),
            Memory::Cuda(array) => array.read_into(values),
        }
    }

    /// Takes values from main memory, as many as it has; activations on a GPU round them.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn write(&mut self, values: &[f32]) {
        assert_eq!(values.len(), self.len, "values for a buffer");
        match &mut self.memory {
            Memory::Cpu(_) => self.as_mut_slice().copy_from_slice(values),
            Memory::Cuda(array) => array.write(values),
        }
    }

    /// The GPU that it is on.
    pub fn device(&self) -> Option<&Rc<Device>> {
        match &self.memory {
            Memory::Cpu(_) => None,
            Memory::Cuda(array) => Some(array.device()),
        }
    }
}

impl Clone for Buf {
    fn clone(&self) -> Buf {
        match &self.memory {
            Memory::Cpu(_) => Buf::from_slice(self.as_slice()),
            Memory::Cuda(array) => Buf { memory: Memory::Cuda(array.duplicate(self.len)), len: self.len },
        }
    }
}

impl<'a> View<'a> {
    /// Number of values.
    pub fn len(self) -> usize {
        match self {
            View::Cpu(values) => values.len(),
            View::Cuda(slice) => slice.len(),
        }
    }

    /// Whether it holds no value.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// A part of it.
    pub fn range(self, range: Range<usize>) -> View<'a> {
        match self {
            View::Cpu(values) => View::Cpu(&values[range]),
            View::Cuda(slice) => View::Cuda(slice.range(range)),
        }
    }

    /// The values in main memory.
    ///
    /// # Panics
    /// When they are on a GPU.
    pub fn cpu(self) -> &'a [f32] {
        match self {
            View::Cpu(values) => values,
            View::Cuda(_) => panic!("{ON_A_GPU}"),
        }
    }

    /// The GPU that they are on.
    pub(crate) fn device(self) -> Option<&'a Rc<Device>> {
        match self {
            View::Cpu(_) => None,
            View::Cuda(slice) => Some(slice.device()),
        }
    }

    /// The values on the GPU.
    pub(crate) fn cuda(self) -> Slice<'a> {
        match self {
            View::Cpu(_) => panic!("{IN_MAIN_MEMORY}"),
            View::Cuda(slice) => slice,
        }
    }

    /// Activations on the GPU, or the rounded copy of parameters.
    pub(crate) fn bf16(self) -> Pointer<Bf16> {
        self.cuda().bf16()
    }

    /// f32 values on the GPU.
    pub(crate) fn f32(self) -> Pointer<f32> {
        self.cuda().f32()
    }
}

const ON_A_GPU: &str = "values on a GPU where code for the CPU reads them";
const IN_MAIN_MEMORY: &str = "values in main memory where a kernel reads them";

impl<'a> ViewMut<'a> {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            ViewMut::Cpu(values) => values.len(),
            ViewMut::Cuda(slice) => slice.len(),
        }
    }

    /// Whether it holds no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same values, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> ViewMut<'_> {
        match self {
            ViewMut::Cpu(values) => ViewMut::Cpu(values),
            ViewMut::Cuda(slice) => ViewMut::Cuda(*slice),
        }
    }

    /// A part of it.
    pub fn range(&mut self, range: Range<usize>) -> ViewMut<'_> {
        self.reborrow().part(range)
    }

    /// Takes as many values of the same kind from the same device.
    ///
    /// # Panics
    /// When they are not.
    pub fn copy_from(self, other: View) {
        match (self, other) {
            (ViewMut::Cuda(to), View::Cuda(from)) => to.copy_from(from),
            (to, from) => to.cpu().copy_from_slice(from.cpu()),
        }
    }

    /// All values become 0.
    ///
    /// # Panics
    /// When they are rounded ones of a GPU.
    pub fn clear(self) {
        match self {
            ViewMut::Cpu(values) => threads::for_rows(values, 1, |_, values| values.fill(0.0)),
            ViewMut::Cuda(slice) => slice.device().run(calls::fill_f32(slice.f32(), 0.0, slice.len())),
        }
    }

    /// As [`ViewMut::range`], borrowed for as long as the whole was.
    pub fn part(self, range: Range<usize>) -> ViewMut<'a> {
        match self {
            ViewMut::Cpu(values) => ViewMut::Cpu(&mut values[range]),
            ViewMut::Cuda(slice) => ViewMut::Cuda(slice.range(range)),
        }
    }

    /// The values in main memory.
    ///
    /// # Panics
    /// When they are on a GPU.
    pub fn cpu(self) -> &'a mut [f32] {
        match self {
            ViewMut::Cpu(values) => values,
            ViewMut::Cuda(_) => panic!("{ON_A_GPU}"),
        }
    }

    /// The values on the GPU.
    pub(crate) fn cuda(&self) -> Slice<'a> {
        match self {
            ViewMut::Cpu(_) => panic!("{IN_MAIN_MEMORY}"),
            ViewMut::Cuda(slice) => *slice,
        }
    }

    /// Activations on the GPU.
    pub(crate) fn bf16(&self) -> Pointer<Bf16> {
        self.cuda().bf16()
    }

    /// f32 values on the GPU.
    pub(crate) fn f32(&self) -> Pointer<f32> {
        self.cuda().f32()
    }
}
