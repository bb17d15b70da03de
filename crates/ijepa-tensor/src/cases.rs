//! The table of op cases: shapes that occur, at sizes that a plain reference can follow.
//!
//! One table drives correctness (the tape's result against the reference in f64) and gradients (the tape's
//! backward against the reference on dual numbers). An op that has no row here is not tested.

use crate::gemm::{self, Gemm, Layout};
use crate::ops::{
    assemble, attention, cross_entropy, drop_path, gather, gelu, layer_norm, linear, mean_tokens, position, smooth_l1,
};
use crate::scalar::Scalar;
use crate::tape::{Index, Slot, Tape, Var};

const NORM_EPS: f32 = 1e-6;

/// One op at one shape.
#[derive(Clone, Debug)]
pub enum Case {
    /// Linear layer, with or without a residual.
    Linear(linear::Shape, bool),
    /// Linear layer of a layer norm.
    NormLinear(linear::Shape),
    /// Linear layer of a GELU, with or without a residual.
    GeluLinear(linear::Shape, bool),
    /// Layer norm, with or without the affine part.
    LayerNorm(layer_norm::Shape, bool),
    /// Attention of every token.
    Attention(attention::Shape),
    /// Attention of a few tokens.
    AttentionOf(attention::Shape),
    /// Positions: width, table rows, index.
    Position(usize, usize, Vec<u32>),
    /// Row gather: width, rows of x, index.
    Gather(usize, usize, Vec<u32>),
    /// The predictor's input: shape, table rows, targets.
    Assemble(assemble::Shape, usize, Vec<u32>),
    /// Mean over tokens: batch, tokens, width.
    MeanTokens(usize, usize, usize),
    /// Smooth L1 of (rows, width) against a fixed target.
    SmoothL1(usize, usize),
    /// Cross-entropy of (rows, classes) against fixed targets.
    CrossEntropy(usize, usize),
    /// A residual branch of (tokens, width) for each scale.
    DropPath(usize, usize, Vec<f32>),
}

/// What a case is fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An activation with a gradient.
    Activation,
    /// A learnt parameter.
    Parameter,
    /// A value without a gradient.
    Constant,
}

/// One input of a case.
#[derive(Clone, Copy, Debug)]
pub struct Input {
    /// What it is.
    pub kind: Kind,
    /// Number of rows.
    pub rows: usize,
    /// Values in a row.
    pub width: usize,
}

/// An input as the tape sees it.
pub enum Operand {
    /// An activation or a constant.
    Var(Var),
    /// A parameter.
    Slot(Slot),
}

impl Operand {
    fn var(&self) -> &Var {
        match self {
            Operand::Var(var) => var,
            Operand::Slot(slot) => panic!("{slot:?} is not an activation"),
        }
    }

    fn slot(&self) -> Slot {
        match self {
            Operand::Slot(slot) => *slot,
            Operand::Var(_) => panic!("an activation is not a parameter"),
        }
    }
}

fn input(kind: Kind, rows: usize, width: usize) -> Input {
    Input { kind, rows, width }
}

impl Case {
    /// The inputs, in the order in which [`Case::reference`] and [`Case::call`] take them.
    pub fn inputs(&self) -> Vec<Input> {
        use Kind::{Activation, Constant, Parameter};
        match *self {
            Case::Linear(linear::Shape { rows, inputs, outputs }, residual)
            | Case::GeluLinear(linear::Shape { rows, inputs, outputs }, residual) => {
                let mut all = vec![
                    input(Activation, rows, inputs),
                    input(Parameter, outputs, inputs),
                    input(Parameter, 1, outputs),
                ];
                all.extend(residual.then(|| input(Activation, rows, outputs)));
                all
            }
            Case::NormLinear(linear::Shape { rows, inputs, outputs }) => vec![
                input(Activation, rows, inputs),
                input(Parameter, 1, inputs),
                input(Parameter, 1, inputs),
                input(Parameter, outputs, inputs),
                input(Parameter, 1, outputs),
            ],
            Case::LayerNorm(layer_norm::Shape { rows, width, .. }, affine) => {
                let mut all = vec![input(Activation, rows, width)];
                all.extend(affine.then(|| [input(Parameter, 1, width); 2]).into_iter().flatten());
                all
            }
            Case::Attention(attention::Shape { batch, tokens, width, .. }) => {
                vec![input(Activation, batch * tokens, 3 * width)]
            }
            Case::AttentionOf(attention::Shape { batch, queries, tokens, width, .. }) => {
                vec![input(Activation, batch * queries, width), input(Activation, batch * tokens, 2 * width)]
            }
            Case::Position(width, table, ref index) => {
                vec![input(Activation, index.len(), width), input(Parameter, table, width)]
            }
            Case::Gather(width, rows, _) => vec![input(Activation, rows, width)],
            Case::Assemble(assemble::Shape { batch, context, width, .. }, table, _) => {
                vec![
                    input(Activation, batch * context, width),
                    input(Parameter, 1, width),
                    input(Parameter, table, width),
                ]
            }
            Case::MeanTokens(batch, tokens, width) => vec![input(Activation, batch * tokens, width)],
            Case::SmoothL1(rows, width) => vec![input(Activation, rows, width), input(Constant, rows, width)],
            Case::CrossEntropy(rows, classes) => vec![input(Activation, rows, classes), input(Constant, rows, classes)],
            Case::DropPath(tokens, width, ref scales) => vec![input(Activation, scales.len() * tokens, width); 2],
        }
    }

