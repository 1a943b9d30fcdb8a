//! Sizes of SiT.

use anyhow::{Result, bail, ensure};
use realign::nn::ParamBuilder;
use realign::plugin::{Backbone, BackboneConfig, BackboneContext, BackboneSpec, ConditionSpec, PatchGrid};
use realign::recipe::Check;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::network::SiT;
use crate::backbones::sizes::{Base, Keys, check_keys};

/// Name, depth, hidden size and heads of the published sizes; each comes with patches of 2, 4 and 8.
pub const PUBLISHED_SIZES: [(&str, usize, usize, usize); 4] =
    [("S", 12, 384, 6), ("B", 12, 768, 12), ("L", 24, 1024, 16), ("XL", 28, 1152, 16)];
const PUBLISHED_PATCHES: [usize; 3] = [2, 4, 8];

/// `sit`: transformer blocks over patches, conditioned through adaLN-zero on time and class label.
///
/// Give `size`, or all of `hidden_size`, `depth`, `num_heads` and `patch_size`; a single key overrides the size's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SiTConfig {
    /// Published size: `S/2`, `S/4`, `S/8`, `B/2` to `XL/8`.
    pub size: Option<String>,
    /// Channels of the tokens, a multiple of 4 and of `num_heads`.
    pub hidden_size: Option<usize>,
    /// Number of blocks.
    pub depth: Option<usize>,
    /// Attention heads.
    pub num_heads: Option<usize>,
    /// Side of a patch, in samples of the input.
    pub patch_size: Option<usize>,
    /// Hidden width of a block's MLP, in hidden sizes.
    pub mlp_ratio: f64,
    /// Whether queries and keys pass a LayerNorm per head.
    pub qk_norm: bool,
    /// Factor on the time before its sinusoids; 1 is the published one, 1000 tells times apart early in short runs.
    pub time_scale: f64,
    /// Whether the network's own time runs from noise to data, as in the original SiT: it is then given `1 - t`, and its
    /// velocity is turned around.
    pub time_reversed: bool,
}

