//! How is each kernel started? One function a kernel, or a chain of them, with the arguments in the order of the kernel's text.

use super::launch::{
    Argument, Bf16, Element, Launch, Pointer, WARP, WARPS, blocks, by_columns, by_rows, by_values, int, lanes, plain,
    summing,
};
use crate::ops::adamw::{Segment, Step};
use crate::ops::{assemble, attention, layer_norm, patchify};

/// Rows of an attention tile, 16 to a warp (`TILE`).
const TILE: usize = 64;
/// Blocks among which the rows of a layer norm's backward are shared, at most.
const NORM_BLOCKS: usize = 512;
/// Warps of a block that goes over a row of it, at most: more would leave their threads too few registers.
const NORM_WARPS: usize = 24;
/// Widest rows, multiples of 8, that a layer norm goes back over.
pub const WIDEST_ROW: usize = NORM_WARPS * WARP * 8;
/// Blocks among which the rows of summed columns are shared, at most.
const COLUMN_BLOCKS: usize = 128;
/// Values whose squares one block adds.
const SQUARES: usize = 1 << 16;
/// Values that one block of the optimiser updates.
const PIECE: usize = 1 << 14;

/// y =, stats =: [`layer_norm::forward`]; `affine` is weight and bias.
pub fn layer_norm_forward(
    y: Pointer<Bf16>,
    stats: Pointer<f32>,
    x: Pointer<Bf16>,
    affine: Option<(Pointer<f32>, Pointer<f32>)>,
    shape: layer_norm::Shape,
) -> Launch {
    let (weight, bias) = affine.unwrap_or((Pointer::NULL, Pointer::NULL));
    let arguments = vec![
        y.into(),
        stats.into(),
        x.into(),
        weight.into(),
        bias.into(),
        int(shape.rows),
        int(shape.width),
        shape.eps.into(),
    ];
    by_rows("layer_norm_forward", shape.rows, arguments)
}

fn norm_stripe(rows: usize) -> usize {
    rows.div_ceil(NORM_BLOCKS).max(4)
}

/// f32 values of scratch that [`layer_norm_backward`] needs.
pub fn layer_norm_parts(shape: layer_norm::Shape) -> usize {
    shape.rows.div_ceil(norm_stripe(shape.rows)) * 2 * shape.width
}

/// dx = or += (`accumulate`), parts =: [`layer_norm::backward`]. The affine part's gradients come from [`layer_norm_sums`].
#[allow(clippy::too_many_arguments)]
pub fn layer_norm_backward(
    dx: Pointer<Bf16>,
    accumulate: bool,
    parts: Pointer<f32>,
    dy: Pointer<Bf16>,
    x: Pointer<Bf16>,
    stats: Pointer<f32>,
    weight: Option<Pointer<f32>>,
    shape: layer_norm::Shape,
) -> Launch {
    let stripe = norm_stripe(shape.rows);
    let warps = shape.width.div_ceil(lanes(shape.width)).div_ceil(WARP);
    assert!(
        warps <= NORM_WARPS,
        "a layer norm of width {}: at most 768 values, or 6144 and a multiple of 8",
        shape.width
    );
    let arguments = vec![
        dx.into(),
        parts.into(),
        dy.into(),
        x.into(),
        stats.into(),
        weight.unwrap_or(Pointer::NULL).into(),
        int(accumulate.into()),
        int(shape.rows),
        int(shape.width),
        int(stripe),
    ];
    let shared = blocks(4 * warps * size_of::<f32>());
    Launch { shared, ..plain("layer_norm_backward", (shape.rows.div_ceil(stripe), 1, 1), warps * WARP, arguments) }
}

/// dweight and dbias = or += (`true`), from the parts of [`layer_norm_backward`].
pub fn layer_norm_sums(
    [dweight, dbias]: [(Pointer<f32>, bool); 2],
    parts: Pointer<f32>,
    shape: layer_norm::Shape,
) -> [Launch; 2] {
    let (count, width) = (shape.rows.div_ceil(norm_stripe(shape.rows)), shape.width);
    [
        add_parts(dweight, parts, count, 2 * width, width),
        add_parts(dbias, parts.bytes(width * size_of::<f32>()), count, 2 * width, width),
    ]
}