    /// Whether a gradient flows to input number `i`.
    pub fn has_gradient(&self, i: usize) -> bool {
        // Tables of positions are fixed.
        let fixed = matches!((self, i), (Case::Position(..), 1) | (Case::Assemble(..), 2));
        self.inputs()[i].kind != Kind::Constant && !fixed
    }

    /// The plain reference, in any number type.
    pub fn reference<T: Scalar>(&self, x: &[Vec<T>]) -> Vec<T> {
        let zeros = |len: usize| vec![T::zero(); len];
        match *self {
            Case::Linear(shape, residual) => {
                let mut y = zeros(shape.rows * shape.outputs);
                linear::reference::forward(&mut y, &x[0], &x[1], &x[2], residual.then(|| &x[3][..]), shape);
                y
            }
            Case::LayerNorm(shape, affine) => {
                let mut y = zeros(x[0].len());
                layer_norm::reference::forward(&mut y, &x[0], affine.then(|| (&x[1][..], &x[2][..])), shape);
                y
            }
            Case::NormLinear(shape) => {
                let (mut normal, mut y) = (zeros(x[0].len()), zeros(shape.rows * shape.outputs));
                let norm = layer_norm::Shape { rows: shape.rows, width: shape.inputs, eps: NORM_EPS };
                layer_norm::reference::forward(&mut normal, &x[0], Some((&x[1][..], &x[2][..])), norm);
                linear::reference::forward(&mut y, &normal, &x[3], &x[4], None, shape);
                y
            }
            Case::GeluLinear(shape, residual) => {
                let (mut hidden, mut y) = (zeros(x[0].len()), zeros(shape.rows * shape.outputs));
                gelu::reference::forward(&mut hidden, &x[0]);
                linear::reference::forward(&mut y, &hidden, &x[1], &x[2], residual.then(|| &x[3][..]), shape);
                y
            }
            Case::Attention(shape) => {
                let mut y = zeros(shape.batch * shape.tokens * shape.width);
                let rows = x[0].chunks(3 * shape.width).map(|row| row.split_at(shape.width));
                let (q, kv): (Vec<&[T]>, Vec<&[T]>) = rows.unzip();
                attention::reference::forward(&mut y, &q.concat(), &kv.concat(), shape);
                y
            }
            Case::AttentionOf(shape) => {
                let mut y = zeros(shape.batch * shape.queries * shape.width);
                attention::reference::forward(&mut y, &x[0], &x[1], shape);
                y
            }
            Case::Position(width, _, ref index) => {
                let mut y = zeros(index.len() * width);
                position::reference::forward(&mut y, &x[0], &x[1], index, width);
                y
            }
            Case::Gather(width, _, ref index) => {
                let mut y = zeros(index.len() * width);
                gather::reference::forward(&mut y, &x[0], index, width);
                y
            }
            Case::Assemble(shape, _, ref targets) => {
                let mut y = zeros(shape.blocks * shape.batch * (shape.context + shape.target) * shape.width);
                assemble::reference::forward(&mut y, &x[0], &x[1], &x[2], targets, shape);
                y
            }
            Case::MeanTokens(batch, tokens, width) => {
                let mut y = zeros(batch * width);
                mean_tokens::reference::forward(&mut y, &x[0], tokens, width);
                y
            }
            Case::SmoothL1(..) => vec![smooth_l1::reference::forward(&x[0], &x[1])],
            Case::CrossEntropy(_, classes) => vec![cross_entropy::reference::forward(&x[0], &x[1], classes)],
            Case::DropPath(tokens, width, ref scales) => {
                let mut y = zeros(x[0].len());
                drop_path::reference::forward(&mut y, &x[0], &x[1], scales, tokens * width);
                y
            }
        }
    }

