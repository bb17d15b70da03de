//! What is a kernel told when it starts? Grid, threads, shared memory and arguments: what the driver's `cuLaunchKernel` takes,
//! and what the tests' CPU takes.
//!
//! The types of arguments are kept beside them: the driver checks nothing, the tests check every launch against the text.

use std::ffi::c_void;
use std::marker::PhantomData;

/// 16 bits of a value on the device, the upper half of an f32.
#[derive(Clone, Copy, Debug)]
pub enum Bf16 {}

/// What a pointer may point to.
pub trait Element {
    /// Its letter in [`Argument::kind`].
    const KIND: u8;
}

impl Element for Bf16 {
    const KIND: u8 = b'B';
}
impl Element for f32 {
    const KIND: u8 = b'F';
}
impl Element for f64 {
    const KIND: u8 = b'D';
}
impl Element for u32 {
    const KIND: u8 = b'U';
}
impl Element for u8 {
    const KIND: u8 = b'Y';
}

/// An address on the device.
#[repr(transparent)]
pub struct Pointer<T> {
    address: u64,
    element: PhantomData<T>,
}

impl<T> Clone for Pointer<T> {
    fn clone(&self) -> Pointer<T> {
        *self
    }
}

impl<T> Copy for Pointer<T> {}

impl<T> Pointer<T> {
    /// What stands for an operand that is not there.
    pub const NULL: Pointer<T> = Pointer::new(0);

    /// The address `address`.
    pub const fn new(address: u64) -> Pointer<T> {
        Pointer { address, element: PhantomData }
    }

    /// Its number.
    pub(super) fn address(self) -> u64 {
        self.address
    }

    /// The address `bytes` further on.
    pub fn bytes(self, bytes: usize) -> Pointer<T> {
        Pointer::new(self.address + bytes as u64)
    }

    /// The address as libraries take it.
    pub(super) fn raw(self) -> *mut c_void {
        self.address as *mut c_void
    }
}

/// One argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Its bits, in the lowest bytes.
    pub bits: u64,
    /// Its type: `B`, `F`, `D`, `U`, `Y`, `S` for pointers to bf16, f32, f64, u32, u8 and structs, `i`, `l`, `f`, `d` for i32,
    /// u64, f32 and f64.
    pub kind: u8,
}

impl<T: Element> From<Pointer<T>> for Argument {
    fn from(pointer: Pointer<T>) -> Argument {
        Argument { bits: pointer.address, kind: T::KIND }
    }
}

impl From<u64> for Argument {
    fn from(value: u64) -> Argument {
        Argument { bits: value, kind: b'l' }
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Argument {
        Argument { bits: u64::from(value.to_bits()), kind: b'f' }
    }
}

impl From<f64> for Argument {
    fn from(value: f64) -> Argument {
        Argument { bits: value.to_bits(), kind: b'd' }
    }
}

/// A length or a flag.
pub(super) fn int(value: usize) -> Argument {
    let value =
        i32::try_from(value).unwrap_or_else(|_| panic!("{value} rows or columns are more than a kernel counts"));
    Argument { bits: u64::from(value.cast_unsigned()), kind: b'i' }
}

/// A kernel and all that it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Its name.
    pub kernel: String,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// Its arguments.
    pub arguments: Vec<Argument>,
}

/// Threads of a warp.
pub(super) const WARP: usize = 32;
/// Warps of a block in which each warp has a row; as many share the rows of summed columns (`COLUMN_WARPS`).
pub(super) const WARPS: usize = 8;

/// A number of blocks, threads or bytes.
pub(super) fn blocks(count: usize) -> u32 {
    u32::try_from(count).expect("fewer blocks than the driver's limit")
}

/// Without shared memory.
pub(super) fn plain(kernel: &str, grid: (usize, usize, usize), threads: usize, arguments: Vec<Argument>) -> Launch {
    let grid = [blocks(grid.0), blocks(grid.1), blocks(grid.2)];
    Launch { kernel: kernel.to_owned(), grid, threads: blocks(threads), shared: 0, arguments }
}

/// A warp a row.
pub(super) fn by_rows(kernel: &str, rows: usize, arguments: Vec<Argument>) -> Launch {
    plain(kernel, (rows.div_ceil(WARPS), 1, 1), WARPS * WARP, arguments)
}

/// `each` values a thread.
pub(super) fn by_values(kernel: &str, len: usize, each: usize, arguments: Vec<Argument>) -> Launch {
    plain(kernel, (len.div_ceil(WARPS * WARP * each), 1, 1), WARPS * WARP, arguments)
}

/// Values that a lane has of a row (`packed`).
pub(super) fn lanes(width: usize) -> usize {
    if width.is_multiple_of(8) { 8 } else { 1 }
}

/// A block of warps for as many columns as one warp has, and `stripes` of such blocks.
pub(super) fn by_columns(kernel: &str, width: usize, stripes: usize, arguments: Vec<Argument>) -> Launch {
    let grid = (width.div_ceil(WARP * lanes(width)), stripes, 1);
    let shared = blocks(WARPS * WARP * lanes(width) * size_of::<f32>());
    Launch { shared, ..plain(kernel, grid, WARPS * WARP, arguments) }
}

/// Scratch of a sum over the block in f64.
pub(super) fn summing(launch: Launch) -> Launch {
    Launch { shared: launch.threads / WARP as u32 * size_of::<f64>() as u32, ..launch }
}
