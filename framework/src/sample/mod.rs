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
