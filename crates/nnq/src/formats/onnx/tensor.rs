//! `TensorProto` to [`Tensor`] and back.
//!
//! Integers of 4 and 2 bits are unpacked to one byte each (i8 or u8): what DequantizeLinear makes of them is the same.
//! 8-bit floats, strings and complex numbers are refused by name.
use super::{
    external::External,
    packing::unpack,
    proto::{StringStringEntryProto, TensorProto},
};
use crate::{
    error::{At, Error, Result},
    ir::{DType, Data, Tensor, count},
};
use bytes::Bytes;
use half::{bf16, f16};
use prost::Message;
use std::{path::Path, sync::Arc};

/// How a tensor's elements are stored in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Storage {
    /// What it is in memory.
    pub dtype: DType,
    /// Bits per element when less than a byte: 4 or 2.
    pub packed: Option<u8>,
}

/// The element type behind a number of `TensorProto.DataType`.
pub(super) fn storage(code: i32) -> Result<Storage> {
    let plain = |dtype| Ok(Storage { dtype, packed: None });
    let packed = |dtype, bits| Ok(Storage { dtype, packed: Some(bits) });
    match code {
        1 => plain(DType::F32),
        2 => plain(DType::U8),
        3 => plain(DType::I8),
        4 => plain(DType::U16),
        5 => plain(DType::I16),
        6 => plain(DType::I32),
        7 => plain(DType::I64),
        9 => plain(DType::Bool),
        10 => plain(DType::F16),
        11 => plain(DType::F64),
        12 => plain(DType::U32),
        13 => plain(DType::U64),
        16 => plain(DType::BF16),
        21 => packed(DType::U8, 4),
        22 => packed(DType::I8, 4),
        25 => packed(DType::U8, 2),
        26 => packed(DType::I8, 2),
        0 => Err(Error::malformed("the element type is not given")),
        _ => Err(Error::unsupported(format!("element type {}", foreign_name(code)))
            .cure("convert the tensor to one of the integer or floating-point types of 16 bits or more")),
    }
}

/// The element type as messages name it: `f32`, `i8`, `int4`, `uint2`.
pub(super) fn name(dtype: DType, packed: Option<u8>) -> String {
    let sign = if dtype == DType::I8 { "" } else { "u" };
    packed.map_or_else(|| dtype.to_string(), |bits| format!("{sign}int{bits}"))
}

/// The element type of a value nodes see; packed types are refused, since nnq would compute on a wider grid.
pub(super) fn value_dtype(code: i32) -> Result<DType> {
    match storage(code)? {
        Storage { dtype, packed: None } => Ok(dtype),
        Storage { dtype, packed } => {
            Err(Error::unsupported(format!("element type {} outside of constants", name(dtype, packed)))
                .cure("only constants that go into DequantizeLinear may have fewer than 8 bits"))
        }
    }
}

fn foreign_name(code: i32) -> String {
    match code {
        8 => "string".into(),
        14 => "complex64".into(),
        15 => "complex128".into(),
        17 => "float8e4m3fn".into(),
        18 => "float8e4m3fnuz".into(),
        19 => "float8e5m2".into(),
        20 => "float8e5m2fnuz".into(),
        23 => "float4e2m1".into(),
        24 => "float8e8m0".into(),
        27 => "float6e2m3".into(),
        28 => "float6e3m2".into(),
        n => format!("number {n}, which ONNX does not define as far as nnq knows"),
    }
}

/// The number of `TensorProto.DataType` for an element type.
pub(super) fn code(dtype: DType) -> i32 {
    match dtype {
        DType::F32 => 1,
        DType::U8 => 2,
        DType::I8 => 3,
        DType::U16 => 4,
        DType::I16 => 5,
        DType::I32 => 6,
        DType::I64 => 7,
        DType::Bool => 9,
        DType::F16 => 10,
        DType::F64 => 11,
        DType::U32 => 12,
        DType::U64 => 13,
        DType::BF16 => 16,
    }
}

/// The number of `TensorProto.DataType` for elements of 4 or 2 bits.
fn packed_code(dtype: DType, bits: u8) -> i32 {
    match (bits, dtype) {
        (4, DType::I8) => 22,
        (4, _) => 21,
        (_, DType::I8) => 26,
        _ => 25,
    }
}

/// Reads a file that holds one serialized `TensorProto`, such as the inputs and outputs of ONNX's node tests.
///
/// # Errors
/// When the file cannot be read, is no tensor, or has an element type nnq does not have.
pub fn read_tensor_file(path: &Path) -> Result<Tensor> {
    let bytes = super::external::map_file(path)?;
    read_tensor_bytes(bytes).at(|| path.display())
}

/// As [`read_tensor_file`], from memory.
///
/// # Errors
/// As [`read_tensor_file`]; data in other files is refused.
pub fn read_tensor_bytes(bytes: Bytes) -> Result<Tensor> {
    let proto = TensorProto::decode(bytes).map_err(|e| Error::malformed(format!("no ONNX tensor: {e}")))?;
    from_proto(&proto, &mut External::none())
}

