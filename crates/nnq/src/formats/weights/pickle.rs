//! Python's pickle, as far as it describes a `state_dict`: an interpreter that builds values and calls nothing.
//!
//! Instructions are those of the module `pickletools` of Python 3, protocols 2 to 4.
use crate::error::{Error, Result};
use std::collections::HashMap;

/// What the instructions build.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// Tuples and lists.
    List(Vec<Self>),
    /// In the order of the file.
    Dict(Vec<(Self, Self)>),
    /// A class or function: module and name.
    Global(String, String),
    /// What is kept outside of the pickle.
    Persistent(Box<Self>),
    /// A function and its arguments.
    Call(Box<(Self, Self)>),
}

impl Value {
    /// The entry of a dictionary.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Dict(entries) = self else { return None };
        entries.iter().find(|(k, _)| *k == Self::Text(key.into())).map(|(_, v)| v)
    }
    pub fn is(&self, module: &str, name: &str) -> bool {
        matches!(self, Self::Global(m, n) if m == module && n == name)
    }
}

/// Values that a file may make, those inside of others counted again: far above any network, far below any memory.
const MOST: usize = 4_000_000;

/// Values that may lie within each other: a checkpoint's tensors have six.
const DEEPEST: usize = 32;

/// The value that a pickle describes.
pub(super) fn read(bytes: &[u8]) -> Result<Value> {
    let mut machine = Machine { rest: bytes, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), work: 0 };
    loop {
        if machine.step()? {
            return machine.pop();
        }
    }
}

struct Machine<'a> {
    rest: &'a [u8],
    stack: Vec<Value>,
    marks: Vec<usize>,
    /// Nothing for what may still be filled: a copy of it would be another one.
    memo: HashMap<u32, Option<Value>>,
    /// Values made so far.
    work: usize,
}

fn broken(what: &str) -> Error {
    Error::malformed(format!("a pickle that {what}")).cure("save the state_dict again, or as safetensors")
}

