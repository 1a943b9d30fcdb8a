//! The grid that tokens lie on.

use std::fmt::{self, Display, Formatter};

/// Rows and columns of patch tokens; token `row · columns + column` lies at (row, column).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PatchGrid {
    /// Rows, top to bottom.
    pub rows: usize,
    /// Columns, left to right.
    pub columns: usize,
}

impl PatchGrid {
    /// A grid of `rows` by `columns`.
    pub fn new(rows: usize, columns: usize) -> Self {
        Self { rows, columns }
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.rows * self.columns
    }
}

impl Display for PatchGrid {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.rows, self.columns)
    }
}
