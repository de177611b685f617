//! Graph rewrites. Each is a function from a graph to a graph and leaves a graph that the verifier accepts.