    /// The op on the tape.
    pub fn call(&self, tape: &mut Tape, x: &[Operand]) -> Var {
        match *self {
            Case::Linear(_, residual) => {
                let layer = linear::Linear { weight: x[1].slot(), bias: x[2].slot() };
                match residual {
                    true => tape.linear_residual(x[0].var(), layer, x[3].var()),
                    false => tape.linear(x[0].var(), layer),
                }
            }
            Case::LayerNorm(shape, affine) => {
                let affine = affine.then(|| layer_norm::Affine { weight: x[1].slot(), bias: x[2].slot() });
                tape.layer_norm(x[0].var(), affine, shape.eps)
            }
            Case::NormLinear(_) => {
                let norm = layer_norm::Affine { weight: x[1].slot(), bias: x[2].slot() };
                let layer = linear::Linear { weight: x[3].slot(), bias: x[4].slot() };
                tape.norm_linear(x[0].var(), norm, NORM_EPS, layer)
            }
            Case::GeluLinear(_, residual) => {
                let layer = linear::Linear { weight: x[1].slot(), bias: x[2].slot() };
                match residual {
                    true => tape.gelu_linear_residual(x[0].var(), layer, x[3].var()),
                    false => tape.gelu_linear(x[0].var(), layer),
                }
            }
            Case::Attention(shape) => tape.attention(x[0].var(), shape.tokens, shape.heads),
            Case::AttentionOf(shape) => tape.attention_of(x[0].var(), x[1].var(), shape.tokens, shape.heads),
            Case::Position(_, _, ref index) => tape.position(x[0].var(), x[1].slot(), index),
            Case::Gather(_, _, ref index) => tape.gather(x[0].var(), Index::from(&index[..])),
            Case::Assemble(shape, _, ref targets) => {
                tape.assemble(x[0].var(), x[1].slot(), x[2].slot(), Index::from(&targets[..]), shape)
            }
            Case::MeanTokens(_, tokens, _) => tape.mean_tokens(x[0].var(), tokens),
            Case::SmoothL1(..) => tape.smooth_l1(x[0].var(), x[1].var()),
            Case::CrossEntropy(..) => tape.cross_entropy(x[0].var(), x[1].var()),
            Case::DropPath(_, _, ref scales) => {
                tape.drop_path(x[0].var(), x[1].var(), &drop_path::Scales::from(&scales[..]))
            }
        }
    }
}

/// The table. Odd sizes lie on both sides of a vector, a row block and a column block; some are large
/// enough that several threads share the work.
pub fn cases() -> Vec<Case> {
    let linear = |rows, inputs, outputs| linear::Shape { rows, inputs, outputs };
    let norm = |rows, width, eps| layer_norm::Shape { rows, width, eps };
    let attention = |batch, tokens, heads, width| {
        Case::Attention(attention::Shape { batch, queries: tokens, tokens, heads, width })
    };
    let attention_of = |batch, queries, tokens, heads, width| {
        Case::AttentionOf(attention::Shape { batch, queries, tokens, heads, width })
    };
    let assemble = assemble::Shape { blocks: 3, batch: 2, context: 4, target: 5, width: 24 };
    vec![
        Case::Linear(linear(1, 1, 1), false),
        Case::Linear(linear(7, 5, 3), true),
        Case::Linear(linear(33, 48, 192), false),
        Case::Linear(linear(150, 192, 65), true),
        Case::LayerNorm(norm(3, 1, 1e-6), true),
        Case::LayerNorm(norm(5, 17, 1e-6), true),
        Case::LayerNorm(norm(300, 96, 1e-6), true),
        Case::LayerNorm(norm(9, 192, 1e-5), false),
        Case::NormLinear(linear(5, 17, 9)),
        Case::NormLinear(linear(150, 300, 70)),
        Case::GeluLinear(linear(3, 7, 5), true),
        Case::GeluLinear(linear(200, 600, 48), true),
        Case::GeluLinear(linear(20, 40, 600), false),
        Case::GeluLinear(linear(6, 1, 3), true),
        Case::NormLinear(linear(6, 1, 3)),
        Case::Linear(linear(3, 10, 3200), false),
        attention(1, 1, 1, 4),
        attention(2, 5, 3, 12),
        attention(3, 33, 2, 48),
        attention(1, 64, 4, 64),
        attention_of(2, 3, 5, 2, 24),
        attention_of(2, 40, 21, 2, 16),
        Case::Position(20, 6, vec![5, 0, 3, 3, 1]),
        Case::Gather(20, 4, vec![3, 0, 0, 2, 3, 1]),
        Case::Assemble(assemble, 9, (0..30).map(|i| i * 7 % 9).collect()),
        Case::MeanTokens(3, 7, 20),
        Case::SmoothL1(11, 19),
        Case::SmoothL1(40, 96),
        Case::CrossEntropy(5, 10),
        Case::CrossEntropy(2, 37),
        Case::CrossEntropy(40, 1000),
        Case::DropPath(7, 20, vec![0.0, 1.25, 0.0]),
        Case::DropPath(50, 96, vec![2.0, 0.0, 1.0, 0.5, 1.1]),
    ]
}

/// Products that occur: both layouts of both operands, edges on every side, long and short sums.
pub fn products() -> Vec<Gemm> {
    let mut all = Vec::new();
    for (m, n, k) in [
        (0, 3, 2),
        (3, 0, 2),
        (3, 2, 0),
        (1, 1, 1),
        (3, 5, 2),
        (17, 33, 19),
        (64, 48, 96),
        (65, 31, 300),
        (192, 96, 700),
        (300, 200, 64),
    ] {
        for a in [Layout::Plain, Layout::Transposed] {
            for b in [Layout::Plain, Layout::Transposed] {
                for accumulate in [false, true] {
                    all.push(gemm::Gemm { m, n, k, a, b, accumulate });
                }
            }
        }
    }
    all
}