fn add_parts(
    (out, add): (Pointer<f32>, bool),
    parts: Pointer<f32>,
    count: usize,
    stride: usize,
    width: usize,
) -> Launch {
    let arguments = vec![out.into(), int(add.into()), parts.into(), int(count), int(stride), int(width)];
    let shared = blocks(WARPS * WARP * size_of::<f32>());
    Launch { shared, ..plain("add_parts", (width.div_ceil(WARP), 1, 1), WARPS * WARP, arguments) }
}

/// Rows whose columns are summed: in each run of rows of x, those after the first `skip`, `run` of them, `count` in all.
#[derive(Clone, Copy, Debug)]
pub struct Summed {
    /// Rows that are summed.
    pub count: usize,
    /// Rows of a sequence that are summed.
    pub run: usize,
    /// Rows before them that are not.
    pub skip: usize,
    /// Values in a row.
    pub width: usize,
}

impl Summed {
    /// All rows.
    pub fn all(rows: usize, width: usize) -> Summed {
        Summed { count: rows, run: rows, skip: 0, width }
    }

    fn stripe(self) -> usize {
        self.count.div_ceil(COLUMN_BLOCKS).max(32)
    }

    /// f32 values of scratch that [`column_sums`] needs.
    pub fn parts(self) -> usize {
        self.count.div_ceil(self.stripe()) * self.width
    }
}

/// out (width) = or += (`true`) the sum of rows of x: [`crate::ops::linear::backward_bias`], [`assemble::backward_mask`].
pub fn column_sums(out: (Pointer<f32>, bool), parts: Pointer<f32>, x: Pointer<Bf16>, rows: Summed) -> [Launch; 2] {
    let Summed { count, run, skip, width } = rows;
    let stripe = rows.stripe();
    let stripes = count.div_ceil(stripe);
    let arguments = vec![parts.into(), x.into(), int(count), int(width), int(run), int(skip), int(stripe)];
    [by_columns("column_parts", width, stripes, arguments), add_parts(out, parts, stripes, width, width)]
}

/// y = gelu(x).
pub fn gelu_forward(y: Pointer<Bf16>, x: Pointer<Bf16>, (rows, width): (usize, usize)) -> Launch {
    by_rows("gelu_forward", rows, vec![y.into(), x.into(), int(rows), int(width)])
}

/// dx = dy·gelu′(x), and y = gelu(x).
pub fn gelu_backward(
    dx: Pointer<Bf16>,
    y: Pointer<Bf16>,
    dy: Pointer<Bf16>,
    x: Pointer<Bf16>,
    (rows, width): (usize, usize),
) -> Launch {
    by_rows("gelu_backward", rows, vec![dx.into(), y.into(), dy.into(), x.into(), int(rows), int(width)])
}

/// Q, or K before V, in rows `stride` apart.
#[derive(Clone, Copy)]
pub struct Part {
    /// The first value of the first row.
    pub values: Pointer<Bf16>,
    /// From row to row.
    pub stride: usize,
}

/// Q, K and V in one matrix (b·n, 3·d): [`attention::joint`].
pub fn joint(qkv: Pointer<Bf16>, width: usize) -> (Part, Part) {
    let part = |first: usize| Part { values: qkv.bytes(2 * first), stride: 3 * width };
    (part(0), part(width))
}

/// Q (b·t, d), and K before V (b·n, 2·d): [`attention::apart`].
pub fn apart(q: Pointer<Bf16>, kv: Pointer<Bf16>, width: usize) -> (Part, Part) {
    (Part { values: q, stride: width }, Part { values: kv, stride: 2 * width })
}

/// Widest head that a kernel is there for.
pub const WIDEST_HEAD: usize = 96;

