//! Graph rewrites. Each is a function from a graph to a graph and leaves a graph that the verifier accepts.
//!
//! A pass never removes a value that carries a quantization annotation, and never computes through one: what is annotated rounds,
//! and that must stay visible. Names of graph inputs and outputs survive.
pub mod attend;
pub mod dead_code;
pub mod fold_batchnorm;
pub mod fold_constants;
pub mod pad_into_conv;
pub mod recognise;
pub mod remove_identity;
mod view;

use crate::{
    error::{At, Error, Result},
    ir::{Graph, Op, Tensor, infer, verify},
};

/// Applies one operator to tensors: operator, inputs, number of outputs. The float executor's `eval` is one.
pub type Eval<'a> = dyn Fn(&Op, &[Option<&Tensor>], usize) -> Result<Vec<Tensor>> + 'a;

/// More rounds than any graph needs: each but the last makes the graph smaller or simpler.
const MAX_ROUNDS: usize = 100;

/// Simplifies a graph without changing what it computes (up to the rounding of folded weights): folds constants and batch
/// normalisation, recognises composed functions, drops what does nothing. The passes run in a fixed order until none changes anything.
///
/// # Errors
/// Shapes that do not fit, an operator that `eval` refuses for constants, or a broken rule of the IR, with the name of the pass.
pub fn simplify(mut graph: Graph, eval: &Eval) -> Result<Graph> {
    type Pass<'a> = (&'a str, &'a dyn Fn(&mut Graph) -> Result<usize>);
    let passes: [Pass; 6] = [
        ("remove_identity", &remove_identity::run),
        ("fold_constants", &|g| fold_constants::run(g, eval)),
        ("recognise", &recognise::run),
        ("fold_batchnorm", &fold_batchnorm::run),
        ("pad_into_conv", &pad_into_conv::run),
        ("dead_code", &dead_code::run),
    ];
    verify(&graph)?;
    infer(&mut graph)?;
    for _ in 0..MAX_ROUNDS {
        let mut edits = 0;
        for (name, pass) in &passes {
            let place = || format!("pass '{name}'");
            let n = pass(&mut graph).at(place)?;
            if n > 0 {
                verify(&graph).at(place)?;
                infer(&mut graph).at(place)?;
            }
            edits += n;
        }
        if edits == 0 {
            return Ok(graph);
        }
    }
    Err(Error::internal(format!("the graph still changes after {MAX_ROUNDS} rounds of simplification")))
}
