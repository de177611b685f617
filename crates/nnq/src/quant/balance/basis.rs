//! Another basis for what products pass to products with nothing but sums in between (linear bottlenecks), in which few bits lose least.
use super::chain::{Kinds, Link, Weights, links};
use crate::{
    data::mix,
    error::Result,
    ir::{Graph, Op, ValueId, op::Binary},
};
use nalgebra::{DMatrix, DVector, SymmetricEigen};
use std::collections::{BTreeSet, HashMap};

/// What became of the network.
pub struct Based {
    /// The network.
    pub graph: Graph,
    /// Streams that have another basis.
    pub streams: usize,
}

/// Second moments `E[x x^T]` of the channels of a value.
pub(crate) type Moments = HashMap<ValueId, DMatrix<f64>>;

/// Directions of which less than this share of the largest second moment (of the largest weighted spread) is seen count as having that much: the
/// change stays invertible in binary32.
const LEAST: f64 = 1e-5;
/// Draws the mixture.
const SEED: u64 = 0x00ba_5e5e_ed00;

/// Streams: products at both ends that mix channels, sums and means over space in between.
fn streams(graph: &Graph) -> (Vec<Link>, HashMap<crate::ir::NodeId, Weights>) {
    let (mut links, weights) = links(graph, Kinds { norms: false, sums: true });
    links.retain(|l| {
        l.firsts.iter().chain(&l.seconds).all(|id| weights[id].mixes())
            && l.between.iter().all(|&id| linear(&graph.node(id).op))
    });
    (links, weights)
}

/// Whether a function of channels is linear and the same for all of them.
fn linear(op: &Op) -> bool {
    use crate::ir::op::Reduction;
    matches!(
        op,
        Op::Identity
            | Op::Binary(Binary::Add | Binary::Sub)
            | Op::AveragePool { .. }
            | Op::GlobalAveragePool
            | Op::Reduce { kind: Reduction::Mean, .. }
            | Op::Flatten { .. }
            | Op::Reshape { .. }
            | Op::Squeeze
    )
}

/// The values whose second moments [`change_basis`] wants to know.
pub(crate) fn wanted(graph: &Graph) -> Vec<ValueId> {
    streams(graph).0.into_iter().flat_map(|l| l.reads).collect()
}

/// Replaces `x` by `T x` wherever nothing but sums lies between the products that make `x` (rows of weights and biases times `T`) and those that read it (columns
/// times `T^-1`): the same function. Rounding `T x` on one grid of a tensor adds noise of variance `k tr(T C T^T) / n` to each of the `n` channels, with `C = E[x x^T]` and
/// `k` by the number of levels, and so `k tr(T C T^T) tr(T^-T G T^-1) / n` to what the readers `W` answer, `G = W^T W`. With `C^(1/2) G C^(1/2) = V S^2 V^T` that is
/// least for
///
/// ```text
/// T = R S^(1/2) V^T C^(-1/2),    k tr(S)^2 / n,
/// ```
///
/// whatever the orthogonal `R` is: both second moments become `R S R^T`. `R` is a random rotation, which makes channels alike and nearly normal, and plane rotations
/// behind it until all channels have the same second moment. (Trace of a product by Cauchy and Schwarz: `tr(A) tr(B) >= tr((A^(1/2) B A^(1/2))^(1/2))^2`.) Hadamard
/// rotations of transformers (Ashkboos et al., 2024, "QuaRot") are `R` alone.
///
/// A stream of sums has several readers: `C` and `G` are means of theirs, each divided by the root of `tr(C G)`, what that reader answers.
///
/// # Errors
/// When changed weights leave binary32.
pub(crate) fn change_basis(graph: &Graph, moments: &Moments) -> Result<Based> {
    let mut out = Based { graph: graph.clone(), streams: 0 };
    let (links, mut weights) = streams(graph);
    let mut touched = BTreeSet::new();
    for link in &links {
        let n = weights[&link.firsts[0]].outputs();
        let (mut c, mut g) = (DMatrix::zeros(n, n), DMatrix::zeros(n, n));
        for v in &link.reads {
            let Some(seen) = moments.get(v).filter(|m| m.nrows() == n) else { continue };
            for id in link.seconds.iter().filter(|&&id| graph.node(id).input(0) == Some(*v)) {
                let gram = weights[id].gram();
                let answered = seen.dot(&gram).sqrt();
                if answered > 0.0 && answered.is_finite() {
                    c += seen / answered;
                    g += gram / answered;
                }
            }
        }
        let Some((to, from)) = basis(&c, &g) else { continue };
        for id in &link.firsts {
            weights.entry(*id).and_modify(|w| w.mix_outputs(&to));
        }
        for id in &link.seconds {
            weights.entry(*id).and_modify(|w| w.mix_inputs(&from));
        }
        let made = link.firsts.iter().chain(&link.between).filter_map(|&id| graph.node(id).output(0));
        made.for_each(|v| out.graph.value_mut(v).channels = None);
        touched.extend(link.firsts.iter().chain(&link.seconds).copied());
        out.streams += 1;
    }
    for id in touched {
        weights[&id].put(&mut out.graph, id)?;
    }
    out.graph.compact();
    Ok(out)
}

