//! The two passes of 8-bit resampling, for the widest registers that the processor has.
//!
//! Sums are of integers, so every width gives the same bytes.

use std::ops::Range;

/// Bits behind the point of a weight: 32 bits less 8 for the pixel and 2 for overshoot.
pub const PRECISION_BITS: u32 = 22;
const HALF: i32 = 1 << (PRECISION_BITS - 1);
const ROWS: usize = 16; // that the pass along columns takes at once
const LANES: usize = 3 * ROWS; // bytes that either pass takes at once
const PART: usize = 16; // sums that stay in registers

/// Where an output pixel's taps begin, and their fixed-point weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taps {
    /// Index of the first pixel.
    pub first: usize,
    /// One weight for each pixel, with [`PRECISION_BITS`] behind the point.
    pub weights: Vec<i32>,
}

/// The pixels that some taps touch.
pub fn covered(taps: &[Taps]) -> Range<usize> {
    let first = taps.iter().map(|taps| taps.first).min().unwrap_or(0);
    first..taps.iter().map(|taps| taps.first + taps.weights.len()).max().unwrap_or(first)
}

/// Rows of RGB pixels of another width.
///
/// # Shapes
/// * `source`: rows of `width` pixels of 3 bytes; result: as many rows of `columns.len()` pixels
pub fn resample_columns(source: &[u8], width: usize, columns: &[Taps]) -> Vec<u8> {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the instructions.
        return unsafe { columns_avx2(source, width, columns) };
    }
    columns_of_rows(source, width, columns)
}

/// A stretch of every row, at another height.
///
/// # Shapes
/// * `source`: rows of `row_bytes` bytes, the first of which is row `first_row` of the picture
/// * `bytes`: the stretch of a row; result: `rows.len()` rows of as many bytes
pub fn resample_rows(source: &[u8], row_bytes: usize, bytes: Range<usize>, first_row: usize, rows: &[Taps]) -> Vec<u8> {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the instructions.
        return unsafe { rows_avx2(source, row_bytes, bytes, first_row, rows) };
    }
    rows_of_bytes(source, row_bytes, bytes, first_row, rows)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn columns_avx2(source: &[u8], width: usize, columns: &[Taps]) -> Vec<u8> {
    columns_of_rows(source, width, columns)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn rows_avx2(source: &[u8], row_bytes: usize, bytes: Range<usize>, first_row: usize, rows: &[Taps]) -> Vec<u8> {
    rows_of_bytes(source, row_bytes, bytes, first_row, rows)
}

#[inline(always)]
fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

#[inline(always)]
fn columns_of_rows(source: &[u8], width: usize, columns: &[Taps]) -> Vec<u8> {
    let (row_bytes, new_bytes) = (width * 3, columns.len() * 3);
    let covered = covered(columns);
    let mut pixels = vec![0; source.len() / row_bytes.max(1) * new_bytes];
    // Pixel by pixel the same place of some rows side by side, so that sums over columns are sums of whole places.
    let mut beside = vec![[0; LANES]; covered.len()];
    for (lines, out) in source.chunks(row_bytes * ROWS).zip(pixels.chunks_mut(new_bytes * ROWS)) {
        for (row, line) in lines.chunks_exact(row_bytes).enumerate() {
            let line = &line[covered.start * 3..covered.end * 3];
            for (place, pixel) in beside.iter_mut().zip(line.as_chunks::<3>().0) {
                place[row * 3..row * 3 + 3].copy_from_slice(pixel);
            }
        }
        for (column, taps) in columns.iter().enumerate() {
            let bytes = weighted(beside[taps.first - covered.start..].iter(), &taps.weights);
            for (row, line) in out.chunks_exact_mut(new_bytes).enumerate() {
                line[column * 3..column * 3 + 3].copy_from_slice(&bytes[row * 3..row * 3 + 3]);
            }
        }
    }
    pixels
}

/// Weighted sums over places of the bytes in them.
#[inline(always)]
fn weighted<'a>(places: impl Iterator<Item = &'a [u8; LANES]> + Clone, weights: &[i32]) -> [u8; LANES] {
    let mut bytes = [0; LANES];
    for (part, bytes) in bytes.as_chunks_mut::<PART>().0.iter_mut().enumerate() {
        let mut sums = [HALF; PART];
        for (place, weight) in places.clone().zip(weights) {
            for (sum, value) in sums.iter_mut().zip(&place[part * PART..(part + 1) * PART]) {
                *sum += i32::from(*value) * weight;
            }
        }
        for (byte, sum) in bytes.iter_mut().zip(sums) {
            *byte = to_byte(sum);
        }
    }
    bytes
}

