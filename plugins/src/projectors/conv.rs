//! iREPA's projector: one convolution over the token grid.

use anyhow::{Result, bail};
use realign::burn;
use realign::burn::{module::Module, tensor::Tensor};
use realign::nn::{GridConv2d, ParamBuilder};
use realign::plugin::{PatchGrid, Projector, ProjectorConfig, ProjectorContext};
use realign::recipe::Check;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `conv`: a zero-padded convolution that keeps the grid.
///
/// Source: the paper, section 4 and appendix G (kernel 3; the authors' command line defaults to 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConvConfig {
    /// Side of the kernel, odd.
    #[schemars(range(min = 1, max = 15))]
    pub kernel_size: usize,
}

impl Default for ConvConfig {
    fn default() -> Self {
        Self { kernel_size: 3 }
    }
}

impl ConvConfig {
    fn problem(&self) -> Option<String> {
        let size = self.kernel_size;
        if !(1..=15).contains(&size) {
            return Some(format!("`{size}` is out of range; allowed is 1 to 15"));
        }
        let (below, above) = (size - 1, size + 1);
        let is_even = size.is_multiple_of(2);
        is_even.then(|| format!("`{size}` is even; an odd size keeps the token grid: {below} or {above}"))
    }
}

/// The projector.
#[derive(Module, Debug)]
pub struct ConvProjector {
    projection_layer: GridConv2d,
}

impl Projector for ConvProjector {
    fn forward(&self, tokens: Tensor<3>, grid: PatchGrid) -> Tensor<3> {
        self.projection_layer.forward(tokens, grid)
    }
}

#[typetag::serde(name = "conv")]
impl ProjectorConfig for ConvConfig {
    fn build(&self, ctx: &ProjectorContext, params: &ParamBuilder) -> Result<Box<dyn Projector>> {
        if let Some(problem) = self.problem() {
            bail!("projector `conv`: kernel_size: {problem}");
        }
        let params = params.child("projection_layer");
        let projection_layer = GridConv2d::new(&params, ctx.hidden_size, ctx.target_channels, self.kernel_size);
        Ok(Box::new(ConvProjector { projection_layer }))
    }

    fn forward_flops(&self, ctx: &ProjectorContext) -> f64 {
        let taps = (ctx.grid.tokens() * self.kernel_size * self.kernel_size) as f64;
        2.0 * taps * ctx.hidden_size as f64 * ctx.target_channels as f64
    }

    fn validate(&self, check: &mut Check<'_>) {
        if let Some(problem) = self.problem() {
            check.bad("kernel_size", problem);
        }
    }
}

realign::register!(ProjectorConfig as "projector": ConvConfig);

#[cfg(test)]
mod tests {
    use super::*;
    use realign::burn::tensor::{Device, Distribution};

    #[test]
    fn conv_projector_keeps_an_oblong_token_grid() {
        let (device, grid) = (Device::flex(), PatchGrid::new(5, 7));
        let ctx = ProjectorContext { hidden_size: 12, target_channels: 9, grid };
        for kernel_size in [1, 3, 5, 7] {
            let projector = ConvConfig { kernel_size }.build(&ctx, &ParamBuilder::new(&device, 0)).unwrap();
            let tokens = Tensor::random([3, 35, 12], Distribution::Normal(0.0, 1.0), &device);
            assert_eq!(projector.forward(tokens, grid).dims(), [3, 35, 9]);
        }
    }

    #[test]
    fn a_kernel_that_would_change_the_grid_is_refused() {
        let ctx = ProjectorContext { hidden_size: 12, target_channels: 9, grid: PatchGrid::new(5, 7) };
        let params = ParamBuilder::new(&Device::flex(), 0);
        let message = |kernel_size| ConvConfig { kernel_size }.build(&ctx, &params).unwrap_err().to_string();
        assert!(message(4).contains("`4` is even; an odd size keeps the token grid: 3 or 5"));
        assert!(message(0).contains("allowed is 1 to 15") && message(16).contains("allowed is 1 to 15"));
    }
}
