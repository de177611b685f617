//! Attributes of control flow.
use crate::ir::Graph;
use std::sync::Arc;

/// Graphs within an operator are closed: what they read from around them comes in as further inputs of the node, which are the last
/// inputs of the graph. So nothing but shape inference and the executors has to look inside.
#[derive(Clone, Debug)]
pub enum Control {
    /// Inputs: condition, then what either branch reads.
    If {
        /// Where the condition holds.
        then_branch: Arc<Graph>,
        /// Where it does not.
        else_branch: Arc<Graph>,
    },
    /// Inputs: the most rounds?, condition?, carried values, what the body reads. The body's inputs: round, condition, carried values, what it
    /// reads; its outputs: condition, carried values, results. Outputs: carried values, results (stacked along a new first axis).
    Loop {
        /// One round.
        body: Arc<Graph>,
        /// How many values go from round to round.
        carried: usize,
    },
    /// Inputs: states, sequences, what the body reads. The body's inputs: states, an element of each sequence, what it reads; its
    /// outputs: states, results. Outputs: states, results (stacked).
    Scan {
        /// One step.
        body: Arc<Graph>,
        /// For each sequence the axis it is taken apart along, and whether from the end.
        inputs: Vec<(i64, bool)>,
        /// For each result the axis it is stacked along, and whether the last comes first.
        outputs: Vec<(i64, bool)>,
    },
}

impl Control {
    /// The graphs within, with the names of the attributes that hold them.
    pub fn graphs(&self) -> Vec<(&'static str, &Arc<Graph>)> {
        match self {
            Self::If { then_branch, else_branch } => vec![("then_branch", then_branch), ("else_branch", else_branch)],
            Self::Loop { body, .. } | Self::Scan { body, .. } => vec![("body", body)],
        }
    }
    /// As [`Control::graphs`], to change them.
    pub fn graphs_mut(&mut self) -> Vec<(&'static str, &mut Arc<Graph>)> {
        match self {
            Self::If { then_branch, else_branch } => vec![("then_branch", then_branch), ("else_branch", else_branch)],
            Self::Loop { body, .. } | Self::Scan { body, .. } => vec![("body", body)],
        }
    }
    /// The first input of the node that the graphs read from around them.
    pub fn own_inputs(&self, states: usize) -> usize {
        match self {
            Self::If { .. } => 1,
            Self::Loop { carried, .. } => 2 + carried,
            Self::Scan { inputs, .. } => states + inputs.len(),
        }
    }
    /// How many states a Scan has; 0 for others.
    pub fn states(&self) -> usize {
        match self {
            Self::Scan { body, outputs, .. } => body.outputs.len().saturating_sub(outputs.len()),
            _ => 0,
        }
    }
    /// How many of the node's inputs, from the last, are what the graphs read from around them.
    pub fn captured(&self, node_inputs: usize) -> usize {
        node_inputs.saturating_sub(self.own_inputs(self.states()))
    }
}
