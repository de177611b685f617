//! Dense row-major tensors. Data is owned, or a view into a memory-mapped file.
use crate::{
    error::{Error, Result},
    ir::DType,
};
use bytemuck::Pod;
use bytes::Bytes;
use half::{bf16, f16};
use std::{fmt, ops::Deref, sync::OnceLock};

/// A read-only run of elements: owned, or mapped from a file without a copy.
#[derive(Clone)]
pub enum Buf<T> {
    /// In memory.
    Owned(Vec<T>),
    /// A view of bytes that someone else keeps alive; aligned and a whole number of elements.
    Mapped(Bytes),
}

impl<T: Pod> Buf<T> {
    /// Views `bytes` as elements (little-endian). Copies when the bytes are not aligned for `T`.
    ///
    /// # Errors
    /// When the length is no multiple of the element size.
    pub fn from_bytes(bytes: Bytes) -> Result<Self> {
        let size = size_of::<T>();
        if !bytes.len().is_multiple_of(size) {
            return Err(Error::malformed(format!("{} bytes are no whole number of {size}-byte elements", bytes.len())));
        }
        if cfg!(target_endian = "little") && bytemuck::try_cast_slice::<u8, T>(&bytes).is_ok() {
            return Ok(Self::Mapped(bytes));
        }
        let mut out = vec![T::zeroed(); bytes.len() / size];
        bytemuck::cast_slice_mut::<T, u8>(&mut out).copy_from_slice(&bytes);
        if cfg!(target_endian = "big") {
            bytemuck::cast_slice_mut::<T, u8>(&mut out).chunks_mut(size).for_each(<[u8]>::reverse);
        }
        Ok(Self::Owned(out))
    }
    /// The elements as an owned vector, without a copy when they are owned already.
    pub fn into_vec(self) -> Vec<T> {
        match self {
            Self::Owned(v) => v,
            Self::Mapped(_) => self.to_vec(),
        }
    }
}

impl<T: Pod> Deref for Buf<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match self {
            Self::Owned(v) => v,
            Self::Mapped(b) => bytemuck::cast_slice(b),
        }
    }
}

impl<T> From<Vec<T>> for Buf<T> {
    fn from(v: Vec<T>) -> Self {
        Self::Owned(v)
    }
}

/// The elements of a tensor, by type. Bool is one byte, 0 or 1.
#[derive(Clone)]
#[allow(missing_docs)]
pub enum Data {
    F32(Buf<f32>),
    F64(Buf<f64>),
    F16(Buf<f16>),
    BF16(Buf<bf16>),
    I8(Buf<i8>),
    I16(Buf<i16>),
    I32(Buf<i32>),
    I64(Buf<i64>),
    U8(Buf<u8>),
    U16(Buf<u16>),
    U32(Buf<u32>),
    U64(Buf<u64>),
    Bool(Buf<u8>),
}

/// Runs `$body` with `$buf` bound to the typed buffer of `$data`, whatever its type.
#[macro_export]
macro_rules! with_data {
    ($data:expr, $buf:ident => $body:expr) => {
        match $data {
            $crate::ir::Data::F32($buf) => $body,
            $crate::ir::Data::F64($buf) => $body,
            $crate::ir::Data::F16($buf) => $body,
            $crate::ir::Data::BF16($buf) => $body,
            $crate::ir::Data::I8($buf) => $body,
            $crate::ir::Data::I16($buf) => $body,
            $crate::ir::Data::I32($buf) => $body,
            $crate::ir::Data::I64($buf) => $body,
            $crate::ir::Data::U8($buf) => $body,
            $crate::ir::Data::U16($buf) => $body,
            $crate::ir::Data::U32($buf) => $body,
            $crate::ir::Data::U64($buf) => $body,
            $crate::ir::Data::Bool($buf) => $body,
        }
    };
}

impl Data {
    /// Element type.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F64(_) => DType::F64,
            Self::F16(_) => DType::F16,
            Self::BF16(_) => DType::BF16,
            Self::I8(_) => DType::I8,
            Self::I16(_) => DType::I16,
            Self::I32(_) => DType::I32,
            Self::I64(_) => DType::I64,
            Self::U8(_) => DType::U8,
            Self::U16(_) => DType::U16,
            Self::U32(_) => DType::U32,
            Self::U64(_) => DType::U64,
            Self::Bool(_) => DType::Bool,
        }
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        with_data!(self, b => b.len())
    }
    /// No elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Little-endian bytes as elements of `dtype`; no copy when aligned.
    ///
    /// # Errors
    /// When the length is no multiple of the element size.
    pub fn from_bytes(dtype: DType, bytes: Bytes) -> Result<Self> {
        Ok(match dtype {
            DType::F32 => Self::F32(Buf::from_bytes(bytes)?),
            DType::F64 => Self::F64(Buf::from_bytes(bytes)?),
            DType::F16 => Self::F16(Buf::from_bytes(bytes)?),
            DType::BF16 => Self::BF16(Buf::from_bytes(bytes)?),
            DType::I8 => Self::I8(Buf::from_bytes(bytes)?),
            DType::I16 => Self::I16(Buf::from_bytes(bytes)?),
            DType::I32 => Self::I32(Buf::from_bytes(bytes)?),
            DType::I64 => Self::I64(Buf::from_bytes(bytes)?),
            DType::U8 => Self::U8(Buf::from_bytes(bytes)?),
            DType::U16 => Self::U16(Buf::from_bytes(bytes)?),
            DType::U32 => Self::U32(Buf::from_bytes(bytes)?),
            DType::U64 => Self::U64(Buf::from_bytes(bytes)?),
            DType::Bool => Self::Bool(Buf::from_bytes(bytes)?),
        })
    }
    /// The raw bytes (in the machine's byte order; little-endian on every machine nnq supports today).
    pub fn as_bytes(&self) -> &[u8] {
        with_data!(self, b => bytemuck::cast_slice(b))
    }
}

