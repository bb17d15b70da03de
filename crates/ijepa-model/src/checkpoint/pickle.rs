//! What does a pickle describe?
//!
//! Not objects, but a flat list of values that refer to each other by number: shared and cyclic references cost nothing, and
//! nesting of any depth needs no recursion. [`super::unpickle`] makes the list.

use safetensors::Dtype;

/// A value's number in [`Pickle`].
pub(super) type Id = u32;

/// One value; those that contain others name them by number.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Box<str>),
    Bytes(Box<[u8]>),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    /// In order of insertion; a later pair with an equal key stands for the earlier one.
    Dict(Vec<(Id, Id)>),
    Callable(Callable),
    Storage(Box<Storage>),
    Tensor(Box<TensorRef>),
    NumpyDtype(Box<str>),
}

/// The Python objects that a pickle may name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Callable {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Size,
    StorageType(Dtype),
    NumpyScalar,
    NumpyDtype,
    CodecsEncode,
}

/// Numbers stored in a record of their own.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Storage {
    pub(super) dtype: Dtype,
    /// The record's name below `data/`.
    pub(super) key: Box<str>,
    pub(super) elements: i64,
}

/// A tensor as the pickle claims it to be: nothing is checked yet.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TensorRef {
    pub(super) storage: Storage,
    pub(super) first: i64,
    pub(super) shape: Vec<i64>,
    pub(super) strides: Vec<i64>,
}

/// All values of a pickle.
pub(super) struct Pickle {
    pub(super) values: Vec<Value>,
    pub(super) root: Id,
}

impl Pickle {
    pub(super) fn root(&self) -> &Value {
        self.get(self.root)
    }

    pub(super) fn get(&self, id: Id) -> &Value {
        &self.values[id as usize]
    }

    /// What is under a text key of a dictionary; none when the value is no dictionary.
    pub(super) fn lookup(&self, dict: &Value, key: &str) -> Option<&Value> {
        let Value::Dict(pairs) = dict else {
            return None;
        };
        pairs
            .iter()
            .rev()
            .find(|(id, _)| matches!(self.get(*id), Value::Text(text) if **text == *key))
            .map(|(_, id)| self.get(*id))
    }
}

impl Value {
    /// For error messages.
    pub(super) fn describe(&self) -> String {
        match self {
            Value::None => "None".to_string(),
            Value::Bool(value) => format!("the truth value {value}"),
            Value::Int(value) => format!("the number {value}"),
            Value::Float(value) => format!("the number {value}"),
            Value::Text(text) => {
                format!("the text {:?}", text.chars().take(40).collect::<String>())
            }
            Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Value::Tuple(items) => format!("a tuple of {}", items.len()),
            Value::List(items) => format!("a list of {}", items.len()),
            Value::Dict(pairs) => format!("a dictionary of {}", pairs.len()),
            Value::Callable(callable) => format!("the Python object {callable:?}"),
            Value::Storage(_) => "a storage without its tensor".to_string(),
            Value::Tensor(tensor) => format!("a tensor of shape {:?}", tensor.shape),
            Value::NumpyDtype(_) => "a NumPy type".to_string(),
        }
    }
}
