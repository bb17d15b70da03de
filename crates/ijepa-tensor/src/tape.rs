//! A thin tape: forward calls compute at once and leave behind what their backward needs; [`Tape::backward`]
//! runs those in reverse order.
//!
//! Activations are [`Var`]s, counted references to a (rows, width) value. Without gradients nothing keeps a
//! value but the caller, so memory is returned as soon as the last `Var` is dropped; with gradients the
//! records keep exactly what their backward reads. Memory comes from a [`Pool`] and returns to it: after the
//! first few steps of a shape no buffer is allocated.

use crate::buf::{Buf, View, ViewMut};
use crate::cuda::{Device, Kind};
use crate::gemm::Precision;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

/// Buffers that wait for their next use.
#[derive(Clone, Default)]
pub struct Pool(Rc<Shelf>);

#[derive(Default)]
struct Shelf {
    /// A GPU has a shelf of its own.
    device: Option<Rc<Device>>,
    free: RefCell<Vec<Buf>>,
    allocated: Cell<usize>,
    allocations: Cell<usize>,
}

impl Pool {
    /// An empty pool of main memory.
    pub fn new() -> Pool {
        Pool::default()
    }

    /// A pool of a GPU's memory, or of main memory.
    pub fn on(device: Option<&Rc<Device>>) -> Pool {
        Pool(Rc::new(Shelf { device: device.cloned(), ..Shelf::default() }))
    }

    /// The GPU whose memory this is.
    pub fn device(&self) -> Option<&Rc<Device>> {
        self.0.device.as_ref()
    }

    /// A buffer for activations: the smallest free one that holds `len` values without wasting half of it, or a new one. Its content is
    /// unspecified.
    pub fn take(&self, len: usize) -> Buf {
        match &self.0.device {
            None => self.take_pages(len),
            Some(device) => Buf::lent_by(device, len, true),
        }
    }

    /// As [`Pool::take`], for values that are f32 on a GPU too: statistics, losses.
    pub fn take_f32(&self, len: usize) -> Buf {
        match &self.0.device {
            None => self.take_pages(len),
            Some(device) => Buf::lent_by(device, len, false),
        }
    }

    fn take_pages(&self, len: usize) -> Buf {
        let mut free = self.0.free.borrow_mut();
        let fits = |buf: &Buf| buf.capacity() >= len && buf.capacity() <= 2 * len.max(512);
        let best = (0..free.len()).filter(|&i| fits(&free[i])).min_by_key(|&i| free[i].capacity());
        let mut buf = match best {
            Some(index) => free.swap_remove(index),
            None => {
                // Context lengths differ from batch to batch: room for an eighth more lets a buffer serve again.
                let buf = Buf::with_room(len, len + len / 8);
                self.0.allocated.set(self.0.allocated.get() + buf.capacity());
                self.0.allocations.set(self.0.allocations.get() + 1);
                buf
            }
        };
        buf.set_len(len);
        buf
    }

    /// A rounded copy of images for the ops of a GPU; nothing where ops read them in main memory.
    pub fn upload(&self, images: &[f32]) -> Option<Buf> {
        let mut buf = Buf::lent_by(self.device()?, images.len(), true);
        buf.write(images);
        Some(buf)
    }

    /// Takes a buffer back.
    pub fn put(&self, buf: Buf) {
        if buf.device().is_none() {
            self.0.free.borrow_mut().push(buf);
        }
    }

    /// Bytes that were ever allocated through this pool, or on its GPU for any buffer.
    pub fn allocated_bytes(&self) -> usize {
        self.0.device.as_ref().map_or(self.0.allocated.get() * size_of::<f32>(), |device| device.allocated_bytes())
    }

    /// How often a buffer had to be allocated.
    pub fn allocations(&self) -> usize {
        self.0.device.as_ref().map_or(self.0.allocations.get(), |device| device.allocations())
    }
}

/// Where a parameter lies in the flat blob of its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// First value.
    pub offset: usize,
    /// Number of values.
    pub len: usize,
}

impl Slot {
    /// The values' positions in the blob.
    pub fn range(self) -> Range<usize> {
        self.offset..self.offset + self.len
    }
}

/// Row numbers that an op reads by, shared with its backward.
pub type Index = Rc<[u32]>;

