//! Backbone `my_idea`: a stack of residual layers on each patch alone, told the time and the class.

use anyhow::{Result, bail, ensure};
use burn::module::Module;
use burn::tensor::Tensor;
use realign::nn::{Embedding, Init, LayerNorm, Linear, ParamBuilder, PatchEmbed, TimestepEmbedder, unpatchify};
use realign::ops;
use realign::plugin::{
    Backbone, BackboneConfig, BackboneContext, BackboneInput, BackboneOutput, BackboneSpec, Condition, ConditionSpec,
    PatchGrid,
};
use realign::recipe::Check;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `my_idea`: residual layers on each patch, without attention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MyIdeaConfig {
    /// Channels of a token, 1 to 16384.
    #[schemars(range(min = 1, max = 16384))]
    pub hidden_size: usize,
    /// Number of layers, 1 to 1000.
    #[schemars(range(min = 1, max = 1000))]
    pub depth: usize,
    /// Side of a patch, in cells of the sample; it divides the sample's sides.
    #[schemars(range(min = 1, max = 64))]
    pub patch_size: usize,
    /// Factor of the time before its sinusoids, above 0.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub time_scale: f64,
}

impl Default for MyIdeaConfig {
    fn default() -> Self {
        Self { hidden_size: 128, depth: 4, patch_size: 4, time_scale: 1000.0 }
    }
}

#[typetag::serde(name = "my_idea")]
impl BackboneConfig for MyIdeaConfig {
    fn spec(&self, ctx: &BackboneContext) -> Result<BackboneSpec> {
        let ([channels, height, width], patch) = (ctx.input, self.patch_size);
        ensure!(
            patch > 0 && height.is_multiple_of(patch) && width.is_multiple_of(patch),
            "patch_size `{patch}` does not divide the sample of {height}x{width}; choose one that does"
        );
        ensure!(!ctx.has_interval, "backbone `my_idea` takes no interval start; choose an objective over instants");
        let ConditionSpec::Labels { .. } = ctx.condition else {
            bail!("backbone `my_idea` understands class labels; found {}", ctx.condition.name());
        };
        let grid = PatchGrid::new(height / patch, width / patch);
        let per_token =
            self.depth * self.hidden_size * self.hidden_size + 2 * self.hidden_size * channels * patch * patch;
        Ok(BackboneSpec {
            grid,
            hidden_size: self.hidden_size,
            depth: self.depth,
            forward_flops: 2.0 * (grid.tokens() * per_token) as f64,
            saved_floats: (3 * grid.tokens() * self.depth * self.hidden_size) as f64,
            saved_hidden: 0.0,
        })
    }

    fn build(&self, ctx: &BackboneContext, params: &ParamBuilder) -> Result<Box<dyn Backbone>> {
        self.spec(ctx)?;
        let ([channels, ..], hidden) = (ctx.input, self.hidden_size);
        let ConditionSpec::Labels { num_classes } = ctx.condition else { bail!("class labels are needed") };
        let layer = |index: usize| Layer {
            norm: LayerNorm::new(&params.child("layers").child(index).child("norm"), hidden, 1e-6),
            linear: Linear::new(&params.child("layers").child(index).child("linear"), hidden, hidden),
        };
        let outputs = channels * self.patch_size * self.patch_size;
        Ok(Box::new(MyIdea {
            x_embedder: PatchEmbed::new(&params.child("x_embedder"), channels, hidden, self.patch_size),
            t_embedder: TimestepEmbedder::new(&params.child("t_embedder"), hidden, self.time_scale),
            y_embedder: Embedding::new(&params.child("y_embedder"), num_classes + 1, hidden, Init::Normal(0.02)),
            layers: (0..self.depth).map(layer).collect(),
            output: Linear::new(&params.child("output"), hidden, outputs),
            patch_size: self.patch_size,
        }))
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("hidden_size", self.hidden_size, 1, 16_384);
        check.range("depth", self.depth, 1, 1000);
        check.range("patch_size", self.patch_size, 1, 64);
        check.range("time_scale", self.time_scale, f64::MIN_POSITIVE, 1e6);
    }
}

realign::register!(BackboneConfig as "backbone": MyIdeaConfig);

/// The built backbone `my_idea`.
#[derive(Module, Debug)]
pub struct MyIdea {
    x_embedder: PatchEmbed,
    t_embedder: TimestepEmbedder,
    y_embedder: Embedding,
    layers: Vec<Layer>,
    output: Linear,
    patch_size: usize,
}

#[derive(Module, Debug)]
struct Layer {
    norm: LayerNorm,
    linear: Linear,
}

impl Backbone for MyIdea {
    fn forward(&self, input: BackboneInput<'_>) -> BackboneOutput {
        let [_, _, height, width] = input.x.dims();
        let grid = PatchGrid::new(height / self.patch_size, width / self.patch_size);
        let mut told = self.t_embedder.forward(input.times.t); // [batch, hidden_size]
        // `spec` has refused every other condition.
        if let Condition::Labels(labels) = input.condition {
            told = told + self.y_embedder.forward(labels);
        }
        let mut tokens = self.x_embedder.forward(input.x) + told.unsqueeze_dim(1);
        let mut taps = Vec::with_capacity(input.taps.len());
        for (index, layer) in self.layers.iter().enumerate() {
            tokens = tokens.clone() + layer.linear.forward(ops::silu(layer.norm.forward(tokens)));
            if input.taps.contains(&(index + 1)) {
                taps.push(tokens.clone());
            }
        }
        BackboneOutput { prediction: unpatchify(self.output.forward(tokens), grid, self.patch_size), taps }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use realign::plugin::Times;

    const CONTEXT: BackboneContext = BackboneContext {
        input: [3, 15, 21],
        condition: ConditionSpec::Labels { num_classes: 5 },
        has_interval: false,
        recomputes: false,
    };

    fn config() -> MyIdeaConfig {
        MyIdeaConfig { hidden_size: 12, depth: 2, patch_size: 3, ..MyIdeaConfig::default() }
    }

    #[test]
    fn the_prediction_has_the_inputs_shape_and_taps_the_stated_grid() {
        let device = Device::flex();
        let spec = config().spec(&CONTEXT).unwrap();
        let backbone = config().build(&CONTEXT, &ParamBuilder::new(&device, 1)).unwrap();
        let output = backbone.forward(BackboneInput {
            x: Tensor::zeros([2, 3, 15, 21], &device),
            times: Times::at(Tensor::full([2], 0.3, &device)),
            condition: Condition::labels(&[1, 5], &device),
            taps: &[2],
        });
        assert_eq!(output.prediction.dims(), [2, 3, 15, 21]);
        assert_eq!(output.taps[0].dims(), [2, spec.grid.tokens(), spec.hidden_size]);
    }

    #[test]
    fn what_it_cannot_do_is_an_error_before_any_weight_exists() {
        let message = |ctx: &BackboneContext| config().spec(ctx).unwrap_err().to_string();
        assert!(message(&BackboneContext { input: [3, 16, 21], ..CONTEXT }).contains("does not divide"));
        assert!(message(&BackboneContext { has_interval: true, ..CONTEXT }).contains("interval"));
        let text = ConditionSpec::Text { tokens: 7, channels: 9 };
        assert!(message(&BackboneContext { condition: text, ..CONTEXT }).contains("found text"));
    }
}
