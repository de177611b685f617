//! Tables: aligned columns under a header, with or without a terminal.
use comfy_table::{CellAlignment, LineStyle, TableStyle};
use std::fmt;

/// Where a column's content stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table that is as wide as its content.
pub struct Table(comfy_table::Table);

impl Table {
    /// A table with these columns. An empty header everywhere leaves the header out.
    pub fn new(columns: &[(&str, Side)]) -> Self {
        let line = LineStyle::none().fill('─').junction('─');
        let mut table = comfy_table::Table::new();
        table.load_style(TableStyle::new().header_separator(line));
        if columns.iter().any(|(name, _)| !name.is_empty()) {
            table.set_header(columns.iter().map(|(name, _)| *name));
        } else {
            // Makes the columns exist, so that they can be aligned.
            table.add_row(columns.iter().map(|(name, _)| *name));
        }
        for (i, (_, side)) in columns.iter().enumerate() {
            let alignment = if *side == Side::Left { CellAlignment::Left } else { CellAlignment::Right };
            if let Some(column) = table.column_mut(i) {
                column.set_cell_alignment(alignment);
            }
        }
        Self(table)
    }
    /// Adds a row.
    pub fn row<S: ToString>(&mut self, cells: impl IntoIterator<Item = S>) -> &mut Self {
        self.0.add_row(cells.into_iter().map(|c| comfy_table::Cell::new(c.to_string())));
        self
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.0.to_string().lines().filter(|l| !l.trim().is_empty()) {
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned() {
        let mut table = Table::new(&[("layer", Side::Left), ("ms", Side::Right)]);
        table.row(["conv1", "0.5"]).row(["b", "12.25"]);
        assert_eq!(table.to_string(), " layer      ms\n───────────────\n conv1     0.5\n b       12.25\n");
        let mut plain = Table::new(&[("", Side::Left), ("", Side::Right)]);
        plain.row(["nodes", "7"]);
        assert_eq!(plain.to_string(), " nodes   7\n");
    }
}
