//! Sizes of JiT.

use anyhow::{Result, bail, ensure};
use realign::nn::ParamBuilder;
use realign::plugin::{Backbone, BackboneConfig, BackboneContext, BackboneSpec, ConditionSpec, PatchGrid};
use realign::recipe::Check;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::network::JiT;
use crate::backbones::sizes::{Base, Keys, check_keys, pick};

/// A published size; each comes with patches of 16 and 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedSize {
    /// Name without patch size.
    pub name: &'static str,
    /// Number of blocks.
    pub depth: usize,
    /// Channels of the tokens.
    pub hidden_size: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Channels between the two layers of the patch embedding.
    pub bottleneck_size: usize,
    /// Blocks before the label tokens join.
    pub context_start: usize,
}

const fn size(
    name: &'static str,
    depth: usize,
    hidden_size: usize,
    num_heads: usize,
    bottleneck_size: usize,
    context_start: usize,
) -> PublishedSize {
    PublishedSize { name, depth, hidden_size, num_heads, bottleneck_size, context_start }
}

/// The published sizes.
pub const PUBLISHED_SIZES: [PublishedSize; 3] =
    [size("B", 12, 768, 12, 128, 4), size("L", 24, 1024, 16, 128, 8), size("H", 32, 1280, 16, 256, 10)];
const PUBLISHED_PATCHES: [usize; 2] = [16, 32];

/// `jit`: a transformer over pixels, conditioned through adaLN-zero and through label tokens.
///
/// Give `size`, or all of `hidden_size`, `depth`, `num_heads`, `patch_size`, `bottleneck_size` and `context_start`; a
/// single key overrides the size's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JiTConfig {
    /// Published size: `B/16`, `B/32`, `L/16`, `L/32`, `H/16`, `H/32`.
    pub size: Option<String>,
    /// Channels of the tokens, a multiple of 4 · `num_heads`.
    pub hidden_size: Option<usize>,
    /// Number of blocks.
    pub depth: Option<usize>,
    /// Attention heads.
    pub num_heads: Option<usize>,
    /// Side of a patch, in pixels.
    pub patch_size: Option<usize>,
    /// Channels between the two layers of the patch embedding.
    pub bottleneck_size: Option<usize>,
    /// Blocks before the label tokens join, 0 to `depth`.
    pub context_start: Option<usize>,
    /// Label tokens; 0 for none.
    #[schemars(range(min = 0, max = 4096))]
    pub num_context_tokens: usize,
    /// Width of the SwiGLU before its factor 2/3, in hidden sizes.
    pub mlp_ratio: f64,
    /// Factor on the time before its sinusoids; 1 is the published one, 1000 tells times apart early in short runs.
    pub time_scale: f64,
}

