//! Values on a GPU: an owned array, and what views of it are made of.

use super::calls;
use super::device::{Device, Loan};
use super::driver::Memory;
use super::launch::{Bf16, Pointer};
use crate::vector::vectorised;
use std::ops::Range;
use std::rc::Rc;

/// How values lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Activations and their gradients.
    Bf16,
    /// Parameters and their gradients, moments, statistics, losses.
    F32,
}

impl Kind {
    fn bytes(self) -> usize {
        match self {
            Kind::Bf16 => 2,
            Kind::F32 => 4,
        }
    }
}

/// Values on a GPU.
pub(crate) struct Array {
    values: Loan,
    /// Of parameters, the rounded copy that products read.
    rounded: Option<Loan>,
    kind: Kind,
}

/// A part of an [`Array`].
#[derive(Clone, Copy)]
pub struct Slice<'a> {
    device: &'a Rc<Device>,
    address: u64,
    rounded: Option<u64>,
    kind: Kind,
    len: usize,
}

/// Values as bfloat16.
pub(crate) struct Rounded {
    values: Pointer<Bf16>,
    _room: Option<Loan>,
}

impl Rounded {
    /// Where they begin.
    pub(crate) fn at(&self) -> Pointer<Bf16> {
        self.values
    }
}

impl Array {
    /// Memory that goes round, of unspecified content.
    pub(crate) fn take(device: &Rc<Device>, kind: Kind, len: usize) -> Array {
        Array { values: device.take(len * kind.bytes()), rounded: None, kind }
    }

    /// Memory that stays, of unspecified content.
    pub(super) fn keep_rounded(device: &Rc<Device>, len: usize) -> Array {
        Array { values: device.keep(len * Kind::Bf16.bytes()), rounded: None, kind: Kind::Bf16 }
    }

    /// Memory that stays, of unspecified content; `parameters` have a rounded copy.
    pub(crate) fn keep(device: &Rc<Device>, len: usize, parameters: bool) -> Array {
        let rounded = parameters.then(|| device.keep(len * Kind::Bf16.bytes()));
        Array { values: device.keep(len * Kind::F32.bytes()), rounded, kind: Kind::F32 }
    }

    pub(crate) fn device(&self) -> &Rc<Device> {
        self.values.device()
    }

    /// Where the values are.
    pub(super) fn memory(&self) -> &Memory {
        self.values.memory()
    }

    /// Another one with the same first `len` values.
    pub(crate) fn duplicate(&self, len: usize) -> Array {
        let device = self.device();
        let copy = |from: &Loan, bytes: usize| {
            let to = device.keep(bytes);
            device.copy(to.at::<u8>().address(), from.at::<u8>().address(), bytes);
            to
        };
        Array {
            values: copy(&self.values, len * self.kind.bytes()),
            rounded: self.rounded.as_ref().map(|rounded| copy(rounded, len * Kind::Bf16.bytes())),
            kind: self.kind,
        }
    }

    /// Its first `len` values.
    pub(crate) fn slice(&self, len: usize) -> Slice<'_> {
        let address = self.values.at::<u8>().address();
        let rounded = self.rounded.as_ref().map(|rounded| rounded.at::<u8>().address());
        Slice { device: self.values.device(), address, rounded, kind: self.kind, len }
    }

    /// Takes values from main memory.
    pub(crate) fn write(&mut self, values: &[f32]) {
        let device = self.values.device();
        let round = || {
            let mut rounded = vec![0; values.len()];
            narrow_all(&mut rounded, values);
            rounded
        };
        match self.kind {
            Kind::Bf16 => device.write(&self.values, &round()),
            Kind::F32 => device.write(&self.values, values),
        }
        if let Some(rounded) = &self.rounded {
            device.write(rounded, &round());
        }
    }

    /// Copies its first values into main memory, as many as fit there.
    pub(crate) fn read_into(&self, values: &mut [f32]) {
        let device = self.values.device();
        match self.kind {
            Kind::Bf16 => {
                let halves = device.read::<u16>(&self.values, values.len());
                values.iter_mut().zip(halves).for_each(|(value, half)| *value = widen(half));
            }
            Kind::F32 => device.read_into(&self.values, values),
        }
    }
}

impl<'a> Slice<'a> {
    /// The device that it is on.
    pub(crate) fn device(self) -> &'a Rc<Device> {
        self.device
    }

    /// Number of values.
    pub(crate) fn len(self) -> usize {
        self.len
    }

    /// A part of it.
    pub(crate) fn range(self, range: Range<usize>) -> Slice<'a> {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {} values", self.len);
        let rounded = self.rounded.map(|rounded| rounded + (range.start * Kind::Bf16.bytes()) as u64);
        let address = self.address + (range.start * self.kind.bytes()) as u64;
        Slice { address, rounded, len: range.len(), ..self }
    }

    /// Where activations begin, or the rounded copy of parameters.
    ///
    /// # Panics
    /// When they are neither.
    pub(crate) fn bf16(self) -> Pointer<Bf16> {
        match (self.kind, self.rounded) {
            (Kind::Bf16, _) => Pointer::new(self.address),
            (Kind::F32, Some(rounded)) => Pointer::new(rounded),
            (Kind::F32, None) => panic!("{} f32 values where bf16 is expected", self.len),
        }
    }

    /// Where f32 values begin.
    ///
    /// # Panics
    /// When they are activations.
    pub(crate) fn f32(self) -> Pointer<f32> {
        assert_eq!(self.kind, Kind::F32, "{} values", self.len);
        Pointer::new(self.address)
    }

    pub(crate) fn kind(self) -> Kind {
        self.kind
    }

    /// Its values rounded, where they are not yet, in memory that goes round.
    pub(crate) fn rounded(self) -> Rounded {
        if self.kind == Kind::Bf16 {
            return Rounded { values: Pointer::new(self.address), _room: None };
        }
        let room = self.device.take(self.len * Kind::Bf16.bytes());
        self.device.run(calls::cast_to_bf16(room.at(), self.f32(), self.len));
        Rounded { values: room.at(), _room: Some(room) }
    }

    /// Copies values of the same kind from another slice.
    pub(crate) fn copy_from(self, other: Slice) {
        assert_eq!((self.kind, self.len), (other.kind, other.len), "values that are copied");
        self.device.copy(self.address, other.address, self.len * self.kind.bytes());
    }
}

/// The upper half of an f32, rounded to nearest even; NaN stays NaN.
#[inline(always)]
pub(crate) fn narrow(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return 0x7fff;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

vectorised! {
    /// y = x, each rounded.
    pub(super) fn narrow_all(y: &mut [u16], x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = narrow(x);
        }
    }
}

/// The value that bfloat16 has in its place.
pub fn rounded(value: f32) -> f32 {
    widen(narrow(value))
}

fn widen(half: u16) -> f32 {
    f32::from_bits(u32::from(half) << 16)
}
