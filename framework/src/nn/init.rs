//! Declaring parameters: name, shape, distribution.

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Shape, Tensor, TensorData};
use rand::RngExt;
use rand_distr::StandardNormal;

use crate::streams::Streams;

/// Distribution of a parameter's initial values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// Normal with mean zero and this deviation.
    Normal(f64),
    /// Normal with this mean and deviation.
    NormalAround {
        /// Mean.
        mean: f64,
        /// Deviation.
        deviation: f64,
    },
    /// Uniform in ±bound.
    Uniform(f64),
    /// Uniform in ±√(6 / (fan_in + fan_out)), the fans those of the `[shape[0], rest]` matrix (Glorot and Bengio, 2010).
    XavierUniform,
    /// Uniform in ±1/√fan_in, the default of PyTorch's Linear and Conv2d weights.
    FanIn,
}

/// Where a module's parameters are declared: device, seed, and the name so far.
///
/// ```
/// use realign::nn::{Linear, ParamBuilder};
/// let params = ParamBuilder::new(&realign::burn::tensor::Device::flex(), 7);
/// let layer = Linear::new(&params.child("blocks.0.mlp.fc1"), 3, 5);
/// assert_eq!(layer.forward(realign::burn::tensor::Tensor::<2>::zeros([1, 3], &params.device)).dims(), [1, 5]);
/// ```
#[derive(Debug, Clone)]
pub struct ParamBuilder {
    /// Where the values will live.
    pub device: Device,
    seed: u64,
    path: String,
}

impl ParamBuilder {
    /// The root of a network. The device may carry autodiff.
    pub fn new(device: &Device, seed: u64) -> Self {
        Self { device: device.clone(), seed, path: String::new() }
    }

    /// The same place in the network with one more name.
    pub fn child(&self, name: impl std::fmt::Display) -> Self {
        let path = if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) };
        Self { path, ..self.clone() }
    }

    /// A trainable parameter. Its values depend on the run's seed and its full name alone.
    pub fn param<const D: usize>(&self, name: &str, shape: [usize; D], init: Init) -> Param<Tensor<D>> {
        let (seed, path) = (self.seed, self.child(name).path);
        let values = move || draw(&shape, init, &Streams::new(seed), &path);
        declare(&self.device, shape, true, values)
    }

    /// A constant that is stored with the parameters and never trained.
    pub fn constant<const D: usize>(
        &self,
        shape: [usize; D],
        values: impl FnOnce() -> Vec<f32> + Send + Sync + 'static,
    ) -> Param<Tensor<D>> {
        declare(&self.device, shape, false, values)
    }
}

fn declare<const D: usize>(
    device: &Device,
    shape: [usize; D],
    is_trainable: bool,
    values: impl FnOnce() -> Vec<f32> + Send + Sync + 'static,
) -> Param<Tensor<D>> {
    let make = move |device: &Device, requires_grad: bool| {
        Tensor::from_data(TensorData::new(values(), shape), device).set_require_grad(requires_grad)
    };
    Param::uninitialized(ParamId::new(), make, device.clone(), is_trainable, Shape::from(shape))
}

fn draw(shape: &[usize], init: Init, streams: &Streams, path: &str) -> Vec<f32> {
    let count: usize = shape.iter().product();
    let fan_out = shape.first().copied().unwrap_or(1).max(1);
    let fan_in = (count / fan_out).max(1);
    let uniform = |bound: f64| {
        let mut stream = streams.stream(path);
        (0..count).map(|_| ((stream.random::<f64>() * 2.0 - 1.0) * bound) as f32).collect()
    };
    let normal = |mean: f64, deviation: f64| {
        let mut stream = streams.stream(path);
        (0..count).map(|_| (mean + stream.sample::<f64, _>(StandardNormal) * deviation) as f32).collect()
    };
    match init {
        Init::Zeros => vec![0.0; count],
        Init::Ones => vec![1.0; count],
        Init::Normal(deviation) => normal(0.0, deviation),
        Init::NormalAround { mean, deviation } => normal(mean, deviation),
        Init::Uniform(bound) => uniform(bound),
        Init::XavierUniform => uniform((6.0 / (fan_in + fan_out) as f64).sqrt()),
        Init::FanIn => uniform(1.0 / (fan_in as f64).sqrt()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(params: &ParamBuilder, init: Init) -> Vec<f32> {
        params.param("weight", [35, 51], init).val().into_data().try_to_vec().unwrap()
    }

    #[test]
    fn values_depend_on_seed_and_name_alone() {
        let device = Device::flex();
        let params = ParamBuilder::new(&device, 3);
        let first = values(&params.child("a").child(0), Init::Normal(0.02));
        assert_eq!(first, values(&params.child("a.0"), Init::Normal(0.02)));
        assert_ne!(first, values(&params.child("a.1"), Init::Normal(0.02)));
        assert_ne!(first, values(&ParamBuilder::new(&device, 4).child("a.0"), Init::Normal(0.02)));
    }

    #[test]
    fn distributions_have_the_stated_spread() {
        let params = ParamBuilder::new(&Device::flex(), 0);
        let bound = |init| values(&params, init).into_iter().fold(0.0f32, |a, b| a.max(b.abs()));
        assert!((bound(Init::XavierUniform) - (6.0f32 / 86.0).sqrt()).abs() < 1e-3);
        assert!((bound(Init::FanIn) - (1.0f32 / 51.0).sqrt()).abs() < 1e-3);
        let normal = values(&params, Init::Normal(0.02));
        let variance = normal.iter().map(|x| x * x).sum::<f32>() / normal.len() as f32;
        assert!((variance.sqrt() - 0.02).abs() < 1e-3);
    }

    #[test]
    fn a_declared_parameter_costs_nothing_until_used() {
        let huge = ParamBuilder::new(&Device::flex(), 0).param("weight", [1 << 20, 1 << 20], Init::Normal(1.0));
        assert!(!huge.is_initialized());
    }
}