/// The tensor of a message. Raw data that is aligned stays a view of the message's buffer.
pub(super) fn from_proto(p: &TensorProto, external: &mut External) -> Result<Tensor> {
    let storage = storage(p.data_type.unwrap_or(0))?;
    if p.segment.is_some() {
        return Err(Error::unsupported("a tensor in segments"));
    }
    let shape = dims(&p.dims)?;
    let n = count(&shape)?;
    // Every element takes at least two bits, so this keeps sizes in range for what follows.
    let bytes = match storage.packed {
        Some(bits) => n.div_ceil(8 / usize::from(bits)),
        None => n
            .checked_mul(storage.dtype.size())
            .ok_or_else(|| Error::malformed(format!("shape {shape:?} is too large")))?,
    };
    let raw = if p.data_location == Some(1) {
        Some(external.get(&p.external_data, bytes)?)
    } else {
        p.raw_data.clone().filter(|r| !r.is_empty() || n == 0)
    };
    let data = match raw {
        Some(raw) => {
            if raw.len() != bytes {
                return Err(Error::malformed(format!(
                    "shape {shape:?} of {} needs {bytes} bytes, the data has {}",
                    name(storage.dtype, storage.packed),
                    raw.len()
                )));
            }
            match storage.packed {
                Some(bits) => unpack(&raw, bits, storage.dtype, n),
                None => Data::from_bytes(storage.dtype, raw)?,
            }
        }
        None => typed(p, storage, n)?,
    };
    if let Data::Bool(b) = &data
        && let Some(x) = b.iter().find(|&&x| x > 1)
    {
        return Err(Error::malformed(format!("{x} among the elements of a boolean tensor")));
    }
    Tensor::new(shape, data)
}

fn dims(dims: &[i64]) -> Result<Vec<usize>> {
    dims.iter()
        .map(|&d| usize::try_from(d).map_err(|_| Error::malformed(format!("a tensor of shape {dims:?}"))))
        .collect()
}

/// Elements from the typed fields of the message.
fn typed(p: &TensorProto, storage: Storage, n: usize) -> Result<Data> {
    let found = match storage.dtype {
        DType::F32 => p.float_data.len(),
        DType::F64 => p.double_data.len(),
        DType::I64 => p.int64_data.len(),
        DType::U32 | DType::U64 => p.uint64_data.len(),
        _ => p.int32_data.len(),
    };
    let want = storage.packed.map_or(n, |bits| n.div_ceil(8 / usize::from(bits)));
    if found != want {
        return Err(Error::malformed(format!("shape {:?} needs {want} entries, the data has {found}", p.dims)));
    }
    if let Some(bits) = storage.packed {
        let bytes = p
            .int32_data
            .iter()
            .map(|&x| if (-128..256).contains(&x) { Ok(x as u8) } else { Err(range(x, storage.dtype)) })
            .collect::<Result<Vec<u8>>>()?;
        return Ok(unpack(&bytes, bits, storage.dtype, n));
    }
    Ok(match storage.dtype {
        DType::F32 => Data::F32(p.float_data.clone().into()),
        DType::F64 => Data::F64(p.double_data.clone().into()),
        DType::I64 => Data::I64(p.int64_data.clone().into()),
        DType::U64 => Data::U64(p.uint64_data.clone().into()),
        DType::U32 => Data::U32(narrow::<u64, u32>(&p.uint64_data, DType::U32)?.into()),
        DType::I32 => Data::I32(p.int32_data.clone().into()),
        DType::I16 => Data::I16(narrow::<i32, i16>(&p.int32_data, DType::I16)?.into()),
        DType::I8 => Data::I8(narrow::<i32, i8>(&p.int32_data, DType::I8)?.into()),
        DType::U16 => Data::U16(narrow::<i32, u16>(&p.int32_data, DType::U16)?.into()),
        DType::U8 => Data::U8(narrow::<i32, u8>(&p.int32_data, DType::U8)?.into()),
        DType::Bool => Data::Bool(narrow::<i32, u8>(&p.int32_data, DType::Bool)?.into()),
        DType::F16 => Data::F16(
            narrow::<i32, u16>(&p.int32_data, DType::F16)?.into_iter().map(f16::from_bits).collect::<Vec<_>>().into(),
        ),
        DType::BF16 => Data::BF16(
            narrow::<i32, u16>(&p.int32_data, DType::BF16)?.into_iter().map(bf16::from_bits).collect::<Vec<_>>().into(),
        ),
    })
}

fn narrow<A: Copy + std::fmt::Display, B: TryFrom<A>>(from: &[A], dtype: DType) -> Result<Vec<B>> {
    from.iter().map(|&x| B::try_from(x).map_err(|_| range(x, dtype))).collect()
}

fn range(x: impl std::fmt::Display, dtype: DType) -> Error {
    Error::malformed(format!("{x} among the elements of a {dtype} tensor"))
}

/// The bytes of a tensor without a copy: the message keeps the tensor alive.
struct Held(Arc<Tensor>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.0.data().as_bytes()
    }
}

/// The message without its data. `packed`: bits of each element where these are fewer than 8.
pub(super) fn header(name: &str, tensor: &Tensor, packed: Option<u8>) -> TensorProto {
    TensorProto {
        dims: tensor.shape().iter().map(|&d| d as i64).collect(),
        data_type: Some(packed.map_or_else(|| code(tensor.dtype()), |bits| packed_code(tensor.dtype(), bits))),
        name: (!name.is_empty()).then(|| name.to_owned()),
        ..TensorProto::default()
    }
}

/// The message with its data inline.
pub(super) fn to_proto(name: &str, tensor: &Arc<Tensor>) -> TensorProto {
    TensorProto { raw_data: Some(Bytes::from_owner(Held(tensor.clone()))), ..header(name, tensor, None) }
}

/// Where the data of a tensor lies in another file.
pub(super) fn located(location: &str, offset: u64, length: u64) -> Vec<StringStringEntryProto> {
    [("location", location.to_owned()), ("offset", offset.to_string()), ("length", length.to_string())]
        .into_iter()
        .map(|(k, v)| StringStringEntryProto { key: Some(k.into()), value: Some(v) })
        .collect()
}
