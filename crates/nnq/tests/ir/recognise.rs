//! Functions written out in primitives, in many writings: each becomes one node that computes the same.
use super::eval::{difference, eval, random, run};
use nnq::ir::{DType, Graph, GraphBuilder, Op, QParams, QType, Tensor, ValueId, op::*, pass::simplify};
use std::sync::Arc;

/// Writes formulas: `f.mul(x, 2.0)`.
struct Formula(GraphBuilder, usize);

trait Term {
    fn value(self, f: &mut Formula) -> ValueId;
}
impl Term for ValueId {
    fn value(self, _: &mut Formula) -> ValueId {
        self
    }
}
impl Term for f64 {
    /// Constants take turns between rank 0 and one element.
    fn value(self, f: &mut Formula) -> ValueId {
        f.1 += 1;
        let shape: &[usize] = if f.1.is_multiple_of(2) { &[1] } else { &[] };
        f.0.constant("k", Tensor::of(shape, vec![self as f32]))
    }
}

impl Formula {
    fn op(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        self.0.op("n", op, inputs)
    }
    fn two(&mut self, b: Binary, x: impl Term, y: impl Term) -> ValueId {
        let (x, y) = (x.value(self), y.value(self));
        self.op(Op::Binary(b), &[x, y])
    }
    fn add(&mut self, x: impl Term, y: impl Term) -> ValueId {
        self.two(Binary::Add, x, y)
    }
    fn sub(&mut self, x: impl Term, y: impl Term) -> ValueId {
        self.two(Binary::Sub, x, y)
    }
    fn mul(&mut self, x: impl Term, y: impl Term) -> ValueId {
        self.two(Binary::Mul, x, y)
    }
    fn div(&mut self, x: impl Term, y: impl Term) -> ValueId {
        self.two(Binary::Div, x, y)
    }
    fn pow(&mut self, x: impl Term, y: impl Term) -> ValueId {
        self.two(Binary::Pow, x, y)
    }
    fn un(&mut self, u: Unary, x: ValueId) -> ValueId {
        self.op(Op::Unary(u), &[x])
    }
    fn many(&mut self, v: Variadic, x: impl Term, y: impl Term) -> ValueId {
        let (x, y) = (x.value(self), y.value(self));
        self.op(Op::Variadic(v), &[x, y])
    }
    fn clip(&mut self, x: ValueId, lo: f64, hi: f64) -> ValueId {
        let (lo, hi) = (self.0.scalar("lo", lo as f32), self.0.scalar("hi", hi as f32));
        self.op(Op::Clip, &[x, lo, hi])
    }
    fn mean(&mut self, x: ValueId, axes: &[i64]) -> ValueId {
        let a = self.0.ints("axes", axes);
        self.op(Op::Reduce { kind: Reduction::Mean, keepdims: true, noop_with_empty_axes: false }, &[x, a])
    }
}

fn build(write: impl FnOnce(&mut Formula, ValueId) -> ValueId) -> Graph {
    let mut f = Formula(GraphBuilder::new("f"), 0);
    let x = f.0.input("x", DType::F32, "2,3,8");
    let y = write(&mut f, x);
    f.0.output(y);
    f.0.finish().unwrap()
}

fn ops(g: &Graph) -> Vec<String> {
    g.nodes()
        .map(|(_, n)| match &n.op {
            Op::Unary(u) => format!("{u:?}"),
            op => op.name().to_string(),
        })
        .collect()
}

/// The formula becomes the one operator, and computes the same for inputs in about [-8, 8].
fn becomes(want: &str, rows: Vec<(&str, Graph)>) {
    let mut bad = Vec::new();
    for (what, g) in rows {
        let s = simplify(g.clone(), &eval).unwrap();
        let x = Tensor::of(&[2, 3, 8], random(&[48], 4).to_f32s().iter().map(|x| 8.0 * x).collect());
        let d = difference(&run(&g, std::slice::from_ref(&x))[0], &run(&s, &[x])[0]);
        // 0.16667 and 1.4142 in the place of the exact constants deviate by 2e-5.
        if ops(&s) != [want] || d > 4e-5 {
            bad.push(format!("{what}: {:?}, differs by {d}", ops(&s)));
        }
    }
    assert!(bad.is_empty(), "expected {want}\n{}", bad.join("\n"));
}

fn g(write: impl FnOnce(&mut Formula, ValueId) -> ValueId) -> Graph {
    build(write)
}

