//! The center crop of ADM (Dhariwal and Nichol 2021), the preprocessing of every ImageNet experiment here.

use crate::data::image::RgbImage;
use crate::data::resample::{Filter, Span, resize, resize_window};

/// The central `size` x `size` pixels after scaling the shorter side to `size`.
///
/// While the shorter side is at least `2 · size`, the picture is halved with a box filter; then bicubic to
/// `round(side · size / shorter)`, half to even; then rows from `(H − size) / 2`. Equal to Pillow's bytes.
/// Only the pixels inside the crop are computed, so a narrow picture costs no more memory than a square one.
/// A `size` of 0 counts as 1. Source: iREPA `jit/util/crop.py`, `center_crop_arr`.
pub fn adm_center_crop(picture: &RgbImage, size: usize) -> RgbImage {
    let size = size.max(1);
    let halved = halve_while_large(picture, size);
    let picture = halved.as_ref().unwrap_or(picture);
    let shorter = picture.width().min(picture.height());
    let scale = size as f64 / shorter as f64;
    let span = |side: usize| {
        let resized = ((side as f64 * scale).round_ties_even() as usize).max(size);
        Span { resized, start: (resized - size) / 2, len: size }
    };
    resize_window(picture, span(picture.width()), span(picture.height()), Filter::Bicubic)
}

fn halve_while_large(picture: &RgbImage, size: usize) -> Option<RgbImage> {
    let mut halved: Option<RgbImage> = None;
    loop {
        let current = halved.as_ref().unwrap_or(picture);
        let (width, height) = (current.width(), current.height());
        if width.min(height) / 2 < size {
            return halved;
        }
        halved = Some(resize(current, width / 2, height / 2, Filter::Box));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient(width: usize, height: usize) -> RgbImage {
        let pixels = (0..width * height).flat_map(|i| [(i % width) as u8, (i / width) as u8, 90]).collect();
        RgbImage::new(width, height, pixels).unwrap()
    }

    #[test]
    fn a_picture_of_the_right_size_is_unchanged() {
        let picture = gradient(32, 32);
        assert_eq!(adm_center_crop(&picture, 32), picture);
    }

    #[test]
    fn the_center_is_cut_from_the_longer_side() {
        let picture = gradient(51, 20);
        let crop = adm_center_crop(&picture, 20);
        assert_eq!(crop.row(3), &picture.row(3)[15 * 3..35 * 3]);
    }

    #[test]
    fn one_pixel_and_extreme_shapes_give_a_full_crop() {
        for (width, height) in [(1, 1), (1, 100_000), (100_000, 1), (3, 4001), (2, 1), (511, 130)] {
            let crop = adm_center_crop(&gradient(width, height), 64);
            assert_eq!((crop.width(), crop.height()), (64, 64), "{width} x {height}");
        }
        assert_eq!(adm_center_crop(&gradient(5, 9), 0).width(), 1);
    }
}
