//! Floor 0 of nnq: low-precision kernels. Slices in, slices out; the only unsafe code of the
//! project; knows no tensor and no graph.
//!
//! Every kernel takes the instruction set to use as a value ([`Isa`]). The scalar code is the
//! specification; the vector code gives the same bits, for every shape and every input. The formulas are
//! in `docs/numerics.md`, their code in [`round`], the only file that rounds.
//!
//! Activations are unsigned bytes, channels last, without room between pixels, and with [`SLACK`] bytes
//! behind the last one. Signed codes are stored with 128 added to them and to their zero point.
//!
//! ```
//! use nnq_kernels::conv::{ConvGeom, Epilogue, Out, PackedConv, Requant, Scratch};
//! use nnq_kernels::{Isa, SLACK};
//!
//! // One row of three inputs times a 3x2 matrix, zero point of the inputs 10.
//! let geom = ConvGeom::matrix(1, 3, 2);
//! let packed = PackedConv::pack(Isa::best(), &geom, &[1, 2, 3, -1, 0, 1]);
//! let mut x = vec![11, 12, 13];
//! x.resize(3 + SLACK, 0);
//! let epilogue = Epilogue {
//!     bias: &[0, 100],
//!     w_zero: None,
//!     requant: Requant::None,
//!     zero: 0,
//!     lo: 0,
//!     hi: 255,
//! };
//! let mut acc = [0; 2];
//! packed.bind(&geom, 10, &epilogue).run(&x, 0..1, Out::I32(&mut acc), &mut Scratch::new());
//! assert_eq!(acc, [1 + 4 + 9, 100 - 1 + 3]);
//! ```
// Elsewhere only the scalar code runs until the machine's vectors have their file in `simd/`.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

pub mod conv;
pub mod depthwise;
pub mod dynamic;
pub mod eltwise;
pub mod float;
pub mod isa;
pub mod layout;
pub mod mmap;
pub mod pair;
pub mod peak;
pub mod pool;
pub mod resize;
pub mod round;
mod simd;
pub mod tape;
pub mod team;
pub mod wide;
mod widest;

pub use conv::SLACK;
pub use isa::Isa;
pub use widest::widest;
