//! Operators answer nonsense with errors: never a panic, an overflow or a tensor that contradicts itself.
use super::*;
use half::{bf16, f16};
use nnq::ir::{
    DType, count,
    op::{
        AspectPolicy, AttentionAttrs, Binary, Cell, CoordMode, Direction, NearestMode, PadMode, RecurrentAttrs,
        Reduction, ResizeAttrs, ResizeMode, Scatter, Unary, Variadic,
    },
};
use std::panic::{AssertUnwindSafe, catch_unwind};

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % n
    }
    fn of<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())].clone()
    }
    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
    fn axis(&mut self) -> i64 {
        self.of(&[0, 1, 2, 3, -1, -2, -3, i64::MIN, i64::MAX])
    }

    fn shape(&mut self) -> Vec<usize> {
        if self.below(20) == 0 {
            return self.of(&[vec![0, 1 << 40, 1 << 40], vec![1, 0, 1 << 62], vec![1 << 40, 0]]);
        }
        let rank = self.below(5);
        (0..rank).map(|_| self.of(&[0, 1, 1, 2, 2, 3, 4])).collect()
    }

    fn number(&mut self) -> i64 {
        self.of(&[0, 0, 1, 1, 2, 2, 3, 4, -1, -1, -2, 7, 1 << 40, -(1 << 40), i64::MIN, i64::MAX])
    }

    fn real(&mut self) -> f32 {
        self.of(&[0.0, 0.5, 1.0, 1.0, 2.0, 3.0, -1.0, 1e-30, 1e30, f32::NAN, f32::INFINITY, f32::NEG_INFINITY])
    }

    fn filled(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        let n = count(shape).unwrap();
        macro_rules! ints {
            ($t:ty) => {
                Tensor::of(shape, (0..n).map(|_| self.number() as $t).collect())
            };
        }
        let reals: Vec<f32> = (0..n).map(|_| self.real()).collect();
        match dtype {
            DType::F32 => Tensor::of(shape, reals),
            DType::F64 => Tensor::of(shape, reals.into_iter().map(f64::from).collect()),
            DType::F16 => Tensor::of(shape, reals.into_iter().map(f16::from_f32).collect()),
            DType::BF16 => Tensor::of(shape, reals.into_iter().map(bf16::from_f32).collect()),
            DType::I8 => ints!(i8),
            DType::I16 => ints!(i16),
            DType::I32 => ints!(i32),
            DType::I64 => ints!(i64),
            DType::U8 => ints!(u8),
            DType::U16 => ints!(u16),
            DType::U32 => ints!(u32),
            DType::U64 => ints!(u64),
            DType::Bool => Tensor::from_bools(shape, &(0..n).map(|_| self.coin()).collect::<Vec<_>>()),
        }
    }

    fn dtype(&mut self) -> DType {
        use DType::{BF16, Bool, F16, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64};
        self.of(&[F32, F32, F32, F32, F64, F16, BF16, I8, I16, I32, I64, I64, U8, U16, U32, U64, Bool])
    }

    /// An input: often like the first one or a short list of integers, sometimes anything.
    fn input(&mut self, first: Option<&Tensor>) -> Option<Tensor> {
        let like = first.map_or(DType::F32, Tensor::dtype);
        Some(match self.below(12) {
            0 => return None,
            1 => {
                let (d, s) = (self.dtype(), self.shape());
                self.filled(d, &s)
            }
            2 | 3 => {
                let s = self.shape();
                self.filled(like, &s)
            }
            4 => self.filled(like, &[]),
            5 => self.filled(like, &first.map_or(vec![], |t| t.shape().to_vec())),
            6 => self.filled(DType::I64, &first.map_or(vec![], |t| t.shape().to_vec())),
            7 => self.filled(DType::I64, &[]),
            8 => self.filled(DType::F32, &[first.map_or(1, |t| t.shape().len())]),
            _ => {
                let n = first.map_or(1, |t| t.shape().len());
                let n = self.of(&[1, n, n, 2 * n]);
                self.filled(DType::I64, &[n])
            }
        })
    }

    fn op(&mut self) -> Op {
        let axis = self.axis();
        match self.below(40) {
            0 => Op::Unary(self.of(&[Unary::Abs, Unary::Neg, Unary::Exp, Unary::Round, Unary::Not, Unary::IsNaN])),
            1 | 2 => {
                let (left, fmod) = (self.coin(), self.coin());
                Op::Binary(self.of(&[
                    Binary::Add,
                    Binary::Div,
                    Binary::Mod { fmod },
                    Binary::Pow,
                    Binary::PRelu,
                    Binary::BitShift { left },
                    Binary::Less,
                    Binary::Equal,
                ]))
            }
            3 => Op::Variadic(self.of(&[Variadic::Max, Variadic::Mean, Variadic::Sum])),
            4 => Op::Clip,
            5 => Op::Where,
            6 => Op::Cast { to: self.dtype(), saturate: true },
            7 | 8 => {
                use Reduction::{L1, L2, LogSum, LogSumExp, Max, Mean, Min, Prod, Sum, SumSquare};
                let kind = self.of(&[L1, L2, LogSum, LogSumExp, Max, Mean, Min, Prod, Sum, SumSquare]);
                Op::Reduce { kind, keepdims: self.coin(), noop_with_empty_axes: self.coin() }
            }
            9 => Op::ArgMax { axis, keepdims: self.coin(), select_last: self.coin() },
            10 => Op::CumSum { exclusive: self.coin(), reverse: self.coin() },
            11 => Op::TopK { axis, largest: self.coin(), sorted: self.coin() },
            12 => Op::Concat { axis },
            13 => Op::Split { axis },
            14 => Op::Slice,
            15 | 16 => Op::Pad { mode: self.of(&[PadMode::Constant, PadMode::Edge, PadMode::Reflect, PadMode::Wrap]) },
            17 => Op::Reshape { allowzero: self.coin() },
            18 => Op::Flatten { axis },
            19 => Op::Transpose { perm: self.of(&[vec![], vec![1, 0], vec![0, 2, 1], vec![2, 2, 0], vec![9]]) },
            20 => self.of(&[Op::Squeeze, Op::Unsqueeze, Op::Expand, Op::Tile]),
            21 => Op::DepthToSpace { block: self.of(&[0, 1, 2, usize::MAX]), crd: self.coin() },
            22 => Op::SpaceToDepth { block: self.of(&[0, 1, 2, usize::MAX]) },
            23 => self.of(&[Op::Identity, Op::Dropout, Op::Size, Op::Shape { start: axis, end: Some(i64::MIN) }]),
            24 => Op::ConstantOfShape { value: std::sync::Arc::new(self.filled(DType::F32, &[1])) },
            25 => Op::Range,
            26 => Op::Trilu { upper: self.coin() },
            27 => Op::Gather { axis },
            28 => {
                let reduction = self.of(&[Scatter::Replace, Scatter::Add, Scatter::Min]);
                self.of(&[
                    Op::GatherElements { axis },
                    Op::ScatterElements { axis, reduction },
                    Op::ScatterNd { reduction },
                ])
            }
            29 => Op::GatherNd { batch_dims: self.of(&[0, 1, 2, usize::MAX]) },
            30 => Op::OneHot { axis },
            31 => self.of(&[
                Op::NonZero,
                Op::Compress { axis: None },
                Op::Compress { axis: Some(axis) },
                Op::ReverseSequence { batch_axis: axis, time_axis: 0 },
                Op::Hardmax { axis, flat: false },
                Op::Softmax { axis, flat: true },
                Op::LayerNormalization { axis, epsilon: 1e-5 },
                Op::RmsNormalization { axis, epsilon: 1e-5 },
            ]),
            32 => {
                let equation = self.of(&[
                    "ij,jk->ik",
                    "...ij,...jk",
                    "ii",
                    "i,i->",
                    "...",
                    "ij->ji",
                    "ab,ab,ab->b",
                    "i->j",
                    "1",
                    ",->",
                ]);
                Op::Einsum { equation: equation.into() }
            }
            33 | 34 => {
                let cells = [
                    Cell::Rnn,
                    Cell::Gru { linear_before_reset: self.coin() },
                    Cell::Lstm { input_forget: self.coin() },
                ];
                let directions = [Direction::Forward, Direction::Reverse, Direction::Bidirectional];
                Op::Recurrent(RecurrentAttrs {
                    direction: self.of(&directions),
                    hidden: self.of(&[0, 1, 2, usize::MAX]),
                    clip: self.of(&[None, Some(1.0)]),
                    batch_first: self.coin(),
                    ..RecurrentAttrs::new(self.of(&cells))
                })
            }
            35 | 36 => Op::Attention(AttentionAttrs {
                causal: self.coin(),
                q_heads: self.of(&[0, 1, 2, usize::MAX]),
                kv_heads: self.of(&[0, 1, 2]),
                softcap: self.of(&[0.0, 1.0]),
                left: self.of(&[None, Some(1), Some(usize::MAX)]),
                ..AttentionAttrs::default()
            }),
            37 => Op::RotaryEmbedding {
                interleaved: self.coin(),
                heads: self.of(&[0, 1, 2, usize::MAX]),
                size: self.of(&[0, 1, 2, usize::MAX]),
            },
            _ => Op::Resize(ResizeAttrs {
                mode: self.of(&[ResizeMode::Nearest, ResizeMode::Linear, ResizeMode::Cubic]),
                coord: self.of(&[
                    CoordMode::HalfPixel,
                    CoordMode::HalfPixelSymmetric,
                    CoordMode::PytorchHalfPixel,
                    CoordMode::AlignCorners,
                    CoordMode::Asymmetric,
                    CoordMode::TfCropAndResize,
                ]),
                nearest: self.of(&[NearestMode::Floor, NearestMode::RoundPreferCeil]),
                aspect: self.of(&[AspectPolicy::Stretch, AspectPolicy::NotLarger, AspectPolicy::NotSmaller]),
                cubic_a: self.real(),
                exclude_outside: self.coin(),
                extrapolation: self.real(),
                antialias: self.coin(),
                axes: self.of(&[vec![], vec![], vec![axis]]),
            }),
        }
    }
}

