//! What memory a model takes.
use crate::engine::{Engine, Session, peak_memory};
use serde::Serialize;

/// What the process may hold besides the file and activations: the program itself, its threads, the plan.
const FIXED: u64 = 10_000_000;

/// Bytes of memory after loading and one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The model's file.
    pub file: Option<u64>,
    /// Packed weights of the integer engine.
    pub weights: Option<u64>,
    /// Where the integer engine holds codes.
    pub arena: Option<u64>,
    /// The largest sum of activations that the integer engine needs at the same time.
    pub live: Option<u64>,
    /// The most that the process has held at once; `None` where the system does not say.
    pub peak: Option<u64>,
    /// What it should hold at most: the file, 1.15 times the live activations and 10 MB.
    pub allowance: Option<u64>,
}

impl Memory {
    /// Of an engine that has run inputs of these shapes and whose process has done nothing else.
    pub(super) fn of(engine: &mut Engine, shapes: &[Vec<usize>]) -> Self {
        let file = engine.file_bytes();
        let session = match engine.session() {
            Session::Int(s) => Some(s.memory(shapes)),
            _ => None,
        };
        let live = session.map(|m| m.live as u64);
        Self {
            file,
            weights: session.map(|m| m.weights as u64),
            arena: session.map(|m| m.arena as u64),
            live,
            peak: peak_memory(),
            allowance: file.zip(live).map(|(file, live)| file + live * 115 / 100 + FIXED),
        }
    }

    /// Whether the process kept to its allowance, where both are known.
    pub fn is_within(&self) -> Option<bool> {
        self.peak.zip(self.allowance).map(|(peak, allowance)| peak <= allowance)
    }
}