#[test]
fn clip() {
    use Variadic::{Max, Min};
    let rows = vec![
        (
            "min(max(x, 0), 6)",
            g(|f, x| {
                let m = f.many(Max, x, 0.0);
                f.many(Min, m, 6.0)
            }),
        ),
        (
            "min(6, max(0, x))",
            g(|f, x| {
                let m = f.many(Max, 0.0, x);
                f.many(Min, 6.0, m)
            }),
        ),
        (
            "max(min(x, 6), 0)",
            g(|f, x| {
                let m = f.many(Min, x, 6.0);
                f.many(Max, m, 0.0)
            }),
        ),
        (
            "min(relu(x), 6)",
            g(|f, x| {
                let m = f.un(Unary::Relu, x);
                f.many(Min, m, 6.0)
            }),
        ),
    ];
    for (_, g) in &rows {
        let s = simplify(g.clone(), &eval).unwrap();
        let (_, n) = s.nodes().next().unwrap();
        let bound = |i: usize| s.constant(n.inputs[i].unwrap()).unwrap().to_f32s()[0];
        assert_eq!((bound(1), bound(2)), (0.0, 6.0));
    }
    becomes("Clip", rows);
    becomes("Relu", vec![("max(x, 0)", g(|f, x| f.many(Max, x, 0.0)))]);
}

#[test]
fn hard_swish() {
    let h = || Unary::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 };
    let c = |f: &mut Formula, x: ValueId| {
        let a = f.add(x, 3.0);
        f.clip(a, 0.0, 6.0)
    };
    becomes(
        "HardSwish",
        vec![
            (
                "x * (clip / 6)",
                g(|f, x| {
                    let c = c(f, x);
                    let d = f.div(c, 6.0);
                    f.mul(x, d)
                }),
            ),
            (
                "(x * clip) / 6",
                g(|f, x| {
                    let c = c(f, x);
                    let d = f.mul(c, x);
                    f.div(d, 6.0)
                }),
            ),
            (
                "x * (clip * 0.16667)",
                g(|f, x| {
                    let c = c(f, x);
                    let d = f.mul(0.166_67, c);
                    f.mul(d, x)
                }),
            ),
            (
                "(x / 6) * clip",
                g(|f, x| {
                    let c = c(f, x);
                    let d = f.div(x, 6.0);
                    f.mul(d, c)
                }),
            ),
            (
                "x * hard_sigmoid(x)",
                g(|f, x| {
                    let s = f.un(h(), x);
                    f.mul(x, s)
                }),
            ),
            (
                "hard_sigmoid(x) * x",
                g(|f, x| {
                    let s = f.un(h(), x);
                    f.mul(s, x)
                }),
            ),
            (
                "relu6 by min and max",
                g(|f, x| {
                    let a = f.add(3.0, x);
                    let m = f.many(Variadic::Max, a, 0.0);
                    let m = f.many(Variadic::Min, m, 6.0);
                    let d = f.div(m, 6.0);
                    f.mul(x, d)
                }),
            ),
            (
                "x * clip(x / 6 + 0.5, 0, 1)",
                g(|f, x| {
                    let d = f.div(x, 6.0);
                    let a = f.add(d, 0.5);
                    let c = f.clip(a, 0.0, 1.0);
                    f.mul(c, x)
                }),
            ),
            (
                "x - (-3)",
                g(|f, x| {
                    let a = f.sub(x, -3.0);
                    let c = f.clip(a, 0.0, 6.0);
                    let d = f.div(c, 6.0);
                    f.mul(x, d)
                }),
            ),
        ],
    );
    becomes(
        "HardSigmoid { alpha: 0.16666667, beta: 0.5 }",
        vec![(
            "clip / 6",
            g(|f, x| {
                let c = c(f, x);
                f.div(c, 6.0)
            }),
        )],
    );
}

#[test]
fn swish() {
    becomes(
        "Swish { alpha: 1.0 }",
        vec![
            (
                "x * sigmoid(x)",
                g(|f, x| {
                    let s = f.un(Unary::Sigmoid, x);
                    f.mul(x, s)
                }),
            ),
            (
                "sigmoid(x) * x",
                g(|f, x| {
                    let s = f.un(Unary::Sigmoid, x);
                    f.mul(s, x)
                }),
            ),
        ],
    );
    becomes(
        "Swish { alpha: 1.702 }",
        vec![(
            "quick gelu",
            g(|f, x| {
                let a = f.mul(1.702, x);
                let s = f.un(Unary::Sigmoid, a);
                f.mul(x, s)
            }),
        )],
    );
}

