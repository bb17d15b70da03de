//! Parameters of a model: one flat blob of f32 with named, shaped views, and their initial values.
//!
//! Optimiser, moving average, checkpoint and (later) all-reduce are each one loop over the entries or the blob.

use ijepa_data::key::{Key, Purpose, normal};
use ijepa_tensor::{Buf, Slot};

/// The reference's standard deviation of initial weights. It truncates at ±2, a hundred deviations away, and undoes its own
/// rescaling by depth, so that plain normal numbers are its effective initialisation (quirks Q12 and Q13).
pub const INIT_STD: f64 = 0.02;

/// How a parameter begins.
#[derive(Clone, Debug, PartialEq)]
pub enum Init {
    /// Normal numbers, with the deviation that [`Layout::init`] is told.
    Normal,
    /// Zeros.
    Zero,
    /// Ones.
    One,
    /// Given values that never change.
    Fixed(Vec<f32>),
}

/// One parameter.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name in checkpoints.
    pub name: String,
    /// Its shape as PyTorch stores it.
    pub shape: Vec<usize>,
    /// Where it lies in the blob.
    pub slot: Slot,
    /// How it begins.
    pub init: Init,
}

impl Entry {
    /// Whether the optimiser moves it.
    pub fn learnt(&self) -> bool {
        !matches!(self.init, Init::Fixed(_))
    }

    /// Whether weight decay applies: not to biases and other vectors (quirk Q20: the mask token, (1, 1, d), decays).
    pub fn decays(&self) -> bool {
        !self.name.contains("bias") && self.shape.len() != 1
    }
}

/// All parameters of a model, in the order of the blob.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// The parameters.
    pub entries: Vec<Entry>,
    /// Length of the blob.
    pub len: usize,
}

impl Layout {
    /// Adds a parameter at the end of the blob, on a cache line of its own.
    pub fn add(&mut self, name: String, shape: &[usize], init: Init) -> Slot {
        let slot = Slot { offset: self.len, len: shape.iter().product() };
        self.len = (slot.offset + slot.len).next_multiple_of(16);
        self.entries.push(Entry { name, shape: shape.to_vec(), slot, init });
        slot
    }

    /// Number of learnt values.
    pub fn learnt(&self) -> usize {
        self.entries.iter().filter(|entry| entry.learnt()).map(|entry| entry.slot.len).sum()
    }

    /// A blob of initial values, weights with standard deviation `std` ([`INIT_STD`] in the reference); each tensor draws
    /// from a stream of its own.
    pub fn init(&self, seed: u64, std: f64) -> Buf {
        let mut blob = Buf::zeros(self.len);
        for (number, entry) in self.entries.iter().enumerate() {
            let values = &mut blob.as_mut_slice()[entry.slot.range()];
            match &entry.init {
                Init::Normal => {
                    let mut rng = Key::new(seed, Purpose::Init, 0, number as u64).rng();
                    values.fill_with(|| (std * normal(&mut rng)) as f32);
                }
                Init::Zero => {}
                Init::One => values.fill(1.0),
                Init::Fixed(fixed) => values.copy_from_slice(fixed),
            }
        }
        blob
    }
}
