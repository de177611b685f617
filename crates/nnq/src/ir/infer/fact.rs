//! What inference knows of a value, and the arithmetic of sizes of which some are symbols.
use crate::{
    error::{Error, Result},
    ir::{DType, Data, Dim, Shape, Tensor},
};
use std::sync::Arc;

/// Integer tensors longer than this are not followed element by element.
const MAX_INTS: usize = 1024;

/// One element of a small integer tensor: mostly sizes, axes and positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Int {
    /// Known.
    Known(i64),
    /// The size that a symbol stands for (never negative).
    Sym(Arc<str>),
    /// Unknown.
    Unknown,
}

impl Int {
    /// The number when it is known.
    pub fn known(&self) -> Option<i64> {
        match self {
            Self::Known(n) => Some(*n),
            Self::Sym(_) | Self::Unknown => None,
        }
    }
    /// As a dimension.
    pub fn dim(&self) -> Result<Dim> {
        Ok(match self {
            Self::Known(n) => {
                Dim::Fixed(usize::try_from(*n).map_err(|_| Error::shape(format!("a dimension of size {n}")))?)
            }
            Self::Sym(s) => Dim::Sym(s.clone()),
            Self::Unknown => Dim::Unknown,
        })
    }
    /// Sum.
    pub fn add(&self, o: &Self) -> Self {
        match (self, o) {
            (Self::Known(0), x) | (x, Self::Known(0)) => x.clone(),
            (Self::Known(a), Self::Known(b)) => a.checked_add(*b).map_or(Self::Unknown, Self::Known),
            _ => Self::Unknown,
        }
    }
    /// Difference.
    pub fn sub(&self, o: &Self) -> Self {
        match (self, o) {
            (x, Self::Known(0)) => x.clone(),
            (Self::Known(a), Self::Known(b)) => a.checked_sub(*b).map_or(Self::Unknown, Self::Known),
            (Self::Sym(a), Self::Sym(b)) if a == b => Self::Known(0),
            _ => Self::Unknown,
        }
    }
    /// Product.
    pub fn mul(&self, o: &Self) -> Self {
        match (self, o) {
            (Self::Known(1), x) | (x, Self::Known(1)) => x.clone(),
            (Self::Known(0), _) | (_, Self::Known(0)) => Self::Known(0),
            (Self::Known(a), Self::Known(b)) => a.checked_mul(*b).map_or(Self::Unknown, Self::Known),
            _ => Self::Unknown,
        }
    }
    /// Quotient, truncated (integers) or only when exact (`float`).
    pub fn div(&self, o: &Self, float: bool) -> Self {
        match (self, o) {
            (x, Self::Known(1)) => x.clone(),
            (Self::Known(a), Self::Known(b)) if *b != 0 && !(float && a.checked_rem(*b) != Some(0)) => {
                a.checked_div(*b).map_or(Self::Unknown, Self::Known)
            }
            _ => Self::Unknown,
        }
    }
    /// Equality when it can be decided: a symbol is never negative.
    pub fn equal(&self, o: &Self) -> Self {
        match (self, o) {
            (Self::Known(a), Self::Known(b)) => Self::Known(i64::from(a == b)),
            (Self::Sym(a), Self::Sym(b)) if a == b => Self::Known(1),
            (Self::Sym(_), Self::Known(n)) | (Self::Known(n), Self::Sym(_)) if *n < 0 => Self::Known(0),
            _ => Self::Unknown,
        }
    }
}

impl From<&Dim> for Int {
    fn from(d: &Dim) -> Self {
        match d {
            Dim::Fixed(n) => i64::try_from(*n).map_or(Self::Unknown, Self::Known),
            Dim::Sym(s) => Self::Sym(s.clone()),
            Dim::Unknown => Self::Unknown,
        }
    }
}

/// What is known of a value.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fact {
    /// Element type.
    pub dtype: Option<DType>,
    /// Shape; `None` is an unknown rank.
    pub shape: Option<Shape>,
    /// The elements of a tensor of rank 0 or 1 that holds whole numbers, of any element type.
    pub ints: Option<Vec<Int>>,
    /// The content of an unquantized constant.
    pub constant: Option<Arc<Tensor>>,
}

impl Fact {
    /// A type and dimensions.
    pub fn new(dtype: Option<DType>, dims: Option<Vec<Dim>>) -> Self {
        Self { dtype, shape: dims.map(Shape), ..Self::default() }
    }
    /// A constant.
    pub fn of(tensor: &Arc<Tensor>) -> Self {
        Self {
            dtype: Some(tensor.dtype()),
            shape: Some(Shape::fixed(tensor.shape())),
            ints: whole_numbers(tensor),
            constant: Some(tensor.clone()),
        }
    }
    /// Adds what is known of the elements; dropped when the tensor is not of rank 0 or 1, or too long.
    #[must_use]
    pub fn with_ints(mut self, ints: Option<Vec<Int>>) -> Self {
        let fits = |v: &Vec<Int>| match self.shape.as_ref().map(|s| s.0.as_slice()) {
            Some([]) => v.len() == 1,
            Some([Dim::Fixed(n)]) => v.len() == *n && *n <= MAX_INTS,
            _ => false,
        };
        self.ints = ints.filter(fits);
        self
    }
    /// Dimensions.
    pub fn dims(&self) -> Option<&[Dim]> {
        self.shape.as_ref().map(|s| s.0.as_slice())
    }
    /// Rank.
    pub fn rank(&self) -> Option<usize> {
        self.shape.as_ref().map(Shape::rank)
    }
    /// All elements, when all are known.
    pub fn known_ints(&self) -> Option<Vec<i64>> {
        self.ints.as_ref()?.iter().map(Int::known).collect()
    }
}

