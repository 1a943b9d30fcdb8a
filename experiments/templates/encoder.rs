//! Encoder `my_idea`: the mean color of each patch.

use anyhow::{Result, ensure};
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use realign::plugin::{Encoder, EncoderConfig, EncoderContext, EncoderSpec, Features, PatchGrid};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const CHANNELS: usize = 3;

/// `my_idea`: mean red, green and blue of each patch of the backbone's grid, in [0, 1].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MyIdeaConfig {}

#[typetag::serde(name = "my_idea")]
impl EncoderConfig for MyIdeaConfig {
    fn spec(&self, ctx: &EncoderContext) -> Result<EncoderSpec> {
        let (image_size, grid) = (ctx.image_size, ctx.backbone_grid);
        let PatchGrid { rows, columns } = grid;
        ensure!(
            rows > 0 && columns > 0 && image_size.is_multiple_of(rows) && image_size.is_multiple_of(columns),
            "encoder `my_idea`: a grid of {grid} does not divide pictures of {image_size} pixels"
        );
        Ok(EncoderSpec { grid, channels: CHANNELS, weights: vec![] })
    }

    fn build(&self, ctx: &EncoderContext, _device: &Device) -> Result<Box<dyn Encoder>> {
        let PatchGrid { rows, columns } = self.spec(ctx)?.grid;
        Ok(Box::new(MyIdea { rows, columns }))
    }
}

realign::register!(EncoderConfig as "encoder": MyIdeaConfig);

/// The built encoder `my_idea`.
#[derive(Module, Debug)]
pub struct MyIdea {
    rows: usize,
    columns: usize,
}

impl Encoder for MyIdea {
    fn encode(&self, images: Tensor<4>) -> Result<Features> {
        let [batch, channels, height, width] = images.dims();
        let (rows, columns) = (self.rows, self.columns);
        ensure!(
            channels == CHANNELS && height.is_multiple_of(rows) && width.is_multiple_of(columns),
            "encoder `my_idea`: found pictures of {channels}x{height}x{width}; expected 3 channels and sides that \
             {rows}x{columns} patches divide"
        );
        let blocks = images.reshape([batch, channels, rows, height / rows, columns, width / columns]);
        let means = blocks.mean_dim(5).mean_dim(3).reshape([batch, channels, rows * columns]);
        Ok(Features { tokens: means.swap_dims(1, 2) / 255.0, class_token: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(image_size: usize, backbone_grid: PatchGrid) -> EncoderContext {
        EncoderContext { image_size, backbone_grid, weights_dir: "weights".into() }
    }

    #[test]
    fn each_patch_gives_its_mean_color_in_row_major_order() {
        let device = Device::flex();
        let encoder = MyIdeaConfig::default().build(&context(15, PatchGrid::new(5, 5)), &device).unwrap();
        let white = Tensor::<4>::full([2, 3, 3, 3], 255.0, &device);
        let images = Tensor::zeros([2, 3, 15, 15], &device).slice_assign([0..2, 0..3, 3..6, 6..9], white);
        let tokens = encoder.encode(images).unwrap().tokens;
        assert_eq!(tokens.dims(), [2, 25, 3]);
        let values: Vec<f32> = tokens.narrow(2, 0, 1).narrow(0, 1, 1).into_data().try_to_vec().unwrap();
        let expected: Vec<f32> = (0..25).map(|token| if token == 7 { 1.0 } else { 0.0 }).collect();
        assert_eq!(values, expected);
    }

    #[test]
    fn a_grid_that_does_not_fit_is_an_error() {
        let error = MyIdeaConfig::default().spec(&context(32, PatchGrid::new(5, 7))).unwrap_err().to_string();
        assert!(error.contains("5x7") && error.contains("32 pixels"), "{error}");
    }
}
