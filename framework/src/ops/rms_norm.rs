//! RMSNorm, with and without the modulation that follows it in adaptive blocks.

use burn::tensor::Tensor;

use super::layer_norm::modulate;

/// `x / √(mean(x²) + eps) · weight` over the last axis.
///
/// # Shapes
/// * `x`: `[.., channels]`
/// * `weight`: `[channels]`
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    let scale = (x.clone().square().mean_dim(D - 1) + eps).sqrt();
    x / scale * weight.unsqueeze::<D>()
}

/// [`rms_norm`], then [`modulate`].
///
/// # Shapes
/// * `x`: `[batch, tokens, channels]`
/// * `weight`: `[channels]`
/// * `shift`, `scale`: `[batch, channels]`
pub fn modulated_rms_norm(x: Tensor<3>, weight: Tensor<1>, shift: Tensor<2>, scale: Tensor<2>, eps: f64) -> Tensor<3> {
    modulate(rms_norm(x, weight, eps), shift, scale)
}
