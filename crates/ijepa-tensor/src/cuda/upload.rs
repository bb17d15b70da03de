//! How do the images of the next batch reach a GPU while it computes on those of this one? Over a stream of their own, into one of two places:
//! the copy waits for the last op that reads what was there, and the first op that reads the new images waits for the copy.

use super::array::{Array, narrow_all};
use super::device::{Device, or_throw};
use super::driver::Pinned;
use super::stream::{Event, Stream};
use crate::buf::View;
use std::rc::Rc;

/// Batches on their way to a GPU: one that ops read, and one that comes.
pub struct Uploads {
    device: Rc<Device>,
    stream: Stream,
    places: [Option<Place>; 2],
    /// Which place has the last batch, and how many values that is.
    last: usize,
    len: usize,
}

struct Place {
    pinned: Pinned,
    values: Array,
    /// The end of the copy.
    copied: Event,
    /// The end of what reads it.
    read: Event,
}

impl Uploads {
    /// To this GPU, within [`super::guarded`].
    pub fn to(device: &Rc<Device>) -> Uploads {
        let stream = or_throw(device.gpu().stream_beside());
        Uploads { device: Rc::clone(device), stream, places: [None, None], last: 0, len: 0 }
    }

    /// Begins to copy a batch, each value rounded to bfloat16. All ops that read the one before must have been asked for. The values are copied
    /// aside; the call does not wait for the GPU, unless the copy before last is not done.
    pub fn begin(&mut self, values: &[f32]) {
        if let Some(before) = &self.places[self.last] {
            or_throw(self.device.gpu().stream().record(&before.read));
        }
        (self.last, self.len) = (1 - self.last, values.len());
        let bytes = size_of::<u16>() * values.len();
        let place = &mut self.places[self.last];
        if let Some(place) = place {
            or_throw(place.copied.synchronise());
        }
        if place.as_mut().is_none_or(|place| place.pinned.bytes_mut().len() < bytes) {
            *place = Some(Place::of(&self.device, values.len()));
        }
        let Some(place) = place else { unreachable!("it was filled") };
        narrow_all(bytemuck::cast_slice_mut(&mut place.pinned.bytes_mut()[..bytes]), values);
        or_throw(self.stream.wait_for(&place.read));
        or_throw(place.values.memory().write_later(0, (&place.pinned, 0..bytes), &self.stream));
        or_throw(self.stream.record(&place.copied));
    }

    /// The last batch, for ops that are asked for from now on.
    ///
    /// # Panics
    /// When there is none.
    pub fn view(&self) -> View<'_> {
        let place = self.places[self.last].as_ref().expect("a batch was begun");
        or_throw(self.device.gpu().stream().wait_for(&place.copied));
        View::Cuda(place.values.slice(self.len))
    }
}

impl Drop for Uploads {
    fn drop(&mut self) {
        // Pinned memory is freed next. A GPU that has failed reads no more.
        let _ = self.stream.synchronise();
    }
}

impl Place {
    fn of(device: &Rc<Device>, len: usize) -> Place {
        let gpu = device.gpu();
        let place = Place {
            pinned: or_throw(gpu.pinned(len * size_of::<u16>())),
            values: Array::keep_rounded(device, len),
            copied: or_throw(gpu.event()),
            read: or_throw(gpu.event()),
        };
        // Ops may still use the memory for what was there before.
        or_throw(gpu.stream().record(&place.read));
        place
    }
}