#[allow(clippy::cast_possible_truncation)]
fn whole_numbers(t: &Tensor) -> Option<Vec<Int>> {
    if t.shape().len() > 1 || t.len() > MAX_INTS {
        return None;
    }
    let whole = |x: f64| (x.fract() == 0.0 && x.abs() < f64::from(1 << 24)).then_some(Int::Known(x as i64));
    match t.data() {
        Data::F32(b) => b.iter().map(|&x| whole(x.into())).collect(),
        Data::F64(b) => b.iter().map(|&x| whole(x)).collect(),
        Data::F16(_) | Data::BF16(_) => None,
        _ => Some(t.to_i64s().ok()?.into_iter().map(Int::Known).collect()),
    }
}

/// The inputs of a node.
pub(crate) struct Args<'a> {
    /// What is known of each input.
    pub x: &'a [Option<Fact>],
    /// Number of outputs of the node.
    pub outputs: usize,
}

impl Args<'_> {
    /// Input `i` when it is there.
    pub fn get(&self, i: usize) -> Option<&Fact> {
        self.x.get(i).and_then(Option::as_ref)
    }
    /// Input `i`.
    pub fn need(&self, i: usize) -> Result<&Fact> {
        self.get(i).ok_or_else(|| Error::shape(format!("input {i} is missing")))
    }
    /// Dimensions of input `i`; `None` when its rank is not known.
    pub fn dims(&self, i: usize) -> Result<Option<&[Dim]>> {
        Ok(self.need(i)?.dims())
    }
    /// Element type of input `i`.
    pub fn dtype(&self, i: usize) -> Option<DType> {
        self.get(i).and_then(|f| f.dtype)
    }
    /// The common element type of the inputs in `which` (absent ones do not count).
    pub fn same_dtype(&self, which: impl IntoIterator<Item = usize>) -> Result<Option<DType>> {
        let mut found = None;
        for i in which {
            match (found, self.dtype(i)) {
                (Some(a), Some(b)) if a != b => {
                    return Err(Error::shape(format!("inputs of different element types, {a} and {b}"))
                        .cure("cast one of them"));
                }
                (None, d) => found = d,
                _ => {}
            }
        }
        Ok(found)
    }
    /// Checks that input `i`, if it is there and known, is a vector of `n` elements.
    pub fn vector(&self, i: usize, what: &str, n: &Dim) -> Result<Dim> {
        match self.get(i).and_then(Fact::dims) {
            None => Ok(n.clone()),
            Some([d]) => same(d, n).map_err(|_| Error::shape(format!("{what} has {d} elements, expected {n}"))),
            Some(d) => Err(Error::shape(format!("{what} of rank {}, expected a vector of {n}", d.len()))),
        }
    }
}

/// One output.
pub(crate) fn one(dtype: Option<DType>, dims: Option<Vec<Dim>>) -> Result<Vec<Fact>> {
    Ok(vec![Fact::new(dtype, dims)])
}

/// An axis counted from the end when negative.
pub(crate) fn axis(axis: i64, rank: usize) -> Result<usize> {
    let n = i64::try_from(rank).unwrap_or(i64::MAX);
    let a = if axis < 0 { axis.saturating_add(n) } else { axis };
    usize::try_from(a)
        .ok()
        .filter(|&a| a < rank)
        .ok_or_else(|| Error::shape(format!("axis {axis} of a tensor of rank {rank}")))
}

/// A list of axes, each counted from the end when negative, without repetition.
pub(crate) fn axes(list: &[i64], rank: usize) -> Result<Vec<usize>> {
    let out: Vec<usize> = list.iter().map(|&a| axis(a, rank)).collect::<Result<_>>()?;
    let mut seen = vec![false; rank];
    for &a in &out {
        if std::mem::replace(&mut seen[a], true) {
            return Err(Error::shape(format!("axes {list:?} name axis {a} twice")));
        }
    }
    Ok(out)
}

/// Two sizes that must be equal: the better known one.
pub(crate) fn same(a: &Dim, b: &Dim) -> Result<Dim> {
    match (a, b) {
        (Dim::Fixed(x), Dim::Fixed(y)) if x != y => Err(Error::shape(format!("sizes {x} and {y} differ"))),
        (Dim::Fixed(_), _) | (Dim::Sym(_), Dim::Sym(_) | Dim::Unknown) => Ok(a.clone()),
        _ => Ok(b.clone()),
    }
}

/// NumPy broadcasting.
pub(crate) fn broadcast(a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>> {
    let rank = a.len().max(b.len());
    let at = |s: &[Dim], i: usize| (i + s.len()).checked_sub(rank).map_or(Dim::Fixed(1), |j| s[j].clone());
    (0..rank)
        .map(|i| {
            Ok(match (at(a, i), at(b, i)) {
                (Dim::Fixed(1), d) | (d, Dim::Fixed(1)) => d,
                (Dim::Fixed(x), Dim::Fixed(y)) if x != y => {
                    return Err(Error::shape(format!("shapes {} and {} do not broadcast", show(a), show(b))));
                }
                (d @ Dim::Fixed(_), _) | (_, d @ Dim::Fixed(_)) => d,
                (Dim::Sym(x), Dim::Sym(y)) if x == y => Dim::Sym(x),
                _ => Dim::Unknown,
            })
        })
        .collect()
}

/// Dimensions as messages show them.
pub(crate) fn show(d: &[Dim]) -> String {
    Shape(d.to_vec()).to_string()
}

/// The product of sizes, when it is a number or a lone symbol.
pub(crate) fn product(dims: &[Dim]) -> Dim {
    let one = Int::Known(1);
    dims.iter().fold(one, |p, d| p.mul(&d.into())).dim().unwrap_or(Dim::Unknown)
}
