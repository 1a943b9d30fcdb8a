//! LARS: momentum with a step that is relative to each matrix's size.

use burn::tensor::Tensor;

use crate::weights::to_host;

/// Settings. Source: MAE `util/lars.py`, after You et al., 2017.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lars {
    /// Share of the last step that is kept.
    pub momentum: f64,
    /// Length of a step relative to the matrix, before the learning rate; without it, plain momentum.
    pub trust: Option<f64>,
    /// Decay of matrices.
    pub weight_decay: f64,
}

impl Default for Lars {
    fn default() -> Self {
        Self { momentum: 0.9, trust: Some(0.001), weight_decay: 0.0 }
    }
}

/// The last step of each parameter.
#[derive(Debug, Default)]
pub struct LarsState {
    steps: Vec<Option<Tensor<2>>>,
}

impl LarsState {
    /// Moves parameters against their gradients. Those of one row (biases, norms) are neither scaled nor decayed.
    ///
    /// For a matrix `w` with gradient `g`: `g += decay · w`, `g *= trust · |w| / |g|` (unless either is 0),
    /// `m = momentum · m + g`, `w -= learning_rate · m`.
    pub fn update(&mut self, params: &mut [Tensor<2>], gradients: Vec<Tensor<2>>, settings: Lars, learning_rate: f64) {
        self.steps.resize(params.len(), None);
        for ((param, mut gradient), step) in params.iter_mut().zip(gradients).zip(&mut self.steps) {
            if param.dims()[0] > 1 {
                gradient = gradient + param.clone() * settings.weight_decay;
                if let Some(trust) = settings.trust {
                    let [size, slope] = [&*param, &gradient].map(norm);
                    let is_scaled = size > 0.0 && slope > 0.0;
                    gradient = gradient * if is_scaled { trust * size / slope } else { 1.0 };
                }
            }
            let next = match step.take() {
                Some(last) => last * settings.momentum + gradient,
                None => gradient,
            };
            *param = param.clone() - next.clone() * learning_rate;
            *step = Some(next);
        }
    }
}

fn norm(tensor: &Tensor<2>) -> f64 {
    f64::from(to_host(tensor.clone().square().sum().sqrt()).first().copied().unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn two_steps_are_worked_by_hand() {
        let device = Device::flex();
        let matrix = Tensor::<2>::from_floats([[3.0, 0.0], [0.0, 4.0]], &device); // length 5
        let bias = Tensor::<2>::from_floats([[1.0, 1.0]], &device);
        let mut params = vec![matrix, bias];
        let gradients = || {
            vec![
                Tensor::<2>::from_floats([[0.0, 2.0], [0.0, 0.0]], &device),
                Tensor::<2>::from_floats([[0.5, 0.0]], &device),
            ]
        };
        let (mut state, settings) = (LarsState::default(), Lars { trust: Some(0.1), ..Default::default() });
        // The matrix: 0.1 · 5 / 2 · 2 = 0.5 in the gradient's direction; the bias: the gradient itself.
        state.update(&mut params, gradients(), settings, 2.0);
        assert_eq!(to_host(params[0].clone()), [3.0, -1.0, 0.0, 4.0]);
        assert_eq!(to_host(params[1].clone()), [0.0, 1.0]);
        // Length √26 now: 0.9 · 0.5 + 0.1 · √26.
        state.update(&mut params, gradients(), settings, 2.0);
        let expected = -1.0 - 2.0 * (0.45 + 0.1 * 26f32.sqrt());
        assert!((to_host(params[0].clone())[1] - expected).abs() < 1e-5);
        assert!((to_host(params[1].clone())[0] - (0.0 - 2.0 * 0.95)).abs() < 1e-6);
    }

    #[test]
    fn a_matrix_of_zeros_takes_the_plain_gradient() {
        let device = Device::flex();
        let mut params = vec![Tensor::<2>::zeros([2, 2], &device)];
        let gradient = vec![Tensor::<2>::ones([2, 2], &device)];
        LarsState::default().update(&mut params, gradient, Lars::default(), 0.5);
        assert_eq!(to_host(params[0].clone()), [-0.5; 4]);
    }
}
