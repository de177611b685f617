//! Migration of difficulty from activations to weights (Xiao et al., 2023, "SmoothQuant", section 4, equation 4).
use super::{
    chain::{Kinds, Link, largest, links, set_bound},
    factors,
};
use crate::{
    error::{Error, Result},
    ir::{Channels, Graph, ValueId},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, str::FromStr};

/// How [`smooth`] weighs activations against weights: `ALPHA` or `ALPHA:REACH`, such as `0.5`, `1:6` or `1:4bit`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
pub struct Smoothing {
    /// The exponent, 0 (weights alone decide) to 1 (activations alone).
    pub alpha: f64,
    /// What a channel's largest magnitude counts as at most.
    pub reach: Option<Reach>,
}

/// How far a channel counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reach {
    /// So many of its root mean squares: a number.
    Deviations(f64),
    /// As far as a grid of so many bits of its own would reach that has the least squared error: `4bit`.
    Bits(u8),
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deviations(k) => write!(f, "{k}"),
            Self::Bits(bits) => write!(f, "{bits}bit"),
        }
    }
}

/// As recipes have it: a number, or `"ALPHA:REACH"`.
#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "smooth: neither a number, such as 0.5, nor \"ALPHA:REACH\", such as \"1:6\" or \"1:4bit\""
)]
enum Form {
    Number(f64),
    Text(String),
}

impl Smoothing {
    /// Whether both numbers make sense.
    ///
    /// # Errors
    /// When a number is out of its range.
    pub fn check(&self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.alpha) {
            return Err(Error::usage(format!("smooth = {self}: the exponent is not from 0 to 1"))
                .cure("use 0 (weights alone decide) to 1 (activations alone), usually 0.5"));
        }
        match self.reach {
            Some(Reach::Deviations(k)) if !(k.is_finite() && k >= 1.0) => {
                Err(Error::usage(format!("smooth = {self}: channels would be cut below their root mean square"))
                    .cure("use a reach from 1 on, such as 1:6, or none"))
            }
            Some(Reach::Bits(bits)) if !(2..=16).contains(&bits) => {
                Err(Error::usage(format!("smooth = {self}: no grid of {bits} bits"))
                    .cure("use 2 to 16 bits, those of the activations, such as 1:4bit"))
            }
            _ => Ok(()),
        }
    }
    /// The bits for which [`Channels::fit`] is wanted, if it is.
    pub(crate) fn bits(&self) -> Option<u8> {
        match self.reach {
            Some(Reach::Bits(bits)) => Some(bits),
            _ => None,
        }
    }
    /// Whether all is known of channels that this looks at.
    fn knows(&self, known: &Channels) -> bool {
        !known.largest.is_empty() && (self.bits().is_none() || !known.fit.is_empty())
    }
    /// The largest magnitude of each channel, as far as it counts.
    fn largest(&self, known: &Channels) -> Vec<f64> {
        let of = |(i, &x): (usize, &f64)| match (self.reach, known.mean.get(i), known.deviation.get(i)) {
            (Some(Reach::Deviations(k)), Some(mean), Some(deviation)) => x.min(k * mean.hypot(*deviation)),
            (Some(Reach::Bits(_)), ..) => known.fit.get(i).map_or(x, |fit| x.min(*fit)),
            _ => x,
        };
        known.largest.iter().enumerate().map(of).collect()
    }
}

impl fmt::Display for Smoothing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reach {
            None => write!(f, "{}", self.alpha),
            Some(reach) => write!(f, "{}:{reach}", self.alpha),
        }
    }
}

impl FromStr for Smoothing {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let number = |s: &str| {
            s.trim().parse::<f64>().map_err(|_| {
                Error::usage(format!("smooth: '{s}' is no number"))
                    .cure("use ALPHA or ALPHA:REACH, such as 0.5, 1:6 or 1:4bit")
            })
        };
        let reaches = |s: &str| match s.trim().strip_suffix("bit").map(str::parse) {
            Some(Ok(bits)) => Ok(Reach::Bits(bits)),
            _ => number(s).map(Reach::Deviations),
        };
        let (alpha, reach) = s.split_once(':').map_or((s, None), |(a, r)| (a, Some(r)));
        let out = Self { alpha: number(alpha)?, reach: reach.map(reaches).transpose()? };
        out.check()?;
        Ok(out)
    }
}

