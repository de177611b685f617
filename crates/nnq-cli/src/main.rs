//! The `nnq` command: argument parsing and printing only.
fn main() {}