struct Value {
    id: usize,
    rows: usize,
    width: usize,
    /// Whether a gradient flows back through it.
    tracked: Cell<bool>,
    buf: Option<Buf>,
    pool: Pool,
}

impl Drop for Value {
    fn drop(&mut self) {
        if let Some(buf) = self.buf.take() {
            self.pool.put(buf);
        }
    }
}

/// An activation (rows, width) on a tape.
#[derive(Clone)]
pub struct Var(Rc<Value>);

impl Var {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.0.rows
    }

    /// Values in a row.
    pub fn width(&self) -> usize {
        self.0.width
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.0.rows * self.0.width
    }

    /// Whether it holds no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values.
    pub fn view(&self) -> View<'_> {
        self.buf().view()
    }

    /// The values in main memory.
    ///
    /// # Panics
    /// When they are on a GPU.
    pub fn as_slice(&self) -> &[f32] {
        self.view().cpu()
    }

    /// A copy of the values, wherever they are.
    pub fn to_vec(&self) -> Vec<f32> {
        self.buf().to_vec()
    }

    fn buf(&self) -> &Buf {
        self.0.buf.as_ref().expect("a value holds its buffer until it is dropped")
    }

    /// Whether a gradient flows back through it.
    pub(crate) fn tracked(&self) -> bool {
        self.0.tracked.get()
    }

    pub(crate) fn key(&self) -> Key {
        Key { id: self.0.id, len: self.len(), tracked: self.tracked() }
    }
}

/// A [`Var`] without its values: enough to find its gradient.
#[derive(Clone, Copy)]
pub(crate) struct Key {
    pub(crate) id: usize,
    pub(crate) len: usize,
    pub(crate) tracked: bool,
}

/// What an op leaves behind.
struct Record<'p> {
    backward: Box<dyn FnOnce(&mut Tape<'p>) + 'p>,
    /// Ops up to this one use parameters up to here.
    reach: usize,
}

/// One forward pass over a network's parameters, and its way back.
pub struct Tape<'p> {
    pool: Pool,
    params: View<'p>,
    grads: Option<ViewMut<'p>>,
    /// Slots whose gradients this tape has begun, with their ends, where it replaces what `grads` held.
    begun: Option<BTreeMap<usize, usize>>,
    records: Vec<Record<'p>>,
    /// End of the parameters that were read since the last record.
    read: Cell<usize>,
    /// From here on gradients of parameters are complete.
    complete_from: usize,
    gradients: Vec<Option<Buf>>, // by Var
    precision: Precision,
    /// Whether segments keep nothing but their input.
    recompute: bool,
}

impl<'p> Tape<'p> {
    /// A tape without gradients.
    pub fn inference(pool: &Pool, params: View<'p>) -> Tape<'p> {
        Tape::new(pool, params, None)
    }

    /// A tape whose backward adds to `grads`, a blob laid out as `params`; see [`Tape::replacing`].
    ///
    /// # Panics
    /// When the blobs differ in length.
    pub fn training(pool: &Pool, params: View<'p>, grads: ViewMut<'p>) -> Tape<'p> {
        assert_eq!(params.len(), grads.len(), "parameters and gradients");
        Tape::new(pool, params, Some(grads))
    }

