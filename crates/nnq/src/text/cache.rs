//! What a network keeps of the tokens before: keys and values of attention.
use super::inputs::Past;
use crate::{
    error::{Error, Result},
    ir::Tensor,
};
use half::f16;
use nnq_kernels::round::{dequantize_f32, quantize_f32};
use serde::Serialize;
use std::{fmt, str::FromStr};

/// How numbers of the cache are kept between tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// As they are.
    #[default]
    F32,
    /// Rounded to binary16.
    F16,
    /// Codes from -127 to 127, with a scale for each token of each head: its largest magnitude over 127.
    Int8,
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        })
    }
}

impl FromStr for Storage {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        match s {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "int8" => Ok(Self::Int8),
            _ => Err(Error::usage(format!("'{s}' is no type of a cache")).cure("use f32, f16 or int8")),
        }
    }
}

/// Numbers of one kind.
enum Numbers {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Int8 { codes: Vec<i8>, scales: Vec<f32> },
}

/// What one input of a network holds of the tokens so far. A token's numbers lie together in rows: one for each index before its axis (each head).
pub(super) struct Cache {
    of: Past,
    /// For each index before the axis.
    heads: Vec<Numbers>,
    tokens: usize,
}

impl Cache {
    pub(super) fn new(of: &Past, storage: Storage) -> Self {
        let heads = of.shape[..of.axis].iter().product();
        let empty = |_| match storage {
            Storage::F32 => Numbers::F32(Vec::new()),
            Storage::F16 => Numbers::F16(Vec::new()),
            Storage::Int8 => Numbers::Int8 { codes: Vec::new(), scales: Vec::new() },
        };
        Self { of: of.clone(), heads: (0..heads).map(empty).collect(), tokens: 0 }
    }

    /// Numbers of a token in one head.
    fn row(&self) -> usize {
        self.of.shape[self.of.axis + 1..].iter().product()
    }

    /// The shape of a tensor for one sample with so many tokens.
    fn shape(&self, tokens: usize) -> Vec<usize> {
        let mut shape = [&[1], &self.of.shape[..]].concat();
        shape[1 + self.of.axis] = tokens;
        shape
    }

    /// Takes over the last tokens of what the network answered, which holds all tokens.
    ///
    /// # Errors
    /// When it does not.
    pub(super) fn extend(&mut self, present: &Tensor, by: usize) -> Result<()> {
        let (row, all) = (self.row(), self.tokens + by);
        if present.shape() != self.shape(all) {
            return Err(Error::shape(format!(
                "what is kept of {all} tokens has the shape {:?}, expected {:?}",
                present.shape(),
                self.shape(all)
            )));
        }
        let x = present.as_slice::<f32>()?;
        let before = self.tokens;
        for (head, x) in self.heads.iter_mut().zip(x.chunks((all * row).max(1))) {
            let new = &x[before * row..];
            match head {
                Numbers::F32(kept) => kept.extend_from_slice(new),
                Numbers::F16(kept) => kept.extend(new.iter().map(|&x| f16::from_f32(x))),
                Numbers::Int8 { codes, scales } => {
                    for token in new.chunks(row.max(1)) {
                        let most = token.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                        if !most.is_finite() || token.iter().any(|x| x.is_nan()) {
                            return Err(Error::value("what a token leaves is not finite").cure("use --cache f32"));
                        }
                        let scale = if most > 0.0 { (most / 127.0).max(f32::MIN_POSITIVE) } else { 1.0 };
                        scales.push(scale);
                        codes.extend(token.iter().map(|&x| quantize_f32(x, scale, 0, -127, 127) as i8));
                    }
                }
            }
        }
        self.tokens = all;
        Ok(())
    }

    /// As the network reads it.
    pub(super) fn tensor(&self) -> Tensor {
        let row = self.row();
        let mut out = Vec::with_capacity(self.heads.len() * self.tokens * row);
        for head in &self.heads {
            match head {
                Numbers::F32(kept) => out.extend_from_slice(kept),
                Numbers::F16(kept) => out.extend(kept.iter().map(|x| x.to_f32())),
                Numbers::Int8 { codes, scales } => {
                    for (token, &scale) in codes.chunks(row.max(1)).zip(scales) {
                        out.extend(token.iter().map(|&q| dequantize_f32(q.into(), scale, 0)));
                    }
                }
            }
        }
        Tensor::of(&self.shape(self.tokens), out)
    }

    /// Bytes of what is kept.
    pub(super) fn bytes(&self) -> usize {
        let bytes = |head: &Numbers| match head {
            Numbers::F32(x) => 4 * x.len(),
            Numbers::F16(x) => 2 * x.len(),
            Numbers::Int8 { codes, scales } => codes.len() + 4 * scales.len(),
        };
        self.heads.iter().map(bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn past() -> Past {
        Past { output: 1, shape: vec![2, 0, 3], axis: 1 }
    }

    /// Two heads, tokens of three numbers: number `i` of token `t` of head `h` is `100 h + 10 t + i`.
    fn present(tokens: usize) -> Tensor {
        let x = (0..2).flat_map(|h| (0..tokens).flat_map(move |t| (0..3).map(move |i| (100 * h + 10 * t + i) as f32)));
        Tensor::of(&[1, 2, tokens, 3], x.collect::<Vec<f32>>())
    }

    #[test]
    fn new_tokens_are_added_to_each_head() {
        for (storage, bytes, most) in
            [(Storage::F32, 96, 0.0), (Storage::F16, 48, 0.0), (Storage::Int8, 56, 0.52 * 132.0 / 127.0)]
        {
            let mut cache = Cache::new(&past(), storage);
            assert_eq!(cache.tensor().shape(), [1, 2, 0, 3]);
            cache.extend(&present(3), 3).unwrap();
            cache.extend(&present(4), 1).unwrap();
            let (got, want) = (cache.tensor(), present(4));
            assert_eq!(got.shape(), want.shape());
            for (got, want) in got.to_f32s().iter().zip(want.to_f32s().iter()) {
                assert!((got - want).abs() <= most, "{storage}: {got}, {want}");
            }
            assert_eq!(cache.bytes(), bytes);
        }
    }

    #[test]
    fn what_is_not_all_tokens_is_refused() {
        let mut cache = Cache::new(&past(), Storage::Int8);
        cache.extend(&present(2), 2).unwrap();
        let e = cache.extend(&present(2), 1).unwrap_err().to_string();
        assert!(e.contains("3 tokens"), "{e}");
        let broken = Tensor::of(&[1, 2, 3, 3], vec![f32::INFINITY; 18]);
        assert!(cache.extend(&broken, 1).unwrap_err().to_string().contains("not finite"));
        assert_eq!("int8".parse::<Storage>().unwrap(), Storage::Int8);
        assert!("int4".parse::<Storage>().is_err());
    }
}
