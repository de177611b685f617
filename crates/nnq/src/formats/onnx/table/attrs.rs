//! Attributes of a node, read and written by the same description.
//!
//! A row of the table describes its attributes once, as a function that hands each field of the operator to [`Attrs`]. When a
//! model is read the fields are filled in, when one is written attributes are made from them.
use crate::{
    error::{At, Error, Result},
    formats::onnx::{
        external::External,
        proto::{AttributeProto, attribute as kind},
        tensor,
    },
    ir::{DType, Graph, Tensor, ValueId},
};
use bytes::Bytes;
use std::sync::Arc;

/// The name of an attribute and the first opset that has it.
#[derive(Clone, Copy)]
pub(in crate::formats::onnx) struct Key(&'static str, i64);

impl From<&'static str> for Key {
    fn from(name: &'static str) -> Self {
        Self(name, 0)
    }
}

impl From<(&'static str, i64)> for Key {
    fn from((name, since): (&'static str, i64)) -> Self {
        Self(name, since)
    }
}

/// A node needs a newer opset than the one that is written.
pub(in crate::formats::onnx) struct Need {
    /// The first opset that can hold it.
    pub opset: i64,
    /// What it is.
    pub what: String,
}

enum Mode<'a> {
    Read { from: Vec<(&'a AttributeProto, bool)>, external: &'a mut External },
    Write(Vec<AttributeProto>),
}

/// The attributes of one node on their way in or out.
pub(in crate::formats::onnx) struct Attrs<'a> {
    /// The opset of the file.
    pub opset: i64,
    /// The graph so far.
    pub graph: &'a Graph,
    /// The node's inputs in the form of the IR; reading may normalise them.
    pub inputs: Vec<Option<ValueId>>,
    /// How many outputs the node has.
    pub outputs: usize,
    /// Set when the opset is too old for the node.
    pub need: Option<Need>,
    mode: Mode<'a>,
}