#[inline(always)]
fn rows_of_bytes(source: &[u8], row_bytes: usize, bytes: Range<usize>, first_row: usize, rows: &[Taps]) -> Vec<u8> {
    let mut pixels = vec![0; rows.len() * bytes.len()];
    for (taps, out) in rows.iter().zip(pixels.chunks_exact_mut(bytes.len().max(1))) {
        let lines = &source[(taps.first - first_row) * row_bytes..];
        let (whole, rest) = out.as_chunks_mut::<LANES>();
        let mut at = bytes.start;
        for out in whole {
            let places = lines.chunks_exact(row_bytes).filter_map(|line| line[at..].first_chunk());
            *out = weighted(places, &taps.weights);
            at += LANES;
        }
        for (out, at) in rest.iter_mut().zip(at..) {
            let lines = lines.chunks_exact(row_bytes).zip(&taps.weights);
            *out = to_byte(HALF + lines.map(|(line, weight)| i32::from(line[at]) * weight).sum::<i32>());
        }
    }
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taps() -> Vec<Taps> {
        let tap = |first: usize, weights: &[f64]| {
            let fixed = |weight: &f64| (weight * f64::from(1 << PRECISION_BITS)) as i32;
            Taps { first, weights: weights.iter().map(fixed).collect() }
        };
        vec![tap(2, &[0.5, 0.5]), tap(3, &[-0.25, 1.5, -0.25]), tap(5, &[1.0]), tap(1, &[0.1, 0.2, 0.3, 0.4])]
    }

    fn expected(values: [u8; 4], weights: &[i32]) -> u8 {
        to_byte(HALF + values.iter().zip(weights).map(|(value, weight)| i32::from(*value) * weight).sum::<i32>())
    }

    #[test]
    fn every_width_of_registers_gives_the_bytes_of_the_definition() {
        let (width, height) = (19usize, 37usize); // no multiples of what is taken at once, and more of it
        let source: Vec<u8> = (0..width * height * 3).map(|i| (i * 37 % 251) as u8).collect();
        let at = |x: usize, y: usize, channel: usize| source.get((y * width + x) * 3 + channel).copied().unwrap_or(0);
        let taps = taps();
        let narrow = resample_columns(&source, width, &taps);
        assert_eq!(narrow, columns_of_rows(&source, width, &taps));
        for (i, byte) in narrow.iter().enumerate() {
            let (channel, x, y) = (i % 3, i / 3 % taps.len(), i / 3 / taps.len());
            let Taps { first, weights } = &taps[x];
            assert_eq!(*byte, expected([0, 1, 2, 3].map(|k| at(first + k, y, channel)), weights));
        }
        let stretch = 2..width * 3;
        let low = resample_rows(&source[width * 3..], width * 3, stretch.clone(), 1, &taps);
        assert_eq!(low, rows_of_bytes(&source[width * 3..], width * 3, stretch.clone(), 1, &taps));
        for (i, byte) in low.iter().enumerate() {
            let (place, y) = (i % stretch.len() + stretch.start, i / stretch.len());
            let Taps { first, weights } = &taps[y];
            assert_eq!(*byte, expected([0, 1, 2, 3].map(|k| at(place / 3, first + k, place % 3)), weights));
        }
    }

    #[test]
    fn what_taps_cover_is_from_the_first_to_the_last() {
        assert_eq!(covered(&taps()), 1..6);
        assert_eq!(covered(&[]), 0..0);
    }
}
