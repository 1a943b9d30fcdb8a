//! Sizes of MMDiT.

use anyhow::{Result, bail, ensure};
use realign::nn::ParamBuilder;
use realign::plugin::{Backbone, BackboneConfig, BackboneContext, BackboneSpec, ConditionSpec, PatchGrid};
use realign::recipe::Check;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::network::MmDit;
use crate::backbones::sizes::{Base, Keys, check_keys};

/// The one published size: 24 blocks of width 32 · 24 with 24 heads, patches of 2.
pub const PUBLISHED_SIZE: &str = "D24/2";
const PUBLISHED: Base = Base { hidden_size: 768, depth: 24, num_heads: 24, patch_size: 2 };
const SWIGLU_MULTIPLE: usize = 256; // the reference rounds the width of a SwiGLU up to a multiple of this

/// `mmdit`: image and text tokens in joint attention, conditioned on time through adaLN.
///
/// Give `size`, or all of `hidden_size`, `depth`, `num_heads` and `patch_size`; a single key overrides the size's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MmDitConfig {
    /// Published size: `D24/2`.
    pub size: Option<String>,
    /// Channels of the tokens, a multiple of 4 and of `num_heads`; 32 · `depth` in the published size.
    pub hidden_size: Option<usize>,
    /// Number of joint blocks.
    pub depth: Option<usize>,
    /// Attention heads; as many as blocks in the published size.
    pub num_heads: Option<usize>,
    /// Side of a patch, in samples of the input.
    pub patch_size: Option<usize>,
    /// Hidden width of a block's MLP, in hidden sizes; a SwiGLU takes two thirds of it, up to a multiple of 256.
    pub mlp_ratio: f64,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Norm of queries and keys per head.
    pub qk_norm: QkNorm,
    /// Norm in front of attention and MLP, without parameters.
    pub norm: MmDitNorm,
    /// MLP of the blocks.
    pub mlp: MmDitMlp,
    /// Trained tokens that stand before the text's.
    #[schemars(range(min = 0, max = 4096))]
    pub num_registers: usize,
    /// Side of the position table, in patches; smaller grids take its center.
    #[schemars(range(min = 1, max = 1024))]
    pub position_side: usize,
    /// Whether modulations and the last layer start at zero, as in DiT and SD3; REPA leaves PyTorch's defaults.
    pub zero_init_adaln: bool,
    /// Factor on the time before its sinusoids; 1 is the published one, 1000 tells times apart early in short runs.
    pub time_scale: f64,
}

/// Norm of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QkNorm {
    /// None, as published.
    #[default]
    None,
    /// RMSNorm with a weight.
    Rms,
    /// LayerNorm with weight and bias.
    Layer,
}

/// Norm in front of attention and MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MmDitNorm {
    /// LayerNorm, as published.
    #[default]
    Layer,
    /// RMSNorm.
    Rms,
}

/// MLP of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MmDitMlp {
    /// Two layers with GELU between, as published.
    #[default]
    Gelu,
    /// SwiGLU without biases.
    Swiglu,
}

impl Default for MmDitConfig {
    fn default() -> Self {
        Self {
            size: Some(PUBLISHED_SIZE.into()),
            hidden_size: None,
            depth: None,
            num_heads: None,
            patch_size: None,
            mlp_ratio: 4.0,
            qkv_bias: true,
            qk_norm: QkNorm::None,
            norm: MmDitNorm::Layer,
            mlp: MmDitMlp::Gelu,
            num_registers: 0,
            position_side: 16,
            zero_init_adaln: false,
            time_scale: 1.0,
        }
    }
}

/// All sizes, worked out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sizes {
    /// Channels of the tokens.
    pub hidden_size: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Side of a patch.
    pub patch_size: usize,
    /// Hidden width of a block's MLP.
    pub mlp_size: usize,
    /// Channels of the text's features.
    pub text_channels: usize,
    /// The patches' grid.
    pub grid: PatchGrid,
}

