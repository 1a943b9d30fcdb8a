//! Rotary position embedding over the halves of a head's channels.

use burn::tensor::Tensor;

/// Turns channel `i` and channel `i + head_dim / 2` by their angle: `(a, b)` becomes `(a cos − b sin, b cos + a sin)`.
///
/// # Shapes
/// * `x` and result: `[batch, heads, tokens, head_dim]`, `head_dim` even
/// * `cos`, `sin`: `[tokens, head_dim / 2]`, one angle for each pair
pub fn rotate_halves(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<4> {
    let [_, _, _, head_dim] = x.dims();
    let [a, b] = [0, 1].map(|half| x.clone().narrow(3, half * (head_dim / 2), head_dim / 2));
    let [cos, sin] = [cos, sin].map(|table| table.unsqueeze::<4>());
    let first = a.clone() * cos.clone() - b.clone() * sin.clone();
    Tensor::cat(vec![first, b * cos + a * sin], 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    #[test]
    fn a_quarter_turn_moves_the_first_half_into_the_second() {
        let device = Device::flex();
        let x = Tensor::<4>::from_data(TensorData::new((1..=8).map(|i| i as f32).collect(), [1, 1, 2, 4]), &device);
        let [cos, sin] = [[1.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0]]
            .map(|table: [f32; 4]| Tensor::<2>::from_data(TensorData::new(table.to_vec(), [2, 2]), &device));
        let turned: Vec<f32> = rotate_halves(x, cos, sin).into_data().try_to_vec().unwrap();
        assert_eq!(turned, [1.0, 2.0, 3.0, 4.0, -7.0, 6.0, 5.0, 8.0]);
    }
}
