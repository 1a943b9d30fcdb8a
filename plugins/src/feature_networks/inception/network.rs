//! Inception-v3 as TensorFlow published it on 2015-12-05, under the names of pytorch-fid's file. All in f32.
//!
//! Source: Szegedy et al., 2015; pytorch-fid `inception.py`. It differs from torchvision's in its 1008 classes, in mean
//! pools that leave out the border, and in the maximum in the last block's pool.

use realign::burn;
use realign::burn::module::{Module, Param};
use realign::burn::tensor::Tensor;
use realign::nn::{Init, ParamBuilder};
use realign::plugin::NetworkOutput;
use realign::weights::KeyMap;

use super::blocks::{BasicConv, BlockA, BlockB, BlockC, BlockD, BlockE, Pool, shrink};

/// Side of the network's pictures, in pixels.
pub const SIDE: usize = 299;
const CLASSES: usize = 1008;
const SPATIAL_CHANNELS: usize = 7; // of the 192 that sFID could look at

/// The network; published names begin with a capital.
#[derive(Module, Debug)]
#[allow(missing_docs)]
pub struct Inception {
    conv2d_1a_3x3: BasicConv,
    conv2d_2a_3x3: BasicConv,
    conv2d_2b_3x3: BasicConv,
    conv2d_3b_1x1: BasicConv,
    conv2d_4a_3x3: BasicConv,
    mixed_5b: BlockA,
    mixed_5c: BlockA,
    mixed_5d: BlockA,
    mixed_6a: BlockB,
    mixed_6b: BlockC,
    mixed_6c: BlockC,
    mixed_6d: BlockC,
    mixed_6e: BlockC,
    mixed_7a: BlockD,
    mixed_7b: BlockE,
    mixed_7c: BlockE,
    fc: Classes,
}

/// The last layer; its bias is never used.
#[derive(Module, Debug)]
struct Classes {
    weight: Param<Tensor<2>>,
}

impl Inception {
    /// Declares all parameters.
    pub fn new(params: &ParamBuilder) -> Self {
        let conv = |name: &str, channels, side: usize, step, padding: usize| {
            BasicConv::new(&params.child(name), channels, [side; 2], step, [padding; 2])
        };
        let at = |name: &str| params.child(name);
        Self {
            conv2d_1a_3x3: conv("conv2d_1a_3x3", [3, 32], 3, 2, 0),
            conv2d_2a_3x3: conv("conv2d_2a_3x3", [32, 32], 3, 1, 0),
            conv2d_2b_3x3: conv("conv2d_2b_3x3", [32, 64], 3, 1, 1),
            conv2d_3b_1x1: conv("conv2d_3b_1x1", [64, 80], 1, 1, 0),
            conv2d_4a_3x3: conv("conv2d_4a_3x3", [80, 192], 3, 1, 0),
            mixed_5b: BlockA::new(&at("mixed_5b"), 192, 32),
            mixed_5c: BlockA::new(&at("mixed_5c"), 256, 64),
            mixed_5d: BlockA::new(&at("mixed_5d"), 288, 64),
            mixed_6a: BlockB::new(&at("mixed_6a")),
            mixed_6b: BlockC::new(&at("mixed_6b"), 128),
            mixed_6c: BlockC::new(&at("mixed_6c"), 160),
            mixed_6d: BlockC::new(&at("mixed_6d"), 160),
            mixed_6e: BlockC::new(&at("mixed_6e"), 192),
            mixed_7a: BlockD::new(&at("mixed_7a")),
            mixed_7b: BlockE::new(&at("mixed_7b"), 1280, Pool::Mean),
            mixed_7c: BlockE::new(&at("mixed_7c"), 2048, Pool::Max),
            fc: Classes { weight: at("fc").param("weight", [CLASSES, 2048], Init::FanIn) },
        }
    }

    /// Names in the published file.
    pub fn layout() -> KeyMap {
        let rename = |map: KeyMap, name: &str| {
            let published = name[..1].to_uppercase() + &name[1..];
            map.rename(format!("{name}.**"), format!("{published}.**"))
        };
        let stem = ["1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3"].map(|name| format!("conv2d_{name}"));
        let blocks =
            ["5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"].map(|name| format!("mixed_{name}"));
        let names = stem.iter().chain(&blocks);
        names.fold(KeyMap::new().ignore(&["**.num_batches_tracked", "fc.bias"]), |map, name| rename(map, name))
    }

    /// What the evaluators take: the mean over the last map, seven channels of a map of 17 x 17 in the order of rows,
    /// columns and channels, and logits without their bias.
    ///
    /// # Shapes
    /// * `x`: `[batch, 3, 299, 299]`, in −1..1
    /// * features `[batch, 2048]`, spatial `[batch, 2023]`, logits `[batch, 1008]`
    pub fn forward(&self, x: Tensor<4>) -> NetworkOutput {
        let [batch, ..] = x.dims();
        let x = self.conv2d_2a_3x3.forward(self.conv2d_1a_3x3.forward(x));
        let x = shrink(self.conv2d_2b_3x3.forward(x));
        let x = shrink(self.conv2d_4a_3x3.forward(self.conv2d_3b_1x1.forward(x)));
        let x = self.mixed_5d.forward(self.mixed_5c.forward(self.mixed_5b.forward(x)));
        let x = self.mixed_6c.forward(self.mixed_6b.forward(self.mixed_6a.forward(x)));
        let map = self.mixed_6d.first_branch(x.clone()).narrow(1, 0, SPATIAL_CHANNELS);
        let [_, channels, rows, columns] = map.dims();
        let spatial = map.permute([0, 2, 3, 1]).reshape([batch, rows * columns * channels]);
        let x = self.mixed_7a.forward(self.mixed_6e.forward(self.mixed_6d.forward(x)));
        let x = self.mixed_7c.forward(self.mixed_7b.forward(x));
        let features = x.mean_dim(2).mean_dim(3).reshape([batch, 2048]);
        let logits = features.clone().matmul(self.fc.weight.val().transpose());
        NetworkOutput { features, spatial: Some(spatial), logits: Some(logits) }
    }
}
