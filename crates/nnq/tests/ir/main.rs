//! The IR: inference, verifier, text form, rewrites.
#![allow(clippy::print_stdout)]

mod eval;
mod fold;
mod infer;
mod models;
mod recognise;
mod simplify;
mod text;
mod verify;
