//! Shapes whose dimensions may be symbols ("N", "batch").
use crate::error::{Error, Result};
use std::{collections::HashMap, fmt, str::FromStr, sync::Arc};

/// One dimension.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// Known.
    Fixed(usize),
    /// Unknown but named: equal names mean equal sizes.
    Sym(Arc<str>),
    /// Unknown.
    Unknown,
}

impl Dim {
    /// A symbol.
    pub fn sym(name: &str) -> Self {
        Self::Sym(name.into())
    }
    /// The size when it is known.
    pub fn fixed(&self) -> Option<usize> {
        match self {
            Self::Fixed(n) => Some(*n),
            _ => None,
        }
    }
    /// Replaces a symbol by its size in `binding`.
    #[must_use]
    pub fn bind(&self, binding: &Binding) -> Self {
        match self {
            Self::Sym(s) => binding.get(s.as_ref()).map_or_else(|| self.clone(), |n| Self::Fixed(*n)),
            _ => self.clone(),
        }
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Self {
        Self::Fixed(n)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(n) => write!(f, "{n}"),
            Self::Sym(s) => f.write_str(s),
            Self::Unknown => f.write_str("?"),
        }
    }
}

/// Sizes for symbols.
pub type Binding = HashMap<String, usize>;

/// The dimensions of a tensor, outermost first. A value of unknown rank has no `Shape` at all.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Shape(pub Vec<Dim>);

impl Shape {
    /// A fully known shape.
    pub fn fixed(dims: &[usize]) -> Self {
        Self(dims.iter().map(|&d| Dim::Fixed(d)).collect())
    }
    /// The sizes when every dimension is known.
    pub fn as_fixed(&self) -> Option<Vec<usize>> {
        self.0.iter().map(Dim::fixed).collect()
    }
    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.0.len()
    }
    /// Replaces symbols by sizes.
    #[must_use]
    pub fn bind(&self, binding: &Binding) -> Self {
        Self(self.0.iter().map(|d| d.bind(binding)).collect())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}

impl FromStr for Shape {
    type Err = Error;
    /// The inverse of `Display`; the brackets may be left out.
    fn from_str(text: &str) -> Result<Self> {
        let inner = text.trim();
        let inner = inner.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(inner).trim();
        if inner.is_empty() {
            return Ok(Self::default());
        }
        inner
            .split(',')
            .map(|d| match d.trim() {
                "" => Err(Error::usage(format!("'{text}' is no shape")).cure("write it like [N, 3, 32, ?]")),
                "?" => Ok(Dim::Unknown),
                d if d.starts_with(|c: char| c.is_ascii_digit() || c == '-') => {
                    d.parse().map(Dim::Fixed).map_err(|_| {
                        Error::usage(format!("'{d}' in '{text}' is no size")).cure("write it like [N, 3, 32, ?]")
                    })
                }
                d => Ok(Dim::sym(d)),
            })
            .collect::<Result<_>>()
            .map(Self)
    }
}
