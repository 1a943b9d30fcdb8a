//! One affine map per token.

use anyhow::Result;
use realign::burn;
use realign::burn::{module::Module, tensor::Tensor};
use realign::nn::{Linear, ParamBuilder};
use realign::plugin::{PatchGrid, Projector, ProjectorConfig, ProjectorContext};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `linear`: one affine map per token.
///
/// Source: iREPA `ldm/models/sit.py`, `ProjectionLayer`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LinearConfig {}

/// The projector.
#[derive(Module, Debug)]
pub struct LinearProjector {
    projection_layer: Linear,
}

impl Projector for LinearProjector {
    fn forward(&self, tokens: Tensor<3>, _grid: PatchGrid) -> Tensor<3> {
        self.projection_layer.forward(tokens)
    }
}

#[typetag::serde(name = "linear")]
impl ProjectorConfig for LinearConfig {
    fn build(&self, ctx: &ProjectorContext, params: &ParamBuilder) -> Result<Box<dyn Projector>> {
        let params = params.child("projection_layer");
        let projection_layer = Linear::new(&params, ctx.hidden_size, ctx.target_channels);
        Ok(Box::new(LinearProjector { projection_layer }))
    }

    fn forward_flops(&self, ctx: &ProjectorContext) -> f64 {
        2.0 * ctx.grid.tokens() as f64 * ctx.hidden_size as f64 * ctx.target_channels as f64
    }
}

realign::register!(ProjectorConfig as "projector": LinearConfig);

#[cfg(test)]
mod tests {
    use super::*;
    use realign::burn::tensor::Device;

    #[test]
    fn a_zero_token_becomes_the_zero_bias() {
        let (device, grid) = (Device::flex(), PatchGrid::new(5, 7));
        let ctx = ProjectorContext { hidden_size: 12, target_channels: 9, grid };
        let projector = LinearConfig {}.build(&ctx, &ParamBuilder::new(&device, 0)).unwrap();
        let projected = projector.forward(Tensor::zeros([3, 35, 12], &device), grid);
        assert_eq!(projected.dims(), [3, 35, 9]);
        assert_eq!(projected.abs().max().into_scalar::<f32>(), 0.0);
    }
}
