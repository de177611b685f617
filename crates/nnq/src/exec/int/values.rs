//! What is known of a program's values before they have places.
use crate::{
    error::{Error, Result},
    exec::lower::{Program, Repr, Slot},
    ir::{Binding, Dim, Op, Shape, ValueId},
};

/// The shape of every value of the graph for these inputs.
pub(super) fn shapes(program: &Program, inputs: &[Vec<usize>]) -> Result<Vec<Option<Vec<usize>>>> {
    let mut graph = (*program.graph).clone();
    let mut binding = Binding::new();
    for (&v, given) in program.graph.inputs.iter().zip(inputs) {
        if let Some(declared) = &program.graph.value(v).shape {
            for (d, &n) in declared.0.iter().zip(given) {
                if let Dim::Sym(s) = d
                    && *binding.entry(s.to_string()).or_insert(n) != n
                {
                    return Err(Error::shape(format!("dimension '{s}' is {} and {n} at once", binding[s.as_ref()]))
                        .at(format!("input '{}'", graph.value(v).name)));
                }
            }
        }
        graph.value_mut(v).shape = Some(Shape::fixed(given));
    }
    let graph = crate::ir::infer::bind(&graph, &Binding::new())?;
    Ok((0..graph.value_count())
        .map(|i| graph.value(ValueId(i as u32)).shape.as_ref().and_then(Shape::as_fixed))
        .collect())
}

/// The last step that mentions each value; never for outputs.
pub(super) fn last_use(program: &Program) -> Vec<usize> {
    let mut last = vec![0; program.values.len()];
    for (i, s) in program.steps.iter().enumerate() {
        for slot in s.inputs.iter().chain(&s.outputs).flatten() {
            last[*slot] = i;
        }
    }
    for &slot in &program.outputs {
        last[slot] = usize::MAX;
    }
    last
}

/// Whether an operator keeps all numbers in their order.
pub(super) fn is_view(op: &Op) -> bool {
    matches!(op, Op::Reshape { .. } | Op::Flatten { .. } | Op::Squeeze | Op::Unsqueeze | Op::Identity)
}

/// Whether a slot holds codes.
pub(super) fn is_code(program: &Program, slot: Slot) -> bool {
    matches!(program.values[slot].repr, Repr::Code(_))
}
