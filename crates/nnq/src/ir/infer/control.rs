//! If, Loop, Scan: inference within.
use super::{
    fact::{Args, Fact, axis, same},
    facts_from,
};
use crate::{
    error::{At, Error, Result},
    ir::{DType, Dim, Graph, op::Control},
};
use std::sync::Arc;

/// What is known of a graph's outputs, given what is known of its inputs.
fn within(name: &str, graph: &Arc<Graph>, inputs: &[Fact]) -> Result<Vec<Fact>> {
    if graph.inputs.len() != inputs.len() {
        let (has, given) = (graph.inputs.len(), inputs.len());
        return Err(Error::shape(format!("'{name}' has {has} inputs, it is given {given}")));
    }
    let facts = facts_from(graph, inputs).at(|| format!("in '{name}'"))?;
    Ok(graph.outputs.iter().map(|v| facts[v.0 as usize].clone()).collect())
}

/// What holds of a value that is one or the other.
fn either(a: &Fact, b: &Fact) -> Result<Fact> {
    if let (Some(a), Some(b)) = (a.dtype, b.dtype)
        && a != b
    {
        return Err(Error::shape(format!("a value is of {a} or of {b}")));
    }
    let dims = match (a.dims(), b.dims()) {
        (Some(a), Some(b)) if a.len() == b.len() => {
            Some(a.iter().zip(b).map(|(a, b)| if a == b { a.clone() } else { Dim::Unknown }).collect())
        }
        _ => None,
    };
    Ok(Fact::new(a.dtype.or(b.dtype), dims))
}

fn input(x: &Args, i: usize) -> Fact {
    x.get(i).cloned().unwrap_or_default()
}

pub(super) fn run(control: &Control, x: &Args) -> Result<Vec<Fact>> {
    let captured = || (x.x.len() - control.captured(x.x.len())..x.x.len()).map(|i| input(x, i));
    match control {
        Control::If { then_branch, else_branch } => {
            if let Some(d) = x.dtype(0).filter(|&d| d != DType::Bool) {
                return Err(Error::shape(format!("a condition of {d}, expected bool")));
            }
            let inputs: Vec<Fact> = captured().collect();
            let (a, b) =
                match (within("then_branch", then_branch, &inputs), within("else_branch", else_branch, &inputs)) {
                    (Err(e), Err(_)) => return Err(e),
                    // A branch that cannot run for these shapes is not taken for them.
                    (Ok(a), Err(_)) | (Err(_), Ok(a)) => (a.clone(), a),
                    (Ok(a), Ok(b)) => (a, b),
                };
            if a.len() != b.len() {
                return Err(Error::shape(format!("branches of {} and {} outputs", a.len(), b.len())));
            }
            a.iter().zip(&b).map(|(a, b)| either(a, b)).collect()
        }
        Control::Loop { body, carried } => {
            let round = Fact::new(Some(DType::I64), Some(Vec::new()));
            let condition = Fact::new(Some(DType::Bool), None);
            let start: Vec<Fact> = (2..2 + carried).map(|i| input(x, i)).collect();
            let mut states = start.clone();
            for f in &mut states {
                (f.ints, f.constant) = (None, None);
            }
            // Shapes that a round changes are not known; one that changed nothing else settles it.
            for _ in 0..=2 {
                let inputs: Vec<Fact> =
                    [round.clone(), condition.clone()].into_iter().chain(states.clone()).chain(captured()).collect();
                let out = within("body", body, &inputs)?;
                if out.len() < 1 + carried {
                    return Err(Error::shape(format!("a body of {} outputs that carries {carried} values", out.len())));
                }
                let next: Vec<Fact> = states.iter().zip(&out[1..]).map(|(a, b)| either(a, b)).collect::<Result<_>>()?;
                let settled = next.iter().zip(&states).all(|(a, b)| a.shape == b.shape && a.dtype == b.dtype);
                if settled {
                    let stacked = out[1 + carried..].iter().map(|f| stacked(f, 0, Dim::Unknown));
                    return next.into_iter().map(Ok).chain(stacked).collect();
                }
                states = next;
            }
            Ok(vec![Fact::default(); x.outputs])
        }
        Control::Scan { body, inputs: sequences, outputs } => {
            let states = control.states();
            let mut length = Dim::Unknown;
            let mut given: Vec<Fact> = (0..states).map(|i| input(x, i)).collect();
            for f in &mut given {
                (f.ints, f.constant) = (None, None);
            }
            for (i, (a, _)) in sequences.iter().enumerate() {
                let f = input(x, states + i);
                let dims = match f.dims() {
                    None => None,
                    Some(d) => {
                        let a = axis(*a, d.len())?;
                        length = same(&length, &d[a])?;
                        let mut d = d.to_vec();
                        d.remove(a);
                        Some(d)
                    }
                };
                given.push(Fact::new(f.dtype, dims));
            }
            given.extend(captured());
            let out = within("body", body, &given)?;
            if out.len() != states + outputs.len() {
                return Err(Error::shape(format!("a body of {} outputs", out.len())));
            }
            let results = out[states..].iter().zip(outputs).map(|(f, (a, _))| stacked(f, *a, length.clone()));
            out[..states].iter().zip(&given).map(|(a, b)| either(a, b)).chain(results).collect()
        }
    }
}

fn stacked(f: &Fact, a: i64, length: Dim) -> Result<Fact> {
    let dims = match f.dims() {
        None => None,
        Some(d) => {
            let mut d = d.to_vec();
            d.insert(axis(a, d.len() + 1)?, length);
            Some(d)
        }
    };
    Ok(Fact::new(f.dtype, dims))
}
