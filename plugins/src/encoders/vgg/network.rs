//! A stack of 3x3 convolutions and poolings. All in f32.
//!
//! Source: Simonyan and Zisserman, 2014; torchvision `models/vgg.py`, whose indices number the parameters.

use realign::burn;
use realign::burn::module::{Module, Param};
use realign::burn::tensor::module::{conv2d, max_pool2d};
use realign::burn::tensor::ops::{ConvOptions, MaxPoolOptions};
use realign::burn::tensor::{Tensor, activation::relu};
use realign::nn::{Init, ParamBuilder};

/// One entry of the layer list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// A 3x3 convolution to this many channels, then the positive part; two indices.
    Conv(usize),
    /// The largest of each two by two pixels; one index.
    Pool,
}

/// The network; `features.<index>` are torchvision's names.
#[derive(Module, Debug)]
pub struct VggFeatures {
    /// Convolutions at their index; positive parts and poolings have no parameters.
    pub features: Vec<Option<Conv3>>,
    #[module(skip)]
    layers: Vec<Layer>,
}

/// A 3x3 convolution that keeps the size.
#[derive(Module, Debug)]
pub struct Conv3 {
    /// `[out, in, 3, 3]`.
    pub weight: Param<Tensor<4>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
}

impl VggFeatures {
    /// Declares the parameters of a layer list over RGB pixels.
    pub fn new(layers: &[Layer], params: &ParamBuilder) -> Self {
        let (mut features, mut inputs) = (vec![], 3);
        for layer in layers {
            match *layer {
                Layer::Conv(outputs) => {
                    let params = params.child("features").child(features.len());
                    let weight = params.param("weight", [outputs, inputs, 3, 3], Init::FanIn);
                    let bias = params.param("bias", [outputs], Init::Zeros);
                    features.extend([Some(Conv3 { weight, bias }), None]);
                    inputs = outputs;
                }
                Layer::Pool => features.push(None),
            }
        }
        Self { features, layers: layers.to_vec() }
    }

    /// # Shapes
    /// * `pixels`: `[batch, 3, height, width]`
    /// * result: `[batch, channels, height / 2^pools, width / 2^pools]`, rounded down
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<4> {
        let mut convolutions = self.features.iter().flatten();
        let mut map = pixels;
        for layer in &self.layers {
            let next = if matches!(layer, Layer::Conv(_)) { convolutions.next() } else { None };
            map = match next {
                Some(conv) => {
                    let options = ConvOptions::new([1, 1], [1, 1], [1, 1], 1);
                    relu(conv2d(map, conv.weight.val(), Some(conv.bias.val()), options))
                }
                None => max_pool2d(map, MaxPoolOptions::new([2, 2])),
            };
        }
        map
    }
}