impl MmDitConfig {
    fn base(&self) -> Result<(Base, usize)> {
        let published = match self.size.as_deref() {
            Some(PUBLISHED_SIZE) => Some(PUBLISHED),
            Some(size) => bail!("size: unknown size `{size}`; known: {PUBLISHED_SIZE}"),
            None => None,
        };
        let Self { hidden_size, depth, num_heads, patch_size, .. } = *self;
        let base = Keys { hidden_size, depth, num_heads, patch_size }.resolve(published)?;
        base.check_heads()?;
        let mlp_size = base.mlp_size(self.mlp_ratio)?;
        for (key, value, low, high) in
            [("num_registers", self.num_registers, 0, 4096), ("position_side", self.position_side, 1, 1024)]
        {
            ensure!((low..=high).contains(&value), "{key}: `{value}` is out of range; allowed is {low} to {high}");
        }
        Ok((base, mlp_size))
    }

    /// The network itself, for whoever looks into it.
    ///
    /// # Errors
    /// The input or condition does not fit.
    pub fn network(&self, ctx: &BackboneContext, params: &ParamBuilder) -> Result<MmDit> {
        let (sizes, _) = self.fit(ctx)?;
        Ok(MmDit::new(self, sizes, ctx, params))
    }

    fn fit(&self, ctx: &BackboneContext) -> Result<(Sizes, usize)> {
        let (base, mlp_size) = self.base()?;
        let grid = base.grid(ctx.input)?;
        ensure!(
            grid.rows.max(grid.columns) <= self.position_side,
            "the grid of {grid} patches is larger than the position table; raise position_side (`{}`) or patch_size",
            self.position_side
        );
        let ConditionSpec::Text { tokens, channels } = ctx.condition else {
            bail!(
                "`mmdit` takes text, and the conditioner gives {}; it needs data with captions and a conditioner of \
                 text",
                ctx.condition.name()
            );
        };
        let Base { hidden_size, depth, num_heads, patch_size } = base;
        let mlp_size = match self.mlp {
            MmDitMlp::Gelu => mlp_size,
            MmDitMlp::Swiglu => (mlp_size * 2 / 3).max(1).next_multiple_of(SWIGLU_MULTIPLE),
        };
        Ok((Sizes { hidden_size, depth, num_heads, patch_size, mlp_size, text_channels: channels, grid }, tokens))
    }
}

#[typetag::serde(name = "mmdit")]
impl BackboneConfig for MmDitConfig {
    fn spec(&self, ctx: &BackboneContext) -> Result<BackboneSpec> {
        let (sizes, text_tokens) = self.fit(ctx)?;
        let [d, m, depth] = [sizes.hidden_size, sizes.mlp_size, sizes.depth].map(|size| size as f64);
        let [patches, text] = [sizes.grid.tokens(), text_tokens + self.num_registers].map(|size| size as f64);
        let patch = (ctx.input[0] * sizes.patch_size * sizes.patch_size) as f64;
        let (products, [mlp_hidden, mlp_floats]) = match self.mlp {
            MmDitMlp::Gelu => (2.0, [2.0 * m, 0.0]),
            MmDitMlp::Swiglu => (3.0, [0.0, 4.0 * m]),
        };
        let [qkv, rest] = [3.0 * d * d, d * d + products * d * m];
        let tokens = patches + text;
        // The last block has no text behind its attention.
        let linear = 2.0 * (depth * tokens * (qkv + rest) - text * rest);
        let attention = depth * 4.0 * tokens * tokens * d;
        let ends = 4.0 * patches * patch * d + 2.0 * text_tokens as f64 * sizes.text_channels as f64 * d;
        let num_times = if ctx.has_interval { 2.0 } else { 1.0 }; // t, and t - r where the objective passes r
        let modulations = 2.0 * d * d * (depth * 12.0 - 4.0 + 2.0);
        // As in SiT: both residual inputs, both norm outputs, qkv (3), attention, projection, MLP with its result;
        // once more qkv and attention, whose streams are joined and split by copies.
        let qk_norm = if self.qk_norm == QkNorm::None { 0.0 } else { 7.0 * d };
        let norm = if self.norm == MmDitNorm::Layer { 0.0 } else { 4.0 * d };
        let (stream, hidden) = (2.0 * d + mlp_floats + qk_norm + norm, 12.0 * d + mlp_hidden);
        let per_sample = num_times * 2.0 * (256.0 * d + d * d) + modulations;
        // Recomputed blocks keep their input, and the backward pass holds one of them whole.
        let (inputs, whole) = if ctx.recomputes { (depth * d, 1.0) } else { (0.0, depth) };
        Ok(BackboneSpec {
            grid: sizes.grid,
            hidden_size: sizes.hidden_size,
            depth: sizes.depth,
            forward_flops: linear + attention + ends + per_sample,
            saved_floats: tokens * (inputs + whole * stream) + depth * 13.0 * d + patches * (3.0 * d + 2.0 * patch),
            saved_hidden: tokens * whole * hidden,
        })
    }