impl TryFrom<Form> for Smoothing {
    type Error = Error;
    fn try_from(form: Form) -> Result<Self> {
        let out = match form {
            Form::Number(alpha) => Self { alpha, reach: None },
            Form::Text(text) => return text.parse(),
        };
        out.check()?;
        Ok(out)
    }
}

impl From<Smoothing> for Form {
    fn from(s: Smoothing) -> Self {
        match s.reach {
            None => Self::Number(s.alpha),
            Some(_) => Self::Text(s.to_string()),
        }
    }
}

/// What became of the network.
pub struct Smoothed {
    /// The network.
    pub graph: Graph,
    /// Activations whose channels were scaled.
    pub links: usize,
    /// Clips (ReLU6) on the way that became ReLU, since their bound would differ from channel to channel.
    pub clips: usize,
    /// Clips that stayed, with another bound.
    pub bounds: usize,
    /// Activations that a multiplication of its own scales, before the products that read them.
    pub factors: usize,
    /// Activations left alone since nothing is known of their channels.
    pub unknown: usize,
}

/// Streams of sums are scaled as a whole: what blocks add and read.
const KINDS: Kinds = Kinds { norms: true, sums: true };
/// Below this a largest magnitude counts as this (the paper's code).
const LEAST: f64 = 1e-5;
/// A clip may come so much nearer than the largest magnitude on the samples: rounding of binary32.
const SLACK: f64 = 1.0 + 1e-6;
/// With `alpha = 1` a channel counts as at least this share of the largest one: what was small on the samples may be larger elsewhere.
const SHARE: f64 = 1.0 / 16.0;

/// Divides each channel `j` of an activation that products read by `s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)` and multiplies the columns of those products by
/// it, `max|W_j|` being the largest of all of them: `Y = (X / s) (s W)`. The division goes into the layer that makes the activation: scale and
/// shift of a normalisation, or rows and bias of a product with nothing but functions `f(s x) = s f(x)` in between, as in
/// [`super::equalize`]; what a stream of sums carries (the blocks of a residual network) is scaled as a whole. Where neither is there, or something else reads the activation too, what an operator in floating point
/// makes is multiplied by `1/s` before the products (`factors.rs`); anything else stays as it is. `max|X_j|` is that of
/// [`crate::ir::Channels`], measured on samples. With `alpha = 0.5` both sides get the same largest magnitude `sqrt(max|X_j| max|W_j|)`.
///
/// With `alpha = 1` all channels of the activation get one range, as if each had a grid of its own, and the weights say nothing: what a depthwise convolution with a scale for each
/// channel wants. A channel counts as at least 1/16 of the largest there.
///
/// A clip `min(x, B)` just before those products would get a bound `B / s_j` in each channel. Where one bound `b` for all lies between what the samples
/// reach and that, `max|X_j| / s_j <= b <= B / s_j`, it stays a clip, with this bound: on the samples nothing changes, beyond them a channel is cut off where its grid ends. This is so
/// with `alpha = 1`. Elsewhere it becomes a ReLU.
///
/// With a reach `k`, `max|X_j|` counts as at most `k` root mean squares of its channel, `k sqrt(E[X_j^2])`: few bits are better spent on what is frequent, and a rare peak of one
/// channel does not take its weights' precision. A clip cuts what lies beyond that then, on the samples, too. With a reach of `b` bits it counts as far as a grid of the channel
/// alone would reach, of `b` bits and least squared error ([`Channels::fit`]): with `alpha = 1` each channel gets the grid it would choose, whatever shape its distribution has.
///
/// # Errors
/// When scaled weights leave binary32.
pub fn smooth(graph: &Graph, how: Smoothing) -> Result<Smoothed> {
    let alpha = how.alpha;
    let mut out = Smoothed { graph: graph.clone(), links: 0, clips: 0, bounds: 0, factors: 0, unknown: 0 };
    let (links, mut weights) = links(graph, KINDS);
    let mut touched = BTreeSet::new();
    // All scales first: a product's columns belong to one link and its rows to another, and neither should see what the other did.
    let mut scales = Vec::new();
    for link in &links {
        let Some(reached) = reached(graph, link, how).filter(|r| r.len() == weights[&link.firsts[0]].outputs()) else {
            out.unknown += 1;
            continue;
        };
        let scale = scales_of(&reached, &largest(&weights, &link.seconds, false), alpha);
        let bound = link.last_clip(graph).and_then(|(clip, bound)| {
            let needed = reached.iter().zip(&scale).map(|(x, s)| x / s).fold(0.0, f64::max);
            let nearest = scale.iter().map(|s| bound / s).fold(f64::INFINITY, f64::min);
            (needed > 0.0 && needed <= nearest * SLACK).then_some((clip, needed))
        });
        // Nothing is gained by opening a clip where weights do not matter.
        if alpha == 1.0 && bound.is_none() && link.has_clip(graph) {
            continue;
        }
        scales.push((link, scale, bound));
    }
    let mut multiplied = Vec::new();
    for site in factors::sites(graph, &links, &weights) {
        match graph.value(site.value).channels.as_ref().filter(|c| how.knows(c)) {
            Some(known) => {
                let scale = scales_of(&how.largest(known), &largest(&weights, &site.readers, false), alpha);
                multiplied.push((site, scale));
            }
            None => out.unknown += 1,
        }
    }
    for (link, scale, bound) in scales {
        link.scale(&mut weights, &scale);
        touched.extend(link.seconds.iter().chain(&link.firsts).copied());
        out.links += 1;
        let inverse: Vec<f64> = scale.iter().map(|s| 1.0 / s).collect();
        link.note(&mut out.graph, &inverse, &vec![0.0; inverse.len()]);
        match bound {
            Some((clip, bound)) => {
                set_bound(&mut out.graph, clip, bound);
                out.bounds += 1;
            }
            None => out.clips += link.open_clips(&mut out.graph),
        }
    }
    for (site, scale) in &multiplied {
        for reader in &site.readers {
            if let Some(weights) = weights.get_mut(reader) {
                weights.scale(false, |i| scale[i]);
            }
        }
        touched.extend(&site.readers);
    }
    // The numbers of nodes hold until one is added.
    for id in touched {
        weights[&id].put(&mut out.graph, id)?;
    }
    out.factors = multiplied.len();
    out.graph = factors::multiply(out.graph, &multiplied)?;
    out.graph.compact();
    Ok(out)
}

