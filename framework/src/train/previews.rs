//! Pictures of what was learned, for the log.

use anyhow::Result;

use super::assembly::Assembly;
use super::model::TrainModel;
use super::trainable::Preview;
use crate::log::{image_grid, magnify};
use crate::plugin::LatentShape;
use crate::recipe::Plan;
use crate::sample::{Sampling, draw_pictures};

const SIDE: usize = 64; // pixels of the smallest picture that a person sees something in
const COLUMNS: usize = 8;
const GAP: usize = 2; // white pixels between pictures

/// How a recipe's previews are drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct PreviewSettings {
    /// Pictures of a preview; 0 draws none.
    pub num: usize,
    /// Name of a moving average, or `model`.
    pub weights: String,
    /// Seed, guidance and bytes.
    pub sampling: Sampling,
    /// Shape of a clean sample.
    pub latent: LatentShape,
    /// Side of the pictures, in pixels.
    pub image_size: usize,
}

impl PreviewSettings {
    /// As the recipe says.
    pub fn new(plan: &Plan) -> Self {
        let section = &plan.recipe.sample;
        Self {
            num: section.num_preview,
            weights: section.weights.clone(),
            sampling: Sampling::new(section, plan.recipe.seed),
            latent: plan.latent,
            image_size: plan.recipe.image_size,
        }
    }

    /// Classes in turn, one for each picture.
    pub fn labels(&self, num_classes: usize) -> Vec<i64> {
        (0..self.num).map(|i| (i % num_classes.max(1)) as i64).collect()
    }
}

/// Samples of the classes in turn, a preview for each of the assembly's samplers.
///
/// # Errors
/// A sampler or the tensor library fails.
pub fn sample_previews(assembly: &Assembly, model: &TrainModel, settings: &PreviewSettings) -> Result<Vec<Preview>> {
    let labels = settings.labels(assembly.dataset.num_classes());
    let mut counts = vec![]; // two samplers may evaluate equally often
    let mut previews = vec![];
    if labels.is_empty() {
        return Ok(previews);
    }
    for (i, sampler) in assembly.samplers().enumerate() {
        let bytes = draw_pictures(assembly, model, sampler, settings.latent, &labels, 0, settings.sampling)?;
        let suffix = match (i, sampler.num_evaluations()) {
            (0, _) => String::new(),
            (i, count) if counts.contains(&count) => format!("_{count}nfe_{i}"),
            (_, count) => format!("_{count}nfe"),
        };
        counts.push(sampler.num_evaluations());
        previews.push(preview(format!("sample/{}{suffix}", settings.weights), &[&bytes], settings.image_size)?);
    }
    Ok(previews)
}

/// One preview of several series of pictures, each a row of one series above the same row of the next.
///
/// # Shapes
/// * `series`: equally many pictures each, `[count, side, side, 3]` bytes
///
/// # Errors
/// There is no picture, or a series is shorter than the others.
pub fn preview(tag: String, series: &[&[u8]], side: usize) -> Result<Preview> {
    let size = side * side * 3;
    let columns = COLUMNS.min(series.first().map_or(0, |first| first.len() / size.max(1)));
    let row = (columns * size).max(1);
    let num_rows = series.first().map_or(0, |first| first.len().div_ceil(row));
    let mut bytes = vec![];
    for n in 0..num_rows {
        for series in series {
            bytes.extend(series.chunks(row).nth(n).unwrap_or_default());
            bytes.resize(bytes.len().next_multiple_of(row), u8::MAX); // white behind the last picture
        }
    }
    let factor = SIDE.div_ceil(side.max(1));
    let count = bytes.len() / size.max(1);
    let magnified = magnify(&bytes, side, factor);
    let (rgb, width, height) = image_grid(&magnified, count, factor * side, factor * side, columns, GAP)?;
    Ok(Preview { tag, rgb, width, height })
}

/// Two previews side by side, on white.
pub fn beside(tag: String, left: &Preview, right: &Preview) -> Preview {
    let gap = 4 * GAP;
    let (width, height) = (left.width + gap + right.width, left.height.max(right.height));
    let mut rgb = vec![u8::MAX; width * height * 3];
    for (preview, from) in [(left, 0), (right, left.width + gap)] {
        for (y, line) in preview.rgb.chunks_exact((preview.width * 3).max(1)).enumerate() {
            let start = (y * width + from) * 3;
            rgb[start..start + line.len()].copy_from_slice(line);
        }
    }
    Preview { tag, rgb, width, height }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_lie_row_by_row_above_each_other() {
        let side = 64; // not magnified
        let series = |value: u8| -> Vec<u8> { (0..10).flat_map(|_| vec![value; side * side * 3]).collect() };
        let (above, below) = (series(10), series(20));
        let preview = preview("a".into(), &[&above, &below], side).unwrap();
        assert_eq!((preview.width, preview.height), (8 * 64 + 7 * 2, 4 * 64 + 3 * 2));
        let red = |x: usize, y: usize| preview.rgb[(y * preview.width + x) * 3];
        assert_eq!([0, 66, 132, 198].map(|y| red(0, y)), [10, 20, 10, 20]);
    }

    #[test]
    fn two_previews_stand_side_by_side() {
        let plain = |value: u8, width: usize, height: usize| Preview {
            tag: "a".into(),
            rgb: vec![value; width * height * 3],
            width,
            height,
        };
        let both = beside("b".into(), &plain(1, 3, 5), &plain(2, 2, 7));
        assert_eq!((both.width, both.height), (3 + 8 + 2, 7));
        let red = |x: usize, y: usize| both.rgb[(y * both.width + x) * 3];
        assert_eq!([red(2, 4), red(3, 4), red(11, 6), red(2, 5)], [1, 255, 2, 255]);
    }
}
