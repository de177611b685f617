//! The IR: inference, verifier, text form, rewrites.

mod eval;
mod fold;
mod infer;
mod models;
mod recognise;
mod simplify;
mod text;
mod verify;
