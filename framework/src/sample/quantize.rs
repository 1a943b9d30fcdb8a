//! How values in [−1, 1] become bytes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Rule by which `255 · (x + 1)/2`, clamped to 0..255, becomes a whole number.
///
/// The published families differ, and the rule moves FID; keep the family's own when comparing with its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Quantization {
    /// The part before the point: REPA and iREPA `generate.py`. Darkens by half a level on average.
    #[default]
    Truncate,
    /// The part of `127.5 x + 128` before the point: SiT and MeanFlow.
    RoundHalfUp,
    /// The nearest number, the even one of two: JiT `engine_jit.py`.
    RoundHalfEven,
}

/// The byte of one value; NaN becomes 0.
///
/// ```
/// use realign::sample::{Quantization, quantize};
/// assert_eq!(quantize(0.0, Quantization::Truncate), 127); // 127.5
/// assert_eq!(quantize(0.0, Quantization::RoundHalfUp), 128);
/// ```
pub fn quantize(x: f32, rule: Quantization) -> u8 {
    let level = 255.0 * ((x + 1.0) / 2.0);
    // Casts of floats saturate and drop the fraction.
    match rule {
        Quantization::Truncate => level as u8,
        Quantization::RoundHalfUp => (127.5 * x + 128.0) as u8,
        Quantization::RoundHalfEven => level.clamp(0.0, 255.0).round_ties_even() as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_differ_where_the_published_code_does() {
        let of_level = |level: f32, rule| quantize(level / 127.5 - 1.0, rule);
        for (level, expected) in [(-9.0, [0, 0, 0]), (3.7, [3, 4, 4]), (200.3, [200, 200, 200]), (300.0, [255; 3])] {
            let found = [Quantization::Truncate, Quantization::RoundHalfUp, Quantization::RoundHalfEven]
                .map(|rule| of_level(level, rule));
            assert_eq!(found, expected, "{level}");
        }
        assert_eq!(quantize(0.0, Quantization::RoundHalfEven), 128); // 127.5 lies between an odd and an even number
        assert_eq!(quantize(f32::NAN, Quantization::RoundHalfEven), 0);
    }

    #[test]
    fn the_rules_have_the_names_of_recipes() {
        let names = |rule| serde_json::to_value(rule).unwrap();
        assert_eq!(names(Quantization::RoundHalfUp), "round_half_up");
        assert_eq!(names(Quantization::default()), "truncate");
    }
}