fn attention(
    kernel: &str,
    rows: usize,
    extra: usize,
    shape: attention::Shape,
    pointers: &[Argument],
    strides: &[usize],
) -> Launch {
    let head = shape.width / shape.heads;
    assert!(head <= WIDEST_HEAD, "attention with heads of {head}: kernels know at most {WIDEST_HEAD}");
    assert!(shape.queries > 0 && shape.tokens > 0, "attention of nothing: {shape:?}");
    let padded = head.next_multiple_of(16);
    let mut arguments = pointers.to_vec();
    arguments.extend(strides.iter().map(|&stride| int(stride)));
    arguments.extend([shape.queries, shape.tokens, shape.heads, head].map(int));
    let grid = (rows.div_ceil(TILE), shape.heads, shape.batch);
    // Two places of two tiles, of rows that lie 8 values apart.
    let shared = blocks(2 * 2 * TILE * (padded + 8) * 2 + extra);
    Launch { shared, ..plain(&format!("{kernel}_{padded}"), grid, TILE / 16 * WARP, arguments) }
}

/// out =, sums =: [`attention::forward`].
pub fn attention_forward(
    out: Pointer<Bf16>,
    sums: Pointer<f32>,
    (q, kv): (Part, Part),
    shape: attention::Shape,
) -> Launch {
    let pointers = [out.into(), sums.into(), q.values.into(), kv.values.into()];
    attention("attention_forward", shape.queries, 0, shape, &pointers, &[q.stride, kv.stride])
}

/// What the way back reads of the way there.
#[derive(Clone, Copy)]
pub struct Attended {
    /// Gradient of the result (b·t, d).
    pub dout: Pointer<Bf16>,
    /// The result (b·t, d).
    pub out: Pointer<Bf16>,
    /// Log-sums (b, h, t).
    pub sums: Pointer<f32>,
    /// Scratch (b, h, t).
    pub means: Pointer<f32>,
}

/// dq = and dkv =: [`attention::backward`].
pub fn attention_backward(
    (dq, dkv): (Part, Part),
    attended: Attended,
    (q, kv): (Part, Part),
    shape: attention::Shape,
) -> [Launch; 2] {
    let Attended { dout, out, sums, means } = attended;
    let strides = |to: Part| [to.stride, q.stride, kv.stride];
    let queries =
        [dq.values.into(), means.into(), dout.into(), out.into(), sums.into(), q.values.into(), kv.values.into()];
    let keys = [dkv.values.into(), dout.into(), sums.into(), means.into(), q.values.into(), kv.values.into()];
    let row_values = TILE * size_of::<f32>();
    [
        attention("attention_backward_queries", shape.queries, row_values, shape, &queries, &strides(dq)),
        attention("attention_backward_keys", shape.tokens, 2 * 2 * row_values, shape, &keys, &strides(dkv)),
    ]
}

/// y = x\[index\]: [`crate::ops::gather::forward`].
pub fn gather_forward(
    y: Pointer<Bf16>,
    x: Pointer<Bf16>,
    index: Pointer<u32>,
    (rows, width): (usize, usize),
) -> Launch {
    by_rows("gather_forward", rows, vec![y.into(), x.into(), index.into(), int(rows), int(width)])
}

/// For each of `rows` rows, where the list of those that were picked from it begins (rows + 1), and the lists, in the order of
/// the index.
///
/// # Panics
/// When an index lies outside the rows.
pub fn inverse(index: &[u32], rows: usize) -> (Vec<u32>, Vec<u32>) {
    let mut starts = vec![0; rows + 1];
    for &row in index {
        starts[row as usize + 1] += 1;
    }
    for row in 0..rows {
        starts[row + 1] += starts[row];
    }
    let (mut next, mut order) = (starts.clone(), vec![0; index.len()]);
    for (at, &row) in (0..).zip(index) {
        order[next[row as usize] as usize] = at;
        next[row as usize] += 1;
    }
    (starts, order)
}

/// dx (rows, width) = or += scattered dy, with the index's [`inverse`]: [`crate::ops::gather::backward`].
pub fn gather_backward(
    dx: Pointer<Bf16>,
    accumulate: bool,
    dy: Pointer<Bf16>,
    (starts, order): (Pointer<u32>, Pointer<u32>),
    (rows, width): (usize, usize),
) -> Launch {
    let arguments =
        vec![dx.into(), dy.into(), starts.into(), order.into(), int(accumulate.into()), int(rows), int(width)];
    by_rows("gather_backward", rows, arguments)
}

