//! The network with its preprocessing, as an encoder.

use anyhow::{Result, ensure};
use realign::burn;
use realign::burn::module::Module;
use realign::burn::tensor::Tensor;
use realign::plugin::{Encoder, Features};

use super::mixing::ClsMixing;
use super::network::{Tokens, VisionTransformer};
use super::preprocess::Preprocessing;

/// A frozen vision transformer from pictures to tokens. Computes in f32.
#[derive(Module, Debug)]
pub struct Vit {
    /// The network, on the run's grid.
    pub network: VisionTransformer,
    #[module(skip)]
    pub(super) preprocessing: Preprocessing,
    pub(super) input: [usize; 2],
    pub(super) has_class_token: bool,
    #[module(skip)]
    pub(super) cls_mixing: Option<ClsMixing>,
}

impl Encoder for Vit {
    fn encode(&self, images: Tensor<4>) -> Result<Features> {
        let [_, colors, height, width] = images.dims();
        ensure!(
            colors == 3 && height > 0 && width > 0,
            "encoder `vit`: found pictures of shape `{:?}`; they must be RGB, `[batch, 3, height, width]`",
            images.dims()
        );
        let Tokens { prefix, patches } = self.network.forward(self.preprocessing.apply(images, self.input));
        let class_token =
            prefix.filter(|_| self.has_class_token).map(|prefix| prefix.narrow(1, 0, 1).squeeze_dim::<2>(1));
        let tokens = match (self.cls_mixing, &class_token) {
            (Some(mixing), Some(class_token)) => mixing.mix(patches, class_token.clone()),
            _ => patches,
        };
        Ok(Features { tokens, class_token })
    }
}
