//! Tests of `nnq::data` against Pillow, NumPy, real data sets, and hostile files.
#![allow(clippy::print_stdout)]

mod arrays;
mod folders;
mod images;
mod loader;
mod packed;
mod preprocessing;
mod real;
mod resize;
mod util;