/// y = x + table\[index\]: [`crate::ops::position::forward`].
pub fn position_forward(
    y: Pointer<Bf16>,
    x: Pointer<Bf16>,
    table: Pointer<f32>,
    index: Pointer<u32>,
    (rows, width): (usize, usize),
) -> Launch {
    let arguments = vec![y.into(), x.into(), table.into(), index.into(), int(rows), int(width)];
    by_rows("position_forward", rows, arguments)
}

/// y =: [`assemble::forward`].
pub fn assemble_forward(
    y: Pointer<Bf16>,
    z: Pointer<Bf16>,
    (mask, table): (Pointer<f32>, Pointer<f32>),
    targets: Pointer<u32>,
    shape: assemble::Shape,
) -> Launch {
    let assemble::Shape { blocks, batch, context, target, width } = shape;
    let rows = blocks * batch * (context + target);
    let mut arguments = vec![y.into(), z.into(), mask.into(), table.into(), targets.into()];
    arguments.extend([rows, batch, context, target, width].map(int));
    by_rows("assemble_forward", rows, arguments)
}

/// dz = or +=: [`assemble::backward_context`].
pub fn assemble_backward_context(
    dz: Pointer<Bf16>,
    accumulate: bool,
    dy: Pointer<Bf16>,
    shape: assemble::Shape,
) -> Launch {
    let assemble::Shape { blocks, batch, context, target, width } = shape;
    let mut arguments = vec![dz.into(), dy.into(), int(accumulate.into())];
    arguments.extend([blocks, batch, context, target, width].map(int));
    by_rows("assemble_backward_context", batch * context, arguments)
}

/// The rows of the assembled gradient whose sum is the mask token's: for [`column_sums`].
pub fn assembled_masks(shape: assemble::Shape) -> Summed {
    let count = shape.blocks * shape.batch * shape.target;
    Summed { count, run: shape.target, skip: shape.context, width: shape.width }
}

/// y (b, d) = the mean of x (b, n, d): [`crate::ops::mean_tokens::forward`].
pub fn mean_tokens_forward(
    y: Pointer<Bf16>,
    x: Pointer<Bf16>,
    batch: usize,
    (tokens, width): (usize, usize),
) -> Launch {
    by_columns("mean_tokens_forward", width, batch, vec![y.into(), x.into(), int(tokens), int(width)])
}

/// dx (b, n, d) = or += dy (b, d) / n.
pub fn mean_tokens_backward(
    dx: Pointer<Bf16>,
    accumulate: bool,
    dy: Pointer<Bf16>,
    batch: usize,
    (tokens, width): (usize, usize),
) -> Launch {
    let rows = batch * tokens;
    let arguments = vec![dx.into(), dy.into(), int(accumulate.into()), int(rows), int(tokens), int(width)];
    by_rows("mean_tokens_backward", rows, arguments)
}

/// y = x + scale·branch, without x scale·branch; `tokens` rows to a scale: [`crate::ops::drop_path::forward`] and `backward`.
pub fn drop_path(
    y: Pointer<Bf16>,
    x: Option<Pointer<Bf16>>,
    branch: Pointer<Bf16>,
    scales: Pointer<f32>,
    tokens: usize,
    (rows, width): (usize, usize),
) -> Launch {
    let x = x.unwrap_or(Pointer::NULL);
    let arguments = vec![y.into(), x.into(), branch.into(), scales.into(), int(rows), int(tokens), int(width)];
    by_rows("drop_path", rows, arguments)
}

/// losses (rows) =; the loss is [`sum_values`] over rows·width.
pub fn smooth_l1_forward(
    losses: Pointer<f32>,
    prediction: Pointer<Bf16>,
    target: Pointer<Bf16>,
    (rows, width): (usize, usize),
) -> Launch {
    by_rows("smooth_l1_forward", rows, vec![losses.into(), prediction.into(), target.into(), int(rows), int(width)])
}