#[test]
fn nonsense_is_answered_with_errors() {
    let ctx = Ctx::new();
    let (mut done, mut refused, mut faults) = (0, 0, vec![]);
    for seed in 1..120_000u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        (0..8).for_each(|_| _ = dice.below(2));
        let op = dice.op();
        let mut inputs: Vec<Option<Tensor>> = vec![];
        for i in 0..1 + dice.below(4) {
            let input = if i == 0 && dice.below(30) > 0 {
                let (d, s) = (dice.dtype(), dice.shape());
                Some(dice.filled(d, &s))
            } else {
                dice.input(inputs.first().and_then(Option::as_ref))
            };
            inputs.push(input);
        }
        // Resize takes its sizes as the fourth input, with the third one absent.
        if matches!(op, Op::Resize(_)) && inputs.len() == 4 && dice.coin() {
            inputs[2] = None;
        }
        let x: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_ref).collect();
        let outputs = 1 + dice.below(3);
        match catch_unwind(AssertUnwindSafe(|| eval(&op, &x, outputs, &ctx))) {
            Ok(Ok(y)) => {
                done += 1;
                for t in y {
                    if count(t.shape()).ok() != Some(t.len()) {
                        faults.push(format!("{op:?} of {inputs:?} gives {t:?}"));
                    }
                    ctx.recycle(t);
                }
            }
            Ok(Err(e)) => {
                refused += 1;
                if e.kind() == nnq::ErrorKind::Internal {
                    faults.push(format!("{op:?} of {inputs:?}: {e}"));
                }
            }
            Err(_) => faults.push(format!("{op:?} of {inputs:?} panics")),
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults[..faults.len().min(20)].join("\n"));
    // Both kinds must be frequent, or the test tests nothing.
    assert!(done > 20_000 && refused > 20_000, "{done} done, {refused} refused");
}
