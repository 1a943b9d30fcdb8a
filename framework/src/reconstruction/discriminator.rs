//! The PatchGAN discriminator: one logit per patch.

use burn::module::{Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor};
use burn::tensor::{Device, Tensor, activation::leaky_relu};

use crate::nn::{BatchNorm2d, Conv2d, Init, ParamBuilder, Sequential};
use crate::ops::ConvShape;

const SLOPE: f64 = 0.2; // of every LeakyReLU
const KERNEL: usize = 4;
const EPS: f64 = 1e-5; // PyTorch's of BatchNorm
const MOMENTUM: f64 = 0.1; // PyTorch's of BatchNorm
const DEVIATION: f64 = 0.02; // of initial weights
const MAX_FACTOR: usize = 8; // of the first width

/// Convolutions that halve the picture, then one that keeps its size and one that gives logits.
///
/// Parameters lie under `main.<place>` as in REPA-E's `NLayerDiscriminator`. Source: Isola et al., 2017; REPA-E
/// `loss/discriminator.py`.
#[derive(Module, Debug)]
pub struct Discriminator {
    main: Sequential<Layer>,
}

#[derive(Clone, Debug)]
enum Layer {
    Conv(Conv2d),
    Norm(BatchNorm2d),
}

impl Discriminator {
    /// `num_layers` convolutions halve the picture, the first to `width` channels; the reference has 3 and 64.
    pub fn new(params: &ParamBuilder, width: usize, num_layers: usize) -> Self {
        let params = params.child("main");
        let mut layers: Vec<(usize, Layer)> = vec![];
        let mut inputs = 3;
        for n in 0..=num_layers {
            let outputs = width * MAX_FACTOR.min(1 << n);
            let stride = if n < num_layers { 2 } else { 1 };
            // The first convolution and its activation take two places, all others three: the norm is between.
            let place = if n == 0 { 0 } else { 3 * n - 1 };
            layers.push((place, Layer::Conv(conv(&params.child(place), inputs, outputs, stride, n == 0))));
            if n > 0 {
                let weight = Some(Init::NormalAround { mean: 1.0, deviation: DEVIATION });
                let norm = BatchNorm2d::new(&params.child(place + 1), outputs, weight, EPS, MOMENTUM);
                layers.push((place + 1, Layer::Norm(norm)));
            }
            inputs = outputs;
        }
        let last = 3 * num_layers + 2;
        layers.push((last, Layer::Conv(conv(&params.child(last), inputs, 1, 1, true))));
        Self { main: Sequential(layers) }
    }

    /// Logits by the statistics of this batch, which also move the running ones.
    ///
    /// # Shapes
    /// * `x`: `[batch, 3, height, width]` in [-1, 1], result: `[batch, 1, rows, columns]`
    pub fn forward_train(&mut self, mut x: Tensor<4>) -> Tensor<4> {
        let last = self.main.0.len() - 1;
        for at in 0..=last {
            x = match &mut self.main.0[at].1 {
                Layer::Conv(conv) => conv.forward(x),
                Layer::Norm(norm) => norm.forward_train(x),
            };
            x = self.activated(at, x);
        }
        x
    }

    /// As [`forward_train`](Self::forward_train), with a gradient for the pictures and none for the weights.
    pub fn forward_frozen(&mut self, x: Tensor<4>) -> Tensor<4> {
        let mut frozen = self.clone().no_grad();
        let logits = frozen.forward_train(x);
        for ((_, own), (_, moved)) in self.main.0.iter_mut().zip(frozen.main.0) {
            if let (Layer::Norm(own), Layer::Norm(moved)) = (own, moved) {
                (own.running_mean, own.running_var) = (moved.running_mean, moved.running_var);
            }
        }
        logits
    }

    /// Logits by the running statistics.
    ///
    /// # Shapes
    /// As [`forward_train`](Self::forward_train).
    pub fn forward_eval(&self, mut x: Tensor<4>) -> Tensor<4> {
        for (at, (_, layer)) in self.main.0.iter().enumerate() {
            x = match layer {
                Layer::Conv(conv) => conv.forward(x),
                Layer::Norm(norm) => norm.forward_eval(x),
            };
            x = self.activated(at, x);
        }
        x
    }

    /// LeakyReLU behind the first convolution and every norm.
    fn activated(&self, at: usize, x: Tensor<4>) -> Tensor<4> {
        let is_activated = at == 0 || matches!(self.main.0[at].1, Layer::Norm(_));
        if is_activated { leaky_relu(x, SLOPE) } else { x }
    }
}

