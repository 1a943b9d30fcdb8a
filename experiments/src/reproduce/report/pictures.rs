//! Samples of each run, drawn with the same noise and the same classes.

use std::path::Path;

use anyhow::{Context, Result};
use image::{Rgb, RgbImage};
use realign::log::image_grid;

use super::Findings;
use super::block::Picture;
use crate::reproduce::work::Assessment;

const COLUMNS: usize = 8; // at most, where pictures stand in pairs

/// One grid for each evaluation whose pictures are there; of two evaluations one grid of pairs.
///
/// # Errors
/// A picture cannot be read.
pub fn grids(findings: &Findings<'_>) -> Result<Vec<Picture>> {
    let mut sheets = vec![];
    for (at, number) in findings.distinct.iter().zip(1..) {
        let Some(setting) = findings.subject.settings[*at].first() else { continue };
        let assessment = Assessment::of(setting);
        if !assessment.has_pictures() {
            continue;
        }
        let sample = &setting.plan.recipe.sample;
        let guidance =
            if sample.cfg_scale == 1.0 { "no guidance".into() } else { format!("guidance {}", sample.cfg_scale) };
        let caption = format!(
            "{number}: {}, step {}, {guidance}, {} evaluations of the network",
            findings.run_name(*at),
            setting.steps,
            sample.sampler.build().num_evaluations()
        );
        sheets.push((format!("samples-{number}"), caption, read(&assessment.pictures)?));
    }
    if let [(_, above, first), (_, below, second)] = &sheets[..]
        && first.len() == second.len()
        && findings.distinct.len() == 2
    {
        let columns = first.len().clamp(1, COLUMNS);
        let row = |chunk: &[RgbImage]| {
            let blank = chunk.first().map(|one| RgbImage::from_pixel(one.width(), one.height(), Rgb([255; 3])));
            chunk.iter().cloned().chain(blank.into_iter().cycle()).take(columns).collect::<Vec<_>>()
        };
        let rows = first.chunks(columns).zip(second.chunks(columns));
        let paired: Vec<RgbImage> = rows.flat_map(|(above, below)| [row(above), row(below)]).flatten().collect();
        let caption = format!("In turn a row of {above}, and below it the same noise and classes of {below}");
        return Ok(vec![sheet("pairs".into(), caption, &paired, columns)?]);
    }
    sheets.into_iter().map(|(name, caption, pictures)| sheet(name, caption, &pictures, COLUMNS)).collect()
}

/// The pictures of a folder in the order of their names.
fn read(folder: &Path) -> Result<Vec<RgbImage>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "png"));
    files.sort();
    let read = |file: &std::path::PathBuf| {
        let picture = image::open(file).with_context(|| format!("cannot read `{}`", file.display()))?;
        Ok(picture.into_rgb8())
    };
    files.iter().map(read).collect()
}

/// Pictures in rows.
fn sheet(name: String, caption: String, pictures: &[RgbImage], columns: usize) -> Result<Picture> {
    let [height, width] =
        pictures.first().map_or([0; 2], |picture| [picture.height(), picture.width()].map(|side| side as usize));
    let rgb: Vec<u8> = pictures.iter().flat_map(|picture| picture.as_raw().iter().copied()).collect();
    let (rgb, width, height) = image_grid(&rgb, pictures.len(), height, width, columns, 2)?;
    Ok(Picture { name, caption, rgb, width, height })
}
