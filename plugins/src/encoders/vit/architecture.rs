//! What distinguishes one vision transformer from another.

use anyhow::{Result, ensure};
use realign::nn::Resampling;
use realign::plugin::PatchGrid;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Sizes and variants of a pre-norm vision transformer. What neither preset nor recipe says is that of a plain one.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default)]
pub struct Architecture {
    /// Channels of the tokens.
    pub hidden_size: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Hidden width of a block's MLP; of one of both parts with `swi_glu`.
    pub mlp_size: usize,
    /// Activation of the MLP.
    pub activation: Activation,
    /// Whether a trained class token comes first.
    pub class_token: bool,
    /// Trained tokens between the class token and the patches; they have no position.
    pub num_registers: usize,
    /// What is done with the table of trained positions.
    pub positions: Positions,
    /// Side of that table, without the row of the class token.
    pub position_grid: usize,
    /// Rotation of queries and keys by their place.
    pub rotary: Rotary,
    /// Whether the patch embedding has a bias.
    pub patch_bias: bool,
    /// Biases of queries, keys and values.
    pub qkv_bias: QkvBias,
    /// Whether a LayerNorm comes before the first block.
    pub pre_norm: bool,
    /// Whether both branches of a block are scaled per channel before they are added.
    pub layer_scale: bool,
    /// Term beside the variance in every LayerNorm.
    pub norm_eps: f64,
    /// Whether the returned tokens pass the last LayerNorm.
    pub norm: bool,
    /// Whether the weight file brings mean and deviation of the pictures.
    pub input_conditioner: bool,
}

/// Activation of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x · Φ(x)`, exact.
    Gelu,
    /// GELU in its tanh form.
    GeluTanh,
    /// `x · sigmoid(1.702 x)`.
    QuickGelu,
    /// `silu(gate) · up`, from two parts of equal width.
    SwiGlu,
}

/// What is done with the table of trained positions when the run's grid is another one; on the same grid it is
/// used untouched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// There is no table.
    None,
    /// Another grid is refused.
    Fixed,
    /// Bilinear, without antialias.
    Bilinear,
    /// Bilinear to a square that covers the grid, then cut at the top left.
    BilinearCropped,
    /// Bicubic, without antialias.
    Bicubic,
    /// Bicubic with antialias, as timm.
    BicubicAntialias,
}

/// Rotation of queries and keys by their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rotary {
    /// None.
    None,
    /// DINOv3's: coordinates in -1..1 on each axis, patches only, halves of a head's channels as pairs.
    Dinov3,
    /// Perception Encoder's: rows and columns counted, neighboring channels as pairs.
    Perception,
}

/// Biases of queries, keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QkvBias {
    /// All three have one.
    Full,
    /// Keys have none.
    NoKey,
    /// None has one.
    None,
}

impl Default for Architecture {
    fn default() -> Self {
        Self {
            hidden_size: 0,
            depth: 0,
            num_heads: 0,
            patch_size: 0,
            mlp_size: 0,
            activation: Activation::Gelu,
            class_token: true,
            num_registers: 0,
            positions: Positions::BicubicAntialias,
            position_grid: 0,
            rotary: Rotary::None,
            patch_bias: true,
            qkv_bias: QkvBias::Full,
            pre_norm: false,
            layer_scale: false,
            norm_eps: 1e-6,
            norm: true,
            input_conditioner: false,
        }
    }
}

impl Architecture {
    /// Tokens before the patches.
    pub fn num_prefix(&self) -> usize {
        usize::from(self.class_token) + self.num_registers
    }

    /// Channels of one head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    /// Rows of the table of positions.
    pub fn position_rows(&self) -> usize {
        self.position_grid * self.position_grid + usize::from(self.class_token)
    }

    /// Number of parameters in the published file that its features depend on; nothing is allocated.
    pub fn num_parameters(&self) -> usize {
        let (d, m) = (self.hidden_size, self.mlp_size);
        let qkv_bias = match self.qkv_bias {
            QkvBias::Full => 3 * d,
            QkvBias::NoKey => 2 * d,
            QkvBias::None => 0,
        };
        let attention = 3 * d * d + qkv_bias + d * d + d;
        let mlp = match self.activation {
            Activation::SwiGlu => 3 * d * m + 2 * m + d,
            _ => 2 * d * m + m + d,
        };
        let scales = if self.layer_scale { 2 * d } else { 0 };
        let block = 4 * d + attention + mlp + scales;
        let table = if self.positions == Positions::None { 0 } else { self.position_rows() };
        let patch = 3 * self.patch_size * self.patch_size + usize::from(self.patch_bias);
        let norms = 2 * (usize::from(self.pre_norm) + usize::from(self.norm));
        d * (patch + self.num_prefix() + table + norms) + self.depth * block
    }

    /// Refuses sizes that do not fit together; the message begins with the key.
    ///
    /// # Errors
    /// The first key that cannot work.
    pub fn check(&self) -> Result<()> {
        let Self { hidden_size, num_heads, .. } = *self;
        let limits = [
            ("hidden_size", hidden_size, 65_536),
            ("depth", self.depth, 1000),
            ("num_heads", num_heads, hidden_size),
            ("patch_size", self.patch_size, 1024),
            ("mlp_size", self.mlp_size, 1 << 20),
        ];
        for (key, value, most) in limits {
            ensure!((1..=most).contains(&value), "{key}: `{value}` is out of range; allowed is 1 to {most}");
        }
        ensure!(
            hidden_size.is_multiple_of(num_heads),
            "num_heads: `{num_heads}` does not divide hidden_size `{hidden_size}`"
        );
        let head_dim = self.head_dim();
        ensure!(
            self.rotary == Rotary::None || head_dim.is_multiple_of(4),
            "rotary: heads of {head_dim} channels cannot be turned; their width must be a multiple of 4"
        );
        ensure!(
            self.num_registers <= 1024,
            "num_registers: `{}` is out of range; allowed is 0 to 1024",
            self.num_registers
        );
        ensure!(
            self.positions == Positions::None || (1..=1024).contains(&self.position_grid),
            "position_grid: `{}` is out of range; allowed is 1 to 1024",
            self.position_grid
        );
        ensure!(
            self.norm_eps > 0.0 && self.norm_eps <= 1.0,
            "norm_eps: `{}` is out of range; allowed is above 0 to 1",
            self.norm_eps
        );
        Ok(())
    }

    /// Refuses a grid that the table of positions cannot be brought to.
    ///
    /// # Errors
    /// Says which grid the table has.
    pub fn check_grid(&self, grid: PatchGrid) -> Result<()> {
        let side = self.position_grid;
        ensure!(
            self.positions != Positions::Fixed || grid == PatchGrid::new(side, side),
            "its table of positions is {side}x{side} and the grid {grid}; `positions: bicubic` resamples the table"
        );
        Ok(())
    }
}

impl Positions {
    /// The resampling of the table, where it is allowed.
    pub fn resampling(self) -> Option<Resampling> {
        match self {
            Self::None | Self::Fixed => None,
            Self::Bilinear | Self::BilinearCropped => Some(Resampling::Bilinear),
            Self::Bicubic => Some(Resampling::Bicubic),
            Self::BicubicAntialias => Some(Resampling::BicubicAntialias),
        }
    }
}
