//! From values in [-1, 1] to bytes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How values become bytes; families of published code differ, by half a level on average.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Quantization {
    /// `255 (x + 1) / 2`, cut off: REPA, iREPA.
    #[default]
    Truncate,
    /// `127.5 x + 128`, cut off: the original SiT.
    RoundHalfUp,
    /// `255 (x + 1) / 2`, rounded half to even: JiT.
    RoundHalfEven,
}

/// The byte of a value, -1 black and 1 white; values outside are clamped and NaN is black.
pub fn quantize(value: f32, how: Quantization) -> u8 {
    let level = 255.0 * (value + 1.0) / 2.0;
    let level = match how {
        Quantization::Truncate => level.clamp(0.0, 255.0),
        Quantization::RoundHalfUp => (127.5 * value + 128.0).clamp(0.0, 255.0),
        Quantization::RoundHalfEven => level.clamp(0.0, 255.0).round_ties_even(),
    };
    level as u8 // in range; the cast cuts off and maps NaN to 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_ways_differ_where_they_should() {
        let at = |value| {
            [Quantization::Truncate, Quantization::RoundHalfUp, Quantization::RoundHalfEven]
                .map(|how| quantize(value, how))
        };
        assert_eq!(at(-1.0), [0, 0, 0]);
        assert_eq!(at(1.0), [255, 255, 255]);
        assert_eq!(at(0.0), [127, 128, 128]);
        assert_eq!(at(9.0), [255, 255, 255]);
        assert_eq!(at(f32::NAN)[0], 0);
    }
}
