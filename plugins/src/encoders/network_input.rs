//! From pictures in 0..255 to the pixels that a frozen network was trained on.

use anyhow::{Result, ensure};
use realign::burn::tensor::Tensor;
use realign::nn::Resampling;
use realign::ops;
use realign::plugin::{EncoderContext, PatchGrid};

/// Mean and deviation of ImageNet's colors, in 0..1.
pub const IMAGENET: [[f32; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];

/// Grid of the tokens: one for 16 pixels, as in the published code; below 256 pixels the backbone's.
///
/// # Errors
/// The side of the pictures is no multiple of 16, or the backbone has no grid.
pub fn token_grid(name: &str, ctx: &EncoderContext) -> Result<PatchGrid> {
    if ctx.image_size < 256 {
        ensure!(
            ctx.backbone_grid.tokens() > 0,
            "encoder `{name}`: the backbone's grid `{}` is empty",
            ctx.backbone_grid
        );
        return Ok(ctx.backbone_grid);
    }
    ensure!(
        ctx.image_size.is_multiple_of(16),
        "encoder `{name}`: the side of the pictures, {} pixels, is no multiple of 16, the side of a token",
        ctx.image_size
    );
    Ok(PatchGrid::new(ctx.image_size / 16, ctx.image_size / 16))
}

/// Pictures resized to `size`, in 0..1, less the mean and divided by the deviation of each color.
///
/// # Shapes
/// * `pictures`: `[batch, 3, height, width]` in 0..255
/// * result: `[batch, 3, size[0], size[1]]`
///
/// # Errors
/// The pictures are not RGB.
pub fn network_input(
    name: &str,
    pictures: Tensor<4>,
    size: [usize; 2],
    resampling: Resampling,
    [mean, deviation]: [[f32; 3]; 2],
) -> Result<Tensor<4>> {
    let [_, colors, height, width] = pictures.dims();
    ensure!(
        colors == 3 && height > 0 && width > 0,
        "encoder `{name}`: found pictures of shape `{:?}`; they must be RGB, `[batch, 3, height, width]`",
        pictures.dims()
    );
    let device = pictures.device();
    let constant = |values: [f32; 3]| ops::upload(&values, [1, 3, 1, 1], &device);
    Ok((resampling.resize(pictures / 255.0, size) - constant(mean)) / constant(deviation))
}
