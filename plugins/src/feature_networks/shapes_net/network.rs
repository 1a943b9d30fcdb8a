//! A few convolutions that tell the data set `shapes` apart. Small enough to be part of the program.

use realign::burn;
use realign::burn::module::Module;
use realign::burn::tensor::Tensor;
use realign::nn::{Conv2d, ParamBuilder, Resampling};
use realign::ops::{ConvShape, gelu_tanh};

/// Side of the pictures it looks at, in pixels; others are resized.
pub const SIDE: usize = 32;
/// Rows and columns of its tokens.
pub const GRID: usize = 4;
/// Channels of its tokens.
pub const CHANNELS: usize = 64;

const HALVING: ConvShape = ConvShape { stride: 2, before: 1, after: 1 };

/// Three halving convolutions and one more, 3x3 each, with GELU between them: 60 thousand parameters.
#[derive(Module, Debug)]
pub struct ShapesNet {
    convs: Vec<Conv2d>,
}

impl ShapesNet {
    /// Declares the parameters.
    pub fn new(params: &ParamBuilder) -> Self {
        let layers =
            [(3, 16, HALVING), (16, 32, HALVING), (32, CHANNELS, HALVING), (CHANNELS, CHANNELS, ConvShape::same(3))];
        let conv =
            |(i, (inputs, outputs, shape))| Conv2d::new(&params.child("convs").child(i), inputs, outputs, 3, shape);
        Self { convs: layers.into_iter().enumerate().map(conv).collect() }
    }

    /// # Shapes
    /// * `images`: `[batch, 3, height, width]`, RGB in 0..255
    /// * result: `[batch, 16, 64]`, the 4 x 4 tokens in row-major order
    pub fn forward(&self, images: Tensor<4>) -> Tensor<3> {
        let [batch, ..] = images.dims();
        let pixels = Resampling::BilinearAntialias.resize(images, [SIDE, SIDE]) / 127.5 - 1.0;
        let map = self.convs.iter().fold(pixels, |map, conv| gelu_tanh(conv.forward(map)));
        map.permute([0, 2, 3, 1]).reshape([batch, GRID * GRID, CHANNELS])
    }
}
