//! Properties of encoders against the numbers of the runs that align with them.

use anyhow::Result;
use realign::eval::{Correlation, correlation};

use super::Findings;
use super::block::{Block, Picture};
use crate::plot::{Panel, scatter_chart};
use crate::table::{Table, number};

/// A property against a number over the rows of a column.
struct Found {
    x: String,
    column: Option<String>,
    paper: String,
    /// Encoder, property, number.
    points: Vec<(String, f64, f64)>,
    line: Option<Correlation>,
}

/// The paper's correlations beside ours, with a plot of each that can be taken; nothing for tables without.
///
/// # Errors
/// Drawing fails.
pub fn blocks(findings: &Findings<'_>) -> Result<Vec<Block>> {
    let table = &findings.subject.table;
    if table.correlations.is_empty() {
        return Ok(vec![]);
    }
    let y = findings.metric.clone().unwrap_or("fid".into());
    let all = found(findings, &y);
    let mut shown = Table::new(["encoder's", "with", "column", "paper", "ours", "encoders of ours"]);
    shown.header[4] = format!("ours, with {y}");
    for (one, known) in &all {
        let ours = one.line.map_or("–".into(), |line| format!("r = {}", number(line.r, 3)));
        let column = one.column.clone().unwrap_or_default();
        shown.rows.push(vec![
            one.x.clone(),
            known.clone(),
            column,
            one.paper.clone(),
            ours,
            one.points.len().to_string(),
        ]);
    }
    let mut blocks = vec![Block::Heading(2, "Correlations".into()), Block::Table(shown)];
    let drawn = all.iter().filter_map(|(one, _)| {
        let line = one.line?;
        let column = one.column.as_ref().map(|column| format!(", {column}")).unwrap_or_default();
        Some(Panel {
            title: format!("r = {:.3} over {} encoders{column}", line.r, line.count),
            subtitle: format!("paper: {}", one.paper),
            axes: [one.x.clone(), y.clone()],
            points: one.points.clone(),
            line: Some(line),
        })
    });
    let panels: Vec<Panel> = drawn.collect();
    if !panels.is_empty() {
        let canvas = scatter_chart(&panels)?;
        let caption = format!("Properties of the encoders against {y} of the runs that align with them");
        let (rgb, width, height) = (canvas.pixels, canvas.width, canvas.height);
        blocks.push(Block::Pictures(vec![Picture { name: "correlations".into(), caption, rgb, width, height }]));
    }
    blocks.push(Block::Text(
        "The structure of the encoders is measured here, on pictures of the runs' data. Accuracies are not; join \
         `encoders.csv` with a file of them:"
            .into(),
    ));
    blocks.push(Block::Command(format!("cargo xtask correlate encoders.csv ACCURACIES.csv --y {y}")));
    Ok(blocks)
}

/// Each correlation of the table, in each of its columns, with what the paper calls the number.
fn found(findings: &Findings<'_>, y: &str) -> Vec<(Found, String)> {
    let subject = findings.subject;
    let mut all = vec![];
    for known in &subject.table.correlations {
        let columns: Vec<Option<String>> = match (&known.column, subject.table.columns.is_empty()) {
            (Some(column), _) => vec![Some(column.clone())],
            (None, true) => vec![None],
            (None, false) => subject.table.columns.iter().map(|column| Some(column.label.clone())).collect(),
        };
        for column in columns {
            let of_column = subject.entries.iter().enumerate().filter(|(_, entry)| entry.column == column);
            let points: Vec<(String, f64, f64)> = of_column
                .filter_map(|(at, entry)| {
                    let x = *subject.structure.of(&entry.label)?.get(&known.x)?;
                    Some((entry.label.clone(), x, findings.ours[at].outcome(y)?.mean))
                })
                .collect();
            let pairs: Vec<(f64, f64)> = points.iter().map(|(_, x, y)| (*x, *y)).collect();
            let line = correlation(&pairs);
            all.push((Found { x: known.x.clone(), column, paper: known.paper.clone(), points, line }, known.y.clone()));
        }
    }
    all
}
