//! TODO
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How values in [-1, 1] become bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Quantization {
    /// `255 (x + 1) / 2`, cut off.
    #[default]
    Truncate,
}

/// Noise.
pub fn image_noise(seed: u64, index: u64, stream: &str, count: usize) -> Vec<f32> {
    crate::streams::Streams::new(seed).at(index, 0).normal(&format!("sample/{stream}"), count)
}

/// Byte of a value.
pub fn quantize(value: f32, _how: Quantization) -> u8 {
    (255.0 * (value + 1.0) / 2.0).clamp(0.0, 255.0) as u8
}