/// dprediction =.
pub fn smooth_l1_backward(
    dprediction: Pointer<Bf16>,
    dloss: Pointer<f32>,
    prediction: Pointer<Bf16>,
    target: Pointer<Bf16>,
    (rows, width): (usize, usize),
) -> Launch {
    let arguments = vec![dprediction.into(), dloss.into(), prediction.into(), target.into(), int(rows), int(width)];
    by_rows("smooth_l1_backward", rows, arguments)
}

/// losses (rows) =; the loss is their sum ([`sum_values`]): [`crate::ops::cross_entropy::forward`].
pub fn cross_entropy_forward(
    losses: Pointer<f32>,
    scores: Pointer<Bf16>,
    targets: Pointer<f32>,
    (rows, classes): (usize, usize),
) -> Launch {
    let arguments = vec![losses.into(), scores.into(), targets.into(), int(rows), int(classes)];
    by_rows("cross_entropy_forward", rows, arguments)
}

/// dscores =; dloss (1): [`crate::ops::cross_entropy::backward`].
pub fn cross_entropy_backward(
    dscores: Pointer<Bf16>,
    dloss: Pointer<f32>,
    scores: Pointer<Bf16>,
    targets: Pointer<f32>,
    (rows, classes): (usize, usize),
) -> Launch {
    let arguments = vec![dscores.into(), dloss.into(), scores.into(), targets.into(), int(rows), int(classes)];
    by_rows("cross_entropy_backward", rows, arguments)
}

/// out (1) = factor · the sum of the values.
pub fn sum_values(out: Pointer<f32>, values: Pointer<f32>, len: usize, factor: f64) -> Launch {
    let arguments = vec![out.into(), values.into(), (len as u64).into(), factor.into()];
    summing(plain("sum_values", (1, 1, 1), WARPS * WARP, arguments))
}

/// f64 values that [`sums_of_squares`] writes.
pub fn square_parts(len: usize) -> usize {
    len.div_ceil(SQUARES)
}

/// sums = Σx² of equally long parts of x; their sum is the square of [`crate::ops::statistics::norm`].
pub fn sums_of_squares(sums: Pointer<f64>, x: Pointer<f32>, len: usize) -> Launch {
    let arguments = vec![sums.into(), x.into(), (len as u64).into(), (SQUARES as u64).into()];
    summing(plain("square_parts", (square_parts(len), 1, 1), WARPS * WARP, arguments))
}

/// out (1) = the sum of parts (count).
pub fn sum_parts(out: Pointer<f64>, parts: Pointer<f64>, count: usize) -> Launch {
    let arguments = vec![out.into(), parts.into(), (count as u64).into()];
    summing(plain("sum_parts", (1, 1, 1), WARPS * WARP, arguments))
}

/// deviations (width) =; their mean is [`crate::ops::statistics::mean_column_deviation`].
pub fn column_deviations(deviations: Pointer<f32>, x: Pointer<Bf16>, (rows, width): (usize, usize)) -> Launch {
    let arguments = vec![deviations.into(), x.into(), int(rows), int(width)];
    let shared = blocks(2 * WARPS * WARP * size_of::<f64>());
    Launch { shared, ..plain("column_deviations", (width.div_ceil(WARP), 1, 1), WARPS * WARP, arguments) }
}

/// sum (len) += x: [`crate::ops::add::forward`]. Both begin at multiples of 16 bytes.
pub fn add_forward(sum: Pointer<Bf16>, x: Pointer<Bf16>, len: usize) -> Launch {
    by_values("add_forward", len, 8, vec![sum.into(), x.into(), (len as u64).into()])
}

/// y (len) = x, rounded.
pub fn cast_to_bf16(y: Pointer<Bf16>, x: Pointer<f32>, len: usize) -> Launch {
    by_values("cast_to_bf16", len, 4, vec![y.into(), x.into(), (len as u64).into()])
}

/// y (len) = value.
pub fn fill_f32(y: Pointer<f32>, value: f32, len: usize) -> Launch {
    by_values("fill_f32", len, 4, vec![y.into(), value.into(), (len as u64).into()])
}

