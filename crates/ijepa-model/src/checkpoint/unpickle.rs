//! How is a pickle read when nothing in it may be executed?
//!
//! A pickle is a program for a small stack machine. This machine knows the opcodes that `torch.save` emits and a fixed list of Python
//! objects, whose effect on tensors is written out here; any other object ends the reading with its name. The opcodes and their
//! meanings are those of Python's `pickletools`, protocols 2 to 5.

use std::collections::HashMap;
use std::path::Path;

use safetensors::Dtype;

use super::CheckpointError;
use super::pickle::{Callable, Id, Pickle, Storage, TensorRef, Value};

/// Values that a pickle may describe. A checkpoint of the largest reference model describes some hundred thousand.
const VALUES_MAX: usize = 1 << 20;

/// The longest list of arguments or axes and the longest name that a call may be given: calls copy these, so that long ones
/// would let a small file ask for much memory.
const SHORT: usize = 64;

/// Numbers and characters that all calls together may copy. A tensor needs a dozen.
const COPIED_MAX: usize = 1 << 23;

/// Opcodes under the names of `pickletools`.
mod op {
    pub(super) const PROTO: u8 = 0x80;
    pub(super) const FRAME: u8 = 0x95;
    pub(super) const STOP: u8 = b'.';
    pub(super) const MARK: u8 = b'(';
    pub(super) const POP: u8 = b'0';
    pub(super) const POP_MARK: u8 = b'1';
    pub(super) const NONE: u8 = b'N';
    pub(super) const NEWTRUE: u8 = 0x88;
    pub(super) const NEWFALSE: u8 = 0x89;
    pub(super) const BININT: u8 = b'J';
    pub(super) const BININT1: u8 = b'K';
    pub(super) const BININT2: u8 = b'M';
    pub(super) const LONG1: u8 = 0x8a;
    pub(super) const BINFLOAT: u8 = b'G';
    pub(super) const SHORT_BINUNICODE: u8 = 0x8c;
    pub(super) const BINUNICODE: u8 = b'X';
    pub(super) const BINUNICODE8: u8 = 0x8d;
    pub(super) const SHORT_BINBYTES: u8 = b'C';
    pub(super) const BINBYTES: u8 = b'B';
    pub(super) const BINBYTES8: u8 = 0x8e;
    pub(super) const EMPTY_TUPLE: u8 = b')';
    pub(super) const TUPLE: u8 = b't';
    pub(super) const TUPLE1: u8 = 0x85;
    pub(super) const TUPLE2: u8 = 0x86;
    pub(super) const TUPLE3: u8 = 0x87;
    pub(super) const EMPTY_LIST: u8 = b']';
    pub(super) const APPEND: u8 = b'a';
    pub(super) const APPENDS: u8 = b'e';
    pub(super) const EMPTY_DICT: u8 = b'}';
    pub(super) const SETITEM: u8 = b's';
    pub(super) const SETITEMS: u8 = b'u';
    pub(super) const BINPUT: u8 = b'q';
    pub(super) const LONG_BINPUT: u8 = b'r';
    pub(super) const MEMOIZE: u8 = 0x94;
    pub(super) const BINGET: u8 = b'h';
    pub(super) const LONG_BINGET: u8 = b'j';
    pub(super) const GLOBAL: u8 = b'c';
    pub(super) const STACK_GLOBAL: u8 = 0x93;
    pub(super) const REDUCE: u8 = b'R';
    pub(super) const BUILD: u8 = b'b';
    pub(super) const BINPERSID: u8 = b'Q';
}

