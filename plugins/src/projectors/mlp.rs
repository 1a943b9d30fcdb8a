//! REPA's projector: a three-layer MLP per token.

use anyhow::Result;
use realign::burn;
use realign::burn::{module::Module, tensor::Tensor};
use realign::nn::{Linear, ParamBuilder};
use realign::ops;
use realign::plugin::{PatchGrid, Projector, ProjectorConfig, ProjectorContext};
use realign::recipe::Check;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `mlp`: Linear, SiLU, Linear, SiLU, Linear, per token.
///
/// Source: REPA `models/sit.py`, `build_mlp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MlpConfig {
    /// Hidden width, independent of the backbone's.
    #[schemars(range(min = 1, max = 65536))]
    pub projector_dim: usize,
    /// How weights and biases begin.
    pub init: MlpInit,
}

/// How weights and biases begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MlpInit {
    /// Xavier-uniform weights, biases of 0, as REPA's SiT does with all of its linear layers.
    #[default]
    Xavier,
    /// Both uniform in ±1/√fan_in, PyTorch's default, which REPA's MMDiT leaves as it is.
    FanIn,
}

impl Default for MlpConfig {
    fn default() -> Self {
        Self { projector_dim: 2048, init: MlpInit::Xavier }
    }
}

/// The projector.
#[derive(Module, Debug)]
pub struct MlpProjector {
    projection_layer: Layers,
}

#[derive(Module, Debug)]
struct Layers {
    _0: Linear,
    _2: Linear,
    _4: Linear,
}

impl Projector for MlpProjector {
    fn forward(&self, tokens: Tensor<3>, _grid: PatchGrid) -> Tensor<3> {
        let layers = &self.projection_layer;
        let h = ops::silu(layers._0.hidden(tokens));
        layers._4.forward(ops::silu(layers._2.hidden(h)))
    }
}

#[typetag::serde(name = "mlp")]
impl ProjectorConfig for MlpConfig {
    fn build(&self, ctx: &ProjectorContext, params: &ParamBuilder) -> Result<Box<dyn Projector>> {
        let (params, dim) = (params.child("projection_layer"), self.projector_dim);
        let make = match self.init {
            MlpInit::Xavier => Linear::new,
            MlpInit::FanIn => Linear::as_pytorch,
        };
        let layer = |name: usize, inputs, outputs| make(&params.child(name), inputs, outputs);
        let layers = Layers {
            _0: layer(0, ctx.hidden_size, dim),
            _2: layer(2, dim, dim),
            _4: layer(4, dim, ctx.target_channels),
        };
        Ok(Box::new(MlpProjector { projection_layer: layers }))
    }

    fn forward_flops(&self, ctx: &ProjectorContext) -> f64 {
        let dim = self.projector_dim as f64;
        2.0 * ctx.grid.tokens() as f64 * dim * (ctx.hidden_size as f64 + dim + ctx.target_channels as f64)
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("projector_dim", self.projector_dim, 1, 65_536);
    }
}

realign::register!(ProjectorConfig as "projector": MlpConfig);

#[cfg(test)]
mod tests {
    use super::*;
    use realign::burn::tensor::{Device, Distribution};

    #[test]
    fn tokens_are_projected_one_by_one() {
        let (device, grid) = (Device::flex(), PatchGrid::new(5, 7));
        let ctx = ProjectorContext { hidden_size: 12, target_channels: 9, grid };
        let projector =
            MlpConfig { projector_dim: 17, ..Default::default() }.build(&ctx, &ParamBuilder::new(&device, 0)).unwrap();
        let tokens = Tensor::<3>::random([1, 35, 12], Distribution::Normal(0.0, 1.0), &device);
        let all = projector.forward(tokens.clone(), grid);
        let one = projector.forward(tokens.narrow(1, 11, 1), PatchGrid::new(1, 1));
        assert!((all.narrow(1, 11, 1) - one).abs().max().into_scalar::<f32>() < 1e-6);
    }

    #[test]
    fn as_pytorch_begins_within_the_root_of_the_inputs_with_biases_too() {
        let device = Device::flex();
        let ctx = ProjectorContext { hidden_size: 16, target_channels: 9, grid: PatchGrid::new(5, 7) };
        let bias = |init| {
            let projector = MlpConfig { projector_dim: 25, init }.build(&ctx, &ParamBuilder::new(&device, 0)).unwrap();
            // Zeros leave what the biases make of themselves.
            projector.forward(Tensor::zeros([1, 35, 16], &device), ctx.grid).abs().max().into_scalar::<f32>()
        };
        assert_eq!(bias(MlpInit::Xavier), 0.0);
        assert!((0.01..0.5).contains(&bias(MlpInit::FanIn)), "{}", bias(MlpInit::FanIn));
    }
}
