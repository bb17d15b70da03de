//! Which ONNX nodes are a linear layer, a layer norm, a transformer block?
//!
//! A value has the name of the node that computes it, and a node the name of the layer that it belongs to:
//! `blocks.3.attn.qkv` reads `blocks.3.attn.qkv.weight`. Functions return the name of their result.
//!
//! GELU and the scaled scores are spelt as onnxruntime's optimiser knows them (`GeluFusion`, `MatMulScaleFusion`).

use super::proto::{
    ATTRIBUTE_FLOAT, ATTRIBUTE_INT, ATTRIBUTE_INTS, AttributeProto, FLOAT, INT64, NodeProto, TensorProto,
};
use crate::vit::NORM_EPS;

/// Nodes in the order in which they are computed, and the constants that they share.
pub(super) struct Graph {
    pub(super) nodes: Vec<NodeProto>,
    pub(super) constants: Vec<TensorProto>,
}

impl Graph {
    /// A graph whose blocks are of this width, with as many heads.
    pub(super) fn new(width: usize, heads: usize) -> Graph {
        assert_eq!(width % heads, 0, "the width {width} is a multiple of the heads {heads}");
        let head = width / heads;
        let mut graph = Graph { nodes: Vec::new(), constants: Vec::new() };
        graph.scalar("attn.scale", 1.0 / (head as f32).sqrt());
        // A zero leaves the extent as it is.
        graph.integers("attn.apart.shape", &[0, 0, heads as i64, head as i64]);
        graph.integers("attn.together.shape", &[0, 0, width as i64]);
        graph.scalar("gelu.root_two", std::f32::consts::SQRT_2);
        graph.scalar("gelu.one", 1.0);
        graph.scalar("gelu.half", 0.5);
        graph
    }

    /// A constant of no axes.
    fn scalar(&mut self, name: &str, value: f32) {
        self.constants.push(TensorProto {
            name: name.to_owned(),
            data_type: FLOAT,
            raw_data: Some(value.to_le_bytes().to_vec()),
            ..TensorProto::default()
        });
    }

    /// A constant of one axis.
    pub(super) fn integers(&mut self, name: &str, values: &[i64]) {
        self.constants.push(TensorProto {
            name: name.to_owned(),
            dims: vec![values.len() as i64],
            data_type: INT64,
            raw_data: Some(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
            ..TensorProto::default()
        });
    }

    /// One node, and the name of its result, which is its own.
    pub(super) fn node(
        &mut self,
        name: impl Into<String>,
        operator: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        let name = name.into();
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![name.clone()],
            name: name.clone(),
            op_type: operator.to_owned(),
            attribute: attributes,
        });
        name
    }

    /// x (b, n, inputs) → (b, n, outputs), with `name.weight` (inputs, outputs) and `name.bias`.
    pub(super) fn linear(&mut self, name: &str, x: &str) -> String {
        self.linear_as(name, x, name)
    }

    /// The same, its result called `output`.
    pub(super) fn linear_as(&mut self, output: &str, x: &str, name: &str) -> String {
        let product = self.node(format!("{name}.product"), "MatMul", &[x, &format!("{name}.weight")], vec![]);
        self.node(output, "Add", &[&product, &format!("{name}.bias")], vec![])
    }

    /// x → the same shape, called `output`, with `name.weight` and `name.bias`.
    pub(super) fn norm(&mut self, output: &str, x: &str, name: &str) -> String {
        let inputs = [x, &format!("{name}.weight"), &format!("{name}.bias")];
        self.node(output, "LayerNormalization", &inputs, vec![int("axis", -1), float("epsilon", NORM_EPS)])
    }

    /// A pre-norm block: x (b, n, d) → the same shape.
    pub(super) fn block(&mut self, x: &str, prefix: &str) -> String {
        let named = |part: &str| format!("{prefix}{part}");
        let y = self.norm(&named("norm1"), x, &named("norm1"));
        let y = self.attention(&y, &named("attn"));
        let x = self.node(named("attn.residual"), "Add", &[x, &y], vec![]);
        let y = self.norm(&named("norm2"), &x, &named("norm2"));
        let y = self.linear(&named("mlp.fc1"), &y); // (b, n, hidden)
        let y = self.gelu(&y, &named("mlp.gelu"));
        let y = self.linear(&named("mlp.fc2"), &y);
        self.node(named("mlp.residual"), "Add", &[&x, &y], vec![])
    }

    /// x (b, n, d) → the same shape: what `attn.proj` makes of softmax(q·kᵀ/√e)·v, with q before k before v in a row of
    /// `attn.qkv`, each head by head.
    fn attention(&mut self, x: &str, name: &str) -> String {
        let named = |part: &str| format!("{name}.{part}");
        let qkv = self.linear(&named("qkv"), x); // (b, n, 3·d)
        self.nodes.push(NodeProto {
            input: vec![qkv],
            output: ["q", "k", "v"].map(named).to_vec(), // (b, n, d) each
            name: named("split"),
            op_type: "Split".to_owned(),
            attribute: vec![int("axis", -1)],
        });
        let mut heads = |part: &str, order: [i64; 4]| {
            let (x, apart) = (named(part), named(&format!("{part}.apart")));
            let apart = self.node(apart, "Reshape", &[&x, "attn.apart.shape"], vec![]); // (b, n, h, e)
            self.node(named(&format!("{part}.heads")), "Transpose", &[&apart], vec![ints("perm", &order)])
        };
        let q = heads("q", [0, 2, 1, 3]); // (b, h, n, e)
        let k = heads("k", [0, 2, 3, 1]); // (b, h, e, n)
        let v = heads("v", [0, 2, 1, 3]); // (b, h, n, e)
        let product = self.node(named("product"), "MatMul", &[&q, &k], vec![]); // (b, h, n, n)
        let scores = self.node(named("scores"), "Mul", &[&product, "attn.scale"], vec![]);
        let shares = self.node(named("softmax"), "Softmax", &[&scores], vec![int("axis", -1)]);
        let y = self.node(named("mixed"), "MatMul", &[&shares, &v], vec![]); // (b, h, n, e)
        let y = self.node(named("mixed.apart"), "Transpose", &[&y], vec![ints("perm", &[0, 2, 1, 3])]);
        let y = self.node(named("together"), "Reshape", &[&y, "attn.together.shape"], vec![]); // (b, n, d)
        self.linear(&named("proj"), &y)
    }

    /// x·½·(1 + erf(x/√2)): the exact GELU, which became an operator in opset 20 only.
    fn gelu(&mut self, x: &str, name: &str) -> String {
        let scaled = self.node(format!("{name}.scaled"), "Div", &[x, "gelu.root_two"], vec![]);
        let erf = self.node(format!("{name}.erf"), "Erf", &[&scaled], vec![]);
        let sum = self.node(format!("{name}.sum"), "Add", &[&erf, "gelu.one"], vec![]);
        let twice = self.node(format!("{name}.twice"), "Mul", &[x, &sum], vec![]);
        self.node(name, "Mul", &[&twice, "gelu.half"], vec![])
    }
}

/// An attribute that is a whole number.
pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: ATTRIBUTE_INT, i: Some(value), ..AttributeProto::default() }
}

/// An attribute that is a list of whole numbers.
pub(super) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: ATTRIBUTE_INTS, ints: values.to_vec(), ..AttributeProto::default() }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: ATTRIBUTE_FLOAT, f: Some(value), ..AttributeProto::default() }
}
