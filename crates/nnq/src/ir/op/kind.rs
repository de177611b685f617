//! Kinds of operators that several floors treat alike.
use super::{Op, ResizeMode};

impl Op {
    /// Whether the operator only moves elements of its first input and never computes on them, so that it works on codes as
    /// on real numbers.
    pub fn is_move(&self) -> bool {
        match self {
            Self::Reshape { .. }
            | Self::Flatten { .. }
            | Self::Transpose { .. }
            | Self::Squeeze
            | Self::Unsqueeze
            | Self::Slice
            | Self::Split { .. }
            | Self::Gather { .. }
            | Self::Expand
            | Self::Tile
            | Self::Pad { .. }
            | Self::DepthToSpace { .. }
            | Self::SpaceToDepth { .. }
            | Self::Identity => true,
            Self::Resize(a) => a.mode == ResizeMode::Nearest,
            _ => false,
        }
    }
}
