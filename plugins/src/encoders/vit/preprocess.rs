//! From pictures in 0..255 to what a vision transformer was trained on.

use realign::burn::tensor::Tensor;
use realign::nn::Resampling;
use realign::ops;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How pictures become pixels of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Preprocessing {
    /// Mean and deviation of the colors.
    pub normalization: Normalization,
    /// Whether colors are normalized before the resize; it decides rounding only.
    pub normalize_first: bool,
    /// How the pictures get the network's size.
    pub resize: Resampling,
}

/// Mean and deviation of the colors, in 0..1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Normalization {
    /// Colors stay in 0..1.
    None,
    /// ImageNet's.
    Imagenet,
    /// CLIP's.
    Clip,
    /// One half and one half.
    Half,
}

impl Normalization {
    /// Mean and deviation of red, green and blue.
    pub fn constants(self) -> [[f32; 3]; 2] {
        match self {
            Self::None => [[0.0; 3], [1.0; 3]],
            Self::Imagenet => [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]],
            Self::Clip => [[0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1]],
            Self::Half => [[0.5; 3], [0.5; 3]],
        }
    }

    fn apply(self, pictures: Tensor<4>) -> Tensor<4> {
        if self == Self::None {
            return pictures;
        }
        let device = pictures.device();
        let constant = |values: [f32; 3]| ops::upload(&values, [1, 3, 1, 1], &device);
        let [mean, deviation] = self.constants().map(constant);
        (pictures - mean) / deviation
    }
}

impl Default for Preprocessing {
    fn default() -> Self {
        Self { normalization: Normalization::Imagenet, normalize_first: false, resize: Resampling::Bicubic }
    }
}

impl Preprocessing {
    /// In words: `normalized (imagenet), then resized (bicubic)`.
    pub fn describe(self) -> String {
        let resized = format!("resized ({})", word(&self.resize));
        let normalized = match self.normalization {
            Normalization::None => "left to the network".into(),
            normalization => format!("normalized ({})", word(&normalization)),
        };
        let [first, second] = if self.normalize_first { [normalized, resized] } else { [resized, normalized] };
        format!("{first}, then {second}")
    }

    /// # Shapes
    /// * `pictures`: `[batch, 3, height, width]` in 0..255
    /// * result: `[batch, 3, size[0], size[1]]`
    pub fn apply(self, pictures: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
        let pictures = pictures / 255.0;
        match self.normalize_first {
            true => self.resize.resize(self.normalization.apply(pictures), size),
            false => self.normalization.apply(self.resize.resize(pictures, size)),
        }
    }
}

/// A setting's word in a recipe.
fn word(setting: &impl Serialize) -> String {
    serde_yaml::to_string(setting).unwrap_or_default().trim().into()
}