/// `T` and its inverse for second moments `c` and Gram matrix `g`; none where nothing is seen or read.
fn basis(c: &DMatrix<f64>, g: &DMatrix<f64>) -> Option<(DMatrix<f64>, DMatrix<f64>)> {
    let (spread, axes) = positive(c)?;
    let of = |f: fn(f64) -> f64| &axes * DMatrix::from_diagonal(&spread.map(f)) * axes.transpose();
    let (half, inverse) = (of(f64::sqrt), of(inverse_root));
    let (squares, v) = positive(&(&half * g * &half))?;
    let s = squares.map(f64::sqrt);
    let r = mixture(&s);
    let scaled = |f: fn(f64) -> f64| DMatrix::from_diagonal(&s.map(f));
    Some((&r * scaled(f64::sqrt) * v.transpose() * &inverse, &half * &v * scaled(inverse_root) * r.transpose()))
}

fn inverse_root(x: f64) -> f64 {
    1.0 / x.sqrt()
}

/// Eigenvalues, none below [`LEAST`] of the largest, and eigenvectors of a symmetric matrix.
fn positive(m: &DMatrix<f64>) -> Option<(DVector<f64>, DMatrix<f64>)> {
    if m.iter().any(|x| !x.is_finite()) {
        return None;
    }
    let e = SymmetricEigen::new((m + m.transpose()) * 0.5);
    let most = e.eigenvalues.max();
    (most > 0.0).then(|| (e.eigenvalues.map(|x| x.max(LEAST * most)), e.eigenvectors))
}

/// An orthogonal `R` for which `R diag(s) R^T` has the same number along its diagonal: that of a Gaussian matrix, and then for each channel but the last a rotation in
/// the plane with one on the other side of the mean, which puts it there.
fn mixture(s: &DVector<f64>) -> DMatrix<f64> {
    let n = s.len();
    // Sums of 12 uniform numbers, less 6, are near enough to normal ones.
    let uniform = |i: u64| (mix(SEED, i) >> 11) as f64 / (1u64 << 53) as f64;
    let normal = |i: usize, j: usize| (0..12).map(|k| uniform(((i * n + j) * 12 + k) as u64)).sum::<f64>() - 6.0;
    let mut r = DMatrix::from_fn(n, n, normal).qr().q();
    let mean = s.sum() / n as f64;
    let mut m = &r * DMatrix::from_diagonal(s) * r.transpose();
    let mut left: BTreeSet<usize> = (0..n).collect();
    while left.len() > 1 {
        let (&low, &high) = (least(&left, |i| m[(i, i)]), least(&left, |i| -m[(i, i)]));
        let (a, b, off) = (m[(low, low)], m[(high, high)], m[(low, high)]);
        if b - a <= 1e-12 * mean {
            break;
        }
        // (cos x + t sin x ...) with t = tan: a + 2 t off + t^2 b = mean (1 + t^2).
        let (p, q, w) = (b - mean, off, a - mean);
        let root = (q * q - p * w).max(0.0).sqrt();
        let t = if p > 0.0 { (if q >= 0.0 { -w / (q + root) } else { (root - q) / p }).max(0.0) } else { 0.0 };
        let (cos, sin) = (1.0 / t.hypot(1.0), t / t.hypot(1.0));
        let rotate = |m: &mut DMatrix<f64>| {
            for j in 0..m.ncols() {
                let (x, y) = (m[(low, j)], m[(high, j)]);
                m[(low, j)] = cos * x + sin * y;
                m[(high, j)] = cos * y - sin * x;
            }
        };
        rotate(&mut r);
        rotate(&mut m);
        m = m.transpose();
        rotate(&mut m);
        left.remove(&low);
    }
    r
}