    fn build(&self, ctx: &BackboneContext, params: &ParamBuilder) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(self.network(ctx, params)?))
    }

    fn accepts_interval(&self) -> bool {
        true
    }

    fn can_recompute(&self) -> bool {
        true
    }

    fn time_scale(&self) -> f64 {
        self.time_scale
    }

    fn validate(&self, check: &mut Check<'_>) {
        check_keys(check, self.size.as_deref(), &[PUBLISHED_SIZE.into()], self.time_scale, self.base());
    }
}

realign::register!(BackboneConfig as "backbone": MmDitConfig);

#[cfg(test)]
mod tests {
    use super::*;
    use realign::burn::tensor::Device;
    use realign::erase::Slot;
    use realign::plugin::BackboneKind;
    use realign::weights::parameters;

    const LATENT: BackboneContext = BackboneContext {
        input: [4, 32, 32],
        condition: ConditionSpec::Text { tokens: 77, channels: 768 },
        has_interval: false,
        recomputes: false,
    };

    #[test]
    fn the_published_size_has_the_published_parameter_count() {
        let params = ParamBuilder::new(&Device::flex().autodiff(), 0);
        let slot = Slot::<BackboneKind>::new(MmDitConfig::default().build(&LATENT, &params).unwrap());
        let trained = parameters(&slot).into_iter().filter(|param| param.is_trainable);
        let count: usize = trained.map(|param| param.shape.iter().product::<usize>()).sum();
        // The position table is a buffer and does not count.
        assert_eq!(count, 505_070_608);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_is_allowed() {
        let message = |config: MmDitConfig, ctx: BackboneContext| format!("{:#}", config.spec(&ctx).unwrap_err());
        let config = MmDitConfig { patch_size: Some(5), ..Default::default() };
        assert!(message(config, LATENT).contains("`5` does not divide the input of 32x32"));
        let config = MmDitConfig { size: Some("XL/2".into()), ..Default::default() };
        assert!(message(config, LATENT).contains("unknown size `XL/2`; known: D24/2"));
        let config = MmDitConfig { size: None, ..Default::default() };
        assert!(message(config, LATENT).contains("`hidden_size` is missing"));
        let labels = BackboneContext { condition: ConditionSpec::Labels { num_classes: 7 }, ..LATENT };
        assert!(message(MmDitConfig::default(), labels).contains("takes text, and the conditioner gives class labels"));
        let large = BackboneContext { input: [4, 64, 64], ..LATENT };
        assert!(message(MmDitConfig::default(), large).contains("raise position_side (`16`)"));
        MmDitConfig { position_side: 32, ..Default::default() }.spec(&large).unwrap();
    }

    #[test]
    fn a_swiglu_is_rounded_up_as_the_reference_does() {
        let config = MmDitConfig { mlp: MmDitMlp::Swiglu, mlp_ratio: 2.0, ..Default::default() };
        assert_eq!(config.fit(&LATENT).unwrap().0.mlp_size, 1024);
        let config = MmDitConfig { hidden_size: Some(384), ..config };
        assert_eq!(config.fit(&LATENT).unwrap().0.mlp_size, 512);
    }
}
