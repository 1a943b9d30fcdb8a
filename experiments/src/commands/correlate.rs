//! `realign correlate`: a metric or accuracy against FID over encoders.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use realign::eval::{Correlation, correlation};
use realign::files::write_whole;
use realign::registry::nearest;
use serde_json::{Value, json};

use crate::measuring::paper::Paper;
use crate::plot::{Panel, scatter_chart};
use crate::table::{Table, number, read_csv};

const MOST_PANELS: usize = 60;

/// A metric against FID over encoders: Pearson's r, line and plot
#[derive(Debug, Args)]
pub struct Correlate {
    /// Files of results, CSV, JSON or YAML, one encoder a row; rows of several files are joined by the encoder's name
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Columns along x, separated by commas; all numbers but the target when left out
    #[arg(long, value_delimiter = ',')]
    x: Vec<String>,
    /// Column along y
    #[arg(long, default_value = "fid")]
    y: String,
    /// Column that names the encoder
    #[arg(long, default_value = "encoder")]
    name: String,
    /// Encoders left out, separated by commas
    #[arg(long, value_delimiter = ',')]
    without: Vec<String>,
    /// The network whose correlations in the paper are shown beside
    #[arg(long, default_value = "SiT-XL/2")]
    model: String,
    /// Folder for `correlate.csv`, `correlate.json` and `correlate.png`
    #[arg(long, default_value = "correlate")]
    out: PathBuf,
}

/// Encoder, column, value.
type Rows = BTreeMap<String, BTreeMap<String, f64>>;

impl Correlate {
    /// Reads, prints and draws.
    ///
    /// # Errors
    /// A file cannot be read, a column is not there, or fewer than three encoders have both values.
    pub fn run(&self, out: &mut dyn Write) -> Result<ExitCode> {
        let mut rows = Rows::new();
        for file in &self.files {
            for (name, values) in read_rows(file, &self.name)? {
                rows.entry(name).or_default().extend(values);
            }
        }
        for name in &self.without {
            let known = rows.keys().map(String::as_str);
            let hint = nearest(name, known).map(|word| format!("; did you mean `{word}`?")).unwrap_or_default();
            ensure!(rows.contains_key(name), "--without {name}: no such encoder{hint}");
            rows.remove(name);
        }
        let paper = Paper::read()?;
        let mut table = Table::new(["x", "y", "r", "paper_r", "slope", "offset", "num_encoders"]);
        let (mut panels, mut results) = (vec![], vec![]);
        for x in self.columns(&rows)? {
            let value = |row: &BTreeMap<String, f64>, column: &str| row.get(column).copied();
            let points: Vec<(String, f64, f64)> = rows
                .iter()
                .filter_map(|(name, row)| Some((name.clone(), value(row, &x)?, value(row, &self.y)?)))
                .filter(|(_, x, y)| x.is_finite() && y.is_finite())
                .collect();
            let pairs: Vec<(f64, f64)> = points.iter().map(|(_, x, y)| (*x, *y)).collect();
            let Some(line) = correlation(&pairs) else {
                ensure!(
                    self.x.is_empty(),
                    "--x {x}: {} encoders have it and `{}`; three with different values are the least",
                    points.len(),
                    self.y
                );
                continue;
            };
            let known = paper.r(&x, &self.y, &self.model);
            table.rows.push(row(&x, &self.y, line, known.map(|known| known.r)));
            let subtitle = known.map_or_else(String::new, |known| {
                format!(
                    "paper: r = {:.3} over {} encoders, {} ({})",
                    known.r, known.encoders, known.model, known.source
                )
            });
            results.push(json!({
                "x": x, "y": self.y, "r": line.r, "slope": line.slope, "offset": line.offset,
                "paper_r": known.map(|known| known.r), "encoders": points.iter().map(|(name, ..)| name).collect::<Vec<_>>(),
            }));
            let title = format!("r = {:.3} over {} encoders", line.r, line.count);
            panels.push(Panel { title, subtitle, axes: [x.clone(), self.y.clone()], points, line: Some(line) });
        }
        ensure!(!panels.is_empty(), "no column has values of three encoders that also have `{}`", self.y);
        ensure!(
            panels.len() <= MOST_PANELS,
            "{} columns, more than the {MOST_PANELS} that a plot takes; choose some with --x",
            panels.len()
        );
        write!(out, "{}", table.to_text())?;
        let is_shown = |name: &str| panels.iter().any(|panel| panel.points.iter().any(|(point, ..)| point == name));
        if is_shown("spatialpe-vit-l") && self.model == "SiT-XL/2" {
            writeln!(
                out,
                "note: the paper's script takes the FID of langpe-l for spatialpe-vit-l on SiT-XL/2; its r contains that"
            )?;
        }
        fs::create_dir_all(&self.out).with_context(|| format!("cannot make the folder `{}`", self.out.display()))?;
        table.write_csv(&self.out.join("correlate.csv"))?;
        let text = serde_json::to_string_pretty(&results).context("cannot write the result")? + "\n";
        write_whole(&self.out.join("correlate.json"), text.as_bytes())?;
        scatter_chart(&panels)?.save(&self.out.join("correlate.png"))?;
        writeln!(out, "plot: {}", self.out.join("correlate.png").display())?;
        Ok(ExitCode::SUCCESS)
    }