/// The scale of each channel, given the largest magnitudes of the activation and of the columns that read it.
fn scales_of(reached: &[f64], columns: &[f64], alpha: f64) -> Vec<f64> {
    let floor = if alpha == 1.0 { SHARE * reached.iter().copied().fold(0.0, f64::max) } else { LEAST };
    let of = |(&x, &w): (&f64, &f64)| {
        if alpha == 1.0 {
            return if floor > 0.0 { x.max(floor) } else { 1.0 };
        }
        // What is always zero, or never read, has nothing to balance.
        if x == 0.0 || w == 0.0 {
            return 1.0;
        }
        (libm::pow(x.max(floor), alpha) / libm::pow(w.max(LEAST), 1.0 - alpha)).max(LEAST)
    };
    reached.iter().zip(columns).map(of).collect()
}

/// The largest magnitude of each channel of what a link's seconds read, as far as it counts, where it is known.
fn reached(graph: &Graph, link: &Link, how: Smoothing) -> Option<Vec<f64>> {
    let mut all: Vec<f64> = Vec::new();
    for &v in &link.reads {
        let one = how.largest(graph.value(v).channels.as_ref().filter(|c| how.knows(c))?);
        all.resize(one.len(), 0.0);
        all.iter_mut().zip(&one).for_each(|(all, one)| *all = all.max(*one));
    }
    Some(all)
}

/// The activations of whose channels [`smooth`] wants to know what it does not.
pub(crate) fn unknown(graph: &Graph, how: Smoothing) -> Vec<ValueId> {
    let (links, weights) = links(graph, KINDS);
    let sites = factors::sites(graph, &links, &weights);
    let read = links.into_iter().flat_map(|l| l.reads).chain(sites.into_iter().map(|s| s.value));
    read.filter(|&v| graph.value(v).channels.as_ref().is_none_or(|c| !how.knows(c))).collect()
}