/// A Rust element type that a [`Tensor`] can hold. Implemented for the numeric types; bool has
/// [`Tensor::from_bools`].
pub trait Element: Pod + Default + Send + Sync + 'static {
    /// The corresponding [`DType`].
    const DTYPE: DType;
    /// Wraps a buffer.
    fn wrap(buf: Buf<Self>) -> Data;
    /// The buffer when the type fits.
    fn peel(data: &Data) -> Option<&Buf<Self>>;
    /// The buffer when the type fits, by value.
    fn unwrap(data: Data) -> Option<Buf<Self>>;
}

macro_rules! element {
    ($($t:ty => $v:ident),*) => {$(
        impl Element for $t {
            const DTYPE: DType = DType::$v;
            fn wrap(buf: Buf<Self>) -> Data { Data::$v(buf) }
            fn peel(data: &Data) -> Option<&Buf<Self>> {
                if let Data::$v(b) = data { Some(b) } else { None }
            }
            fn unwrap(data: Data) -> Option<Buf<Self>> {
                if let Data::$v(b) = data { Some(b) } else { None }
            }
        }
    )*};
}
element!(f32 => F32, f64 => F64, f16 => F16, bf16 => BF16, i8 => I8, i16 => I16, i32 => I32, i64 => I64,
    u8 => U8, u16 => U16, u32 => U32, u64 => U64);

/// A dense row-major tensor.
#[derive(Clone)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Data,
    /// What [`Tensor::int_range`] found: elements never change.
    range: OnceLock<Option<(i64, i64)>>,
}

