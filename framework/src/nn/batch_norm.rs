//! BatchNorm of pictures, with its running statistics.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::init::{Init, ParamBuilder};

/// PyTorch's `nn.BatchNorm2d`, with or without affine parameters.
///
/// `weight` and `bias` `[channels]` where it is affine; `running_mean` and `running_var` `[channels]` are stored with
/// the parameters and never trained. PyTorch's count of batches is left out: with a fixed momentum nothing reads it.
#[derive(Module, Debug)]
pub struct BatchNorm2d {
    /// `[channels]`.
    pub weight: Option<Param<Tensor<1>>>,
    /// `[channels]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// `[channels]`.
    pub running_mean: Param<Tensor<1>>,
    /// `[channels]`.
    pub running_var: Param<Tensor<1>>,
    eps: f64,
    momentum: f64,
}

impl BatchNorm2d {
    /// Weight drawn from `weight` and bias zero, or neither; running mean zero and variance one.
    ///
    /// `momentum` is the share of the running statistics that each batch replaces.
    pub fn new(params: &ParamBuilder, channels: usize, weight: Option<Init>, eps: f64, momentum: f64) -> Self {
        Self {
            bias: weight.map(|_| params.param("bias", [channels], Init::Zeros)),
            weight: weight.map(|init| params.param("weight", [channels], init)),
            running_mean: params.constant([channels], move || vec![0.0; channels]),
            running_var: params.constant([channels], move || vec![1.0; channels]),
            eps,
            momentum,
        }
    }

    /// Normalizes by the statistics of the batch and moves the running ones, as PyTorch in train mode: the variance is
    /// the biased one in the result and the unbiased one in the running statistics.
    ///
    /// # Shapes
    /// * `x` and result: `[batch, channels, height, width]`
    pub fn forward_train(&mut self, x: Tensor<4>) -> Tensor<4> {
        let [batch, _, height, width] = x.dims();
        let count = (batch * height * width) as f64;
        let per_channel = |x: Tensor<4>| x.mean_dim(0).mean_dim(2).mean_dim(3);
        let mean = per_channel(x.clone());
        let variance = per_channel((x.clone() - mean.clone()).square());
        let unbiased = variance.clone() * (count / (count - 1.0).max(1.0));
        self.running_mean = moved(&self.running_mean, mean.clone(), self.momentum);
        self.running_var = moved(&self.running_var, unbiased, self.momentum);
        self.affine((x - mean) / (variance + self.eps).sqrt())
    }

    /// Normalizes by the running statistics, as PyTorch in eval mode.
    ///
    /// # Shapes
    /// * `x` and result: `[batch, channels, height, width]`
    pub fn forward_eval(&self, x: Tensor<4>) -> Tensor<4> {
        let channels = x.dims()[1];
        let [mean, variance] = [&self.running_mean, &self.running_var].map(|p| p.val().reshape([1, channels, 1, 1]));
        self.affine((x - mean) / (variance + self.eps).sqrt())
    }

    /// What the running statistics come to: `forward_eval` is `scale · x + shift`, `[channels]` each.
    pub fn scale_and_shift(&self) -> [Tensor<1>; 2] {
        let inverse = (self.running_var.val() + self.eps).sqrt().recip();
        let scale = match &self.weight {
            Some(weight) => inverse * weight.val(),
            None => inverse,
        };
        let shift = self.running_mean.val() * scale.clone();
        let shift = match &self.bias {
            Some(bias) => bias.val() - shift,
            None => -shift,
        };
        [scale, shift]
    }

    fn affine(&self, x: Tensor<4>) -> Tensor<4> {
        let channels = x.dims()[1];
        let (Some(weight), Some(bias)) = (&self.weight, &self.bias) else { return x };
        x * weight.val().reshape([1, channels, 1, 1]) + bias.val().reshape([1, channels, 1, 1])
    }
}

/// The running statistic with a share of the batch's in it; no gradient passes.
fn moved(running: &Param<Tensor<1>>, batch: Tensor<4>, share: f64) -> Param<Tensor<1>> {
    let batch = batch.detach().reshape(running.lazy_shape());
    running.clone().map(|old| old * (1.0 - share) + batch * share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::to_host;
    use burn::tensor::{Device, TensorData};

    #[test]
    fn the_result_uses_the_biased_variance_and_the_running_one_is_unbiased() {
        for device in [Device::flex(), Device::flex().autodiff()] {
            let mut norm = BatchNorm2d::new(&ParamBuilder::new(&device, 0), 1, None, 0.0, 0.1);
            let x = Tensor::from_data(TensorData::new(vec![1.0f32, 2.0, 3.0, 6.0], [2, 1, 1, 2]), &device);
            // Mean 3, squared deviations 4 + 1 + 0 + 9.
            let deviation = 3.5f32.sqrt();
            let expected = [-2.0 / deviation, -1.0 / deviation, 0.0, 3.0 / deviation];
            let found = to_host(norm.forward_train(x.clone()));
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
            let running = [&norm.running_mean, &norm.running_var].map(|running| to_host(running.val())[0]);
            assert!((running[0] - 0.3).abs() < 1e-6 && (running[1] - (0.9 + 0.1 * 14.0 / 3.0)).abs() < 1e-6);
            let evaluated = to_host(norm.forward_eval(x));
            assert!((evaluated[3] - (6.0 - running[0]) / running[1].sqrt()).abs() < 1e-6);
        }
    }
}
