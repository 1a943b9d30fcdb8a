//! Rotary position embedding.

use burn::tensor::Tensor;

/// Turns adjacent pairs of channels by their angles: `(a, b)` becomes `(a cos − b sin, b cos + a sin)`.
///
/// # Shapes
/// * `x` and result: `[batch, heads, tokens, head_dim]`, `head_dim` even
/// * `cos`, `sin`: `[tokens, head_dim / 2]`, one angle for each pair
pub fn rotate_pairs(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<4> {
    let [batch, heads, tokens, head_dim] = x.dims();
    let pairs = x.reshape([batch, heads, tokens, head_dim / 2, 2]);
    let [a, b] = [0, 1].map(|side| pairs.clone().narrow(4, side, 1));
    let [cos, sin] = [cos, sin].map(|table| table.reshape([1, 1, tokens, head_dim / 2, 1]));
    let first = a.clone() * cos.clone() - b.clone() * sin.clone();
    let second = b * cos + a * sin;
    Tensor::cat(vec![first, second], 4).reshape([batch, heads, tokens, head_dim])
}
