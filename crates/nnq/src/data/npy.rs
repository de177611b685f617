//! NumPy's `.npy` files: reading without a copy, writing.
//!
//! Format: NumPy enhancement proposal 1 and `numpy.lib.format` (versions 1.0 to 3.0).
use super::store::write_atomic;
use crate::{
    error::{At, Error, Result},
    ir::{DType, Data, Tensor, count},
};
use bytes::Bytes;
use std::{io::Write, path::Path};

/// The longest header that is read. NumPy itself refuses more than 10 kB by default.
const MAX_HEADER: usize = 1 << 16;
/// More dimensions than any NumPy array has.
const MAX_RANK: usize = 64;

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// What a `.npy` header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub dtype: DType,
    pub big_endian: bool,
    pub fortran: bool,
    pub shape: Vec<usize>,
    /// Where the elements begin.
    pub offset: usize,
}

impl Header {
    /// Bytes of all elements.
    pub fn bytes(&self) -> Result<usize> {
        let n = count(&self.shape)?;
        n.checked_mul(self.dtype.size())
            .filter(|&n| isize::try_from(n).is_ok())
            .ok_or_else(|| Error::malformed(format!("shape {:?} holds more bytes than can be addressed", self.shape)))
    }

    /// Parses the header at the start of `bytes`; what follows it need not be there.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let short = || Error::malformed("the .npy header is truncated");
        if bytes.get(..6) != Some(MAGIC) {
            return Err(Error::malformed("the content is no .npy array (its first bytes are not those of the format)"));
        }
        let version = (*bytes.get(6).ok_or_else(short)?, *bytes.get(7).ok_or_else(short)?);
        let byte = |i: usize| bytes.get(i).copied().ok_or_else(short);
        let (start, length) = match version {
            (1, 0) => (10, usize::from(u16::from_le_bytes([byte(8)?, byte(9)?]))),
            (2 | 3, 0) => (12, u32::from_le_bytes([byte(8)?, byte(9)?, byte(10)?, byte(11)?]) as usize),
            (a, b) => return Err(Error::unsupported(format!("version {a}.{b} of the .npy format"))),
        };
        if length > MAX_HEADER {
            return Err(Error::malformed(format!("a .npy header of {length} bytes (at most {MAX_HEADER} are read)")));
        }
        let text = std::str::from_utf8(bytes.get(start..start + length).ok_or_else(short)?)
            .map_err(|_| Error::malformed("the .npy header is no text"))?;
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        let mut p = Parser(text.trim_end());
        p.expect('{')?;
        while !p.eat('}') {
            let key = p.string()?;
            p.expect(':')?;
            match key {
                "descr" => descr = Some(p.descr()?),
                "fortran_order" => fortran = Some(p.boolean()?),
                "shape" => shape = Some(p.tuple()?),
                other => return Err(Error::malformed(format!("the .npy header has an unknown key {other:?}"))),
            }
            if !p.eat(',') && !p.0.trim_start().starts_with('}') {
                return Err(p.wrong("a comma"));
            }
        }
        let missing = |key: &str| Error::malformed(format!("the .npy header lacks {key:?}"));
        let (dtype, big_endian) = descr.ok_or_else(|| missing("descr"))?;
        let header = Self {
            dtype,
            big_endian,
            fortran: fortran.ok_or_else(|| missing("fortran_order"))?,
            shape: shape.ok_or_else(|| missing("shape"))?,
            offset: start + length,
        };
        header.bytes()?;
        Ok(header)
    }
}

/// The Python literal of a header, as far as headers use it.
struct Parser<'a>(&'a str);

