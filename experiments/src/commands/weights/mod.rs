//! `realign weights`: what others published, where it is expected, and whether it is there.

#[cfg(feature = "hub")]
mod download;
mod verify;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use realign::weights::{PublishedWeights, find_published, published_weights};
use serde_json::json;

use super::recipe_args::settings;

/// Published weights: list, get, verify
#[derive(Debug, Args)]
pub struct Weights {
    #[command(subcommand)]
    what: What,
    /// Folder of published weights; `pretrained_models`, or what the user's settings say
    #[arg(long, global = true)]
    weights_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// One line per file, and whether it is there
    List {
        /// Everything that is known, as one JSON list
        #[arg(long)]
        json: bool,
    },
    /// Download a file, or say the command that does
    Get {
        /// Name, as `list` shows it
        name: String,
    },
    /// Read a file that is there, and say whether it is whole and fits its network
    Verify {
        /// Name, as `list` shows it
        name: String,
    },
}

impl Weights {
    /// Runs the command.
    ///
    /// # Errors
    /// An unknown name, or a file that is not what it should be.
    pub fn run(self, out: &mut dyn Write) -> Result<ExitCode> {
        let own = settings()?.weights_dir;
        let weights_dir = self.weights_dir.or(own).unwrap_or_else(|| PathBuf::from("pretrained_models"));
        match self.what {
            What::List { json: true } => write_json(&weights_dir, out),
            What::List { json: false } => write_list(&weights_dir, out),
            What::Get { name } => get(&find_published(&name)?, &weights_dir, out),
            What::Verify { name } => verify::verify(&find_published(&name)?, &weights_dir, out),
        }
    }
}

fn write_list(weights_dir: &Path, out: &mut dyn Write) -> Result<ExitCode> {
    let row = |weights: PublishedWeights| {
        let path = weights.path(weights_dir);
        let license = if weights.is_gated { format!("{} (gated)", weights.license) } else { weights.license.clone() };
        let state = if path.exists() { "there" } else { "missing" };
        let size = size(&weights);
        [weights.name, weights.layout, size, license, state.into(), path.display().to_string()]
    };
    let titles = ["name", "layout", "size", "license", "state", "expected at"].map(String::from);
    let rows: Vec<[String; 6]> = [titles].into_iter().chain(published_weights().into_iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn write_json(weights_dir: &Path, out: &mut dyn Write) -> Result<ExitCode> {
    let entry = |weights: PublishedWeights| {
        let path = weights.path(weights_dir);
        json!({
            "name": weights.name,
            "layout": weights.layout,
            "license": weights.license,
            "gated": weights.is_gated,
            "num_bytes": weights.num_bytes,
            "num_parameters": weights.num_parameters,
            "sha256": weights.sha256,
            "url": weights.url,
            "page": weights.page(),
            "is_there": path.exists(),
            "command": weights.command(&path),
            "path": path,
        })
    };
    let all: Vec<_> = published_weights().into_iter().map(entry).collect();
    writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Downloads where this program can; else says how, and fails, because the file is not there.
fn get(weights: &PublishedWeights, weights_dir: &Path, out: &mut dyn Write) -> Result<ExitCode> {
    let path = weights.path(weights_dir);
    if path.exists() {
        writeln!(out, "`{}` is there already; `weights verify {}` checks it", path.display(), weights.name)?;
        return Ok(ExitCode::SUCCESS);
    }
    if weights.is_gated {
        writeln!(out, "{} is gated: accept its license at {} first", weights.name, weights.page())?;
    }
    #[cfg(feature = "hub")]
    {
        let token = std::env::var("HF_TOKEN").ok().filter(|_| weights.is_gated);
        download::download(weights, token.as_deref(), &path)?;
        writeln!(out, "{} in {}", weights.name, path.display())?;
        Ok(ExitCode::SUCCESS)
    }
    #[cfg(not(feature = "hub"))]
    {
        writeln!(out, "get it with\n  {}", weights.command(&path))?;
        Ok(ExitCode::FAILURE)
    }
}

/// Bytes where they are known, else parameters.
fn size(weights: &PublishedWeights) -> String {
    match (weights.num_bytes, weights.num_parameters) {
        (Some(bytes), _) => format!("{:.0} MB", bytes as f64 / 1e6),
        (None, Some(count)) => format!("{:.1}M values", count as f64 / 1e6),
        (None, None) => "not known".into(),
    }
}
