//! Tables: aligned on the terminal, comma-separated in files.

use std::path::Path;

use anyhow::{Result, ensure};
use realign::files::write_whole;

/// Rows of text under a header, all with as many cells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Names of the columns.
    pub header: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new<S: Into<String>>(header: impl IntoIterator<Item = S>) -> Self {
        Self { header: header.into_iter().map(Into::into).collect(), rows: vec![] }
    }

    /// Columns side by side: text to the left, numbers to the right.
    pub fn to_text(&self) -> String {
        let lines = || std::iter::once(&self.header).chain(&self.rows);
        let length = |cell: &String| cell.chars().count();
        let width = |column: usize| lines().filter_map(|line| line.get(column)).map(length).max().unwrap_or(0);
        let is_number = |cell: &String| cell.starts_with(|c: char| c.is_ascii_digit() || "-−±".contains(c));
        let is_right = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).all(is_number);
        let columns: Vec<_> = (0..self.header.len()).map(|column| (width(column), is_right(column))).collect();
        let line = |cells: &Vec<String>| {
            let padded = cells.iter().zip(&columns).map(|(cell, (width, is_right))| {
                let space = " ".repeat(width.saturating_sub(length(cell)));
                if *is_right { space + cell } else { cell.clone() + &space }
            });
            padded.collect::<Vec<_>>().join("  ").trim_end().to_string() + "\n"
        };
        lines().map(line).collect()
    }

    /// The table as CSV; cells with commas or quotes are quoted.
    pub fn to_csv(&self) -> String {
        let quoted = |cell: &String| match cell.contains([',', '"', '\n']) {
            true => format!("\"{}\"", cell.replace('"', "\"\"")),
            false => cell.clone(),
        };
        let lines = std::iter::once(&self.header).chain(&self.rows);
        lines.map(|cells| cells.iter().map(quoted).collect::<Vec<_>>().join(",") + "\n").collect()
    }

    /// Writes [`to_csv`](Self::to_csv).
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write_csv(&self, path: &Path) -> Result<()> {
        write_whole(path, self.to_csv().as_bytes())
    }
}

/// Cells of the lines of a CSV text; quotes may hold commas, quotes and line breaks.
pub fn read_csv(text: &str) -> Result<Vec<Vec<String>>> {
    let (mut lines, mut line, mut cell, mut is_quoted) = (vec![], vec![], String::new(), false);
    let mut letters = text.chars().filter(|letter| *letter != '\r').peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if is_quoted && letters.peek() == Some(&'"') => cell.extend(letters.next()),
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => line.push(std::mem::take(&mut cell)),
            '\n' if !is_quoted => {
                line.push(std::mem::take(&mut cell));
                lines.push(std::mem::take(&mut line));
            }
            letter => cell.push(letter),
        }
    }
    ensure!(!is_quoted, "a quote is opened and never closed");
    if !cell.is_empty() || !line.is_empty() {
        line.push(cell);
        lines.push(line);
    }
    lines.retain(|line| line.iter().any(|cell| !cell.trim().is_empty()));
    Ok(lines)
}

/// A number with as many digits after the point; `-` for NaN.
pub fn number(value: f64, digits: usize) -> String {
    if value.is_nan() { "-".into() } else { format!("{value:.digits$}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(["encoder", "lds"]);
        table.rows = vec![vec!["hog".into(), "0.25".into()], vec!["a, \"b\"".into(), "-12.5".into()]];
        table
    }

    #[test]
    fn numbers_stand_to_the_right_and_text_to_the_left() {
        assert_eq!(table().to_text(), "encoder    lds\nhog       0.25\na, \"b\"   -12.5\n");
    }

    #[test]
    fn csv_survives_its_own_reader() {
        let lines = read_csv(&table().to_csv()).unwrap();
        assert_eq!(lines, [table().header, table().rows[0].clone(), table().rows[1].clone()]);
        assert_eq!(read_csv("a,b\r\n\r\n1,\"x\ny\"").unwrap(), [["a", "b"], ["1", "x\ny"]]);
        assert!(read_csv("a,\"b\n1,2").is_err());
    }
}