    fn new(pool: &Pool, params: View<'p>, grads: Option<ViewMut<'p>>) -> Tape<'p> {
        let (records, read, gradients) = (Vec::new(), Cell::new(0), Vec::new());
        let (precision, recompute) = (Precision::F32, false);
        let complete_from = params.len();
        let (pool, begun) = (pool.clone(), None);
        Tape { pool, params, grads, begun, records, read, complete_from, gradients, precision, recompute }
    }

    /// The same tape, its linear layers multiplying in `precision`, forward and backward.
    pub fn in_precision(mut self, precision: Precision) -> Tape<'p> {
        self.precision = precision;
        self
    }

    /// What linear layers multiply in.
    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }

    /// The same tape, whose backward replaces what `grads` hold, or adds to it. Who replaces need not clear, which saves large networks two passes
    /// over their gradients.
    pub fn replacing(mut self, replace: bool) -> Tape<'p> {
        self.begun = replace.then(BTreeMap::new);
        self
    }

    /// The same tape, whose [`Tape::segment`]s keep only their input for the way back, or all that it needs.
    pub fn recomputing(mut self, recompute: bool) -> Tape<'p> {
        self.recompute = recompute;
        self
    }

    /// A value from outside, without a gradient.
    ///
    /// # Panics
    /// When `values` is not (rows, width).
    pub fn constant(&mut self, values: &[f32], rows: usize, width: usize) -> Var {
        assert_eq!(values.len(), rows * width, "a constant of shape ({rows}, {width})");
        let mut buf = self.take_f32(values.len());
        buf.write(values);
        self.var(buf, rows, width, false)
    }

    /// A value from outside whose gradient can be read with [`Tape::gradient`] after the backward pass.
    ///
    /// # Panics
    /// When `values` is not (rows, width).
    pub fn input(&mut self, values: &[f32], rows: usize, width: usize) -> Var {
        assert_eq!(values.len(), rows * width, "an input of shape ({rows}, {width})");
        let mut buf = self.take(values.len());
        buf.write(values);
        let recording = self.recording();
        self.var(buf, rows, width, recording)
    }

    /// A part of a network, x → forward(x), as one step of the tape. On a tape that recomputes it keeps x alone: `forward` runs once more on
    /// the way back (Chen et al., arXiv 1604.06174), with the same results and gradients to the last bit. `forward` may use
    /// no other activation that gradients flow through.
    pub fn segment(&mut self, x: Var, forward: impl Fn(&mut Tape<'p>, Var) -> Var + 'p) -> Var {
        if !self.recompute || !self.recording() {
            return forward(self, x);
        }
        // Without a place for gradients, and with an input that has none, no op leaves anything behind.
        let (grads, tracked) = (self.grads.take(), x.0.tracked.replace(false));
        let y = forward(self, x.clone());
        self.grads = grads;
        x.0.tracked.set(tracked);
        y.0.tracked.set(true);
        let key = y.key();
        self.record(move |tape| {
            let Some(dy) = tape.take_gradient(key) else { return };
            // What this leaves behind is what the backward pass takes up next.
            let y = forward(tape, x);
            tape.close_gradient(y.key(), dy);
        });
        y
    }

    /// Runs every backward, last op first, with gradient 1 for each value of `output`.
    pub fn backward(&mut self, output: &Var) {
        self.backward_from(output, &vec![1.0; output.len()], |_, _| {});
    }

    /// Runs every backward, last op first, from a given gradient of `output`. As parameters are laid out in the order in which they are used, the
    /// gradients at the end of the blob are complete first: `complete` is told from where on they are, each time that changes, and
    /// gets the blob. On a GPU they are once all is done that was asked for until then.
    ///
    /// # Panics
    /// When the gradient's length is not `output`'s.
    pub fn backward_from(&mut self, output: &Var, values: &[f32], mut complete: impl FnMut(ViewMut, usize)) {
        assert_eq!(values.len(), output.len(), "the gradient of the output");
        let mut gradient = match output.view() {
            View::Cuda(slice) if slice.kind() == Kind::F32 => self.take_f32(values.len()),
            _ => self.take(values.len()),
        };
        gradient.write(values);
        self.gradients[output.0.id] = Some(gradient);
        self.complete_from = self.params.len();
        while let Some(record) = self.records.pop() {
            self.read.set(0);
            (record.backward)(self);
            let reach = self.records.last().map_or(0, |record| record.reach);
            self.complete(reach, &mut complete);
        }
        // Where nothing was recorded, no gradient was begun.
        self.complete(0, &mut complete);
    }

    /// Gradients from here on are complete: zeros where no op has begun any.
    fn complete(&mut self, from: usize, tell: &mut impl FnMut(ViewMut, usize)) {
        let Some(grads) = self.grads.as_mut().filter(|_| from < self.complete_from) else { return };
        if let Some(begun) = &self.begun {
            clear_between(grads, begun, from..self.complete_from);
        }
        tell(grads.reborrow(), from);
        self.complete_from = from;
    }

    /// The gradient of an input, once the backward pass has run.
    pub fn gradient(&self, input: &Var) -> Option<&Buf> {
        self.gradients[input.0.id].as_ref()
    }

    /// Whether ops must leave behind what their backward needs.
    pub(crate) fn recording(&self) -> bool {
        self.grads.is_some()
    }

    pub(crate) fn take(&self, len: usize) -> Buf {
        self.pool.take(len)
    }

    pub(crate) fn take_f32(&self, len: usize) -> Buf {
        self.pool.take_f32(len)
    }

    pub(crate) fn put(&self, buf: Buf) {
        self.pool.put(buf);
    }

    /// Whether ops run on a GPU.
    pub(crate) fn on_gpu(&self) -> bool {
        self.pool.device().is_some()
    }

    pub(crate) fn param(&self, slot: Slot) -> View<'p> {
        self.read.set(self.read.get().max(slot.range().end));
        self.params.range(slot.range())
    }

    /// The values of an activation for the caller alone: without a copy when nothing else holds them.
    pub(crate) fn own(&mut self, var: Var) -> Buf {
        match Rc::try_unwrap(var.0).map(|mut value| value.buf.take()) {
            Ok(buf) => buf.expect("a value holds its buffer until it is dropped"),
            Err(shared) => {
                let var = Var(shared);
                let mut copy = self.take(var.len());
                copy.view_mut().copy_from(var.view());
                copy
            }
        }
    }

    /// The gradient of a parameter, for the op to write (`false`) or to add to (`true`).
    pub(crate) fn param_grad(&mut self, slot: Slot) -> (ViewMut<'_>, bool) {
        let (range, complete_from) = (slot.range(), self.complete_from);
        assert!(!range.is_empty(), "a parameter without values");
        assert!(
            range.end <= complete_from,
            "a gradient at {range:?} is added to, those from {complete_from} on were complete"
        );
        let add = match &mut self.begun {
            None => true,
            Some(begun) => {
                let below = begun.range(..range.end).next_back().map(|(&start, &end)| start..end);
                assert!(
                    below.as_ref().is_none_or(|below| *below == range || below.end <= range.start),
                    "gradients of {below:?} and of {range:?} on a tape that replaces what was there"
                );
                begun.insert(range.start, range.end).is_some()
            }
        };
        (self.grads.as_mut().expect("backward runs on a training tape").range(range), add)
    }

    /// Hands an op's result to the caller.
    pub(crate) fn var(&mut self, buf: Buf, rows: usize, width: usize, tracked: bool) -> Var {
        debug_assert_eq!(buf.len(), rows * width);
        let id = self.gradients.len();
        self.gradients.push(None);
        Var(Rc::new(Value { id, rows, width, tracked: Cell::new(tracked), buf: Some(buf), pool: self.pool.clone() }))
    }

    pub(crate) fn record(&mut self, backward: impl FnOnce(&mut Tape<'p>) + 'p) {
        let reach = self.read.take().max(self.records.last().map_or(0, |record| record.reach));
        self.records.push(Record { backward: Box::new(backward), reach });
    }

    /// Takes the finished gradient of an op's result; `None` when nothing depends on it.
    pub(crate) fn take_gradient(&mut self, key: Key) -> Option<Buf> {
        self.gradients[key.id].take()
    }

    /// The gradient of an op's input, for the op to write (`false`) or to add to (`true`).
    pub(crate) fn open_gradient(&mut self, key: Key) -> (Buf, bool) {
        match self.gradients[key.id].take() {
            Some(buf) => (buf, true),
            None => (self.take(key.len), false),
        }
    }

    /// Puts back what [`Tape::open_gradient`] gave.
    pub(crate) fn close_gradient(&mut self, key: Key, buf: Buf) {
        self.gradients[key.id] = Some(buf);
    }

    /// Adds a whole gradient to that of an input; costs nothing when it is the first.
    pub(crate) fn pass_gradient(&mut self, key: Key, gradient: Buf) {
        if !key.tracked {
            return self.put(gradient);
        }
        match &mut self.gradients[key.id] {
            empty @ None => *empty = Some(gradient),
            Some(sum) => {
                crate::ops::add::forward(sum.view_mut(), gradient.view());
                self.put(gradient);
            }
        }
    }
}

impl Drop for Tape<'_> {
    fn drop(&mut self) {
        for gradient in self.gradients.drain(..).flatten() {
            self.pool.put(gradient);
        }
    }
}

/// Zeros in a part of a blob, but for the slots that were begun.
fn clear_between(grads: &mut ViewMut, begun: &BTreeMap<usize, usize>, part: Range<usize>) {
    let mut next = part.start;
    for (&start, &end) in begun.range(part.clone()).chain([(&part.end, &part.end)]) {
        if next < start {
            grads.range(next..start).clear();
        }
        next = end;
    }
}