/// Runs the pickle at the beginning of `bytes`, and returns its length too; `path` and `place` are for error messages.
pub(super) fn unpickle(bytes: &[u8], path: &Path, place: &str) -> Result<(Pickle, usize), CheckpointError> {
    let mut machine = Machine {
        bytes,
        at: 0,
        // Shared by all their uses, so that they cost nothing.
        values: vec![Value::None, Value::Bool(false), Value::Bool(true)],
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        copied: 0,
        path,
        place,
    };
    loop {
        let start = machine.at;
        let opcode = machine.byte()?;
        if opcode == op::STOP {
            let root = machine.pop()?;
            let (values, len) = (machine.values, machine.at);
            return Ok((Pickle { values, root }, len));
        }
        machine.step(opcode, start)?;
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
    /// Numbers and characters that calls have copied.
    copied: usize,
    path: &'a Path,
    place: &'a str,
}

type Outcome<T> = Result<T, CheckpointError>;

impl Machine<'_> {
    fn step(&mut self, opcode: u8, start: usize) -> Outcome<()> {
        match opcode {
            op::PROTO => {
                let version = self.byte()?;
                if !(2..=5).contains(&version) {
                    return Err(self.bad("pickle protocol 2 to 5", version.to_string()));
                }
                Ok(())
            }
            op::FRAME => self.take(8).map(drop),
            op::NONE => self.repeat(0),
            op::NEWFALSE => self.repeat(1),
            op::NEWTRUE => self.repeat(2),
            op::BININT | op::BININT1 | op::BININT2 | op::LONG1 | op::BINFLOAT => self.number(opcode),
            op::SHORT_BINUNICODE | op::BINUNICODE | op::BINUNICODE8 => {
                let bytes = self.counted(opcode)?;
                let text = str::from_utf8(bytes).map_err(|e| self.bad("UTF-8 text", e.to_string()))?;
                self.push(Value::Text(text.into()))
            }
            op::SHORT_BINBYTES | op::BINBYTES | op::BINBYTES8 => {
                let bytes = self.counted(opcode)?;
                self.push(Value::Bytes(bytes.into()))
            }
            op::EMPTY_TUPLE | op::TUPLE1 | op::TUPLE2 | op::TUPLE3 | op::TUPLE => self.tuple(opcode),
            op::EMPTY_LIST => self.push(Value::List(Vec::new())),
            op::EMPTY_DICT => self.push(Value::Dict(Vec::new())),
            op::APPEND | op::APPENDS => self.append(opcode),
            op::SETITEM | op::SETITEMS => self.set(opcode),
            op::MARK => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            op::POP => self.pop().map(drop),
            op::POP_MARK => self.pop_mark().map(drop),
            op::BINPUT | op::LONG_BINPUT | op::MEMOIZE => self.remember(opcode),
            op::BINGET | op::LONG_BINGET => self.recall(opcode),
            op::GLOBAL => {
                let module = self.line()?;
                let name = self.line()?;
                self.global(module, name, start)
            }
            op::STACK_GLOBAL => self.stack_global(start),
            op::REDUCE => self.reduce(),
            op::BUILD => self.build(),
            op::BINPERSID => self.storage(),
            other => {
                self.at = start;
                Err(self.bad("an opcode that tensors need", format!("{other:#04x}")))
            }
        }
    }

    fn number(&mut self, opcode: u8) -> Outcome<()> {
        let value = match opcode {
            op::BININT => Value::Int(i32::from_le_bytes(self.array()?).into()),
            op::BININT1 => Value::Int(self.byte()?.into()),
            op::BININT2 => Value::Int(u16::from_le_bytes(self.array()?).into()),
            op::BINFLOAT => Value::Float(f64::from_be_bytes(self.array()?)),
            // LONG1: two's complement of up to 255 bytes, of which 8 are enough here.
            _ => {
                let len = self.byte()?;
                let bytes = self.take(len.into())?;
                if len > 8 {
                    return Err(self.bad("an integer of at most 8 bytes", format!("{len} bytes")));
                }
                let negative = bytes.last().is_some_and(|top| top & 0x80 != 0);
                let mut wide = [if negative { 0xff } else { 0 }; 8];
                wide[..bytes.len()].copy_from_slice(bytes);
                Value::Int(i64::from_le_bytes(wide))
            }
        };
        self.push(value)
    }

    fn tuple(&mut self, opcode: u8) -> Outcome<()> {
        let count = match opcode {
            op::EMPTY_TUPLE => 0,
            op::TUPLE1 => 1,
            op::TUPLE2 => 2,
            op::TUPLE3 => 3,
            _ => {
                let items = self.pop_mark()?;
                return self.push(Value::Tuple(items));
            }
        };
        let mut items = vec![0; count];
        for item in items.iter_mut().rev() {
            *item = self.pop()?;
        }
        self.push(Value::Tuple(items))
    }

    fn append(&mut self, opcode: u8) -> Outcome<()> {
        let items = match opcode {
            op::APPEND => vec![self.pop()?],
            _ => self.pop_mark()?,
        };
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

    fn set(&mut self, opcode: u8) -> Outcome<()> {
        let items = match opcode {
            op::SETITEM => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.pop_mark()?,
        };
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

    fn remember(&mut self, opcode: u8) -> Outcome<()> {
        let slot = match opcode {
            op::BINPUT => self.byte()?.into(),
            op::LONG_BINPUT => u32::from_le_bytes(self.array()?),
            _ => self.memo.len() as u32,
        };
        let top = self.top()?;
        if self.memo.len() >= VALUES_MAX {
            return Err(self.bad(&format!("at most {VALUES_MAX} memo slots"), "more"));
        }
        self.memo.insert(slot, top);
        Ok(())
    }

    fn recall(&mut self, opcode: u8) -> Outcome<()> {
        let slot = match opcode {
            op::BINGET => self.byte()?.into(),
            _ => u32::from_le_bytes(self.array()?),
        };
        match self.memo.get(&slot) {
            Some(&id) => self.repeat(id),
            None => Err(self.bad("a memo slot that was filled before", slot.to_string())),
        }
    }

    fn global(&mut self, module: &str, name: &str, start: usize) -> Outcome<()> {
        match callable(module, name) {
            Some(callable) => self.push(Value::Callable(callable)),
            None => Err(CheckpointError::Forbidden {
                path: self.path.to_path_buf(),
                place: format!("{}, byte {start}", self.place),
                global: format!("{module}.{name}").chars().take(200).flat_map(char::escape_debug).collect(),
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
        let copied = match given.as_slice() {
            [Value::Storage(storage), _, Value::Tuple(shape), Value::Tuple(strides), ..] => {
                storage.key.len() + shape.len() + strides.len()
            }
            [Value::Text(text), ..] => text.len(),
            _ => 0,
        };
        let result = match (callable, given.as_slice()) {
            (Callable::OrderedDict, []) => Value::Dict(Vec::new()),
            // A size is its tuple, a parameter its tensor.
            (Callable::Size, [Value::Tuple(_)]) | (Callable::RebuildParameter, [Value::Tensor(_), ..]) => {
                let first = ids[0];
                return self.repeat(first);
            }
            (
                Callable::RebuildTensor,
                [Value::Storage(storage), Value::Int(first), Value::Tuple(shape), Value::Tuple(strides), ..],
            ) if shape.len() <= SHORT && strides.len() <= SHORT => Value::Tensor(Box::new(TensorRef {
                storage: (**storage).clone(),
                first: *first,
                shape: self.integers(shape, "the tensor's shape")?,
                strides: self.integers(strides, "the tensor's strides")?,
            })),
            (Callable::NumpyDtype, [Value::Text(name), ..]) if name.len() <= SHORT => Value::NumpyDtype(name.clone()),
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
                let given: Vec<String> = given.iter().take(8).map(|value| value.describe()).collect();
                let got = format!("({})", given.join(", "));
                return Err(self.bad(&format!("the arguments of {callable:?}"), got));
            }
        };
        self.count_copied(copied)?;
        self.push(result)
    }

    fn count_copied(&mut self, more: usize) -> Outcome<()> {
        self.copied += more;
        if self.copied <= COPIED_MAX {
            return Ok(());
        }
        Err(self.bad(&format!("calls that copy at most {COPIED_MAX} numbers and characters"), "more"))
    }

    fn numpy_scalar(&self, dtype: &str, bytes: &[u8]) -> Outcome<Value> {
        let wrong = || self.bad(&format!("a NumPy number of type {dtype}"), format!("{} bytes", bytes.len()));
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
            Value::Tuple(items) => items.iter().take(8).map(|&id| self.value(id)).collect(),
            other => vec![other],
        };
        let storage = match parts.as_slice() {
            [
                Value::Text(word),
                Value::Callable(Callable::StorageType(dtype)),
                Value::Text(key),
                Value::Text(_),
                Value::Int(elements),
                // Files from before PyTorch 1.6 have a sixth: which stretch of a larger storage this is. None is the whole.
                view @ ..,
            ] if &**word == "storage" && key.len() <= SHORT && matches!(view, [] | [Value::None]) => {
                Storage { dtype: *dtype, key: key.clone(), elements: *elements }
            }
            other => {
                let got: Vec<String> = other.iter().map(|value| value.describe()).collect();
                let expected = "('storage', type, key, device, number of elements), and no view of a larger storage";
                return Err(self.bad(expected, format!("({})", got.join(", "))));
            }
        };
        self.count_copied(storage.key.len())?;
        self.push(Value::Storage(Box::new(storage)))
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

    /// Puts a value that is known already on the stack.
    fn repeat(&mut self, id: Id) -> Outcome<()> {
        self.stack.push(id);
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
        Ok(bytes.try_into().expect("take returns as many bytes as asked for"))
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
            None => Err(self.bad(&format!("{len} more bytes"), format!("{}, then the end", rest.len()))),
        }
    }

    /// Text or bytes after their length, whose width the opcode says.
    fn counted(&mut self, opcode: u8) -> Outcome<&'a [u8]> {
        let len = match opcode {
            op::SHORT_BINUNICODE | op::SHORT_BINBYTES => self.byte()?.into(),
            op::BINUNICODE | op::BINBYTES => u32::from_le_bytes(self.array()?).into(),
            _ => u64::from_le_bytes(self.array()?),
        };
        self.take(len)
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