/// To five digits, as some exporters write constants.
fn rounded(x: f64) -> f64 {
    format!("{x:.5}").parse().unwrap()
}

#[test]
fn gelu() {
    let root = std::f64::consts::SQRT_2;
    let erf = |f: &mut Formula, x: ValueId| {
        let d = f.div(x, root);
        f.un(Unary::Erf, d)
    };
    becomes(
        "Gelu { tanh: false }",
        vec![
            (
                "x * (1 + erf) * 0.5",
                g(|f, x| {
                    let e = erf(f, x);
                    let a = f.add(e, 1.0);
                    let m = f.mul(x, a);
                    f.mul(m, 0.5)
                }),
            ),
            (
                "0.5 * x * (1 + erf)",
                g(|f, x| {
                    let e = erf(f, x);
                    let a = f.add(1.0, e);
                    let m = f.mul(0.5, x);
                    f.mul(m, a)
                }),
            ),
            (
                "x * (0.5 * (1 + erf))",
                g(|f, x| {
                    let e = erf(f, x);
                    let a = f.add(e, 1.0);
                    let m = f.mul(a, 0.5);
                    f.mul(x, m)
                }),
            ),
            (
                "x * (0.5 + 0.5 erf)",
                g(|f, x| {
                    let e = erf(f, x);
                    let m = f.mul(0.5, e);
                    let a = f.add(m, 0.5);
                    f.mul(a, x)
                }),
            ),
            (
                "x * 0.70711",
                g(|f, x| {
                    let d = f.mul(x, rounded(std::f64::consts::FRAC_1_SQRT_2));
                    let e = f.un(Unary::Erf, d);
                    let a = f.add(e, 1.0);
                    let m = f.mul(x, a);
                    f.div(m, 2.0)
                }),
            ),
        ],
    );
    let k = (2.0 / std::f64::consts::PI).sqrt();
    let finish = |f: &mut Formula, x: ValueId, u: ValueId| {
        let t = f.un(Unary::Tanh, u);
        let a = f.add(t, 1.0);
        let m = f.mul(x, a);
        f.mul(m, 0.5)
    };
    becomes(
        "Gelu { tanh: true }",
        vec![
            (
                "pow 3",
                g(|f, x| {
                    let c = f.pow(x, 3.0);
                    let c = f.mul(0.044_715, c);
                    let s = f.add(x, c);
                    let u = f.mul(s, k);
                    finish(f, x, u)
                }),
            ),
            (
                "x * x * x",
                g(|f, x| {
                    let c = f.mul(x, x);
                    let c = f.mul(c, x);
                    let c = f.mul(c, 0.044_715);
                    let s = f.add(c, x);
                    let u = f.mul(0.797_884_6, s);
                    finish(f, x, u)
                }),
            ),
            (
                "x * (1 + k x x)",
                g(|f, x| {
                    let c = f.mul(x, x);
                    let c = f.mul(c, 0.044_715);
                    let s = f.add(1.0, c);
                    let u = f.mul(x, s);
                    let u = f.mul(u, k);
                    finish(f, x, u)
                }),
            ),
            (
                "0.5 x first",
                g(|f, x| {
                    let h = f.mul(0.5, x);
                    let c = f.pow(x, 3.0);
                    let c = f.mul(c, 0.044_715);
                    let s = f.add(x, c);
                    let u = f.mul(k, s);
                    let t = f.un(Unary::Tanh, u);
                    let a = f.add(1.0, t);
                    f.mul(h, a)
                }),
            ),
        ],
    );
}

fn weight(f: &mut Formula, shape: &[usize], seed: u64) -> ValueId {
    f.0.constant("w", random(shape, seed))
}