    /// The columns along x that there are.
    fn columns(&self, rows: &Rows) -> Result<Vec<String>> {
        let mut known: Vec<&str> = rows.values().flat_map(|row| row.keys()).map(String::as_str).collect();
        known.sort_unstable();
        known.dedup();
        for (option, column) in self.x.iter().map(|x| ("--x", x)).chain([("--y", &self.y)]) {
            if !known.contains(&column.as_str()) {
                let hint = nearest(column, known.iter().copied()).map(|word| format!("did you mean `{word}`? "));
                bail!("{option} {column}: no such column\n  {}known: {}", hint.unwrap_or_default(), known.join(", "));
            }
        }
        if !self.x.is_empty() {
            return Ok(self.x.clone());
        }
        // Of a file without a choice: what measures an encoder, not what follows from it or what it costs.
        let is_meant = |column: &&str| {
            **column != self.y && !["fid", "ms_", "num_", "channels", "rank"].iter().any(|no| column.starts_with(no))
        };
        Ok(known.into_iter().filter(is_meant).map(str::to_string).collect())
    }
}

fn row(x: &str, y: &str, line: Correlation, paper: Option<f64>) -> Vec<String> {
    let numbers = [(line.r, 3), (paper.unwrap_or(f64::NAN), 3), (line.slope, 4), (line.offset, 4)];
    let numbers = numbers.into_iter().map(|(value, digits)| number(value, digits));
    [x.to_string(), y.to_string()].into_iter().chain(numbers).chain([line.count.to_string()]).collect()
}

/// Rows of a file: CSV, or JSON or YAML with a list of sections, at the top or below `encoders`.
fn read_rows(path: &Path, name: &str) -> Result<Rows> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let rows = match ending.as_str() {
        "csv" => csv_rows(&text, name),
        "json" => serde_json::from_str(&text).map_err(anyhow::Error::from).and_then(|value| listed_rows(&value, name)),
        "yaml" | "yml" => {
            serde_yaml::from_str(&text).map_err(anyhow::Error::from).and_then(|value| listed_rows(&value, name))
        }
        other => bail!("`{}`: unknown ending `{other}`; known: csv, json, yaml", path.display()),
    };
    rows.with_context(|| format!("`{}`", path.display()))
}

fn csv_rows(text: &str, name: &str) -> Result<Rows> {
    let lines = read_csv(text)?;
    let header = lines.first().context("the file is empty")?;
    for (at, column) in header.iter().enumerate() {
        let is_same = |other: &String| other.trim().eq_ignore_ascii_case(column.trim());
        ensure!(!header[..at].iter().any(is_same), "column `{}` is there twice", column.trim());
    }
    let at = header.iter().position(|column| column.trim().eq_ignore_ascii_case(name));
    let at = at.with_context(|| format!("no column `{name}`; there are: {}", header.join(", ")))?;
    let mut rows = Rows::new();
    for (line, number) in lines[1..].iter().zip(2..) {
        ensure!(line.len() == header.len(), "line {number} has {} cells, and the header {}", line.len(), header.len());
        let named = line.get(at).map(|cell| cell.trim()).filter(|cell| !cell.is_empty());
        let named = named.with_context(|| format!("line {number}: `{name}` is empty"))?;
        let cells =
            header.iter().zip(line).filter_map(|(column, cell)| Some((column, cell.trim().parse::<f64>().ok()?)));
        let values = cells.map(|(column, value)| (column.trim().to_ascii_lowercase(), value)).collect();
        ensure!(rows.insert(named.to_string(), values).is_none(), "line {number}: `{named}` is given twice");
    }
    Ok(rows)
}

fn listed_rows(value: &Value, name: &str) -> Result<Rows> {
    let list = value.as_array().or_else(|| value["encoders"].as_array());
    let list = list.context("expected a list of sections, at the top or below `encoders`")?;
    let mut rows = Rows::new();
    for (section, number) in list.iter().zip(1..) {
        let named = section[name].as_str().with_context(|| format!("entry {number} has no `{name}`"))?;
        let mut values = BTreeMap::new();
        let nested = section["metrics"].as_object().into_iter().flatten();
        for (column, value) in section.as_object().into_iter().flatten().chain(nested) {
            // What `metrics` writes is a section with a mean.
            if let Some(value) = value.as_f64().or_else(|| value["mean"].as_f64()) {
                values.insert(column.to_ascii_lowercase(), value);
            }
        }
        ensure!(rows.insert(named.to_string(), values).is_none(), "entry {number}: `{named}` is given twice");
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_from_csv_and_from_lists() {
        let csv = csv_rows("Encoder, LDS,FID,note\nhog,0.5,30,x\nsift,-,20,y\n", "encoder").unwrap();
        assert_eq!(csv["hog"], BTreeMap::from([("lds".into(), 0.5), ("fid".into(), 30.0)]));
        assert_eq!(csv["sift"], BTreeMap::from([("fid".into(), 20.0)]));
        let list = json!({"encoders": [{"encoder": "hog", "metrics": {"lds": {"mean": 0.5}}, "fid": 30}]});
        assert_eq!(listed_rows(&list, "encoder").unwrap()["hog"], csv["hog"]);
        assert!(csv_rows("a,b\n1,2\n", "encoder").unwrap_err().to_string().contains("there are: a, b"));
        assert!(csv_rows("encoder,b\nx,2\nx,3\n", "encoder").unwrap_err().to_string().contains("given twice"));
        assert!(listed_rows(&json!({"a": 1}), "encoder").is_err());
    }

    #[test]
    fn the_papers_own_numbers_can_be_correlated() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("paper.yaml");
        fs::write(&file, crate::measuring::paper::TEXT).unwrap();
        let command = Correlate {
            files: vec![file],
            x: vec![],
            y: "fid".into(),
            name: "encoder".into(),
            without: vec![],
            model: "SiT-XL/2".into(),
            out: folder.path().join("out"),
        };
        let mut out = vec![];
        command.run(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("-0.852") && text.contains("linear_probe"), "{text}");
        assert!(folder.path().join("out/correlate.png").is_file());
    }
}
