//! Every kernel on every instruction set against formulas written from `docs/numerics.md` alone, on drawn cases, with
//! tolerance 0. What surrounds an output must stay as it was.
//!
//! `NNQ_CASES` is the number of cases of each family, `NNQ_FIRST_CASE` the number of the first, `NNQ_ISA` the only
//! instruction set to test. A failure names the case.
#![allow(clippy::print_stderr)]
mod draw;
mod elements;
mod integers;
mod model;
mod pool;
mod product;
mod resize;
mod spec;
mod tape;

use draw::Draw;
use nnq_kernels::{Isa, conv::Scratch};
use std::{
    fmt::Debug,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// What all cases of a family share. The memory that kernels keep between calls is never renewed: nothing may depend on it.
struct Bench {
    isas: Vec<Isa>,
    scratch: Scratch,
    /// The parameters of the case that runs.
    what: String,
}

impl Bench {
    fn new() -> Bench {
        let forced = std::env::var_os("NNQ_ISA").map(|_| Isa::from_env().unwrap_or_else(|e| panic!("{e}")));
        let (have, lack): (Vec<Isa>, Vec<Isa>) =
            Isa::all().iter().partition(|isa| forced.map_or(isa.is_supported(), |only| only == **isa));
        for isa in lack {
            eprintln!("NOT TESTED: the instruction set {isa}");
        }
        Bench { isas: have, scratch: Scratch::new(), what: String::new() }
    }

    /// Says what the case is, before it runs.
    fn note(&mut self, what: impl Debug) {
        self.what = format!("{what:?}");
    }
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is no number")))
}

/// Runs the cases of a family; by default `cases` of them.
fn explore(family: &str, cases: u64, case: fn(&mut Draw, &mut Bench) -> Result<(), String>) {
    let first = number("NNQ_FIRST_CASE").unwrap_or(0);
    let cases = number("NNQ_CASES").unwrap_or(cases);
    let mut bench = Bench::new();
    for i in first..first + cases {
        bench.what.clear();
        let fault = match catch_unwind(AssertUnwindSafe(|| case(&mut Draw::new(family, i), &mut bench))) {
            Ok(Ok(())) => continue,
            Ok(Err(fault)) => fault,
            Err(panic) => format!("panic: {:?}", panic.downcast_ref::<String>()),
        };
        panic!("{fault}\n{}\nagain: NNQ_FIRST_CASE={i} NNQ_CASES=1 and the test {family}", bench.what);
    }
    let names: Vec<&str> = bench.isas.iter().map(|isa| isa.name()).collect();
    eprintln!("{family}: {cases} cases from {first} on, each on {}", names.join(", "));
}

/// The first difference.
fn same<T: Debug + PartialEq>(isa: Isa, got: &[T], want: &[T]) -> Result<(), String> {
    assert_eq!(got.len(), want.len());
    match got.iter().zip(want).position(|(got, want)| got != want) {
        None => Ok(()),
        Some(i) => Err(format!("{isa}: element {i} of {} is {:?}, not {:?}", want.len(), got[i], want[i])),
    }
}

#[test]
fn products() {
    explore("products", 400, product::case);
}

#[test]
fn depthwise_products() {
    explore("depthwise_products", 400, product::depthwise_case);
}

#[test]
fn pools() {
    explore("pools", 400, pool::case);
}

#[test]
fn resizes() {
    explore("resizes", 300, resize::case);
}

#[test]
fn elements() {
    explore("elements", 400, elements::case);
}

#[test]
fn layouts() {
    explore("layouts", 400, elements::layout_case);
}

#[test]
fn tapes() {
    explore("tapes", 150, tape::case);
}