/// The first index of the least number.
fn least(of: &BTreeSet<usize>, by: impl Fn(usize) -> f64) -> &usize {
    of.iter().min_by(|a, b| by(**a).total_cmp(&by(**b))).expect("not empty")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u64) -> DMatrix<f64> {
        DMatrix::from_fn(n, n, |i, j| (mix(seed, (i * n + j) as u64) >> 11) as f64 / (1u64 << 52) as f64 - 1.0)
    }

    /// What rounding adds to the readers' answers, but for what the number of levels says.
    fn noise(t: &DMatrix<f64>, c: &DMatrix<f64>, g: &DMatrix<f64>) -> f64 {
        let from = t.clone().try_inverse().unwrap();
        (t * c * t.transpose()).trace() * (from.transpose() * g * from).trace() / c.nrows() as f64
    }

    #[test]
    fn no_other_basis_adds_less_noise() {
        for n in [1, 2, 3, 8, 24] {
            let scale = DMatrix::from_diagonal(&DVector::from_fn(n, |i, _| 1.0 + (i * i) as f64));
            let (a, w) = (numbers(n, 1) * &scale, numbers(n, 2));
            let (c, g) = (a.transpose() * &a, w.transpose() * &w);
            let (to, from) = basis(&c, &g).unwrap();
            assert!((&to * &from - DMatrix::identity(n, n)).abs().max() < 1e-8);
            // The sum of singular values of C^(1/2) W^T, which are those of A W^T.
            let bound = (&a * w.transpose()).singular_values().sum().powi(2) / n as f64;
            let least = noise(&to, &c, &g);
            assert!((least / bound - 1.0).abs() < 0.01, "{n}: {least} {bound}");
            let root = DMatrix::from_diagonal(&c.diagonal().map(|x| x.powf(-0.5)));
            let mut others = vec![DMatrix::identity(n, n), root.clone(), numbers(n, 3).qr().q() * root];
            others.extend((4..40).map(|seed| numbers(n, seed)));
            others.extend((40..80).map(|seed| (DMatrix::identity(n, n) + numbers(n, seed) * 0.05) * &to));
            assert!(others.iter().all(|t| noise(t, &c, &g) > least * 0.999), "{n}");
            // Channels are alike on both sides.
            for m in [&to * &c * to.transpose(), from.transpose() * &g * &from] {
                let d = m.diagonal();
                assert!(d.max() / d.min() < 1.02, "{n}: {d}");
            }
        }
    }

    #[test]
    fn what_is_never_seen_does_no_harm() {
        // Rank one seen, rank one read; nothing seen; no numbers.
        let (c, g) =
            (DMatrix::from_element(4, 4, 1.0), DMatrix::from_diagonal(&DVector::from_vec(vec![1.0, 0.0, 0.0, 0.0])));
        let (to, from) = basis(&c, &g).unwrap();
        assert!((&to * &from - DMatrix::identity(4, 4)).abs().max() < 1e-6);
        let none = DMatrix::zeros(4, 4);
        assert!(basis(&none, &g).is_none() && basis(&c, &none).is_none());
        assert!(basis(&DMatrix::from_element(4, 4, f64::NAN), &g).is_none());
    }
}
