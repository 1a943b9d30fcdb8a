//! Samples of each run, drawn with the same noise and the same classes.

use std::path::Path;

use anyhow::{Context, Result};
use realign::log::image_grid;

use super::Findings;
use super::block::Picture;
use crate::reproduce::work::Assessment;

const COLUMNS: usize = 8;

/// One grid for each evaluation whose pictures are there.
///
/// # Errors
/// A picture cannot be read.
pub fn grids(findings: &Findings<'_>) -> Result<Vec<Picture>> {
    let mut pictures = vec![];
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
            findings.subject.entries[*at].arm.clone().unwrap_or_default(),
            setting.steps,
            sample.sampler.build().num_evaluations()
        );
        let (rgb, width, height) = sheet(&assessment.pictures)?;
        pictures.push(Picture { name: format!("samples-{number}"), caption, rgb, width, height });
    }
    Ok(pictures)
}

/// The pictures of a folder in the order of their names, eight in a row.
fn sheet(folder: &Path) -> Result<(Vec<u8>, usize, usize)> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "png"));
    files.sort();
    let read = |file: &std::path::PathBuf| {
        let picture = image::open(file).with_context(|| format!("cannot read `{}`", file.display()))?;
        Ok(picture.into_rgb8())
    };
    let read: Vec<image::RgbImage> = files.iter().map(read).collect::<Result<_>>()?;
    let [height, width] =
        read.first().map_or([0; 2], |picture| [picture.height(), picture.width()].map(|side| side as usize));
    let rgb: Vec<u8> = read.iter().flat_map(|picture| picture.as_raw().iter().copied()).collect();
    image_grid(&rgb, read.len(), height, width, COLUMNS, 2)
}
