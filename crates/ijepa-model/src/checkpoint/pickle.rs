//! What does a pickle describe, when nothing in it may be executed?
//!
//! A pickle is a program for a small stack machine (the opcodes of Python's `pickletools`, protocols 2 to 5). This machine knows the
//! opcodes that `torch.save` emits and a fixed list of Python objects; any other object ends the reading with its name. What it
//! leaves is not objects but a flat list of values that refer to each other by number: shared and cyclic references cost nothing,
//! nesting of any depth needs no recursion, and the number of values is limited.

use std::collections::HashMap;
use std::path::Path;

use safetensors::Dtype;

use super::CheckpointError;

/// Values that a pickle may describe. A checkpoint of the largest reference model describes some hundred thousand.
const VALUES_MAX: usize = 1 << 22;

/// The longest list of arguments or axes and the longest name that a call may be given: calls copy these, so that long ones
/// would let a small file ask for much memory.
const SHORT: usize = 64;

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
    values: Vec<Value>,
    root: Id,
}

impl Pickle {
    /// Runs the pickle in `bytes`; `path` and `place` are for error messages.
    pub(super) fn parse(bytes: &[u8], path: &Path, place: &str) -> Result<Pickle, CheckpointError> {
        let mut machine = Machine {
            bytes,
            at: 0,
            // Shared by all their uses, so that they cost nothing.
            values: vec![Value::None, Value::Bool(false), Value::Bool(true)],
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            path,
            place,
        };
        loop {
            let start = machine.at;
            let opcode = machine.byte()?;
            if opcode == b'.' {
                let root = machine.pop()?;
                return Ok(Pickle {
                    values: machine.values,
                    root,
                });
            }
            machine.step(opcode, start)?;
        }
    }

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

/// The list of objects that a pickle may name: those that tensors, their dictionaries and NumPy numbers are made with.
fn callable(module: &str, name: &str) -> Option<Callable> {
    Some(match (module, name) {
        ("collections", "OrderedDict") => Callable::OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2") => Callable::RebuildTensor,
        ("torch._utils", "_rebuild_parameter") => Callable::RebuildParameter,
        ("torch", "Size") => Callable::Size,
        ("torch", "FloatStorage") => Callable::StorageType(Dtype::F32),
        ("torch", "HalfStorage") => Callable::StorageType(Dtype::F16),
        ("torch", "BFloat16Storage") => Callable::StorageType(Dtype::BF16),
        ("torch", "DoubleStorage") => Callable::StorageType(Dtype::F64),
        ("torch", "LongStorage") => Callable::StorageType(Dtype::I64),
        ("torch", "IntStorage") => Callable::StorageType(Dtype::I32),
        ("torch", "ShortStorage") => Callable::StorageType(Dtype::I16),
        ("torch", "CharStorage") => Callable::StorageType(Dtype::I8),
        ("torch", "ByteStorage") => Callable::StorageType(Dtype::U8),
        ("torch", "BoolStorage") => Callable::StorageType(Dtype::BOOL),
        ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Callable::NumpyScalar,
        ("numpy", "dtype") => Callable::NumpyDtype,
        ("_codecs", "encode") => Callable::CodecsEncode,
        _ => return None,
    })
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack at open marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    path: &'a Path,
    place: &'a str,
}

type Outcome<T> = Result<T, CheckpointError>;

impl Machine<'_> {
    fn step(&mut self, opcode: u8, start: usize) -> Outcome<()> {
        match opcode {
            // PROTO, FRAME
            0x80 => {
                let version = self.byte()?;
                if !(2..=5).contains(&version) {
                    return Err(self.bad("pickle protocol 2 to 5", version.to_string()));
                }
            }
            0x95 => {
                self.take(8)?;
            }
            // NONE, NEWFALSE, NEWTRUE
            b'N' => self.stack.push(0),
            0x89 => self.stack.push(1),
            0x88 => self.stack.push(2),
            // BININT, BININT1, BININT2, LONG1, BINFLOAT
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()))?;
            }
            b'K' => {
                let value = self.byte()?;
                self.push(Value::Int(value.into()))?;
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()))?;
            }
            0x8a => self.long()?,
            b'G' => {
                let value = f64::from_be_bytes(self.array()?);
                self.push(Value::Float(value))?;
            }
            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8, SHORT_BINBYTES, BINBYTES, BINBYTES8
            0x8c | b'X' | 0x8d | b'C' | b'B' | 0x8e => {
                let len = match opcode {
                    0x8c | b'C' => self.byte()?.into(),
                    b'X' | b'B' => u32::from_le_bytes(self.array()?).into(),
                    _ => u64::from_le_bytes(self.array()?),
                };
                let bytes = self.take(len)?;
                if matches!(opcode, b'C' | b'B' | 0x8e) {
                    self.push(Value::Bytes(bytes.into()))?;
                } else {
                    let text =
                        str::from_utf8(bytes).map_err(|e| self.bad("UTF-8 text", e.to_string()))?;
                    self.push(Value::Text(text.into()))?;
                }
            }
            // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE
            b')' => self.push(Value::Tuple(Vec::new()))?,
            0x85..=0x87 => {
                let mut items = vec![0; usize::from(opcode - 0x84)];
                for item in items.iter_mut().rev() {
                    *item = self.pop()?;
                }
                self.push(Value::Tuple(items))?;
            }
            b't' => {
                let items = self.pop_mark()?;
                self.push(Value::Tuple(items))?;
            }
            // EMPTY_LIST, EMPTY_DICT, APPEND, APPENDS, SETITEM, SETITEMS
            b']' => self.push(Value::List(Vec::new()))?,
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(vec![key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set(items)?;
            }
            // MARK, POP, POP_MARK
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.pop_mark()?;
            }
            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
            b'q' | b'r' | 0x94 => {
                let slot = match opcode {
                    b'q' => self.byte()?.into(),
                    b'r' => u32::from_le_bytes(self.array()?),
                    _ => self.memo.len() as u32,
                };
                let top = self.top()?;
                if self.memo.len() >= VALUES_MAX {
                    return Err(self.bad(&format!("at most {VALUES_MAX} memo slots"), "more"));
                }
                self.memo.insert(slot, top);
            }
            b'h' | b'j' => {
                let slot = match opcode {
                    b'h' => self.byte()?.into(),
                    _ => u32::from_le_bytes(self.array()?),
                };
                let Some(&id) = self.memo.get(&slot) else {
                    return Err(self.bad("a memo slot that was filled before", slot.to_string()));
                };
                self.stack.push(id);
            }
            // GLOBAL, STACK_GLOBAL, REDUCE, BUILD, BINPERSID
            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                self.global(module, name, start)?;
            }
            0x93 => self.stack_global(start)?,
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            b'Q' => self.storage()?,
            other => {
                self.at = start;
                return Err(self.bad("an opcode that tensors need", format!("{other:#04x}")));
            }
        }
        Ok(())
    }

    /// LONG1: a two's complement integer of up to 255 bytes, of which 8 are enough here.
    fn long(&mut self) -> Outcome<()> {
        let len = self.byte()?;
        let bytes = self.take(len.into())?;
        if len > 8 {
            return Err(self.bad("an integer of at most 8 bytes", format!("{len} bytes")));
        }
        let negative = bytes.last().is_some_and(|top| top & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(wide)))
    }

    fn global(&mut self, module: &str, name: &str, start: usize) -> Outcome<()> {
        match callable(module, name) {
            Some(callable) => self.push(Value::Callable(callable)),
            None => Err(CheckpointError::Forbidden {
                path: self.path.to_path_buf(),
                place: format!("{}, byte {start}", self.place),
                global: format!("{module}.{name}")
                    .chars()
                    .take(200)
                    .flat_map(char::escape_debug)
                    .collect(),
            }),
        }
    }

    fn stack_global(&mut self, start: usize) -> Outcome<()> {
        let (name, module) = (self.pop()?, self.pop()?);
        match (self.value(module).clone(), self.value(name).clone()) {
            (Value::Text(module), Value::Text(name)) => self.global(&module, &name, start),
            (module, name) => {
                let got = format!("{} and {}", module.describe(), name.describe());
                Err(self.bad("the module and the name of a Python object", got))
            }
        }
    }

    /// Calls one of the known objects: what Python would do, written out.
    fn reduce(&mut self) -> Outcome<()> {
        let arguments = self.pop()?;
        let called = self.pop()?;
        let &Value::Callable(callable) = self.value(called) else {
            let got = self.value(called).describe();
            return Err(self.bad("a Python object to call", got));
        };
        let ids = match self.value(arguments) {
            Value::Tuple(ids) if ids.len() <= SHORT => ids,
            other => {
                let got = other.describe();
                return Err(self.bad("a tuple of a few arguments", got));
            }
        };
        let given: Vec<&Value> = ids.iter().map(|&id| self.value(id)).collect();
        let result = match (callable, given.as_slice()) {
            (Callable::OrderedDict, []) => Value::Dict(Vec::new()),
            // A size is its tuple, a parameter its tensor.
            (Callable::Size, [Value::Tuple(_)])
            | (Callable::RebuildParameter, [Value::Tensor(_), ..]) => {
                let first = ids[0];
                self.stack.push(first);
                return Ok(());
            }
            (
                Callable::RebuildTensor,
                [
                    Value::Storage(storage),
                    Value::Int(first),
                    Value::Tuple(shape),
                    Value::Tuple(strides),
                    ..,
                ],
            ) if shape.len() <= SHORT && strides.len() <= SHORT => {
                Value::Tensor(Box::new(TensorRef {
                    storage: (**storage).clone(),
                    first: *first,
                    shape: self.integers(shape, "the tensor's shape")?,
                    strides: self.integers(strides, "the tensor's strides")?,
                }))
            }
            (Callable::NumpyDtype, [Value::Text(name), ..]) if name.len() <= SHORT => {
                Value::NumpyDtype(name.clone())
            }
            (Callable::CodecsEncode, [Value::Text(text), Value::Text(codec)])
                if &**codec == "latin1" && text.len() <= SHORT =>
            {
                let bytes: Result<Box<[u8]>, _> = text.chars().map(u8::try_from).collect();
                Value::Bytes(bytes.map_err(|e| self.bad("Latin-1 text", e.to_string()))?)
            }
            (Callable::NumpyScalar, [Value::NumpyDtype(dtype), Value::Bytes(bytes)]) => {
                self.numpy_scalar(dtype, bytes)?
            }
            (callable, given) => {
                let given: Vec<String> =
                    given.iter().take(8).map(|value| value.describe()).collect();
                let got = format!("({})", given.join(", "));
                return Err(self.bad(&format!("the arguments of {callable:?}"), got));
            }
        };
        self.push(result)
    }

    fn numpy_scalar(&self, dtype: &str, bytes: &[u8]) -> Outcome<Value> {
        let wrong = || {
            self.bad(
                &format!("a NumPy number of type {dtype}"),
                format!("{} bytes", bytes.len()),
            )
        };
        fn exactly<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
            bytes.try_into().ok()
        }
        let value = match dtype {
            "f8" => exactly(bytes).map(|b| Value::Float(f64::from_le_bytes(b))),
            "f4" => exactly(bytes).map(|b| Value::Float(f32::from_le_bytes(b).into())),
            "i8" => exactly(bytes).map(|b| Value::Int(i64::from_le_bytes(b))),
            "i4" => exactly(bytes).map(|b| Value::Int(i32::from_le_bytes(b).into())),
            _ => None,
        };
        value.ok_or_else(wrong)
    }

    /// Sets attributes. Dictionaries carry `_metadata` of PyTorch, which is of no use here; NumPy types carry their byte order.
    fn build(&mut self) -> Outcome<()> {
        let state = self.pop()?;
        let target = self.top()?;
        match (self.value(target), self.value(state)) {
            (Value::Dict(_), _) => Ok(()),
            (Value::NumpyDtype(_), Value::Tuple(items)) => {
                let order = items.get(1).map(|&id| self.value(id));
                match order {
                    Some(Value::Text(order)) if matches!(&**order, "<" | "|") => Ok(()),
                    Some(other) => Err(self.bad("a little-endian NumPy type", other.describe())),
                    None => Err(self.bad("a little-endian NumPy type", "none")),
                }
            }
            (target, _) => Err(self.bad("a dictionary to set attributes of", target.describe())),
        }
    }

    /// BINPERSID: the numbers that stand in a record of their own.
    fn storage(&mut self) -> Outcome<()> {
        let id = self.pop()?;
        let parts: Vec<&Value> = match self.value(id) {
            Value::Tuple(items) => items.iter().map(|&id| self.value(id)).collect(),
            other => vec![other],
        };
        let storage = match parts.as_slice() {
            [
                Value::Text(word),
                Value::Callable(Callable::StorageType(dtype)),
                Value::Text(key),
                Value::Text(_),
                Value::Int(elements),
                ..,
            ] if &**word == "storage" && key.len() <= SHORT => Storage {
                dtype: *dtype,
                key: key.clone(),
                elements: *elements,
            },
            other => {
                let got: Vec<String> = other.iter().take(8).map(|value| value.describe()).collect();
                let expected = "('storage', type, key, device, number of elements)";
                return Err(self.bad(expected, format!("({})", got.join(", "))));
            }
        };
        self.push(Value::Storage(Box::new(storage)))
    }

    fn append(&mut self, items: Vec<Id>) -> Outcome<()> {
        let list = self.top()?;
        match &mut self.values[list as usize] {
            Value::List(list) => list.extend(items),
            other => {
                let got = other.describe();
                return Err(self.bad("a list to append to", got));
            }
        }
        Ok(())
    }

    fn set(&mut self, items: Vec<Id>) -> Outcome<()> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.bad("pairs of key and value", format!("{} values", items.len())));
        }
        let dict = self.top()?;
        match &mut self.values[dict as usize] {
            Value::Dict(dict) => dict.extend(pairs.iter().map(|&[key, value]| (key, value))),
            other => {
                let got = other.describe();
                return Err(self.bad("a dictionary to fill", got));
            }
        }
        Ok(())
    }

    fn integers(&self, ids: &[Id], what: &str) -> Outcome<Vec<i64>> {
        ids.iter()
            .map(|&id| match self.value(id) {
                Value::Int(value) => Ok(*value),
                other => Err(self.bad(&format!("integers for {what}"), other.describe())),
            })
            .collect()
    }

    fn value(&self, id: Id) -> &Value {
        &self.values[id as usize]
    }

    fn push(&mut self, value: Value) -> Outcome<()> {
        if self.values.len() >= VALUES_MAX {
            return Err(self.bad(&format!("at most {VALUES_MAX} values"), "more"));
        }
        self.stack.push(self.values.len() as Id);
        self.values.push(value);
        Ok(())
    }

    /// The value on top, which an open mark protects like the bottom of the stack.
    fn top(&self) -> Outcome<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(&id) if self.stack.len() > floor => Ok(id),
            _ => Err(self.bad("a value on the stack", "none")),
        }
    }

    fn pop(&mut self) -> Outcome<Id> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    fn pop_mark(&mut self) -> Outcome<Vec<Id>> {
        match self.marks.pop() {
            Some(height) => Ok(self.stack.split_off(height)),
            None => Err(self.bad("a mark on the stack", "none")),
        }
    }

    fn byte(&mut self) -> Outcome<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn array<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        let bytes = self.take(N as u64)?;
        Ok(bytes
            .try_into()
            .expect("take returns as many bytes as asked for"))
    }
}

impl<'a> Machine<'a> {
    fn take(&mut self, len: u64) -> Outcome<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        match usize::try_from(len).ok().and_then(|len| rest.get(..len)) {
            Some(bytes) => {
                self.at += bytes.len();
                Ok(bytes)
            }
            None => Err(self.bad(
                &format!("{len} more bytes"),
                format!("{}, then the end", rest.len()),
            )),
        }
    }

    fn line(&mut self) -> Outcome<&'a str> {
        let rest = &self.bytes[self.at..];
        let Some(len) = rest.iter().position(|&byte| byte == b'\n') else {
            return Err(self.bad("a line of text", "the end"));
        };
        self.at += len + 1;
        str::from_utf8(&rest[..len]).map_err(|e| self.bad("a line of UTF-8 text", e.to_string()))
    }

    fn bad(&self, expected: &str, got: impl Into<String>) -> CheckpointError {
        CheckpointError::Malformed {
            path: self.path.to_path_buf(),
            place: format!("{}, byte {}", self.place, self.at),
            expected: expected.to_string(),
            got: got.into(),
        }
    }
}
