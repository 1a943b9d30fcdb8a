//! Bilinear resizing of single picture planes on the host, as the encoders without weights do it.
//!
//! Half-pixel centers, edges repeated, no anti-aliasing: PyTorch's `interpolate(mode="bilinear")`.

/// The two values that a resized one lies between.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tap {
    /// Index of the first.
    pub low: usize,
    /// Index of the second.
    pub high: usize,
    /// Weight of the second, in `[0, 1)`.
    pub share: f32,
}

impl Tap {
    /// The value between the two.
    pub fn mix(&self, low: f32, high: f32) -> f32 {
        low * (1.0 - self.share) + high * self.share
    }
}

/// Taps of a resize from `from` values to `to`.
pub fn taps(from: usize, to: usize) -> Vec<Tap> {
    let scale = from as f32 / to as f32;
    let tap = |i: usize| {
        let at = ((i as f32 + 0.5) * scale - 0.5).max(0.0);
        let low = (at as usize).min(from.saturating_sub(1));
        Tap { low, high: (low + 1).min(from.saturating_sub(1)), share: at - low as f32 }
    };
    (0..to).map(tap).collect()
}

/// Three planes resized to a square of side `size` and joined pixel by pixel into one plane.
///
/// # Shapes
/// * `planes`: `[3, height, width]`; result: `[size, size]`
pub fn join_planes(
    planes: &[f32],
    [height, width]: [usize; 2],
    size: usize,
    join: impl Fn([f32; 3]) -> f32,
) -> Vec<f32> {
    let (rows, columns) = (taps(height, size), taps(width, size));
    let value = |plane: usize, row: &Tap, column: &Tap| {
        let line = |row: usize| &planes[(plane * height + row) * width..][..width];
        let (low, high) = (line(row.low), line(row.high));
        row.mix(column.mix(low[column.low], low[column.high]), column.mix(high[column.low], high[column.high]))
    };
    let pixels = rows.iter().flat_map(|row| columns.iter().map(move |column| (row, column)));
    pixels.map(|(row, column)| join([0, 1, 2].map(|plane| value(plane, row, column)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resizing_interpolates_between_half_pixel_centers() {
        assert_eq!(taps(4, 2), [Tap { low: 0, high: 1, share: 0.5 }, Tap { low: 2, high: 3, share: 0.5 }]);
        assert_eq!(
            taps(5, 5).iter().map(|tap| (tap.low, tap.share)).collect::<Vec<_>>(),
            [0, 1, 2, 3, 4].map(|i| (i, 0.0))
        );
        assert!(taps(1, 3).iter().all(|tap| (tap.low, tap.high) == (0, 0)));
    }

    #[test]
    fn planes_are_joined_in_their_order() {
        let planes: Vec<f32> = [1.0, 20.0, 300.0].iter().flat_map(|&value| [value; 3 * 5]).collect();
        let found = join_planes(&planes, [3, 5], 7, |[red, green, blue]| blue - green - red);
        assert!(found.len() == 49 && found.iter().all(|value| (value - 279.0).abs() < 1e-4), "{found:?}");
    }
}