impl<'a> Parser<'a> {
    fn wrong(&self, expected: &str) -> Error {
        let found: String = self.0.trim_start().chars().take(20).collect();
        Error::malformed(format!("the .npy header has {found:?} where {expected} should be"))
    }
    fn eat(&mut self, c: char) -> bool {
        let rest = self.0.trim_start().strip_prefix(c);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }
    fn expect(&mut self, c: char) -> Result<()> {
        if self.eat(c) { Ok(()) } else { Err(self.wrong(&format!("{c:?}"))) }
    }
    fn string(&mut self) -> Result<&'a str> {
        let text = self.0.trim_start();
        let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"')).ok_or_else(|| self.wrong("a string"))?;
        let end = text[1..].find(quote).ok_or_else(|| self.wrong("a whole string"))?;
        self.0 = &text[end + 2..];
        Ok(&text[1..=end])
    }
    fn boolean(&mut self) -> Result<bool> {
        let text = self.0.trim_start();
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = text.strip_prefix(word) {
                self.0 = rest;
                return Ok(value);
            }
        }
        Err(self.wrong("True or False"))
    }
    fn tuple(&mut self) -> Result<Vec<usize>> {
        let mut dims = Vec::new();
        self.expect('(')?;
        while !self.eat(')') {
            let text = self.0.trim_start();
            let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let dim = text[..digits].parse().map_err(|_| self.wrong("a dimension"))?;
            // Python 2 wrote long integers with an L.
            self.0 = text[digits..].strip_prefix('L').unwrap_or(&text[digits..]);
            dims.push(dim);
            if dims.len() > MAX_RANK {
                return Err(Error::malformed(format!("a .npy array of more than {MAX_RANK} dimensions")));
            }
            if !self.eat(',') && !self.0.trim_start().starts_with(')') {
                return Err(self.wrong("a comma"));
            }
        }
        Ok(dims)
    }
    fn descr(&mut self) -> Result<(DType, bool)> {
        if !self.0.trim_start().starts_with(['\'', '"']) {
            return Err(Error::unsupported("a .npy array of records").cure("save plain numbers"));
        }
        let text = self.string()?;
        let unknown = || {
            Error::unsupported(format!("a .npy array of type {text:?}"))
                .cure("save bool, integers of 8 to 64 bits, or floats of 16, 32 or 64 bits")
        };
        let (order, name) = text.split_at_checked(1).ok_or_else(unknown)?;
        let big = match order {
            "<" | "|" => false,
            ">" => true,
            "=" => cfg!(target_endian = "big"),
            _ => return Err(unknown()),
        };
        let (_, dtype) = TYPES.iter().find(|(n, _)| *n == name).ok_or_else(unknown)?;
        Ok((*dtype, big))
    }
}

/// NumPy's names of the element types that both sides have.
const TYPES: [(&str, DType); 12] = [
    ("b1", DType::Bool),
    ("i1", DType::I8),
    ("u1", DType::U8),
    ("i2", DType::I16),
    ("u2", DType::U16),
    ("i4", DType::I32),
    ("u4", DType::U32),
    ("i8", DType::I64),
    ("u8", DType::U64),
    ("f2", DType::F16),
    ("f4", DType::F32),
    ("f8", DType::F64),
];

/// An array whose elements stay where they are (usually in a memory map) until they are asked for.
#[derive(Clone, Debug)]
pub struct NpyArray {
    dtype: DType,
    big_endian: bool,
    shape: Vec<usize>,
    data: Bytes,
}