impl Machine<'_> {
    fn take(&mut self, n: usize) -> Result<&[u8]> {
        let Some((taken, rest)) = self.rest.split_at_checked(n) else { return Err(broken("is truncated")) };
        self.rest = rest;
        Ok(taken)
    }
    fn unsigned(&mut self, bytes: usize) -> Result<u64> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)))
    }
    fn text(&mut self, length: u64) -> Result<Value> {
        let length = usize::try_from(length).map_err(|_| broken("is truncated"))?;
        let bytes = self.take(length)?;
        Ok(Value::Text(std::str::from_utf8(bytes).map_err(|_| broken("holds text that is not UTF-8"))?.into()))
    }
    fn line(&mut self) -> Result<String> {
        let end = self.rest.iter().position(|b| *b == b'\n').ok_or_else(|| broken("is truncated"))?;
        let line = self.take(end + 1)?;
        String::from_utf8(line[..end].to_vec()).map_err(|_| broken("holds text that is not UTF-8"))
    }
    /// A new value.
    fn push(&mut self, value: Value) -> Result<()> {
        self.work += size(&value);
        if self.work > MOST {
            return Err(broken("grows beyond any network"));
        }
        self.stack.push(value);
        Ok(())
    }
    /// Nothing below the last mark.
    fn pop(&mut self) -> Result<Value> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let above = (self.stack.len() > floor).then(|| self.stack.pop()).flatten();
        above.ok_or_else(|| broken("takes from an empty stack"))
    }
    fn since_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.marks.pop().ok_or_else(|| broken("lacks a mark"))?;
        Ok(self.stack.split_off(mark))
    }
    fn last(&mut self, n: usize) -> Result<Value> {
        let mut values = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
        values.reverse();
        shallow(&values)?;
        Ok(Value::List(values))
    }
    fn put(&mut self, at: u32) -> Result<()> {
        let value = self.stack.last().ok_or_else(|| broken("keeps what it does not have"))?;
        let kept = match value {
            Value::Dict(_) => None,
            Value::List(values) if values.is_empty() => None,
            // A file that keeps ever larger values would fill the memory.
            value => {
                self.work += size(value);
                Some(value.clone())
            }
        };
        self.memo.insert(at, kept);
        Ok(())
    }
    fn remembered(&mut self, at: u32) -> Result<()> {
        let value = self.memo.get(&at).cloned().flatten().ok_or_else(|| broken("refers to what it did not keep"))?;
        self.push(value)
    }
    fn append(&mut self, values: Vec<Value>) -> Result<()> {
        shallow(&values)?;
        match self.stack.last_mut() {
            Some(Value::List(list)) => list.extend(values),
            _ => return Err(broken("appends to what is no list")),
        }
        Ok(())
    }
    fn set(&mut self, pairs: Vec<Value>) -> Result<()> {
        shallow(&pairs)?;
        let Some(Value::Dict(entries)) = self.stack.last_mut() else {
            return Err(broken("sets entries of what is no dictionary"));
        };
        let mut pairs = pairs.into_iter();
        while let (Some(key), value) = (pairs.next(), pairs.next()) {
            entries.push((key, value.ok_or_else(|| broken("sets a key without a value"))?));
        }
        Ok(())
    }
    fn call(&mut self) -> Result<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        shallow([&arguments, &function])?;
        if function.is("collections", "OrderedDict") {
            return self.push(Value::Dict(Vec::new()));
        }
        self.push(Value::Call(Box::new((function, arguments))))
    }
    /// One instruction; true at the end.
    fn step(&mut self) -> Result<bool> {
        let code = self.take(1)?[0];
        match code {
            b'.' => return Ok(true),
            // PROTO and FRAME say nothing that matters here.
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'N' => self.push(Value::None)?,
            0x88 | 0x89 => self.push(Value::Bool(code == 0x88))?,
            b'K' | b'M' => {
                let n = self.unsigned(if code == b'K' { 1 } else { 2 })?;
                self.push(Value::Int(n as i64))?;
            }
            b'J' => {
                let n = self.unsigned(4)? as u32 as i32;
                self.push(Value::Int(n.into()))?;
            }
            0x8a => {
                let length = self.take(1)?[0];
                if length > 8 {
                    return Err(broken("holds integers of more than 64 bits"));
                }
                let n = self.unsigned(length.into())?;
                let unused = 64 - 8 * u32::from(length);
                self.push(Value::Int(if length == 0 { 0 } else { (n << unused) as i64 >> unused }))?;
            }
            b'G' => {
                let bits = self.unsigned(8)?.swap_bytes();
                self.push(Value::Float(f64::from_bits(bits)))?;
            }
            b'X' | 0x8c | 0x8d => {
                let length = self.unsigned(match code {
                    b'X' => 4,
                    0x8c => 1,
                    _ => 8,
                })?;
                let text = self.text(length)?;
                self.push(text)?;
            }
            b')' | b']' => self.push(Value::List(Vec::new()))?,
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b't' | b'l' => {
                let values = self.since_mark()?;
                shallow(&values)?;
                self.push(Value::List(values))?;
            }
            0x85..=0x87 => {
                let values = self.last(usize::from(code - 0x84))?;
                self.push(values)?;
            }
            b'a' => {
                let value = self.pop()?;
                self.append(vec![value])?;
            }
            b'e' => {
                let values = self.since_mark()?;
                self.append(values)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(vec![key, value])?;
            }
            b'u' => {
                let pairs = self.since_mark()?;
                self.set(pairs)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Global(module, name))?;
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => self.push(Value::Global(module, name))?,
                _ => return Err(broken("names a class by what is no text")),
            },
            b'R' => self.call()?,
            // BUILD gives an object its state: of an OrderedDict, attributes that are no entries (`_metadata`).
            b'b' => drop(self.pop()?),
            b'Q' => {
                let id = self.pop()?;
                shallow([&id])?;
                self.push(Value::Persistent(Box::new(id)))?;
            }
            b'q' | b'r' | 0x94 => {
                let at = match code {
                    b'q' => self.unsigned(1)? as u32,
                    b'r' => self.unsigned(4)? as u32,
                    _ => self.memo.len() as u32,
                };
                self.put(at)?;
            }
            b'h' | b'j' => {
                let at = self.unsigned(if code == b'h' { 1 } else { 4 })? as u32;
                self.remembered(at)?;
            }
            other => {
                return Err(Error::unsupported(format!("the pickle instruction {other:#04x}"))
                    .cure("save a state_dict alone (torch.save(net.state_dict(), file)), or safetensors"));
            }
        }
        Ok(false)
    }
}

/// Refuses values that lie too deep to be put into another one: whoever walks them goes as deep.
fn shallow<'v>(values: impl IntoIterator<Item = &'v Value>) -> Result<()> {
    fn fits(value: &Value, left: usize) -> bool {
        left > 0
            && match value {
                Value::List(values) => values.iter().all(|v| fits(v, left - 1)),
                Value::Dict(entries) => entries.iter().all(|(k, v)| fits(k, left - 1) && fits(v, left - 1)),
                Value::Persistent(inner) => fits(inner, left - 1),
                Value::Call(call) => fits(&call.0, left - 1) && fits(&call.1, left - 1),
                _ => true,
            }
    }
    if values.into_iter().all(|v| fits(v, DEEPEST)) { Ok(()) } else { Err(broken("is nested beyond any network")) }
}

/// Values in a value.
fn size(value: &Value) -> usize {
    1 + match value {
        Value::List(values) => values.iter().map(size).sum(),
        Value::Dict(entries) => entries.iter().map(|(k, v)| size(k) + size(v)).sum(),
        Value::Persistent(inner) => size(inner),
        Value::Call(call) => size(&call.0) + size(&call.1),
        Value::Text(text) => text.len() / 16,
        _ => 0,
    }
}