/// y (rows, channels·p·p) =: [`patchify::forward`].
pub fn patchify(
    y: Pointer<Bf16>,
    images: Pointer<Bf16>,
    index: Pointer<u32>,
    rows: usize,
    shape: patchify::Shape,
) -> Launch {
    let patchify::Shape { batch, channels, size: (height, width), patch, kept } = shape;
    let mut arguments = vec![y.into(), images.into(), index.into()];
    arguments.extend([rows, batch, channels, height, width, patch, kept].map(int));
    by_rows("patchify", rows, arguments)
}

impl Element for Piece {
    const KIND: u8 = b'S';
}

/// Values that are learnt alike, as many as one block updates; as in `adamw.cu`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Piece {
    first: u64,
    len: u64,
    moments: u64,
    weight_decay: f64,
    rate: f64,
}

/// The table of pieces that [`adamw`] walks over; it does not change from step to step.
pub fn pieces(segments: &[Segment]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for &Segment { slot, moments, weight_decay, rate } in segments {
        for first in slot.range().step_by(PIECE) {
            let len = PIECE.min(slot.range().end - first);
            let moments = moments + (first - slot.offset);
            let [first, len, moments] = [first, len, moments].map(|number| number as u64);
            pieces.push(Piece { first, len, moments, weight_decay, rate });
        }
    }
    pieces
}

/// Blobs that are laid out alike; those of the average may end earlier.
#[derive(Clone, Copy)]
pub struct Blobs {
    /// Parameters.
    pub params: Pointer<f32>,
    /// First moments, where segments say.
    pub m: Pointer<f32>,
    /// Second moments likewise.
    pub v: Pointer<f32>,
    /// Moving average of the first parameters.
    pub average: Pointer<f32>,
    /// The parameters as products read them.
    pub params_bf16: Pointer<Bf16>,
    /// The average as products read it.
    pub average_bf16: Pointer<Bf16>,
    /// Values of the average.
    pub averaged: usize,
}

/// The moving average and the bf16 copies, for parameters that have moved already: [`crate::ops::adamw::follow`]. Each with its copy; the average has
/// `averaged` values.
pub fn follow(
    (average, average_bf16, averaged): (Pointer<f32>, Pointer<Bf16>, usize),
    (params, params_bf16): (Pointer<f32>, Pointer<Bf16>),
    (pieces, count): (Pointer<Piece>, usize),
    momentum: f64,
) -> Launch {
    let arguments = vec![
        average.into(),
        average_bf16.into(),
        params_bf16.into(),
        params.into(),
        pieces.into(),
        (averaged as u64).into(),
        (momentum as f32).into(),
        ((1.0 - momentum) as f32).into(),
    ];
    plain("follow", (count, 1, 1), WARPS * WARP, arguments)
}

/// One step on all pieces: [`crate::ops::adamw::forward`], and the bf16 copies.
pub fn adamw(blobs: Blobs, grads: Pointer<f32>, (pieces, count): (Pointer<Piece>, usize), step: Step) -> Launch {
    let exponent = i32::try_from(step.number).unwrap_or(i32::MAX);
    let arguments = vec![
        blobs.params.into(),
        blobs.m.into(),
        blobs.v.into(),
        blobs.average.into(),
        blobs.params_bf16.into(),
        blobs.average_bf16.into(),
        grads.into(),
        pieces.into(),
        (blobs.averaged as u64).into(),
        step.learning_rate.into(),
        (1.0 - step.beta1.powi(exponent)).into(),
        ((1.0 - step.beta1) as f32).into(),
        (step.beta2 as f32).into(),
        ((1.0 - step.beta2) as f32).into(),
        ((1.0 / (1.0 - step.beta2.powi(exponent)).sqrt()) as f32).into(),
        (step.eps as f32).into(),
        (step.momentum as f32).into(),
        ((1.0 - step.momentum) as f32).into(),
    ];
    plain("adamw", (count, 1, 1), WARPS * WARP, arguments)
}
