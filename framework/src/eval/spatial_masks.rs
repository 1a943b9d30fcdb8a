//! Object masks on a grid of tokens.
//!
//! Source: the paper, appendix B; iREPA `metrics/spatial_metrics_comparison.py`: a mask is resized like its picture, a
//! token belongs to the object if any of its pixels does, and an image counts only where object and surroundings have
//! at least a quarter of the tokens each (64 of 256).

use anyhow::Result;

use crate::data::Fit;
use crate::data::image::{RgbImage, decode};
use crate::plugin::PatchGrid;

/// Share of the tokens that the object, and its surroundings, must have for an image to count.
pub const LEAST_SHARE: f64 = 0.25;

/// Pixels of a mask file that belong to the object, `size · size` bytes, 0 or 255: those above 0 after resizing.
///
/// Gray masks are resized bicubically; palettes and one-bit masks take the nearest pixel, as Pillow does.
///
/// # Errors
/// The file is no picture.
pub fn read_mask(bytes: &[u8], name: &str, size: usize, fit: Fit) -> Result<Vec<u8>> {
    let picture = decode(bytes, name)?;
    let resized = if has_hard_colors(bytes) { nearest(&picture, size, fit) } else { fit.apply(&picture, size) };
    let is_object = |pixel: &[u8]| pixel.iter().any(|value| *value > 0);
    Ok(resized.pixels().chunks_exact(3).map(|pixel| if is_object(pixel) { 255 } else { 0 }).collect())
}

/// Whether a PNG's colors come from a palette or are black and white, so that no mean of two means anything.
fn has_hard_colors(bytes: &[u8]) -> bool {
    let is_png = bytes.starts_with(b"\x89PNG\r\n\x1a\n");
    let header = |at: usize| bytes.get(at).copied().filter(|_| is_png);
    let (depth, color_type) = (header(24), header(25));
    color_type == Some(3) || (color_type == Some(0) && depth == Some(1))
}

fn nearest(picture: &RgbImage, size: usize, fit: Fit) -> RgbImage {
    let (width, height) = (picture.width(), picture.height());
    let side = width.min(height);
    // The part of the picture that is seen, and where it begins.
    let (seen, start) = match fit {
        Fit::Squash => ([width, height], [0, 0]),
        Fit::Crop => ([side, side], [(width - side) / 2, (height - side) / 2]),
    };
    let at = |axis: usize, to: usize| start[axis] + ((2 * to + 1) * seen[axis]) / (2 * size.max(1));
    let mut pixels = Vec::with_capacity(size * size * 3);
    for y in 0..size {
        let row = picture.row(at(1, y));
        for x in 0..size {
            pixels.extend_from_slice(&row[3 * at(0, x)..3 * at(0, x) + 3]);
        }
    }
    RgbImage::new(size, size, pixels).unwrap_or_else(|_| picture.clone()) // a size of 0 is refused before
}

/// Which tokens belong to the object, 1 or 0: those with any pixel of it.
///
/// # Shapes
/// * `mask`: `[size, size]`, 0 off the object
/// * result: `[grid.tokens()]`
pub fn token_mask(mask: &[u8], size: usize, grid: PatchGrid) -> Vec<f32> {
    let mut tokens = vec![0.0; grid.tokens()];
    for (y, row) in mask.chunks_exact(size.max(1)).enumerate() {
        let first = (y * grid.rows / size) * grid.columns;
        for (x, _) in row.iter().enumerate().filter(|(_, value)| **value > 0) {
            tokens[first + x * grid.columns / size] = 1.0;
        }
    }
    tokens
}

/// Whether object and surroundings both have at least `share` of the tokens.
pub fn is_balanced(tokens: &[f32], share: f64) -> bool {
    let on = tokens.iter().filter(|token| **token > 0.5).count() as f64;
    let least = share * tokens.len() as f64;
    on >= least && tokens.len() as f64 - on >= least
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::image::encode_png;

    fn gray(width: usize, height: usize, value: impl Fn(usize, usize) -> u8) -> Vec<u8> {
        let at = |i: usize| value(i % width, i / width);
        let pixels = (0..width * height).flat_map(|i| [at(i); 3]).collect();
        encode_png(&RgbImage::new(width, height, pixels).unwrap()).unwrap()
    }

    #[test]
    fn a_token_belongs_to_the_object_if_one_pixel_does() {
        let mut mask = vec![0; 30 * 30];
        mask[29 * 30] = 1; // the lower left corner
        mask[9 * 30 + 15] = 255;
        let tokens = token_mask(&mask, 30, PatchGrid::new(5, 3));
        let on: Vec<usize> = (0..15).filter(|t| tokens[*t] > 0.0).collect();
        assert_eq!(on, [4, 12]);
    }

    #[test]
    fn masks_are_cropped_or_stretched_like_their_pictures() {
        // The left quarter of a picture twice as wide as it is high.
        let bytes = gray(64, 32, |x, _| if x < 16 { 200 } else { 0 });
        let share = |fit| {
            let mask = read_mask(&bytes, "m.png", 16, fit).unwrap();
            mask.iter().filter(|value| **value > 0).count() as f64 / 256.0
        };
        assert!(share(Fit::Crop) <= 1.0 / 16.0, "{}", share(Fit::Crop));
        assert!((share(Fit::Squash) - 0.25).abs() <= 1.0 / 16.0, "{}", share(Fit::Squash));
    }

    #[test]
    fn black_and_white_masks_keep_their_pixels() {
        use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
        let mut gray_bytes = vec![];
        let pixels: Vec<u8> = (0..64).map(|i| if i % 8 < 4 { 255 } else { 0 }).collect();
        PngEncoder::new(&mut gray_bytes).write_image(&pixels, 8, 8, ExtendedColorType::L8).unwrap();
        assert!(!has_hard_colors(&gray_bytes));
        let picture = decode(&gray_bytes, "m").unwrap();
        for fit in [Fit::Crop, Fit::Squash] {
            let twice = nearest(&picture, 16, fit);
            assert!((0..256).all(|i| (twice.pixels()[3 * i] > 0) == (i % 16 < 8)));
        }
        assert!(read_mask(b"no mask", "m.png", 8, Fit::Crop).is_err());
    }

    #[test]
    fn an_image_counts_where_both_sides_have_a_quarter() {
        let mask = |on: usize| (0..256).map(|t| f32::from(t < on)).collect::<Vec<_>>();
        let counts = |on| is_balanced(&mask(on), LEAST_SHARE);
        assert_eq!([63, 64, 192, 193].map(counts), [false, true, true, false]);
    }
}