impl Tensor {
    /// A tensor from its shape and elements.
    ///
    /// # Errors
    /// When the number of elements is not the product of the shape.
    pub fn new(shape: Vec<usize>, data: Data) -> Result<Self> {
        let n = count(&shape)?;
        if n != data.len() {
            return Err(Error::shape(format!("shape {shape:?} holds {n} elements, the data {}", data.len())));
        }
        Ok(Self { shape, data, range: OnceLock::new() })
    }
    /// A tensor of a Rust element type.
    ///
    /// # Panics
    /// When the number of elements is not the product of the shape: for shapes the caller made itself.
    pub fn of<T: Element>(shape: &[usize], elements: Vec<T>) -> Self {
        Self::new(shape.to_vec(), T::wrap(elements.into())).expect("element count fits the shape")
    }
    /// A tensor of rank 0.
    pub fn scalar<T: Element>(x: T) -> Self {
        Self::of(&[], vec![x])
    }
    /// A boolean tensor. Panics like [`Tensor::of`].
    pub fn from_bools(shape: &[usize], elements: &[bool]) -> Self {
        let bytes: Vec<u8> = elements.iter().map(|&b| u8::from(b)).collect();
        Self::new(shape.to_vec(), Data::Bool(bytes.into())).expect("element count fits the shape")
    }
    /// Dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
    /// Element type.
    pub fn dtype(&self) -> DType {
        self.data.dtype()
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }
    /// No elements.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }
    /// The elements, by type.
    pub fn data(&self) -> &Data {
        &self.data
    }
    /// The elements, by value.
    pub fn into_data(self) -> Data {
        self.data
    }
    /// The elements as `T`.
    ///
    /// # Errors
    /// When the tensor has another type.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        T::peel(&self.data)
            .map(|b| &**b)
            .ok_or_else(|| Error::shape(format!("expected a tensor of {}, found {}", T::DTYPE, self.dtype())))
    }
    /// The elements as an owned `Vec<T>`.
    ///
    /// # Errors
    /// When the tensor has another type.
    pub fn into_vec<T: Element>(self) -> Result<Vec<T>> {
        let dtype = self.dtype();
        T::unwrap(self.data)
            .map(Buf::into_vec)
            .ok_or_else(|| Error::shape(format!("expected a tensor of {}, found {dtype}", T::DTYPE)))
    }
    /// The same elements under another shape.
    ///
    /// # Errors
    /// When the number of elements differs.
    pub fn reshaped(self, shape: Vec<usize>) -> Result<Self> {
        Self::new(shape, self.data)
    }
    /// The smallest and the largest element of integers; `None` when there is no element. Looked for once.
    ///
    /// # Errors
    /// When the elements are no integers.
    pub fn int_range(&self) -> Result<Option<(i64, i64)>> {
        fn range<T: Copy + Ord + Into<i64>>(all: &[T]) -> Option<(i64, i64)> {
            let first = *all.first()?;
            let (min, max) = all.iter().fold((first, first), |(lo, hi), &x| (lo.min(x), hi.max(x)));
            Some((min.into(), max.into()))
        }
        /// Bytes become numbers in the order of unsigned bytes by `flip`: every machine compares many of those at once. Lanes are spelled
        /// out, since not every profile of the compiler finds them.
        fn bytes(all: &[u8], flip: u8) -> Option<(u8, u8)> {
            const LANES: usize = 64;
            let (mut min, mut max) = ([u8::MAX; LANES], [u8::MIN; LANES]);
            let whole = all.chunks_exact(LANES);
            for &x in whole.remainder() {
                (min[0], max[0]) = (min[0].min(x ^ flip), max[0].max(x ^ flip));
            }
            for some in whole {
                for ((min, max), &x) in min.iter_mut().zip(&mut max).zip(some) {
                    (*min, *max) = ((*min).min(x ^ flip), (*max).max(x ^ flip));
                }
            }
            let (min, max) = (min.into_iter().min()?, max.into_iter().max()?);
            (!all.is_empty()).then_some((min ^ flip, max ^ flip))
        }
        if let Some(known) = self.range.get() {
            return Ok(*known);
        }
        let found = match &self.data {
            Data::I8(b) => {
                bytes(bytemuck::cast_slice(b), 0x80).map(|(lo, hi)| (i64::from(lo as i8), i64::from(hi as i8)))
            }
            Data::U8(b) => bytes(b, 0).map(|(lo, hi)| (lo.into(), hi.into())),
            Data::I16(b) => range(b),
            Data::U16(b) => range(b),
            Data::I32(b) => range(b),
            _ => range(&self.to_i64s()?),
        };
        Ok(*self.range.get_or_init(|| found))
    }
    /// The elements are not needed soon: where they are a view of a mapped file, its pages leave memory until somebody reads
    /// them again.
    pub fn release(&self) {
        with_data!(&self.data, b => {
            if let Buf::Mapped(bytes) = b {
                nnq_kernels::mmap::release(bytes);
            }
        });
    }
    /// Every element as i64, for shapes, axes and other small integer tensors. Floats are refused.
    ///
    /// # Errors
    /// On floating-point tensors and on u64 beyond i64.
    pub fn to_i64s(&self) -> Result<Vec<i64>> {
        Ok(match &self.data {
            Data::I64(b) => b.to_vec(),
            Data::I32(b) => b.iter().map(|&x| x.into()).collect(),
            Data::I16(b) => b.iter().map(|&x| x.into()).collect(),
            Data::I8(b) => b.iter().map(|&x| x.into()).collect(),
            Data::U8(b) | Data::Bool(b) => b.iter().map(|&x| x.into()).collect(),
            Data::U16(b) => b.iter().map(|&x| x.into()).collect(),
            Data::U32(b) => b.iter().map(|&x| x.into()).collect(),
            Data::U64(b) => b
                .iter()
                .map(|&x| i64::try_from(x).map_err(|_| Error::value(format!("{x} does not fit i64"))))
                .collect::<Result<_>>()?,
            _ => return Err(Error::shape(format!("expected integers, found {}", self.dtype()))),
        })
    }
    /// Every element as f32 (rounded to nearest even from wider types).
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    pub fn to_f32s(&self) -> Vec<f32> {
        match &self.data {
            Data::F32(b) => b.to_vec(),
            Data::F64(b) => b.iter().map(|&x| x as f32).collect(),
            Data::F16(b) => b.iter().map(|&x| x.to_f32()).collect(),
            Data::BF16(b) => b.iter().map(|&x| x.to_f32()).collect(),
            Data::I8(b) => b.iter().map(|&x| x as f32).collect(),
            Data::I16(b) => b.iter().map(|&x| x as f32).collect(),
            Data::I32(b) => b.iter().map(|&x| x as f32).collect(),
            Data::I64(b) => b.iter().map(|&x| x as f32).collect(),
            Data::U8(b) | Data::Bool(b) => b.iter().map(|&x| x as f32).collect(),
            Data::U16(b) => b.iter().map(|&x| x as f32).collect(),
            Data::U32(b) => b.iter().map(|&x| x as f32).collect(),
            Data::U64(b) => b.iter().map(|&x| x as f32).collect(),
        }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {:?}", self.dtype(), self.shape)?;
        if self.len() <= 8 {
            with_data!(&self.data, b => write!(f, " {:?}", &**b))?;
        }
        f.write_str(")")
    }
}

/// The number of elements of a shape.
///
/// # Errors
/// When the product overflows.
pub fn count(shape: &[usize]) -> Result<usize> {
    shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .filter(|&n| isize::try_from(n).is_ok())
        .ok_or_else(|| Error::shape(format!("shape {shape:?} holds more elements than can be addressed")))
}
