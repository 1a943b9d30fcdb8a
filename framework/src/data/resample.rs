//! Antialiased 8-bit resampling, equal to Pillow's byte for byte.
//!
//! Source: Pillow, `src/libImaging/Resample.c`: float64 filter weights, normalized, rounded to 22-bit fixed
//! point; one pass along each axis, each rounded to 8 bits. The order of the passes is that of Pillow 13, found
//! by comparing results; earlier versions change the width first wherever the height is at most 100 times the
//! width, which moves some pixels of tall pictures by one.

use std::borrow::Cow;

use crate::data::image::RgbImage;
use crate::ops::{PRECISION_BITS, Taps, covered, resample_columns, resample_rows};

/// Resampling filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Mean of the covered pixels; Pillow's `BOX`.
    Box,
    /// Cubic convolution with a = -0.5; Pillow's `BICUBIC`.
    Bicubic,
}

impl Filter {
    /// Half width at scale 1, in pixels.
    fn support(self) -> f64 {
        match self {
            Self::Box => 0.5,
            Self::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        match self {
            Self::Box => f64::from(x > -0.5 && x <= 0.5),
            Self::Bicubic => bicubic(x.abs()),
        }
    }
}

fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// A stretch of one axis of a resized picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Pixels of the whole axis after resizing.
    pub resized: usize,
    /// First pixel of the stretch.
    pub start: usize,
    /// Pixels of the stretch; `start + len` is at most `resized`.
    pub len: usize,
}

impl Span {
    /// The whole axis.
    pub fn whole(resized: usize) -> Self {
        Self { resized, start: 0, len: resized }
    }
}

/// Resizes the whole picture to `width` x `height` pixels, each at least 1.
pub fn resize(picture: &RgbImage, width: usize, height: usize, filter: Filter) -> RgbImage {
    resize_window(picture, Span::whole(width.max(1)), Span::whole(height.max(1)), filter)
}

/// The window `columns` x `rows` of the resized picture, without computing the rest of it.
///
/// Equal to resizing and then cutting; memory grows with the window, not with the resized picture.
/// An empty span counts as one pixel.
pub fn resize_window(picture: &RgbImage, columns: Span, rows: Span, filter: Filter) -> RgbImage {
    let (width, height) = (picture.width(), picture.height());
    let column_taps = taps(width, columns, filter);
    let row_taps = taps(height, rows, filter);
    // Pillow leaves out a pass along an axis that keeps its length; unit weights give the same bytes.
    let pixels = if is_height_first([width, columns.resized], [height, rows.resized]) {
        let needed = covered(&column_taps);
        let low = resample_rows(picture.pixels(), width * 3, needed.start * 3..needed.end * 3, 0, &row_taps);
        let moved = column_taps.iter().map(|taps| Taps { first: taps.first - needed.start, ..taps.clone() });
        resize_columns(low.into(), needed.len(), &moved.collect::<Vec<_>>())
    } else {
        let needed = covered(&row_taps);
        let lines = &picture.pixels()[needed.start * width * 3..needed.end * width * 3];
        let narrow = resize_columns(lines.into(), width, &column_taps);
        let row_bytes = column_taps.len() * 3;
        resample_rows(&narrow, row_bytes, 0..row_bytes, needed.start, &row_taps)
    };
    RgbImage::new(column_taps.len(), row_taps.len(), pixels).unwrap_or_else(|_| picture.clone()) // lengths agree by construction
}

/// Whether Pillow 13 changes the height before the width: it does where the height loses more than twice as many pixels.
fn is_height_first([width, new_width]: [usize; 2], [height, new_height]: [usize; 2]) -> bool {
    new_height < height && height + 2 * new_width > new_height + 2 * width
}

fn taps(length: usize, span: Span, filter: Filter) -> Vec<Taps> {
    let (start, resized) = (span.start, span.resized.max(1));
    let scale = length as f64 / resized as f64;
    let filter_scale = scale.max(1.0);
    let support = filter.support() * filter_scale;
    let inverse = 1.0 / filter_scale;
    let one = |index: usize| {
        let center = (index as f64 + 0.5) * scale;
        let first = ((center - support + 0.5).max(0.0) as usize).min(length - 1);
        let end = ((center + support + 0.5).max(0.0) as usize).clamp(first + 1, length);
        let mut weights: Vec<f64> =
            (first..end).map(|at| filter.weight((at as f64 - center + 0.5) * inverse)).collect();
        let sum: f64 = weights.iter().sum();
        if sum != 0.0 {
            weights.iter_mut().for_each(|weight| *weight /= sum);
        }
        Taps { first, weights: weights.into_iter().map(fixed_point).collect() }
    };
    (start..start + span.len.max(1)).map(one).collect()
}