impl Default for SiTConfig {
    fn default() -> Self {
        Self {
            size: Some("B/2".into()),
            hidden_size: None,
            depth: None,
            num_heads: None,
            patch_size: None,
            mlp_ratio: 4.0,
            qk_norm: false,
            time_scale: 1.0,
            time_reversed: false,
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
}

impl SiTConfig {
    fn published(&self) -> Option<Base> {
        let (name, patch) = self.size.as_deref()?.split_once('/')?;
        let patch_size = PUBLISHED_PATCHES.into_iter().find(|known| known.to_string() == patch)?;
        let (_, depth, hidden_size, num_heads) = PUBLISHED_SIZES.into_iter().find(|size| size.0 == name)?;
        Some(Base { hidden_size, depth, num_heads, patch_size })
    }

    fn base(&self) -> Result<(Base, usize)> {
        let published = self.published();
        if let (Some(size), None) = (&self.size, published) {
            bail!("size: unknown size `{size}`; known: {}", size_names().join(", "));
        }
        let Self { hidden_size, depth, num_heads, patch_size, .. } = *self;
        let base = Keys { hidden_size, depth, num_heads, patch_size }.resolve(published)?;
        base.check_heads()?;
        Ok((base, base.mlp_size(self.mlp_ratio)?))
    }

    fn fit(&self, ctx: &BackboneContext) -> Result<(Sizes, PatchGrid, usize)> {
        let (base, mlp_size) = self.base()?;
        let grid = base.grid(ctx.input)?;
        ensure!(
            !(self.time_reversed && ctx.has_interval),
            "time_reversed turns instants around, and the objective trains over intervals; set it to false"
        );
        let ConditionSpec::Labels { num_classes } = ctx.condition else {
            bail!("`sit` takes class labels, and the conditioner gives {}", ctx.condition.name());
        };
        let Base { hidden_size, depth, num_heads, patch_size } = base;
        Ok((Sizes { hidden_size, depth, num_heads, patch_size, mlp_size }, grid, num_classes))
    }
}

fn size_names() -> Vec<String> {
    let patches = |name| PUBLISHED_PATCHES.map(|patch| format!("{name}/{patch}"));
    PUBLISHED_SIZES.iter().flat_map(|size| patches(size.0)).collect()
}

#[typetag::serde(name = "sit")]
impl BackboneConfig for SiTConfig {
    fn spec(&self, ctx: &BackboneContext) -> Result<BackboneSpec> {
        let (sizes, grid, _) = self.fit(ctx)?;
        let [tokens, d, m] = [grid.tokens(), sizes.hidden_size, sizes.mlp_size].map(|size| size as f64);
        let (depth, patch) = (sizes.depth as f64, (ctx.input[0] * sizes.patch_size * sizes.patch_size) as f64);
        let per_token = 2.0 * (4.0 * d * d + 2.0 * d * m) + 4.0 * tokens * d;
        let num_times = if ctx.has_interval { 2.0 } else { 1.0 }; // t, and t - r where the objective passes r
        let per_sample = num_times * 2.0 * (256.0 * d + d * d) + depth * 2.0 * 6.0 * d * d + 4.0 * d * d;
        // Kept per token and block: both residual inputs, both norm outputs, qkv (3), attention, projection, fc1
        // before and after GELU, fc2. With qk_norm also q and k centered, normalized and scaled, and the attention's
        // result in its unpacked layout.
        let stream = 2.0 * d + if self.qk_norm { 7.0 * d } else { 0.0 };
        let hidden = 2.0 * d + 3.0 * d + 2.0 * d + 2.0 * m + d;
        // Recomputed blocks keep their input, and the backward pass holds one of them whole.
        let (inputs, whole) = if ctx.recomputes { (depth * d, 1.0) } else { (0.0, depth) };
        let saved = tokens * (inputs + whole * stream + 3.0 * d + 2.0 * patch);
        Ok(BackboneSpec {
            grid,
            hidden_size: sizes.hidden_size,
            depth: sizes.depth,
            forward_flops: tokens * (depth * per_token + 4.0 * patch * d) + per_sample,
            saved_floats: saved + depth * 7.0 * d,
            saved_hidden: tokens * whole * hidden,
        })
    }

    fn build(&self, ctx: &BackboneContext, params: &ParamBuilder) -> Result<Box<dyn Backbone>> {
        let (sizes, grid, num_classes) = self.fit(ctx)?;
        Ok(Box::new(SiT::new(self, sizes, grid, num_classes, ctx, params)))
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

realign::register!(BackboneConfig as "backbone": SiTConfig);

#[cfg(test)]
mod tests {
    use super::*;
    use realign::burn::module::{Module, ModuleVisitor, Param};
    use realign::burn::tensor::{Device, Tensor};
    use realign::erase::Slot;
    use realign::plugin::BackboneKind;

    const LATENT: BackboneContext = BackboneContext {
        input: [4, 32, 32],
        condition: ConditionSpec::Labels { num_classes: 1000 },
        has_interval: false,
        recomputes: false,
    };

    #[test]
    fn published_sizes_have_the_published_parameter_counts() {
        struct Count(usize);
        impl ModuleVisitor for Count {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.0 += param.lazy_shape().num_elements();
            }
        }
        let expected = [
            [32_957_200, 32_920_384, 33_049_600],
            [130_500_112, 130_426_432, 130_684_672],
            [458_086_416, 457_988_160, 458_332_416],
            [675_111_184, 675_000_640, 675_387_904],
        ];
        for (size, counts) in PUBLISHED_SIZES.iter().zip(expected) {
            for (patch, expected) in PUBLISHED_PATCHES.iter().zip(counts) {
                let config = SiTConfig { size: Some(format!("{}/{patch}", size.0)), ..Default::default() };
                let params = ParamBuilder::new(&Device::flex(), 0);
                let slot = Slot::<BackboneKind>::new(config.build(&LATENT, &params).unwrap());
                let mut count = Count(0);
                slot.visit(&mut count);
                assert_eq!(count.0, expected, "{:?}", config.size);
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_is_allowed() {
        let message = |config: SiTConfig, ctx: BackboneContext| format!("{:#}", config.spec(&ctx).unwrap_err());
        let config = SiTConfig { patch_size: Some(5), ..Default::default() };
        assert!(message(config, LATENT).contains("`5` does not divide the input of 32x32"));
        let config = SiTConfig { size: None, ..Default::default() };
        assert!(message(config, LATENT).contains("`hidden_size` is missing"));
        let text = BackboneContext { condition: ConditionSpec::Text { tokens: 77, channels: 768 }, ..LATENT };
        assert!(message(SiTConfig::default(), text).contains("takes class labels"));
        for size in ["B/+2", "B/02", "b/2", "B/3", "B"] {
            let config = SiTConfig { size: Some(size.into()), ..Default::default() };
            assert!(message(config, LATENT).contains("unknown size"), "{size}");
        }
    }

    #[test]
    fn an_interval_costs_one_more_time_embedding() {
        let spec = |has_interval| SiTConfig::default().spec(&BackboneContext { has_interval, ..LATENT }).unwrap();
        let more = spec(true).forward_flops - spec(false).forward_flops;
        assert_eq!(more, 2.0 * (256.0 * 768.0 + 768.0 * 768.0));
    }
}