fn conv(params: &ParamBuilder, inputs: usize, outputs: usize, stride: usize, has_bias: bool) -> Conv2d {
    let bound = 1.0 / ((inputs * KERNEL * KERNEL) as f64).sqrt();
    Conv2d {
        weight: params.param("weight", [outputs, inputs, KERNEL, KERNEL], Init::Normal(DEVIATION)),
        bias: has_bias.then(|| params.param("bias", [outputs], Init::Uniform(bound))),
        shape: ConvShape { stride, before: 1, after: 1 },
    }
}

impl ModuleDisplayDefault for Layer {
    fn content(&self, content: Content) -> Option<Content> {
        match self {
            Self::Conv(conv) => conv.content(content),
            Self::Norm(norm) => norm.content(content),
        }
    }
}

impl ModuleDisplay for Layer {}

/// As burn derives it, without a name for the variant.
impl Module for Layer {
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        match self {
            Self::Conv(conv) => conv.visit(visitor),
            Self::Norm(norm) => norm.visit(visitor),
        }
    }
    fn map<T: ModuleMapper>(self, mapper: &mut T) -> Self {
        match self {
            Self::Conv(conv) => Self::Conv(conv.map(mapper)),
            Self::Norm(norm) => Self::Norm(norm.map(mapper)),
        }
    }
    fn collect_devices(&self, devices: Devices) -> Devices {
        match self {
            Self::Conv(conv) => conv.collect_devices(devices),
            Self::Norm(norm) => norm.collect_devices(devices),
        }
    }
    fn fork(self, device: &Device) -> Self {
        match self {
            Self::Conv(conv) => Self::Conv(conv.fork(device)),
            Self::Norm(norm) => Self::Norm(norm.fork(device)),
        }
    }
    fn to_device(self, device: &Device) -> Self {
        match self {
            Self::Conv(conv) => Self::Conv(conv.to_device(device)),
            Self::Norm(norm) => Self::Norm(norm.to_device(device)),
        }
    }
    fn train(self) -> Self {
        match self {
            Self::Conv(conv) => Self::Conv(conv.train()),
            Self::Norm(norm) => Self::Norm(norm.train()),
        }
    }
    fn valid(&self) -> Self {
        match self {
            Self::Conv(conv) => Self::Conv(conv.valid()),
            Self::Norm(norm) => Self::Norm(norm.valid()),
        }
    }
    fn materialize(self) -> Self {
        match self {
            Self::Conv(conv) => Self::Conv(conv.materialize()),
            Self::Norm(norm) => Self::Norm(norm.materialize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::Gradients;
    use crate::weights::{parameters, state_dict, to_host};

    #[test]
    fn the_published_size_has_its_names_and_count() {
        let network = Discriminator::new(&ParamBuilder::new(&Device::flex().autodiff(), 0), 64, 3);
        let params = parameters(&network);
        let count: usize = params.iter().filter(|p| p.is_trainable).map(|p| p.shape.iter().product::<usize>()).sum();
        assert_eq!(count, 2_765_633);
        let names: Vec<_> = params.iter().map(|param| param.name.as_str()).collect();
        for name in ["main.0.bias", "main.2.weight", "main.3.running_var", "main.9.weight", "main.11.bias"] {
            assert!(names.contains(&name), "{names:?}");
        }
        assert!(!names.contains(&"main.8.bias"));
    }

    #[test]
    fn a_frozen_pass_moves_the_statistics_and_gives_the_weights_no_gradient() {
        let device = Device::flex().autodiff();
        let network = || Discriminator::new(&ParamBuilder::new(&device, 0), 2, 1);
        let x = Tensor::<4>::random([2, 3, 16, 16], burn::tensor::Distribution::Normal(0.0, 1.0), &device);
        let (mut frozen, mut trained) = (network(), network());
        let leaf = x.clone().require_grad();
        let logits = frozen.forward_frozen(leaf.clone());
        assert_eq!(to_host(logits.clone()), to_host(trained.forward_train(x)));
        assert_eq!(state_dict(&frozen), state_dict(&trained));
        let graph = logits.sum().backward();
        assert!(leaf.grad(&graph).is_some());
        let mut gradients = Gradients::default();
        gradients.add(&frozen, graph);
        assert!(gradients.by_name(&frozen).values().all(|g| g.values.iter().all(|value| *value == 0.0)));
        assert!(parameters(&frozen).iter().any(|param| param.is_trainable));
    }

    #[test]
    fn a_picture_of_256_gives_30_by_30_logits() {
        let network = Discriminator::new(&ParamBuilder::new(&Device::flex(), 0), 1, 3);
        let logits = network.forward_eval(Tensor::zeros([1, 3, 256, 256], &Device::flex()));
        assert_eq!(logits.dims(), [1, 1, 30, 30]);
    }
}
