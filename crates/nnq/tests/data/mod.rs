//! Tests of `nnq::data` against Pillow, NumPy, real data sets, and hostile files.

mod arrays;
mod folders;
mod images;
mod loader;
mod packed;
mod preprocessing;
mod real;
mod resize;
mod util;
