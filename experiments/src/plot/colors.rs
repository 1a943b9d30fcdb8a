//! Colors of figures.

use plotters::style::RGBColor;

/// Text and axes.
pub const INK: RGBColor = RGBColor(38, 42, 48);
/// Grid lines and frames.
pub const PALE: RGBColor = RGBColor(225, 228, 232);
/// Marks that must be seen on any ground.
pub const RED: RGBColor = RGBColor(226, 34, 42);
/// What was measured.
pub(super) const BLUE: RGBColor = RGBColor(45, 105, 170);

/// Colors of lines that are told apart (Okabe and Ito, 2008, without yellow), in turn.
pub fn series(i: usize) -> RGBColor {
    const COLORS: [[u8; 3]; 7] =
        [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [86, 180, 233], [230, 159, 0], [90, 90, 90]];
    let [red, green, blue] = COLORS[i % COLORS.len()];
    RGBColor(red, green, blue)
}

/// Every 32nd color of viridis (Smith and van der Walt, 2015), and its last.
const STOPS: [[u8; 3]; 9] = [
    [68, 1, 84],
    [71, 44, 122],
    [59, 81, 139],
    [44, 113, 142],
    [33, 144, 141],
    [39, 173, 129],
    [92, 200, 99],
    [170, 220, 50],
    [253, 231, 37],
];

/// The color of a value in 0..1 on the scale viridis; what is outside takes the color of the nearer end.
pub fn viridis(value: f64) -> [u8; 3] {
    let scaled = value.clamp(0.0, 1.0) * (STOPS.len() - 1) as f64; // NaN stays NaN, and becomes stop 0
    let below = (scaled as usize).min(STOPS.len() - 2);
    let share = if scaled.is_nan() { 0.0 } else { scaled - below as f64 };
    let between = |channel: usize| {
        let [low, high] = [STOPS[below][channel], STOPS[below + 1][channel]].map(f64::from);
        (low + (high - low) * share).round() as u8
    };
    [0, 1, 2].map(between)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn viridis_runs_from_violet_to_yellow_and_gets_lighter_all_the_way() {
        assert_eq!([viridis(0.0), viridis(1.0)], [[68, 1, 84], [253, 231, 37]]);
        assert_eq!([viridis(-3.0), viridis(7.0), viridis(f64::NAN)], [viridis(0.0), viridis(1.0), viridis(0.0)]);
        let light = |[r, g, b]: [u8; 3]| 0.3 * f64::from(r) + 0.59 * f64::from(g) + 0.11 * f64::from(b);
        assert!((0..100).all(|i| light(viridis(f64::from(i) / 100.0)) < light(viridis(f64::from(i + 1) / 100.0))));
    }
}