impl<'a> Attrs<'a> {
    /// For reading. `from` are those that no input took over.
    pub fn reading(
        graph: &'a Graph,
        opset: i64,
        inputs: Vec<Option<ValueId>>,
        outputs: usize,
        from: Vec<&'a AttributeProto>,
        external: &'a mut External,
    ) -> Self {
        let from = from.into_iter().map(|a| (a, false)).collect();
        Self { opset, graph, inputs, outputs, need: None, mode: Mode::Read { from, external } }
    }
    /// For writing.
    pub fn writing(graph: &'a Graph, opset: i64, inputs: Vec<Option<ValueId>>, outputs: usize) -> Self {
        Self { opset, graph, inputs, outputs, need: None, mode: Mode::Write(Vec::new()) }
    }
    /// A model is being read.
    pub fn is_reading(&self) -> bool {
        matches!(self.mode, Mode::Read { .. })
    }
    /// The constant at input `i`.
    pub fn constant(&self, i: usize) -> Option<&'a Arc<Tensor>> {
        let graph: &'a Graph = self.graph;
        self.inputs.get(i).copied().flatten().and_then(|v| graph.constant(v))
    }
    /// The number of axes of input `i` when it is known.
    pub fn rank(&self, i: usize) -> Option<usize> {
        self.inputs.get(i).copied().flatten().and_then(|v| self.graph.value(v).shape.as_ref().map(|s| s.rank()))
    }
    /// The element type of input `i` when it is known.
    pub fn dtype_of(&self, i: usize) -> Option<DType> {
        self.inputs.get(i).copied().flatten().and_then(|v| self.graph.value(v).dtype)
    }
    /// Writing: the opset must be `opset` or newer.
    pub fn needs(&mut self, opset: i64, what: impl Into<String>) {
        if !self.is_reading() && self.opset < opset && self.need.as_ref().is_none_or(|n| n.opset < opset) {
            self.need = Some(Need { opset, what: what.into() });
        }
    }
    /// Refuses attributes that nobody asked for.
    pub fn finish(self) -> Result<Vec<AttributeProto>> {
        match self.mode {
            Mode::Read { from, .. } => match from.iter().find(|f| !f.1) {
                Some((a, _)) => Err(Error::malformed(format!(
                    "attribute '{}' is not known for this operator",
                    a.name.as_deref().unwrap_or_default()
                ))),
                None => Ok(Vec::new()),
            },
            Mode::Write(attributes) => Ok(attributes),
        }
    }

    fn take(&mut self, name: &str) -> Option<&'a AttributeProto> {
        let Mode::Read { from, .. } = &mut self.mode else { return None };
        let (attribute, taken) = from.iter_mut().find(|(a, _)| a.name.as_deref() == Some(name))?;
        *taken = true;
        Some(attribute)
    }
    fn put(&mut self, key: Key, what: &AttributeProto) {
        self.needs(key.1, format!("attribute '{}'", key.0));
        if let Mode::Write(to) = &mut self.mode {
            to.push(AttributeProto { name: Some(key.0.into()), ..what.clone() });
        }
    }

    /// An integer; without a default it must be there.
    pub fn int(&mut self, key: impl Into<Key>, default: impl Into<Option<i64>>, v: &mut i64) -> Result<()> {
        let (key, default) = (key.into(), default.into());
        if self.is_reading() {
            *v = match (self.take(key.0), default) {
                (Some(a), _) => int(a).at(|| place(key.0))?,
                (None, Some(d)) => d,
                (None, None) => return Err(missing(key.0)),
            };
        } else if default != Some(*v) {
            self.put(key, &int_attr(*v));
        }
        Ok(())
    }
    /// An integer that may be absent.
    pub fn maybe_int(&mut self, key: impl Into<Key>, v: &mut Option<i64>) -> Result<()> {
        let key = key.into();
        if self.is_reading() {
            *v = self.take(key.0).map(int).transpose().at(|| place(key.0))?;
        } else if let Some(i) = *v {
            self.put(key, &int_attr(i));
        }
        Ok(())
    }
    /// A count.
    pub fn size(&mut self, key: impl Into<Key>, default: impl Into<Option<i64>>, v: &mut usize) -> Result<()> {
        let key = key.into();
        let mut i = i64::try_from(*v).unwrap_or(i64::MAX);
        self.int(key, default, &mut i)?;
        *v = to_size(i).at(|| place(key.0))?;
        Ok(())
    }
    /// An integer used as a truth value.
    pub fn flag(&mut self, key: impl Into<Key>, default: bool, v: &mut bool) -> Result<()> {
        let mut i = i64::from(*v);
        self.int(key, i64::from(default), &mut i)?;
        *v = i != 0;
        Ok(())
    }
    /// A number.
    pub fn float(&mut self, key: impl Into<Key>, default: f32, v: &mut f32) -> Result<()> {
        let key = key.into();
        if self.is_reading() {
            *v = self.take(key.0).map(float).transpose().at(|| place(key.0))?.unwrap_or(default);
        } else if v.to_bits() != default.to_bits() {
            self.put(key, &float_attr(*v));
        }
        Ok(())
    }
    /// A number that may be absent.
    pub fn maybe_float(&mut self, key: impl Into<Key>, v: &mut Option<f32>) -> Result<()> {
        let key = key.into();
        if self.is_reading() {
            *v = self.take(key.0).map(float).transpose().at(|| place(key.0))?;
        } else if let Some(f) = *v {
            self.put(key, &float_attr(f));
        }
        Ok(())
    }
    /// A list of numbers; empty when absent.
    pub fn floats(&mut self, key: impl Into<Key>, v: &mut Vec<f32>) -> Result<()> {
        let key = key.into();
        if self.is_reading() {
            let list = self.take(key.0).map(|a| floats(a).map(<[f32]>::to_vec)).transpose();
            *v = list.at(|| place(key.0))?.unwrap_or_default();
        } else if !v.is_empty() {
            self.put(key, &floats_attr(v.clone()));
        }
        Ok(())
    }
    /// A list of words; empty when absent.
    pub fn words(&mut self, key: impl Into<Key>, v: &mut Vec<String>) -> Result<()> {
        let key = key.into();
        if self.is_reading() {
            *v = self.take(key.0).map(words).transpose().at(|| place(key.0))?.unwrap_or_default();
        } else if !v.is_empty() {
            let strings = v.iter().map(|s| Bytes::copy_from_slice(s.as_bytes())).collect();
            self.put(key, &AttributeProto { kind: Some(kind::STRINGS), strings, ..AttributeProto::default() });
        }
        Ok(())
    }
    /// A text; without a default it must be there.
    pub fn text(&mut self, key: impl Into<Key>, v: &mut String) -> Result<()> {
        let key = key.into();
        if self.is_reading() {
            let a = self.take(key.0).ok_or_else(|| missing(key.0))?;
            *v = string(a).at(|| place(key.0))?.to_owned();
        } else {
            let s = Some(Bytes::copy_from_slice(v.as_bytes()));
            self.put(key, &AttributeProto { kind: Some(kind::STRING), s, ..AttributeProto::default() });
        }
        Ok(())
    }
    /// A list of integers; empty when absent.
    pub fn ints(&mut self, key: impl Into<Key>, v: &mut Vec<i64>) -> Result<()> {
        let key = key.into();
        if self.is_reading() {
            *v = self
                .take(key.0)
                .map(|a| ints(a).map(<[i64]>::to_vec))
                .transpose()
                .at(|| place(key.0))?
                .unwrap_or_default();
        } else if !v.is_empty() {
            self.put(key, &ints_attr(v.clone()));
        }
        Ok(())
    }
    /// A list of counts; empty when absent.
    pub fn sizes(&mut self, key: impl Into<Key>, v: &mut Vec<usize>) -> Result<()> {
        let key = key.into();
        let mut i: Vec<i64> = v.iter().map(|&s| i64::try_from(s).unwrap_or(i64::MAX)).collect();
        self.ints(key, &mut i)?;
        *v = i.into_iter().map(to_size).collect::<Result<_>>().at(|| place(key.0))?;
        Ok(())
    }
    /// One of several words.
    pub fn choice<T: Copy + PartialEq>(
        &mut self,
        key: impl Into<Key>,
        default: impl Into<Option<T>>,
        words: &[(&'static str, T)],
        v: &mut T,
    ) -> Result<()> {
        let (key, default) = (key.into(), default.into());
        if self.is_reading() {
            *v = match (self.take(key.0), default) {
                (Some(a), _) => {
                    let word = string(a).at(|| place(key.0))?;
                    words.iter().find(|w| w.0 == word).map(|w| w.1).ok_or_else(|| {
                        let known: Vec<_> = words.iter().map(|w| w.0).collect();
                        Error::unsupported(format!("attribute '{}' is '{word}', known are {known:?}", key.0))
                    })?
                }
                (None, Some(d)) => d,
                (None, None) => return Err(missing(key.0)),
            };
        } else if default != Some(*v) {
            match words.iter().find(|w| w.1 == *v) {
                Some((word, _)) => self.put(key, &string_attr(word)),
                None => return Err(Error::internal(format!("no word for attribute '{}'", key.0))),
            }
        }
        Ok(())
    }
    /// An element type; `None` is its absence.
    pub fn dtype(&mut self, key: impl Into<Key>, v: &mut Option<DType>) -> Result<()> {
        let key = key.into();
        let mut i = v.map_or(0, |d| i64::from(tensor::code(d)));
        self.int(key, 0, &mut i)?;
        *v = match i {
            0 => None,
            i => Some(tensor::value_dtype(i32::try_from(i).unwrap_or(-1)).at(|| place(key.0))?),
        };
        Ok(())
    }
    /// A tensor.
    pub fn tensor(&mut self, key: impl Into<Key>, default: &Tensor, v: &mut Arc<Tensor>) -> Result<()> {
        let key = key.into();
        if self.is_reading() {
            let attribute = self.take(key.0);
            let Mode::Read { external, .. } = &mut self.mode else { return Ok(()) };
            *v = match attribute {
                Some(a) => {
                    expect(a, kind::TENSOR).at(|| place(key.0))?;
                    let proto = a.t.as_ref().ok_or_else(|| missing(key.0))?;
                    Arc::new(tensor::from_proto(proto, external).at(|| place(key.0))?)
                }
                None => Arc::new(default.clone()),
            };
        } else if !same(v, default) {
            self.put(
                key,
                &AttributeProto {
                    kind: Some(kind::TENSOR),
                    t: Some(tensor::to_proto("", v).into()),
                    ..AttributeProto::default()
                },
            );
        }
        Ok(())
    }
    /// An attribute that means nothing when a network is run.
    pub fn ignore(&mut self, name: &'static str) {
        self.take(name);
    }
    /// An integer attribute of which nnq knows only some values.
    pub fn only(&mut self, name: &'static str, known: &[i64]) -> Result<()> {
        if let Some(a) = self.take(name) {
            let i = int(a).at(|| place(name))?;
            if !known.contains(&i) {
                return Err(Error::unsupported(format!("attribute '{name}' is {i}, known are {known:?}")));
            }
        }
        Ok(())
    }
    /// A word of which nnq knows only some values.
    pub fn only_word(&mut self, name: &'static str, known: &[&str]) -> Result<()> {
        if let Some(a) = self.take(name) {
            let word = string(a).at(|| place(name))?;
            if !known.contains(&word) {
                return Err(Error::unsupported(format!("attribute '{name}' is '{word}', known are {known:?}")));
            }
        }
        Ok(())
    }
}

/// Equal type, shape and bytes.
pub(super) fn same(a: &Tensor, b: &Tensor) -> bool {
    a.dtype() == b.dtype() && a.shape() == b.shape() && a.data().as_bytes() == b.data().as_bytes()
}

fn place(name: &str) -> String {
    format!("attribute '{name}'")
}

fn missing(name: &str) -> Error {
    Error::malformed(format!("attribute '{name}' is missing"))
}

fn to_size(i: i64) -> Result<usize> {
    usize::try_from(i).map_err(|_| Error::malformed(format!("{i} where a count is expected")))
}

fn expect(a: &AttributeProto, want: i32) -> Result<()> {
    if a.ref_attr_name.as_deref().is_some_and(|r| !r.is_empty()) {
        return Err(Error::unsupported("a reference to an attribute of a function"));
    }
    // Files of the first IR versions do not say the type.
    match a.kind.unwrap_or(0) {
        0 => Ok(()),
        k if k == want => Ok(()),
        k => Err(Error::malformed(format!("attribute type {k}, expected {want}"))),
    }
}

/// The integer of an attribute.
pub(super) fn int(a: &AttributeProto) -> Result<i64> {
    expect(a, kind::INT).map(|()| a.i.unwrap_or(0))
}

/// The number of an attribute.
pub(super) fn float(a: &AttributeProto) -> Result<f32> {
    expect(a, kind::FLOAT).map(|()| a.f.unwrap_or(0.0))
}

/// The integers of an attribute.
pub(super) fn ints(a: &AttributeProto) -> Result<&[i64]> {
    expect(a, kind::INTS).map(|()| &*a.ints)
}

/// The numbers of an attribute.
pub(super) fn floats(a: &AttributeProto) -> Result<&[f32]> {
    expect(a, kind::FLOATS).map(|()| &*a.floats)
}

fn words(a: &AttributeProto) -> Result<Vec<String>> {
    expect(a, kind::STRINGS)?;
    let word = |s: &Bytes| std::str::from_utf8(s).map(str::to_owned);
    a.strings.iter().map(word).collect::<Result<_, _>>().map_err(|_| Error::malformed("a word that is no text"))
}

fn string(a: &AttributeProto) -> Result<&str> {
    expect(a, kind::STRING)?;
    std::str::from_utf8(a.s.as_deref().unwrap_or_default()).map_err(|_| Error::malformed("a word that is no text"))
}

/// An integer as an attribute without a name.
pub(super) fn int_attr(i: i64) -> AttributeProto {
    AttributeProto { kind: Some(kind::INT), i: Some(i), ..AttributeProto::default() }
}

/// A number as an attribute without a name.
pub(super) fn float_attr(f: f32) -> AttributeProto {
    AttributeProto { kind: Some(kind::FLOAT), f: Some(f), ..AttributeProto::default() }
}

/// Integers as an attribute without a name.
pub(super) fn ints_attr(ints: Vec<i64>) -> AttributeProto {
    AttributeProto { kind: Some(kind::INTS), ints, ..AttributeProto::default() }
}

/// Numbers as an attribute without a name.
pub(super) fn floats_attr(floats: Vec<f32>) -> AttributeProto {
    AttributeProto { kind: Some(kind::FLOATS), floats, ..AttributeProto::default() }
}

fn string_attr(s: &'static str) -> AttributeProto {
    AttributeProto { kind: Some(kind::STRING), s: Some(Bytes::from_static(s.as_bytes())), ..AttributeProto::default() }
}
