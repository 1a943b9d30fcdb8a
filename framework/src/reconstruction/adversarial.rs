//! What a discriminator and the network that it judges are trained with.

use burn::tensor::{Tensor, activation::relu};

/// The discriminator's loss: `½ (mean max(0, 1 − real) + mean max(0, 1 + fake))`.
///
/// # Shapes
/// * `real`, `fake`: logits of any shape, result: `[1]`
pub fn hinge_loss<const D: usize>(real: Tensor<D>, fake: Tensor<D>) -> Tensor<1> {
    (relu(-real + 1.0).mean() + relu(fake + 1.0).mean()) * 0.5
}

/// What the judged network adds to its loss: `−mean fake`.
///
/// # Shapes
/// * `fake`: logits of any shape, result: `[1]`
pub fn generator_loss<const D: usize>(fake: Tensor<D>) -> Tensor<1> {
    -fake.mean()
}

/// LeCam regularization of a discriminator (Tseng et al., 2021): its logits may not run away from the moving averages
/// of those on the other side.
#[derive(Debug, Clone)]
pub struct LeCam {
    /// Moving average of the mean logit of real pictures, `[1]`.
    pub real: Tensor<1>,
    /// Moving average of the mean logit of reconstructions, `[1]`.
    pub fake: Tensor<1>,
    /// Share of the old averages that each update keeps; 0.999 in the reference.
    pub decay: f64,
}

impl LeCam {
    /// `max(0, mean real − average fake)² + max(0, average real − mean fake)²`, as the reference takes the means first.
    ///
    /// # Shapes
    /// * `real`, `fake`: logits of any shape, result: `[1]`
    pub fn loss<const D: usize>(&self, real: Tensor<D>, fake: Tensor<D>) -> Tensor<1> {
        let above = relu(real.mean() - self.fake.clone()).square();
        above + relu(self.real.clone() - fake.mean()).square()
    }

    /// Takes in the logits of a step; no gradient passes.
    pub fn update<const D: usize>(&mut self, real: Tensor<D>, fake: Tensor<D>) {
        let moved =
            |old: &Tensor<1>, new: Tensor<D>| old.clone() * self.decay + new.detach().mean() * (1.0 - self.decay);
        (self.real, self.fake) = (moved(&self.real, real), moved(&self.fake, fake));
    }
}