impl NpyArray {
    /// Reads the header and takes the rest of `bytes` as the elements.
    ///
    /// # Errors
    /// On a malformed header, a number of bytes that does not fit it, arrays in column-major order, and element types
    /// that nnq does not have.
    pub fn from_bytes(bytes: &Bytes) -> Result<Self> {
        let header = Header::parse(bytes)?;
        let (expected, found) = (header.bytes()?, bytes.len() - header.offset);
        if expected != found {
            return Err(Error::malformed(format!(
                "the .npy header says {} {:?}, that is {expected} bytes, but {found} follow",
                header.dtype, header.shape
            )));
        }
        let columns_first = header.fortran && header.shape.iter().filter(|&&d| d > 1).count() > 1;
        if columns_first {
            return Err(Error::unsupported(format!("a .npy array of {:?} in column-major order", header.shape))
                .cure("save numpy.ascontiguousarray(x)"));
        }
        let Header { dtype, big_endian, shape, offset, .. } = header;
        Ok(Self { dtype, big_endian, shape, data: bytes.slice(offset..) })
    }
    /// Maps a file.
    ///
    /// # Errors
    /// As [`NpyArray::from_bytes`], and when the file cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = nnq_kernels::mmap::map(path).map_err(|e| Error::io(path, e))?;
        Self::from_bytes(&bytes).at(|| path.display())
    }
    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// Dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
    /// The whole array; no copy when the machine's byte order and alignment allow.
    ///
    /// # Errors
    /// When a bool is neither 0 nor 1.
    pub fn to_tensor(&self) -> Result<Tensor> {
        self.tensor(self.shape.clone(), self.data.clone())
    }
    /// The sub-array at index `i` of the first dimension.
    ///
    /// # Errors
    /// When there is none.
    pub fn row(&self, i: usize) -> Result<Tensor> {
        let Some((&n, inner)) = self.shape.split_first().filter(|(n, _)| i < **n) else {
            return Err(Error::usage(format!("index {i} of an array of {:?}", self.shape)));
        };
        let size = self.data.len() / n;
        self.tensor(inner.to_vec(), self.data.slice(i * size..(i + 1) * size))
    }
    fn tensor(&self, shape: Vec<usize>, bytes: Bytes) -> Result<Tensor> {
        let bytes = if self.big_endian && self.dtype.size() > 1 {
            let mut swapped = bytes.to_vec();
            swapped.chunks_exact_mut(self.dtype.size()).for_each(<[u8]>::reverse);
            Bytes::from(swapped)
        } else {
            bytes
        };
        if let Some(x) = bytes.iter().find(|x| self.dtype == DType::Bool && **x > 1) {
            return Err(Error::malformed(format!("a bool of {x}")));
        }
        Tensor::new(shape, Data::from_bytes(self.dtype, bytes)?)
    }
}

/// Writes a tensor as `.npy` (version 1.0, little-endian): under a temporary name beside `path`, then renamed, so that
/// `path` never holds half a file.
///
/// # Errors
/// When writing fails, and for bfloat16, which NumPy does not have.
pub fn save_npy(path: &Path, tensor: &Tensor) -> Result<()> {
    write_atomic(path, |out| {
        out.write_all(&header_bytes(tensor)?).and_then(|()| write_elements(out, tensor)).map_err(|e| Error::io(path, e))
    })
}

/// The elements as a file holds them.
pub(super) fn write_elements(out: &mut impl Write, tensor: &Tensor) -> std::io::Result<()> {
    let bytes = tensor.data().as_bytes();
    if cfg!(target_endian = "little") {
        return out.write_all(bytes);
    }
    bytes.chunks_exact(tensor.dtype().size()).try_for_each(|x| {
        let mut x = x.to_vec();
        x.reverse();
        out.write_all(&x)
    })
}

pub(super) fn header_bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let (name, _) = TYPES.iter().find(|(_, t)| *t == tensor.dtype()).ok_or_else(|| {
        Error::unsupported(format!("NumPy has no type for {}", tensor.dtype())).cure("convert to f32 first")
    })?;
    let order = if tensor.dtype().size() == 1 { '|' } else { '<' };
    let dims: String = tensor.shape().iter().map(|d| format!("{d}, ")).collect();
    let dims = if tensor.shape().len() == 1 { dims.trim_end() } else { dims.trim_end_matches(", ") };
    let mut text = format!("{{'descr': '{order}{name}', 'fortran_order': False, 'shape': ({dims}), }}");
    // The elements begin at a multiple of 64 bytes.
    while !(MAGIC.len() + 4 + text.len() + 1).is_multiple_of(64) {
        text.push(' ');
    }
    text.push('\n');
    let length = u16::try_from(text.len()).map_err(|_| Error::shape("more dimensions than a .npy header holds"))?;
    Ok([&MAGIC[..], &[1, 0], &length.to_le_bytes(), text.as_bytes()].concat())
}
