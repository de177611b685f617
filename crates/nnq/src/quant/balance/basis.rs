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
/// Rounds in which readers of one stream agree on a basis at most, and the share of noise less for which another one is worth while.
const ROUNDS: usize = 16;
const ENOUGH: f64 = 1e-3;
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
/// A stream of sums has several readers `v`, and the noise is the sum over them, in shares of what each answers: `sum_v x_v y_v / tr(C_v G_v)` with
/// `x_v = tr(T C_v T^T)`, `y_v = tr(T^-T G_v T^-1)`. Its gradient by `T^T T` is zero where `T` is the one above for `C = sum_v y_v C_v / tr(C_v G_v)` and
/// `G = sum_v x_v G_v / tr(C_v G_v)`, which is found in a few rounds; each factor's logarithm is convex along geodesics of positive definite matrices, so there is no other such
/// place. A stream for which nothing is gained stays as it is.
///
/// # Errors
/// When changed weights leave binary32.
pub(crate) fn change_basis(graph: &Graph, moments: &Moments) -> Result<Based> {
    let mut out = Based { graph: graph.clone(), streams: 0 };
    let (links, mut weights) = streams(graph);
    let mut touched = BTreeSet::new();
    for link in &links {
        let n = weights[&link.firsts[0]].outputs();
        let mut readers = Vec::new();
        for v in &link.reads {
            let Some(seen) = moments.get(v).filter(|m| m.nrows() == n) else { continue };
            for id in link.seconds.iter().filter(|&&id| graph.node(id).input(0) == Some(*v)) {
                let gram = weights[id].gram();
                let answered = seen.dot(&gram);
                if answered > 0.0 && answered.is_finite() {
                    readers.push(Reader { seen, gram, answered });
                }
            }
        }
        let Some((to, from)) = shared_basis(&readers) else { continue };
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

/// What reads a stream.
struct Reader<'a> {
    /// `C`, of what it reads.
    seen: &'a DMatrix<f64>,
    /// `G`, of its weights.
    gram: DMatrix<f64>,
    /// `tr(C G)`, the square of its answers.
    answered: f64,
}

/// `T` and its inverse of least noise over all readers, as [`change_basis`] describes; none where that is not less than without.
fn shared_basis(readers: &[Reader]) -> Option<(DMatrix<f64>, DMatrix<f64>)> {
    let n = readers.first()?.gram.nrows();
    let sum = |of: &dyn Fn(usize, &Reader) -> DMatrix<f64>| {
        readers.iter().enumerate().fold(DMatrix::zeros(n, n), |sum, (v, r)| sum + of(v, r))
    };
    let noise = |traces: &[[f64; 2]]| traces.iter().zip(readers).map(|([x, y], r)| x * y / r.answered).sum::<f64>();
    let mut traces: Vec<[f64; 2]> = readers.iter().map(|r| [r.seen.trace(), r.gram.trace()]).collect();
    let (mut least, mut best) = (noise(&traces), None);
    for _ in 0..ROUNDS {
        let c = sum(&|v, r| r.seen * (traces[v][1] / r.answered));
        let g = sum(&|v, r| &r.gram * (traces[v][0] / r.answered));
        let Some((to, from)) = basis(&c, &g) else { break };
        let (spread, gram) = (to.transpose() * &to, &from * from.transpose());
        let new: Vec<[f64; 2]> = readers.iter().map(|r| [spread.dot(r.seen), gram.dot(&r.gram)]).collect();
        let now = noise(&new);
        let enough = readers.len() == 1 || now > least * (1.0 - ENOUGH);
        if now < least {
            (least, best) = (now, Some((to, from)));
        }
        if enough {
            break;
        }
        // Half-way from the last weights, in logarithms: rounds do not swing.
        for (old, new) in traces.iter_mut().flatten().zip(new.iter().flatten()) {
            *old = (*old * new).sqrt();
        }
    }
    best
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
    fn readers_of_one_stream_agree_on_the_basis_of_least_noise() {
        for (n, readers) in [(2, 2), (5, 3), (16, 4)] {
            let at = |v: usize, seed| numbers(n, seed + 10 * v as u64);
            let moments: Vec<DMatrix<f64>> = (0..readers)
                .map(|v| {
                    let a = at(v, 1) * DMatrix::from_diagonal(&DVector::from_fn(n, |i, _| 1.0 + ((i + v) * i) as f64));
                    a.transpose() * a
                })
                .collect();
            let readers: Vec<Reader> = moments
                .iter()
                .enumerate()
                .map(|(v, seen)| {
                    let gram = at(v, 2).transpose() * at(v, 2);
                    Reader { seen, answered: seen.dot(&gram), gram }
                })
                .collect();
            let sum = |t: &DMatrix<f64>| readers.iter().map(|r| noise(t, r.seen, &r.gram) / r.answered).sum::<f64>();
            let (to, from) = shared_basis(&readers).unwrap();
            assert!((&to * &from - DMatrix::identity(n, n)).abs().max() < 1e-8);
            let least = sum(&to);
            // Those of single readers, and others near and far.
            let mut others = vec![DMatrix::identity(n, n)];
            others.extend(readers.iter().map(|r| basis(r.seen, &r.gram).unwrap().0));
            others.extend((100..140).map(|seed| numbers(n, seed)));
            others.extend((200..300).map(|seed| (DMatrix::identity(n, n) + numbers(n, seed) * 0.1) * &to));
            for (i, t) in others.iter().enumerate() {
                assert!(sum(t) > least * 0.998, "{n}: {i}: {} {least}", sum(t));
            }
        }
    }

    #[test]
    fn streams_for_which_nothing_is_gained_stay() {
        // White, read alike in all directions: any other basis is as good at most.
        let one = DMatrix::identity(3, 3);
        let r = Reader { seen: &one, answered: 3.0, gram: one.clone() };
        assert!(shared_basis(&[r]).is_none());
        assert!(shared_basis(&[]).is_none());
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
