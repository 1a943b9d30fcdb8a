//! Properties of encoders against the numbers of the runs that align with them.

use std::collections::BTreeSet;

use anyhow::Result;
use realign::eval::{Correlation, correlation};

use super::Findings;
use super::block::{Block, Picture};
use crate::plot::{Panel, scatter_chart};
use crate::reproduce::ordering_metric;
use crate::table::{Table, number};

/// A property against a number over the rows of a column.
struct Found {
    x: String,
    /// Our number, where there is one that may stand for the paper's.
    y: Option<String>,
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
    let all = found(findings);
    let mut shown = Table::new(["encoder's", "with", "column", "paper", "ours", "with our", "encoders of ours"]);
    for (one, known) in &all {
        let ours = one.line.map_or("–".into(), |line| format!("r = {}", number(line.r, 3)));
        let column = one.column.clone().unwrap_or_default();
        shown.rows.push(vec![
            one.x.clone(),
            known.clone(),
            column,
            one.paper.clone(),
            ours,
            one.y.clone().unwrap_or("–".into()),
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
            axes: [one.x.clone(), one.y.clone()?],
            points: one.points.clone(),
            line: Some(line),
        })
    });
    let panels: Vec<Panel> = drawn.collect();
    if !panels.is_empty() {
        let canvas = scatter_chart(&panels)?;
        let caption = "Properties of the encoders against numbers of the runs that align with them".into();
        let (rgb, width, height) = (canvas.pixels, canvas.width, canvas.height);
        blocks.push(Block::Pictures(vec![Picture { name: "correlations".into(), caption, rgb, width, height }]));
    }
    blocks.push(Block::Text(
        "The structure of the encoders is measured here, on pictures of the runs' data. Accuracies are not; join \
         `encoders.csv` with a file of them:"
            .into(),
    ));
    let y = all.iter().find_map(|(one, _)| one.y.clone()).unwrap_or("fid".into());
    blocks.push(Block::Command(format!("cargo xtask correlate encoders.csv ACCURACIES.csv --y {y}")));
    Ok(blocks)
}

/// Each correlation of the table, in each of its columns, with what the paper calls the number.
fn found(findings: &Findings<'_>) -> Vec<(Found, String)> {
    let subject = findings.subject;
    let numbers: BTreeSet<&str> = findings.ours.iter().flat_map(|ours| ours.metrics()).collect();
    let numbers: Vec<&str> = numbers.into_iter().collect();
    let mut all = vec![];
    for known in &subject.table.correlations {
        let y = ordering_metric(&known.y, &numbers);
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
                    Some((entry.label.clone(), x, findings.ours[at].outcome(y.as_ref()?)?.mean))
                })
                .collect();
            let pairs: Vec<(f64, f64)> = points.iter().map(|(_, x, y)| (*x, *y)).collect();
            let line = correlation(&pairs);
            let (x, y, paper) = (known.x.clone(), y.clone(), known.paper.clone());
            all.push((Found { x, y, column, paper, points, line }, known.y.clone()));
        }
    }
    all
}
