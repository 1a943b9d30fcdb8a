//! Pictures: many samples side by side, PNG bytes, PNG files.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use crate::files::write_whole;

const RGB: usize = 3;
const BACKGROUND: u8 = 255; // white, as a page

/// One picture of `count` images in rows of `columns`, `gap` white pixels between neighbors and around none.
///
/// Fewer images than columns make a narrower picture; places after the last image stay white.
/// Returns the RGB bytes, the width and the height of the picture, in pixels.
///
/// # Shapes
/// * `images`: `[count, height, width, 3]`, RGB in 0..=255
/// * returned bytes: `[picture height, picture width, 3]`
///
/// # Errors
/// When a size is zero or `images` does not have that shape.
pub fn image_grid(
    images: &[u8],
    count: usize,
    height: usize,
    width: usize,
    columns: usize,
    gap: usize,
) -> Result<(Vec<u8>, usize, usize)> {
    ensure!(
        count > 0 && height > 0 && width > 0 && columns > 0,
        "image grid: found `{count}` images of `{height}x{width}` in `{columns}` columns; none of them may be zero"
    );
    let expected = [count, height, width, RGB].iter().try_fold(1_usize, |size, &n| size.checked_mul(n));
    ensure!(
        expected == Some(images.len()),
        "image grid: found `{}` bytes, but `{count}` RGB images of `{height}x{width}` take `{count}*{height}*{width}*3`",
        images.len()
    );
    let columns = columns.min(count);
    let rows = count.div_ceil(columns);
    let extent = |num: usize, size: usize| size.checked_mul(num)?.checked_add(gap.checked_mul(num - 1)?);
    let sizes = extent(columns, width).zip(extent(rows, height));
    let (grid_width, grid_height) = sizes.context("image grid: the picture is too large for this machine")?;
    let num_bytes = grid_width.checked_mul(grid_height).and_then(|pixels| pixels.checked_mul(RGB));
    let mut grid = vec![BACKGROUND; num_bytes.context("image grid: the picture is too large for this machine")?];
    for (line_idx, line) in images.chunks_exact(width * RGB).enumerate() {
        let (image_idx, y) = (line_idx / height, line_idx % height);
        let left = (image_idx % columns) * (width + gap);
        let top = (image_idx / columns) * (height + gap);
        let start = ((top + y) * grid_width + left) * RGB;
        grid[start..start + line.len()].copy_from_slice(line);
    }
    Ok((grid, grid_width, grid_height))
}

/// Each pixel as a square of `factor` pixels, at least 1: tiny pictures that a person can look at.
///
/// # Shapes
/// * `images`: `[count, height, width, 3]`; the result is `[count, factor · height, factor · width, 3]`
pub fn magnify(images: &[u8], width: usize, factor: usize) -> Vec<u8> {
    let lines = images.chunks(width.max(1) * RGB).flat_map(|line| {
        let wide: Vec<u8> = line.chunks(RGB).flat_map(|pixel| pixel.repeat(factor)).collect();
        wide.repeat(factor)
    });
    lines.collect()
}

/// Writes an RGB picture as PNG beside `path`, then renames.
///
/// # Shapes
/// * `rgb`: `[height, width, 3]`
///
/// # Errors
/// When `rgb` does not have that shape, or the file cannot be written.
pub fn save_png(path: &Path, rgb: &[u8], width: usize, height: usize) -> Result<()> {
    let png = encode_png(rgb, width, height).with_context(|| format!("cannot write `{}`", path.display()))?;
    write_whole(path, &png)
}

/// The PNG file of an RGB picture.
///
/// # Shapes
/// * `rgb`: `[height, width, 3]`
///
/// # Errors
/// When `rgb` does not have that shape, is empty, or is larger than PNG allows.
pub fn encode_png(rgb: &[u8], width: usize, height: usize) -> Result<Vec<u8>> {
    let expected = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(RGB));
    ensure!(
        !rgb.is_empty() && expected == Some(rgb.len()),
        "picture: found `{}` bytes for `{width}x{height}` pixels; allowed are width * height * 3, and not zero",
        rgb.len()
    );
    let (png_width, png_height) = (u32::try_from(width)?, u32::try_from(height)?);
    let mut png = Vec::new();
    PngEncoder::new(&mut png)
        .write_image(rgb, png_width, png_height, ExtendedColorType::Rgb8)
        .with_context(|| format!("picture: `{width}x{height}` pixels cannot be written as PNG"))?;
    Ok(png)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_image_lands_in_its_cell_and_the_rest_is_white() {
        let (count, height, width) = (5, 3, 2);
        let images: Vec<u8> = (0..count).flat_map(|n| vec![10 * (n as u8 + 1); height * width * RGB]).collect();
        let (grid, grid_width, grid_height) = image_grid(&images, count, height, width, 3, 1).unwrap();
        assert_eq!((grid_width, grid_height), (3 * 2 + 2, 2 * 3 + 1));
        let red = |x: usize, y: usize| grid[(y * grid_width + x) * RGB];
        let first_row: Vec<u8> = (0..grid_width).map(|x| red(x, 2)).collect();
        assert_eq!(first_row, [10, 10, 255, 20, 20, 255, 30, 30]);
        let last_row: Vec<u8> = (0..grid_width).map(|x| red(x, 4)).collect();
        assert_eq!(last_row, [40, 40, 255, 50, 50, 255, 255, 255]);
        assert!((0..grid_width).all(|x| red(x, 3) == 255));
    }

    #[test]
    fn a_row_that_is_not_full_makes_no_empty_columns() {
        let (_, width, height) = image_grid(&[0; 2 * 3 * 5 * RGB], 2, 3, 5, 7, 2).unwrap();
        assert_eq!((width, height), (12, 3));
    }

    #[test]
    fn a_magnified_pixel_is_a_square() {
        // Two pixels beside each other, and two such pictures.
        let images: Vec<u8> = [1, 2, 3, 4].into_iter().flat_map(|red| [red, 0, 9]).collect();
        let red: Vec<u8> = magnify(&images, 2, 2).chunks(RGB).map(|pixel| pixel[0]).collect();
        assert_eq!(red, [1, 1, 2, 2, 1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 4, 4]);
    }

    #[test]
    fn sizes_that_do_not_fit_are_errors() {
        let message = image_grid(&[0; 17], 1, 3, 2, 1, 0).unwrap_err().to_string();
        assert!(message.contains("`17` bytes"), "{message}");
        assert!(image_grid(&[], 0, 3, 2, 1, 0).is_err());
        assert!(image_grid(&[0; 18], 1, 3, 2, 1, usize::MAX).is_ok());
        assert!(image_grid(&[0; 36], 2, 3, 2, 2, usize::MAX).is_err());
        assert!(encode_png(&[0; 18], 2, 4).is_err());
        assert!(encode_png(&[], 0, 0).is_err());
    }

    #[test]
    fn a_saved_picture_reads_back_with_its_width_and_height() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grid.png");
        let rgb: Vec<u8> = (0..3 * 7 * RGB as u8).collect();
        save_png(&path, &rgb, 7, 3).unwrap();
        let read = image::open(&path).unwrap().to_rgb8();
        assert_eq!((read.dimensions(), read.into_raw()), ((7, 3), rgb));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