/// Rounds half away from zero, as the C code does; weights lie in [-2, 2].
fn fixed_point(weight: f64) -> i32 {
    let scaled = weight * f64::from(1u32 << PRECISION_BITS);
    (if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}

fn resize_columns(source: Cow<'_, [u8]>, width: usize, columns: &[Taps]) -> Vec<u8> {
    if columns.len() == width && is_identity(columns) {
        return source.into_owned();
    }
    resample_columns(&source, width, columns)
}

fn is_identity(taps: &[Taps]) -> bool {
    let unit = 1 << PRECISION_BITS;
    let is_own_pixel = |(index, taps): (usize, &Taps)| {
        taps.weights.iter().enumerate().all(|(at, &weight)| weight == if taps.first + at == index { unit } else { 0 })
    };
    taps.iter().enumerate().all(is_own_pixel)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(width: usize, height: usize) -> RgbImage {
        let mut state = 12345u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        RgbImage::new(width, height, (0..width * height * 3).map(|_| next()).collect()).unwrap()
    }

    #[test]
    fn the_same_size_is_a_copy() {
        let picture = noise(7, 5);
        assert_eq!(resize(&picture, 7, 5, Filter::Bicubic), picture);
        assert_eq!(resize(&picture, 7, 5, Filter::Box), picture);
    }

    #[test]
    fn box_halving_is_the_mean_of_pairs_rounded_up_after_each_pass() {
        let picture = noise(6, 4);
        let half = resize(&picture, 3, 2, Filter::Box);
        let at = |x: usize, y: usize, c: usize| u32::from(picture.pixels()[(y * 6 + x) * 3 + c]);
        for (index, &value) in half.pixels().iter().enumerate() {
            let (x, y, c) = (index / 3 % 3, index / 9, index % 3);
            let pair = |row: usize| (at(2 * x, row, c) + at(2 * x + 1, row, c)).div_ceil(2);
            assert_eq!(u32::from(value), (pair(2 * y) + pair(2 * y + 1)).div_ceil(2));
        }
    }

    #[test]
    fn a_constant_picture_stays_constant_at_any_size() {
        let picture = RgbImage::new(13, 9, [3, 128, 255].repeat(117)).unwrap();
        for (width, height) in [(1, 1), (5, 31), (40, 2), (13, 27)] {
            for filter in [Filter::Box, Filter::Bicubic] {
                let pixels = resize(&picture, width, height, filter).into_pixels();
                assert_eq!(pixels, [3, 128, 255].repeat(width * height));
            }
        }
    }

    #[test]
    fn a_window_equals_the_cut_of_the_whole() {
        let picture = noise(11, 17);
        let whole = resize(&picture, 23, 9, Filter::Bicubic);
        let columns = Span { resized: 23, start: 4, len: 7 };
        let rows = Span { resized: 9, start: 2, len: 5 };
        let window = resize_window(&picture, columns, rows, Filter::Bicubic);
        for y in 0..5 {
            assert_eq!(window.row(y), &whole.row(y + 2)[4 * 3..11 * 3]);
        }
    }

    #[test]
    fn a_tall_picture_is_shortened_before_it_is_narrowed() {
        let tall = noise(9, 31);
        let in_two =
            |first: (usize, usize)| resize(&resize(&tall, first.0, first.1, Filter::Bicubic), 5, 17, Filter::Bicubic);
        let at_once = resize(&tall, 5, 17, Filter::Bicubic);
        assert_eq!(at_once, in_two((9, 17)));
        assert_ne!(at_once, in_two((5, 31)));
        assert!(!is_height_first([9, 5], [17, 9]), "exactly twice");
    }

    #[test]
    fn bicubic_weights_follow_the_kernel() {
        // Doubling: output 4 is centered at 2.25, so the distances are 1.75, 0.75, 0.25 and 1.25.
        let columns = taps(8, Span { resized: 16, start: 4, len: 1 }, Filter::Bicubic);
        let expected = [-0.023_437_5, 0.226_562_5, 0.867_187_5, -0.070_312_5].map(fixed_point);
        assert_eq!(columns[0].weights, expected);
    }
}
