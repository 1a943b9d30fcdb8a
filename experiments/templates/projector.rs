//! Projector `my_idea`: two linear layers with SiLU between them, on each token alone.

use anyhow::Result;
use burn::module::Module;
use burn::tensor::Tensor;
use realign::nn::{Linear, ParamBuilder};
use realign::ops;
use realign::plugin::{PatchGrid, Projector, ProjectorConfig, ProjectorContext};
use realign::recipe::Check;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `my_idea`: linear, SiLU, linear, on each token alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MyIdeaConfig {
    /// Width between the layers, in multiples of the backbone's hidden size, 1 to 16.
    #[schemars(range(min = 1, max = 16))]
    pub expansion: usize,
}

impl Default for MyIdeaConfig {
    fn default() -> Self {
        Self { expansion: 2 }
    }
}

#[typetag::serde(name = "my_idea")]
impl ProjectorConfig for MyIdeaConfig {
    fn build(&self, ctx: &ProjectorContext, params: &ParamBuilder) -> Result<Box<dyn Projector>> {
        let width = self.expansion * ctx.hidden_size;
        Ok(Box::new(MyIdea {
            fc1: Linear::new(&params.child("fc1"), ctx.hidden_size, width),
            fc2: Linear::new(&params.child("fc2"), width, ctx.target_channels),
        }))
    }

    fn forward_flops(&self, ctx: &ProjectorContext) -> f64 {
        let per_token = self.expansion * ctx.hidden_size * (ctx.hidden_size + ctx.target_channels);
        2.0 * ctx.grid.tokens() as f64 * per_token as f64
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("expansion", self.expansion, 1, 16);
    }
}

realign::register!(ProjectorConfig as "projector": MyIdeaConfig);

/// The built projector `my_idea`.
#[derive(Module, Debug)]
pub struct MyIdea {
    fc1: Linear,
    fc2: Linear,
}

impl Projector for MyIdea {
    fn forward(&self, tokens: Tensor<3>, _grid: PatchGrid) -> Tensor<3> {
        self.fc2.forward(ops::silu(self.fc1.forward(tokens)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution};

    const CONTEXT: ProjectorContext =
        ProjectorContext { hidden_size: 12, target_channels: 9, grid: PatchGrid { rows: 5, columns: 7 } };

    fn project(tokens: Tensor<3>) -> Tensor<3> {
        let params = ParamBuilder::new(&tokens.device(), 3);
        MyIdeaConfig::default().build(&CONTEXT, &params).unwrap().forward(tokens, CONTEXT.grid)
    }

    #[test]
    fn tokens_keep_their_grid_and_get_the_targets_width() {
        assert_eq!(project(Tensor::zeros([3, 35, 12], &Device::flex())).dims(), [3, 35, 9]);
    }

    #[test]
    fn a_token_is_projected_without_its_neighbors() {
        let tokens = Tensor::<3>::random([3, 35, 12], Distribution::Default, &Device::flex());
        let alone = project(tokens.clone().narrow(1, 4, 1));
        let difference = (project(tokens).narrow(1, 4, 1) - alone).abs().max().into_scalar::<f32>();
        assert!(difference < 1e-5, "{difference}");
    }

    #[test]
    fn a_recipe_can_name_it_and_unknown_keys_are_refused() {
        let parse = |text: &str| realign::serde_yaml::from_str::<Box<dyn ProjectorConfig>>(text);
        assert!(parse("{type: my_idea, expansion: 3}").is_ok());
        assert!(parse("{type: my_idea, expansoin: 3}").is_err());
    }
}