impl Default for JiTConfig {
    fn default() -> Self {
        Self {
            size: Some("B/16".into()),
            hidden_size: None,
            depth: None,
            num_heads: None,
            patch_size: None,
            bottleneck_size: None,
            context_start: None,
            num_context_tokens: 32,
            mlp_ratio: 4.0,
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
    /// Channels between the two layers of the patch embedding.
    pub bottleneck_size: usize,
    /// Blocks before the label tokens join.
    pub context_start: usize,
    /// Width of the SwiGLU.
    pub mlp_size: usize,
}

impl JiTConfig {
    fn published(&self) -> Option<(PublishedSize, usize)> {
        let (name, patch) = self.size.as_deref()?.split_once('/')?;
        let patch = PUBLISHED_PATCHES.into_iter().find(|known| known.to_string() == patch)?;
        Some((PUBLISHED_SIZES.into_iter().find(|size| size.name == name)?, patch))
    }

    fn base(&self) -> Result<(Base, Sizes)> {
        let published = self.published();
        if let (Some(size), None) = (&self.size, published) {
            bail!("size: unknown size `{size}`; known: {}", size_names().join(", "));
        }
        let published_base = published.map(|(size, patch_size)| Base {
            hidden_size: size.hidden_size,
            depth: size.depth,
            num_heads: size.num_heads,
            patch_size,
        });
        let Self { hidden_size, depth, num_heads, patch_size, .. } = *self;
        let base = Keys { hidden_size, depth, num_heads, patch_size }.resolve(published_base)?;
        let Base { hidden_size, depth, num_heads, patch_size } = base;
        let published = published.map(|published| published.0);
        let bottleneck_size =
            pick(self.bottleneck_size, published.map(|size| size.bottleneck_size), "bottleneck_size")?;
        let context_start = pick(self.context_start, published.map(|size| size.context_start), "context_start")?;
        ensure!(
            (1..=hidden_size).contains(&num_heads) && hidden_size.is_multiple_of(4 * num_heads),
            "hidden_size: `{hidden_size}` is not allowed; it must be a multiple of 4 · num_heads (`{num_heads}`) up to \
             65536: the rotary embedding turns pairs of channels for rows and for columns"
        );
        ensure!(
            (1..=65_536).contains(&bottleneck_size),
            "bottleneck_size: `{bottleneck_size}` is out of range; allowed is 1 to 65536"
        );
        ensure!(
            context_start <= depth,
            "context_start: `{context_start}` is out of range; allowed is 0 to the depth, {depth}"
        );
        ensure!(
            self.num_context_tokens <= 4096,
            "num_context_tokens: `{}` is out of range; allowed is 0 to 4096",
            self.num_context_tokens
        );
        // Truncated twice, as the reference does.
        let mlp_size = (base.mlp_size(self.mlp_ratio)? * 2 / 3).max(1);
        let sizes = Sizes { hidden_size, depth, num_heads, patch_size, bottleneck_size, context_start, mlp_size };
        Ok((base, sizes))
    }

    fn fit(&self, ctx: &BackboneContext) -> Result<(Sizes, PatchGrid, usize)> {
        let (base, sizes) = self.base()?;
        let grid = base.grid(ctx.input)?;
        let ConditionSpec::Labels { num_classes } = ctx.condition else {
            bail!("`jit` takes class labels, and the conditioner gives {}", ctx.condition.name());
        };
        Ok((sizes, grid, num_classes))
    }
}

fn size_names() -> Vec<String> {
    let patches = |size: &PublishedSize| PUBLISHED_PATCHES.map(|patch| format!("{}/{patch}", size.name));
    PUBLISHED_SIZES.iter().flat_map(patches).collect()
}

#[typetag::serde(name = "jit")]
impl BackboneConfig for JiTConfig {
    fn spec(&self, ctx: &BackboneContext) -> Result<BackboneSpec> {
        let (sizes, grid, _) = self.fit(ctx)?;
        let [patches, d, m] = [grid.tokens(), sizes.hidden_size, sizes.mlp_size].map(|size| size as f64);
        let patch = (ctx.input[0] * sizes.patch_size * sizes.patch_size) as f64;
        let bottleneck = sizes.bottleneck_size as f64;
        let (short, long) = (sizes.context_start as f64, (sizes.depth - sizes.context_start) as f64);
        let all = patches + self.num_context_tokens as f64;
        let block = |tokens: f64| tokens * (2.0 * (4.0 * d * d + 3.0 * d * m) + 4.0 * tokens * d);
        let num_times = if ctx.has_interval { 2.0 } else { 1.0 }; // t, and t - r where the objective passes r
        let per_sample = num_times * 2.0 * (256.0 * d + d * d) + sizes.depth as f64 * 2.0 * 6.0 * d * d + 4.0 * d * d;
        let ends = patches * 2.0 * (patch * bottleneck + bottleneck * d + d * patch);
        // Kept per token and block: both residual inputs; per norm its quotient, product and modulated result (3); qkv
        // (3); q and k divided, scaled and turned (3 each); attention in both layouts and its projection (3); both
        // halves of w12, SiLU of one, their product; w3. The backward pass holds as much as one and a half blocks more.
        let (stream, hidden) = (12.0 * d, 9.0 * d + 4.0 * m);
        let (blocks, beside) = (short * patches + long * all, 1.5 * all);
        // Recomputed blocks keep their input, and the backward pass holds one of them whole.
        let (inputs, whole) = if ctx.recomputes { (blocks * d, all + beside) } else { (0.0, blocks + beside) };
        Ok(BackboneSpec {
            grid,
            hidden_size: sizes.hidden_size,
            depth: sizes.depth,
            forward_flops: short * block(patches) + long * block(all) + ends + per_sample,
            saved_floats: inputs + whole * stream + patches * (4.0 * d + 2.0 * patch + bottleneck),
            saved_hidden: whole * hidden,
        })
    }

    fn build(&self, ctx: &BackboneContext, params: &ParamBuilder) -> Result<Box<dyn Backbone>> {
        let (sizes, grid, num_classes) = self.fit(ctx)?;
        Ok(Box::new(JiT::new(self, sizes, grid, num_classes, ctx, params)))
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
        check_keys(check, self.size.as_deref(), &size_names(), self.time_scale, self.base());
    }
}

realign::register!(BackboneConfig as "backbone": JiTConfig);

#[cfg(test)]
mod tests {
    use super::*;
    use realign::burn::tensor::Device;
    use realign::erase::Slot;
    use realign::plugin::BackboneKind;
    use realign::weights::parameters;

    fn pixels(side: usize) -> BackboneContext {
        BackboneContext {
            input: [3, side, side],
            condition: ConditionSpec::Labels { num_classes: 1000 },
            has_interval: false,
            recomputes: false,
        }
    }

    #[test]
    fn published_sizes_have_the_published_parameter_counts() {
        let expected = [
            ("B/16", 131_320_320, 131_123_712),
            ("B/32", 133_387_008, 133_190_400),
            ("L/16", 459_139_808, 458_877_664),
            ("L/32", 461_796_320, 461_534_176),
            ("H/16", 952_842_048, 952_514_368),
            ("H/32", 956_383_296, 956_055_616),
        ];
        for (name, all, trainable) in expected {
            let config = JiTConfig { size: Some(name.into()), ..Default::default() };
            let side = if name.ends_with("32") { 512 } else { 256 };
            let params = ParamBuilder::new(&Device::flex().autodiff(), 0);
            let slot = Slot::<BackboneKind>::new(config.build(&pixels(side), &params).unwrap());
            let mut counts = [0, 0];
            for param in parameters(&slot) {
                let count = param.shape.iter().product::<usize>();
                counts[0] += count;
                counts[1] += if param.is_trainable { count } else { 0 };
            }
            assert_eq!(counts, [all, trainable], "{name}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_is_allowed() {
        let message = |config: JiTConfig| format!("{:#}", config.spec(&pixels(256)).unwrap_err());
        assert!(message(JiTConfig { patch_size: Some(7), ..Default::default() }).contains("does not divide"));
        assert!(message(JiTConfig { num_heads: Some(5), ..Default::default() }).contains("multiple of 4 · num_heads"));
        assert!(message(JiTConfig { context_start: Some(13), ..Default::default() }).contains("0 to the depth, 12"));
        assert!(message(JiTConfig { size: Some("B/2".into()), ..Default::default() }).contains("known: B/16"));
    }
}
