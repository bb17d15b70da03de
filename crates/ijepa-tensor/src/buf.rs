//! Memory on a device: an owned buffer, and borrowed views of it.
//!
//! `View` and `ViewMut` are enums over the devices. An op takes them apart with a `let` that names every
//! device it can run on, so that adding a device makes the compiler list the ops that lack it.

use memmap2::MmapMut;
use std::ops::Range;

/// Bytes that memory is asked for in multiples of.
const PAGE: usize = 4096;
/// Bytes of the large pages of x86-64, and of Arm with pages of 4096 bytes.
#[cfg(target_os = "linux")]
const LARGE_PAGE: usize = 2 << 20;

/// A buffer of f32 values on a device. Its content is unspecified until an op writes it, unless made by
/// [`Buf::zeros`] or [`Buf::from_slice`].
pub struct Buf {
    /// Zeroed pages of the system's, not of an allocator's: those that are never written take no memory.
    pages: MmapMut,
    len: usize,
}

/// Values that an op reads.
#[derive(Clone, Copy)]
pub enum View<'a> {
    /// In main memory.
    Cpu(&'a [f32]),
}

/// Values that an op writes.
pub enum ViewMut<'a> {
    /// In main memory.
    Cpu(&'a mut [f32]),
}

impl Buf {
    /// A buffer of `len` zeros.
    ///
    /// # Panics
    /// When there is no memory.
    pub fn zeros(len: usize) -> Buf {
        Buf::with_room(len, len)
    }

    /// A buffer of `len` zeros that can grow to `capacity` values.
    pub(crate) fn with_room(len: usize, capacity: usize) -> Buf {
        let bytes = (capacity * size_of::<f32>()).next_multiple_of(PAGE).max(PAGE);
        let pages = MmapMut::map_anon(bytes).unwrap_or_else(|error| panic!("no memory for {bytes} bytes: {error}"));
        // Fewer addresses to look up. Not where nothing may ever be written: a large page is there as soon as one of its values is.
        #[cfg(target_os = "linux")]
        if let large @ 1.. = len * size_of::<f32>() / LARGE_PAGE * LARGE_PAGE {
            // A system without large pages says no, and small ones do.
            let _ = pages.advise_range(memmap2::Advice::HugePage, 0, large);
        }
        Buf { pages, len }
    }

    /// A copy of `values`.
    pub fn from_slice(values: &[f32]) -> Buf {
        let mut buf = Buf::zeros(values.len());
        buf.as_mut_slice().copy_from_slice(values);
        buf
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no value.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of values that fit without another allocation.
    pub fn capacity(&self) -> usize {
        self.pages.len() / size_of::<f32>()
    }

    /// Takes another length within the capacity; the content becomes unspecified.
    pub(crate) fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "length {len} exceeds the capacity {}", self.capacity());
        self.len = len;
    }

    /// The values, for an op to read.
    pub fn view(&self) -> View<'_> {
        View::Cpu(self.as_slice())
    }

    /// The values, for an op to write.
    pub fn view_mut(&mut self) -> ViewMut<'_> {
        ViewMut::Cpu(self.as_mut_slice())
    }

    /// The values in main memory.
    pub fn as_slice(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.pages)[..self.len]
    }

    /// The values in main memory.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.pages)[..self.len]
    }
}

impl Clone for Buf {
    fn clone(&self) -> Buf {
        Buf::from_slice(self.as_slice())
    }
}

impl<'a> View<'a> {
    /// Number of values.
    pub fn len(self) -> usize {
        let View::Cpu(values) = self;
        values.len()
    }

    /// Whether it holds no value.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// A part of it.
    pub fn range(self, range: Range<usize>) -> View<'a> {
        let View::Cpu(values) = self;
        View::Cpu(&values[range])
    }
}

impl ViewMut<'_> {
    /// Number of values.
    pub fn len(&self) -> usize {
        let ViewMut::Cpu(values) = self;
        values.len()
    }

    /// Whether it holds no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same values, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> ViewMut<'_> {
        let ViewMut::Cpu(values) = self;
        ViewMut::Cpu(values)
    }

    /// A part of it.
    pub fn range(&mut self, range: Range<usize>) -> ViewMut<'_> {
        let ViewMut::Cpu(values) = self;
        ViewMut::Cpu(&mut values[range])
    }
}