#[test]
fn layer_norm() {
    let norm = |f: &mut Formula, x: ValueId, axes: &[i64], twice: bool, square: bool, reciprocal: bool| {
        let m = f.mean(x, axes);
        let d = f.sub(x, m);
        let e = if twice { f.sub(x, m) } else { d };
        let s = if square { f.mul(e, e) } else { f.pow(e, 2.0) };
        let v = f.mean(s, axes);
        let v = f.add(v, 1e-5);
        let r = f.un(Unary::Sqrt, v);
        if reciprocal {
            let r = f.un(Unary::Reciprocal, r);
            f.mul(r, d)
        } else {
            f.div(d, r)
        }
    };
    becomes(
        "LayerNormalization",
        vec![
            (
                "pow, div",
                g(|f, x| {
                    let n = norm(f, x, &[-1], false, false, false);
                    let (a, b) = (weight(f, &[8], 1), weight(f, &[8], 2));
                    let n = f.mul(n, a);
                    f.add(n, b)
                }),
            ),
            (
                "mul, reciprocal, swapped",
                g(|f, x| {
                    let n = norm(f, x, &[2], false, true, true);
                    let (a, b) = (weight(f, &[8], 1), weight(f, &[1, 8], 2));
                    let n = f.mul(a, n);
                    f.add(b, n)
                }),
            ),
            (
                "twice",
                g(|f, x| {
                    let n = norm(f, x, &[-1], true, false, false);
                    let (a, b) = (weight(f, &[8], 1), weight(f, &[8], 2));
                    let n = f.mul(n, a);
                    f.add(n, b)
                }),
            ),
            (
                "two axes",
                g(|f, x| {
                    let n = norm(f, x, &[1, 2], false, false, false);
                    let (a, b) = (weight(f, &[3, 8], 1), weight(f, &[3, 8], 2));
                    let n = f.mul(n, a);
                    f.add(n, b)
                }),
            ),
            (
                "no bias",
                g(|f, x| {
                    let n = norm(f, x, &[-1], false, false, false);
                    let a = weight(f, &[8], 1);
                    f.mul(n, a)
                }),
            ),
            ("neither", g(|f, x| norm(f, x, &[-1], false, false, false))),
        ],
    );
    // Over the middle axis it is another function.
    let s = simplify(g(|f, x| norm(f, x, &[1], false, false, false)), &eval).unwrap();
    assert!(!ops(&s).contains(&"LayerNormalization".to_string()));
}

#[test]
fn a_scaled_swish_keeps_its_scale() {
    let g = g(|f, x| {
        let s = f.un(Unary::Sigmoid, x);
        let m = f.mul(x, s);
        f.mul(m, 2.0)
    });
    assert_eq!(ops(&simplify(g, &eval).unwrap()), ["Swish { alpha: 1.0 }", "Mul"]);
}

/// Nearly the pattern is not the pattern.
#[test]
fn near_misses_stay() {
    let rows = vec![
        (
            "another constant",
            g(|f, x| {
                let a = f.add(x, 3.01);
                let c = f.clip(a, 0.0, 6.0);
                let d = f.div(c, 6.0);
                f.mul(x, d)
            }),
        ),
        (
            "another gate",
            g(|f, x| {
                let y = f.un(Unary::Neg, x);
                let s = f.un(Unary::Sigmoid, y);
                f.mul(x, s)
            }),
        ),
        (
            "erf of x",
            g(|f, x| {
                let e = f.un(Unary::Erf, x);
                let a = f.add(e, 1.0);
                let m = f.mul(x, a);
                f.mul(m, 0.5)
            }),
        ),
        (
            "bounds crossed",
            g(|f, x| {
                let m = f.many(Variadic::Max, x, 7.0);
                f.many(Variadic::Min, m, 6.0)
            }),
        ),
    ];
    for (what, g) in rows {
        let s = simplify(g.clone(), &eval).unwrap();
        assert_eq!(ops(&s).len(), ops(&g).len(), "{what}: {:?}", ops(&s));
    }
}

/// An intermediate value that is annotated, read elsewhere or an output keeps the pattern apart.
#[test]
fn open_patterns_stay() {
    for what in 0..4 {
        let mut f = Formula(GraphBuilder::new("f"), 0);
        let x = f.0.input("x", DType::F32, "2,3,8");
        let s = f.un(Unary::Sigmoid, x);
        let y = f.mul(x, s);
        f.0.output(y);
        match what {
            1 => f.0.graph().value_mut(s).quant = Some(Arc::new(QParams::tensor(QType::U8, 0.1, 0))),
            2 => _ = f.0.output(s),
            3 => {
                let r = f.un(Unary::Relu, s);
                f.0.output(r);
            }
            _ => f.0.graph().value_mut(y).quant = Some(Arc::new(QParams::tensor(QType::U8, 0.1, 0))),
        }
        let s = simplify(f.0.finish().unwrap(), &eval).unwrap();
        assert_eq!(ops(&s).contains(&"Swish { alpha: 1.0 }".to_string()), what == 0, "{what}");
        assert_eq!(s.values().filter(|v| v.1.quant.is_some()).count(), usize::from(what < 2));
    }
}
